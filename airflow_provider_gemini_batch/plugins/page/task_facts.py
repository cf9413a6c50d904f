# SPDX-License-Identifier: Apache-2.0
"""
What Airflow's database knows of a task of ours: its state, our XComs, what its trigger watches, rendered arguments.
"""

# Nothing is asked of Google. XComs are read through the installation's own backend, wherever that keeps the values.

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.plugins.page.attempts import attempts_of
from airflow_provider_gemini_batch.plugins.page.errors import NotHere
from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress
from airflow_provider_gemini_batch.plugins.watched import TRIGGERS, job_names_in
from airflow_provider_gemini_batch.task.xcom_keys import MANIFEST_KEY, OUR_KEYS, PROGRESS_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_provider_gemini_batch.plugins.page.attempts import Attempt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskFacts:
    """
    A task instance as the database has it. Moments are UTC epoch seconds.

    :param state: Airflow's word, e.g. ``deferred``; empty before the task is scheduled.
    :param operator: Name of the operator's class.
    :param xcoms: Our XComs by key (:data:`~.keys.OUR_KEYS`).
    :param unreadable: Keys of XComs whose value could not be read.
    :param watched: Arguments of the trigger it waits in; empty if it does not.
    :param arguments: Rendered template fields, as far as Airflow keeps them.
    :param noted: What the task state store holds (3.3 and later).
    :param attempts: Of Airflow, the last one last.
    """

    address: TaskAddress
    state: str = ""
    operator: str = ""
    try_number: int = 0
    started: float | None = None
    ended: float | None = None
    xcoms: Mapping[str, Any] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
    watched: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    noted: Mapping[str, Any] = field(default_factory=dict)
    attempts: Sequence[Attempt] = ()

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What the task left when it ended; empty before."""
        found = self.xcoms.get(MANIFEST_KEY)
        return found if isinstance(found, dict) else {}

    @property
    def progress(self) -> Mapping[str, Any]:
        """How far a run was when its worker last looked; empty for other tasks."""
        found = self.xcoms.get(PROGRESS_KEY)
        return found if isinstance(found, dict) else {}

    @property
    def is_plan(self) -> bool:
        """Whether the task only planned (``dry_run``): it asked nothing, and no row waits for an answer."""
        return "rows_to_ask" in self.manifest

    @property
    def conn_id(self) -> str | None:
        """The connection of its jobs, where that is known."""
        # The trigger first: it is what the task waits with now.
        for place in (self.watched, self.arguments):
            found = place.get("gemini_batch_conn_id")
            if isinstance(found, str) and found:
                return found
        return None

    @property
    def job_names(self) -> list[str]:
        """Names of its jobs, those it waits for first."""
        # Whatever is stored may be of another version or written by hand, so each name is looked at before it is used.
        names: list[Any] = [*job_names_in(self.watched)]
        names += [job.get("job", "") for job in self.progress.get("jobs") or () if isinstance(job, dict)]
        names += [self.noted.get("job"), self.xcoms.get("job_name"), self.manifest.get("job_name")]
        jobs = self.manifest.get("jobs")
        names += jobs if isinstance(jobs, list) else []  # a plan's is their count
        return list(dict.fromkeys(name for name in names if isinstance(name, str) and name))


def read_task(session: Session, address: TaskAddress, *, past: bool = True) -> TaskFacts:
    """
    Read what is known of a task instance.

    :param past: Whether its earlier attempts, and what its state store holds, are looked up, too: two queries more,
        which its answers do without.
    :raises NotHere: If there is no such task instance.
    """
    found = session.scalars(instance_query(address).limit(1)).first()
    if found is None:
        raise _not_here(address, _indexes(session, address))
    xcoms, unreadable = read_xcoms(session, address, OUR_KEYS)
    return TaskFacts(
        address,
        state="" if found.state is None else str(getattr(found.state, "value", found.state)),
        operator=str(found.custom_operator_name or found.operator or ""),
        try_number=int(found.try_number or 0),
        started=moment(found.start_date),
        ended=moment(found.end_date),
        xcoms=xcoms,
        unreadable=unreadable,
        watched=_watched(found),
        arguments=_arguments(session, address, found.id),
        noted=_noted(session, address) if past else {},
        attempts=attempts_of(session, found) if past else (),
    )


def instance_query(address: TaskAddress) -> Any:
    """Return the query for a task instance as it is now."""
    from airflow.models.taskinstance import TaskInstance  # noqa: TID251  (the API server has them)
    from sqlalchemy import select

    query = select(TaskInstance).where(*of_task(TaskInstance, address))
    if hasattr(TaskInstance, "working_set"):  # Airflow 3.4 keeps the rows of earlier tries beside it
        query = query.where(TaskInstance.working_set.is_(True))
    return query


def _not_here(address: TaskAddress, indexes: list[int]) -> NotHere:
    """
    Say why there is no such task instance.

    :param indexes: Under which the task has run. Those of an unmapped task in a loop (Airflow 3.4) are its passes.
    """
    if not indexes:
        return NotHere(
            "This task has not run",
            f"The run {address.run_id} of the DAG {address.dag_id} has no task {address.task_id}: it has not begun, or "
            "was deleted.",
        )
    some = ", ".join(map(str, indexes[:20])) + (" ..." if len(indexes) > 20 else "")
    return NotHere(
        "This task runs more than once in its run",
        f"The run {address.run_id} of the DAG {address.dag_id} has {address.task_id} with the indexes {some}, and the "
        "address names none of them. Open the page from one of the mapped task's instances. Passes of a loop are not "
        "told apart: All jobs shows theirs.",
    )


def map_indexes(session: Session, address: TaskAddress) -> list[int]:
    """Return the map indexes of a mapped task in its run, at most a thousand; empty for one that is not mapped."""
    return [] if address.map_index < 0 else _indexes(session, address)


def _indexes(session: Session, address: TaskAddress) -> list[int]:
    from airflow.models.taskinstance import TaskInstance  # noqa: TID251  (the API server has them)
    from sqlalchemy import select

    model: Any = TaskInstance
    index = getattr(model, _index_of(model))
    query = select(index).where(*of_task(model, address)[:3], index >= 0).distinct().order_by(index).limit(1000)
    return [int(found) for found in session.scalars(query)]


def read_xcoms(session: Session, address: TaskAddress, keys: Sequence[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """
    Read XComs of a task instance.

    :return: Values by key, and the keys whose value could not be read.
    """
    from sqlalchemy import select

    model = xcom_model()
    query = select(model).where(*of_task(model, address), model.key.in_(list(keys)))
    values: dict[str, Any] = {}
    unreadable = []
    for row in session.scalars(query):
        try:
            values[row.key] = value_of(row)
        except Exception as error:  # a backend's storage may be gone, or refuse this server
            log.warning("The XCom %s of %s could not be read: %s", row.key, address, type(error).__name__)
            unreadable.append(row.key)
    return values, tuple(unreadable)


def stored(
    session: Session, keys: Collection[str], since: datetime, *, limit: int | None = None
) -> Iterator[tuple[Any, Any]]:
    """
    Yield the XComs of any task that were written under *keys*, as :func:`readable` does.

    :param since: Older ones are left out.
    :param limit: So many rows are read at most.
    """
    from sqlalchemy import select

    model = xcom_model()
    yield from readable(session, select(model).where(model.key.in_(keys), model.timestamp >= since).limit(limit))


def readable(session: Session, query: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the XComs that a query finds, each row with its value; one whose value cannot be read is passed over."""
    read = _value_reader()
    # A month of XComs may be a hundred thousand rows: never all of them at once.
    for row in session.scalars(query.execution_options(yield_per=500)):
        try:
            value = read(row)
        except Exception as error:  # a backend's storage may be gone
            log.debug("The XCom %s could not be read: %s", row.key, type(error).__name__)
            continue
        yield row, value


