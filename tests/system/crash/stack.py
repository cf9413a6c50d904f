# SPDX-License-Identifier: Apache-2.0
"""The demo's processes on PostgreSQL, with triggerers that come and go."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from demo.processes import Component, Processes, members
from demo.stack import COMPONENTS, Stack
from tests.system.crash.cases import BACKENDS, Case
from tests.system.crash.hostname import VARIABLE
from tests.system.crash.services import Airflow, Emulator

HEARTBEAT_TIMEOUT = 25
"""Seconds after which Airflow gives a worker up; 300 by default."""

CALL_TIMEOUT = 180
"""Seconds for one call to the service: what waits longest there is not to be given up, see :mod:`.scripts`."""

TRIGGERER = (*COMPONENTS["triggerer"], "--skip-serve-logs")
FIRST = "triggerer-1"
LOCATION = "us-central1"
PROJECT = "emulated-project"


def settings(database: str, tasks_at_once: int) -> dict[str, str]:
    """Return what this Airflow has set otherwise than the demo's."""
    return {
        "DATABASE__SQL_ALCHEMY_CONN": database,
        "CORE__PARALLELISM": str(tasks_at_once),
        # How long a killed task may take to end, from 3.4 on: less than the heartbeat's timeout, lest it is given up.
        "CORE__KILLED_TASK_CLEANUP_TIME": "5",
        "CORE__HOSTNAME_CALLABLE": "tests.system.crash.hostname.hostname",
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(HEARTBEAT_TIMEOUT),
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    }


class CrashStack(Stack):
    """
    What runs during the suite.

    :param root: The project.
    :param state: Folder for everything that is written.
    :param database: URL of the database.
    """

    def __init__(self, root: Path, state: Path, processes: Processes, database: str, tasks_at_once: int) -> None:
        parts = {name: arguments for name, arguments in COMPONENTS.items() if name != "triggerer"}
        more = settings(database, tasks_at_once)
        super().__init__(root, state, Path(__file__).parent / "dags", processes, components=parts, more_settings=more)
        self.airflow: Airflow = Airflow(self.airflow.base_url)
        self.emulator: Emulator = Emulator(self.emulator.base_url)
        self.triggerers: dict[str, Component] = {}

    def start(self) -> None:
        """Start everything, with one triggerer."""
        super().start()
        self.start_triggerer(FIRST)

    def write_rows(self, cases: Iterable[Case]) -> None:
        """Write the files that cases read their rows from."""
        for case in cases:
            if case.from_file:
                path = self.home / case.rows_path.name
                path.write_text("".join(json.dumps(row) + "\n" for row in case.rows()))

    def add_connections(self) -> None:
        """Let Airflow know both backends of the emulator."""
        for backend in BACKENDS:
            self.airflow.add_connection(f"crash_{backend}", self._connection(backend))

    def _connection(self, backend: str) -> dict[str, Any]:
        url = self.emulator.base_url
        connection: dict[str, Any] = {"conn_type": "gemini_batch", "host": url}
        if backend == "gemini":
            return {**connection, "password": "crash-key", "extra": {"backend": backend, "timeout": CALL_TIMEOUT}}
        extra = {
            "backend": backend,
            "timeout": CALL_TIMEOUT,
            "project": PROJECT,
            "location": LOCATION,
            "storage_uri": "gs://emulator/crash",
            "storage_host": url,
            "keyfile_dict": self.emulator.new_service_account(PROJECT),
        }
        return {**connection, "extra": extra}

    def start_triggerer(self, name: str) -> None:
        """Start a triggerer under a name that Airflow shows; returns before it is ready."""
        self.triggerers[name] = self.start_component(name, TRIGGERER, **{VARIABLE: name})

    def has_triggerer(self, name: str) -> bool:
        """Whether a triggerer runs and has told Airflow so."""
        return name in self.airflow.triggerers()

    def request_stop(self, name: str) -> None:
        """Ask a triggerer to end, as a rolling deploy does: its first process alone is told."""
        self._processes.dismiss(self.triggerers[name])
        self.triggerers[name].process.send_signal(signal.SIGTERM)

    def has_ended(self, name: str) -> bool:
        """Whether a triggerer and all it started are gone."""
        return self.triggerers[name].process.poll() is not None and not self._members(name)

    def kill(self, name: str) -> None:
        """Kill a triggerer, parent and child."""
        self._processes.dismiss(self.triggerers[name])
        self._signal(name, signal.SIGKILL)

    @property
    def has_triggerers(self) -> bool:
        """Whether any triggerer that was started is still there."""
        return not all(self.has_ended(name) for name in self.triggerers)

    def kill_triggerers(self) -> None:
        """Kill all triggerers that are left."""
        for name in self.triggerers:
            if not self.has_ended(name):
                self.kill(name)

    def stall(self, name: str) -> None:
        """Let a triggerer stand still."""
        self._signal(name, signal.SIGSTOP)

    def wake(self, name: str) -> None:
        """Let a triggerer go on. It may end then: others have its work."""
        self._processes.dismiss(self.triggerers[name])
        self._signal(name, signal.SIGCONT)

    def _members(self, name: str) -> list[psutil.Process]:
        return members({self.triggerers[name].process.pid})

    def _signal(self, name: str, number: int) -> None:
        for process in self._members(name):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
