# SPDX-License-Identifier: Apache-2.0
"""What every submitting operator says of a model: its price is about to change, it retires, another one answered."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.compat import AirflowSkipException
from airflow_provider_gemini_batch.cost import model_table
from airflow_provider_gemini_batch.operators import (
    CreateBatchOperator,
    CreateEmbeddingBatchOperator,
    DownloadResultsOperator,
    RunBatchOperator,
    RunEmbeddingBatchOperator,
)
from tests.support.airflow_side import attempt, rows, set_connection

if TYPE_CHECKING:
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

MODEL, EMBEDDING = "gemini-3.5-flash-lite", "gemini-embedding-001"
OPERATORS = ("create", "embedding", "run", "run of embeddings")


def operator(which: str, tmp_path: Path, **arguments: Any) -> Any:
    texts = [{"key": f"k{n}", "text": f"Text {n}"} for n in range(3)]
    shared: dict[str, Any] = {"task_id": "ask", **arguments}
    run = {"rows": texts, "key": "key", "output_path": str(tmp_path / "out.jsonl")}
    if which == "create":
        return CreateBatchOperator(**{"model": MODEL, "inlined_requests": rows(3), **shared})
    if which == "embedding":
        return CreateEmbeddingBatchOperator(**{"model": EMBEDDING, "inlined_requests": texts, **shared})
    if which == "run":
        return RunBatchOperator(**{"model": MODEL, "prompt": "{{ row.text }}", **run, **shared})
    return RunEmbeddingBatchOperator(**{"model": EMBEDDING, "text": "{{ row.text }}", **run, **shared})


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return what a task said; where Airflow's log goes differs between its versions."""

    def said(task: Any) -> str:
        with contextlib.suppress(AirflowSkipException):
            task.execute(attempt())
        return caplog.text + "".join(capsys.readouterr())

    return said


@pytest.mark.parametrize("which", OPERATORS)
def test_a_price_that_changes_soon_is_told(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: Any, which: str
) -> None:
    today = datetime.now(UTC).date()
    task = operator(which, tmp_path, dry_run=True)
    prices = [{"model": task.model, "since": str(today + timedelta(days=days)), "input": 10.0 + days}
              for days in (-9, 1)]  # fmt: skip
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(prices))
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__PRICES_PATH", str(path))
    assert f"price of {task.model} changes on {today + timedelta(days=1)}" in told(task)


@pytest.mark.parametrize("which", OPERATORS)
@pytest.mark.parametrize("asked", [{}, {"dry_run": True}], ids=["job", "dry run"])
def test_a_model_that_retires_soon_is_told(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: Any, which: str, asked: Any
) -> None:
    emulator.script(mode="at_once")
    deferring = {"deferrable": False} if which.startswith("run") else {}
    task = operator(which, tmp_path, **asked, **deferring)
    soon = datetime.now(UTC).date() + timedelta(days=20)
    facts = model_table.model_facts(task.model)
    assert facts is not None
    retiring = replace(facts, retires={"gemini": soon, "vertex_ai": soon}, replacement="gemini-9")
    monkeypatch.setitem(model_table._TABLE, facts.name, retiring)  # type: ignore[arg-type]
    said = told(task)
    assert f"{task.model} is to be retired on" in said
    assert f"{soon}; the date may be extended. Ask for gemini-9 in its place." in said


@pytest.mark.parametrize("which", ["create", "run"])
def test_another_model_that_answered_is_told(
    gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: Any, which: str
) -> None:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    gemini_batch_emulator.script(mode="at_once")
    gemini_batch_emulator.configure(reroutes={MODEL: {"to": "gemini-3.8-flash"}})
    if which == "run":
        said = told(operator("run", tmp_path, deferrable=False))
    else:
        name = operator("create", tmp_path).execute(attempt())
        said = told(DownloadResultsOperator(task_id="land", job_name=name, output_path=str(tmp_path / "out.jsonl")))
    assert "came from a model that was not asked for (" in said
    assert "3 by gemini-3.8-flash. Its price and its answers may differ." in said


def test_a_model_that_was_shut_down_is_refused_before_rows_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_connection(monkeypatch, {"conn_type": "gemini_batch", "password": "key"})
    task = operator("run", tmp_path, model="gemini-2.0-flash", dry_run=True)
    with pytest.raises(Exception, match=r"gemini-2\.0-flash was shut down on 2026-06-01"):
        task.execute(attempt())
