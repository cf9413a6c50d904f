# SPDX-License-Identifier: Apache-2.0
"""A task is being ended: is its job still wanted?"""

# Airflow ends a task whose job somebody still needs (it was cleared, its worker is shut down, another triggerer took
# the wait over) and one whose job nobody needs any more (a person marked it failed, success or skipped). It tells both
# in the same way. So the rule is: ask for the task's state, and cancel only where that state is final. In doubt a job
# is kept: the next attempt finds it, and a job that was cancelled by mistake is lost with what it has cost.
#
# Three callers carry the rule out, each where Airflow tells it: the operator (`TaskEnd`, in the signal handler of a
# task that runs), the trigger (Airflow 3.3 and later), and the plugin's listener (3.0 and later, in the API server).
#
# In a task loop (3.4) all passes have the same names, and who asks for a state by these is told the last pass's.
# Example: both passes have succeeded, the first one is cleared alone, runs, and is cleared again. The state by name is
# `success`; to cancel then would lose the job that the next try waits for. So each caller asks otherwise:
#
#   caller     in a loop it asks for
#   ---------  -----------------------------------------------------------------------------------------------------
#   operator   the tasks of the run that have ended, each with its region: the one of this very pass, or none
#   trigger    the run's state, as Airflow tells it no more; a pass that is marked alone is left to the listener
#   listener   the state by the id of the try, as it does everywhere

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.task.identity import loop_index

log = logging.getLogger(__name__)

FINAL_STATES = frozenset({"failed", "success", "skipped", "upstream_failed", "removed"})
"""States of a task after which no attempt at it can want its job any more."""

HANDLER_PATIENCE = 2.0
"""Seconds that a signal handler waits for a thread: less than the 5 s after which a supervisor kills its task."""

LAST_PATIENCE = 30.0
"""The same where the process ends right afterwards: on Airflow 2.11, and once our own wait was ended."""


class Ask(Enum):
    """What :func:`when_ended` wants to know."""

    STATE = "the task's state"


Order = Ask | str
"""Ask for the task's state, or cancel the job of this name."""


def when_ended(job_names: Callable[[], Sequence[str]], log: Any) -> Generator[Order, str | None, None]:
    """
    The rule, and all that is logged of it; a driver asks and cancels.

    :param job_names: The task's jobs, asked for once the state is known: a submission may be under way.
    :param log: Takes ``info`` and ``warning``.
    """
    try:
        state = yield Ask.STATE
    except Exception as error:  # whatever Airflow's own calls raise
        log.warning("Not cancelling %s: Airflow could not be asked for the task's state (%s). It may run on and bill.",
                    _listed(job_names()), type(error).__name__)  # fmt: skip
        return
    names = job_names()
    if state not in FINAL_STATES:
        log.info("Not cancelling %s: the task is %s and still needs it.", _listed(names), state or "without a state")
        return
    for name in names:
        try:
            yield name
        except Exception as error:  # the last word of a thread or a trigger that nobody listens to
            log.warning("%s could not be cancelled and may still run and bill: %s", name, error)
        else:
            log.info("%s was asked to cancel: the task is %s.", name, state)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "any job"


def cancel_if_marked(
    job_names: Callable[[], Sequence[str]], ask: Callable[[], str | None], cancel: Callable[[str], None], log: Any
) -> None:
    """
    Carry :func:`when_ended` out.

    :param ask: Returns the task's state, or None for a task without one.
    :param cancel: Cancels a job by its name.
    """
    rule = when_ended(job_names, log)
    order = next(rule, None)
    while order is not None:
        try:
            answer = None
            if isinstance(order, Ask):
                answer = ask()
            else:
                cancel(order)
        except Exception as error:
            order = _thrown(rule, error)
        else:
            order = _sent(rule, answer)


async def acancel_if_marked(
    job_names: Callable[[], Sequence[str]],
    ask: Callable[[], Awaitable[str | None]],
    cancel: Callable[[str], Awaitable[None]],
    log: Any,
) -> None:
    """Carry :func:`when_ended` out in an event loop."""
    rule = when_ended(job_names, log)
    order = next(rule, None)
    while order is not None:
        try:
            answer = await (ask() if isinstance(order, Ask) else cancel(order))
        except Exception as error:
            order = _thrown(rule, error)
        else:
            order = _sent(rule, answer)


def _sent(rule: Generator[Order, str | None, None], answer: str | None) -> Order | None:
    try:
        return rule.send(answer)
    except StopIteration:
        return None


def _thrown(rule: Generator[Order, str | None, None], error: Exception) -> Order | None:
    try:
        return rule.throw(error)
    except StopIteration:
        return None


# --- asking -----------------------------------------------------------------------------------------------------------


