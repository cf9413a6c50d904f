# SPDX-License-Identifier: Apache-2.0
"""Rows are data, texts stay texts: what Airflow's rendering does to arguments, with and without native objects."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_gemini_batch.api.backends import backend_for
from airflow_provider_gemini_batch.compat import DAG, XComArg
from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.lifecycle.request import JobRequest
from airflow_provider_gemini_batch.operators import CreateBatchOperator, UploadFileOperator

BACKEND = backend_for(settings_from_connection(password="k"))
ROWS = [
    {"key": "a", "prompt": "{# note #} {{ 7*7 }} {{ var.value.secret }} {% raw %}"},
    {"key": "1", "request": {"contents": [{"parts": [{"text": '"1"\n'}]}]}},
]
CONTEXT = {"ds_nodash": "20260101", "rows": ROWS, "size": 5, "text": "[1]", "content": {"parts": [{"text": "x"}]}}
NATIVE = pytest.mark.parametrize("native", [False, True], ids=["text", "native"])


def rendered(native: bool, operator: type[Any] = CreateBatchOperator, **arguments: Any) -> Any:
    """Return an operator as a worker has it before it executes."""
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1), render_template_as_native_obj=native) as dag:
        task = operator(task_id="t", **({"model": "gemini-3.5-flash-lite"} | arguments))
    task.render_template_fields(dict(CONTEXT), dag.get_template_env())
    return task


@NATIVE
def test_rows_are_never_rendered(native: bool) -> None:
    assert rendered(native, inlined_requests=ROWS).inlined_requests == ROWS


@NATIVE
@pytest.mark.parametrize("template", ["{{ rows }}", "  {{- rows -}}\n", "{{ rows if size else [] }}"])
def test_one_template_for_the_whole_list_is_the_list_itself(native: bool, template: str) -> None:
    assert rendered(native, inlined_requests=template).inlined_requests is ROWS


@NATIVE
def test_rows_of_an_upstream_task_are_resolved(native: bool) -> None:
    class Output(XComArg):  # type: ignore[misc]
        """What another task returned, which no database has."""

        def iter_references(self) -> Iterator[Any]:
            return iter(())

        def resolve(self, context: Any, *_: Any, **__: Any) -> Any:
            return context["rows"]

    assert rendered(native, inlined_requests=Output()).inlined_requests is ROWS
    row = {"key": "a", "request": Output()}
    assert rendered(native, inlined_requests=[row]).inlined_requests == [{"key": "a", "request": ROWS}]


def test_rows_that_became_a_text_are_refused_with_the_ways_out() -> None:
    for value in (rendered(False, inlined_requests="{{ rows }} ").inlined_requests, ROWS):
        JobRequest("generate", "m", inlined_requests=value).check(BACKEND)
    text = rendered(False, inlined_requests="{{ rows }}{{ rows }}").inlined_requests
    with pytest.raises(ConfigurationError, match=r"\.output, or set render_template_as_native_obj=True"):
        JobRequest("generate", "m", inlined_requests=text).check(BACKEND)
    with pytest.raises(ConfigurationError, match=r"generation_config must be a dict, not a text.*native"):
        JobRequest("generate", "m", file_name="files/x", generation_config="{}").check(BACKEND)  # type: ignore[arg-type]


@NATIVE
def test_text_without_a_template_stays_as_it_is(native: bool) -> None:
    config = {"stopSequences": ["1", "'q'", "\n"], "responseSchema": {"type": "STRING", "enum": ["1", "2", "None"]}}
    task = rendered(
        native, input_path="1", generation_config=config, system_instruction='"quoted"\n', labels={"a": "1"}
    )
    assert task.generation_config == config
    assert (task.input_path, task.system_instruction, task.labels) == ("1", '"quoted"\n', {"a": "1"})


@NATIVE
def test_texts_stay_texts_with_a_template(native: bool, tmp_path: Path) -> None:
    task = rendered(
        native, input_path=tmp_path / "{{ ds_nodash }}", display_name="{{ ds_nodash }}", system_instruction="{{ text }}"
    )
    assert task.display_name == "20260101"
    assert task.system_instruction == "[1]"
    assert task.input_path == str(tmp_path / "20260101")
    task = rendered(native, input_path="x", labels={"day": "{{ ds_nodash }}", "run": "1"})
    assert task.labels == {"day": "20260101", "run": "1"}
    task = rendered(native, input_path="x", webhook_config={"uris": [], "userMetadata": {"n": "{{ size }}"}})
    assert task.webhook_config["userMetadata"] == {"n": "5"}


def test_native_rendering_gives_objects_where_they_are_meant() -> None:
    task = rendered(
        True, input_path="x", generation_config={"maxOutputTokens": "{{ size }}"}, system_instruction="{{ content }}"
    )
    assert task.generation_config == {"maxOutputTokens": 5}
    assert task.system_instruction == CONTEXT["content"]


@NATIVE
def test_entries_of_a_list_stay_texts_with_a_template(native: bool) -> None:
    schema = {"type": "STRING", "enum": ["{{ ds_nodash }}", "2"]}
    config = {"stop_sequences": ["{{ ds_nodash }}", "{{ text }}"], "response_schema": schema}
    task = rendered(native, input_path="x", generation_config=config, system_instruction={"parts": ["{{ content }}"]})
    assert task.generation_config["stop_sequences"] == ["20260101", "[1]"]
    assert task.generation_config["response_schema"]["enum"] == ["20260101", "2"]
    if native:
        assert task.system_instruction == {"parts": [CONTEXT["content"]]}


def test_signs_of_ones_own_count_as_templates() -> None:
    with DAG(
        "d", schedule=None, start_date=datetime(2026, 1, 1), jinja_environment_kwargs={"variable_start_string": "[["}
    ) as dag:
        task = UploadFileOperator(task_id="t", input_path="[[ ds_nodash }}", display_name="{{ ds_nodash }}")
    task.render_template_fields(dict(CONTEXT), dag.get_template_env())
    assert (task.input_path, task.display_name) == ("20260101", "{{ ds_nodash }}")
