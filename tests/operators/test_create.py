# SPDX-License-Identifier: Apache-2.0
"""The create operators: one billed job for each task, whatever happens, and an end in the right words."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.client.prepare import prepared
from airflow_provider_gemini_batch.compat import AirflowTaskTimeout, TaskDeferred
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    GeminiBatchError,
    JobCancelledError,
    JobConflictError,
    JobExpiredError,
    JobFailedError,
    JobStuckError,
    JobTimeoutError,
    PartialFailureError,
    RequestRejectedError,
    SubmitError,
    TriggerEventError,
)
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.lifecycle.request import JobRequest
from airflow_provider_gemini_batch.lifecycle.submission import Submission
from airflow_provider_gemini_batch.lifecycle.upload import Upload
from airflow_provider_gemini_batch.lifecycle.waiting import Outcome
from airflow_provider_gemini_batch.operators import (
    CreateBatchOperator,
    CreateEmbeddingBatchOperator,
    UploadFileOperator,
)
from airflow_provider_gemini_batch.triggers.batch_job import BatchJobTrigger
from airflow_provider_gemini_batch.triggers.pause import PauseTrigger
from airflow_provider_gemini_batch.watch.event import event_for
from tests.support.airflow_side import (
    Store,
    TaskInstance,
    attempt,
    execution_timeout,
    rows,
    set_connection,
    signalled,
    write_rows,
)

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_gemini_batch.api.wire import Flow
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

CREATE = ":(asyncB|b)atch(GenerateContent|EmbedContent)|/batchPredictionJobs$"


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__SETTLE_SECONDS", "15")  # the emulator lists a job at once
    return gemini_batch_emulator


@pytest.fixture
def vertex(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection("vertex_ai"))
    gemini_batch_emulator.configure(create_missing_buckets=True)
    return gemini_batch_emulator


def create(count: int = 2, **arguments: Any) -> CreateBatchOperator:
    if not {"input_path", "file_name", "gcs_uri", "bigquery_uri"} & set(arguments):
        arguments.setdefault("inlined_requests", rows(count))
    arguments.setdefault("poll_interval", 0.02)
    return CreateBatchOperator(task_id="create", model="gemini-3.5-flash-lite", **arguments)


def created(emulator: EmulatorHandle) -> int:
    return int(emulator.ledger()["totals"]["created"])


# --- sources and settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["inlined_requests", "input_path", "file_name"])
def test_every_source_of_the_developer_api_makes_one_job(emulator: EmulatorHandle, tmp_path: Path, source: str) -> None:
    path = write_rows(tmp_path / "in.jsonl", rows(3))
    value: Any = {"inlined_requests": rows(3), "input_path": path}.get(source)
    if source == "file_name":
        value = UploadFileOperator(task_id="upload", input_path=path).execute({})
    context = attempt()
    name = create(**{source: value}).execute(context)
    job = emulator.ledger()["jobs"][0]
    assert (created(emulator), job["rows"], job["name"]) == (1, 3, name)
    assert context["ti"].xcoms["job_name"] == name
    assert context["ti"].xcoms["submission_token"]


@pytest.mark.parametrize("source", ["inlined_requests", "input_path", "file_name", "gcs_uri"])
def test_every_source_of_vertex_makes_one_job(vertex: EmulatorHandle, tmp_path: Path, source: str) -> None:
    path = write_rows(tmp_path / "in.jsonl", rows(3))
    value: Any = {"inlined_requests": rows(3), "input_path": path}.get(source)
    if value is None:
        value = UploadFileOperator(task_id="upload", input_path=path).execute({})
        assert value.startswith("gs://")
    name = create(**{source: value}).execute(attempt())
    assert created(vertex) == 1
    assert name == vertex.ledger()["jobs"][0]["name"]


def test_settings_reach_rows_that_do_not_set_their_own(emulator: EmulatorHandle) -> None:
    own = {"contents": [{"parts": [{"text": "b"}]}], "generationConfig": {"temperature": 1.0}}
    create(
        inlined_requests=[{"prompt": "a"}, own],
        generation_config={"temperature": 0, "maxOutputTokens": 5},
        system_instruction="Be brief.",
    ).execute(attempt())
    first, second = (row.request for row in emulator.state.all_jobs[0].source.rows())
    assert first["generationConfig"] == {"temperature": 0, "maxOutputTokens": 5}
    assert second["generationConfig"] == {"temperature": 1.0, "maxOutputTokens": 5}
    assert first["systemInstruction"]["parts"] == second["systemInstruction"]["parts"] == [{"text": "Be brief."}]


def test_settings_of_an_upload_reach_its_rows(emulator: EmulatorHandle, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", rows(2))
    name = UploadFileOperator(
        task_id="upload", input_path=path, generation_config={"temperature": 0}, system_instruction="Brief."
    ).execute({})
    create(file_name=name).execute(attempt())
    for row in emulator.state.all_jobs[0].source.rows():
        assert row.request["generationConfig"] == {"temperature": 0}
        assert row.request["systemInstruction"]["parts"] == [{"text": "Brief."}]


@pytest.mark.parametrize("changed", [{}, {"model": "gemini-2.5-pro"}], ids=["same", "another model"])
@pytest.mark.usefixtures("stepped")
def test_a_retry_finds_the_job_whose_file_has_expired(emulator: EmulatorHandle, tmp_path: Path, changed: Any) -> None:
    file = UploadFileOperator(task_id="upload", input_path=write_rows(tmp_path / "in.jsonl", rows(2))).execute({})
    name = create(file_name=file).execute(attempt())
    GeminiBatchHook().delete_file(file)
    again = CreateBatchOperator(task_id="create", file_name=file, **{"model": "gemini-3.5-flash-lite", **changed})
    for context in (attempt(1), attempt(2, task_id="another")):
        with pytest.raises(ConfigurationError, match="does not exist, has expired"):
            again.execute(context)
    if changed:
        with pytest.raises(ConfigurationError, match="does not exist, has expired"):
            again.execute(attempt(2))
    else:
        assert again.execute(attempt(2)) == name
    assert created(emulator) == 1


def test_embedding_options_reach_the_rows(emulator: EmulatorHandle) -> None:
    operator = CreateEmbeddingBatchOperator(
        task_id="embed",
        model="gemini-embedding-001",
        inlined_requests=[{"key": "a", "text": "one"}, {"content": {"parts": [{"text": "two"}]}}],
        task_type="RETRIEVAL_DOCUMENT",
        title="Book",
        output_dimensionality=16,
    )
    operator.execute(attempt())
    for row in emulator.state.all_jobs[0].source.rows():
        assert {"RETRIEVAL_DOCUMENT", "Book", 16} <= set(_leaves(row.request))


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    return [value] if not isinstance(value, list) else [leaf for item in value for leaf in _leaves(item)]


def test_settings_for_rows_at_google_are_refused_before_a_job_exists(emulator: EmulatorHandle) -> None:
    with pytest.raises(ConfigurationError, match=r"generation_config.*already lie at Google"):
        create(file_name="files/a", generation_config={"temperature": 0}).execute(attempt())
    assert created(emulator) == 0


def test_a_setting_that_is_not_known_is_told_and_sent(
    emulator: EmulatorHandle, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of rows in a file Google tells it hours later, once for each."""
    settings = {"temprature": 0, "max_output_tokens": 5, "ofTomorrow": 1}
    with pytest.raises(RequestRejectedError, match='Unknown name "temprature"'):
        create(generation_config=settings).execute(attempt())
    said = caplog.text + capsys.readouterr().out  # Airflow 3 logs to stdout
    assert "'temprature' is not known here and is sent as it is; temperature may be meant." in said
    assert "'ofTomorrow' is not known here and is sent as it is." in said
    assert "max_output_tokens" not in said


