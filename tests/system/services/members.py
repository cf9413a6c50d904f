# SPDX-License-Identifier: Apache-2.0
"""The demo's processes on PostgreSQL, some of which come and go under names that Airflow shows as hosts."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from demo.processes import Component, Processes, members
from demo.stack import Stack
from tests.system.services.control import Airflow, Emulator
from tests.system.services.hostname import VARIABLE

HEARTBEAT_TIMEOUT = 25
"""Seconds after which Airflow gives a worker up; 300 by default."""


CALL_TIMEOUT = 180
"""Seconds for one call to the service: what is held back longest there is not to be given up."""

LOCATION = "us-central1"
PROJECT = "emulated-project"


def settings(database: str, tasks_at_once: int) -> dict[str, str]:
    """Return what such an Airflow has set otherwise than the demo's."""
    return {
        "DATABASE__SQL_ALCHEMY_CONN": database,
        "CORE__PARALLELISM": str(tasks_at_once),
        # How long a killed task may take to end, from 3.4 on: less than the heartbeat's timeout, lest it is given up.
        "CORE__KILLED_TASK_CLEANUP_TIME": "5",
        "CORE__HOSTNAME_CALLABLE": "tests.system.services.hostname.hostname",
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(HEARTBEAT_TIMEOUT),
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    }


class MemberStack(Stack):
    """
    What runs during a suite.

    :param root: The project.
    :param state: Folder for everything that is written.
    :param dags: Folder with the DAG files.
    :param components: Airflow's parts of which there is one, from the beginning to the end.
    :param more_settings: See :func:`~demo.stack.environment`.
    """

    def __init__(
        self,
        root: Path,
        state: Path,
        dags: Path,
        processes: Processes,
        components: Mapping[str, tuple[str, ...]],
        more_settings: Mapping[str, str],
    ) -> None:
        super().__init__(root, state, dags, processes, components=components, more_settings=more_settings)
        self.airflow: Airflow = Airflow(self.airflow.base_url)
        self.emulator: Emulator = Emulator(self.emulator.base_url)
        self.members: dict[str, Component] = {}

    def connection(self, backend: str) -> dict[str, Any]:
        """Return a connection to one of the emulator's backends."""
        url = self.emulator.base_url
        connection: dict[str, Any] = {"conn_type": "gemini_batch", "host": url}
        if backend == "gemini":
            return {**connection, "password": "any-key", "extra": {"backend": backend, "timeout": CALL_TIMEOUT}}
        extra = {
            "backend": backend,
            "timeout": CALL_TIMEOUT,
            "project": PROJECT,
            "location": LOCATION,
            "storage_uri": "gs://emulator/suite",
            "storage_host": url,
            "keyfile_dict": self.emulator.new_service_account(PROJECT),
        }
        return {**connection, "extra": extra}

    def start_member(self, name: str, command: Sequence[str], **more_environment: str) -> None:
        """Start a part of Airflow under the name of a host; returns before it is ready."""
        self.members[name] = self.start_component(name, tuple(command), **{VARIABLE: name}, **more_environment)

    def request_stop(self, name: str) -> None:
        """Ask a member to end, as a rolling deploy does: its first process alone is told."""
        self._processes.dismiss(self.members[name])
        self.members[name].process.send_signal(signal.SIGTERM)

    def has_ended(self, name: str) -> bool:
        """Whether a member and all it started are gone."""
        return self.members[name].process.poll() is not None and not self.processes_of(name)

    def kill(self, name: str) -> None:
        """Kill a member and all it started, as if its host had lost power."""
        self._processes.dismiss(self.members[name])
        self._signal(name, signal.SIGKILL)

    def stall(self, name: str) -> None:
        """Let a member stand still."""
        self._signal(name, signal.SIGSTOP)

    def wake(self, name: str) -> None:
        """Let a member go on. It may end then: others have its work."""
        self._processes.dismiss(self.members[name])
        self._signal(name, signal.SIGCONT)

    def processes_of(self, name: str) -> list[psutil.Process]:
        """Return a member's living processes."""
        return members({self.members[name].process.pid})

    def _signal(self, name: str, number: int) -> None:
        for process in self.processes_of(name):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
