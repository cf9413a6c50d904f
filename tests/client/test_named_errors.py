# SPDX-License-Identifier: Apache-2.0
"""An error of the service names the job, file or call it is about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.client import GeminiBatchClient
from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from airflow_provider_gemini_batch.errors import ApiError

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

JOBS = {
    "gemini": "batches/no-such-job",
    "vertex_ai": "projects/emulated-project/locations/us-central1/batchPredictionJobs/4711",
}
FILES = {"gemini": "files/no-such-file", "vertex_ai": "gs://emulator/no-such-file.jsonl"}
SERVICE = "^/(v1|upload|download|storage)"
"""Paths of the service, without the one that gives tokens."""

CALLS: dict[str, Callable[[GeminiBatchClient, str, str, Path], Any]] = {
    "get_batch": lambda client, job, file, place: client.get_batch(job),
    "cancel_batch": lambda client, job, file, place: client.cancel_batch(job),
    "delete_batch": lambda client, job, file, place: client.delete_batch(job),
    "get_responses": lambda client, job, file, place: list(client.get_responses(job)),
    "get_file": lambda client, job, file, place: client.get_file(file),
    "download_file": lambda client, job, file, place: client.download_file(file, place / "out"),
}


@pytest.fixture(params=["gemini", "vertex_ai"])
def client(request: pytest.FixtureRequest, gemini_batch_emulator: EmulatorHandle) -> GeminiBatchClient:
    fields = gemini_batch_emulator.connection(request.param)
    return GeminiBatchClient(settings_from_connection(**fields))


CASES = [(call, status) for call in CALLS for status in (403, 404)]
CASES = [case for case in CASES if case not in (("cancel_batch", 404), ("delete_batch", 404))]  # such a job is gone


@pytest.mark.parametrize(("call", "status"), CASES)
def test_a_refusal_names_the_job_or_file(
    client: GeminiBatchClient, gemini_batch_emulator: EmulatorHandle, tmp_path: Path, call: str, status: int
) -> None:
    gemini_batch_emulator.fault(match={"path": SERVICE}, action="reply", status=status, times=None)
    job, file = JOBS[client.backend.name], FILES[client.backend.name]
    with pytest.raises(ApiError) as refused:
        CALLS[call](client, job, file, tmp_path)
    assert (file if "file" in call else job) in str(refused.value)
    assert refused.value.status == status


def test_a_refused_list_says_what_was_listed(client: GeminiBatchClient, gemini_batch_emulator: EmulatorHandle) -> None:
    gemini_batch_emulator.fault(match={"path": SERVICE}, action="reply", status=403, times=None)
    with pytest.raises(ApiError, match="list of jobs"):
        client.list_batches()


def test_a_refused_create_names_the_model(client: GeminiBatchClient, gemini_batch_emulator: EmulatorHandle) -> None:
    gemini_batch_emulator.fault(
        match={"path": "(batchGenerateContent|batchPredictionJobs)$", "method": "POST"}, action="reply", status=403
    )
    with pytest.raises(ApiError, match=r"models/gemini-3\.5-flash-lite"):
        client.create_batch("gemini-3.5-flash-lite", inlined_requests=[{"prompt": "a"}])
