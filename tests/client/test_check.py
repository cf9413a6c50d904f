# SPDX-License-Identifier: Apache-2.0
"""The test of a connection tries what a job needs, and says which of it holds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.client import GeminiBatchClient, check
from airflow_provider_gemini_batch.connection.reading import settings_from_connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

SERVICE = "^/(v1|upload|download|storage)"


@pytest.fixture
def connect(gemini_batch_emulator: EmulatorHandle) -> Callable[..., GeminiBatchClient]:
    def connected(backend: str, **extra: Any) -> GeminiBatchClient:
        fields = gemini_batch_emulator.connection(backend)
        fields["extra"] = {**fields.get("extra", {}), **extra}
        return GeminiBatchClient(settings_from_connection(**fields))

    return connected


def test_good_key_is_told_with_the_models_it_can_use(connect: Callable[..., GeminiBatchClient]) -> None:
    ok, text = connect("gemini").test_connection()
    assert ok
    assert text.startswith("Connected to the Gemini Developer API. API key: ok")
    assert "models: ok (" in text


def test_good_vertex_connection_tells_each_need(connect: Callable[..., GeminiBatchClient]) -> None:
    ok, text = connect("vertex_ai").test_connection()
    assert ok
    assert text.startswith("Connected to Vertex AI. token: ok; project emulated-project and location us-central1: ok")
    assert "is writable: ok" in text
    assert "is readable: ok" in text


def test_probe_leaves_no_object_behind(connect: Callable[..., GeminiBatchClient]) -> None:
    client = connect("vertex_ai")
    before = [file.name for file in client.all_files()]
    assert client.test_connection()[0]
    assert [file.name for file in client.all_files()] == before


def test_bucket_that_may_not_be_written_fails_the_test(
    connect: Callable[..., GeminiBatchClient], gemini_batch_emulator: EmulatorHandle
) -> None:
    gemini_batch_emulator.configure(forbidden_buckets=["emulator"])
    ok, text = connect("vertex_ai").test_connection()
    assert not ok
    assert "is writable: FAILS" in text.split(";")[0]
    assert "roles/storage.objectUser" in text
    assert "token: ok" in text


def test_missing_bucket_fails_the_test(connect: Callable[..., GeminiBatchClient]) -> None:
    ok, text = connect("vertex_ai", storage_uri="gs://no-such-bucket/x").test_connection()
    assert not ok
    assert "gs://no-such-bucket does not exist" in text


def test_vertex_connection_without_storage_says_what_tasks_have_to_name(
    connect: Callable[..., GeminiBatchClient],
) -> None:
    ok, text = connect("vertex_ai", storage_uri="").test_connection()
    assert ok
    assert "storage_uri is empty: each task has to name gcs_uri and destination" in text


@pytest.mark.parametrize(("backend", "need"), [("gemini", "list of jobs"), ("vertex_ai", "project emulated-project")])
def test_refused_list_of_jobs_fails_the_test(
    connect: Callable[..., GeminiBatchClient], gemini_batch_emulator: EmulatorHandle, backend: str, need: str
) -> None:
    gemini_batch_emulator.fault(match={"path": SERVICE}, status=403, message="closed to you", times=None)
    ok, text = connect(backend).test_connection()
    assert not ok
    assert need in text.split(": FAILS")[0]
    assert "closed to you" in text


def test_misspelt_extra_is_named_by_the_test(connect: Callable[..., GeminiBatchClient]) -> None:
    ok, text = connect("gemini", timout=5).test_connection()
    assert ok
    assert "Extra 'timout' is not known and has no effect; 'timeout' may be meant." in text


@pytest.mark.parametrize(
    ("denied", "fails"),
    [
        ("storage.objects.create", "is writable: FAILS"),
        ("storage.objects.get", "is readable: FAILS"),
        ("storage.objects.list", "is readable: FAILS"),
    ],
)
def test_each_permission_that_a_job_needs_of_the_bucket_is_tried(
    connect: Callable[..., GeminiBatchClient], gemini_batch_emulator: EmulatorHandle, denied: str, fails: str
) -> None:
    gemini_batch_emulator.configure(storage_denied={"emulator": [denied]})
    ok, text = connect("vertex_ai").test_connection()
    assert not ok
    assert fails in text.split(";")[0]
    assert denied in text


def test_an_account_that_may_not_delete_passes_the_test(
    connect: Callable[..., GeminiBatchClient], gemini_batch_emulator: EmulatorHandle
) -> None:
    gemini_batch_emulator.configure(storage_denied={"emulator": ["storage.objects.delete"]})
    assert connect("vertex_ai").test_connection()[0]


def test_a_missing_storage_place_is_told_first(connect: Callable[..., GeminiBatchClient]) -> None:
    _, text = connect("vertex_ai", storage_uri="").test_connection()
    assert text.startswith("Connected to Vertex AI, but storage_uri is empty")


@pytest.mark.parametrize("backend", ["gemini", "vertex_ai"])
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 200, "body": "html"},
        {"status": 200, "body": "empty"},
        {"status": 200, "body": "array"},
        {"status": 200, "body": "truncated"},
        {"status": 200, "body": {"batches": 3, "operations": "x", "batchPredictionJobs": 1}},
        {"status": 301, "headers": {"Location": "https://elsewhere.example/"}},
        {"status": 400, "message": "API key not valid. Please pass a valid API key."},
        {"status": 401},
        {"status": 404},
        {"status": 407},
        {"status": 429, "retry_after": 3600},
        {"status": 500, "body": "html"},
        {"action": "reset"},
        {"action": "cut_response", "bytes": 10},
    ],
    ids=lambda fault: "-".join(str(value)[:20] for value in fault.values()),
)
def test_an_odd_reply_fails_the_test_soon_and_in_a_sentence(
    connect: Callable[..., GeminiBatchClient],
    gemini_batch_emulator: EmulatorHandle,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    fault: Any,
) -> None:
    monkeypatch.setattr(check, "PATIENCE", 0.4)
    gemini_batch_emulator.seed_jobs(count=1, state="RUNNING")
    gemini_batch_emulator.fault(match={"path": SERVICE}, times=None, **fault)
    client = connect(backend)
    ok, text = client.test_connection()
    assert not ok, text
    assert "FAILS" in text
    assert "Traceback" not in text
    key = client.settings.api_key
    assert key is None or key.reveal() not in text


@pytest.mark.parametrize("place", ["^/storage", "^/(upload/)?storage/.*/o", "alt=media|^/storage/v1/b/[^/]+/o/"])
def test_a_storage_that_keeps_failing_is_told_soon(
    connect: Callable[..., GeminiBatchClient],
    gemini_batch_emulator: EmulatorHandle,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    monkeypatch.setattr(check, "PATIENCE", 0.4)
    gemini_batch_emulator.fault(match={"path": place}, times=None, status=503, message="down for a while")
    begin = time.monotonic()
    ok, text = connect("vertex_ai").test_connection()
    assert not ok
    assert "FAILS" in text.split(";")[0]
    assert "down for a while" in text or "kept failing" in text
    assert time.monotonic() - begin < 10
