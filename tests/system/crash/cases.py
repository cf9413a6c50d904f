# SPDX-License-Identifier: Apache-2.0
"""
What is tried. Each case is one run of a DAG of its own with one task, ``create``, and its jobs stay pending until the
case's script ends them: who is cancelled in time is billed nothing.
"""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

BACKENDS = ("gemini", "vertex_ai")
TASK_ID = "create"
MAX_TRIES = 3
LOOP = "again"
"""Id of the task group that is repeated."""

AIRFLOW = Version(importlib.metadata.version("apache-airflow"))
HAS_LOOPS = Version("3.4.0a0") <= AIRFLOW
"""Whether this Airflow repeats task groups, and forgets a task's state when it is cleared, unless told otherwise."""


@dataclass(frozen=True)
class Case:
    """
    One DAG run and what is to come of it.

    :param name: Also the name of its script.
    :param about: What happens, for people.
    :param deferrable: Whether the task waits in the triggerer or in its worker.
    :param needed: How many jobs have to be billed: those whose answers somebody wants.
    :param created: How many jobs have to come into being; None is as many as needed.
    :param ends: The states of the task's instances at the end, by map index.
    :param cancel_on_kill: As the operator knows it.
    :param run_timeout: ``dagrun_timeout`` in seconds.
    :param from_file: The rows come from a file and are uploaded on both backends.
    :param talks: While it waits, the task talks to Airflow without a pause.
    :param passes: How often a loop repeats the task; 0 for a task that is in none.
    :param other_rows: Each pass has rows of its own; all have the same otherwise.
    :param waits: Whether the task waits for its job.
    :param keeps_state: A clear leaves the task its state.
    :param needs_loops: Only an Airflow with :data:`HAS_LOOPS` can have it.
    """

    name: str
    backend: str
    about: str
    deferrable: bool = True
    needed: int = 1
    created: int | None = None
    ends: tuple[str, ...] = ("success",)
    cancel_on_kill: bool = True
    run_timeout: float | None = None
    from_file: bool = False
    talks: bool = False
    passes: int = 0
    other_rows: bool = False
    waits: bool = True
    keeps_state: bool = False
    needs_loops: bool = False

    @property
    def dag_id(self) -> str:
        """The DAG's id, which the display names of its jobs begin with."""
        return f"crash_{self.name}_{self.backend}"

    @property
    def conn_id(self) -> str:
        """The connection to the emulator."""
        return f"crash_{self.backend}"

    @property
    def task_id(self) -> str:
        """The task's id."""
        return f"{LOOP}.{TASK_ID}" if self.passes else TASK_ID

    @property
    def width(self) -> int:
        """How many instances the task has, in each pass if it is in a loop."""
        return len(self.ends) // max(1, self.passes)

    @property
    def is_mapped(self) -> bool:
        """Whether the task is mapped, over as many lists of rows as it has instances."""
        return self.width > 1

    @property
    def passes_path(self) -> Path:
        """Where the loop's gate notes the jobs of each pass."""
        return Path(os.environ.get("AIRFLOW_HOME", ".")) / f"{self.dag_id}.passes.jsonl"

    @property
    def rows_path(self) -> Path:
        """Where the rows lie, if they come from a file."""
        return Path(os.environ.get("AIRFLOW_HOME", ".")) / f"{self.dag_id}.jsonl"

    def rows(self, number: int = 0) -> list[dict[str, str]]:
        """Return the rows of one task instance; no other case has the same ones."""
        return [{"key": f"k{n}", "prompt": f"{self.dag_id} {number}: say {n}"} for n in range(3)]


def _on(backends: tuple[str, ...], name: str, about: str, **members: object) -> list[Case]:
    return [Case(name, backend, about, **members) for backend in backends]  # type: ignore[arg-type]


_GEMINI = BACKENDS[:1]
_DROPPED = {"needed": 0, "created": 1}
_TWO = {"needed": 1, "created": 2}

TRIGGERER_CASES: tuple[Case, ...] = (
    *_on(BACKENDS, "triggerer_stopped", "SIGTERM of the triggerer that watches"),
    *_on(BACKENDS, "triggerer_killed", "kill -9 of the triggerer that watches"),
    *_on(
        BACKENDS, "triggerer_stalled", "the triggerer that watches stands still, and wakes when another has taken over"
    ),
)
"""In the order in which their triggerers meet their fate."""

WORKER_CASES: tuple[Case, ...] = (
    *_on(_GEMINI, "orphan_creates", "kill -9 of the supervisor during the create call; the task lives on",
         deferrable=False),
    *_on(BACKENDS, "orphan_beside_retry", "the same, and the call takes so long that the retry creates, too",
         deferrable=False, **_TWO),
    *_on(BACKENDS, "orphan_stops", "kill -9 of the supervisor before the create call; the task lives on",
         deferrable=False, from_file=True),
    *_on(_GEMINI, "task_killed", "kill -9 of supervisor and task during the create call", deferrable=False),
    *_on(BACKENDS[1:], "task_killed", "kill -9 of supervisor and task during the create call"),
    *_on(BACKENDS, "running_failed", "running task marked failed", deferrable=False, ends=("failed",), **_DROPPED),
    *_on(_GEMINI, "running_succeeded", "running task marked success", deferrable=False, **_DROPPED),
    *_on(_GEMINI, "running_run_failed", "run with a running task marked failed", deferrable=False, ends=("failed",),
         **_DROPPED),
    *_on(_GEMINI, "running_kept", "running task marked failed, cancel_on_kill=False", deferrable=False,
         ends=("failed",), cancel_on_kill=False),
    *_on(_GEMINI, "running_cleared", "running task cleared", deferrable=False),
    *_on(_GEMINI, "creating_failed", "task marked failed during the create call", deferrable=False, ends=("failed",),
         **_DROPPED),
    *_on(_GEMINI, "talking_failed", "task marked failed while it talks to Airflow", deferrable=False, ends=("failed",),
         talks=True, **_DROPPED),
)  # fmt: skip

