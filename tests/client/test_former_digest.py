# SPDX-License-Identifier: Apache-2.0
"""Tokens that version 0.1.0 gave to jobs are known today; the samples were recorded with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.api.identity import make_task_id
from airflow_provider_gemini_batch.client.former_digest import digest_of_0_1_0
from airflow_provider_gemini_batch.client.prepare import row_settings
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.lifecycle.request import JobRequest
from airflow_provider_gemini_batch.operators import CreateBatchOperator
from tests.support.airflow_side import Store, attempt, become_another_airflow, set_connection, write_rows

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

SAMPLES = json.loads((Path(__file__).parents[1] / "samples/submissions/0.1.0.json").read_text(encoding="utf-8"))
MODEL = "gemini-3.5-flash-lite"
SPACED = [json.dumps({"key": f"k{n}", "request": {"contents": [{"role": "user", "parts": [{"text": f"Say {n}"}]}]}})
          for n in range(3)]  # fmt: skip


@pytest.mark.parametrize("sample", SAMPLES, ids=[f"{one['backend']}-{n}" for n, one in enumerate(SAMPLES)])
def test_what_0_1_0_called_an_input_file_is_known(sample: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(sample["lines"]) + "\n", encoding="utf-8")
    request = JobRequest(sample["kind"], sample["model"], input_path=str(path), **sample["arguments"])
    assert digest_of_0_1_0(request, row_settings(request, sample["backend"])) == sample["digest"]


def test_rows_that_cannot_be_sent_have_no_former_name(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", ["no JSON"])
    request = JobRequest("generate", MODEL, input_path=path)
    assert digest_of_0_1_0(request, row_settings(request, "gemini")) is None


@pytest.mark.parametrize("backend", ["gemini", "vertex_ai"])
@pytest.mark.parametrize("is_noted", [True, False])
@pytest.mark.usefixtures("stepped")
def test_a_file_job_of_0_1_0_is_adopted_after_the_upgrade(
    gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str, is_noted: bool
) -> None:
    emulator = gemini_batch_emulator
    set_connection(monkeypatch, emulator.connection(backend))
    become_another_airflow(monkeypatch)
    emulator.configure(create_missing_buckets=True)
    emulator.script(pending_seconds=1000)
    request = JobRequest("generate", MODEL, input_path=write_rows(tmp_path / "rows.jsonl", SPACED))
    former = digest_of_0_1_0(request, row_settings(request, backend))  # type: ignore[arg-type]
    task = make_task_id("", "nightly", "manual__1", "create")
    old = GeminiBatchHook().submit(request, task=task, digest=former).job.name
    store = {"gemini_batch_submission": {"intent": f"{task}.{former}", "intent_at": 1.0, "job": old}}
    context = {**attempt(2), **({"task_state_store": Store(store)} if is_noted else {})}
    assert CreateBatchOperator(task_id="create", model=MODEL, input_path=request.input_path).execute(context) == old
    assert [job.cancelled for job in emulator.state.all_jobs] == [None]
