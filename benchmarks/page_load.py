# SPDX-License-Identifier: Apache-2.0
"""
The page under fifty people: a real API server, a million answers as JSONL and as Parquet, ten thousand jobs.

*At once* is a burst: all fifty click in the same moment, each signed in by a cookie; the slowest ones wait for all
before them. Each user clicks on one thing, and after a short pause on the next. *Airflow's own route* is asked by one
more person all the while, in a process of its own, and before in a quiet server. Memory is that of the API server's
process, from when each view was opened once, as libraries stay. The load comes from another process on the same cores,
whose load is told, too.

A server may close a connection in the very moment in which it is used again, more so on a busy machine. Browsers then
ask once more on another connection, and so does this load; what fails twice is counted as an error, and the rest goes
on.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import own_route
from benchmarks.report import Part, Row, size

if TYPE_CHECKING:
    from benchmarks.bench import Bench

USERS = 50
QUIET = 12.0
"""Seconds for which Airflow's own route is asked in a quiet server, about as long as the crowd takes."""

COLUMNS = """
    'r' || i AS key, 'kettle ' || (i % 97) AS product,
    'Keeps coffee hot for six hours, as promised. The lid is hard to clean, number ' || i AS review,
    CASE WHEN i % 2500 = 7 THEN 'invalid' WHEN i % 5000 = 11 THEN 'blocked' ELSE 'succeeded' END AS status,
    CASE WHEN i % 2500 = 7 THEN '{"sentiment": "ba' WHEN i % 5000 = 11 THEN NULL
         ELSE '{"sentiment": "good", "topics": ["heat", "lid' || (i % 13) || '"]}' END AS text,
    CASE WHEN i % 2500 = 7 THEN 'MAX_TOKENS' WHEN i % 5000 = 11 THEN 'SAFETY' ELSE 'STOP' END AS finish_reason,
    NULL::INT AS error_code, NULL::VARCHAR AS error_message, 1 AS attempts,
    'gemini-3.5-flash-lite-00' || (1 + i % 2) AS model_version, 22 + i % 9 AS prompt_tokens, 14 AS output_tokens,
    0.00002 AS cost
"""


def parts(bench: Bench) -> Iterator[Part]:
    """Yield the measures, which share a server: one that fails costs the others nothing."""
    rows, jobs = (1_000_000, 10_000) if bench.rows >= 1_000_000 else (20_000, 500)
    what = f"page, {rows:,} answers, {jobs:,} jobs"
    with _served(bench, rows, jobs) as (server, addresses):
        before = _libraries_loaded(server, addresses)
        yield Part(f"{what}: one person", lambda: _one_person(server, addresses, what))
        yield Part(f"{what}: {USERS} at once", lambda: _many(server, addresses, what))
        yield Part(f"{what}: memory", lambda: _memory(server, before, what))


@contextmanager
def _served(bench: Bench, rows: int, jobs: int) -> Iterator[tuple[Any, dict[str, str]]]:
    """Serve answers and jobs; give the server and addresses by what they show."""
    from tests.support.page_server import PageServer

    with tempfile.TemporaryDirectory(dir=bench.work, prefix="page-") as folder, bench.emulator() as (url, control):
        control.post("seed_jobs", {"count": jobs, "display_name": "nightly-{n}", "state": "SUCCEEDED"})
        home = Path(folder) / "airflow"
        home.mkdir()
        server = PageServer(home)
        try:
            server.client().timeout = 120
            yield server, _fill(server, Path(folder), rows, url)
        finally:
            server.stop()


