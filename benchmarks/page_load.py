# SPDX-License-Identifier: Apache-2.0
"""
The page under fifty people: a real API server, a million answers as JSONL and as Parquet, ten thousand jobs.

*At once* is a burst: all fifty click in the same moment, each signed in by a cookie; the slowest ones wait for all
before them. Each user clicks on one thing, and after a short pause on the next. *Airflow's own route* is asked by one
more person all the while, and before in a quiet server. Memory is that of the API server's process, from when each view
was opened once, as libraries stay. The load comes from another process on the same cores, whose load is told, too.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import Part, Row, size

if TYPE_CHECKING:
    from benchmarks.bench import Bench

USERS = 50
OWN_ROUTE = "/api/v2/dags?limit=50"
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
    """Yield the measure; it is one, as it shares a server."""
    rows, jobs = (1_000_000, 10_000) if bench.rows >= 1_000_000 else (20_000, 500)
    yield Part("page", lambda: _rows(bench, rows, jobs))


def _rows(bench: Bench, rows: int, jobs: int) -> list[Row]:
    from tests.support.page_server import PageServer

    with tempfile.TemporaryDirectory(dir=bench.work, prefix="page-") as folder, bench.emulator() as (url, control):
        control.post("seed_jobs", {"count": jobs, "display_name": "nightly-{n}", "state": "SUCCEEDED"})
        home = Path(folder) / "airflow"
        home.mkdir()
        server = PageServer(home)
        try:
            addresses = _fill(server, Path(folder), rows, url)
            return _measured(server, addresses, rows, jobs)
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


def _measured(server: Any, addresses: dict[str, str], rows: int, jobs: int) -> list[Row]:
    what = f"page, {rows:,} answers, {jobs:,} jobs"
    before = _libraries_loaded(server, addresses)
    server.client().timeout = 120
    cold = {name: _one(server, path) for name, path in addresses.items()}
    warm = {name: min(_one(server, path) for _ in range(3)) for name, path in addresses.items()}
    quiet = asyncio.run(_own_route(server, 5.0))
    load = os.getloadavg()[0]
    clicks, own, faults = asyncio.run(_crowd(server, list(addresses.values())))
    top = peak(server.process.pid)
    server.fill(release=[{}])
    after = memory(server.process.pid)
    return [
        *(
            Row(f"{what}: {name}, one person", f"{cold[name]:.2f} s, again {warm[name]:.2f} s",
                target=f"{_target(name):.0f} s", met=cold[name] < _target(name))
            for name in addresses
        ),
        Row(f"{what}: {USERS} at once, {len(clicks)} clicks, load {load:.0f}",
            f"median {statistics.median(clicks):.2f} s, 95 % under {_share(clicks, 0.95):.2f} s, {faults} errors",
            target="3 s, none", met=_share(clicks, 0.95) < 3 and not faults),
        Row(f"{what}: Airflow's own route meanwhile",
            f"median {statistics.median(own) * 1000:.0f} ms, 95 % {_share(own, 0.95) * 1000:.0f} ms",
            limit=f"quiet: median {statistics.median(quiet) * 1000:.0f} ms, 95 % {_share(quiet, 0.95) * 1000:.0f} ms",
            target="twice the quiet one, both",
            met=all(share(own) <= 2 * share(quiet) for share in (statistics.median, lambda each: _share(each, 0.95)))),
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
    began = time.perf_counter()
    reply = server.client().get(path)
    assert reply.status_code == 200, (path, reply.status_code, reply.text[:500])
    return time.perf_counter() - began


async def _own_route(server: Any, seconds: float, until: asyncio.Event | None = None) -> list[float]:
    import httpx

    times: list[float] = []
    headers = {"Authorization": f"Bearer {server.token('admin')}"}
    limits = httpx.Limits(keepalive_expiry=2)
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60, limits=limits) as client:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and (until is None or not until.is_set()):
            began = time.perf_counter()
            (await client.get(OWN_ROUTE)).raise_for_status()
            times.append(time.perf_counter() - began)
            await asyncio.sleep(0.1)
    return times


async def _crowd(server: Any, paths: list[str], clicks: int = 3) -> tuple[list[float], list[float], int]:
    """Let all users click at once, and each again after it has looked for a while."""
    import httpx

    over = asyncio.Event()
    times: list[float] = []
    faults = 0
    cookies = {"_token": server.token("admin")}
    # Shorter than the server keeps a connection, so that none is used in the moment in which it is closed.
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
    async with httpx.AsyncClient(
        base_url=f"{server.url}/gemini-batch", cookies=cookies, timeout=60, limits=limits
    ) as c:

        async def user(number: int) -> None:
            nonlocal faults
            draw = random.Random(number)
            for _ in range(clicks):
                began = time.perf_counter()
                reply = await c.get(draw.choice(paths))
                times.append(time.perf_counter() - began)
                faults += reply.status_code >= 500
                await asyncio.sleep(draw.uniform(1, 5))

        own = asyncio.create_task(_own_route(server, 600.0, over))
        await asyncio.gather(*(user(number) for number in range(USERS)))
        over.set()
        return times, await own, faults


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
