# SPDX-License-Identifier: Apache-2.0
"""Whether a manifest is its task's own."""

# The page reads the file that a manifest names, with the rights of the API server. The manifest is an XCom, and Airflow
# lets people write XComs: who may edit one DAG could so read the answers of another, or any file of rows on the server.
# A place is read if one of these speaks for it, in this order:
#
# 1. The task's own rendered arguments name it, also the place of its sample. No person can write them. Airflow keeps
#    those of the last 30 runs of a task.
# 2. The XCom is from before the task's end, and no person has written it. A task pushes its manifest while it runs.
#    What a person writes after that has a later time, which nobody chooses, and which stays as long as the XCom does,
#    whatever `airflow db clean` takes. What a person writes meanwhile is in Airflow's audit log.
#
# Worked example: eve may edit the DAG `mine`. A week after its run she sets `gemini_batch_manifest` of a task to
# `{"output_path": "/data/theirs.jsonl"}`. The arguments say `/data/mine.jsonl`; the XCom is a week younger than the
# task's end: nothing is read, and as long as the log has her `create_xcom_entry`, the page names her.
#
# An entry of the log is about the XCom that was written right after it. An older XCom was not written by that request:
# Airflow refused it, or the task has pushed another one since. The run's id is not compared: a parameter of the request
# can make the log name another.

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.plugins.page.errors import PageError
from airflow_provider_gemini_batch.task.xcom_keys import MANIFEST_KEY

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_provider_gemini_batch.plugins.page.task_facts import TaskFacts

PLACES = ("output_path", "output_uri")
"""Arguments of our operators that say where answers are landed."""

SKEW = timedelta(minutes=2)
"""How far the clock of a worker, which tells the end, may be behind that of the API server."""

REQUEST = timedelta(minutes=10)
"""How long Airflow may take to write an XCom after it has logged the request."""

_OVER = ("success", "failed", "skipped", "upstream_failed", "removed")


def check_place(session: Session, facts: TaskFacts, place: str) -> None:
    """
    Accept a place that answers are to be read from.

    :param place: As the manifest has it.
    :raises PageError: With status 403, if a person may have written it.
    """
    if place.rstrip("/") in _named(facts):
        return
    pushed = _pushed(session, facts)
    if pushed is None:
        return
    writer = _written_by(session, facts, pushed)
    is_late = facts.state in _OVER and facts.ended is not None and pushed.timestamp() > facts.ended + SKEW.seconds
    if writer is not None or is_late:
        raise PageError(
            403,
            "These answers are not read",
            f"The XCom {MANIFEST_KEY} of this task, which says where they are, was written by hand "
            f"({writer or 'after the task had ended'}, {pushed:%Y-%m-%d %H:%M} UTC). It names {place}, which the "
            "task's arguments do not. Clear the task to have it land its answers again.",
            kind="locked",
        )


def _named(facts: TaskFacts) -> set[str]:
    """Return the places that the task's arguments name, as a manifest tells them."""
    from airflow_provider_gemini_batch.files.paths import normalise_path
    from airflow_provider_gemini_batch.run.outputs import sample_place

    found: set[str] = set()
    for name in PLACES:
        given: Any = facts.arguments.get(name)
        given = given.get("path") if isinstance(given, dict) else given  # so Airflow stores an ObjectStoragePath
        try:
            place = normalise_path(given).rstrip("/") if isinstance(given, str) else ""
        except GeminiBatchError:  # a text that is no path
            continue
        if place:
            found |= {given.rstrip("/"), place, sample_place(place)}
    return found


def _pushed(session: Session, facts: TaskFacts) -> datetime | None:
    """Return when the manifest was written; None if it is there no longer."""
    from sqlalchemy import select

    from airflow_provider_gemini_batch.plugins.page.task_facts import of_task, xcom_model

    model = xcom_model()
    query = select(model.timestamp).where(*of_task(model, facts.address), model.key == MANIFEST_KEY)
    found: datetime | None = session.scalars(query.limit(1)).first()
    return found


def _written_by(session: Session, facts: TaskFacts, pushed: datetime) -> str | None:
    """Return who wrote the manifest through Airflow's API; None if the log knows of nobody."""
    from airflow.models.log import Log  # noqa: TID251  (the API server has them)
    from sqlalchemy import and_, or_, select

    query = (
        select(Log.owner)
        .where(
            Log.dag_id == facts.address.dag_id,
            Log.task_id == facts.address.task_id,
            Log.dttm.between(pushed - REQUEST, pushed),
            # Which key was created stands in the body, and not every body is logged: any may be this one.
            or_(
                Log.event == "create_xcom_entry",
                and_(Log.event == "update_xcom_entry", Log.extra.contains(MANIFEST_KEY, autoescape=True)),
            ),
        )
        .order_by(Log.dttm.desc())
        .limit(1)
    )
    found = session.scalars(query).first()
    return None if found is None else str(found)
