# SPDX-License-Identifier: Apache-2.0
"""Answers without a key are joined by the request that Vertex AI repeats."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.errors import InputMismatchError
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.landing.facts import JobFacts
from airflow_provider_gemini_batch.landing.join import land
from airflow_provider_gemini_batch.operators import DownloadResultsOperator
from airflow_provider_gemini_batch.rows.settings import RowSettings
from tests.support.airflow_side import set_connection, write_rows

if TYPE_CHECKING:
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle


def asked(text: str) -> dict[str, Any]:
    return {"request": {"contents": [{"role": "user", "parts": [{"text": text}]}]}}


def test_keyless_answers_of_vertex_are_joined_by_the_request_they_repeat(
    gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_connection(monkeypatch, gemini_batch_emulator.connection("vertex_ai"))
    gemini_batch_emulator.script(mode="at_once", shuffle=True)
    rows = [asked(text) for text in ("alpha", "beta", "gamma", "beta")]
    path = write_rows(tmp_path / "in.jsonl", rows)
    hook = GeminiBatchHook()
    uri = hook.upload_file(path).name
    job = hook.create_batch("gemini-3.5-flash-lite", gcs_uri=uri)
    output = tmp_path / "out.jsonl"
    download = DownloadResultsOperator(
        task_id="d",
        job_name=job.name,
        output_path=str(output),
        input_path=write_rows(tmp_path / "again.jsonl", rows[::-1]),
    )
    manifest = download.execute({})
    landed = [json.loads(line) for line in output.read_text().splitlines()]
    assert manifest["succeeded"] == 4
    assert [row["key"] for row in landed] == ["row-1", "row-2", "row-3", "row-4"]
    for row, text in zip(landed, ("beta", "gamma", "beta", "alpha"), strict=True):
        assert row["request"]["contents"][0]["parts"][0]["text"] == text


@pytest.mark.parametrize(
    "texts",
    [["p", "q"], ["x", "q"], ["x", "y"], [" p\r\n", "\ufffdq\0\n"]],
    ids=["the same", "one changed", "others", "trimmed"],
)
def test_an_input_with_the_same_keys_and_other_prompts_is_refused(tmp_path: Path, texts: list[str]) -> None:
    candidates = [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}]
    answers = [
        {"id": key, "status": "", "response": {"candidates": candidates}, **asked(text)}
        for key, text in ((2, "q"), (1, "p"))
    ]
    path = write_rows(tmp_path / "in.jsonl", [{"id": n, **asked(text)} for n, text in enumerate(texts, 1)])
    job = JobFacts("projects/p/a", "m", 2, row_settings=RowSettings("generate", "vertex_ai", "m"))
    lines = [json.dumps(answer).encode() + b"\n" for answer in answers]
    if texts[0].strip() != "p":
        with pytest.raises(InputMismatchError, match="the answer to row '1' repeats another prompt"):
            land(lines, tmp_path / "out.jsonl", job=job, input_path=path, key="id")
    else:
        assert land(lines, tmp_path / "out.jsonl", job=job, input_path=path, key="id").succeeded == 2
