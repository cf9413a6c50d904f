# SPDX-License-Identifier: Apache-2.0
"""What does a user type to run rows to a table? The arguments that both run operators have, stored and checked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_gemini_batch.compat import conf
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.operators.base import GeminiBatchOperator
from airflow_provider_gemini_batch.times import seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta
    from os import PathLike

    from airflow_provider_gemini_batch.api.models import Kind
    from airflow_provider_gemini_batch.run.spec import RunSpec

DAY = 24 * 3600.0


class RunArguments(GeminiBatchOperator):
    """
    What the run operators have in common to type.

    :param model: E.g. ``gemini-3.5-flash-lite``.
    :param rows: Rows as a list of dicts, or an upstream task's output. Exactly one of this, *input_path* and *sql*.
    :param input_path: File, folder or glob, local or in object storage: JSONL, CSV, Parquet, also ``.gz`` and ``.zst``.
    :param input_format: ``jsonl``, ``csv``, ``tsv`` or ``parquet``; default by the suffix.
    :param input_types: Types of CSV columns, e.g. ``{"day": "DATE"}``; the others are text.
    :param sql: A query over *sql_conn_id*; without that, one of DuckDB over the worker's files.
    :param sql_conn_id: Any SQL connection of Airflow.
    :param sql_parameters: For the query's placeholders.
    :param key: Column, or list of columns, that identifies a row.
    :param output_path: ``.jsonl``, ``.csv``, ``.parquet``, or a folder of Parquet parts.
    :param output_table: Table that is upserted by *key*.
    :param output_conn_id: Connection of its database: PostgreSQL or SQLite.
    :param keep_columns: Input columns to carry over; default all but those that the template uses.
    :param meta_prefix: Put before the names of our own columns.
    :param errors_path: File for the rows without a usable answer.
    :param max_row_attempts: How often a row that failed for a passing reason is asked, in all.
    :param reuse_answers: Earlier outputs whose answers to the same request are taken; ``"output_table"`` is that table.
    :param reuse_max_age: Seconds or timedelta beyond which such an answer is too old.
    :param deduplicate: Ask identical requests once.
    :param max_cost: Dollars that this task instance may spend at most.
    :param max_input_tokens: Tokens of input that it may send at most.
    :param dry_run: Push the plan and its price, then skip.
    :param sample: Ask only so many rows, and write them beside the output.
    :param max_jobs: Jobs in flight.
    :param rows_per_job: Rows of one job at most.
    :param max_failed_rows: Count (int) or share (float below 1) of rows without an answer that is still fine.
    :param on_bad_row: What a row does that cannot be sent (null columns, a template that fails): ``fail`` the task, or
        ``land`` as failed with its reason.
    :param on_empty_input: What an input without rows does: ``fail`` or ``skip``.
    :param display_name: Of the jobs; default ``<dag_id>.<task_id>``.
    :param priority: Higher runs first (Developer API).
    :param labels: On the jobs (Vertex AI).
    :param deferrable: Wait in the triggerer instead of holding a worker.
    :param poll_interval: Seconds or timedelta between polls; None grows with the age of a job.
    :param timeout: Of one job, from its creation; then it is cancelled and its rows are asked again.
    :param pending_timeout: Of one job, while it waits for its turn.
    :param running_timeout: Of one job, while it runs.
    :param run_timeout: Of the run.
    :param cancel_on_kill: Cancel the jobs when somebody marks the task failed, success or skipped.
    :param submission_salt: Change it to ask everything anew.
    :param checkpoint_path: Where the run remembers; default ``[gemini_batch] checkpoint_path``, else
        ``_gemini_batch`` beside the output.
    :param checkpoint_retention: Seconds or timedelta after which an ended run's checkpoint is removed.
    """

    kind: ClassVar[Kind]
    page_view = "run"
    data_fields: ClassVar[tuple[str, ...]] = ("rows",)
    template_argument: ClassVar[str]
    template_fields: Sequence[str] = (
        *GeminiBatchOperator.template_fields,
        "model",
        "rows",
        "input_path",
        "sql",
        "sql_conn_id",
        "sql_parameters",
        "output_path",
        "output_table",
        "output_conn_id",
        "errors_path",
        "reuse_answers",
        "display_name",
        "labels",
        "submission_salt",
        "checkpoint_path",
        "on_bad_row",
        "on_empty_input",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "sql", "rows": "json"}

    def __init__(
        self,
        *,
        model: str,
        rows: Any = None,
        input_path: str | PathLike[str] | None = None,
        input_format: str | None = None,
        input_types: Mapping[str, str] | None = None,
        sql: str | None = None,
        sql_conn_id: str | None = None,
        sql_parameters: Any = None,
        key: str | Sequence[str] | None = None,
        output_path: str | PathLike[str] | None = None,
        output_table: str | None = None,
        output_conn_id: str | None = None,
        keep_columns: Sequence[str] | None = None,
        meta_prefix: str = "",
        errors_path: str | PathLike[str] | None = None,
        max_row_attempts: int = 3,
        reuse_answers: str | Sequence[str] | None = None,
        reuse_max_age: float | timedelta | None = None,
        deduplicate: bool = False,
        max_cost: float | None = None,
        max_input_tokens: int | None = None,
        dry_run: bool = False,
        sample: int | None = None,
        max_jobs: int = 5,
        rows_per_job: int | None = None,
        max_failed_rows: float | None = 0.1,
        on_bad_row: str = "fail",
        on_empty_input: str = "fail",
        display_name: str | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | timedelta | None = None,
        timeout: float | timedelta | None = 4 * DAY,
        pending_timeout: float | timedelta | None = None,
        running_timeout: float | timedelta | None = None,
        run_timeout: float | timedelta = 30 * DAY,
        cancel_on_kill: bool = True,
        submission_salt: str = "",
        checkpoint_path: str | None = None,
        checkpoint_retention: float | timedelta = 7 * DAY,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.rows = rows
        self.input_path = input_path
        self.input_format = input_format
        self.input_types = input_types
        self.sql = sql
        self.sql_conn_id = sql_conn_id
        self.sql_parameters = sql_parameters
        self.key = key
        self.output_path = output_path
        self.output_table = output_table
        self.output_conn_id = output_conn_id
        self.keep_columns = keep_columns
        self.meta_prefix = meta_prefix
        self.errors_path = errors_path
        self.max_row_attempts = max_row_attempts
        self.reuse_answers = reuse_answers
        self.reuse_max_age = reuse_max_age
        self.deduplicate = deduplicate
        self.max_cost = max_cost
        self.max_input_tokens = max_input_tokens
        self.plan_only = dry_run  # BaseOperator has a method of the argument's name
        self.sample = sample
        self.max_jobs = max_jobs
        self.rows_per_job = rows_per_job
        self.max_failed_rows = max_failed_rows
        self.on_bad_row = on_bad_row
        self.on_empty_input = on_empty_input
        self.display_name = display_name
        self.priority = priority
        self.labels = labels
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.pending_timeout = pending_timeout
        self.running_timeout = running_timeout
        self.run_timeout = run_timeout
        self.cancel_on_kill = cancel_on_kill
        self.submission_salt = submission_salt
        self.checkpoint_path = checkpoint_path
        self.checkpoint_retention = checkpoint_retention

    def render_template(self, content: Any, context: Any, jinja_env: Any = None, seen_oids: Any = None) -> Any:
        """Render an argument, but leave a row's template for the rows."""
        # Both kinds of template look alike; which one this is shows by its place alone.
        template = getattr(self, self.template_argument, None)
        if isinstance(content, str) and content is template:
            return content
        if content is self.sql and isinstance(content, str) and not self.sql_conn_id:
            _refuse_params(content)
        return super().render_template(content, context, jinja_env, seen_oids)

    # --- the spec -----------------------------------------------------------------------------------------------------

    def _arguments(self) -> dict[str, Any]:
        names = (
            "model", "rows", "input_path", "input_format", "input_types", "sql", "sql_parameters", "key", "output_path",
            "output_table", "keep_columns", "meta_prefix", "errors_path", "max_row_attempts", "reuse_answers",
            "reuse_max_age", "deduplicate", "max_cost", "max_input_tokens", "sample", "max_jobs", "rows_per_job",
            "max_failed_rows", "on_bad_row", "priority", "labels", *self.own_arguments,
        )  # fmt: skip
        found = {name: getattr(self, name) for name in names}
        found["display_name"] = self.display_name or f"{getattr(self, 'dag_id', '')}.{self.task_id}"
        return found

    own_arguments: ClassVar[tuple[str, ...]] = ()

    def spec(self) -> RunSpec:
        """Return what is asked, from rendered arguments."""
        from airflow_provider_gemini_batch.run.arguments import check_sources, source_name, spec_of

        if self.on_empty_input not in ("fail", "skip"):
            raise ConfigurationError(f"on_empty_input must be fail or skip, not {self.on_empty_input!r}.")
        arguments = self._arguments()
        check_sources(arguments)
        if self.output_table and not self.output_conn_id:
            raise ConfigurationError("output_table needs output_conn_id: the connection of its database.")
        for name in (
            "timeout",
            "pending_timeout",
            "running_timeout",
            "run_timeout",
            "poll_interval",
            "checkpoint_retention",
        ):
            seconds(getattr(self, name), name)
        return spec_of(self.kind, arguments, source_name=source_name(arguments))

    def _source(self) -> Any:
        from airflow_provider_gemini_batch.run.arguments import source_of
        from airflow_provider_gemini_batch.task.sql import HookSource

        if self.sql is not None and self.sql_conn_id:
            return HookSource(self.sql_conn_id, self.sql, self.sql_parameters)
        return source_of(self._arguments())

    def _checkpoint_root(self) -> str:
        place = self.checkpoint_path or conf.get("gemini_batch", "checkpoint_path", fallback="")
        if place:
            return str(place)
        if self.output_path:
            from airflow_provider_gemini_batch.files.paths import normalise_path

            output = normalise_path(self.output_path, "output_path").rstrip("/")
            parent = output.rsplit("/", 1)[0] if "/" in output else "."
            return f"{parent}/_gemini_batch"
        # With a local executor every attempt runs on this host, so that a local folder serves; elsewhere it would be
        # lost, and the rows be asked again.
        executor = str(conf.get("core", "executor", fallback=""))
        if executor in ("LocalExecutor", "SequentialExecutor"):
            return f"{conf.get('core', 'dags_folder', fallback='.').rstrip('/')}/../gemini_batch"
        raise ConfigurationError(
            "A run that writes to a table alone needs checkpoint_path, or [gemini_batch] checkpoint_path: a place that "
            f"all workers share. With {executor} the next attempt may run on another one."
        )

    def _deadline(self) -> float:
        return time.time() + (seconds(self.run_timeout, "run_timeout") or 30 * DAY)


def _refuse_params(sql: str) -> None:
    """Refuse a query over the worker's files that takes text from whoever triggers the DAG."""
    # A text search first: parsing is only needed where one of these words is there at all.
    for name in ("params", "dag_run", "conf"):
        if name in sql and "{" in sql:
            import jinja2
            from jinja2 import meta

            try:
                used = meta.find_undeclared_variables(jinja2.Environment(autoescape=False).parse(sql))
            except jinja2.TemplateSyntaxError:
                return
            if name in used:
                raise ConfigurationError(
                    f"sql without sql_conn_id reads the worker's files, so it may not be made from {name!r}, which "
                    "whoever triggers the DAG chooses. Use sql_parameters, or a connection."
                )
