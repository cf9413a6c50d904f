# SPDX-License-Identifier: Apache-2.0
"""What the API server does when a person marks a deferred task; ``make crash`` marks some in a real Airflow."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.operators import CreateBatchOperator
from airflow_provider_gemini_batch.plugins import listener as plugin
from airflow_provider_gemini_batch.triggers.batch_job import BatchJobTrigger
from airflow_provider_gemini_batch.triggers.pause import PauseTrigger
from tests.support.airflow_side import TaskInstance, attempt, rows, set_connection

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle


@pytest.fixture(params=["gemini", "vertex_ai"])
def emulator(
    gemini_batch_emulator: EmulatorHandle, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, mocker: Any
) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection(request.param))
    mocker.patch.object(plugin, "GRACE", 0.0)
    gemini_batch_emulator.script(stuck="RUNNING", pending_seconds=0)
    return gemini_batch_emulator


@pytest.fixture
def job_name(emulator: EmulatorHandle) -> str:
    """Return the name of a job that runs."""
    operator = CreateBatchOperator(task_id="create", model="gemini-3.5-flash-lite", inlined_requests=rows(2))
    return str(operator.execute(attempt()))


def deferred(trigger: BaseTrigger) -> SimpleNamespace:
    """Return a task instance as the API server has it."""
    classpath, kwargs = trigger.serialize()
    return SimpleNamespace(
        id="a-try", dag_id="nightly", task_id="create", run_id="manual__1", map_index=-1, trigger_id=1,
        trigger=SimpleNamespace(classpath=classpath, kwargs=kwargs),
    )  # fmt: skip


def mark(task_instance: Any, mocker: Any, state: str | None = "failed") -> None:
    """Tell the listeners, as Airflow does, and wait for what they do."""
    mocker.patch.object(plugin, "_state_of", return_value=state)
    plugin.on_task_instance_failed(task_instance)
    for thread in threading.enumerate():
        if thread.name == "gemini-batch-marked":
            thread.join(20)


def is_cancelled(emulator: EmulatorHandle) -> bool:
    [job] = emulator.state.all_jobs
    return job.cancelled is not None


def test_the_job_of_a_deferred_task_that_was_marked_is_cancelled(
    emulator: EmulatorHandle, job_name: str, mocker: Any
) -> None:
    mark(deferred(BatchJobTrigger(job_name)), mocker)
    assert is_cancelled(emulator)


@pytest.mark.parametrize("state", ["deferred", "queued", None])
def test_a_task_that_is_not_over_after_all_keeps_its_job(
    emulator: EmulatorHandle, job_name: str, mocker: Any, state: str | None
) -> None:
    """It was cleared right afterwards, or what marked it was rolled back."""
    mark(deferred(BatchJobTrigger(job_name)), mocker, state)
    assert not is_cancelled(emulator)


def test_cancel_on_kill_decides(emulator: EmulatorHandle, job_name: str, mocker: Any) -> None:
    mark(deferred(BatchJobTrigger(job_name, cancel_on_kill=False)), mocker)
    assert not is_cancelled(emulator)


def test_tasks_that_wait_for_no_job_are_none_of_our_business(mocker: Any) -> None:
    cancel = mocker.patch.object(plugin, "_cancel")
    mark(deferred(PauseTrigger(0.0)), mocker)
    mark(TaskInstance(), mocker)  # in a worker
    mark(SimpleNamespace(trigger_id=None, trigger=None), mocker)
    mark(SimpleNamespace(trigger_id=7, trigger=None), mocker)
    assert not cancel.called


def test_the_jobs_of_a_run_are_cancelled_one_by_one(emulator: EmulatorHandle, job_name: str, mocker: Any) -> None:
    watched = {"job_names": [job_name, ""], "gemini_batch_conn_id": "gemini_batch_default"}
    task = deferred(BatchJobTrigger(job_name))
    task.trigger = SimpleNamespace(classpath="airflow_provider_gemini_batch.triggers.batch_jobs.Any", kwargs=watched)
    mark(task, mocker)
    assert is_cancelled(emulator)


@pytest.mark.newest_airflow
@pytest.mark.parametrize("keeps_old_tries", [False, True], ids=["3.0 to 3.3", "3.4"])
def test_the_state_is_that_of_the_very_try_that_was_marked(mocker: Any, keeps_old_tries: bool) -> None:
    """In a loop each pass has the same Dag, run, task and map index; a clear replaces or archives the try."""
    import sqlalchemy as sa
    from airflow.utils import session
    from sqlalchemy.orm import Session, registry

    columns: list[Any] = [sa.Column("id", sa.String, primary_key=True), sa.Column("map_index", sa.Integer),
               sa.Column("state", sa.String)]  # fmt: skip
    columns += [sa.Column("working_set", sa.Boolean)] if keeps_old_tries else []
    model: type[Any] = type("Instance", (), {})
    tables = registry()
    tables.map_imperatively(model, sa.Table("task_instance", tables.metadata, *columns))
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    tables.metadata.create_all(engine)
    mocker.patch.object(session, "create_session", side_effect=lambda: Session(engine))
    passes = [("first", "success", True), ("second", "failed", True), ("archived", "failed", None)]
    with Session(engine) as db:
        for key, state, is_live in passes[: 3 if keeps_old_tries else 2]:
            members = {"id": key, "map_index": 0, "state": state}
            members |= {"working_set": is_live} if keeps_old_tries else {}
            db.execute(sa.insert(model).values(**members))
        db.commit()
    found = [plugin._state_of(model, key) for key in ("first", "second", "archived", "cleared")]
    assert found == ["success", "failed", None, None]


def test_what_fails_is_told(job_name: str, mocker: Any, caplog: pytest.LogCaptureFixture) -> None:
    mark(deferred(BatchJobTrigger(job_name, "no_such_connection")), mocker)
    assert f"{job_name} could not be cancelled and may still run and bill" in caplog.text


def test_airflow_registers_the_listeners() -> None:
    from airflow.listeners.listener import get_listener_manager

    assert plugin in get_listener_manager().pm.get_plugins()
