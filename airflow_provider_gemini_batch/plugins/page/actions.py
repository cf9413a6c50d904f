# SPDX-License-Identifier: Apache-2.0
"""What the tasks of a DAG run ask a person: Airflow's required actions (3.1 and later)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass(frozen=True)
class Action:
    """
    A question.

    :param address: The task that asks.
    :param answer: What was chosen; empty as long as nobody has.
    :param by: Who chose it.
    """

    address: TaskAddress
    subject: str
    answer: str = ""
    by: str = ""


def actions_of(session: Session, address: TaskAddress) -> list[Action]:
    """Return what tasks in the same DAG run ask, or have asked."""
    try:
        from airflow.models.hitl import HITLDetail  # noqa: TID251  (the API server has them)
    except ImportError:  # before 3.1
        return []
    from airflow.models.taskinstance import TaskInstance  # noqa: TID251
    from sqlalchemy import select

    index = TaskInstance.map_index if hasattr(TaskInstance, "map_index") else TaskInstance.region_index
    query = (
        select(TaskInstance.task_id, index, HITLDetail)
        .join(TaskInstance, TaskInstance.id == HITLDetail.ti_id)
        .where(TaskInstance.dag_id == address.dag_id, TaskInstance.run_id == address.run_id)
        .order_by(TaskInstance.task_id, index)
        .limit(20)
    )
    return [_action(address, str(task_id), int(number), asked) for task_id, number, asked in session.execute(query)]


def _action(address: TaskAddress, task_id: str, map_index: int, asked: Any) -> Action:
    """Return a question; who answered it is kept in different ways by versions of Airflow."""
    chosen, person = asked.chosen_options, getattr(asked, "responded_by", None)
    return Action(
        TaskAddress(address.dag_id, address.run_id, task_id, map_index),
        str(asked.subject or ""),
        ", ".join(map(str, chosen)) if isinstance(chosen, list) else "",
        str(person.get("name") or "") if isinstance(person, dict) else "",
    )
