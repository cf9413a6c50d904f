# SPDX-License-Identifier: Apache-2.0
"""Tasks that meet another job for their rows: a twin listed late, another Airflow's, or one of an older version."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.api.identity import make_task_id
from airflow_provider_gemini_batch.compat import TaskDeferred
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.lifecycle.request import JobRequest
from airflow_provider_gemini_batch.operators import CreateBatchOperator, DownloadResultsOperator
from airflow_provider_gemini_batch.sensors import BatchJobSensor
from tests.support.airflow_side import attempt, become_another_airflow, rows, set_connection

if TYPE_CHECKING:
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

MODEL = "gemini-3.5-flash-lite"
FOR_EVER = 1e6


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__SETTLE_SECONDS", "15")  # the emulator lists a job at once
    return gemini_batch_emulator


def create(**arguments: Any) -> CreateBatchOperator:
    return CreateBatchOperator(task_id="create", model=MODEL, inlined_requests=rows(2), **arguments)


def twins(emulator: EmulatorHandle) -> tuple[str, str]:
    """Let two attempts submit that do not see each other's job; the older one's name comes first."""
    emulator.configure(listing_lag=FOR_EVER)
    older = create().execute(attempt())
    emulator.advance(5)
    younger = create().execute(attempt())
    emulator.configure(listing_lag=0)
    assert older != younger
    return older, younger


def uncancelled(emulator: EmulatorHandle) -> list[str]:
    return [job.name for job in emulator.state.all_jobs if job.cancelled is None]


def test_a_sensor_keeps_its_job_and_cancels_the_twin(emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator.script(pending_seconds=1000)
    _, younger = twins(emulator)
    emulator.advance(20)
    monkeypatch.setattr(time, "time", emulator.state.now)
    assert not BatchJobSensor(task_id="wait", job_name=younger, poke_interval=30).poke(attempt())
    assert uncancelled(emulator) == [younger]


def test_a_resumed_task_takes_the_older_job_and_names_both(emulator: EmulatorHandle) -> None:
    emulator.script(pending_seconds=1000)
    older, younger = twins(emulator)
    context = attempt()
    operator = create(wait_for_completion=True, deferrable=True)
    event = {"outcome": "twin", "job_name": younger, "twins": [older]}
    plan = {"deadline": emulator.state.now() + 1e6}
    emulator.advance(5000)
    assert operator.execute_complete(context, event, plan=plan) == older
    assert context["ti"].xcoms["paid_twice"] == [older, younger]
    assert context["ti"].xcoms["gemini_batch_manifest"]["paid_twice"] == [older, younger]
    assert context["ti"].xcoms["job_name"] == older


def test_a_retry_that_finds_two_ended_jobs_names_both_after_its_deferral(emulator: EmulatorHandle) -> None:
    older, younger = twins(emulator)
    emulator.advance(5000)
    context = attempt(2)
    operator = create(wait_for_completion=True, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    event = {"outcome": "ended", "job_name": older}
    carried = json.loads(json.dumps(deferred.value.kwargs))
    assert create(wait_for_completion=True, deferrable=True).execute_complete(context, event, **carried) == older
    assert context["ti"].xcoms["paid_twice"] == [older, younger]
    assert context["ti"].xcoms["gemini_batch_manifest"]["paid_twice"] == [older, younger]


def test_a_download_says_that_two_jobs_were_paid_for(emulator: EmulatorHandle, tmp_path: Path) -> None:
    older, younger = twins(emulator)
    emulator.advance(5000)
    context = attempt()
    download = DownloadResultsOperator(task_id="get", job_name=younger, output_path=str(tmp_path / "out.jsonl"))
    manifest = download.execute(context)
    assert manifest["paid_twice"] == [younger, older]
    assert context["ti"].xcoms["paid_twice"] == [younger, older]


def test_a_download_of_the_only_job_says_nothing(emulator: EmulatorHandle, tmp_path: Path) -> None:
    name = create().execute(attempt())
    emulator.advance(5000)
    context = attempt()
    path = str(tmp_path / "out.jsonl")
    assert DownloadResultsOperator(task_id="get", job_name=name, output_path=path).execute(context)["paid_twice"] == []
    assert "paid_twice" not in context["ti"].xcoms


def test_two_airflows_with_one_key_leave_each_others_jobs_alone(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.script(pending_seconds=1000)
    become_another_airflow(monkeypatch, "production")
    production = create().execute(attempt())
    become_another_airflow(monkeypatch, "staging")
    other_rows = CreateBatchOperator(task_id="create", model=MODEL, inlined_requests=rows(3))
    staging = [create().execute(attempt()), other_rows.execute(attempt(run_id="manual__1"))]
    assert len({production, *staging}) == 3
    assert production in uncancelled(emulator)


@pytest.mark.usefixtures("stepped")
def test_a_job_of_version_0_1_0_is_found_after_the_upgrade(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    become_another_airflow(monkeypatch)
    emulator.script(pending_seconds=1000)
    request = JobRequest("generate", MODEL, inlined_requests=rows(2), display_name="nightly.create")
    old = GeminiBatchHook().submit(request, task=make_task_id("", "nightly", "manual__1", "create")).job.name
    assert create().execute(attempt(2)) == old
    assert len(emulator.state.all_jobs) == 1


def test_a_trigger_ends_its_wait_for_a_twin(emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from airflow_provider_gemini_batch.triggers.batch_job import BatchJobTrigger

    emulator.script(pending_seconds=1000)
    older, younger = twins(emulator)

    async def event_of(**more: Any) -> dict[str, Any]:
        trigger = BatchJobTrigger(younger, poll_interval=0.2, deadline=time.time() + 3, **more)
        async for event in trigger.run():
            return dict(event.payload)
        raise AssertionError("no event")

    emulator.advance(60)  # old enough for the list to be read
    monkeypatch.setattr(time, "time", emulator.state.now)
    event = asyncio.run(event_of(twins={"replace": True, "settled": []}))
    assert (event["outcome"], event["twins"]) == ("twin", [older])
    event = asyncio.run(event_of(twins={"replace": True, "settled": [older]}))
    assert event["outcome"] == "timeout"


def test_a_sensor_is_woken_once_for_a_twin_that_has_run(emulator: EmulatorHandle) -> None:
    emulator.script(pending_seconds=1, running_seconds=1, times=1)
    emulator.script(pending_seconds=1e5, running_seconds=1)
    older, younger = twins(emulator)
    emulator.advance(60)
    event = {"outcome": "twin", "job_name": younger, "twins": [older]}
    sensor = BatchJobSensor(task_id="wait", job_name=younger, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute_complete(attempt(), event, plan={"deadline": emulator.state.now() + 1e6})
    assert deferred.value.trigger.serialize()[1]["twins"]["settled"] == [older]
