# SPDX-License-Identifier: Apache-2.0
"""All jobs of a connection: whose they are, how far they are, what can go."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.plugins.page import job_lists, job_query, job_work
from airflow_provider_gemini_batch.plugins.page.cancelling import audit
from airflow_provider_gemini_batch.plugins.page.errors import BadAddress, PageError, Refused
from airflow_provider_gemini_batch.plugins.page.google import google_url
from airflow_provider_gemini_batch.plugins.page.hooks import hook_for
from airflow_provider_gemini_batch.plugins.page.job_query import Filters, SeenJob
from airflow_provider_gemini_batch.plugins.page.needs import reads_connection
from airflow_provider_gemini_batch.plugins.page.urls import jobs_path
from airflow_provider_gemini_batch.plugins.page.visit import Route, Visit
from airflow_provider_gemini_batch.plugins.page.words import job_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.responses import Response

    from airflow_provider_gemini_batch.plugins.page.job_lists import JobList

DAYS = 7
MAX_AT_ONCE = 500
"""Jobs that one form changes."""


def show(visit: Visit) -> Response:
    """Show one page of the copy; where there is none, it begins to be read."""
    # A page never waits for Google: the list is read in a thread, and what has come of it is shown with its time.
    copy = job_lists.list_of(visit.conn_id)
    busy = copy.is_busy  # before its jobs are taken: a list that ends meanwhile is looked at once more
    filters = _filters(visit)
    now = time.time()
    jobs = job_query.seen(copy.jobs[:], visit.viewer.readable)
    result = job_query.query(jobs, filters, visit.number("page", 1, least=1, most=10_000), now)
    return visit.page(
        "jobs.html",
        copy=copy,
        busy=busy,
        filters=filters,
        result=result,
        groups=job_query.GROUPS,
        work=job_work.work_on(visit.conn_id),
        conn_id=visit.conn_id,
        connections=connections(visit),
        may_change=lambda job: _may_change(visit, job),
        may_edit_connection=visit.viewer.may_connection("PUT", visit.conn_id),
        job_state=job_state,
        google_url=google_url,
        page_path=lambda page: jobs_path(visit.conn_id, **filters.but(page=str(page))),
        filter_path=lambda **changes: jobs_path(visit.conn_id, **filters.but(**changes)),
    )


def confirm(visit: Visit) -> Response:
    """Say what a change would do, before it is done."""
    action, chosen = _chosen(visit)
    return visit.page(
        "confirm.html",
        action=action,
        chosen=chosen,
        running=[job for job in chosen if not job.job.is_over],
        unread=[job for job in chosen if job.is_unread],
        conn_id=visit.conn_id,
        job_state=job_state,
    )


def change(visit: Visit) -> Response:
    """Cancel or delete jobs, in the background."""
    action, chosen = _chosen(visit)
    # The form was made from a copy, in which a job may have been over that is not: the whole form is refused, not a
    # part.
    if action == "delete" and any(not job.job.is_over for job in chosen):
        raise PageError(409, "Nothing was changed", "A job that runs has to be cancelled before it is deleted.")
    _begin(visit, action, [job.job.name for job in chosen])
    return visit.redirect(jobs_path(visit.conn_id))


def list_again(visit: Visit) -> Response:
    """Read the list anew."""
    job_lists.list_of(visit.conn_id, anew=True)
    return visit.redirect(jobs_path(visit.conn_id))


def stop(visit: Visit) -> Response:
    """Stop what goes on: reading the list, or changing jobs."""
    copy = job_lists.known_list(visit.conn_id)
    work = job_work.work_on(visit.conn_id)
    if visit.text("what") == "work" and work is not None:
        visit.viewer.require_connection("PUT", visit.conn_id)
        work.stop()
    elif copy is not None:
        copy.stop()
    return visit.redirect(jobs_path(visit.conn_id))


def clean_up(visit: Visit) -> Response:
    """Say what a clean-up would do: the dry run."""
    days = visit.number("days", DAYS, least=1, most=3650)
    copy = _listed(visit)
    return visit.page("clean_up.html", plan=_plan(visit, copy, days), days=days, copy=copy, conn_id=visit.conn_id)


def do_clean_up(visit: Visit) -> Response:
    """Delete what the dry run has shown, and nothing else."""
    if visit.text("read") != "yes":
        raise PageError(400, "Nothing was changed", "The table has to be read, and the box ticked, first.")
    days = visit.number("days", DAYS, least=1, most=3650)
    plan = _plan(visit, _listed(visit), days)
    if visit.text("plan") != plan.digest:
        raise PageError(409, "Nothing was changed", "The list has changed since you read the table. Look at it again.")
    _begin(visit, "delete", plan.delete)
    return visit.redirect(jobs_path(visit.conn_id))


def connections(visit: Visit) -> list[str]:
    """Return the connections of ours that the viewer may read; those of the environment are not listed by Airflow."""
    from airflow.models.connection import Connection  # noqa: TID251  (the API server has them)
    from sqlalchemy import select

    with visit.session() as session:
        query = select(Connection.conn_id).where(Connection.conn_type == "gemini_batch").limit(200)
        names = set(session.scalars(query))
    return sorted({visit.conn_id, *(name for name in names if visit.viewer.may_connection("GET", name))})


# --- what the views share ---------------------------------------------------------------------------------------------


def _filters(visit: Visit) -> Filters:
    names = ("state", "search", "dag", "model", "older")
    return Filters(**{name: visit.text(name) for name in names})


def _listed(visit: Visit) -> JobList:
    copy = job_lists.known_list(visit.conn_id)
    if copy is None or copy.phase not in ("done", "stopped"):
        raise PageError(
            409, "The list is not complete", "Wait until the jobs of this connection are listed, then try again.",
            kind="empty",
        )  # fmt: skip
    return copy


def _plan(visit: Visit, copy: JobList, days: int) -> job_query.CleanUp:
    return job_query.clean_up(
        job_query.seen(copy.jobs[:], visit.viewer.readable),
        days,
        copy.finished or copy.began,
        may_dag=lambda dag_id: visit.viewer.may_dag("PUT", dag_id, "TASK_INSTANCE"),
        may_connection=visit.viewer.may_connection("PUT", visit.conn_id),
    )


def _may_change(visit: Visit, seen: SeenJob) -> bool:
    """Say whether the viewer may change a job: edit on the DAG that owns it, or on the connection if none does."""
    if seen.hidden:
        return False
    if seen.job.owner is not None:
        return visit.viewer.may_dag("PUT", seen.job.owner.dag_id, "TASK_INSTANCE")
    return visit.viewer.may_connection("PUT", visit.conn_id)


def _chosen(visit: Visit) -> tuple[str, Sequence[SeenJob]]:
    """
    Return the jobs that a form names, each of which the viewer may change.

    Whose a job is has to be known for that, so the names are looked up in the complete copy.
    """
    action, names = visit.text("action"), list(dict.fromkeys(visit.texts("name")))
    if action not in ("cancel", "delete"):
        raise BadAddress("action must be cancel or delete.")
    if not names:
        raise PageError(400, "No job is chosen", "Tick the boxes of the jobs that you mean.", kind="empty")
    if len(names) > MAX_AT_ONCE:
        raise PageError(400, "Nothing was changed", f"At most {MAX_AT_ONCE} jobs are changed at once.")
    known = {each.job.name: each for each in job_query.seen(_listed(visit).jobs[:], visit.viewer.readable)}
    missing = [name for name in names if name not in known]
    if missing:
        raise PageError(409, "Nothing was changed", f"{len(missing)} of these jobs are no longer in the list.")
    chosen = [known[name] for name in names]
    if not all(_may_change(visit, each) for each in chosen):
        raise Refused(
            "You may not change these jobs",
            f"edit on the DAGs that own them, and for jobs without an owner on the connection {visit.conn_id}",
        )
    return action, chosen


def _begin(visit: Visit, action: str, names: Sequence[str]) -> None:
    work = job_work.Work(action, names, visit.viewer.name)
    audit(f"gemini_batch_{action}_jobs", visit.viewer, None, f"{visit.conn_id}: {', '.join(names)}")
    if not job_work.begin(visit.conn_id, work, lambda: hook_for(visit.conn_id), job_lists.known_list(visit.conn_id)):
        raise PageError(409, "Nothing was changed", "Other jobs of this connection are being changed. Wait for them.")


ROUTES = [
    Route("/jobs", show, reads_connection),
    Route("/jobs/confirm", confirm, reads_connection),
    Route("/jobs/change", change, reads_connection, "POST"),
    Route("/jobs/list", list_again, reads_connection, "POST"),
    Route("/jobs/stop", stop, reads_connection, "POST"),
    Route("/jobs/clean-up", clean_up, reads_connection),
    Route("/jobs/clean-up", do_clean_up, reads_connection, "POST"),
]
