# SPDX-License-Identifier: Apache-2.0
"""
What it costs to watch many jobs in one triggerer: CPU, requests, connections, memory, pauses of the loop.

Our triggers run in one event loop with the shared poller, the official provider's in another. Both speak to an emulator
in a process of its own, without TLS: that spares the official provider a handshake for each poll.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from benchmarks.control import between, connections_to, rounds_of
from benchmarks.processes import MeasureFailedError
from benchmarks.report import Part, Row, milliseconds, ratio, size
from benchmarks.usage import LoopWatch, collection_seconds, forget_peak, peak, resident
from benchmarks.waits import Waits, lines_of

if TYPE_CHECKING:
    from benchmarks.bench import Bench

CPU_TARGET = 1 / 500
MEMORY_TARGET = 20_000
MEMORY_IN_ALL_TARGET = 250_000_000
CONNECTIONS_TARGET = 2
BLOCK_TARGET = 0.05


def parts(bench: Bench) -> Iterator[Part]:
    """Yield the parts of this measure."""
    yield Part(f"{bench.jobs:,} jobs", lambda: _rows(bench, bench.jobs, rounds=4, is_many=False))
    yield Part(f"{bench.many:,} jobs", lambda: _rows(bench, bench.many, rounds=3, is_many=True))


def _rows(bench: Bench, jobs: int, *, rounds: int, is_many: bool) -> list[Row]:
    with bench.emulator() as (url, control):
        # Counters move between any two looks, as those of running jobs may.
        progress = {"running_seconds": 1800}
        control.post("seed_jobs", {"count": jobs, "state": "RUNNING", "rows": 500, "script": progress})
        with bench.names(control) as names, connections_to(url) as connections:
            ours = bench.call("watching:watch", url=url, names=names, interval=bench.interval, rounds=rounds)
        journal = control.journal()
    requests = rounds_of(between(journal, ours["window"]))
    if not requests:
        raise MeasureFailedError("there was no round of looks in the time that was measured")
    official = bench.official_waits or {}
    title = f"{jobs:,} watched jobs"
    cpu = ours["cpu"] / rounds / jobs
    share = cpu / official["cpu"] if official else None
    most = jobs // 100 + 2
    rows = [
        Row(
            f"{title}: CPU for each job and round",
            milliseconds(cpu),
            milliseconds(official["cpu"]) if official else "",
            ratio(cpu, official["cpu"]) if official else "",
            target="" if is_many else "1/500",
            met=None if is_many or share is None else share <= CPU_TARGET,
        ),
        Row(
            f"{title}: HTTP requests in a round",
            f"{max(requests)}",
            f"{jobs:,} (one a job)" if official else "",
            ratio(max(requests), jobs) if official else "",
            target=f"{most}",
            met=max(requests) <= most,
        ),
        Row(
            f"{title}: TCP connections at once",
            f"{connections.most}",
            f"{official['connections']} for {bench.official_jobs} jobs, {official['opened']:.2f} new ones a poll"
            if official
            else "",
            target=f"{CONNECTIONS_TARGET}",
            met=connections.most <= CONNECTIONS_TARGET,
        ),
        Row(
            f"{title}: memory for each job",
            size(ours["memory"] / jobs),
            size(official["memory"]) if official else "",
            ratio(ours["memory"] / jobs, official["memory"]) if official else "",
            target=size(MEMORY_TARGET),
            met=ours["memory"] / jobs <= MEMORY_TARGET,
        ),
        *(
            pause_row(f"{title}: longest pause of the loop, {when}", ours[name], bench)
            for name, when in (("at_start", "while all start at once"), ("later", "from then on"))
        ),
        Row(f"{title}: CPU to start each wait", milliseconds(ours["cpu_start"] / jobs)),
    ]
    if is_many:
        rows.append(
            Row(
                f"{title}: peak memory of the whole process, Airflow included",
                size(ours["peak"]),
                target=size(MEMORY_IN_ALL_TARGET),
                met=ours["peak"] <= MEMORY_IN_ALL_TARGET,
            )
        )
    return rows


def pause_row(title: str, ours: dict[str, float], bench: Bench, *, has_target: bool = False) -> Row:
    """
    Return the row of the loop's longest pause.

    :param ours: What :class:`~benchmarks.usage.LoopWatch` found.
    :param has_target: There is one while jobs end. While many waits start, the interpreter now and then collects
        garbage among all objects of Airflow, which takes twice as long as the target allows, whoever made them.
    """
    official = (bench.official_waits or {}).get("pauses")

    def told(found: dict[str, float]) -> str:
        most, collector = milliseconds(found["cpu"]), milliseconds(found["collection"])
        return f"{milliseconds(found['pause'])} (CPU {most}, garbage collector {collector})"

    return Row(
        title,
        told(ours),
        f"{told(official)} with {bench.official_jobs} jobs" if official else "",
        ratio(ours["pause"], official["pause"]) if official else "",
        limit=f"{milliseconds(bench.collection)}: a garbage collection of Airflow alone",
        target=milliseconds(BLOCK_TARGET) if has_target else "",
        met=ours["pause"] <= BLOCK_TARGET if has_target else None,
    )


def watch(names: str, interval: float, rounds: int) -> dict[str, Any]:
    """Watch the jobs named in a file; runs in a process of its own."""
    return asyncio.run(_watch(names, interval, rounds))


def collection() -> float:
    """Load what a triggerer has loaded and return the seconds of one garbage collection."""
    importlib.import_module("airflow_provider_gemini_batch.triggers")
    return collection_seconds()


async def _watch(names: str, interval: float, rounds: int) -> dict[str, Any]:
    from airflow_provider_gemini_batch.triggers import BatchJobTrigger

    waits = Waits(lambda name: BatchJobTrigger(job_name=name, poll_interval=interval))
    lines = lines_of(names)
    # What is loaded for the first wait is paid once, however many follow.
    await waits.start(islice(lines, 1))
    await asyncio.sleep(interval)
    forget_peak()
    before, cpu = resident(), time.process_time()
    async with LoopWatch() as at_start:
        await waits.start(lines)
        await asyncio.sleep(2 * interval)
    cpu_start = time.process_time() - cpu
    async with LoopWatch() as later:
        await asyncio.sleep(rounds * interval)
    begin, cpu = time.time(), time.process_time()
    await asyncio.sleep(rounds * interval)
    found = {
        "window": (begin, time.time()),
        "cpu": time.process_time() - cpu,
        "cpu_start": cpu_start,
        "at_start": at_start.pauses(),
        "later": later.pauses(),
        "memory": peak() - before,
        "peak": peak(),
    }
    if any(task.done() for task in waits.tasks):
        raise RuntimeError(f"a wait ended early: {waits.events[:1]}")
    await waits.stop()
    return found
