# SPDX-License-Identifier: Apache-2.0
"""Whose job is this? From the mark in its name back to a DAG, a run and a task."""

# The mark is a hash (`make_task_id`), so it cannot be read backwards. Three things in Airflow's database lead there,
# and the first that does wins:
#
# 1. XComs `submission_token`: create operators leave the mark itself, whatever salt or loop went into it.
# 2. Task instances of our operators: their mark is computed anew, under this installation's name and its former ones.
# 3. Task instances whose DAG and task are in the job's display name, for operators that a user derived from ours.
#
# Example: `nightly.classify [airflow 6f2c1d....e83a....]` is found by 2 if a task instance of `nightly` hashes to
# `6f2c1d...`. A job of another installation hashes to none of ours, and counts as one without an owner here.

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.identity import make_task_id
from airflow_provider_gemini_batch.plugins.page.operator_names import CLASSES
from airflow_provider_gemini_batch.plugins.page.task_facts import address_of, readable, stored, xcom_model
from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress
from airflow_provider_gemini_batch.task.xcom_keys import MANIFEST_KEY, PROGRESS_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy.orm import Session

    from airflow_provider_gemini_batch.plugins.page.listed import ListedJob
    from airflow_provider_gemini_batch.plugins.page.task_facts import TaskFacts

BEFORE = 14 * 24 * 3600.0
"""Seconds before the oldest job at which its DAG run may have begun."""


def find_owners(jobs: Sequence[ListedJob]) -> None:
    """Set ``owner``, ``read`` and ``cost`` of jobs, as far as Airflow's database tells."""
    from airflow.utils.session import create_session

    created = [job.created for job in jobs if job.created is not None]
    since = datetime.fromtimestamp(max(0.0, min(created, default=0.0) - BEFORE), UTC)
    wanted = {job.token for job in jobs if job.token}
    with create_session() as session:
        if wanted:
            known = _by_token(session, since)
            _add_hashed(session, known, wanted, _instances(session, since))
            missing = {job.display_name for job in jobs if job.token and job.token not in known}
            _add_hashed(session, known, wanted, _named_instances(session, since, missing))
            for job in jobs:
                job.owner = known.get(job.token)
        read, costs = _landed(session, since)
    for job in jobs:
        # XComs can be written by people: what they say counts for jobs of their own DAG alone.
        known_to = (job.owner.dag_id if job.owner is not None else "", job.name)
        job.read, job.cost = known_to in read, costs.get(known_to)


def reader_of(session: Session, facts: TaskFacts) -> TaskAddress | None:
    """Return the task of the same run that landed the answers of a task's jobs; None if there is none, or several."""
    from sqlalchemy import select

    if facts.manifest or not facts.job_names:
        return None
    model = xcom_model()
    query = select(model).where(
        model.dag_id == facts.address.dag_id, model.run_id == facts.address.run_id, model.key == MANIFEST_KEY
    )
    found = [
        address_of(row)
        for row, manifest in readable(session, query.limit(1000))
        if isinstance(manifest, dict) and manifest.get("job_name") in facts.job_names
    ]
    return found[0] if len(found) == 1 else None


def _by_token(session: Session, since: datetime) -> dict[str, TaskAddress]:
    return {
        str(token).partition(".")[0]: address_of(row) for row, token in stored(session, ["submission_token"], since)
    }