# --- once -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("stepped")
def test_a_retry_adopts_the_running_job_and_says_so(
    emulator: EmulatorHandle, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO")
    emulator.script(stuck="RUNNING", pending_seconds=0)
    first = create().execute(attempt(1))
    assert create().execute(attempt(2)) == first
    assert created(emulator) == 1
    said = caplog.text + capsys.readouterr().out  # Airflow 3 logs to stdout
    assert f"Created {first}: no job of this task" in said
    assert f"Adopting {first} (RUNNING), which this task submitted" in said


def test_a_retry_uses_the_results_of_the_ended_job(emulator: EmulatorHandle) -> None:
    emulator.script(mode="at_once")
    first = create().execute(attempt(1))
    assert create(wait_for_completion=True).execute(attempt(2)) == first
    assert created(emulator) == 1


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "EXPIRED"])
@pytest.mark.usefixtures("stepped")
def test_a_retry_after_a_lost_job_submits_a_new_one(emulator: EmulatorHandle, state: str) -> None:
    emulator.script(mode="at_once", end={"state": state}, times=1)
    emulator.script(mode="at_once")
    first = create().execute(attempt(1))
    assert create().execute(attempt(2)) != first
    assert created(emulator) == 2


def test_other_tasks_runs_and_map_indexes_get_their_own_job(emulator: EmulatorHandle) -> None:
    names = {
        create().execute(attempt(1, **facts))
        for facts in ({}, {"run_id": "manual__2"}, {"task_id": "other"}, {"dag_id": "other"}, {"map_index": 1})
    }
    assert len(names) == created(emulator) == 5


