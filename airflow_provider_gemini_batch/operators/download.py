# SPDX-License-Identifier: Apache-2.0
"""Land a job's answers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import JobError
from airflow_provider_gemini_batch.operators.base import MANIFEST_KEY, GeminiBatchOperator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.landing.manifest import Manifest


class DownloadResultsOperator(GeminiBatchOperator):
    """
    Write a job's answers, one JSON object a line, and return a manifest of counts and places.

    The file appears only when it is complete. Good rows are landed before *max_failed_rows* fails the task.

    :param job_name: A job that has ended.
    :param output_path: Local path or object-storage URI.
    :param input_path: The rows the job was made from: then there is exactly one line for each of them, in their order,
        and rows without an answer are named.
    :param errors_path: Takes a copy of the result rows without a usable answer.
    :param max_failed_rows: Count (int) or share (float below 1) of rows without an answer that is still fine; None
        warns, and fails only if no row has one.
    :param count_truncated: Count answers that were cut off, by the token limit or a filter, as rows without an answer.
    :param key: The member, or list of members, by which a row is known; as it was given when the job was created.
    :param include_response: Keep the raw response in each line.
    :param check_counts: Fail, and be retried, if fewer answers arrive than the job counts. False lands what there is.
    :param check_input: Fail if *input_path* is not the input that the job was made from. False joins anyway.
    """

    page_view = "run"
    template_fields: Sequence[str] = (
        *GeminiBatchOperator.template_fields,
        "job_name",
        "output_path",
        "input_path",
        "errors_path",
    )

    def __init__(
        self,
        *,
        job_name: str,
        output_path: str | PathLike[str],
        input_path: str | PathLike[str] | None = None,
        errors_path: str | PathLike[str] | None = None,
        max_failed_rows: float | None = 0.1,
        count_truncated: bool = False,
        key: str | Sequence[str] = "key",
        include_response: bool = True,
        check_counts: bool = True,
        check_input: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_name = job_name
        self.output_path = output_path
        self.input_path = input_path
        self.errors_path = errors_path
        self.max_failed_rows = max_failed_rows
        self.count_truncated = count_truncated
        self.key = key
        self.include_response = include_response
        self.check_counts = check_counts
        self.check_input = check_input

    def run_task(self, context: Any) -> dict[str, Any]:
        """Write the answers, and return the manifest."""
        from airflow_provider_gemini_batch.files.paths import normalise_path
        from airflow_provider_gemini_batch.landing.facts import JobFacts
        from airflow_provider_gemini_batch.landing.join import land
        from airflow_provider_gemini_batch.lifecycle.verdict import check_max_failed_rows
        from airflow_provider_gemini_batch.task.history import leave_in_history
        from airflow_provider_gemini_batch.task.landed import tell_landed
        from airflow_provider_gemini_batch.task.prices import price_list
        from airflow_provider_gemini_batch.triggers.deferral import say_paid_twice

        check_max_failed_rows(self.max_failed_rows)
        output_path = normalise_path(self.output_path, "output_path")
        input_path = normalise_path(self.input_path, "input_path") if self.input_path else None
        errors_path = normalise_path(self.errors_path, "errors_path") if self.errors_path else None
        hook = self.hook
        job = hook.get_batch(self.job_name)
        self.show_job(context.get("ti"), job, hook.settings)
        if job.is_running:
            raise JobError(
                f"{job.name} has not ended (it is {job.state.value}): put a BatchJobSensor before this task.", job=job
            )
        manifest = land(
            hook.result_blocks(job),
            output_path,
            job=JobFacts.of(job),
            input_path=input_path,
            key=self.key,
            errors_path=errors_path,
            include_response=self.include_response,
            check_counts=self.check_counts,
            check_input=self.check_input,
            prices=price_list(),
        )
        manifest = replace(manifest, paid_twice=list(hook.paid_twins(job)))
        values = manifest.to_json()
        self.show_landed(context.get("ti"), output_path)
        if (task_instance := context.get("ti")) is not None:
            task_instance.xcom_push(key=MANIFEST_KEY, value=values)
            if manifest.paid_twice:
                say_paid_twice(manifest.paid_twice, self.log, partial(_push, task_instance))
        leave_in_history(context, values)
        tell_landed(self, context, values, inputs=[input_path or job.input_place], outputs=[output_path, errors_path])
        self._judge(job, manifest)
        return values

    def _judge(self, job: BatchJob, manifest: Manifest) -> None:
        """Warn about what is odd, and fail the task over too many rows without an answer."""
        from airflow_provider_gemini_batch.api.models import JobErrorInfo
        from airflow_provider_gemini_batch.landing.manifest import oddities
        from airflow_provider_gemini_batch.lifecycle.verdict import check_rows, check_state

        if not job.is_succeeded:
            try:
                # An expired or cancelled job may have left answers, which are paid for: they are landed before the task
                # says so.
                check_state(job)
            except JobError as error:
                if not manifest.succeeded:
                    raise
                self.log.warning("%s What it left is landed.", error)
        for oddity in oddities(manifest):
            self.log.warning("%s: %s", job.name, oddity)
        # Without the input, rows that left no line are known from the job's own number of rows.
        total = manifest.total if self.input_path else max(manifest.total, job.stats.total or 0)
        without = total - manifest.succeeded
        self.log.info(
            "%s: %d rows landed at %s, %d of them without a usable answer",
            job.name, manifest.total, manifest.output_path, without,
        )  # fmt: skip
        kinds = {kind: getattr(manifest, kind) for kind in ("failed", "blocked")}
        warning = check_rows(
            total,
            without,
            self.max_failed_rows,
            what=job.name,
            kinds={**kinds, "missing": manifest.missing + total - manifest.total},
            reasons={str(JobErrorInfo(one["code"], one["message"])): one["count"] for one in manifest.first_errors},
            truncated=manifest.truncated,
            count_truncated=self.count_truncated,
            job=job,
        )
        if warning:
            self.log.warning("%s", warning)


def _push(task_instance: Any, key: str, value: Any) -> None:
    task_instance.xcom_push(key=key, value=value)
