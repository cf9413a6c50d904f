# SPDX-License-Identifier: Apache-2.0
"""Arguments as users type them -> a run's spec, its source and its limits; the same for operators and for the hook."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.paths import normalise_path
from airflow_provider_gemini_batch.run.schema import ResponseSchema
from airflow_provider_gemini_batch.run.sources import FileSource, QuerySource, RowsSource, Source
from airflow_provider_gemini_batch.run.spec import Outputs, RunSpec
from airflow_provider_gemini_batch.times import seconds

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import Kind


_OF_SPEC = frozenset(
    {
        "model", "output_path", "output_table", "errors_path", "response_schema", "keep_columns", "key",
        "generation_config", "system_instruction", "meta_prefix", "priority", "labels", "display_name",
        "max_row_attempts", "retry_tier", "reuse_answers", "reuse_max_age", "deduplicate", "sample", "max_cost",
        "max_input_tokens", "dry_run", "max_jobs", "rows_per_job", "max_failed_rows", "rows", "input_path",
        "input_format", "input_types", "sql", "sql_parameters", "on_bad_row",
    }
)  # fmt: skip
_OF_KIND: Mapping[str, frozenset[str]] = {
    "generate": frozenset({"prompt"}),
    "embed": frozenset({"text", "task_type", "title", "output_dimensionality"}),
}
_OF_WAITING = frozenset({"run_timeout", "poll_interval", "timeout", "pending_timeout", "running_timeout", "params"})
_OF_TASKS = frozenset(
    {
        "sql_conn_id", "output_table", "output_conn_id", "deferrable", "cancel_on_kill", "submission_salt",
        "checkpoint_retention", "on_empty_input", "task_id",
    }
)  # fmt: skip


def check_arguments(kind: Kind, arguments: Iterable[str]) -> None:
    """
    Refuse what a run outside of a task does not know: a cap that is misspelt would be none.

    :raises ConfigurationError: With the name that may have been meant.
    """
    known = (_OF_SPEC | _OF_KIND[kind] | _OF_WAITING) - _OF_TASKS
    for name in arguments:
        if name in _OF_TASKS:
            raise ConfigurationError(f"{name} is for the run operators, in a DAG; run_batch does not take it.")
        if name not in known:
            # `**arguments` would swallow `max_costs=5` without a word, and the run would have no cap.
            near = difflib.get_close_matches(name, known, 1)
            meant = f" Is {near[0]!r} meant?" if near else ""
            raise ConfigurationError(f"run_batch has no argument {name!r}.{meant}")


def spec_of(kind: Kind, arguments: Mapping[str, Any], *, source_name: str = "") -> RunSpec:
    """
    Return the spec that arguments ask for, checked as far as it can be before the input is read.

    :param arguments: By the names that ``RunBatchOperator`` gives them; what is absent has its default.
    :raises ConfigurationError: Naming every argument that cannot work.
    """

    def given(name: str, default: Any = None) -> Any:
        # An argument that a template rendered to None has its default, like one that is not given.
        value = arguments.get(name)
        return default if value is None else value

    path = arguments.get("output_path")
    errors = arguments.get("errors_path")
    schema = arguments.get("response_schema")
    keep = arguments.get("keep_columns")
    spec = RunSpec(
        kind=kind,
        model=given("model", ""),
        outputs=Outputs(
            path=None if path is None else normalise_path(path, "output_path"),
            table=arguments.get("output_table"),
            errors_path=None if errors is None else normalise_path(errors, "errors_path"),
        ),
        prompt=arguments.get("text" if kind == "embed" else "prompt"),
        key=names_of("key", arguments.get("key")),
        schema=None if schema is None else ResponseSchema(schema),
        generation_config=arguments.get("generation_config"),
        system_instruction=arguments.get("system_instruction"),
        task_type=arguments.get("task_type"),
        title=arguments.get("title"),
        output_dimensionality=arguments.get("output_dimensionality"),
        keep_columns=None if keep is None else names_of("keep_columns", keep),
        meta_prefix=given("meta_prefix", ""),
        priority=arguments.get("priority"),
        labels=given("labels", {}),
        display_name=given("display_name", ""),
        max_row_attempts=given("max_row_attempts", 3),
        retry_tier=given("retry_tier", "batch"),
        reuse=places_of(arguments.get("reuse_answers")),
        reuse_max_age=seconds(arguments.get("reuse_max_age"), "reuse_max_age"),
        deduplicate=bool(arguments.get("deduplicate")),
        sample=arguments.get("sample"),
        max_cost=arguments.get("max_cost"),
        max_input_tokens=arguments.get("max_input_tokens"),
        dry_run=bool(arguments.get("dry_run")),
        max_jobs=given("max_jobs", 5),
        rows_per_job=arguments.get("rows_per_job"),
        max_failed_rows=arguments.get("max_failed_rows", 0.1),
        on_bad_row=given("on_bad_row", "fail"),
        source_name=source_name,
    )
    spec.check()
    return spec


def names_of(argument: str, value: Any) -> tuple[str, ...]:
    """Return one name or several as a tuple."""
    if value is None:
        return ()
    # A text is a sequence of letters to Python, and would name a column for each.
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise ConfigurationError(f"{argument} must be a column's name or a list of names, not {value!r}.")


def places_of(value: Any) -> tuple[str, ...]:
    """Return one path or several as a tuple."""
    if value is None or value == "":
        return ()
    if isinstance(value, (str, os.PathLike)):
        return (str(value),)
    if isinstance(value, Sequence):
        return tuple(str(place) for place in value)
    raise ConfigurationError(f"reuse_answers must be a path or a list of paths, not {value!r}.")


def check_sources(arguments: Mapping[str, Any]) -> str:
    """
    Return which of ``rows``, ``input_path`` and ``sql`` is given.

    :raises ConfigurationError: Unless it is exactly one.
    """
    found = [name for name in ("rows", "input_path", "sql") if arguments.get(name) is not None]
    if len(found) != 1:
        raise ConfigurationError(
            f"give exactly one of rows, input_path and sql, not {' and '.join(found) if found else 'none of them'}."
        )
    return found[0]


def source_of(arguments: Mapping[str, Any]) -> Source:
    """Return the source for rows, files, or a query over files."""
    which = check_sources(arguments)
    if which == "rows":
        rows = arguments["rows"]
        # A text and a dict can be iterated over, and would become rows of letters or of names.
        if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
            raise ConfigurationError(
                f"rows must be a list of dicts, not {type(rows).__name__}; for a file: input_path."
            )
        return RowsSource(rows)
    if which == "input_path":
        types = arguments.get("input_types") or {}
        return FileSource(arguments["input_path"], arguments.get("input_format"), types)
    return QuerySource(str(arguments["sql"]), arguments.get("sql_parameters") or ())


def rows_digest(rows: Any) -> str:
    """Return what tells one list of rows from another; empty for anything else, which can be read once alone."""
    # A generator or an XCom's lazy sequence would be used up, or read from the database twice.
    if not isinstance(rows, (list, tuple)):
        return ""
    return hashlib.sha256(msgspec.json.encode(rows, enc_hook=repr)).hexdigest()[:32]


def source_name(arguments: Mapping[str, Any]) -> str:
    """Say where rows come from, as far as it tells two inputs of one task apart."""
    named = {
        name: arguments.get(name) for name in ("input_path", "sql", "sql_parameters", "input_format", "input_types")
    }
    return "; ".join(f"{name}={value}" for name, value in named.items() if value not in (None, {}, ()))
