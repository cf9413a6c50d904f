# SPDX-License-Identifier: Apache-2.0
"""What is said before a submission: models, parameters and rows that will not do what was meant."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest

from airflow_provider_gemini_batch.client.advice import model_advice, own_members_note, row_advice, settings_advice
from airflow_provider_gemini_batch.rows.normalise import normalise_rows
from airflow_provider_gemini_batch.rows.notes import RowReport
from airflow_provider_gemini_batch.rows.settings import RowSettings

TODAY = date(2026, 11, 27)
USER = {"role": "user", "parts": [{"text": "x"}]}
MODEL = {"role": "model", "parts": [{"text": "{"}]}


def of_model(model: str, backend: Any = "gemini", today: date = TODAY, *, is_own_host: bool = False) -> str:
    return " ".join(advice.text for advice in model_advice(model, backend, today, is_own_host=is_own_host))


def report_of(*rows: dict[str, Any], **settings: Any) -> RowReport:
    report = RowReport()
    lines = [json.dumps({"key": str(number), **row}) for number, row in enumerate(rows)]
    list(normalise_rows(lines, RowSettings(**settings), report))
    return report


def of_settings(model: str, *rows: dict[str, Any], **settings: Any) -> str:
    report = report_of(*rows or [{"prompt": "x"}], **settings)
    return " ".join(advice.text for advice in settings_advice(model, report))


def of_rows(*rows: dict[str, Any], backend: Any = "gemini", **settings: Any) -> str:
    report = report_of(*rows, backend=backend, **settings)
    return " ".join(advice.text for advice in row_advice(report, backend))


def test_a_soon_rerouted_model_is_named_with_the_one_that_will_answer() -> None:
    said = of_model("models/gemini-2.5-flash")
    assert "from 2026-12-01 on, gemini-3.5-flash-lite answers in its place" in said
    assert "404" in said
    assert "rerouted" not in of_model("gemini-2.5-flash", today=date(2026, 1, 1))
    assert of_model("gemini-2.5-flash", today=date(2026, 1, 1)) == ""


def test_a_model_retired_on_vertex_is_warned_about_there_alone() -> None:
    assert "was to be retired on Vertex AI on 2026-10-16" in of_model("gemini-2.5-flash-lite", "vertex_ai")
    assert of_model("gemini-2.5-flash-lite", "gemini") == ""


@pytest.mark.parametrize(
    "model", ["gemini-3.8-flash", "gemini-3.5-flash-lite", "gemini-embedding-001", "gemini-9-nova"]
)
def test_nothing_is_said_of_a_current_or_unknown_model(model: str) -> None:
    assert of_model(model) == of_model(model, "vertex_ai") == ""


def test_a_model_that_every_key_is_refused_is_an_error_at_google_alone() -> None:
    (advice,) = model_advice("gemini-2.0-flash", "gemini", TODAY, is_own_host=False)
    assert advice.is_refusal
    assert "gemini-3.5-flash" in advice.text
    (advice,) = model_advice("gemini-2.0-flash", "gemini", TODAY, is_own_host=True)
    assert not advice.is_refusal
    assert of_model("gemini-2.0-flash", today=date(2026, 5, 1)) == ""


@pytest.mark.parametrize(
    ("model", "backends", "day", "instead"),
    [
        ("gemini-1.5-pro", ["gemini", "vertex_ai"], "2025-09-24", "gemini-3.1-pro-preview"),
        ("models/gemini-1.5-flash", ["gemini", "vertex_ai"], "2025-09-24", "gemini-3.5-flash"),
        ("gemini-1.5-flash-latest", ["gemini"], "2025-09-24", "gemini-3.5-flash"),
        ("gemini-1.5-flash-8b", ["gemini"], "2025-09-24", "gemini-3.1-flash-lite"),
        ("publishers/google/models/gemini-1.5-pro-001", ["vertex_ai"], "2025-05-24", "gemini-3.1-pro-preview"),
        ("gemini-1.0-pro", ["gemini"], "2025-02-18", "gemini-3.5-flash"),
        ("Gemini-Pro", ["vertex_ai"], "2025-04-09", "gemini-3.5-flash"),
        ("gemini-pro-vision", ["gemini"], "2024-07-12", "gemini-3.5-flash"),
        ("models/text-bison-001", ["gemini"], "2024-08-15", "gemini-3.5-flash"),
        ("text-bison@002", ["vertex_ai"], "2025-04-09", "gemini-3.5-flash"),
        ("models/embedding-001", ["gemini"], "2025-10-30", "gemini-embedding-2"),
        ("gemini-embedding-exp-03-07", ["gemini"], "2025-10-30", "gemini-embedding-2"),
        ("text-embedding-004", ["gemini", "vertex_ai"], "2026-01-14", "gemini-embedding-2"),
        ("textembedding-gecko@003", ["vertex_ai"], "2025-05-24", "text-embedding-005"),
        ("gemini-2.5-pro-preview-06-05", ["gemini"], "2025-12-02", "gemini-3.1-pro-preview"),
        ("gemini-2.5-flash-preview-05-20", ["gemini"], "2025-11-18", "gemini-3.5-flash"),
        ("gemini-2.5-flash-image-preview", ["gemini"], "2026-01-15", "gemini-3.1-flash-image"),
        ("gemini-3-pro-preview", ["gemini"], "2026-03-09", "gemini-3.1-pro-preview"),
    ],
)
def test_a_model_of_former_years_is_refused_by_its_date(
    model: str, backends: list[Any], day: str, instead: str
) -> None:
    for backend in backends:
        (advice,) = model_advice(model, backend, TODAY, is_own_host=False)
        assert advice.is_refusal
        assert f"was shut down on {day}" in advice.text
        assert f"Ask for {instead} in its place." in advice.text
        (advice,) = model_advice(model, backend, TODAY, is_own_host=True)
        assert not advice.is_refusal


def test_a_model_that_one_backend_never_had_is_judged_on_the_other() -> None:
    assert of_model("embedding-001", "vertex_ai") == ""
    assert of_model("textembedding-gecko", "gemini") == ""


def test_ignored_sampling_parameters_are_named_once() -> None:
    said = of_settings("gemini-3.8-flash", generation_config={"temperature": 0, "top_p": 1, "maxOutputTokens": 5})
    assert "generation_config: gemini-3.8-flash ignores temperature and topP;" in said
    row = {"prompt": "x", "generationConfig": {"temperature": 0}}
    assert of_settings("gemini-3.8-flash", {"prompt": "x"}, row, row).count("line 2, generationConfig") == 1
    assert of_settings("gemini-3.5-flash", generation_config={"temperature": 0}) == ""


@pytest.mark.parametrize("form", ["fast", "slow"])
def test_prefill_is_counted_and_named_by_its_first_row(form: str) -> None:
    more = {} if form == "fast" else {"labels": {"a": "b"}}
    rows = [{"request": {"contents": turns, **more}} for turns in ([USER], [USER, MODEL], [USER, MODEL, USER], [MODEL])]
    assert "line 2: 2 rows end with a turn of the role 'model'" in of_settings("gemini-3.8-flash", *rows)
    assert of_settings("gemini-3.5-flash-lite", *rows) == ""


def test_budget_and_level_of_thinking_exclude_each_other() -> None:
    config = {"thinkingConfig": {"thinkingBudget": 1, "thinking_level": "low"}}
    assert "exclude each other" in of_settings("gemini-9-nova", generation_config=config)
    parted = {"prompt": "x", "generationConfig": {"thinkingConfig": {"thinkingLevel": "low"}}}
    assert of_settings("gemini-9-nova", parted) == ""
    minimal = {"prompt": "x", "generationConfig": {"thinkingConfig": {"thinkingLevel": "MINIMAL"}}}
    said = of_settings("gemini-3.8-flash", minimal)
    assert "thinkingLevel: gemini-3.8-flash does not know 'minimal'; its levels are low, medium and high." in said
    assert "does not know thinkingBudget; set thinkingLevel" in of_settings(
        "gemini-4-argon", generation_config={"thinkingConfig": {"thinkingBudget": 1}}
    )


@pytest.mark.parametrize("backend", ["gemini", "vertex_ai"])
def test_an_unknown_member_of_a_request_is_told(backend: str) -> None:
    part = {"text": "x", "cache_control": {"type": "ephemeral"}}
    row = {"request": {"contents": [{"role": "user", "parts": [part]}], "safetySetting": [{"category": "x"}]}}
    said = of_rows(row, row, backend=backend)
    assert "line 1: 'safetySetting' is not known here and is sent as it is; safetySettings may be meant." in said
    assert said.count("'cache_control' is not known here") == 1


def test_an_unknown_member_deep_in_a_schema_is_told_once() -> None:
    schema = {"type": "OBJECT", "properties": {"city": {"type_": "STRING"}}}
    assert of_rows({"prompt": "x"}, {"prompt": "y"}, generation_config={"response_schema": schema}) == (
        "generation_config.responseSchema.properties.city: 'type_' is not known here and is sent as it is; "
        "type may be meant."
    )
    row = {"prompt": "x", "tools": [{"function_declarations": [{"name": "f", "parameters": schema}]}]}
    said = of_rows(row, row, backend="vertex_ai")
    assert said.count("'type_'") == 1
    assert "line 1, tools[0].function_declarations" in said or "line 1, tools[0].functionDeclarations" in said


def test_a_json_schema_is_warned_about_where_batch_spoils_it() -> None:
    config = {"responseJsonSchema": {"type": "object", "properties": {"a": {"type": "string"}}}}
    assert "Use responseSchema" in of_rows({"prompt": "x"}, generation_config=config)
    assert of_rows({"prompt": "x"}, generation_config=config, backend="vertex_ai") == ""


def test_members_that_do_not_come_back_by_themselves_are_named() -> None:
    row = {"id": 17, "tags": ["a"], "request": {"contents": [USER]}}
    assert own_members_note(report_of(row)).startswith("id and tags: not sent")
    assert own_members_note(report_of(row, backend="vertex_ai")).startswith("tags: not sent")
    assert own_members_note(report_of({"prompt": "x"})) == ""