def test_a_salt_asks_for_a_fresh_job(emulator: EmulatorHandle) -> None:
    first = create().execute(attempt(1))
    assert create(submission_salt="again").execute(attempt(1)) != first


@pytest.mark.usefixtures("stepped")
def test_changed_input_replaces_the_running_job(emulator: EmulatorHandle) -> None:
    emulator.script(stuck="RUNNING", pending_seconds=0)
    first = create(2).execute(attempt(1))
    second = create(3).execute(attempt(2))
    states = {job["name"]: job["state"] for job in emulator.ledger()["jobs"]}
    assert first != second
    assert emulator.state.all_jobs[0].cancelled is not None, states
    assert emulator.state.all_jobs[1].cancelled is None


@pytest.mark.usefixtures("stepped")
def test_changed_input_may_reuse_the_job(emulator: EmulatorHandle) -> None:
    emulator.script(stuck="RUNNING", pending_seconds=0)
    first = create(2).execute(attempt(1))
    assert create(3, on_existing_job="reuse").execute(attempt(2)) == first
    assert created(emulator) == 1


@pytest.mark.usefixtures("stepped")
def test_changed_input_may_fail_the_task(emulator: EmulatorHandle) -> None:
    emulator.script(stuck="RUNNING", pending_seconds=0)
    first = create(2).execute(attempt(1))
    with pytest.raises(JobConflictError, match=first):
        create(3, on_existing_job="fail").execute(attempt(2))
    assert created(emulator) == 1
    assert emulator.state.all_jobs[0].cancelled is None


@pytest.mark.usefixtures("stepped")
def test_a_lost_answer_to_create_costs_nothing_and_what_it_waits_for_is_said(
    emulator: EmulatorHandle, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.configure(listing_lag=1)
    fault = emulator.fault(match={"method": "POST", "path": CREATE}, action="close", when="after")
    name = create().execute(attempt())
    assert fault.fired == 1
    assert [job["name"] for job in emulator.ledger()["jobs"]] == [name]
    said = caplog.text + capsys.readouterr().out  # Airflow 3 logs to stdout
    assert "The create call ended without a clear answer" in said
    assert "Looking for it in " in said


# --- how a job ended ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize(
    ("end", "error", "words"),
    [
        ({"state": "FAILED", "code": 13, "message": "the model broke"}, JobFailedError, "the model broke"),
        ({"state": "CANCELLED"}, JobCancelledError, "was cancelled"),
        ({"state": "EXPIRED"}, JobExpiredError, "expired"),
        ({"state": "PARTIALLY_SUCCEEDED", "share": 0.5}, PartialFailureError, "only in part"),
    ],
)
def test_how_a_job_ended_is_the_tasks_error(
    emulator: EmulatorHandle, end: dict[str, Any], error: type[Exception], words: str, deferred: bool
) -> None:
    emulator.script(mode="at_once", end=end)
    operator = create(4, wait_for_completion=True, deferrable=deferred)
    if deferred:
        event, kwargs = _after_deferral(operator)
        with pytest.raises(error, match=words):
            operator.execute_complete(attempt(), event, **kwargs)
    else:
        with pytest.raises(error, match=words):
            operator.execute(attempt())


