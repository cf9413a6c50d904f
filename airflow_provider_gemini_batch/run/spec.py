# SPDX-License-Identifier: Apache-2.0
"""What a user asks of a run, checked as far as it can be before the input is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.lifecycle.verdict import check_max_failed_rows
from airflow_provider_gemini_batch.rows.messages import camel
from airflow_provider_gemini_batch.run.column_types import Type
from airflow_provider_gemini_batch.run.plan import Policy, Tier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_gemini_batch.api.models import Kind
    from airflow_provider_gemini_batch.run.schema import ResponseSchema

META: Mapping[str, str] = {
    "status": "VARCHAR",
    "error_code": "INTEGER",
    "error_message": "VARCHAR",
    "finish_reason": "VARCHAR",
    "answer_source": "VARCHAR",
    "attempts": "INTEGER",
    "model_version": "VARCHAR",
    "prompt_tokens": "BIGINT",
    "output_tokens": "BIGINT",
    "thoughts_tokens": "BIGINT",
    "cached_tokens": "BIGINT",
    "cost": "DOUBLE",
    "request_digest": "VARCHAR",
    "job_name": "VARCHAR",
    "answered_at": "TIMESTAMPTZ",
}
"""Columns of ours, with their types, in order."""

_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True)
class Outputs:
    """
    Where the table goes.

    :param path: ``.jsonl``, ``.csv``, ``.parquet``, or a folder of Parquet parts.
    :param table: ``[schema.]table`` of a database, upserted by key.
    :param errors_path: ``.jsonl``, ``.csv`` or ``.parquet`` for rows without a usable answer.
    """

    path: str | None = None
    table: str | None = None
    errors_path: str | None = None


@dataclass(frozen=True)
class RunSpec:
    """
    A run as a user asks for it; ``RunBatchOperator`` explains the members.

    :param key: Columns that identify a row; empty for ``row-<n>``.
    :param schema: What each answer must look like, or None for free text.
    :param reuse: Earlier outputs whose answers to the same request are taken.
    :param reuse_max_age: Seconds.
    :param on_bad_row: ``fail``, or ``land`` a row that cannot be sent as failed.
    :param source_name: Says where the rows come from, as far as it tells two inputs apart.
    :param rows_digest: Names the rows of a mapped task that are given in hand; empty elsewhere.
    """

    kind: Kind
    model: str
    outputs: Outputs
    prompt: str | None = None
    key: tuple[str, ...] = ()
    schema: ResponseSchema | None = None
    generation_config: Mapping[str, Any] | None = None
    system_instruction: str | Mapping[str, Any] | None = None
    task_type: str | None = None
    title: str | None = None
    output_dimensionality: int | None = None
    keep_columns: tuple[str, ...] | None = None
    meta_prefix: str = ""
    priority: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    display_name: str = ""
    max_row_attempts: int = 3
    retry_tier: Tier = "batch"
    reuse: tuple[str, ...] = ()
    reuse_max_age: float | None = None
    deduplicate: bool = False
    sample: int | None = None
    max_cost: float | None = None
    max_input_tokens: int | None = None
    dry_run: bool = False
    max_jobs: int = 5
    rows_per_job: int | None = None
    max_failed_rows: float | None = 0.1
    source_name: str = ""
    rows_digest: str = ""
    on_bad_row: str = "fail"

    @property
    def policy(self) -> Policy:
        """What the plan needs to know."""
        return Policy(self.max_jobs, self.max_row_attempts, self.retry_tier)

    @property
    def argument(self) -> str:
        """What the template's argument is called."""
        return "text" if self.kind == "embed" else "prompt"

    @property
    def answer_columns(self) -> dict[str, Type]:
        """Types of the columns that hold an answer, by name."""
        if self.kind == "embed":
            return {"embedding": Type("FLOAT[]", "list", Type("FLOAT"))}
        return dict(self.schema.columns) if self.schema is not None else {"text": Type("VARCHAR")}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that go into each request, named as ``RowSettings`` names them; without those not given."""
        if self.kind == "embed":
            names = ("task_type", "title", "output_dimensionality")
            return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        config = dict(self.generation_config or {})
        if self.schema is not None:
            config |= self.schema.generation_config
        found: dict[str, Any] = {"generation_config": config} if config else {}
        if self.system_instruction is not None:
            found["system_instruction"] = self.system_instruction
        return found

    @cached_property
    def request_fingerprint(self) -> str:
        """Digest of all that decides what is asked of a row: with another one, no answer can be taken over."""
        # Only what goes over the wire. Another key or output asks the same, and its answers can be taken over.
        asked = {"kind": self.kind, "model": self.model, "prompt": self.prompt, "settings": self.settings}
        return hashlib.sha256(_encode(asked)).hexdigest()[:32]

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all that decides what is asked and how the table looks: another one needs another snapshot."""
        asked = {
            "kind": self.kind,
            "model": self.model,
            "prompt": self.prompt,
            "key": self.key,
            "settings": self.settings,
            "keep": self.keep_columns,
            "prefix": self.meta_prefix,
            # Two schemas may ask alike and differ in the columns that they make.
            "columns": {name: kind.sql for name, kind in self.answer_columns.items()},
            "sample": self.sample,
            "deduplicate": self.deduplicate,
            "source": self.source_name,
        }
        return hashlib.sha256(_encode(asked)).hexdigest()[:32]

    def meta(self, name: str) -> str:
        """Return the name under which a column of ours is written."""
        return f"{self.meta_prefix}{name}"

    def check(self) -> None:
        """Raise ConfigurationError naming everything that cannot work, before anything is read."""
        # All problems in one error: who has to run a DAG to hear of a mistake wants to hear of every mistake.
        problems = []
        if not isinstance(self.model, str) or not self.model.strip():
            problems.append(f"model must name a Gemini model, not {self.model!r}")
        if not (self.outputs.path or self.outputs.table):
            problems.append("give output_path or output_table: the answers have to go somewhere")
        if "output_table" in self.reuse and not self.outputs.table:
            problems.append('reuse_answers="output_table" needs output_table: the table that the run writes')
        if self.outputs.table and not self.key:
            problems.append("output_table needs key: rows numbered by their place cannot be upserted")
        if self.generation_config is not None and not isinstance(self.generation_config, Mapping):
            problems.append(f"generation_config must be a dict, not {self.generation_config!r}")
        elif self.schema is not None and self.generation_config:
            # Two schemas in one request: which of them counts is not ours to guess.
            ours = {"responseSchema", "responseJsonSchema", "responseMimeType"}
            clash = sorted(ours & {camel(str(name)) for name in self.generation_config})
            if clash:
                problems.append(f"give response_schema or {', '.join(clash)} in generation_config, not both")
        if self.prompt is not None and not isinstance(self.prompt, str):
            problems.append(f"{self.argument} must be a Jinja template, not {self.prompt!r}")
        if not isinstance(self.meta_prefix, str):
            problems.append(f"meta_prefix must be a text, not {self.meta_prefix!r}")
        for name in ("max_row_attempts", "max_jobs", "rows_per_job", "sample", "max_input_tokens"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                problems.append(f"{name} must be a whole number above 0, not {value!r}")
        for name in ("max_cost", "reuse_max_age"):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 <= value < float("inf")):  # NaN is neither
                problems.append(f"{name} must be a number, 0 or more, not {value!r}")
        if self.on_bad_row not in ("fail", "land"):
            problems.append(f"on_bad_row must be fail or land, not {self.on_bad_row!r}")
        if self.retry_tier not in ("batch", "flex"):
            problems.append(f"retry_tier must be batch or flex, not {self.retry_tier!r}")
        elif self.retry_tier == "flex" and self.kind == "embed":
            problems.append("retry_tier='flex' is for generation: there is no such tier for embeddings")
        problems += _names_wrong("key", self.key) + _names_wrong("keep_columns", self.keep_columns or ())
        if problems:
            raise ConfigurationError("; ".join(problems) + ".")
        check_max_failed_rows(self.max_failed_rows)

    def output_columns(self, keys: Mapping[str, str], kept: Mapping[str, str]) -> dict[str, str]:
        """
        Return the table's columns with their types, in order.

        :param keys: Types of the key columns by name; ``{"key": "VARCHAR"}`` where rows are numbered.
        :param kept: Types of the kept columns.
        :raises ConfigurationError: If two names are equal ignoring case.
        """
        answers = {name: kind.sql for name, kind in self.answer_columns.items()}
        groups = (
            ("key", keys),
            ("keep_columns", kept),
            ("response_schema", answers),
            ("our own", {self.meta(name): sql for name, sql in META.items()}),
        )
        columns: dict[str, str] = {}
        seen: dict[str, tuple[str, str]] = {}
        for group, found in groups:
            # Ignoring case, as databases and DuckDB do with names.
            for name, sql in found.items():
                other = seen.setdefault(name.lower(), (name, group))
                if other != (name, group):
                    raise ConfigurationError(
                        f"The table would have the column {name!r} ({group}) and {other[0]!r} ({other[1]}): leave one "
                        "out by keep_columns, or set meta_prefix, which goes before our own columns."
                    )
                columns[name] = sql
        return columns


def _names_wrong(argument: str, names: Sequence[Any]) -> list[str]:
    wrong = [name for name in names if not isinstance(name, str) or not name]
    if wrong:
        return [f"{argument} must name columns, not {wrong[0]!r}"]
    if len(set(names)) < len(names):
        return [f"{argument} names a column twice"]
    return []
