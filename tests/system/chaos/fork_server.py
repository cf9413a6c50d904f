# SPDX-License-Identifier: Apache-2.0
"""
``python -m tests.system.chaos.fork_server MODULE:PROVIDER``: a warm interpreter, whose forked children run tasks and
triggers.

It lives in the provider's own environment, and imports nothing of ours for another one. Orders come as lines of JSON
on standard input, and are answered on standard output: ``{"ready": versions}``, ``{"started": order, "pid": pid}``,
``{"ended": pid}``. When the input ends, the children end, too.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.system.chaos import processes
from tests.system.chaos.warm import WARM

MODEL = "gemini-3.5-flash-lite"
API_KEY = "emulator-key"
POLL_SECONDS = 10
TASK = "create"
RUN = "run-1"


@dataclass(frozen=True)
class Provider:
    """
    Whose task is run.

    :param task: Makes the task of an order; ``prompts`` and ``mode`` are what matters.
    :param distributions: Those whose versions are told.
    :param modules: What is loaded before any fork, beside what making a task loads.
    """

    task: Callable[[dict[str, Any]], Any]
    distributions: tuple[str, ...]
    modules: tuple[str, ...] = ()


def _official_task(order: dict[str, Any]) -> Any:
    from airflow.providers.google.cloud.operators.gen_ai import GenAIGeminiCreateBatchJobOperator

    return GenAIGeminiCreateBatchJobOperator(
        task_id=TASK,
        project_id="emulated-project",
        location="us-central1",
        model=MODEL,
        input_source=[{"contents": [{"role": "user", "parts": [{"text": text}]}]} for text in order["prompts"]],
        gemini_api_key=API_KEY,
        wait_until_complete=True,
        polling_interval=POLL_SECONDS,
        deferrable=order["mode"] == "deferrable",
    )


def _our_task(order: dict[str, Any]) -> Any:
    from airflow_provider_gemini_batch.operators.create import CreateBatchOperator

    processes.quicken_transport()
    return CreateBatchOperator(
        task_id=TASK,
        gemini_batch_conn_id=processes.CONN_ID,
        model=MODEL,
        inlined_requests=[{"key": f"k{number}", "prompt": text} for number, text in enumerate(order["prompts"])],
        wait_for_completion=True,
        poll_interval=POLL_SECONDS,
        deferrable=order["mode"] == "deferrable",
    )


OFFICIAL = Provider(_official_task, ("apache-airflow-providers-google", "google-genai", "apache-airflow"))
OURS = Provider(_our_task, ("airflow-provider-gemini-batch", "apache-airflow"), WARM)


def work(provider: Provider, order: dict[str, Any]) -> dict[str, Any]:
    """Carry an order out in a child: a ``trigger`` to its first event, or else an attempt of the task."""
    os.environ.update(order["env"])
    clock = processes.FastClock(**order["clock"])
    processes.quicken(clock)
    if "trigger" in order:
        return processes.first_event(clock, order["trigger"], order["arguments"])
    task = provider.task(order)
    # As Airflow's task runner does; the task then goes on until its supervisor loses patience.
    signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
    folder, quiet = Path(order["folder"]), processes.Reaper(None)
    ti = processes.TaskInstance("chaos", RUN, TASK, -1, order["try_number"], folder / "xcom.jsonl", quiet)
    context = {"ti": ti, "task_state_store": processes.Store(folder / "store.json", quiet)}
    ended = processes.execute(task, context, order["resume"])
    value = ended.get("job")
    return {**ended, "job": value["name"]} if isinstance(value, dict) else ended


def main(words: str) -> None:
    """Serve until the input ends."""
    module, _, name = words.partition(":")
    provider: Provider = getattr(importlib.import_module(module), name)
    for needed in provider.modules:
        with contextlib.suppress(ImportError):  # older Airflows lack some
            importlib.import_module(needed)
    provider.task({"prompts": ["Load what is loaded late."], "mode": "blocking"})
    if name != "OURS" and any(loaded.startswith("airflow_provider_gemini_batch") for loaded in sys.modules):
        raise RuntimeError("Another provider is to be seen without ours.")
    gc.collect()
    gc.freeze()
    _say(ready={needed: version(needed) for needed in provider.distributions})
    alive: set[int] = set()
    try:
        for order in _orders(alive):
            pid = processes.fork(lambda order=order: work(provider, order), Path(order["result"]), Path(order["log"]))
            alive.add(pid)
            _say(started=order["number"], pid=pid)
    finally:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _say(**what: Any) -> None:
    sys.__stdout__.write(json.dumps(what) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def _orders(alive: set[int]) -> Iterator[dict[str, Any]]:
    """Yield what is ordered; between two orders, tell which children have ended."""
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    pending = b""
    while True:
        ready, _, _ = select.select([0, ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            for pid in [pid for pid in alive if os.waitpid(pid, os.WNOHANG)[0]]:
                alive.discard(pid)
                _say(ended=pid)
        if 0 in ready:
            block = os.read(0, 65536)
            if not block:
                return
            *lines, pending = (pending + block).split(b"\n")
            yield from map(json.loads, lines)


if __name__ == "__main__":
    main(sys.argv[1])
