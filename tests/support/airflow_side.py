# SPDX-License-Identifier: Apache-2.0
"""What tests of tasks need of Airflow: a connection, a task instance that keeps its XComs, and how a task is ended."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_gemini_batch.compat import AirflowTaskTimeout


@dataclass
class TaskInstance:
    """The part of a task instance that operators touch; one object for each attempt."""

    dag_id: str = "nightly"
    run_id: str = "manual__1"
    task_id: str = "create"
    map_index: int = -1
    try_number: int = 1
    max_tries: int = 0
    xcoms: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value


class Store(dict[str, Any]):
    """A task's state as Airflow 3.3 keeps it."""

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        self[key] = value


def attempt(number: int = 1, **facts: Any) -> dict[str, Any]:
    """Return the context of a task's attempt."""
    return {"ti": TaskInstance(try_number=number, **facts)}


def set_connection(monkeypatch: Any, connection: dict[str, Any], name: str = "gemini_batch_default") -> None:
    """Make a connection known to Airflow."""
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))


def become_another_airflow(monkeypatch: Any, name: str = "another") -> None:
    """
    Let tasks find themselves in an Airflow that nobody knows.

    Without a supervisor to ask, it is known by its database's address. Tasks of Airflow 2.11 look into the database
    itself, which all tests share: there it forgets what it was.
    """
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:////srv/{name}/airflow.db")
    if importlib.util.find_spec("airflow.sdk") is None:
        from airflow_provider_gemini_batch.compat import Variable

        Variable.delete("gemini_batch_installation")


def rows(count: int, **members: Any) -> list[dict[str, Any]]:
    """Return rows in the short form, keys ``k0``, ``k1``, ..."""
    return [{"key": f"k{n}", "prompt": f"Say {n}", **members} for n in range(count)]


def write_rows(path: Any, lines: list[Any]) -> str:
    """Write rows as JSONL; texts go in as they are."""
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


@contextlib.contextmanager
def signalled(task: Any, when: Callable[[], Any]) -> Iterator[None]:
    """Send this process the signal that ends a task, as Airflow's supervisor does, once *when* is true."""

    def send() -> None:
        while not when():
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        sender.join()
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def execution_timeout(seconds: float) -> Iterator[None]:
    """Interrupt this process after some seconds, as Airflow does when a task has run for its ``execution_timeout``."""

    def alarm(*_: Any) -> None:
        raise AirflowTaskTimeout("Timeout")

    before = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
