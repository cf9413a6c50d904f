# SPDX-License-Identifier: Apache-2.0
"""Many seeded schedules at once: a pool of processes, each with an emulator of its own."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import queue
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.system.chaos import report
from tests.system.chaos.schedule import MODES, schedule
from tests.system.chaos.warm import WARM

if TYPE_CHECKING:
    from tests.system.chaos.running import Bill

Plan = tuple[int, str, str]
"""Seed, backend, mode."""

HEAD = (
    "backend",
    "mode",
    "schedules",
    "billed/needed",
    "ratio",
    "orphans",
    "rows lost",
    "surplus cancelled",
    "attempts",
    "failed",
)


def prepare() -> None:
    """Load everything once, before any fork; keep Airflow quiet."""
    os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "INFO")
    for name in (*WARM, "tests.system.chaos.running"):
        with contextlib.suppress(ImportError):  # older Airflows lack some
            importlib.import_module(name)
    # A collection in a child would copy every page it looks at.
    gc.collect()
    gc.freeze()


def plans_for(seeds: Sequence[int], backends: Sequence[str], modes: Sequence[str], *, is_replay: bool) -> list[Plan]:
    """Share the seeds out evenly between the modes; a replayed seed runs in each."""
    return [
        (seed, backend, mode)
        for seed in seeds
        for backend in backends
        for number, mode in enumerate(modes)
        if is_replay or seed % len(modes) == number
    ]


def carry_out(plans: list[Plan], processes: int, *, is_replay: bool, keep_in: Path | None) -> tuple[bool, str]:
    """
    Run the schedules, and tell of each that is not clean.

    :param keep_in: Where each schedule's bill goes as JSON.
    :return: Whether all reported and are clean; the table.
    """
    prepare()
    started = time.monotonic()
    bills: list[Bill] = []
    was_stopped = False
    try:
        for bill in _bills(plans, processes, is_replay):
            bills.append(bill)
            _tell(bill, is_replay)
    except KeyboardInterrupt:
        print("Stopped; this is what was done by then.")
        was_stopped = True
    if keep_in is not None:
        kept = [{k: v for k, v in asdict(bill).items() if k != "log"} for bill in bills]
        keep_in.write_text(json.dumps(kept, indent=1))
    text = _summary(bills, time.monotonic() - started)
    print(text)
    if was_stopped:
        raise SystemExit(130)
    if len(bills) != len(plans):
        print(f"Only {len(bills)} of {len(plans)} schedules reported.")
        return False, text
    return all(bill.is_clean for bill in bills), text


def _bills(plans: list[Plan], processes: int, is_replay: bool) -> Iterator[Bill]:
    fork = multiprocessing.get_context("fork")
    reports = fork.Queue()
    waiting = fork.Queue()
    count = max(1, min(processes, len(plans)))
    for plan in (*plans, *[None] * count):
        waiting.put(plan)
    workers = [fork.Process(target=_work, args=(waiting, is_replay, reports)) for _ in range(count)]
    for worker in workers:
        worker.start()
    left = count
    try:
        while left:
            try:
                bill = reports.get(timeout=5)
            except queue.Empty:
                if not any(worker.is_alive() for worker in workers):
                    break
                continue
            if bill is None:
                left -= 1
            else:
                yield bill
    finally:
        if left:
            for worker in workers:
                worker.terminate()
            waiting.cancel_join_thread()
        for worker in workers:
            worker.join()


def _work(plans: Any, keep_log: bool, reports: Any) -> None:
    """Carry out schedules in this process until there are no more, with an emulator of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the attempts under way are ended, too
    from gemini_batch_emulator.server import EmulatorServer
    from tests.system.chaos.running import Service, run

    with EmulatorServer() as server:
        service = Service(server)
        for seed, backend, mode in iter(plans.get, None):
            reports.put(run(schedule(seed, backend, mode), service, keep_log=keep_log))
    reports.put(None)


def _tell(bill: Bill, is_replay: bool) -> None:
    if is_replay:
        print(bill.log)
        print(bill)
    if not bill.is_clean:
        print(
            f"FAILED seed {bill.seed} {bill.backend} {bill.mode}: created {bill.created}, billed {bill.billed}, "
            f"orphans {bill.orphans}, rows lost {bill.lost}. {bill.trouble}\n  replay: make chaos "
            f'CHAOS="--seed {bill.seed} --backend {bill.backend} --mode {bill.mode}"',
            flush=True,
        )


def _summary(bills: list[Bill], seconds: float) -> str:
    groups = sorted({(bill.backend, MODES.index(bill.mode)) for bill in bills})
    lines = [_line([bill for bill in bills if (bill.backend, bill.mode) == (b, MODES[m])]) for b, m in groups]
    return f"{report.table(HEAD, lines)}\n\n{len(bills)} schedules in {seconds:.0f} s."


def _line(own: list[Bill]) -> tuple[object, ...]:
    billed = sum(bill.billed for bill in own)
    return (
        own[0].backend,
        own[0].mode,
        len(own),
        f"{billed}/{len(own)}",
        f"{billed / len(own):.2f}",
        sum(bill.orphans for bill in own),
        sum(bill.lost for bill in own),
        sum(bill.surplus for bill in own),
        sum(bill.tries for bill in own),
        sum(not bill.is_clean for bill in own),
    )