def _instances(session: Session, since: datetime) -> Iterator[TaskAddress]:
    from airflow.models.dagrun import DagRun  # noqa: TID251  (the API server has them)
    from airflow.models.taskinstance import TaskInstance  # noqa: TID251
    from sqlalchemy import or_, select

    ti = TaskInstance
    query = (
        select(ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
        .join(DagRun, (DagRun.dag_id == ti.dag_id) & (DagRun.run_id == ti.run_id))
        .where(or_(ti.operator.in_(CLASSES), ti.custom_operator_name.in_(CLASSES)), _began(DagRun, since))
    )
    for row in session.execute(query.execution_options(yield_per=1000)):
        yield TaskAddress(*row)


def _named_instances(session: Session, since: datetime, names: Iterable[str]) -> Iterator[TaskAddress]:
    """Yield the task instances that a default display name, ``<dag_id>.<task_id>``, may mean."""
    from airflow.models.dagrun import DagRun  # noqa: TID251  (the API server has them)
    from airflow.models.taskinstance import TaskInstance  # noqa: TID251
    from sqlalchemy import select, tuple_

    pairs = {(name[:place], name[place + 1 :]) for name in names for place, letter in enumerate(name) if letter == "."}
    ti = TaskInstance
    ordered = sorted(pairs)[:2000]
    for start in range(0, len(ordered), 200):
        query = (
            select(ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
            .join(DagRun, (DagRun.dag_id == ti.dag_id) & (DagRun.run_id == ti.run_id))
            .where(tuple_(ti.dag_id, ti.task_id).in_(ordered[start : start + 200]), _began(DagRun, since))
        )
        for row in session.execute(query):
            yield TaskAddress(*row)


def _began(model: Any, since: datetime) -> Any:
    from sqlalchemy import or_

    return or_(model.start_date.is_(None), model.start_date >= since - timedelta(seconds=BEFORE))


def _add_hashed(
    session: Session, known: dict[str, TaskAddress], wanted: set[str], instances: Iterable[TaskAddress]
) -> None:
    names = installation_names(session)
    for address in instances:
        where = (address.dag_id, address.run_id, address.task_id, address.map_index)
        for name in names:
            token = make_task_id(name, *where)
            if token in wanted:
                known.setdefault(token, address)


def installation_names(session: Session) -> list[str]:
    """Return the names under which this Airflow marks jobs, the present one first; nothing is kept or changed."""
    from airflow.models.variable import Variable  # noqa: TID251  (the API server has them)
    from sqlalchemy import select

    from airflow_provider_gemini_batch.compat import conf
    from airflow_provider_gemini_batch.task.installation import VARIABLE, names_in

    namespace = str(conf.get("gemini_batch", "namespace", fallback="") or "")
    found = session.scalars(select(Variable).where(Variable.key == VARIABLE)).first()
    return names_in(namespace, None if found is None else found.get_val())  # type: ignore[no-untyped-call]


def _landed(session: Session, since: datetime) -> tuple[set[tuple[str, str]], dict[tuple[str, str], float]]:
    """
    Return the jobs whose answers were landed, and what jobs cost, from manifests and progress of tasks.

    :return: Both by the DAG that says so and the job's name.
    """
    read: set[tuple[str, str]] = set()
    costs: dict[tuple[str, str], float] = {}
    for row, value in stored(session, [MANIFEST_KEY, PROGRESS_KEY], since):
        if isinstance(value, dict):
            names: set[str] = set()
            dollars: dict[str, float] = {}
            _take(value, names, dollars)
            read |= {(row.dag_id, name) for name in names}
            costs |= {(row.dag_id, name): cost for name, cost in dollars.items()}
    return read, costs


def _take(value: Mapping[str, Any], read: set[str], costs: dict[str, float]) -> None:
    for job in value.get("jobs") or () if isinstance(value.get("jobs"), list) else ():
        if isinstance(job, str):  # a run's manifest names the jobs that it has read
            read.add(job)
        elif isinstance(job, dict) and isinstance(job.get("counts"), dict):
            read.add(str(job.get("job")))
            if isinstance(job.get("cost"), (int, float)):
                costs[str(job.get("job"))] = float(job["cost"])
    if value.get("output_path") and isinstance(value.get("job_name"), str):
        read.add(value["job_name"])
        cost = value.get("cost")
        actual = cost.get("actual") if isinstance(cost, dict) else None
        if isinstance(actual, (int, float)):
            costs[value["job_name"]] = float(actual)
