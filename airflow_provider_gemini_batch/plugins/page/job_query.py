# SPDX-License-Identifier: Apache-2.0
"""Which jobs of a copy a viewer sees, filtered, counted and paged; and what a clean-up would do. Pure."""

# A job of a DAG that the viewer may not read is hidden: it keeps its place, state and age, and loses its display name,
# owner, rows and cost before anything is searched or counted by them, so that no filter can tell what they are.

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.plugins.page.listed import ListedJob

PAGE = 50

GROUPS = {
    "queued": ("QUEUED", "PENDING"),
    "running": ("RUNNING", "PAUSED", "UPDATING", "CANCELLING", "UNKNOWN"),
    "succeeded": ("SUCCEEDED", "PARTIALLY_SUCCEEDED"),
    "failed": ("FAILED",),
    "expired": ("EXPIRED",),
    "cancelled": ("CANCELLED",),
}
"""States by the filter that shows them."""

_GROUP_OF = {state: name for name, states in GROUPS.items() for state in states}

AGES = {"2": 2 * 86400.0, "7": 7 * 86400.0, "30": 30 * 86400.0}
"""Seconds by the value of the filter for older jobs, in days."""


@dataclass(slots=True)
class SeenJob:
    """
    A job as the viewer may see it.

    :param hidden: Whether it belongs to a DAG that the viewer may not read.
    """

    job: ListedJob
    hidden: bool = False

    @property
    def group(self) -> str:
        """Key of :data:`GROUPS`."""
        return _GROUP_OF.get(self.job.state, "running")

    @property
    def has_owner(self) -> bool:
        """Whether a task of this Airflow is known for it."""
        return self.hidden or self.job.owner is not None

    @property
    def is_unread(self) -> bool:
        """Whether it has answers that no task has landed, as far as Airflow remembers."""
        return self.job.has_answers and not self.job.read

    @property
    def words(self) -> str:
        """What a search looks into, in lower case."""
        owner = self.job.owner
        parts = [self.job.name, self.job.display_name, self.job.model]
        parts += [owner.dag_id, owner.run_id, owner.task_id] if owner is not None and not self.hidden else []
        return "\n".join(parts).lower()


@dataclass(frozen=True)
class Filters:
    """
    What is asked for.

    :param state: Key of :data:`GROUPS`, ``no-owner``, ``unread``, or empty for all.
    :param older: Key of :data:`AGES`, or empty.
    """

    state: str = ""
    search: str = ""
    dag: str = ""
    model: str = ""
    older: str = ""

    def but(self, **changes: str) -> dict[str, str]:
        """Return the filters as parameters of an address, some of them changed."""
        return {**self.__dict__, **changes}


@dataclass(frozen=True)
class Result:
    """
    What is shown.

    :param jobs: One page of them.
    :param counts: How many jobs each state filter would show, the others being as they are.
    """

    jobs: Sequence[SeenJob]
    found: int
    page: int
    pages: int
    counts: Counter[str]
    dags: Sequence[str]
    models: Sequence[str]


def seen(jobs: Iterable[ListedJob], readable: Callable[[Iterable[str]], set[str]]) -> list[SeenJob]:
    """
    Hide what the viewer may not read.

    :param readable: Returns those of some DAGs that the viewer may read.
    """
    jobs = list(jobs)
    # One question for all DAGs of a list: Airflow's auth manager may ask a service for each.
    allowed = readable({job.owner.dag_id for job in jobs if job.owner is not None})
    return [
        SeenJob(job)
        if job.owner is None or job.owner.dag_id in allowed
        else SeenJob(
            replace(job, display_name="", owner=None, cost=None, total=None, succeeded=None, failed=None, file=""), True
        )
        for job in jobs
    ]


