# SPDX-License-Identifier: Apache-2.0
"""The other end of a :mod:`tests.system.chaos.fork_server`: start its children, wait for them, kill them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[3]
READY_SECONDS = 120.0
STARTED_SECONDS = 30.0


class InterpreterGone(Exception):
    """The fork server ended, or never came up; the text is what it said."""


class Child:
    """A process of a task or a trigger."""

    def __init__(self, result: Path) -> None:
        self.pid = 0
        self._result = result
        self._started = threading.Event()
        self._ended = threading.Event()

    def wait(self, seconds: float) -> bool:
        """Wait for its end; say whether it has ended."""
        return self._ended.wait(seconds)

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if not self._ended.is_set():
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as kill -9 does, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait(STARTED_SECONDS)

    @property
    def result(self) -> dict[str, Any] | None:
        """What it left; None if it was killed before."""
        return json.loads(self._result.read_text()) if self._result.exists() else None


class Interpreter:
    """
    A warm interpreter with one of the providers; for several threads at once.

    :param python: Its executable.
    :param provider: ``module:NAME`` of a :class:`tests.system.chaos.fork_server.Provider`.
    """

    def __init__(self, python: str, provider: str) -> None:
        self.provider = provider.rpartition(":")[2].lower()
        self.versions: dict[str, str] = {}
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._gone = False
        self._number = 0
        self._waiting: dict[int, Child] = {}
        self._children: dict[int, Child] = {}
        self._home = tempfile.TemporaryDirectory(prefix="chaos-airflow-")
        quiet = {"AIRFLOW__CORE__LOAD_EXAMPLES": "False", "SCARF_ANALYTICS": "false", "NO_PROXY": "127.0.0.1"}
        # Without PYTHONPATH's former value: each interpreter brings its own packages.
        environment = {**os.environ, **quiet, "AIRFLOW_HOME": self._home.name, "PYTHONPATH": str(ROOT)}
        self._words = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the interpreter
        self._process = subprocess.Popen(
            [python, "-m", "tests.system.chaos.fork_server", provider],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
            # Ctrl-C is for the harness, which then ends this one.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"interpreter-{self.provider}", daemon=True)
        self._reader.start()

    def __enter__(self) -> Interpreter:
        if not self._ready.wait(READY_SECONDS) or self._gone:
            words = self._last_words
            self.close()
            raise InterpreterGone(f"{self.provider} did not come up: {words}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, order: dict[str, Any], result: Path, log: Path) -> Child:
        """Start a child; returns when it exists."""
        child = Child(result)
        with self._lock:
            self._number += 1
            number = self._number
            self._waiting[number] = child
            order = {**order, "number": number, "result": str(result), "log": str(log)}
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        if not child._started.wait(STARTED_SECONDS) or not child.pid:
            raise InterpreterGone(f"{self.provider} starts no process any more: {self._last_words}")
        return child

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                told = json.loads(line)
            except ValueError:
                continue  # a library's own words
            if "ready" in told:
                self.versions = told["ready"]
                self._ready.set()
            elif "started" in told:
                child = self._waiting.pop(told["started"])
                child.pid = told["pid"]
                self._children[child.pid] = child
                child._started.set()
            elif "ended" in told:
                self._children.pop(told["ended"])._ended.set()
        self._gone = True
        self._ready.set()
        for child in (*self._waiting.values(), *self._children.values()):
            child._started.set()
            child._ended.set()

    @property
    def _last_words(self) -> str:
        self._words.seek(0)
        return self._words.read()[-2000:].strip() or "it said nothing"

    def close(self) -> None:
        """End it with its children."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=30)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._words.close()
        self._home.cleanup()
