# SPDX-License-Identifier: Apache-2.0
"""
What Airflow and the emulator say at a moment, asked once for all cases; and a case under way.

A script (:mod:`.scripts`) is a generator that yields :class:`Until`: the story goes on with it when the question is
answered yes.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.system.crash.cases import TASK_ID
from tests.system.crash.verdict import Verdict, judge
from tests.system.services.ledger import is_live

if TYPE_CHECKING:
    from tests.system.crash.cases import Case
    from tests.system.crash.stack import CrashStack

PATIENCE = 120.0
"""Seconds for one step of a script, unless it says otherwise."""

FINAL = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


class NotSeenError(Exception):
    """What a script waited for did not happen."""


@dataclass(frozen=True)
class Until:
    """
    A step of a script: wait.

    :param what: For people, if it takes too long.
    :param question: Asked about once a second.
    """

    what: str
    question: Callable[[], bool]
    patience: float = PATIENCE


Script = Iterator[Until]


class World:
    """
    Both sides at a moment.

    :param stack: What runs.
    """

    def __init__(self, stack: CrashStack) -> None:
        self.stack = stack
        self.happened: set[str] = set()
        self._instances: dict[str, list[dict[str, Any]]] = {}
        self._jobs: list[dict[str, Any]] = []

    def refresh(self) -> None:
        """Ask again."""
        instances: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for instance in self.stack.airflow.task_instances():
            if instance["task_id"].rpartition(".")[2] == TASK_ID:
                instances[instance["dag_id"]].append(instance)
        self._instances = {dag_id: sorted(own, key=_place) for dag_id, own in instances.items()}
        self._jobs = self.stack.emulator.jobs()

    def instances(self, dag_id: str) -> list[dict[str, Any]]:
        """Return the instances of a DAG's task, by pass and map index."""
        return self._instances.get(dag_id, [])

    def jobs(self, dag_id: str) -> list[dict[str, Any]]:
        """Return the jobs of a DAG in the order of their creation."""
        return [job for job in self._jobs if job["display_name"].startswith(f"{dag_id}.")]


def _place(instance: dict[str, Any]) -> tuple[int, int]:
    return (instance.get("loop_iteration") or {}).get("iteration", 0), int(instance["map_index"])