def value_of(row: Any) -> Any:
    """Return the value of an XCom's row through the installation's XCom backend, as plain JSON where it is ours."""
    return _value_reader()(row)


def _value_reader() -> Callable[[Any], Any]:
    """Look the installation's XCom backend up; return what reads a row's value by it."""
    from airflow.sdk.bases.xcom import BaseXCom
    from airflow.sdk.execution_time.xcom import resolve_xcom_backend

    backend: Any = resolve_xcom_backend()  # type: ignore[no-untyped-call]
    if backend.deserialize_value == BaseXCom.deserialize_value:
        # Ours are plain JSON: nothing that a task wrote is made into an object here.
        return lambda row: _plain(row.value)
    read: Callable[[Any], Any] = backend.deserialize_value
    return read


def _plain(value: Any) -> Any:
    import json

    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:  # a text that a worker pushed: SQLAlchemy has decoded it, as Airflow's own reader says
        return value


def xcom_model() -> Any:
    """Return Airflow's model of XComs."""
    from airflow.models.xcom import XComModel  # noqa: TID251  (the API server has them)

    return XComModel


def moment(value: datetime | None) -> float | None:
    """Return a moment of Airflow's database as UTC epoch seconds."""
    return None if value is None else value.timestamp()


def of_task(model: Any, address: TaskAddress) -> list[Any]:
    """Return the conditions by which a model's row belongs to a task instance."""
    return [
        model.dag_id == address.dag_id,
        model.run_id == address.run_id,
        model.task_id == address.task_id,
        getattr(model, _index_of(model)) == address.map_index,
    ]


def address_of(row: Any) -> TaskAddress:
    """Return the task instance that an XCom is of."""
    return TaskAddress(row.dag_id, row.run_id, row.task_id, getattr(row, _index_of(type(row))))


def _index_of(model: Any) -> str:
    """Return the column of the map index, which is called region_index in some tables of Airflow 3.4."""
    return "map_index" if hasattr(model, "map_index") else "region_index"


def _watched(found: Any) -> dict[str, Any]:
    # Other triggers have arguments of their own, perhaps secret ones, which are none of this page's business.
    if found.trigger_id is None or found.trigger is None or not found.trigger.classpath.startswith(TRIGGERS):
        return {}
    return dict(found.trigger.kwargs)


def _arguments(session: Session, address: TaskAddress, instance_id: Any) -> dict[str, Any]:
    from airflow.models.renderedtifields import RenderedTaskInstanceFields  # noqa: TID251
    from sqlalchemy import select

    model: Any = RenderedTaskInstanceFields
    # Airflow 3.4 keeps them for each attempt, by the id of its task instance.
    by_id = hasattr(model, "task_instance_id")
    where = [model.task_instance_id == instance_id] if by_id else of_task(model, address)
    found = session.scalars(select(model.rendered_fields).where(*where).limit(1)).first()
    return dict(found) if isinstance(found, dict) else {}


def _noted(session: Session, address: TaskAddress) -> dict[str, Any]:
    import json

    try:
        from airflow.models.task_state_store import TaskStateStoreModel  # noqa: TID251
    except ImportError:  # before 3.3
        return {}
    from sqlalchemy import select

    model = TaskStateStoreModel
    query = select(model.value).where(*of_task(model, address), model.key == "gemini_batch_submission")
    found = session.scalars(query.limit(1)).first()
    try:
        noted = json.loads(found or "")
    except (TypeError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}
