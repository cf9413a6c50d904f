# SPDX-License-Identifier: Apache-2.0
"""The submit flow against the emulator, over HTTP, on both backends; pauses pass in emulated time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.api.backends import backend_for
from airflow_provider_gemini_batch.api.identity import SubmissionToken, token_of
from airflow_provider_gemini_batch.api.models import JobSpec
from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from airflow_provider_gemini_batch.errors import RateLimitedError
from airflow_provider_gemini_batch.lifecycle.submit import submit
from airflow_provider_gemini_batch.transport.blocking import BlockingTransport
from airflow_provider_gemini_batch.transport.credentials import credentials_for

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.wire import Flow
    from airflow_provider_gemini_batch.lifecycle.submission import Submission
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

TOKEN = SubmissionToken("a" * 16, "1" * 16)
ROW = b'{"key": "afgb:a", "request": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}}\n'
CREATE = r":batchGenerateContent|/batchPredictionJobs$"


class Rows:
    size = len(ROW)

    def read(self, offset: int, length: int) -> bytes:
        return ROW[offset : offset + length]


@pytest.fixture(params=["gemini", "vertex_ai"])
def attempt(request: pytest.FixtureRequest, gemini_batch_emulator: EmulatorHandle) -> Any:
    connection = gemini_batch_emulator.connection(request.param)
    settings = settings_from_connection(**connection)
    backend = backend_for(settings)

    def prepare() -> Flow[str]:
        place = f"{settings.storage_uri}/rows.jsonl"
        remote = yield from backend.upload(Rows(), name=place, display_name="rows", mime_type="application/jsonl")
        return remote.name

    def spec(source: str) -> JobSpec:
        if request.param == "gemini":
            return JobSpec("gemini-3.5-flash-lite", "generate", "nightly", file_name=source)
        return JobSpec(
            "gemini-3.5-flash-lite", "generate", "nightly", gcs_uri=source, destination=f"{settings.storage_uri}/out"
        )

    def run(**options: Any) -> Submission:
        clock = gemini_batch_emulator.state.now
        flow = submit(backend, spec, prepare, TOKEN, since=clock() - 60, now=clock, **options)
        with BlockingTransport(settings, credentials_for(settings), sleep=gemini_batch_emulator.advance) as transport:
            return transport.run(flow)

    return run


def _live(emulator: EmulatorHandle) -> list[str]:
    return [job["name"] for job in emulator.ledger()["jobs"] if "CANCEL" not in job["state"]]


def test_a_second_attempt_adopts(attempt: Any, gemini_batch_emulator: EmulatorHandle) -> None:
    gemini_batch_emulator.script(mode="time", pending_seconds=600, running_seconds=600)
    first, second = attempt(), attempt(may_have_rivals=True)
    assert (first.action, second.action) == ("created", "adopted")
    assert token_of(second.job) == TOKEN
    assert _live(gemini_batch_emulator) == [first.job.name]


@pytest.mark.parametrize("fault", [{"action": "close"}, {"action": "cut_response", "bytes": 20}, {"status": 503}])
def test_a_lost_answer_costs_nothing(attempt: Any, gemini_batch_emulator: EmulatorHandle, fault: Any) -> None:
    gemini_batch_emulator.configure(listing_lag=6)
    rule = gemini_batch_emulator.fault(match={"method": "POST", "path": CREATE}, when="after", **fault)
    done = attempt()
    assert rule.fired == 1
    assert _live(gemini_batch_emulator) == [done.job.name]


def test_no_quota_is_told_and_bills_nothing(attempt: Any, gemini_batch_emulator: EmulatorHandle) -> None:
    gemini_batch_emulator.fault(match={"method": "POST", "path": CREATE}, status=429)
    with pytest.raises(RateLimitedError):
        attempt()
    assert _live(gemini_batch_emulator) == []
    assert attempt(may_have_rivals=True).action == "created"
