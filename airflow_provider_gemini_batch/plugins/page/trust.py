# SPDX-License-Identifier: Apache-2.0
"""
Whether a manifest is its task's own.

The page reads the file that a manifest names, with the rights of the API server. The manifest is an XCom, and Airflow
lets people write XComs: who may edit one DAG could so read the answers of another, or any file of rows on the server.
What a person writes is in Airflow's audit log; what a task pushes is not. So a place is read if the task's own rendered
arguments name it, which no person can write, or if nobody has written the manifest of such a task by hand.

Worked example: *eve* may edit the DAG ``mine``. She sets ``gemini_batch_manifest`` of one of its tasks to
``{"output_path": "/data/theirs.jsonl"}``. The log holds ``create_xcom_entry`` of hers with that key, and the arguments
of the task say ``/data/mine.jsonl``: the page names her and reads nothing.

The run's id is not compared: a parameter of the request can make the log name another. An attempt that Airflow refused
is in the log, too; the arguments then still speak for the task, as long as Airflow keeps them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.plugins.page.errors import PageError
from airflow_provider_gemini_batch.task.xcom_keys import MANIFEST_KEY

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_provider_gemini_batch.plugins.page.task_facts import TaskFacts

PLACES = ("output_path", "output_uri")
"""Arguments of our operators that say where answers are landed."""


def check_place(session: Session, facts: TaskFacts, place: str) -> None:
    """
    Accept a place that answers are to be read from.

    :param place: As the manifest has it.
    :raises PageError: With status 403, if a person may have written it.
    """
    named = [facts.arguments.get(name) for name in PLACES]  # Airflow stores an ObjectStoragePath as an object
    if place in [one.get("path") if isinstance(one, dict) else one for one in named]:
        return
    written = _written_by(session, facts)
    if written is not None:
        owner, when = written
        raise PageError(
            403,
            "These answers are not read",
            f"The XCom {MANIFEST_KEY} of this task, which says where they are, was written by hand ({owner}, "
            f"{when}). It names {place}, which the task's arguments do not. Clear the task to have "
            "it land its answers again.",
            kind="locked",
        )


def _written_by(session: Session, facts: TaskFacts) -> tuple[str, str] | None:
    """Return who last wrote the manifest of such a task through Airflow's API, and when."""
    from airflow.models.log import Log  # noqa: TID251  (the API server has them)
    from sqlalchemy import and_, or_, select

    query = (
        select(Log.owner, Log.dttm)
        .where(
            Log.dag_id == facts.address.dag_id,
            Log.task_id == facts.address.task_id,
            # Which key was created stands in the body, and not every body is logged: any may be this one.
            or_(
                Log.event == "create_xcom_entry",
                and_(Log.event == "update_xcom_entry", Log.extra.contains(MANIFEST_KEY, autoescape=True)),
            ),
        )
        .order_by(Log.dttm.desc())
        .limit(1)
    )
    found = session.execute(query).first()
    if found is None:
        return None
    owner, when = found
    return str(owner), "at an unknown time" if when is None else f"{when:%Y-%m-%d %H:%M} UTC"
