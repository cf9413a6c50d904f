# SPDX-License-Identifier: Apache-2.0
"""
Cancels the job of a deferred task that a person marks, from where it is marked.

Airflow before 3.3 tells no trigger that its task was marked, and later ones do so only once a triggerer runs it. The
API server tells the listeners of plugins, on 3.0 and later. Every process of Airflow loads this module, so it imports
next to nothing.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any

from airflow_provider_gemini_batch.compat import AirflowPlugin, hookimpl

log = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds after which the mark is in the database, and a trigger that was told of it has cancelled its job."""

_TRIGGER = "airflow_provider_gemini_batch.triggers.batch_job.BatchJobTrigger"


@hookimpl
def on_task_instance_success(task_instance: Any) -> None:
    """Called for each success; only those that are marked by hand can be of a deferred task."""
    _cancel_job_of(task_instance)


@hookimpl
def on_task_instance_failed(task_instance: Any) -> None:
    """As for a success."""
    _cancel_job_of(task_instance)


@hookimpl
def on_task_instance_skipped(task_instance: Any) -> None:
    """As for a success; on 3.2 and later."""
    _cancel_job_of(task_instance)


class GeminiBatchPlugin(AirflowPlugin):
    """Registers this module's listeners."""

    name = "gemini_batch"
    listeners = [sys.modules[__name__]]  # noqa: RUF012  (as Airflow declares it)


def _cancel_job_of(task_instance: Any) -> None:
    # A task that runs has no trigger, and in a worker not even the attribute.
    if getattr(task_instance, "trigger_id", None) is None:
        return
    stored = task_instance.trigger
    if stored is None or stored.classpath != _TRIGGER or not stored.kwargs.get("cancel_on_kill", True):
        return
    key = {name: getattr(task_instance, name) for name in ("dag_id", "task_id", "run_id", "map_index")}
    # The person who marks the task is waiting for the answer.
    work = (type(task_instance), key, stored.kwargs)
    threading.Thread(target=_cancel, args=work, name="gemini-batch-marked", daemon=True).start()


def _cancel(model: type[Any], key: dict[str, Any], watched: dict[str, Any]) -> None:
    from airflow_provider_gemini_batch.api.states import JobState
    from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
    from airflow_provider_gemini_batch.task.context import FINAL_STATES

    time.sleep(GRACE)
    job_name = watched["job_name"]
    try:
        state = _state_of(model, key)
        if state not in FINAL_STATES:
            log.info("%s is kept: its task is %s.", job_name, state or "without a state")
            return
        hook = GeminiBatchHook(watched["gemini_batch_conn_id"], backend=watched.get("backend"))
        job = hook.get_batch(job_name)
        # Asked again: the look may have taken a while, and who has cleared the task since wants its job.
        if job.is_running and job.state is not JobState.CANCELLING and _state_of(model, key) in FINAL_STATES:
            hook.cancel_batch(job_name)
            log.info("%s was asked to cancel: its task was marked %s.", job_name, state)
    except Exception as error:  # the last word of a thread that nobody listens to
        log.warning("%s could not be cancelled and may still run and bill: %s", job_name, error)


def _state_of(model: type[Any], key: dict[str, Any]) -> str | None:
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        state = session.scalar(select(model.state).filter_by(**key))
    return None if state is None else str(getattr(state, "value", state))