def query(jobs: Sequence[SeenJob], filters: Filters, page: int, now: float) -> Result:
    """Filter, count, sort and page jobs: those under way first, then unread ones, then the youngest."""
    words = filters.search.lower().split()
    narrowed = bool(words or filters.dag or filters.model or filters.older)
    rest = [job for job in jobs if _fits(job, filters, words, now)] if narrowed else jobs
    # Counted over what the other filters leave, so that a filter shows how many jobs a click on it would bring.
    by_state = Counter(job.job.state for job in rest)
    counts: Counter[str] = Counter()
    for state, count in by_state.items():
        counts[_GROUP_OF.get(state, "running")] += count
    counts["no-owner"] = sum(not job.has_owner for job in rest)
    counts["unread"] = sum(job.is_unread and job.has_owner for job in rest)
    counts[""] = len(rest)
    chosen = sorted((job for job in rest if in_state(job, filters.state)) if filters.state else rest, key=_order)
    pages = max(1, -(-len(chosen) // PAGE))
    page = min(max(1, page), pages)
    return Result(
        chosen[(page - 1) * PAGE : page * PAGE],
        len(chosen),
        page,
        pages,
        counts,
        sorted({job.job.owner.dag_id for job in jobs if job.job.owner is not None})[:500],
        sorted({job.job.model for job in jobs if job.job.model})[:100],
    )


def in_state(job: SeenJob, state: str) -> bool:
    """Say whether a job is shown by a state filter."""
    if not state:
        return True
    if state == "no-owner":
        return not job.has_owner
    if state == "unread":
        return job.is_unread and job.has_owner
    return job.group == state


def _fits(job: SeenJob, filters: Filters, words: Sequence[str], now: float) -> bool:
    if filters.dag and (job.job.owner is None or job.job.owner.dag_id != filters.dag):
        return False
    if filters.model and job.job.model != filters.model:
        return False
    age = AGES.get(filters.older)
    if age is not None and (job.job.created is None or now - job.job.created < age):
        return False
    return not words or all(word in job.words for word in words)


def _order(job: SeenJob) -> tuple[int, float]:
    # What can still be lost stands first: jobs that run and bill, then answers that nobody has landed.
    kind = 0 if not job.job.is_over else 1 if job.is_unread and job.has_owner else 2
    return kind, -(job.job.created or 0.0)


# --- cleaning up ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CleanUp:
    """
    What a clean-up would do.

    :param delete: Names of jobs to delete.
    :param lines: What happens to how many jobs and why: ``deleted`` or ``stays``, count, reason.
    """

    delete: Sequence[str] = ()
    lines: Sequence[tuple[str, int, str]] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """What tells this plan from another one: a form that carries it cannot do anything else."""
        return hashlib.sha256("\n".join(sorted(self.delete)).encode()).hexdigest()[:32]


def clean_up(
    jobs: Sequence[SeenJob], days: int, now: float, *, may_dag: Callable[[str], bool], may_connection: bool
) -> CleanUp:
    """
    Plan to delete the jobs that ended more than *days* ago. Running jobs and unread answers always stay.

    :param may_dag: Says whether the viewer may change tasks of a DAG.
    :param may_connection: Whether the viewer may change the connection, as jobs without an owner need.
    """
    delete, counts = [], Counter[tuple[str, str]]()
    for one in jobs:
        why = _why_it_stays(one, days, now, may_dag, may_connection)
        if why:
            counts["stays", why] += 1
            continue
        delete.append(one.job.name)
        what = "no owner" if one.job.owner is None else "its answers were read" if one.job.has_answers else "no answers"
        counts["deleted", f"ended more than {days} days ago, {what}"] += 1
    order = sorted(counts.items(), key=lambda entry: (entry[0][0], -entry[1]))
    return CleanUp(delete, [(kind, count, why) for (kind, why), count in order])


def _why_it_stays(one: SeenJob, days: int, now: float, may_dag: Callable[[str], bool], may_connection: bool) -> str:
    job = one.job
    # The order is that of reasons a person can act on; the first that holds is told.
    if one.hidden:
        return "belongs to a DAG that you may not read"
    if not job.is_over:
        return "has not ended"
    ended = job.ended or job.created
    if ended is None or now - ended < days * 86400:
        return f"ended less than {days} days ago"
    if job.owner is not None and one.is_unread:
        return "ended, but its answers were not read, as far as Airflow remembers"
    if job.owner is not None and not may_dag(job.owner.dag_id):
        return "belongs to a DAG that you may not edit"
    if job.owner is None and not may_connection:
        return "has no owner, and you may not edit the connection"
    return ""
