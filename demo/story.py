# SPDX-License-Identifier: Apache-2.0
"""
The demo's mishap: the task's process is killed before it hears of the job it asked for.

The service has made the job, and its reply finds nobody. The job bills, and nobody in Airflow knows its name: the next
attempt has to find it.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from demo.display import Display
    from demo.stack import Stack

CREATE = ":batchGenerateContent$"
HELD_SECONDS = 10.0
"""How long the service holds its reply back: long enough for the request to be seen."""

RETRY_SETTINGS = {"CORE__DEFAULT_TASK_RETRIES": "2", "CORE__DEFAULT_TASK_RETRY_DELAY": "5"}
"""What every Airflow should have beside this provider: an attempt after the first, see docs/reliability.md."""


class Mishap:
    """
    Kills the first attempt once it has asked for a job.

    :param stack: What runs.
    """

    def __init__(self, stack: Stack, display: Display) -> None:
        self._stack = stack
        self._display = display
        self._killed: int | None = None
        self._has_told = False

    def prepare(self) -> None:
        """Let the service hold the reply to the first request for a job."""
        self._stack.emulator.hold("POST", CREATE, HELD_SECONDS)

    def watch(self, dag_id: str, run_id: str) -> None:
        """Look once: kill when the request is under way, tell when the next attempt has begun."""
        if self._killed is None:
            if self._stack.emulator.is_held(CREATE):
                self._kill(self._stack.airflow.instances_of_run(dag_id, run_id))
            return
        again = [each for each in self._stack.airflow.instances_of_run(dag_id, run_id) if each["try_number"] > 1]
        if again and not self._has_told:
            self._has_told = True
            self._display.step(f"attempt {again[0]['try_number']} of {again[0]['task_id']} begins; the service has "
                               f"{len(self._stack.emulator.jobs())} job, and no attempt was told its name")  # fmt: skip

    def _kill(self, instances: Sequence[Mapping[str, Any]]) -> None:
        for instance in instances:
            if instance["state"] == "running" and instance["pid"]:
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(instance["pid"]).send_signal(signal.SIGKILL)
                    self._killed = instance["pid"]
                    self._display.step(f"killed the process of {instance['task_id']} (SIGKILL, pid {self._killed}) "
                                       "before it heard of its job")  # fmt: skip

    def outcome(self) -> str:
        """
        Say what it came to: the bill of the service.

        :return: One line; empty where nothing was killed.
        """
        if self._killed is None:
            return ""
        jobs = self._stack.emulator.jobs()
        rows = sum(job["rows"] for job in jobs)
        return f"{len(jobs)} job billed after 2 attempts; {sum(job['rows_run'] for job in jobs)} of {rows} rows ran"
