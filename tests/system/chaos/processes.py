# SPDX-License-Identifier: Apache-2.0
"""
What runs in the forked processes: an attempt of the task, and its trigger in a triggerer.

Time passes ``speed`` times faster there, on the emulator's own clock, so that the production's patience is what is
tested: ``time`` and sleeps are replaced, and the event loop's timers.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import selectors
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.system.chaos.schedule import Kill, Schedule

CONN_ID = "chaos"


@dataclass(frozen=True)
class FastClock:
    """The emulator's clock, readable in another process: monotonic time is the same in all of them."""

    emulated: float
    real: float
    speed: float

    def now(self) -> float:
        return self.emulated + (_monotonic() - self.real) * self.speed


_monotonic = time.monotonic
_sleep = time.sleep


def quicken(clock: FastClock) -> None:
    """Let this process live on the fast clock."""
    time.time = clock.now

    def sleep(seconds: float) -> None:
        _sleep(seconds / clock.speed)

    time.sleep = sleep  # type: ignore[assignment]


def quicken_transport() -> None:
    """Let our driver sleep as this process does by now: it holds the sleep it was imported with."""
    from airflow_provider_gemini_batch.transport.blocking import BlockingTransport

    defaults = BlockingTransport.__init__.__kwdefaults__
    assert defaults is not None
    assert "sleep" in defaults
    defaults["sleep"] = time.sleep


class _FastSelector(selectors.DefaultSelector):
    speed = 1.0

    def select(self, timeout: float | None = None) -> Any:
        return super().select(timeout if timeout is None else max(0.0, timeout) / self.speed)


def fast_loop(clock: FastClock) -> asyncio.AbstractEventLoop:
    """Return an event loop whose timers follow the fast clock."""
    selector = _FastSelector()
    selector.speed = clock.speed
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = clock.now  # type: ignore[method-assign]
    return loop


def die() -> None:
    """End this very process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


class Reaper:
    """Kills this process at its step."""

    def __init__(self, kill: Kill | None) -> None:
        self._kill = kill
        self._seen: dict[str, int] = {}

    def is_due(self, step: str) -> bool:
        self._seen[step] = self._seen.get(step, 0) + 1
        return self._kill is not None and self._kill.step == step and self._seen[step] == self._kill.number

    def pass_by(self, step: str) -> None:
        if self.is_due(step):
            die()

    def watch_requests(self) -> None:
        from airflow_provider_gemini_batch.transport.blocking import BlockingTransport

        send = BlockingTransport._request

        def request(transport: Any, *arguments: Any, **named: Any) -> Any:
            self.pass_by("before_request")
            if self.is_due("during_request") and self._kill is not None:
                threading.Timer(self._kill.lag, die).start()
            answer = send(transport, *arguments, **named)
            self.pass_by("after_request")
            return answer

        BlockingTransport._request = request  # type: ignore[method-assign,assignment]


class Store:
    """The task's state store, in a file."""

    def __init__(self, path: Path, reaper: Reaper) -> None:
        self._path = path
        self._reaper = reaper

    def get(self, key: str) -> Any:
        return json.loads(self._path.read_text()).get(key) if self._path.exists() else None

    def set(self, key: str, value: Any) -> None:
        write(self._path, {key: value})
        self._reaper.pass_by("job_noted" if "job" in value else "intent_noted")


@dataclass
class TaskInstance:
    """
    The part of a task instance that operators touch.

    :param path: Where XComs go; beside it lies ``state``, Airflow's word for the task instance's state.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    path: Path
    reaper: Reaper

    def xcom_push(self, key: str, value: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps([self.try_number, key, value]) + "\n")
        self.reaper.pass_by("xcom")

    def get_task_states(self, **asked: Any) -> dict[str, dict[str, str]]:
        state = self.path.with_name("state")
        return {self.run_id: {self.task_id: state.read_text() if state.exists() else "running"}}


def write(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(value))
    fresh.replace(path)


def operator_for(plan: Schedule, rows_path: Path) -> Any:
    """Make the task."""
    from airflow_provider_gemini_batch.operators.create import CreateBatchOperator

    rows = [{"key": f"k{n}", "prompt": f"Say {n}"} for n in range(plan.rows)]
    source: dict[str, Any] = {"inlined_requests": rows}
    if plan.from_file:
        rows_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"input_path": str(rows_path)}
    return CreateBatchOperator(
        task_id="create",
        gemini_batch_conn_id=CONN_ID,
        model="gemini-3.5-flash-lite",
        wait_for_completion=True,
        deferrable=plan.mode == "deferrable",
        poll_interval=10,
        **source,
    )


def run_attempt(
    plan: Schedule, folder: Path, clock: FastClock, try_number: int, kill: Kill | None, resume: dict[str, Any] | None
) -> dict[str, Any]:
    """Run the task as a worker does; return how it ended."""
    quicken(clock)
    quicken_transport()
    reaper = Reaper(kill)
    reaper.watch_requests()
    task = operator_for(plan, folder / "rows.jsonl")
    context: dict[str, Any] = {
        "ti": TaskInstance("chaos", f"run-{plan.seed}", "create", -1, try_number, folder / "xcom.jsonl", reaper)
    }
    if plan.store:
        context["task_state_store"] = Store(folder / "store.json", reaper)
    return execute(task, context, resume)


def execute(task: Any, context: dict[str, Any], resume: dict[str, Any] | None) -> dict[str, Any]:
    """
    Execute a task, or go on where *resume* says.

    :return: How it ended; ``job`` is what it returned.
    """
    from airflow_provider_gemini_batch.compat import AirflowFailException, TaskDeferred

    try:
        if resume is None:
            value = task.execute(context)
        else:
            value = getattr(task, resume["method"])(context, event=resume["event"], **resume["kwargs"])
    except TaskDeferred as deferred:
        path, arguments = deferred.trigger.serialize()
        return {
            "end": "deferred",
            "trigger": path,
            "arguments": arguments,
            "method": deferred.method_name,
            "kwargs": deferred.kwargs or {},
        }
    except AirflowFailException as error:
        return {"end": "failed", "for_good": True, "error": f"{type(error).__name__}: {error}"}
    except Exception as error:
        traceback.print_exc()
        return {"end": "failed", "for_good": False, "error": f"{type(error).__name__}: {error}"}
    return {"end": "succeeded", "job": value}


def run_trigger(clock: FastClock, path: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a stored trigger as a triggerer does; return its event."""
    quicken(clock)
    quicken_transport()
    return first_event(clock, path, arguments)


def first_event(clock: FastClock, path: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a stored trigger until its first event."""
    module, _, name = path.rpartition(".")
    trigger = getattr(importlib.import_module(module), name)(**arguments)

    async def first() -> Any:
        async for event in trigger.run():
            return event.payload
        raise RuntimeError("The trigger ended without an event.")

    loop = fast_loop(clock)
    return {"end": "event", "event": loop.run_until_complete(first())}


def fork(work: Callable[[], dict[str, Any]], result: Path, log: Path) -> int:
    """Run *work* in a child that is forked from this warm process; its return value goes to *result* as JSON."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        write(result, work())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
