# SPDX-License-Identifier: Apache-2.0
"""Cancels the jobs of a deferred task that a person marks, from where it is marked."""

# Airflow before 3.3 tells no trigger that its task was marked, and later ones do so only once a triggerer runs it. The
# API server tells the listeners of plugins, on 3.0 and later. Every process of Airflow loads this module, so it imports
# next to nothing.

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from airflow_provider_gemini_batch.compat import AirflowPlugin, hookimpl
from airflow_provider_gemini_batch.plugins.page.registration import external_views, fastapi_apps
from airflow_provider_gemini_batch.plugins.watched import TRIGGERS, job_names_in

log = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds after which the mark is in the database, and a trigger that was told of it has cancelled its job."""


@hookimpl
def on_task_instance_success(task_instance: Any) -> None:
    """Called for each success; only those that are marked by hand can be of a deferred task."""
    _cancel_jobs_of(task_instance)


@hookimpl
def on_task_instance_failed(task_instance: Any) -> None:
    """As for a success."""
    _cancel_jobs_of(task_instance)


@hookimpl
def on_task_instance_skipped(task_instance: Any) -> None:
    """As for a success; on 3.2 and later."""
    _cancel_jobs_of(task_instance)


class GeminiBatchPlugin(AirflowPlugin):
    """Registers this module's listeners, and the page."""

    name = "gemini_batch"
    listeners = [sys.modules[__name__]]  # noqa: RUF012  (as Airflow declares it)
    fastapi_apps = fastapi_apps()
    external_views = external_views()


def _cancel_jobs_of(task_instance: Any) -> None:
    # A task that runs has no trigger, and in a worker not even the attribute.
    if getattr(task_instance, "trigger_id", None) is None:
        return
    stored = task_instance.trigger
    if stored is None or not stored.classpath.startswith(TRIGGERS):
        return
    names = job_names_in(stored.kwargs)
    if not names or not stored.kwargs.get("cancel_on_kill", True):
        return
    # The person who marks the task is waiting for the answer.
    work = (type(task_instance), task_instance.id, names, stored.kwargs)
    threading.Thread(target=_cancel, args=work, name="gemini-batch-marked", daemon=True).start()


def _cancel(model: type[Any], key: Any, names: list[str], watched: Mapping[str, Any]) -> None:
    from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
    from airflow_provider_gemini_batch.task.kill import cancel_if_marked

    time.sleep(GRACE)
    hook = GeminiBatchHook(
        watched.get("gemini_batch_conn_id") or GeminiBatchHook.default_conn_name, backend=watched.get("backend")
    )
    cancel_if_marked(lambda: names, lambda: _state_of(model, key), hook.cancel_batch, log)


def _state_of(model: type[Any], key: Any) -> str | None:
    """
    Return the state of the very try that was marked, None if it is no longer the task's last.

    A clear gives the task a new id (3.0 to 3.3), or a new row beside the old one (3.4). Dag, run, task and map index
    are no identity: in a loop each pass has the same.
    """
    from airflow.utils.session import create_session
    from sqlalchemy import select

    query = select(model.state).where(model.id == key)
    if hasattr(model, "working_set"):
        query = query.where(model.working_set.is_(True))
    with create_session() as session:
        state = session.scalar(query)
    return None if state is None else str(getattr(state, "value", state))
