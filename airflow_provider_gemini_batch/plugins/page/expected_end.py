# SPDX-License-Identifier: Apache-2.0
"""When may the jobs that are under way have ended? Judged by earlier jobs of the same model."""

# The service tells no end and no position in its queue. What is known is how long jobs took from their submission to
# their end: those of this run, of the task's last runs, and of the copy of the connection's list, if there is one. Of
# ten jobs that took 30 to 50 minutes and one that took a day, the range is 30 to 50 minutes: the shortest and the
# longest tenth are left out. A job of 20 minutes is then expected in 10 to 30.

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.plugins.page.values import text_of
from airflow_provider_gemini_batch.task.xcom_keys import PROGRESS_KEY
from airflow_provider_gemini_batch.times import epoch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy.orm import Session

    from airflow_provider_gemini_batch.plugins.page.listed import ListedJob
    from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress

FEWEST = 3
"""Earlier jobs by which an end is judged; fewer say nothing."""

RUNS = 5
"""Earlier runs of the task that are looked at: up to 50 jobs each."""

LONGEST = 14 * 86400.0
"""Seconds that a job can take: what is longer is a mistake in the record."""


@dataclass(frozen=True)
class Expected:
    """
    When the last of some jobs may have ended.

    :param soonest: UTC epoch seconds, as is *latest*.
    :param count: Earlier jobs by which this is judged.
    :param low: Seconds that the shortest of them took, but for a tenth; *middle* the half of them; *high* the longest.
    :param is_late: Whether a job runs longer than *high*.
    """

    soonest: float
    latest: float
    count: int
    low: float
    middle: float
    high: float
    is_late: bool = False


def expect(under_way: Sequence[float | None], earlier: Iterable[float], now: float) -> Expected | None:
    """
    Return when all jobs that are under way may have ended; None where too little is known.

    :param under_way: Seconds since each was submitted; None where that is not known.
    :param earlier: Seconds that earlier jobs took.
    """
    took, ages = sorted(earlier), [age for age in under_way if age is not None]
    if len(took) < FEWEST or not ages or len(ages) < len(under_way):
        return None
    last = len(took) - 1
    # Of fewer than ten, the tenth is none: all of them count.
    low, high = (took[0], took[-1]) if last < 9 else (took[ceil(last * 0.1)], took[int(last * 0.9)])
    youngest, oldest = min(ages), max(ages)
    soonest, latest = now + max(0.0, low - youngest), now + max(0.0, high - youngest)
    return Expected(soonest, latest, len(took), low, took[len(took) // 2], high, oldest > high)


def durations_in(progress: Mapping[str, Any], model: str) -> list[float]:
    """Return the seconds that jobs of a model took, as far as a run's progress tells of jobs that succeeded."""
    jobs = progress.get("jobs")
    if _short(progress.get("model")) != _short(model) or not isinstance(jobs, list):
        return []
    moments = [
        (epoch(text_of(job.get("created"))), epoch(text_of(job.get("ended"))))
        for job in jobs
        if isinstance(job, dict) and job.get("state") == "SUCCEEDED"
    ]
    return _between(moments)


def durations_of(jobs: Iterable[ListedJob], model: str) -> list[float]:
    """Return the seconds that jobs of a model took, of a connection's list."""
    return _between([(job.created, job.ended) for job in jobs if job.has_answers and job.model == _short(model)])


def earlier_runs(session: Session, address: TaskAddress) -> list[dict[str, Any]]:
    """Return the progress of the task's last runs, without the one at *address*."""
    from sqlalchemy import select

    from airflow_provider_gemini_batch.plugins.page.task_facts import of_task, readable, xcom_model

    model = xcom_model()
    dag, _, task, index = of_task(model, address)
    query = select(model).where(dag, task, index, model.key == PROGRESS_KEY, model.run_id != address.run_id)
    # An earlier run's value may be gone: nothing is missed but a better guess.
    found = readable(session, query.order_by(model.timestamp.desc()).limit(RUNS))
    return [value for _, value in found if isinstance(value, dict)]


def _between(moments: Iterable[tuple[float | None, float | None]]) -> list[float]:
    took = [ended - created for created, ended in moments if created is not None and ended is not None]
    return [seconds for seconds in took if 0 < seconds < LONGEST]


def _short(model: Any) -> str:
    return str(model or "").rpartition("/")[2]