DEFERRED_CASES: tuple[Case, ...] = (
    *_on(BACKENDS, "deferred_cleared", "deferred task cleared"),
    *_on(BACKENDS, "deferred_failed", "one of two deferred mapped tasks marked failed", ends=("failed", "success"),
         **_TWO),
    *_on(BACKENDS, "deferred_succeeded", "deferred task marked success", **_DROPPED),
    *_on(_GEMINI, "deferred_skipped", "deferred task marked skipped", ends=("skipped",), **_DROPPED),
    *_on(_GEMINI, "deferred_kept", "deferred task marked failed, cancel_on_kill=False", ends=("failed",),
         cancel_on_kill=False),
    *_on(_GEMINI, "failed_cleared", "deferred task marked failed, cancel_on_kill=False, and cleared while its job runs",
         cancel_on_kill=False),
    *_on(_GEMINI, "deferred_run_failed", "run with a deferred task marked failed", ends=("failed",), **_DROPPED),
    *_on(_GEMINI, "deferred_run_timeout", "dagrun_timeout of a deferred task", ends=("skipped",), run_timeout=45,
         **_DROPPED),
)  # fmt: skip
"""Those that need the triggerers to stay: what is to be cancelled is cancelled by the one that watches."""

UNTOLD_CASES: tuple[Case, ...] = (
    *_on(BACKENDS, "untold_failed", "deferred task marked failed, with no triggerer", ends=("failed",), **_DROPPED),
    *_on(_GEMINI, "untold_succeeded", "deferred task marked success, with no triggerer", **_DROPPED),
    *_on(_GEMINI, "untold_run_failed", "run with a deferred task marked failed, with no triggerer", ends=("failed",),
         **_DROPPED),
    *_on(_GEMINI, "untold_kept", "deferred task marked failed, with no triggerer, cancel_on_kill=False",
         ends=("failed",), cancel_on_kill=False),
)  # fmt: skip
"""Those of marks that no trigger is told of, as in the second or two before one runs."""

LOOP_CASES: tuple[Case, ...] = (
    *_on(BACKENDS, "loop_equal", "passes with equal rows", passes=2, ends=("success",) * 2, needed=2,
         needs_loops=True),
    *_on(BACKENDS, "loop_other", "passes with other rows, all of whose jobs run at once", passes=3,
         ends=("success",) * 3, needed=3, other_rows=True, waits=False, deferrable=False, needs_loops=True),
    *_on(_GEMINI, "loop_mapped", "passes of a mapped task", passes=2, ends=("success",) * 4, needed=4,
         needs_loops=True),
    *_on(_GEMINI, "loop_cleared", "second pass cleared while it is deferred", passes=2, ends=("success",) * 2,
         needed=2, needs_loops=True),
    *_on(_GEMINI, "loop_failed", "second pass marked failed while it is deferred", passes=2,
         ends=("success", "failed"), needed=1, created=2, needs_loops=True),
    *_on(_GEMINI, "loop_first_deferred", "first pass cleared alone twice, deferred beside a second that has succeeded",
         passes=2, ends=("success",) * 2, needed=3, needs_loops=True),
    *_on(_GEMINI, "loop_first_running", "the same, running, of a mapped task", passes=2, ends=("success",) * 4,
         needed=5, deferrable=False, needs_loops=True),
    *_on(_GEMINI, "loop_first_marked", "first pass cleared alone, and marked failed while it runs", passes=2,
         ends=("failed", "success"), needed=2, created=3, deferrable=False, needs_loops=True),
    *_on(BACKENDS, "state_kept", "deferred task cleared, with its state kept", keeps_state=True, needs_loops=True),
    *_on(_GEMINI, "running_state_kept", "running task cleared, with its state kept", keeps_state=True,
         deferrable=False, needs_loops=True),
    *_on(_GEMINI, "failed_state_kept", "failed task cleared while its job runs, with its state kept", keeps_state=True,
         cancel_on_kill=False, needs_loops=True),
)  # fmt: skip
"""Those that Airflow has from 3.4 on: loops, and a clear that leaves a task its state."""

ALL_CASES: tuple[Case, ...] = (*TRIGGERER_CASES, *WORKER_CASES, *DEFERRED_CASES, *LOOP_CASES, *UNTOLD_CASES)
CASES: tuple[Case, ...] = tuple(case for case in ALL_CASES if HAS_LOOPS or not case.needs_loops)
"""Those that this Airflow can have."""