@dataclass
class Run:
    """
    A case under way.

    :param started: Monotonic seconds.
    :param processes: Worker processes that the script has taken an interest in.
    """

    case: Case
    world: World
    run_id: str = ""
    started: float = field(default_factory=time.monotonic)
    processes: list[psutil.Process] = field(default_factory=list)

    # --- what is seen -------------------------------------------------------------------------------------------------

    @property
    def states(self) -> tuple[str | None, ...]:
        """The states of its task instances."""
        return tuple(instance["state"] for instance in self.world.instances(self.case.dag_id))

    @property
    def try_number(self) -> int:
        """The highest try of its task instances."""
        return max((int(each["try_number"]) for each in self.world.instances(self.case.dag_id)), default=0)

    @property
    def first_try(self) -> int:
        """The try of its first task instance."""
        return int(self.world.instances(self.case.dag_id)[0]["try_number"])

    @property
    def watchers(self) -> set[str]:
        """The names of the triggerers that its deferred task instances are with."""
        with_triggerer = [each["triggerer_job"] for each in self.world.instances(self.case.dag_id)]
        return {job["hostname"] for job in with_triggerer if job is not None}

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """Its jobs in the ledger."""
        return self.world.jobs(self.case.dag_id)

    @property
    def live_jobs(self) -> list[dict[str, Any]]:
        """Those that can still run and bill."""
        return [job for job in self.jobs if is_live(job)]

    def are_all(self, state: str) -> bool:
        """Whether all its task instances are in a state."""
        return len(self.states) == len(self.case.ends) and set(self.states) == {state}

    @property
    def is_over(self) -> bool:
        """Whether all its task instances have ended."""
        return len(self.states) == len(self.case.ends) and all(state in FINAL for state in self.states)

    @property
    def triggers_that_looked(self) -> int:
        """How many triggers of the present try have told of their job."""
        logs = self._logs(f"attempt={self.try_number}.log.trigger.*")
        return sum(": PENDING, " in log.read_text(errors="replace") for log in logs)

    def passes(self) -> list[list[str]]:
        """Return the names of jobs that the loop's gate noted after each pass."""
        path = self.world.stack.home / self.case.passes_path.name
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["jobs"] for line in lines]

    def log_says(self, text: str) -> bool:
        """Whether a text is in a log of its task instances: the tasks' own, or the triggers'."""
        return any(text in log.read_text(errors="replace") for log in self._logs("*.log*"))

    def _logs(self, name: str) -> list[Path]:
        return list((self.world.stack.home / "logs").glob(f"dag_id={self.case.dag_id}/**/{name}"))

    # --- what is done -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the DAG run."""
        self.started = time.monotonic()
        self.run_id = self.world.stack.airflow.trigger(self.case.dag_id, {})

    @property
    def has_ended(self) -> bool:
        """Whether Airflow is done with the DAG run."""
        return self.world.stack.airflow.run_state(self.case.dag_id, self.run_id) in ("success", "failed")

    def mark(self, state: str, map_index: int = -1) -> None:
        """Mark its task, as a person does."""
        self.world.stack.airflow.mark_task(self._last(map_index), state)

    def mark_first(self, state: str) -> None:
        """Mark its first task instance."""
        self.world.stack.airflow.mark_task(self.world.instances(self.case.dag_id)[0], state)

    def mark_run_failed(self) -> None:
        """Mark the whole run failed."""
        self.world.stack.airflow.mark_run(self.case.dag_id, self.run_id, "failed")

    def clear(self, number: int | None = None) -> None:
        """Clear its task, in the last pass if it is in a loop, or its instance of a number alone."""
        instance = self._last() if number is None else self.world.instances(self.case.dag_id)[number]
        self.world.stack.airflow.clear(instance, keep_state=self.case.keeps_state)

    def _last(self, map_index: int = -1) -> dict[str, Any]:
        own = [each for each in self.world.instances(self.case.dag_id) if each["map_index"] == map_index]
        return own[-1]

    def finish_jobs(self) -> None:
        """Let its live jobs succeed."""
        self.world.stack.emulator.finish(f"^{re.escape(self.case.dag_id)}\\.")

    def delete_job(self, name: str) -> None:
        """Delete a job at the service, as a person does in its console."""
        self.world.stack.emulator.delete_job(name)

    def delay(self, path: str, seconds: float) -> None:
        """Let its next call to a path wait at the service."""
        self.world.stack.emulator.delay(path, self.case.dag_id, seconds)

    def has_arrived(self, path: str) -> bool:
        """Whether the call that :meth:`delay` speaks of has come."""
        return self.world.stack.emulator.has_arrived(path, self.case.dag_id)

    def find_processes(self) -> tuple[psutil.Process, psutil.Process]:
        """Return its task's process, and the supervisor of that."""
        self.world.refresh()
        (instance,) = self.world.instances(self.case.dag_id)
        task = psutil.Process(instance["pid"])
        supervisor = task.parent()
        if supervisor is None or task.pid == os.getpid():
            raise NotSeenError("the task's supervisor")
        self.processes += [task]
        return task, supervisor

    def lives(self, process: psutil.Process) -> bool:
        """Whether a process has not ended."""
        try:
            return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def end(self) -> None:
        """Wake and kill what a broken script left of its processes."""
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)

    def verdict(self, trouble: str = "") -> Verdict:
        """Judge the case as it is now."""
        return judge(self.case, self.jobs, self.states, time.monotonic() - self.started, trouble)


def pending_signals(process: psutil.Process) -> set[int]:
    """Return the numbers of the signals that wait to be delivered to a stopped process (Linux)."""
    numbers: set[int] = set()
    with suppress(OSError), open(f"/proc/{process.pid}/status") as status:
        for line in status:
            if line.startswith(("SigPnd:", "ShdPnd:")):
                mask = int(line.split()[1], 16)
                numbers |= {number for number in range(1, 65) if mask >> (number - 1) & 1}
    return numbers
