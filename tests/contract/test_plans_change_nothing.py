# SPDX-License-Identifier: Apache-2.0
"""What dry runs, ``validate`` and ``plan`` send, call by call: nothing that makes, uploads, cancels or deletes."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from airflow_provider_gemini_batch.cli import main
from airflow_provider_gemini_batch.compat import AirflowSkipException
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.operators import (
    CreateBatchOperator,
    CreateEmbeddingBatchOperator,
    RunBatchOperator,
    RunEmbeddingBatchOperator,
)
from tests.support.airflow_side import attempt, rows, set_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

MODEL, EMBEDDING = "gemini-3.5-flash-lite", "gemini-embedding-001"
SCOPE = "projects/emulated-project/locations/us-central1"

ALLOWED = {
    "gemini": (r"POST /v1(beta)?/models/[a-z0-9.-]+:countTokens", r"GET /v1(beta)?/batches"),
    "vertex_ai": (
        r"POST /token",
        rf"POST /v1/{SCOPE}/publishers/google/models/[a-z0-9.-]+:countTokens",
        rf"GET /v1/{SCOPE}/batchPredictionJobs",
    ),
}
"""Method and path of all that may be sent: counts, lists of jobs and access tokens."""

_CONNECTED: list[tuple[str, int]] = []


def _note_connection(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        _CONNECTED.append((str(arguments[1][0]), int(arguments[1][1])))


sys.addaudithook(_note_connection)


@pytest.fixture(params=["gemini", "vertex_ai"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def watched(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, backend: str) -> EmulatorHandle:
    """The emulator, in which a job of the very task runs on other rows: a submission would cancel it."""
    set_connection(monkeypatch, gemini_batch_emulator.connection(backend))
    gemini_batch_emulator.script(mode="time", pending_seconds=0, running_seconds=10_000)
    create(inlined_requests=rows(2)).execute(attempt())
    return gemini_batch_emulator


@contextlib.contextmanager
def only_allowed(emulator: EmulatorHandle, backend: str) -> Iterator[list[str]]:
    """Check each call that is made meanwhile, wherever it goes; yield them."""
    before, ledger = len(emulator.journal()), emulator.ledger()
    _CONNECTED.clear()
    calls: list[str] = []
    yield calls
    here = urlsplit(emulator.url)
    assert {(host, port) for host, port in _CONNECTED} <= {(here.hostname, here.port)}
    calls += [f"{entry['method']} {entry['path']}" for entry in emulator.journal()[before:]]
    assert [call for call in calls if not any(re.fullmatch(each, call) for each in ALLOWED[backend])] == []
    after = emulator.ledger()
    assert [(job["name"], job["state"]) for job in after["jobs"]] == [
        (job["name"], job["state"]) for job in ledger["jobs"]
    ]


def create(**arguments: Any) -> CreateBatchOperator:
    return CreateBatchOperator(task_id="ask", model=MODEL, **arguments)


def file_of(tmp_path: Path, count: int = 50, member: str = "prompt") -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"key": f"k{n}", member: f"Say {n}"}) + "\n" for n in range(count)))
    return str(path)


def run_arguments(tmp_path: Path) -> dict[str, Any]:
    given = [{"id": number, "word": f"word {number}"} for number in range(50)]
    return {"rows": given, "key": "id", "output_path": str(tmp_path / "out.parquet"), "dry_run": True}


def a_create(tmp_path: Path) -> Any:
    return create(inlined_requests=rows(50), dry_run=True, max_cost=100.0)


def a_create_of_a_file(tmp_path: Path) -> Any:
    return create(input_path=file_of(tmp_path), dry_run=True)


def an_embedding(tmp_path: Path) -> Any:
    path = file_of(tmp_path, member="text")
    return CreateEmbeddingBatchOperator(task_id="ask", model=EMBEDDING, input_path=path, dry_run=True)


def a_run(tmp_path: Path) -> Any:
    return RunBatchOperator(task_id="ask", model=MODEL, prompt="{{ row.word }}", max_cost=0.01,
                            **run_arguments(tmp_path))  # fmt: skip


def a_run_of_vectors(tmp_path: Path) -> Any:
    return RunEmbeddingBatchOperator(task_id="ask", model=EMBEDDING, text="{{ row.word }}", **run_arguments(tmp_path))


@pytest.mark.parametrize("made", [a_create, a_create_of_a_file, an_embedding, a_run, a_run_of_vectors])
def test_a_dry_run_sends_nothing_that_changes(
    watched: EmulatorHandle, backend: str, tmp_path: Path, made: Callable[[Path], Any]
) -> None:
    operator = made(tmp_path)
    with only_allowed(watched, backend) as calls, pytest.raises(AirflowSkipException, match="dry_run"):
        operator.execute(attempt())
    assert any("countTokens" in call for call in calls) == (operator.model == MODEL)
    assert not (tmp_path / "out.parquet").exists()
    assert not (tmp_path / "_gemini_batch").exists()


def test_a_dry_run_in_a_notebook_sends_nothing_that_changes(
    watched: EmulatorHandle, backend: str, tmp_path: Path
) -> None:
    with only_allowed(watched, backend) as calls:
        plan = GeminiBatchHook().run_batch(
            run_key="n", checkpoint_path=str(tmp_path / "kept"), model=MODEL, prompt="{{ row.word }}",
            **run_arguments(tmp_path),
        )  # fmt: skip
    assert plan["rows_to_ask"] == 50
    assert any("countTokens" in call for call in calls)


def test_plan_with_a_connection_counts_and_no_more(
    watched: EmulatorHandle, backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", file_of(tmp_path), "--model", MODEL, "--conn-id", "gemini_batch_default"]
    with only_allowed(watched, backend) as calls:
        assert main(words) == 0
    assert any("countTokens" in call for call in calls)
    assert "input counted on" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_commands_without_a_connection_send_nothing(
    watched: EmulatorHandle, backend: str, tmp_path: Path, command: str
) -> None:
    with only_allowed(watched, backend) as calls:
        assert main([command, file_of(tmp_path), "--model", MODEL, "--backend", backend]) == 0
    assert calls == []
    assert _CONNECTED == []


def test_a_submission_would_be_seen(watched: EmulatorHandle, backend: str) -> None:
    with pytest.raises(AssertionError, match=r"POST|DELETE|PUT"), only_allowed(watched, backend):
        create(inlined_requests=rows(3)).execute(attempt())
