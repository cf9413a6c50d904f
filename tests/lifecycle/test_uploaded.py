# SPDX-License-Identifier: Apache-2.0
"""Rows that a refused create left at Google: when a submission may go on from them, stepped by hand."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_gemini_batch.api.developer.jobs import DeveloperBackend
from airflow_provider_gemini_batch.api.retry import NO_RETRY
from airflow_provider_gemini_batch.api.wire import HttpReply
from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
from airflow_provider_gemini_batch.lifecycle.request import JobRequest
from airflow_provider_gemini_batch.lifecycle.uploaded import UploadedInput, find_again, fingerprint

BACKEND = DeveloperBackend(ConnectionSettings("gemini", "https://service.example", "v1beta"))
NOW = 1_800_000_000.0
HOUR = 3600.0
REQUEST = JobRequest("generate", "gemini-3.5-flash-lite", input_path="/data/rows.jsonl")
LEFT = UploadedInput("a" * 64, "files/rows", fingerprint(REQUEST), 3)


def found(request: JobRequest = REQUEST, status: int = 200, hours: float = 40, **members: Any) -> Any:
    """Return what comes of the one read of the file, which lives for so many hours more."""
    expires = datetime.fromtimestamp(NOW + hours * HOUR, UTC).isoformat().replace("+00:00", "Z")
    file = {"name": "files/rows", "state": "ACTIVE", "sizeBytes": "9", "expirationTime": expires, **members}
    flow = find_again(BACKEND, request, LEFT, NO_RETRY, NOW)
    try:
        next(flow)
        flow.send(HttpReply(status, {}, json.dumps(file if status == 200 else {"error": {"code": status}}).encode()))
    except StopIteration as end:
        return end.value
    raise AssertionError("one read is enough")


def test_rows_that_outlive_a_job_are_used_again() -> None:
    prepared = found(hours=25)
    assert prepared.placed.file_name == "files/rows"
    assert prepared.rows == 3


def test_rows_that_may_expire_during_the_job_are_prepared_anew() -> None:
    assert found(hours=23) is None


@pytest.mark.parametrize("status", [403, 404])
def test_rows_that_are_gone_are_prepared_anew(status: int) -> None:
    assert found(status=status) is None


@pytest.mark.parametrize("members", [{"state": "FAILED"}, {"sha256Hash": b64encode(b"b" * 64).decode()}])
def test_a_file_that_is_not_what_was_sent_is_prepared_anew(members: dict[str, Any]) -> None:
    assert found(**members) is None


def test_other_arguments_prepare_the_rows_anew_without_a_call() -> None:
    assert found(replace(REQUEST, generation_config={"temperature": 0})) is None


def test_arguments_that_change_no_row_use_the_same_rows() -> None:
    assert found(replace(REQUEST, labels={"team": "x"}, display_name="other", priority=1)) is not None
