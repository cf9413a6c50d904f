# SPDX-License-Identifier: Apache-2.0
"""The attempts of a task, as Airflow remembers them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session


@dataclass(frozen=True)
class Attempt:
    """
    One attempt. Moments are UTC epoch seconds.

    :param state: Airflow's word; empty while it is under way.
    """

    number: int
    state: str = ""
    started: float | None = None
    ended: float | None = None


_ENDED = ("success", "failed", "skipped", "up_for_retry", "upstream_failed", "removed")


def attempts_of(session: Session, found: Any) -> list[Attempt]:
    """
    Return the attempts of a task instance, the last one last.

    :param found: Its row, as it is now.
    """
    from sqlalchemy import select

    model = _history()
    index = "map_index" if hasattr(model, "map_index") else "region_index"
    where = [getattr(model, name) == getattr(found, name) for name in ("dag_id", "run_id", "task_id", index)]
    query = select(model).where(*where, model.try_number < found.try_number).order_by(model.try_number).limit(200)
    if hasattr(model, "working_set"):
        query = query.where(model.working_set.is_(False))
    earlier = [attempt_of(row) for row in session.scalars(query)]
    return [*earlier, attempt_of(found)] if found.start_date is not None else earlier


def attempt_of(row: Any) -> Attempt:
    """Return an attempt as its row has it."""
    state = "" if row.state is None else str(getattr(row.state, "value", row.state))
    is_over = state in _ENDED
    return Attempt(
        int(row.try_number or 0),
        state if is_over else "",
        _epoch(row.start_date),
        _epoch(row.end_date) if is_over else None,
    )


def _history() -> Any:
    """Return Airflow's model of earlier attempts: a table of their own before 3.4."""
    try:
        from airflow.models.taskinstancehistory import TaskInstanceHistory  # noqa: TID251
    except ImportError:
        from airflow.models.taskinstance import TaskInstance  # noqa: TID251

        return TaskInstance
    return TaskInstanceHistory


def _epoch(value: datetime | None) -> float | None:
    return None if value is None else value.timestamp()