def _after_deferral(operator: CreateBatchOperator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Submit, defer, and run the trigger to its event."""
    import asyncio

    with pytest.raises(TaskDeferred) as caught:
        operator.execute(attempt())
    trigger = caught.value.trigger
    assert isinstance(trigger, BatchJobTrigger)

    async def first() -> dict[str, Any]:
        async for event in trigger.run():
            return dict(event.payload)
        raise AssertionError("the trigger ended without an event")

    return asyncio.run(first()), dict(caught.value.kwargs or {})


def test_a_deferred_task_ends_with_the_jobs_name(emulator: EmulatorHandle) -> None:
    emulator.script(pending_seconds=0.1, running_seconds=0.1)
    operator = create(wait_for_completion=True, deferrable=True)
    event, kwargs = _after_deferral(operator)
    assert operator.execute_complete(attempt(), event, **kwargs) == emulator.ledger()["jobs"][0]["name"]


@pytest.mark.parametrize(("allowed", "fails"), [(0, True), (1, False), (0.1, True), (0.25, False), (None, False)])
def test_max_failed_rows_is_held_when_waiting(emulator: EmulatorHandle, allowed: float | None, fails: bool) -> None:
    emulator.script(mode="at_once", rows=[{"key": "k1", "outcome": "error", "code": 13}])
    operator = create(4, wait_for_completion=True, max_failed_rows=allowed)
    if fails:
        with pytest.raises(PartialFailureError, match="1 of 4"):
            operator.execute(attempt())
    else:
        operator.execute(attempt())


def test_a_job_without_one_answer_fails(emulator: EmulatorHandle) -> None:
    emulator.script(mode="at_once", rows=[{"outcome": "error", "code": 13}])
    with pytest.raises(JobFailedError):
        create(2, wait_for_completion=True).execute(attempt())


# --- quota ----------------------------------------------------------------------------------------------------------


def test_no_quota_waits_outside_the_worker_and_goes_on(
    emulator: EmulatorHandle, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.fault(match={"method": "POST", "path": CREATE}, status=429, retry_after=60, times=None)
    operator = create(deferrable=True)
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(attempt())
    deferral = caught.value
    assert isinstance(deferral.trigger, PauseTrigger)
    assert deferral.trigger.until >= time.time() + 50
    assert deferral.method_name == "resume_submission"
    assert created(emulator) == 0
    assert "suspected limit: " in caplog.text + capsys.readouterr().out  # Airflow 3 logs to stdout
    emulator.clear_faults()
    name = operator.resume_submission(attempt(), {"until": 0}, **(deferral.kwargs or {}))
    assert [job["name"] for job in emulator.ledger()["jobs"]] == [name]


def test_no_quota_ends_at_submit_timeout(emulator: EmulatorHandle) -> None:
    emulator.fault(match={"method": "POST", "path": CREATE}, status=429, retry_after=0, times=None)
    with pytest.raises(SubmitError, match=r"submit_timeout.*nothing was submitted"):
        create(submit_timeout=0.3).execute(attempt())
    assert created(emulator) == 0


def _without_quota(emulator: EmulatorHandle, operator: CreateBatchOperator) -> dict[str, Any]:
    """Submit where there is no quota; return what the deferral carries, as Airflow gives it back."""
    emulator.fault(match={"method": "POST", "path": CREATE}, status=429, retry_after=60, times=1)
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(attempt())
    assert caught.value.method_name == "resume_submission"
    return dict(json.loads(json.dumps(caught.value.kwargs)))


@pytest.mark.parametrize(
    ("backend", "caps"),
    [("gemini", {}), ("vertex_ai", {}), ("gemini", {"max_cost": 1.0, "max_input_tokens": 1000})],
    ids=["gemini", "vertex_ai", "under a cap"],
)
def test_a_wait_for_quota_goes_on_from_the_uploaded_rows(
    gemini_batch_emulator: EmulatorHandle,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    backend: str,
    caps: dict[str, Any],
) -> None:
    emulator = gemini_batch_emulator
    set_connection(monkeypatch, emulator.connection(backend))
    emulator.configure(create_missing_buckets=True)
    emulator.script(mode="at_once")
    path = tmp_path / "in.jsonl"
    settings = {"generation_config": {"maxOutputTokens": 100}} if caps else {}
    operator = create(input_path=write_rows(path, rows(5)), deferrable=True, **settings, **caps)
    carried = _without_quota(emulator, operator)
    path.unlink()  # nobody reads it any more
    uploads, counts = len(emulator.journal(path="upload")), len(emulator.journal(path="countTokens"))
    name = operator.resume_submission(attempt(), {}, **carried)
    [job] = emulator.ledger()["jobs"]
    assert (job["name"], GeminiBatchHook().get_batch(name).stats.succeeded) == (name, 5)
    assert (len(emulator.journal(path="upload")), len(emulator.journal(path="countTokens"))) == (uploads, counts)


@pytest.mark.usefixtures("stepped")
def test_the_job_after_a_wait_for_quota_is_found_again_by_the_next_attempt(
    emulator: EmulatorHandle, tmp_path: Path
) -> None:
    arguments = {"input_path": write_rows(tmp_path / "in.jsonl", rows(5)), "deferrable": True}
    operator = create(**arguments)
    name = operator.resume_submission(attempt(), {}, **_without_quota(emulator, operator))
    assert create(**arguments).execute(attempt(2)) == name
    assert created(emulator) == 1


def test_a_wait_for_quota_remembers_a_call_whose_answer_was_lost(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__SETTLE_SECONDS", "15")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    emulator.configure(listing_lag=1e6)
    emulator.fault(match={"method": "POST", "path": CREATE}, action="close", when="after", times=1)
    carried = _without_quota(emulator, create(deferrable=True))
    assert carried["plan"]["last_look_age"] > 0


def test_a_wait_for_quota_reads_the_input_again_if_the_uploaded_rows_are_gone(
    emulator: EmulatorHandle, tmp_path: Path
) -> None:
    operator = create(input_path=write_rows(tmp_path / "in.jsonl", rows(5)), deferrable=True)
    carried = _without_quota(emulator, operator)
    hook = GeminiBatchHook()
    for file in hook.list_files().files:
        hook.delete_file(file.name)
    operator.resume_submission(attempt(), {}, **carried)
    assert emulator.ledger()["jobs"][0]["rows"] == 5


@pytest.mark.parametrize("backends", [("gemini", "vertex_ai"), ("vertex_ai", "gemini")])
def test_a_wait_for_quota_reads_the_input_again_for_another_backend(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backends: tuple[str, str]
) -> None:
    emulator.configure(create_missing_buckets=True)
    set_connection(monkeypatch, emulator.connection(backends[0]))
    emulator.script(mode="at_once")
    arguments = {"input_path": write_rows(tmp_path / "in.jsonl", rows(5)), "deferrable": True}
    carried = _without_quota(emulator, create(**arguments))
    set_connection(monkeypatch, emulator.connection(backends[1]))
    create(**arguments).resume_submission(attempt(), {}, **carried)
    assert emulator.ledger()["jobs"][0]["rows"] == 5


@pytest.mark.parametrize("backends", [("gemini", "vertex_ai"), ("vertex_ai", "gemini")])
@pytest.mark.usefixtures("stepped")
def test_a_job_noted_at_another_backend_is_named_and_nothing_is_submitted(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, backends: tuple[str, str]
) -> None:
    emulator.configure(create_missing_buckets=True)
    store = Store()
    set_connection(monkeypatch, emulator.connection(backends[0]))
    name = create().execute({**attempt(), "task_state_store": store})
    set_connection(monkeypatch, emulator.connection(backends[1]))
    with pytest.raises(ConfigurationError, match=rf"earlier attempt.*{name}.*may run.*connection back"):
        create().execute({**attempt(2), "task_state_store": store})
    assert created(emulator) == 1
    create().execute({**attempt(3, max_tries=3), "task_state_store": store})  # cleared, as the error says
    assert created(emulator) == 2


@pytest.mark.parametrize("key", ["any-key", "of-another-project"])
@pytest.mark.usefixtures("stepped")
def test_a_job_that_another_key_may_still_run_is_not_submitted_anew_unless_a_person_says_so(
    emulator: EmulatorHandle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    key: str,
) -> None:
    connection = {**emulator.connection("gemini"), "password": "any-key"}
    set_connection(monkeypatch, connection)
    store = Store()
    name = create().execute({**attempt(), "task_state_store": store})
    GeminiBatchHook().delete_batch(name)  # as good as in a project that the other key does not see
    set_connection(monkeypatch, {**connection, "password": key})
    if key == "any-key":  # the very key that made it: it was deleted
        create().execute({**attempt(2), "task_state_store": store})
        return
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=f"{name} with another key.*may run and bill.*clear the task"):
            create().execute({**attempt(2), "task_state_store": store})
    assert created(emulator) == 1
    create().execute({**attempt(3, max_tries=3), "task_state_store": store})
    said = caplog.text + capsys.readouterr().out  # Airflow 3 logs to stdout
    assert (created(emulator), f"{name}, which an earlier attempt" in said) == (2, True)
    assert key not in json.dumps(store)


@pytest.mark.usefixtures("stepped")
def test_a_job_that_another_key_of_the_project_sees_is_adopted(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    name = create().execute({**attempt(), "task_state_store": store})
    set_connection(monkeypatch, {**emulator.connection("gemini"), "password": "rotated"})
    assert create().execute({**attempt(2), "task_state_store": store}) == name


def test_a_wait_for_quota_reads_the_input_again_under_other_settings(emulator: EmulatorHandle, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", rows(2))
    carried = _without_quota(emulator, create(input_path=path, deferrable=True))
    other = create(input_path=path, deferrable=True, generation_config={"maxOutputTokens": 7})
    other.resume_submission(attempt(), {}, **carried)
    requests = [row.request for row in emulator.state.all_jobs[0].source.rows()]
    assert [request["generationConfig"] for request in requests] == [{"maxOutputTokens": 7}] * 2


def test_a_wait_for_quota_with_inline_rows_carries_none_of_them(emulator: EmulatorHandle) -> None:
    operator = create(inlined_requests=[{"key": "a", "prompt": "a secret"}], deferrable=True)
    carried = _without_quota(emulator, operator)
    assert "secret" not in json.dumps(carried)
    operator.resume_submission(attempt(), {}, **carried)
    assert created(emulator) == 1


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["leave", "cancel"])
def test_a_timeout_follows_its_policy(emulator: EmulatorHandle, policy: str) -> None:
    emulator.script(stuck="RUNNING", pending_seconds=0)
    with pytest.raises(JobTimeoutError):
        create(wait_for_completion=True, timeout=0.3, on_timeout=policy).execute(attempt())
    assert (emulator.state.all_jobs[0].cancelled is not None) == (policy == "cancel")


def test_a_job_stuck_pending_is_submitted_again_within_bounds(emulator: EmulatorHandle) -> None:
    emulator.script(stuck="PENDING")
    operator = create(
        wait_for_completion=True, pending_timeout=0.3, on_pending_timeout="resubmit", max_resubmits=1, timeout=60
    )
    with pytest.raises(JobStuckError) as caught:
        operator.execute(attempt())
    assert caught.value.phase == "pending"
    assert created(emulator) == 2
    assert all(job.cancelled is not None for job in emulator.state.all_jobs)


def test_a_job_submitted_again_may_succeed(emulator: EmulatorHandle) -> None:
    emulator.script(stuck="PENDING", times=1)
    emulator.script(mode="at_once")
    operator = create(wait_for_completion=True, pending_timeout=0.3, on_pending_timeout="resubmit", timeout=60)
    assert operator.execute(attempt()) == emulator.ledger()["jobs"][1]["name"]
    assert emulator.state.all_jobs[0].cancelled is not None


def test_a_stuck_job_that_ends_before_its_cancel_is_not_paid_for_again(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", emulator.advance)
    emulator.script(mode="time", pending_seconds=14, running_seconds=1)
    emulator.fault(match={"method": "POST", "path": ":cancel$"}, status=503, times=4)
    operator = create(
        wait_for_completion=True, pending_timeout=10, on_pending_timeout="resubmit", poll_interval=1, timeout=600
    )
    assert operator.execute(attempt()) == emulator.ledger()["jobs"][0]["name"]
    assert created(emulator) == 1


def test_a_stuck_job_that_ends_whole_after_its_cancel_is_taken(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", emulator.advance)
    emulator.configure(cancel_settle_seconds=5)
    emulator.script(pending_seconds=0, running_seconds=1, stuck="RUNNING")
    operator = create(
        wait_for_completion=True, running_timeout=10, on_running_timeout="resubmit", poll_interval=1, timeout=600
    )
    assert operator.execute(attempt()) == emulator.ledger()["jobs"][0]["name"]
    assert created(emulator) == 1


def test_a_stuck_job_whose_file_has_expired_is_waited_for(
    emulator: EmulatorHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", emulator.advance)
    path = write_rows(tmp_path / "in.jsonl", rows(2))
    name = UploadFileOperator(task_id="upload", input_path=path).execute({})
    emulator.script(pending_seconds=60, running_seconds=1)
    operator = create(
        file_name=name, wait_for_completion=True, pending_timeout=10, on_pending_timeout="resubmit", poll_interval=1
    )
    emulator.fault(match={"method": "GET", "path": f"/{name}$"}, status=403, skip=1, times=None)
    assert operator.execute(attempt()) == emulator.ledger()["jobs"][0]["name"]
    assert (created(emulator), emulator.state.all_jobs[0].cancelled) == (1, None)


def test_a_stuck_job_may_be_waited_for(emulator: EmulatorHandle) -> None:
    emulator.script(pending_seconds=0.6, running_seconds=0.1)
    operator = create(wait_for_completion=True, pending_timeout=0.2, on_pending_timeout="wait")
    assert operator.execute(attempt()) == emulator.ledger()["jobs"][0]["name"]


def test_a_job_that_runs_too_long_fails_the_task(emulator: EmulatorHandle) -> None:
    emulator.script(stuck="RUNNING", pending_seconds=0)
    with pytest.raises(JobStuckError) as caught:
        create(wait_for_completion=True, running_timeout=0.3).execute(attempt())
    assert caught.value.phase == "running"


# --- events ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [None, "ended", {}, {"outcome": "exploded", "job_name": "batches/a"}, {"outcome": "ended"},
     {"outcome": "ended", "job_name": "batches/a", "stats": 3}],
)  # fmt: skip
def test_an_unknown_event_is_its_own_error(emulator: EmulatorHandle, event: Any) -> None:
    with pytest.raises(TriggerEventError):
        create(wait_for_completion=True).execute_complete(attempt(), event)


def test_a_young_job_that_the_resumed_task_does_not_find_is_waited_for(emulator: EmulatorHandle) -> None:
    operator = create(wait_for_completion=True, deferrable=True)
    with pytest.raises(TaskDeferred) as left:
        operator.execute(attempt())
    kwargs = left.value.kwargs
    name = str(kwargs["plan"]["job_name"])
    emulator.fault(match={"method": "GET", "path": f"/{name}$"}, status=404, reason="NOT_FOUND", times=1)
    with pytest.raises(TaskDeferred):
        operator.execute_complete(attempt(), event_for(Outcome.TWIN, name, None), **kwargs)


def test_trouble_in_the_triggerer_is_told(emulator: EmulatorHandle) -> None:
    from airflow_provider_gemini_batch.lifecycle.waiting import Outcome

    event = event_for(Outcome.ERROR, "batches/a", None, "the key was refused", "AuthError")
    with pytest.raises(GeminiBatchError, match="the key was refused"):
        create(wait_for_completion=True).execute_complete(attempt(), event)


# --- killed while submitting ----------------------------------------------------------------------------------------


@dataclass
class MarkedTaskInstance(TaskInstance):
    """A task instance whose state somebody has set."""

    state: str = "failed"

    def get_task_states(self, **_: Any) -> dict[str, dict[str, str]]:
        return {self.run_id: {self.task_id: self.state}}


def _killed_during(emulator: EmulatorHandle, path: str, state: str, **arguments: Any) -> tuple[GeminiBatchError, Any]:
    """Run a create, and call on_kill when a request for *path* has arrived; as the task's process does on SIGTERM."""
    emulator.fault(match={"path": path}, action="delay", delay=0.5)
    operator = create(**arguments)
    context = {"ti": MarkedTaskInstance(state=state)}

    def kill() -> None:
        while not emulator.journal(path=path):
            time.sleep(0.01)
        operator.on_kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(GeminiBatchError, match="was marked") as caught:
            operator.execute(context)
    finally:
        killer.join()
    return caught.value, context["ti"]


def test_a_task_marked_while_its_create_is_on_its_way_leaves_no_job_running(emulator: EmulatorHandle) -> None:
    _, ti = _killed_during(emulator, CREATE, "failed")
    job = emulator.state.all_jobs[0]
    assert job.cancelled is not None
    assert ti.xcoms["job_name"] == job.name


def test_a_task_marked_before_its_create_submits_nothing(emulator: EmulatorHandle) -> None:
    error, _ = _killed_during(emulator, "/batches$", "success")
    assert "none was" in str(error)
    assert created(emulator) == 0


def test_a_task_cleared_while_it_submits_keeps_its_job(emulator: EmulatorHandle) -> None:
    emulator.fault(match={"path": CREATE}, action="delay", delay=0.5)
    operator = create()
    context = {"ti": MarkedTaskInstance(state="running")}
    killer = threading.Timer(0.2, operator.on_kill)
    killer.start()
    name = operator.execute(context)
    killer.join()
    assert [job.name for job in emulator.state.all_jobs if job.cancelled is None] == [name]


# --- what nobody uses is removed ------------------------------------------------------------------------------------


def test_a_file_sent_for_nothing_is_removed(emulator: EmulatorHandle, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", rows(3))
    other = attempt(2)
    # While this attempt uploads, another one, which sent a file of its own, submits.
    theirs: list[str] = []

    def submit_beside() -> None:
        while not emulator.journal(path="/upload/"):
            time.sleep(0.01)
        emulator.clear_faults()
        # Airflow 2.11 refuses execute() in a thread of ours.
        theirs.append(create(input_path=path).run_task(other))

    emulator.fault(match={"path": "/upload/"}, action="delay", delay=6.0, times=1)
    beside = threading.Thread(target=submit_beside)
    beside.start()
    name = create(input_path=path).execute(attempt())
    beside.join()
    assert theirs == [name]
    assert created(emulator) == 1
    files = [file.name for file in GeminiBatchHook().list_files().files]
    assert files == [GeminiBatchHook().get_batch(name).input_place]


def test_a_file_sent_for_nothing_stays_while_another_task_reads_it(emulator: EmulatorHandle, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", rows(3))
    hook = GeminiBatchHook()
    taken = hook.get_batch(create(input_path=write_rows(tmp_path / "own.jsonl", rows(1))).execute(attempt()))
    theirs: list[str] = []
    request = JobRequest("generate", "gemini-3.5-flash-lite", input_path=path)
    with prepared(request, hook.client.backend, lambda _: None) as source:
        upload = Upload(source, hook.client.backend, hook.retry, "a file")

        def submitting() -> Flow[Submission]:
            yield from upload.place()
            theirs.append(create(input_path=path).execute(attempt(run_id="another")))
            return Submission(taken, "adopted", "")

        hook.run(upload.removed_if_unused(submitting()))
    job = hook.get_batch(theirs[0])
    assert len(hook.list_files().files) == 2
    assert job.input_place is not None
    assert hook.get_file(job.input_place).state == "ACTIVE"


@dataclass
class OrphanedTaskInstance(TaskInstance):
    """A task instance whose supervisor is dead: what it is told of a job goes nowhere."""

    def xcom_push(self, key: str, value: Any) -> None:
        if key == "job_name":
            raise EOFError("no supervisor")


def test_an_orphan_that_cannot_tell_its_jobs_name_still_cancels_the_twin_it_made(emulator: EmulatorHandle) -> None:
    theirs: list[str] = []

    def create_beside() -> None:
        while not emulator.journal(path=CREATE):
            time.sleep(0.01)
        emulator.clear_faults()
        theirs.append(create().run_task(attempt()))  # Airflow 2.11 runs execute in its main thread only

    # Its create is so slow that an attempt beside it, which knows of no other, creates as well.
    emulator.fault(match={"path": CREATE}, action="delay", delay=2.0, times=1)
    beside = threading.Thread(target=create_beside)
    beside.start()
    with pytest.raises(EOFError):
        create().execute({"ti": OrphanedTaskInstance()})
    beside.join()
    assert created(emulator) == 2
    assert [job.name for job in emulator.state.all_jobs if job.cancelled is None] == theirs


# --- ended by Airflow -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "is_cancelled"), [("running", False), ("failed", True)])
def test_a_signal_ends_a_wait_at_once_and_cancels_the_job_of_a_marked_task(
    emulator: EmulatorHandle, state: str, is_cancelled: bool
) -> None:
    emulator.script(stuck="RUNNING", pending_seconds=0)
    operator = create(wait_for_completion=True, poll_interval=60)
    began = time.monotonic()
    with (
        signalled(operator, lambda: emulator.journal(path=r"batches/\w")),
        pytest.raises(GeminiBatchError, match="Airflow ended this task while it waited for batches/"),
    ):
        operator.execute({"ti": MarkedTaskInstance(state=state)})
    assert time.monotonic() - began < 20  # far below the pause between two polls
    assert (emulator.state.all_jobs[0].cancelled is not None) == is_cancelled


def test_a_signal_ends_a_wait_for_quota(emulator: EmulatorHandle) -> None:
    fault = emulator.fault(match={"method": "POST", "path": CREATE}, status=429, retry_after=300, times=None)
    operator = create()
    with (
        signalled(operator, lambda: fault.fired),
        pytest.raises(GeminiBatchError, match="Airflow ended this task"),
    ):
        operator.execute({"ti": MarkedTaskInstance(state="running")})
    assert created(emulator) == 0


# --- execution_timeout ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["leave", "cancel"])
def test_execution_timeout_bounds_a_deferral_and_follows_on_timeout(emulator: EmulatorHandle, policy: str) -> None:
    emulator.script(stuck="RUNNING", pending_seconds=0)
    limit = timedelta(seconds=1.5)
    operator = create(wait_for_completion=True, deferrable=True, execution_timeout=limit, on_timeout=policy)
    event, kwargs = _after_deferral(operator)
    assert event["outcome"] == "timeout"
    with pytest.raises(JobTimeoutError, match="execution_timeout") as caught:
        operator.execute_complete(attempt(), event, **kwargs)
    assert caught.value.limit == "execution_timeout"
    assert (emulator.state.all_jobs[0].cancelled is not None) == (policy == "cancel")


@pytest.mark.parametrize("policy", ["leave", "cancel"])
def test_airflows_own_alarm_leaves_or_cancels_the_job(
    emulator: EmulatorHandle, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.script(stuck="RUNNING", pending_seconds=0)
    operator = create(wait_for_completion=True, on_timeout=policy)

    with execution_timeout(1.5), pytest.raises(AirflowTaskTimeout):
        operator.execute(attempt())
    assert (emulator.state.all_jobs[0].cancelled is not None) == (policy == "cancel")


# --- manifest -------------------------------------------------------------------------------------------------------


def test_a_task_that_waits_pushes_a_manifest_even_if_it_fails_for_its_rows(emulator: EmulatorHandle) -> None:
    emulator.script(mode="at_once", rows=[{"key": "k1", "outcome": "error", "code": 13}])
    context = attempt()
    with pytest.raises(PartialFailureError):
        create(4, wait_for_completion=True).execute(context)
    manifest = context["ti"].xcoms["gemini_batch_manifest"]
    assert {"state": "SUCCEEDED", "total": 4, "succeeded": 3, "failed": 1}.items() <= manifest.items()
    assert manifest["job_name"] == emulator.ledger()["jobs"][0]["name"]


def test_a_task_whose_deferral_was_lost_goes_on(emulator: EmulatorHandle) -> None:
    """``airflow dags test`` gives back nothing of what a deferral carries."""
    operator = create(deferrable=True)
    _without_quota(emulator, operator)
    operator.resume_submission(attempt(), {})
    assert created(emulator) == 1
