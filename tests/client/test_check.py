# SPDX-License-Identifier: Apache-2.0
"""The test of a connection tries what a job needs, and says which of it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.client import GeminiBatchClient
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
    assert "storage_uri: not told (empty: each task has to name gcs_uri and destination)" in text


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
