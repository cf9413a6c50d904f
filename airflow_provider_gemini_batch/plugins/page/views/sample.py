# SPDX-License-Identifier: Apache-2.0
"""What a sample says of the whole: its cost, what may fail, and who decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.plugins.page.actions import actions_of
from airflow_provider_gemini_batch.plugins.page.errors import NotHere
from airflow_provider_gemini_batch.plugins.page.needs import reads_answers
from airflow_provider_gemini_batch.plugins.page.reasons import reasons_in
from airflow_provider_gemini_batch.plugins.page.sample_model import sample_of
from airflow_provider_gemini_batch.plugins.page.task_facts import read_task
from airflow_provider_gemini_batch.plugins.page.visit import Route, Visit

if TYPE_CHECKING:
    from starlette.responses import Response


def show(visit: Visit) -> Response:
    """Show the projection of a run with ``sample``."""
    with visit.session() as session:
        facts = read_task(session, visit.address, past=False)
        view = sample_of(facts.manifest, facts.progress)
        if view is None:
            raise NotHere("No sample", "This task has asked no sample, or has not ended: see its argument sample.")
        actions = actions_of(session, visit.address)
    # Asked only where there are some: Airflow before 3.1 has neither them nor a permission for them.
    may_see = not actions or visit.viewer.may_dag("GET", visit.address.dag_id, "HITL_DETAIL")
    return visit.page(
        "sample.html",
        address=visit.address,
        facts=facts,
        view=view,
        reasons=reasons_in(facts.manifest),
        may_see=may_see,
        waiting=[action for action in actions if may_see and not action.answer],
        answered=[action for action in actions if may_see and action.answer],
    )


ROUTES = [Route("/sample", show, reads_answers)]
