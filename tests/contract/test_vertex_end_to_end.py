# SPDX-License-Identifier: Apache-2.0
"""Vertex AI from the operators down to the wire: rows, tokens, BigQuery, adoption, and what is said when it fails."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.api.vertex.bigquery import BigQuery
from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.lifecycle.waiting import Outcome, WaitLimits, Watch, wait_for_end
from airflow_provider_gemini_batch.operators import (
    CreateBatchOperator,
    CreateEmbeddingBatchOperator,
    DownloadResultsOperator,
    UploadFileOperator,
)
from airflow_provider_gemini_batch.sensors import BatchJobSensor
from airflow_provider_gemini_batch.triggers.batch_job import BatchJobTrigger
from airflow_provider_gemini_batch.watch.event import read_event
from gemini_batch_emulator.bigquery import table_store
from gemini_batch_emulator.pytest_plugin import PROJECT
from gemini_batch_emulator.token import token_desk
from tests.support.airflow_side import attempt, rows, set_connection, write_rows

if TYPE_CHECKING:
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

MODEL = "gemini-3.5-flash-lite"


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    """An emulator that takes no token but those that its token endpoint gave out."""
    gemini_batch_emulator.configure(accepted_tokens=[])
    gemini_batch_emulator.script(mode="at_once")
    set_connection(monkeypatch, gemini_batch_emulator.connection("vertex_ai"))
    return gemini_batch_emulator


def landed(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def download(job_name: str, tmp_path: Path, **arguments: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    out = tmp_path / "out.jsonl"
    operator = DownloadResultsOperator(task_id="results", job_name=job_name, output_path=str(out), **arguments)
    manifest: dict[str, Any] = operator.execute({})
    return manifest, landed(out)


# --- rows -----------------------------------------------------------------------------------------------------------


def test_ten_thousand_rows_in_four_shuffled_shards_land_in_input_order(
    emulator: EmulatorHandle, tmp_path: Path
) -> None:
    failing = sorted(random.Random(37).sample(range(10_000), 37))
    emulator.configure(shards=4, vertex_shuffle=True, coerce_numeric_keys=True)
    emulator.state.scripts.clear()
    emulator.script(
        mode="at_once", rows=[{"index": n, "outcome": "error", "code": 3, "message": f"no {n}"} for n in failing]
    )
    # Keys that an importer takes for numbers, on purpose.
    path = write_rows(tmp_path / "in.jsonl", [{"key": f"{n:05d}", "prompt": f"Say {n}"} for n in range(10_000)])
    uploaded = UploadFileOperator(task_id="upload", input_path=path).execute({})
    name = CreateBatchOperator(task_id="create", model=MODEL, file_name=uploaded).execute(attempt())
    summary = BatchJobSensor(task_id="wait", job_name=name, poke_interval=0.05).execute({})
    assert (summary["stats"]["succeeded"], summary["stats"]["failed"]) == (9_963, 37)
    shards = [
        file.name for file in GeminiBatchHook().list_files(prefix=summary["output"]["place"]).files
        if file.name.endswith(".jsonl")
    ]  # fmt: skip
    assert len(shards) == 4
    errors = tmp_path / "errors.jsonl"
    manifest, lines = download(name, tmp_path, input_path=path, errors_path=str(errors))
    assert [line["key"] for line in lines] == [f"{n:05d}" for n in range(10_000)]
    assert [n for n, line in enumerate(lines) if line["status"] == "failed"] == failing
    assert [lines[n]["error"]["message"] for n in failing] == [f"no {n}" for n in failing]
    assert all(line["text"] for n, line in enumerate(lines) if n not in set(failing))
    counts = [manifest[name] for name in ("total", "succeeded", "failed", "missing", "unknown", "repeated")]
    assert counts == [10_000, 9_963, 37, 0, 0, 0]
    assert sorted(line["key"] for line in landed(errors)) == [f"{n:05d}" for n in failing]


@pytest.mark.parametrize(
    ("model", "location", "options"),
    [
        ("gemini-embedding-001", "us-central1", {"output_dimensionality": 8, "task_type": "RETRIEVAL_DOCUMENT"}),
        ("gemini-embedding-2", "us", {"output_dimensionality": 8}),
        ("text-embedding-005", "us-central1", {}),
        ("text-multilingual-embedding-002", "us-central1", {}),
    ],
)
def test_embeddings_of_every_generation_come_back_by_key(
    emulator: EmulatorHandle,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model: str,
    location: str,
    options: dict[str, Any],
) -> None:
    set_connection(monkeypatch, emulator.connection("vertex_ai", location=location))
    emulator.state.scripts.clear()
    emulator.script(mode="at_once", rows=[{"index": 5, "outcome": "error", "message": "too long"}])
    # Two rows with one text: each gets its answer.
    texts = [f"text {n % 19}" for n in range(20)]
    path = write_rows(tmp_path / "in.jsonl", [{"key": f"k{n}", "text": text} for n, text in enumerate(texts)])
    name = CreateEmbeddingBatchOperator(task_id="embed", model=model, input_path=path, **options).execute(attempt())
    manifest, lines = download(name, tmp_path, input_path=path)
    assert [line["key"] for line in lines] == [f"k{n}" for n in range(20)]
    assert {line["key"]: line["status"] for line in lines} == {
        f"k{n}": "failed" if n == 5 else "succeeded" for n in range(20)
    }
    assert "too long" in lines[5]["error"]["message"]
    vectors = [line["embedding"] for line in lines]
    assert all(len(vector) == options.get("output_dimensionality", len(vectors[0])) for vector in vectors if vector)
    assert vectors[0] == vectors[19] != vectors[1]
    assert (manifest["missing"], manifest["unreadable"], manifest["unknown"]) == (0, 0, 0)
    found = {result.key: result.embedding for result in GeminiBatchHook().get_responses(name)}
    assert found == {line["key"]: line["embedding"] for line in lines}


@pytest.mark.parametrize("backend", ["gemini", "vertex_ai"])
def test_a_scripted_row_is_named_by_the_users_key_and_a_rule_without_rows_shows(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    set_connection(monkeypatch, emulator.connection(backend))
    emulator.state.scripts.clear()
    emulator.script(mode="at_once", rows=[{"key": "k1", "outcome": "error"}, {"key": "typo", "outcome": "missing"}])
    hook = GeminiBatchHook()
    job = hook.create_batch(MODEL, inlined_requests=rows(3))
    answers = {result.key: result.status for result in hook.get_responses(job)}
    assert answers == {"k0": "succeeded", "k1": "failed", "k2": "succeeded"}
    assert emulator.ledger()["jobs"][0]["rule_matches"] == [1, 0]


def test_vectors_whose_input_is_gone_can_still_be_read(emulator: EmulatorHandle) -> None:
    hook = GeminiBatchHook()
    job = hook.create_embeddings_batch("text-embedding-005", inlined_requests=[{"key": "a", "text": "x"}])
    place = hook.get_batch(job.name).input_place
    assert place
    hook.delete_file(place)
    [result] = hook.get_responses(job.name)
    assert (result.key, result.status) == ("", "succeeded")
    assert result.embedding


def test_a_bigquery_job_reads_a_table_and_its_rows_are_read_back(emulator: EmulatorHandle, tmp_path: Path) -> None:
    request = {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}
    table_store(emulator.state).create_table(
        PROJECT, "emulator", "asked",
        rows=[{"key": f"k{n}", "request": json.dumps(request)} for n in range(30)],
    )  # fmt: skip
    emulator.state.scripts.clear()
    emulator.script(mode="at_once", rows=[{"index": 3, "outcome": "error", "message": "not this one"}])
    name = CreateBatchOperator(
        task_id="create",
        model=MODEL,
        bigquery_uri=f"bq://{PROJECT}.emulator.asked",
        destination=f"bq://{PROJECT}.emulator.answered",
        wait_for_completion=True,
        poll_interval=0.05,
    ).execute(attempt())
    summary = BatchJobSensor(task_id="wait", job_name=name).execute({})
    assert summary["output"] == {"kind": "bigquery", "place": f"bq://{PROJECT}.emulator.answered"}
    manifest, lines = download(name, tmp_path)
    assert {line["key"]: bool(line["text"]) for line in lines} == {f"k{n}": n != 3 for n in range(30)}
    [failed] = [line for line in lines if line["status"] == "failed"]
    assert "not this one" in failed["error"]["message"]
    assert (manifest["total"], manifest["failed"]) == (30, 1)


# --- who calls ------------------------------------------------------------------------------------------------------


def test_a_signed_assertion_gets_the_token_and_a_wait_outlives_it(emulator: EmulatorHandle) -> None:
    emulator.configure(token_lifetime_seconds=2.0)
    emulator.state.scripts.clear()
    emulator.script(mode="time", pending_seconds=0.5, running_seconds=4)
    hook = GeminiBatchHook()
    job = hook.create_batch(MODEL, inlined_requests=rows(2))
    assert hook.wait_for_batch(job.name, poll_interval=0.25, timeout=30).is_succeeded
    desk = token_desk(emulator.state)
    assert {token.grant for token in desk.tokens.values()} == {"jwt-bearer"}
    assert desk.issued >= 2
    assert desk.refused == 0, "each was renewed before its end"
    assert {entry["status"] for entry in emulator.journal(path="batchPredictionJobs")} == {200}


@pytest.mark.parametrize("blocking", [True, False], ids=["worker", "triggerer"])
def test_a_token_that_is_refused_in_mid_poll_costs_one_try(emulator: EmulatorHandle, blocking: bool) -> None:
    emulator.state.scripts.clear()
    emulator.script(mode="reads", pending_reads=2, running_reads=4)
    hook = GeminiBatchHook()
    job = hook.create_batch(MODEL, inlined_requests=rows(2))
    looks = 0

    def look(seen: Any, now: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            token_desk(emulator.state).expire_all()

    watch = Watch(WaitLimits(time.time() + 30), time.time(), look)
    flow = wait_for_end(hook.client.backend, job.name, watch, time.time, poll_interval=0.05)
    outcome = hook.run(flow) if blocking else asyncio.run(hook.arun(flow))
    assert outcome is Outcome.ENDED
    assert watch.job is not None
    assert watch.job.is_succeeded
    statuses = [entry["status"] for entry in emulator.journal(path=r"batchPredictionJobs/\d+$", method="GET")]
    assert statuses.count(401) == 1
    after = statuses[statuses.index(401) + 1 :]
    assert after
    assert set(after) == {200}
    assert token_desk(emulator.state).issued == 2


@pytest.mark.parametrize(
    "extra",
    [{"backend": "gemini"}, {"project": PROJECT, "storage_uri": "gs://emulator/airflow"}],
    ids=["gemini", "vertex_ai"],
)
def test_an_anonymous_connection_is_enough_for_an_emulator(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, extra: dict[str, Any]
) -> None:
    emulator.configure(accepted_tokens=None)
    connection = {"conn_type": "gemini_batch", "host": emulator.url, "extra": {"is_anonymous": True, **extra}}
    set_connection(monkeypatch, connection)
    path = write_rows(tmp_path / "in.jsonl", rows(3))
    name = CreateBatchOperator(task_id="create", model=MODEL, input_path=path).execute(attempt())
    _, lines = download(name, tmp_path, input_path=path)
    assert [line["status"] for line in lines] == ["succeeded"] * 3
    assert token_desk(emulator.state).issued == 0


def test_the_trigger_outlives_its_token(emulator: EmulatorHandle) -> None:
    emulator.state.scripts.clear()
    emulator.script(mode="reads", pending_reads=2, running_reads=6)
    job = GeminiBatchHook().create_batch(MODEL, inlined_requests=rows(2))
    look = r"batchPredictionJobs/\d+$"
    seen = len(emulator.journal(path=look))

    def expire() -> None:
        until = time.time() + 30
        while len(emulator.journal(path=look)) < seen + 3 and time.time() < until:
            time.sleep(0.01)
        token_desk(emulator.state).expire_all()

    async def watch() -> list[Any]:
        trigger = BatchJobTrigger(job.name, poll_interval=0.1, deadline=time.time() + 30)
        return [event.payload async for event in trigger.run()]

    expiring = threading.Thread(target=expire)
    expiring.start()
    [payload] = asyncio.run(watch())
    expiring.join()
    assert read_event(payload).state is JobState.SUCCEEDED
    assert [entry["status"] for entry in emulator.journal(path=look)].count(401) == 1
    assert token_desk(emulator.state).issued == 2


def test_a_google_cloud_connection_is_taken_as_it_is(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = emulator.connection("vertex_ai")
    extra = {**ours["extra"], "keyfile_dict": json.dumps(ours["extra"]["keyfile_dict"])}
    del extra["backend"]
    set_connection(
        monkeypatch, {"conn_type": "google_cloud_platform", "host": ours["host"], "extra": extra}, "google_default"
    )
    path = write_rows(tmp_path / "in.jsonl", rows(3))
    name = CreateBatchOperator(
        task_id="create", model=MODEL, input_path=path, gemini_batch_conn_id="google_default"
    ).execute(attempt())
    assert name.startswith(f"projects/{PROJECT}/locations/us-central1/batchPredictionJobs/")
    _, lines = download(name, tmp_path, input_path=path, gemini_batch_conn_id="google_default")
    assert [line["status"] for line in lines] == ["succeeded"] * 3


# --- one job, one upload --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("stepped")
def test_the_job_carries_its_token_in_labels_and_a_second_attempt_adopts_it(emulator: EmulatorHandle) -> None:
    emulator.state.scripts.clear()
    emulator.script(mode="time", stuck="RUNNING")
    names = []
    for number in (1, 2):
        context = attempt(number)
        operator = CreateBatchOperator(
            task_id="create", model=MODEL, inlined_requests=rows(2), labels={"team": "search"}
        )
        names.append(operator.execute(context))
        task, _, digest = context["ti"].xcoms["submission_token"].partition(".")
        [job] = emulator.ledger()["jobs"]
        assert job["labels"] == {"team": "search", "airflow-task": task, "airflow-input": digest}
    assert names[0] == names[1] == job["name"]


def test_the_same_rows_are_sent_once(emulator: EmulatorHandle, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", rows(50))
    first, second = (UploadFileOperator(task_id=f"upload{n}", input_path=path).execute({}) for n in range(2))
    assert first == second
    assert first.startswith("gs://emulator/airflow/inputs/")
    sent = [entry for entry in emulator.journal(path="^/upload/") if entry["request_bytes"] > 2_000]
    assert len(sent) == 1
    assert len(GeminiBatchHook().list_files().files) == 1


# --- what is said ---------------------------------------------------------------------------------------------------


def failure(call: Any) -> str:
    with pytest.raises(GeminiBatchError) as caught:
        call()
    return str(caught.value)


def submit(**arguments: Any) -> Any:
    return CreateBatchOperator(
        task_id="create",
        model=MODEL,
        inlined_requests=rows(2),
        wait_for_completion=True,
        poll_interval=0.05,
        **arguments,
    ).execute(attempt())


def test_a_wrong_project_is_named(emulator: EmulatorHandle) -> None:
    emulator.configure(projects=["another"])
    text = failure(submit)
    assert PROJECT in text
    assert "correct the connection's project" in text


def test_a_wrong_location_is_named(emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    set_connection(monkeypatch, emulator.connection("vertex_ai", location="us-central9"))
    emulator.configure(locations=["us-central1"])
    text = failure(submit)
    assert "us-central9" in text
    assert "correct the connection's location" in text


def test_a_missing_bucket_of_the_connection_is_named(emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    set_connection(monkeypatch, emulator.connection("vertex_ai", storage_uri="gs://nobodys-bucket/x"))
    text = failure(submit)
    assert "gs://nobodys-bucket" in text
    assert "storage_uri" in text
    assert emulator.ledger()["totals"]["created"] == 0


def test_a_missing_bucket_of_the_input_is_named(emulator: EmulatorHandle) -> None:
    operator = CreateBatchOperator(task_id="create", model=MODEL, gcs_uri="gs://nobodys-bucket/in.jsonl")
    assert "The bucket of gs://nobodys-bucket/in.jsonl does not exist" in failure(lambda: operator.execute(attempt()))


def test_trying_the_connection_tries_its_storage_place(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    ok, text = GeminiBatchHook().test_connection()
    assert ok
    assert text.startswith("Connected to Vertex AI.")
    set_connection(monkeypatch, emulator.connection("vertex_ai", storage_uri="gs://nobodys-bucket/x"))
    ok, text = GeminiBatchHook().test_connection()
    assert not ok
    assert "storage_uri (gs://nobodys-bucket/x)" in text


@pytest.mark.parametrize(
    ("path", "message", "reason", "word"),
    [
        ("^/v1/", "Caller does not have required permission to use project payer-1.", "USER_PROJECT_DENIED", "payer-1"),
        ("^/v1/", "Request is prohibited. vpcServiceControlsUniqueIdentifier: x", "SECURITY_POLICY_VIOLATED", "VPC"),
        ("^/upload/", "The billing account for the owning project is disabled.", "", "billing"),
    ],
)
def test_a_refusal_that_no_role_of_ours_mends_names_none(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, path: str, message: str, reason: str, word: str
) -> None:
    set_connection(monkeypatch, emulator.connection("vertex_ai", quota_project="payer-1"))
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}]
    error = {"code": 403, "status": "PERMISSION_DENIED", "message": message, "details": details}
    emulator.fault(match={"path": path}, status=403, times=None, body={"error": error})
    text = failure(submit)
    assert word in text.partition(" - ")[2] or not text.partition(" - ")[2]
    assert "roles/aiplatform.user" not in text
    assert "roles/storage" not in text


def test_behind_a_proxy_that_serves_vertex_ai_alone_the_field_to_fill_in_is_named(emulator: EmulatorHandle) -> None:
    emulator.fault(match={"path": "^/(upload|bigquery)/"}, status=404, body="html", times=None)
    hook = GeminiBatchHook()
    table = BigQuery(hook.settings.bigquery_base_url).table(f"bq://{PROJECT}.set.table", hook.retry)
    for call, field in ((submit, "storage_host"), (lambda: hook.run(table), "bigquery_host")):
        text = failure(call)
        assert emulator.url in text
        assert field in text


def test_a_missing_bucket_of_the_destination_is_named(emulator: EmulatorHandle) -> None:
    text = failure(lambda: submit(destination="gs://nobodys-bucket/x"))
    assert "gs://nobodys-bucket does not exist" in text
    assert "check the bucket's name" in text


def test_a_denied_upload_names_the_permission_and_the_role(emulator: EmulatorHandle) -> None:
    emulator.configure(extra={"storage_denied": {"emulator": ["storage.objects.create"]}})
    text = failure(submit)
    assert "storage.objects.create" in text
    assert "roles/storage.objectUser" in text
    assert emulator.ledger()["totals"]["created"] == 0


def test_a_service_agent_that_may_not_write_is_told_apart_from_the_connections_account(
    emulator: EmulatorHandle,
) -> None:
    emulator.configure(unwritable_buckets=["emulator"])
    text = failure(submit)
    assert "gcp-sa-aiplatform" in text
    assert "roles/storage.objectAdmin" in text
    assert "not the account of the connection" in text


def test_results_that_may_not_be_read_name_the_permission_and_the_role(
    emulator: EmulatorHandle, tmp_path: Path
) -> None:
    name = submit()
    emulator.configure(extra={"storage_denied": {"emulator": ["storage.objects.get"]}})
    text = failure(lambda: download(name, tmp_path))
    assert "storage.objects.get" in text
    assert "roles/storage.objectUser" in text
    assert not (tmp_path / "out.jsonl").exists()


def test_a_deleted_job_is_said_to_be_deleted(emulator: EmulatorHandle, tmp_path: Path) -> None:
    name = submit()
    hook = GeminiBatchHook()
    assert hook.get_batch(name).state is JobState.SUCCEEDED
    hook.delete_batch(name)
    hook.delete_batch(name)
    looks = (lambda: hook.get_batch(name), lambda: download(name, tmp_path))
    for look in looks:
        text = failure(look)
        assert name in text
        assert "was deleted, or belongs to another project or location" in text


def test_a_model_of_another_location_says_where_to_go(emulator: EmulatorHandle) -> None:
    operator = CreateEmbeddingBatchOperator(
        task_id="embed", model="gemini-embedding-2", inlined_requests=[{"text": "a"}]
    )
    text = failure(lambda: operator.execute(attempt()))
    assert "not served in location us-central1 of the connection" in text
    assert emulator.ledger()["totals"]["created"] == 0
