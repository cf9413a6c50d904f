# SPDX-License-Identifier: Apache-2.0
"""Whether a task that is being ended was marked by a person, asked on every Airflow version."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

FINAL_STATES = frozenset({"failed", "success", "skipped", "upstream_failed", "removed"})
"""States of a task after which no attempt at it can want its job any more."""

HANDLER_PATIENCE = 2.0
"""Seconds that a signal handler waits for a thread: less than the 5 s after which a supervisor kills its task."""

LAST_PATIENCE = 30.0
"""The same on Airflow 2.11: the process ends right after the handler, but is given a minute until then."""


def state_in(states: Mapping[str, Any], run_id: str, task_id: str, map_index: int) -> str | None:
    """
    Pick one task's state from what Airflow answers.

    :param states: ``{run_id: {task_id: state}}``; a mapped task is named ``<task_id>_<map_index>``.
    :return: E.g. ``failed``, or None for a task without a state.
    """
    key = task_id if map_index < 0 else f"{task_id}_{map_index}"
    state = (states.get(run_id) or {}).get(key)
    return None if state is None else str(getattr(state, "value", state))


def final_state_of(ti: Any) -> str | None:
    """
    Ask Airflow for a task instance's state, in a task process that is being ended.

    :return: The state if it is final (somebody marked the task), else None: the task was cleared, is being retried, or
        Airflow cannot be asked; in all of these the job may still be wanted.
    """
    try:
        if hasattr(ti, "get_task_states"):
            states = ti.get_task_states(
                dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index
            )
            state = state_in(states, ti.run_id, ti.task_id, ti.map_index)
        else:
            state = str(ti.current_state())  # Airflow 2.11, whose tasks may look into the database
    except Exception as error:
        log.info("Airflow could not be asked for the task's state: %s", type(error).__name__)
        return None
    return state if state in FINAL_STATES else None


def if_final(ti: Any, act: Callable[[str], None]) -> None:
    """
    Call *act* with a task instance's state if that is final; for the handler of the signal that ends a task.

    The signal may have come in the middle of a conversation with the supervisor, or of a call to the service, whose
    locks the interrupted code holds: the question is asked in a thread. It is waited for, as the process may end soon
    after the handler, but not for long, as what was interrupted may have to go on first.

    :param act: Is called in that thread.
    """

    def ask_and_act() -> None:
        state = final_state_of(ti)
        if state is None:
            log.info("The task was not marked: the next attempt finds its job again.")
            return
        try:
            act(state)
        except Exception as error:  # the last word of a thread that nobody listens to
            log.error("The task was marked %s, and its job may still run and bill: %s", state, error)

    thread = threading.Thread(target=ask_and_act, name="gemini-batch-kill", daemon=True)
    thread.start()
    thread.join(HANDLER_PATIENCE if hasattr(ti, "get_task_states") else LAST_PATIENCE)
