# SPDX-License-Identifier: Apache-2.0
"""What ends a run from the page, in the order that costs least."""

# First Airflow marks the task failed, as its own button does: whoever waits for the jobs then stops, and nothing asks
# their rows again. Only then are the jobs cancelled at Google. Jobs that are unknown here (submitted in the same
# second) are cancelled by the task itself, which ends as every marked task does. Each change is in Airflow's audit log.

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.api.identity import make_task_id, token_of
from airflow_provider_gemini_batch.errors import GeminiBatchError, NotFoundError
from airflow_provider_gemini_batch.plugins.page.errors import PageError
from airflow_provider_gemini_batch.plugins.page.hooks import hook_for
from airflow_provider_gemini_batch.plugins.page.owners import installation_names
from airflow_provider_gemini_batch.plugins.page.run_model import view_of
from airflow_provider_gemini_batch.plugins.page.task_facts import instance_query
from airflow_provider_gemini_batch.plugins.watched import job_names_in

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
    from airflow_provider_gemini_batch.plugins.page.security import Viewer
    from airflow_provider_gemini_batch.plugins.page.task_facts import TaskFacts
    from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress

log = logging.getLogger(__name__)

PASSES = 1000
"""So many passes of a task loop (Airflow 3.4) are known by their marks; any pass of a task is the task's."""

SAID = {
    "run": "The task is marked failed and its jobs are cancelled. Google bills what was answered until then.",
    "run-in-part": "The task is marked failed, but a job could not be cancelled. The log of the API server says why.",
    "job": "The job is cancelled. A run asks its unanswered rows again in its next round.",
    "over": "The task had ended already. Nothing was changed.",
}
"""What the page says after a change, by the word in its address."""


def cancel_run(facts: TaskFacts, viewer: Viewer) -> str:
    """
    End a task and its jobs.

    :return: A key of :data:`SAID`.
    """
    names = [job.name for job in view_of(facts, time.time()).under_way if job.name]
    if not _mark_failed(facts.address, viewer, names):
        return "over"
    return "run" if _cancel_all(facts, names) else "run-in-part"


def cancel_one(facts: TaskFacts, job_name: str, viewer: Viewer) -> str:
    """
    Cancel one job of a task that goes on.

    :raises PageError: If the job is not one of the task's, or Google refuses.
    """
    if job_name not in facts.job_names:
        raise PageError(404, "Nothing was changed", "This task has no such job.", kind="empty")
    try:
        hook = _hook(facts)
        if not _is_own(hook, facts, job_name):
            raise PageError(403, "Nothing was changed", "The job does not carry this task's mark. See All jobs.")
        # Before the call: what was tried is on record even if its reply is lost.
        audit("gemini_batch_cancel_job", viewer, facts.address, job_name)
        hook.cancel_batch(job_name)
    except GeminiBatchError as error:
        raise PageError(502, "The job could not be cancelled", str(error)) from error
    return "job"


def audit(event: str, viewer: Viewer, address: TaskAddress | None, extra: str) -> None:
    """Leave a line in Airflow's audit log."""
    from airflow.models.log import Log  # noqa: TID251  (the API server has them)
    from airflow.utils.session import create_session

    entry = Log(event=event, owner=viewer.name, owner_display_name=viewer.name, extra=extra[:2000])
    if address is not None:
        entry.dag_id, entry.task_id, entry.run_id = address.dag_id, address.task_id, address.run_id
        entry.map_index = address.map_index
    with create_session() as session:
        session.add(entry)


def _mark_failed(address: TaskAddress, viewer: Viewer, names: list[str]) -> bool:
    """Mark the task instance failed unless it has ended; say whether it was."""
    from airflow.utils.session import create_session

    with create_session() as session:
        # Locked, so that the task cannot end between the look and the mark; a task that has ended is not marked anew.
        found = session.scalars(instance_query(address).with_for_update()).first()
        state = None if found is None else getattr(found.state, "value", found.state)
        if found is None or state in ("success", "failed", "skipped", "upstream_failed", "removed"):
            return False
        found.set_state("failed", session=session)
    audit("gemini_batch_cancel_run", viewer, address, ", ".join(names))
    return True


def _cancel_all(facts: TaskFacts, names: list[str]) -> bool:
    whole = True
    try:
        hook = _hook(facts)
    except GeminiBatchError as error:
        log.error("The jobs of %s are not cancelled: %s", facts.address, error)
        return False
    for name in names:
        try:
            if not _is_own(hook, facts, name):
                log.warning("%s does not carry the mark of %s, and is not cancelled.", name, facts.address)
                whole = False
                continue
            hook.cancel_batch(name)
        except GeminiBatchError as error:
            log.error("%s could not be cancelled, and may bill: %s", name, error)
            whole = False
    return whole


def _is_own(hook: GeminiBatchHook, facts: TaskFacts, name: str) -> bool:
    """
    Say whether a job is certainly this task's.

    XComs can be written by people, so a name from there counts only if the job carries the task's mark: else who may
    edit one DAG could cancel the jobs of another. What its trigger and its state store say is Airflow's own.
    """
    if name in job_names_in(facts.watched) or name == facts.noted.get("job"):
        return True
    try:
        token = token_of(hook.get_batch(name))
    except NotFoundError:
        return False
    if token is None:
        return False
    where = facts.address
    from airflow.utils.session import create_session

    with create_session() as session:
        names = installation_names(session)
    task = (where.dag_id, where.run_id, where.task_id, where.map_index)
    marks = {make_task_id(each, *task, loop_index=index) for each in names for index in (None, *range(PASSES))}
    return token.task in marks or token.task == str(facts.noted.get("intent") or "").partition(".")[0]


def _hook(facts: TaskFacts) -> GeminiBatchHook:
    return hook_for(facts.conn_id, facts.watched.get("backend"))
