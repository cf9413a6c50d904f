# SPDX-License-Identifier: Apache-2.0
"""The sensor gives the same verdicts in poke, reschedule and deferrable mode."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.compat import AirflowSensorTimeout, AirflowTaskTimeout, TaskDeferred
from airflow_provider_gemini_batch.errors import (
    AuthError,
    ConfigurationError,
    GeminiBatchError,
    JobFailedError,
    JobTimeoutError,
    NotFoundError,
    TriggerEventError,
)
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.operators import CreateBatchOperator
from airflow_provider_gemini_batch.sensors import BatchJobSensor
from tests.support.airflow_side import TaskInstance, attempt, execution_timeout, rows, set_connection, signalled

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.triggers.batch_job import BatchJobTrigger
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

MODES = ["poke", "reschedule", "deferrable"]


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    return gemini_batch_emulator


def submit(count: int = 4) -> str:
    operator = CreateBatchOperator(task_id="create", model="gemini-3.5-flash-lite", inlined_requests=rows(count))
    return str(operator.execute(attempt()))


def sensor(name: str, mode: str, **arguments: Any) -> BatchJobSensor:
    arguments = {"poke_interval": 0.05, "timeout": 60, **arguments}
    if mode == "deferrable":
        return BatchJobSensor(task_id="wait", job_name=name, deferrable=True, **arguments)
    return BatchJobSensor(task_id="wait", job_name=name, deferrable=False, mode=mode, **arguments)


def outcome(name: str, mode: str, **arguments: Any) -> dict[str, Any]:
    """Take a sensor to its end: looks follow each other, and a trigger is run to its event."""
    waiting = sensor(name, mode, **arguments)
    if mode == "poke":
        return dict(waiting.execute(attempt()))
    if mode == "reschedule":
        while not (value := waiting.poke(attempt())):
            pass
        return dict(value.xcom_value)  # type: ignore[union-attr]
    try:
        return dict(waiting.execute(attempt()))
    except TaskDeferred as deferral:
        event = asyncio.run(_event(deferral.trigger))  # type: ignore[arg-type]
        return dict(waiting.execute_complete(attempt(), event, **(deferral.kwargs or {})))


async def _event(trigger: BatchJobTrigger) -> dict[str, Any]:
    async for event in trigger.run():
        return dict(event.payload)
    raise AssertionError("the trigger ended without an event")


@pytest.mark.parametrize("mode", MODES)
def test_a_job_that_ends_well_returns_its_summary(emulator: EmulatorHandle, mode: str) -> None:
    emulator.script(pending_seconds=0.1, running_seconds=0.1)
    name = submit()
    summary = outcome(name, mode)
    assert (summary["name"], summary["state"], summary["stats"]["succeeded"]) == (name, "SUCCEEDED", 4)
    assert json.loads(json.dumps(summary)) == summary


@pytest.mark.parametrize("mode", MODES)
def test_a_job_that_ended_badly_before_fails_the_sensor_at_its_first_look(emulator: EmulatorHandle, mode: str) -> None:
    emulator.script(mode="at_once", end={"state": "FAILED", "code": 13, "message": "the model broke"})
    with pytest.raises(JobFailedError, match="the model broke"):
        outcome(submit(), mode)


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_a_timeout_is_one_that_airflow_does_not_retry(emulator: EmulatorHandle, mode: str) -> None:
    emulator.script(stuck="RUNNING")
    with pytest.raises(AirflowSensorTimeout, match="may") as caught:
        outcome(submit(), mode, timeout=0.5)
    assert isinstance(caught.value, JobTimeoutError)


def test_reschedule_gives_the_worker_back(emulator: EmulatorHandle) -> None:
    emulator.script(stuck="RUNNING")
    waiting = sensor(submit(), "reschedule", poke_interval=120)
    assert waiting.poke(attempt()) is False
    assert waiting.reschedule


def test_deferring_carries_plain_values_and_no_key(emulator: EmulatorHandle) -> None:
    emulator.script(stuck="RUNNING")
    name = submit()
    with pytest.raises(TaskDeferred) as caught:
        sensor(name, "deferrable").execute(attempt())
    path, arguments = caught.value.trigger.serialize()  # type: ignore[union-attr]
    assert path.endswith(".BatchJobTrigger")
    assert json.loads(json.dumps(arguments)) == arguments
    assert arguments["job_name"] == name
    assert "emulator-key" not in json.dumps([arguments, caught.value.kwargs])
    assert emulator.url not in json.dumps(arguments)


def test_a_rhythm_without_a_pause_is_told_before_deferring(emulator: EmulatorHandle) -> None:
    """Airflow refuses other intervals and timeouts that cannot be."""
    emulator.script(stuck="RUNNING")
    with pytest.raises(ConfigurationError, match="poke_interval"):
        sensor(submit(), "deferrable", poke_interval=0).execute(attempt())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["", "files/a", "batches/../x", None, "batches/a b"])
def test_what_is_no_job_name_is_told_at_once(emulator: EmulatorHandle, mode: str, name: Any) -> None:
    with pytest.raises(ConfigurationError):
        sensor(name, mode).execute(attempt())
    assert emulator.journal(path=".*") == []


@pytest.mark.parametrize("mode", MODES)
def test_a_refused_key_is_told_at_once(emulator: EmulatorHandle, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator.script(stuck="RUNNING")
    name = submit()
    set_connection(monkeypatch, {**emulator.connection("gemini"), "password": "bad-key"})
    with pytest.raises(AuthError):
        outcome(name, mode)


@pytest.mark.parametrize("event", [None, {}, {"outcome": "new", "job_name": "batches/a"}, {"outcome": "ended"}])
def test_an_unknown_event_is_its_own_error(emulator: EmulatorHandle, event: Any) -> None:
    with pytest.raises(TriggerEventError):
        sensor("batches/a", "deferrable").execute_complete(attempt(), event)


def test_a_job_deleted_meanwhile_is_told_by_the_trigger(emulator: EmulatorHandle) -> None:
    from airflow_provider_gemini_batch.lifecycle.waiting import Outcome
    from airflow_provider_gemini_batch.watch.event import event_for

    event = event_for(Outcome.ERROR, "batches/a", None, "batches/a does not exist", NotFoundError.__name__)
    with pytest.raises(GeminiBatchError, match="does not exist"):
        sensor("batches/a", "deferrable").execute_complete(attempt(), event)


@dataclass
class RescheduledTaskInstance(TaskInstance):
    """A task instance whose first look was a while ago, as Airflow tells it."""

    first: datetime | None = None

    def get_first_reschedule_date(self, _: Any) -> datetime | None:
        return self.first


def test_a_job_that_is_gone_ends_a_rescheduled_wait_too(emulator: EmulatorHandle) -> None:
    name = submit()
    GeminiBatchHook().delete_batch(name)
    # The first look may come before the service knows the job; each later one is a new process.
    assert not sensor(name, "reschedule").poke({"ti": RescheduledTaskInstance()})
    began = datetime.now(UTC) - timedelta(minutes=5)
    with pytest.raises(NotFoundError):
        sensor(name, "reschedule").poke({"ti": RescheduledTaskInstance(first=began)})


# --- ended by Airflow -----------------------------------------------------------------------------------------------


def runs_on(emulator: EmulatorHandle) -> bool:
    return all(job.cancelled is None for job in emulator.state.all_jobs)


def test_a_signal_ends_a_wait_at_once_and_leaves_the_job(emulator: EmulatorHandle) -> None:
    """A sensor did not make the job: it is not its to cancel, whatever the task was marked."""
    emulator.script(stuck="RUNNING")
    name = submit()
    waiting = sensor(name, "poke", poke_interval=300)
    began = time.monotonic()
    with (
        signalled(waiting, lambda: emulator.journal(path=rf"{name}$")),
        pytest.raises(GeminiBatchError, match=f"Airflow ended this task while it waited for {name}"),
    ):
        waiting.execute(attempt())
    assert time.monotonic() - began < 60  # far below the pause between two looks
    assert runs_on(emulator)


@pytest.mark.parametrize("mode", ["reschedule", "deferrable"])
def test_a_signal_outside_a_wait_lets_the_task_go_on(emulator: EmulatorHandle, mode: str) -> None:
    emulator.script(pending_seconds=0.1, running_seconds=0.1)
    waiting = sensor(submit(), mode)
    waiting.on_kill()
    assert outcome(waiting.job_name, mode)["state"] == "SUCCEEDED"


def test_execution_timeout_interrupts_a_wait_and_says_that_the_job_runs_on(
    emulator: EmulatorHandle, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.script(stuck="RUNNING")
    waiting = sensor(submit(), "poke", poke_interval=300)
    with execution_timeout(1.5), pytest.raises(AirflowTaskTimeout) as caught:
        waiting.execute(attempt())
    assert not isinstance(caught.value, AirflowSensorTimeout)  # may be retried
    said = caplog.text + capsys.readouterr().out  # Airflow 3 logs to stdout
    assert f"execution_timeout is over; {waiting.job_name} runs on" in said
    assert runs_on(emulator)


def test_execution_timeout_bounds_a_deferral_and_may_be_retried(emulator: EmulatorHandle) -> None:
    emulator.script(stuck="RUNNING")
    waiting = sensor(submit(), "deferrable", timeout=3600, execution_timeout=timedelta(seconds=1.5))
    with pytest.raises(TaskDeferred) as deferred:
        waiting.execute(attempt())
    event = asyncio.run(_event(deferred.value.trigger))  # type: ignore[arg-type]
    assert event["outcome"] == "timeout"
    with pytest.raises(JobTimeoutError, match="execution_timeout") as caught:
        waiting.execute_complete(attempt(), event, **(deferred.value.kwargs or {}))
    assert not isinstance(caught.value, AirflowSensorTimeout)
    assert runs_on(emulator)
