# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.chaos``: run seeded schedules, print what they cost, fail if anybody paid twice."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import queue
import signal
import sys
import time
from dataclasses import asdict
from typing import Any

from tests.chaos.schedule import BACKENDS, MODES, schedule

WARM = (
    "airflow.providers.common.compat.connection",
    "airflow.sdk.definitions.connection",
    "airflow.sdk.execution_time.cache",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow_provider_gemini_batch.api.developer",
    "airflow_provider_gemini_batch.api.policy",
    "airflow_provider_gemini_batch.api.storage",
    "airflow_provider_gemini_batch.api.vertex",
    "airflow_provider_gemini_batch.api.submit",
    "airflow_provider_gemini_batch.api.surfaces",
    "airflow_provider_gemini_batch.hooks.gemini_batch",
    "airflow_provider_gemini_batch.operators.create",
    "airflow_provider_gemini_batch.submission",
    "airflow_provider_gemini_batch.transport.asynchronous",
    "airflow_provider_gemini_batch.transport.blocking",
    "airflow_provider_gemini_batch.task_context",
    "airflow_provider_gemini_batch.transport.credentials",
    "airflow_provider_gemini_batch.triggers.batch_job",
    "airflow_provider_gemini_batch.triggers.pause",
    "airflow_provider_gemini_batch.watching",
    "anyio._backends._asyncio",
    "anyio.streams.tls",
    "asgiref.sync",
    "cryptography.x509",
    "google.auth.iam",
    "google.auth.transport.requests",
    "google.oauth2.service_account",
    "httpx",
    "requests",
    "tests.chaos.running",
)
"""Loaded before any fork: a second of imports in a child would be twenty on the fast clock."""

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
    "seconds",
)


def prepare() -> None:
    """Load everything once, before any fork; keep Airflow quiet."""
    os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "INFO")
    for name in WARM:
        with contextlib.suppress(ImportError):  # older Airflows lack some
            importlib.import_module(name)


def work(plans: Any, keep_log: bool, reports: Any) -> None:
    """Carry out schedules in this process until there are no more, with an emulator of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the attempts under way are ended, too
    from airflow_provider_gemini_batch.emulator.server import EmulatorServer
    from tests.chaos.running import run

    with EmulatorServer() as server:
        for seed, backend, mode in iter(plans.get, None):
            reports.put(run(schedule(seed, backend, mode), server, keep_log=keep_log))
    reports.put(None)


def main(arguments: list[str] | None = None) -> int:
    """Run; the exit code is 1 if anything was billed twice, left running or lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this seed alone, with its log")
    parser.add_argument("--seeds", type=int, default=500, help="schedules per backend, shared by the modes")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--backend", choices=(*BACKENDS, "both"), default="both")
    parser.add_argument("--mode", choices=(*MODES, "both"), default="both")
    parser.add_argument("--processes", type=int, default=2 * (os.cpu_count() or 1), help="they mostly sleep")
    parser.add_argument("--json", metavar="FILE", help="write every schedule's bill")
    parser.add_argument("--google-python", metavar="PY", help="kept for the comparison with the official provider")
    options = parser.parse_args(arguments)

    backends = BACKENDS if options.backend == "both" else (options.backend,)
    modes = MODES if options.mode == "both" else (options.mode,)
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    # With both modes, seeds are shared out evenly between them; a replayed seed runs in each.
    plans = [
        (seed, backend, mode)
        for seed in seeds
        for backend in backends
        for number, mode in enumerate(modes)
        if options.seed is not None or seed % len(modes) == number
    ]
    prepare()
    started = time.monotonic()
    fork = multiprocessing.get_context("fork")
    reports = fork.Queue()
    count = max(1, min(options.processes, len(plans)))
    waiting = fork.Queue()
    for plan in (*plans, *[None] * count):
        waiting.put(plan)
    workers = [fork.Process(target=work, args=(waiting, options.seed is not None, reports)) for _ in range(count)]
    for worker in workers:
        worker.start()
    bills = []
    left = count
    while left:
        try:
            bill = reports.get(timeout=5)
        except KeyboardInterrupt:
            print("Stopped; this is what was done by then.")
            for worker in workers:
                worker.terminate()
            waiting.cancel_join_thread()
            break
        except queue.Empty:
            if not any(worker.is_alive() for worker in workers):
                break
            continue
        if bill is None:
            left -= 1
            continue
        bills.append(bill)
        _tell(bill, options.seed is not None)
    for worker in workers:
        worker.join()
    if options.json:
        with open(options.json, "w") as file:
            json.dump([{k: v for k, v in asdict(bill).items() if k != "log"} for bill in bills], file, indent=1)
    _table(bills, backends, modes, time.monotonic() - started)
    if len(bills) != len(plans):
        print(f"Only {len(bills)} of {len(plans)} schedules reported.")
        return 1
    return 0 if all(bill.is_clean for bill in bills) else 1


def _tell(bill: Any, is_replay: bool) -> None:
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


def _table(bills: list[Any], backends: Any, modes: Any, seconds: float) -> None:
    lines = [HEAD]
    for backend in backends:
        for mode in modes:
            own = [bill for bill in bills if (bill.backend, bill.mode) == (backend, mode)]
            if not own:
                continue
            billed = sum(bill.billed for bill in own)
            lines.append(
                (
                    backend,
                    mode,
                    str(len(own)),
                    f"{billed}/{len(own)}",
                    f"{billed / len(own):.2f}",
                    str(sum(bill.orphans for bill in own)),
                    str(sum(bill.lost for bill in own)),
                    str(sum(bill.surplus for bill in own)),
                    str(sum(bill.tries for bill in own)),
                    str(sum(not bill.is_clean for bill in own)),
                    f"{sum(bill.seconds for bill in own):.0f}",
                )
            )
    widths = [max(len(line[n]) for line in lines) for n in range(len(HEAD))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    print(f"{len(bills)} schedules in {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
