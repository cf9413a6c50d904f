# SPDX-License-Identifier: Apache-2.0
"""What does a user type to submit a job? The arguments that both create operators have, stored and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_gemini_batch.compat import conf
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.operators.base import GeminiBatchOperator
from airflow_provider_gemini_batch.times import seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta
    from os import PathLike

    from airflow_provider_gemini_batch.lifecycle.attempt import AttemptPolicy
    from airflow_provider_gemini_batch.lifecycle.request import JobRequest
    from airflow_provider_gemini_batch.task.caps import Caps

DAY = 24 * 3600.0
DEFAULT_TIMEOUT = 4 * DAY
MAX_FAILED_ROWS = 0.1

_CHOICES = {
    "on_existing_job": ("replace", "reuse", "fail"),
    "on_timeout": ("cancel", "leave"),
    "on_pending_timeout": ("fail", "wait", "resubmit"),
    "on_running_timeout": ("fail", "wait", "resubmit"),
}


class SubmitArguments(GeminiBatchOperator):
    r"""
    What the create operators have in common to type; :meth:`request` says what is to be computed.

    :param model: E.g. ``gemini-3.5-flash-lite``.
    :param inlined_requests: Rows as a list of dicts; above 4 MiB they travel as a file. Exactly one of this and the
        next four is given.
    :param input_path: Local path or object-storage URI of a JSONL file; its rows are checked and uploaded.
    :param file_name: What ``UploadFileOperator`` returned.
    :param gcs_uri: ``gs://...`` of a JSONL object in wire form (Vertex AI).
    :param bigquery_uri: ``bq://project.dataset.table`` (Vertex AI).
    :param key: The member by which a row is known, or a list of members (``["day", "id"]``).
    :param on_empty_input: An input without rows is an error (``fail``), or a reason to ``skip`` the task.
    :param on_bad_row: One row that cannot be sent fails the task (``fail``), or is left out and ``land``\ s as failed
        with its reason, once ``DownloadResultsOperator`` is given *input_path*.
    :param destination: ``gs://`` prefix or ``bq://`` table for the answers (Vertex AI); default below the connection's
        ``storage_uri``.
    :param display_name: Shown at Google; default ``<dag_id>.<task_id>``.
    :param priority: Higher runs first (Developer API).
    :param labels: On the job (Vertex AI).
    :param webhook_config: ``{"uris": [...], "userMetadata": {...}}`` (Developer API).
    :param wait_for_completion: Return only when the job has ended.
    :param deferrable: Wait in the triggerer instead of holding a worker.
    :param poll_interval: Seconds or timedelta between polls; None for 6 % of the job's age, 5 s to 10 min.
    :param timeout: Seconds or timedelta to wait in all, default four days.
    :param on_timeout: At *timeout*, or when Airflow's ``execution_timeout`` is over, deferrals included: ``leave`` the
        job running, so that a retry finds it again, or ``cancel`` it.
    :param pending_timeout: Longest time a job may wait for its turn; None for no limit.
    :param on_pending_timeout: ``fail``, ``wait`` on, or cancel and ``resubmit``.
    :param running_timeout: Longest time a job may run; None for no limit.
    :param on_running_timeout: As *on_pending_timeout*.
    :param max_resubmits: How often a stuck job is submitted again at most.
    :param max_failed_rows: Count (int) or share (float below 1) of rows without an answer that is still fine; checked
        when the task waits. None warns, and fails only if no row has an answer.
    :param count_truncated: Whether answers that were cut off count as failed, as far as the first 1,000 tell.
    :param on_existing_job: What to do if this very task has a job with other input: ``replace`` (cancel it),
        ``reuse`` it or ``fail``.
    :param submission_salt: Change it to ask for a fresh job on purpose, e.g. ``"{{ params.salt }}"``.
    :param cancel_on_kill: Cancel the job when somebody marks the task failed, success or skipped.
    :param submit_timeout: Longest time to wait for quota (HTTP 429 on create), default one day.
    :param max_cost: Dollars that this task instance may spend at most, by the upper end of the estimate.
    :param max_input_tokens: Tokens of input that it may send at most.
    :param dry_run: Check the rows, push the estimate as ``gemini_batch_estimate`` and skip; nothing is made.
    """

    page_view = "run"
    template_fields: Sequence[str] = (
        *GeminiBatchOperator.template_fields,
        "model",
        "inlined_requests",
        "input_path",
        "file_name",
        "gcs_uri",
        "bigquery_uri",
        "destination",
        "display_name",
        "labels",
        "webhook_config",
        "submission_salt",
        *_CHOICES,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "inlined_requests": "json",
        "labels": "json",
        "webhook_config": "json",
    }

    def __init__(
        self,
        *,
        model: str,
        inlined_requests: Sequence[Mapping[str, Any]] | None = None,
        input_path: str | PathLike[str] | None = None,
        file_name: str | None = None,
        gcs_uri: str | None = None,
        bigquery_uri: str | None = None,
        key: str | Sequence[str] = "key",
        on_empty_input: str = "fail",
        on_bad_row: str = "fail",
        destination: str | None = None,
        display_name: str | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        webhook_config: Mapping[str, Any] | None = None,
        wait_for_completion: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | timedelta | None = None,
        timeout: float | timedelta = DEFAULT_TIMEOUT,
        on_timeout: str = "leave",
        pending_timeout: float | timedelta | None = None,
        on_pending_timeout: str = "fail",
        running_timeout: float | timedelta | None = None,
        on_running_timeout: str = "fail",
        max_resubmits: int = 1,
        max_failed_rows: float | None = MAX_FAILED_ROWS,
        count_truncated: bool = False,
        on_existing_job: str = "replace",
        submission_salt: str = "",
        cancel_on_kill: bool = True,
        submit_timeout: float | timedelta = DAY,
        max_cost: float | None = None,
        max_input_tokens: int | None = None,
        dry_run: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.inlined_requests = inlined_requests
        self.input_path = input_path
        self.file_name = file_name
        self.gcs_uri = gcs_uri
        self.bigquery_uri = bigquery_uri
        self.key = key
        self.on_empty_input = on_empty_input
        self.on_bad_row = on_bad_row
        self.destination = destination
        self.display_name = display_name
        self.priority = priority
        self.labels = labels
        self.webhook_config = webhook_config
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.on_timeout = on_timeout
        self.pending_timeout = pending_timeout
        self.on_pending_timeout = on_pending_timeout
        self.running_timeout = running_timeout
        self.on_running_timeout = on_running_timeout
        self.max_resubmits = max_resubmits
        self.max_failed_rows = max_failed_rows
        self.count_truncated = count_truncated
        self.on_existing_job = on_existing_job
        self.submission_salt = submission_salt
        self.cancel_on_kill = cancel_on_kill
        self.submit_timeout = submit_timeout
        self.max_cost = max_cost
        self.max_input_tokens = max_input_tokens
        self.plan_only = dry_run  # BaseOperator has a method of the argument's name

    def request(self) -> JobRequest:
        """Return what is to be computed, from rendered arguments."""
        raise NotImplementedError

    def _common(self) -> dict[str, Any]:
        from airflow_provider_gemini_batch.lifecycle.request import RequestArguments

        arguments = {name: getattr(self, name) for name in ("model", *RequestArguments.__annotations__)}
        arguments["display_name"] = self.display_name or f"{getattr(self, 'dag_id', '')}.{self.task_id}"
        arguments["labels"] = self.labels or {}
        return arguments

    def _policy(self) -> AttemptPolicy:
        """Return what was asked for, checked."""
        from airflow_provider_gemini_batch.lifecycle.attempt import AttemptPolicy
        from airflow_provider_gemini_batch.lifecycle.verdict import check_max_failed_rows
        from airflow_provider_gemini_batch.triggers.deferral import execution_timeout_of

        choices: dict[str, Any] = {name: getattr(self, name) for name in _CHOICES}
        for name, choice in choices.items():
            if choice not in _CHOICES[name]:
                raise ConfigurationError(f"{name} must be one of {', '.join(_CHOICES[name])}, not {choice!r}.")
        # True is an integer in Python, and would be one resubmission.
        if isinstance(self.max_resubmits, bool) or not isinstance(self.max_resubmits, int) or self.max_resubmits < 0:
            raise ConfigurationError(f"max_resubmits must be a whole number, 0 or more, not {self.max_resubmits!r}.")
        check_max_failed_rows(self.max_failed_rows)
        seconds(self.poll_interval, "poll_interval")
        choices.pop("on_existing_job")
        return AttemptPolicy(
            timeout=seconds(self.timeout, "timeout") or DEFAULT_TIMEOUT,
            submit_timeout=seconds(self.submit_timeout, "submit_timeout") or DAY,
            pending_timeout=seconds(self.pending_timeout, "pending_timeout"),
            running_timeout=seconds(self.running_timeout, "running_timeout"),
            execution_timeout=execution_timeout_of(self),
            max_resubmits=self.max_resubmits,
            **choices,
        )

    def _caps(self) -> Caps:
        from airflow_provider_gemini_batch.task.caps import Caps

        return Caps(self.max_cost, self.max_input_tokens)