def _fill(server: Any, folder: Path, rows: int, url: str) -> dict[str, str]:
    """Write the answers, tell Airflow of them; return addresses by what they show."""
    import duckdb

    from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress, answers_path, jobs_path, run_path

    found: dict[str, str] = {}
    failing = {"invalid": rows // 2500, "blocked": rows // 5000}
    counts = {"succeeded": rows - sum(failing.values()), **failing}
    for name, form in (("jsonl", "json"), ("parquet", "parquet")):
        place = folder / f"answers.{name}"
        duckdb.sql(f"COPY (SELECT {COLUMNS} FROM range({rows}) t(i)) TO '{place}' (FORMAT {form})")
        manifest = {
            "output_path": str(place), "total": rows, "counts": counts, "succeeded": counts["succeeded"],
            "model_versions": {"gemini-3.5-flash-lite-001": rows // 2, "gemini-3.5-flash-lite-002": rows // 2},
            "cost": {"actual": 20.0, "rows_of_unknown_cost": 0}, "tokens": {"prompt": 26 * rows, "output": 14 * rows},
        }  # fmt: skip
        address = TaskAddress(f"nightly_{name}", "run_1", "classify")
        server.fill(
            tasks=[
                {**address.query(), "run_id": "run_1", "state": "success", "xcoms": {"gemini_batch_manifest": manifest}}
            ]
        )
        last = rows // 50
        found |= {
            f"run {name}": run_path(address),
            f"first {name}": answers_path(address),
            f"all {name}": answers_path(address, status="all"),
            f"far {name}": answers_path(address, status="all", page=last - 3),
            f"filter {name}": answers_path(address, status="blocked", page=3),
            f"search {name}": answers_path(address, status="all", search=f"number {rows - 7}"),
        }
    connection = {"conn_id": "gemini_seen", "conn_type": "gemini_batch", "password": "emulated", "host": url}
    server.fill(connections=[connection])
    found |= {
        "jobs": jobs_path("gemini_seen"),
        "jobs searched": jobs_path("gemini_seen", search="nightly-77"),
        "jobs far": jobs_path("gemini_seen", page=7, state="succeeded"),
        "spend": "/spend",
    }
    deadline = time.monotonic() + 120
    while "Listing the jobs" in server.client().get(found["jobs"]).text and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def _one_person(server: Any, addresses: dict[str, str], what: str) -> list[Row]:
    cold = {name: _one(server, path) for name, path in addresses.items()}
    warm = {name: min(_one(server, path) for _ in range(3)) for name, path in addresses.items()}
    return [
        Row(f"{what}: {name}, one person", f"{cold[name]:.2f} s, again {warm[name]:.2f} s",
            target=f"{_target(name):.0f} s", met=cold[name] < _target(name))
        for name in addresses
    ]  # fmt: skip


def _many(server: Any, addresses: dict[str, str], what: str) -> list[Row]:
    with own_route.asked(server.url, server.token("admin")) as asking:
        time.sleep(QUIET)
        quiet, lost = own_route.ended(asking)
    load = os.getloadavg()[0]
    with own_route.asked(server.url, server.token("admin")) as asking:
        clicks, faults = asyncio.run(_crowd(server, list(addresses.values())))
        own, lost_meanwhile = own_route.ended(asking)
    faults += lost + lost_meanwhile
    return [
        Row(f"{what}: {USERS} at once, {len(clicks)} clicks, load {load:.0f}",
            f"median {statistics.median(clicks):.2f} s, 95 % under {_share(clicks, 0.95):.2f} s, {faults} errors",
            target="3 s, none", met=_share(clicks, 0.95) < 3 and not faults),
        Row(f"{what}: Airflow's own route meanwhile",
            f"median {statistics.median(own) * 1000:.0f} ms, 95 % {_share(own, 0.95) * 1000:.0f} ms",
            limit=f"quiet: median {statistics.median(quiet) * 1000:.0f} ms, 95 % {_share(quiet, 0.95) * 1000:.0f} ms",
            target="twice the quiet one, both",
            met=all(share(own) <= 2 * share(quiet) for share in (statistics.median, lambda each: _share(each, 0.95)))),
    ]  # fmt: skip


def _memory(server: Any, before: int, what: str) -> list[Row]:
    top = peak(server.process.pid)
    server.fill(release=[{}])
    after = memory(server.process.pid)
    return [
        Row(f"{what}: memory over the start, at most", size(top - before), target="100 MB", met=top - before < 100e6),
        Row(f"{what}: memory over the start, once all that is kept was dropped", size(after - before),
            target="15 MB", met=after - before < 15e6),
    ]  # fmt: skip


def _libraries_loaded(server: Any, addresses: dict[str, str]) -> int:
    """Open each view once, drop what that kept, and return the memory of then: what grows from there is data."""
    for name in ("run jsonl", "first jsonl", "first parquet", "jobs", "spend"):
        server.client().get(addresses[name])
    server.fill(release=[{}])
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # the peak counts from here
    return memory(server.process.pid)


def _target(name: str) -> float:
    return 2.0 if name.startswith(("search", "filter")) else 1.0


def _one(server: Any, path: str) -> float:
    took, is_fault = asyncio.run(_alone(server, path))
    assert not is_fault, path
    return took


async def _alone(server: Any, path: str) -> tuple[float, bool]:
    async with _people(server, "/gemini-batch", cookies={"_token": server.token("admin")}) as client:
        return await _click(client, path)


def _people(server: Any, base: str, **more: Any) -> Any:
    """Return a client of many people, which keeps a connection for less long than the server does."""
    import httpx

    limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
    return httpx.AsyncClient(base_url=f"{server.url}{base}", timeout=60, limits=limits, **more)


async def _click(client: Any, path: str) -> tuple[float, bool]:
    """Return how long an answer took, and whether there was none or a fault."""
    import httpx

    began = time.perf_counter()
    for _ in range(2):
        try:
            reply = await client.get(path)
        except httpx.TransportError as error:
            print(f"page: {path}: {error!r}", flush=True)
        else:
            return time.perf_counter() - began, not reply.is_success
    return time.perf_counter() - began, True


async def _crowd(server: Any, paths: list[str], clicks: int = 3) -> tuple[list[float], int]:
    """Let all users click at once, and each again after it has looked for a while."""
    times: list[float] = []
    faults = 0
    async with _people(server, "/gemini-batch", cookies={"_token": server.token("admin")}) as client:

        async def user(number: int) -> None:
            nonlocal faults
            draw = random.Random(number)
            for _ in range(clicks):
                took, is_fault = await _click(client, draw.choice(paths))
                times.append(took)
                faults += is_fault
                await asyncio.sleep(draw.uniform(1, 5))

        await asyncio.gather(*(user(number) for number in range(USERS)))
    return times, faults


def _share(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def memory(pid: int) -> int:
    """Return the resident size of a process in bytes."""
    return _status(pid, "VmRSS")


def peak(pid: int) -> int:
    """Return the largest resident size that a process had."""
    return _status(pid, "VmHWM")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)