def state_in(states: Mapping[str, Any], run_id: str, task_id: str, map_index: int) -> str | None:
    """
    Pick one task's state from what Airflow answers.

    :param states: ``{run_id: {task_id: state}}``; a mapped task is named ``<task_id>_<map_index>``.
    :return: E.g. ``failed``, or None for a task without a state.
    """
    key = task_id if map_index < 0 else f"{task_id}_{map_index}"
    state = (states.get(run_id) or {}).get(key)
    return None if state is None else str(getattr(state, "value", state))


def is_looped(ti: Any) -> bool:
    """Whether a task instance is a pass of a task loop (Airflow 3.4): all passes have the same names and map index."""
    # Mapped tasks outside loops have a region, too. Earlier versions have none, and are not asked for a context.
    return getattr(ti, "region_id", None) is not None and loop_index(ti.get_template_context()) is not None


def state_of_pass(ended: Iterable[Mapping[str, Any]], ti: Any) -> str:
    """
    Pick the state of a loop's very pass.

    :param ended: Each task instance of its run that has ended: ``task_id``, ``region_id``, ``region_index``, ``state``.
    """
    place = (ti.task_id, str(ti.region_id), ti.region_index)
    for one in ended:
        if (one.get("task_id"), str(one.get("region_id")), one.get("region_index")) == place:
            return str(getattr(one["state"], "value", one["state"]))
    return "under way"


def state_of(ti: Any) -> str | None:
    """Ask Airflow for a task instance's state, in a task's own process; raises whatever Airflow does."""
    # Airflow 3 took the database away from tasks and gave them this call of its API instead.
    if not hasattr(ti, "get_task_states"):
        return str(ti.current_state())  # Airflow 2.11, whose tasks may look into the database
    if is_looped(ti):
        return state_of_pass(ti.get_task_breadcrumbs(dag_id=ti.dag_id, run_id=ti.run_id), ti)
    states = ti.get_task_states(dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index)
    return state_in(states, ti.run_id, ti.task_id, ti.map_index)


# --- in a task that runs ----------------------------------------------------------------------------------------------


class TaskEnded(BaseException):
    """Airflow ends this task; raised out of its signal handler into a wait of ours, which no ``except`` may keep."""


@dataclass
class TaskEnd:
    """
    Ends a task that runs when Airflow sends its signal.

    Airflow 3 calls ``on_kill`` in the signal handler, in the middle of whatever the task was doing, and lets it go on.
    A submission has to go on, to its create call or right after it; a wait has not. It would keep the process, and with
    it the task's next attempt, for ``[core] killed_task_cleanup_time`` (60 s from Airflow 3.4 on).
    """

    unwanted: str | None = None
    """The final state that somebody gave the task, once a kill has asked for it: nothing is submitted any more."""

    _is_waiting: bool = False
    _thread: threading.Thread | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark a wait that may be ended at any moment: inside, nothing is submitted or cancelled."""
        self._is_waiting = True
        try:
            yield
        finally:
            self._is_waiting = False

    def cancel_if_marked(self, ti: Any, job_names: Callable[[], Sequence[str]], cancel: Callable[[str], None]) -> None:
        """
        Carry out the rule of this module, for the handler of the signal that ends a task.

        The signal may have come in the middle of a conversation with the supervisor, or of a call to the service, whose
        locks the interrupted code holds: a thread asks and cancels. The handler waits for it, as the process may end
        soon afterwards, but not for long, as what was interrupted may have to go on first.
        """

        def ask() -> str | None:
            state = state_of(ti)
            if state in FINAL_STATES:
                self.unwanted = state
            return state

        work = (job_names, ask, cancel, log)
        self._thread = threading.Thread(target=cancel_if_marked, args=work, name="gemini-batch-kill", daemon=True)
        self._thread.start()
        # Airflow 3 goes on with the task after the handler; 2.11 ends the process, so there the thread has to be waited
        # for.
        self._thread.join(HANDLER_PATIENCE if hasattr(ti, "get_task_states") else LAST_PATIENCE)

    def end_wait(self) -> None:
        """
        Leave a wait of ours, if the task is in one; called last in the handler.

        :raises TaskEnded: Into the interrupted code, which is the main thread's.
        """
        # An exception out of a signal handler lands wherever the main thread was. Only inside our own waits nothing can
        # be torn by it.
        if self._is_waiting and threading.current_thread() is threading.main_thread():
            raise TaskEnded

    @contextmanager
    def told(self, job_names: Callable[[], Sequence[str]]) -> Iterator[None]:
        """Turn the end of a wait into the task's error, once the thread that may have to cancel its job is through."""
        try:
            yield
        except TaskEnded:
            if self._thread is not None:
                self._thread.join(LAST_PATIENCE)
            raise GeminiBatchError(
                f"Airflow ended this task while it waited for {_listed(job_names())}. Unless the job was cancelled, "
                "the task's next attempt finds it."
            ) from None
