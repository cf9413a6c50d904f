# SPDX-License-Identifier: Apache-2.0
"""``countTokens`` before an estimate: what is counted, what a failure changes, and where nobody asks."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.api.wire import HttpReply, HttpRequest
from airflow_provider_gemini_batch.client import counting
from airflow_provider_gemini_batch.client.client import GeminiBatchClient
from airflow_provider_gemini_batch.compat import AirflowException, AirflowSkipException
from airflow_provider_gemini_batch.cost.input_measure import InputMeasure
from airflow_provider_gemini_batch.cost.row_sample import MOST_ROWS
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.operators import (
    CreateBatchOperator,
    CreateEmbeddingBatchOperator,
    RunBatchOperator,
    RunEmbeddingBatchOperator,
)
from airflow_provider_gemini_batch.task.xcom_keys import ESTIMATE_KEY
from tests.run.world import client_of
from tests.support.airflow_side import attempt, rows, set_connection
from tests.support.odd_server import servers, trickle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle
    from tests.support.odd_server import Servers

MODEL = "gemini-3.5-flash-lite"
BY_BYTES = "input estimated at a token for 4 bytes"
TEXT = "Is 1 + 1 = 2? " * 20


@pytest.fixture
def odd_servers() -> Iterator[Servers]:
    with servers() as started:
        yield started


def create(count: int = 3, **arguments: Any) -> CreateBatchOperator:
    arguments.setdefault("inlined_requests", rows(count, prompt=TEXT))
    return CreateBatchOperator(task_id="ask", model=MODEL, **arguments)


def run_batch(tmp_path: Path, count: int = 3, **arguments: Any) -> RunBatchOperator:
    given = [{"id": number, "text": TEXT} for number in range(count)]
    return RunBatchOperator(
        task_id="ask", model=MODEL, rows=given, key="id", prompt="{{ row.text }}",
        output_path=str(tmp_path / "out.jsonl"), **arguments,
    )  # fmt: skip


def count_calls(emulator: EmulatorHandle) -> list[str]:
    return [entry["path"] for entry in emulator.journal(path="countTokens")]


def estimate_of(operator: Any) -> dict[str, Any]:
    context = attempt()
    with contextlib.suppress(AirflowSkipException):
        operator.execute(context)
    return dict(context["ti"].xcoms[ESTIMATE_KEY])


def test_a_job_is_estimated_by_counted_tokens(emulator: EmulatorHandle) -> None:
    found = estimate_of(create())
    assert found["basis"].startswith("input counted,")
    assert len(count_calls(emulator)) == 3
    assert found["input_tokens"]["likely"] == 3 * len(TEXT) / 4
    assert found["input_tokens"]["high"] < 1.1 * 3 * len(TEXT) / 4


def test_a_run_is_estimated_by_counted_tokens(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.script(mode="at_once")
    context = attempt()
    manifest = run_batch(tmp_path, deferrable=False).execute(context)
    found = context["ti"].xcoms[ESTIMATE_KEY]
    assert found["basis"].startswith("input counted,")
    assert len(count_calls(emulator)) == 3
    assert found["input_tokens"]["likely"] == pytest.approx(manifest["tokens"]["prompt"], abs=1)


@pytest.mark.parametrize("of_run", [False, True], ids=["create", "run"])
def test_many_rows_take_few_calls(emulator: EmulatorHandle, tmp_path: Path, of_run: bool) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(2_000)))
    operator = run_batch(tmp_path, 2_000, dry_run=True) if of_run else create(input_path=str(path), dry_run=True,
                                                                              inlined_requests=None)  # fmt: skip
    found = estimate_of(operator)
    assert MOST_ROWS // 2 <= len(count_calls(emulator)) <= MOST_ROWS
    assert found["input_tokens"]["high"] < 2 * found["input_tokens"]["low"]
    assert emulator.ledger()["totals"]["created"] == 0


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 403},
        {"status": 404},
        {"status": 429, "retry_after": 600},
        {"status": 500},
        {"status": 200, "body": "html"},
        {"status": 200, "body": {}},
        {"status": 200, "body": {"totalTokens": "many"}},
        {"status": 200, "body": {"totalTokens": 0}},
        {"action": "close"},
        {"action": "delay", "delay": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("of_run", [False, True], ids=["create", "run"])
def test_a_count_that_fails_stops_no_job(
    emulator: EmulatorHandle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    fault: dict[str, Any],
    of_run: bool,
) -> None:
    monkeypatch.setattr(counting, "CALL_WITHIN", 0.2)
    caplog.set_level("INFO")
    emulator.script(mode="at_once")
    emulator.fault(match={"method": "POST", "path": "countTokens"}, times=None, **fault)
    operator = run_batch(tmp_path, 20, deferrable=False) if of_run else create(20)
    found = estimate_of(operator)
    assert found["basis"].startswith(BY_BYTES)
    assert len(count_calls(emulator)) == 1
    assert emulator.ledger()["totals"]["created"] == 1
    said = caplog.text + "".join(capsys.readouterr())  # where Airflow's log goes differs between its versions
    assert "The tokens of 0 of" in said
    assert BY_BYTES in said


def test_what_was_counted_before_a_failure_stands_for_the_rest(emulator: EmulatorHandle) -> None:
    emulator.fault(match={"path": "countTokens"}, status=429, skip=5, times=None)
    assert estimate_of(create(20, dry_run=True))["basis"].startswith("input counted on 5 rows,")


def test_rows_counted_before_a_failure_come_from_all_of_the_input(emulator: EmulatorHandle) -> None:
    # A character of four bytes is as many tokens as one of ASCII: the second half holds four times as many a byte.
    given = [{"key": f"k{n}", "prompt": ("\U0001f642" if n < 8 else "word") * 200} for n in range(16)]
    tokens = (8 * 200 + 8 * 800) / 4
    emulator.fault(match={"path": "countTokens"}, status=429, skip=5, times=None)
    found = estimate_of(create(inlined_requests=given, dry_run=True))
    assert found["basis"].startswith("input counted on 5 rows,")
    assert found["input_tokens"]["low"] < tokens < found["input_tokens"]["high"]


def test_reply_that_trickles_takes_no_longer_than_all_counts_may(
    odd_servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "WITHIN", 1.0)
    server = odd_servers.start(*[trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n" + b" " * 19, 0.1)] * 9)
    request = {"contents": [{"parts": [{"text": "Why?"}]}]}
    with GeminiBatchClient.connect("k" * 39, base_url=server.url) as client:
        began = time.monotonic()
        assert counting.counted(client, MODEL, [(10, request)] * 9, logging.getLogger(__name__)) == ()
    assert time.monotonic() - began < 2


def test_row_too_deep_to_be_read_again_stops_no_job(gemini_batch_emulator: EmulatorHandle) -> None:
    client = client_of(gemini_batch_emulator)
    depth = 10 * sys.getrecursionlimit()
    line = b'{"key": "a", "request": ' + b"[" * depth + b"]" * depth + b"}\n"
    measure = InputMeasure(1, len(line))
    assert counting.with_counts(client, MODEL, measure, [line], logging.getLogger(__name__)).counted == ()


def test_counting_ends_when_its_time_is_over(gemini_batch_emulator: EmulatorHandle) -> None:
    times = iter([0.0, 1.0, 7.0, 12.0])
    found: list[tuple[int, int]] = []
    request = {"contents": [{"parts": [{"text": "Why?"}]}]}
    backend = client_of(gemini_batch_emulator).backend
    flow = counting._count(backend, MODEL, [(10, request)] * 9, found, lambda: next(times))
    asked = [next(flow)]
    with contextlib.suppress(StopIteration):
        while len(asked) < 9:
            asked.append(flow.send(HttpReply(200, body=b'{"totalTokens": 7}')))
    assert found == [(10, 7)] * 2
    assert [call.timeout for call in asked if isinstance(call, HttpRequest)] == [1.8, 0.6]


def test_instruction_schema_and_tools_are_counted(emulator: EmulatorHandle) -> None:
    tools = [{"functionDeclarations": [{"name": "f", "description": "d"}]}]
    bare = estimate_of(create(dry_run=True))["input_tokens"]["likely"]
    whole = create(dry_run=True, system_instruction="Be brief. " * 100, inlined_requests=[
        {"key": "a", "request": {"contents": [{"parts": [{"text": TEXT}]}], "tools": tools,
                                 "safetySettings": [], "generationConfig": {"maxOutputTokens": 5}}}
    ])  # fmt: skip
    found = estimate_of(whole)
    assert found["basis"].startswith("input counted,")
    assert found["input_tokens"]["likely"] > bare / 3 + 250


def test_files_are_counted_and_have_no_upper_end(emulator: EmulatorHandle) -> None:
    image = {"fileData": {"mimeType": "image/png", "fileUri": "gs://b/cat.png"}}
    given = [{"key": f"k{n}", "request": {"contents": [{"role": "user", "parts": [image, {"text": "What is it?"}]}]}}
             for n in range(100)]  # fmt: skip
    found = estimate_of(create(inlined_requests=given, dry_run=True))
    assert found["input_tokens"]["likely"] == 100 * (258 + 3)
    assert found["input_tokens"]["high"] is None
    assert found["dollars"]["high"] is None


def test_cached_content_that_nobody_counted_keeps_no_cap(
    gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__COUNT_TOKENS", "False")
    given = [{"key": "a", "prompt": "Sum it up", "cachedContent": "cachedContents/a-long-book"}]
    assert estimate_of(create(inlined_requests=given, dry_run=True))["input_tokens"]["high"] is None
    with pytest.raises(ConfigurationError, match="cached content"):
        create(inlined_requests=given, max_cost=1.0).execute(attempt())
    run = RunBatchOperator(task_id="ask", model=MODEL, rows=given, key="key", max_cost=1.0, deferrable=False,
                           output_path=str(tmp_path / "out.jsonl"))  # fmt: skip
    with pytest.raises(AirflowException, match="cached content"):
        run.execute(attempt())
    assert gemini_batch_emulator.ledger()["totals"]["created"] == 0


@pytest.mark.parametrize("of_run", [False, True], ids=["create", "run"])
def test_embeddings_are_not_counted(emulator: EmulatorHandle, tmp_path: Path, of_run: bool) -> None:
    given = [{"key": f"k{n}", "text": TEXT} for n in range(5)]
    shared: dict[str, Any] = {"task_id": "embed", "model": "gemini-embedding-001", "dry_run": True}
    operator = (
        RunEmbeddingBatchOperator(
            rows=given, key="key", text="{{ row.text }}", output_path=str(tmp_path / "out.jsonl"), **shared
        )
        if of_run
        else CreateEmbeddingBatchOperator(inlined_requests=given, **shared)
    )
    assert estimate_of(operator)["basis"] == BY_BYTES
    assert count_calls(emulator) == []


@pytest.mark.parametrize(
    ("backend", "model"),
    [("gemini", "tunedModels/mine"), ("vertex_ai", "projects/emulated-project/locations/us-central1/models/1")],
)
def test_tuned_models_are_not_counted(gemini_batch_emulator: EmulatorHandle, backend: str, model: str) -> None:
    client = client_of(gemini_batch_emulator, backend)
    assert client.backend.count_tokens(model, {"contents": [{"parts": [{"text": "Why?"}]}]}) is None


@pytest.mark.parametrize("of_run", [False, True], ids=["create", "run"])
def test_an_installation_may_count_nothing(
    emulator: EmulatorHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_run: bool
) -> None:
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__COUNT_TOKENS", "False")
    operator = run_batch(tmp_path, dry_run=True) if of_run else create(dry_run=True)
    assert estimate_of(operator)["basis"].startswith(BY_BYTES)
    assert count_calls(emulator) == []


@pytest.mark.usefixtures("stepped")
def test_a_job_that_is_found_again_is_not_counted(emulator: EmulatorHandle) -> None:
    create().execute(attempt())
    before = len(count_calls(emulator))
    create().execute(attempt(2))
    assert len(count_calls(emulator)) == before == 3


def test_a_job_without_an_estimate_is_not_counted(emulator: EmulatorHandle) -> None:
    create().hook.create_batch(MODEL, inlined_requests=rows(3))
    assert count_calls(emulator) == []


def test_a_run_that_goes_on_counts_once(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.script(mode="at_once", rows=[{"outcome": "error", "first": 1}])
    run_batch(tmp_path, rows_per_job=1, max_failed_rows=None, deferrable=False).execute(attempt())
    assert len(count_calls(emulator)) == 3


def test_counted_tokens_make_room_under_a_cap(emulator: EmulatorHandle) -> None:
    """By bytes, the upper end of these rows is more than twice what they hold."""
    found = estimate_of(create(20, max_input_tokens=20 * 95))
    assert found["input_tokens"]["high"] <= 20 * 95
    assert emulator.ledger()["totals"]["created"] == 1
