# SPDX-License-Identifier: Apache-2.0
"""How long after its end a job's trigger tells so, with many jobs that end within a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from statistics import median, quantiles
from typing import Any

from benchmarks.bench import Bench, latencies
from benchmarks.report import Part, Row, ratio
from benchmarks.usage import LoopWatch
from benchmarks.waits import Waits, lines_of
from benchmarks.watching import pause_row

ADAPTIVE_INTERVAL = 5.0
"""Seconds between looks at a job of this age, when they are not fixed."""


def parts(bench: Bench) -> Iterator[Part]:
    """Yield the parts of this measure."""
    yield Part("fixed interval", lambda: _rows(bench, bench.interval))
    yield Part("adaptive rhythm", lambda: _rows(bench, None))


def _rows(bench: Bench, interval: float | None) -> list[Row]:
    # Time to load everything and to start all waits, before the first job ends.
    lead = 10.0 + bench.jobs / 200
    with bench.emulator() as (url, control):
        begin = time.time()
        for number in range(bench.jobs):
            # A job that runs this long ends at its place within the minute, however long the seeding takes.
            ends = begin + lead + bench.minute * number / bench.jobs
            script = {"mode": "time", "stuck": None, "pending_seconds": 0, "running_seconds": ends - time.time()}
            control.post("seed_jobs", {"state": "RUNNING", "script": script})
        with bench.names(control) as names:
            ours = bench.call(
                "latency:wait",
                url=url,
                names=names,
                interval=interval,
                seconds=lead + bench.minute + 4 * bench.interval + 20,
            )
        ends_at = control.end_times()
    times = latencies(ours["events"], ends_at)
    lost = bench.jobs - len(times)
    every = interval or ADAPTIVE_INTERVAL
    # The official trigger knows fixed intervals only.
    official = (bench.official_waits or {}) if interval else {}
    rhythm = f"looks every {every:g} s" if interval else "adaptive looks, every 5 s at this age"
    title = f"{bench.jobs:,} jobs end within {bench.minute:g} s, {rhythm}"
    return [
        Row(
            f"{title}: end of a job to its event, median (95 %)",
            f"{median(times):.2f} s ({quantiles(times, n=20)[-1]:.2f} s)",
            f"{median(official['latencies']):.2f} s ({bench.official_jobs} jobs)" if official else "",
            ratio(median(times), median(official["latencies"])) if official else "",
            limit=f"{every / 2:g} s: half an interval",
            target=f"{every:g} s",
            met=median(times) <= every,
        ),
        Row(
            f"{title}: events lost",
            f"{lost}",
            f"{official['lost']} of {bench.official_jobs}" if official else "",
            target="0",
            met=lost == 0 and not ours["failed"],
        ),
        pause_row(f"{title}: longest pause of the loop", ours["pauses"], bench, has_target=True),
    ]


def wait(names: str, interval: float | None, seconds: float) -> dict[str, Any]:
    """Wait for the jobs named in a file; runs in a process of its own."""
    return asyncio.run(_wait(names, interval, seconds))


async def _wait(names: str, interval: float | None, seconds: float) -> dict[str, Any]:
    from airflow_provider_gemini_batch.triggers import BatchJobTrigger

    waits = Waits(lambda name: BatchJobTrigger(job_name=name, poll_interval=interval))
    await waits.start(lines_of(names))
    # All have begun and were looked at once before the first one ends.
    await asyncio.sleep(2)
    async with LoopWatch() as loop:
        await waits.ended(seconds)
    await waits.stop()
    return {
        "events": {payload["job_name"]: at for at, payload in waits.events if payload["outcome"] == "ended"},
        "failed": sum(payload["outcome"] != "ended" for _, payload in waits.events),
        "pauses": loop.pauses(),
    }
