# SPDX-License-Identifier: Apache-2.0
"""What we take from Airflow's task context, on every version."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import ConfigurationError, SubmitError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_gemini_batch.lifecycle.submit import SubmitPolicy

log = logging.getLogger(__name__)

LOOKBACK = 14 * 24 * 3600.0
"""Seconds before now beyond which a job of an old run is no longer looked for."""

FINAL_STATES = frozenset({"failed", "success", "skipped", "upstream_failed", "removed"})
"""States of a task after which no attempt at it can want its job any more."""

SETTLE_SECONDS = 45.0
LEAST_SETTLE_SECONDS = 15.0

HANDLER_PATIENCE = 2.0
"""Seconds that a signal handler waits for a thread: less than the 5 s after which a supervisor kills its task."""

LAST_PATIENCE = 30.0
"""The same on Airflow 2.11: the process ends right after the handler, but is given a minute until then."""


@dataclass(frozen=True)
class PieceOfWork:
    """
    The task instance as a piece of work that is paid for once.

    :param task: 16 hex digits, the same on every attempt.
    :param since: UTC epoch seconds before which no job of it can have been made.
    :param contended: Whether another attempt may exist or have existed.
    """

    task: str
    since: float
    contended: bool


def piece_of_work(context: Mapping[str, Any], salt: str = "") -> PieceOfWork:
    """
    Name the piece of work a context stands for.

    Without a task instance (an operator called by hand) each call is its own piece of work.
    """
    now = time.time()
    ti = context.get("ti") or context.get("task_instance")
    if ti is None:
        return PieceOfWork(uuid.uuid4().hex[:16], now - 60, contended=False)
    from airflow.providers.common.compat.sdk import conf

    from airflow_provider_gemini_batch.api.identity import make_task_id

    namespace = conf.get("gemini_batch", "namespace", fallback="") or ""
    map_index = getattr(ti, "map_index", -1)
    task = make_task_id(
        str(namespace),
        str(ti.dag_id),
        str(ti.run_id),
        str(ti.task_id),
        map_index if isinstance(map_index, int) else -1,
        str(salt or ""),
    )
    run = context.get("dag_run")
    moments = [getattr(run, name, None) for name in ("run_after", "logical_date", "execution_date", "start_date")]
    times = [moment.timestamp() for moment in moments if moment is not None and hasattr(moment, "timestamp")]
    known = [moment for moment in times if isinstance(moment, float)]
    since = max(min(known), now - LOOKBACK) if known else now - LOOKBACK
    try_number = getattr(ti, "try_number", 1)
    return PieceOfWork(task, since, contended=isinstance(try_number, int) and try_number > 1)


def submit_policy() -> SubmitPolicy:
    """Return how patiently a submission is settled, stretched as ``[gemini_batch] settle_seconds`` says."""
    from airflow.providers.common.compat.sdk import conf

    from airflow_provider_gemini_batch.lifecycle.submit import SubmitPolicy

    usual = SubmitPolicy()
    factor = _settle_seconds(conf) / SETTLE_SECONDS
    return replace(
        usual,
        settle=tuple(pause * factor for pause in usual.settle),
        settle_contended=tuple(pause * factor for pause in usual.settle_contended),
        in_flight=usual.in_flight * factor,
    )


def _settle_seconds(conf: Any) -> float:
    text = conf.get("gemini_batch", "settle_seconds", fallback=None)
    try:
        number = SETTLE_SECONDS if text is None else float(text)
    except ValueError:
        number = 0.0
    if not LEAST_SETTLE_SECONDS <= number <= 3600:
        raise ConfigurationError(
            f"[gemini_batch] settle_seconds must be {LEAST_SETTLE_SECONDS:g} to 3600 seconds, not {text!r}: a job "
            "whose answer was lost shows up in the list some seconds later, and would be paid for twice."
        )
    return number


class JobMemory:
    """
    What earlier attempts left in Airflow's task state store (3.3 and later; nothing elsewhere).

    :param store: ``context.get("task_state_store")``.
    """

    KEY = "gemini_batch_submission"

    def __init__(self, store: Any) -> None:
        self._store = store

    def recall(self) -> dict[str, Any]:
        """Return what was noted, or an empty dict."""
        if self._store is None:
            return {}
        try:
            noted = self._store.get(self.KEY)
        except Exception as error:  # the store is a help, the service's list decides
            log.warning(
                "The task state store could not be read (%s); the service's list decides.", type(error).__name__
            )
            return {}
        return noted if isinstance(noted, dict) else {}

    def note(self, what: str, value: str) -> None:
        """
        Keep an ``intent`` (a token, right before a create) or a ``job`` (its name).

        A new intent outdates the job noted before it.

        :raises SubmitError: For an intent, if the supervisor is gone: whatever this process submits nobody will hear
            of, and Airflow starts another attempt beside it.
        """
        if self._store is None:
            return
        noted = {"intent": value, "intent_at": time.time()} if what == "intent" else {**self.recall(), what: value}
        try:
            self._store.set(self.KEY, noted)
        except (EOFError, ConnectionError) as error:
            log.warning("This task's supervisor is gone (%s).", type(error).__name__)
            if what == "intent":
                raise SubmitError(
                    "This task's supervisor is gone; nothing was submitted. The next attempt at this task does it."
                ) from error
        except Exception as error:  # the service's list decides
            log.warning("The task state store could not be written (%s).", type(error).__name__)


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
