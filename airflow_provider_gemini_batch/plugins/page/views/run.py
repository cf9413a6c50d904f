# SPDX-License-Identifier: Apache-2.0
"""A task's run: its jobs, how far they are, what they cost, what it waits for; and how to end it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.plugins.page import cancelling, job_lists
from airflow_provider_gemini_batch.plugins.page.expected_end import durations_in, durations_of, earlier_runs
from airflow_provider_gemini_batch.plugins.page.google import google_url
from airflow_provider_gemini_batch.plugins.page.needs import changes_task, reads_answers
from airflow_provider_gemini_batch.plugins.page.run_model import model_of, view_of
from airflow_provider_gemini_batch.plugins.page.task_facts import map_indexes, read_task
from airflow_provider_gemini_batch.plugins.page.urls import run_path
from airflow_provider_gemini_batch.plugins.page.visit import Route, Visit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.responses import Response

    from airflow_provider_gemini_batch.plugins.page.task_facts import TaskFacts

WAITING = ("running", "deferred", "up_for_reschedule")
"""States of a task whose jobs may be under way."""


def show(visit: Visit) -> Response:
    """Show what is known of the run; nothing is asked of Google."""
    with visit.session() as session:
        facts = read_task(session, visit.address)
        indexes = map_indexes(session, visit.address)
        runs = earlier_runs(session, visit.address) if facts.state in WAITING else []
    looks = job_lists.last_looks(facts.conn_id, facts.job_names)
    view = view_of(facts, time.time(), looks, _earlier(visit, facts, runs))
    return visit.page(
        "run.html",
        view=view,
        indexes=indexes,
        facts=facts,
        address=visit.address,
        conn_id=facts.conn_id,
        may_edit=visit.viewer.may_dag("PUT", visit.address.dag_id, "TASK_INSTANCE"),
        said=visit.text("said"),
        sayings=cancelling.SAID,
        google_url=google_url,
    )


def _earlier(visit: Visit, facts: TaskFacts, runs: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the seconds that earlier jobs of the task's model took, as far as the viewer may know of them."""
    if facts.state not in WAITING:
        return []
    model = model_of(facts)
    took = [seconds for run in runs for seconds in durations_in(run, model)]
    copy = job_lists.known_list(facts.conn_id) if facts.conn_id else None
    # It holds other DAGs' jobs, too.
    if copy is not None and visit.viewer.may_connection("GET", copy.conn_id):
        took += durations_of(list(copy.jobs), model)
    return took


def cancel(visit: Visit) -> Response:
    """Mark the task failed and cancel its jobs, or cancel one job alone."""
    with visit.session() as session:
        facts = read_task(session, visit.address)
    job_name = visit.text("job")
    said = (
        cancelling.cancel_one(facts, job_name, visit.viewer) if job_name else cancelling.cancel_run(facts, visit.viewer)
    )
    return visit.redirect(run_path(visit.address) + f"&said={said}")


ROUTES = [
    Route("/run", show, reads_answers),
    Route("/run/cancel", cancel, changes_task, "POST", threads="changes"),  # Google is asked
]
