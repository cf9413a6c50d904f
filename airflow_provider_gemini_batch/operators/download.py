# SPDX-License-Identifier: Apache-2.0
"""Land a job's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import JobError
from airflow_provider_gemini_batch.operators.base import GeminiBatchOperator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike


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
    :param include_response: Keep the raw response in each line.
    """

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
        include_response: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_name = job_name
        self.output_path = output_path
        self.input_path = input_path
        self.errors_path = errors_path
        self.max_failed_rows = max_failed_rows
        self.include_response = include_response

    def run_task(self, context: Any) -> dict[str, Any]:
        from airflow_provider_gemini_batch.api.models import JobErrorInfo
        from airflow_provider_gemini_batch.files.paths import normalise_path
        from airflow_provider_gemini_batch.landing.join import land
        from airflow_provider_gemini_batch.lifecycle.verdict import (
            check_ended,
            check_max_failed_rows,
            check_rows,
            check_state,
        )

        check_max_failed_rows(self.max_failed_rows)
        output_path = normalise_path(self.output_path, "output_path")
        input_path = normalise_path(self.input_path, "input_path") if self.input_path else None
        errors_path = normalise_path(self.errors_path, "errors_path") if self.errors_path else None
        hook = self.hook
        job = hook.get_batch(self.job_name)
        if job.is_running:
            raise JobError(
                f"{job.name} has not ended (it is {job.state.value}): put a BatchJobSensor before this task.", job=job
            )
        if job.output is None:
            check_ended(job, None)
        manifest: dict[str, Any] = {
            "job_name": job.name,
            "model": job.model,
            **land(
                hook.result_blocks(job),
                output_path,
                input_path=input_path,
                errors_path=errors_path,
                include_response=self.include_response,
                expects_answers=bool(job.stats.succeeded),
            ),
        }
        if not job.is_succeeded:
            try:
                check_state(job)
            except JobError as error:
                if not manifest["succeeded"]:
                    raise
                self.log.warning("%s What it left is landed.", error)
        without = manifest["total"] - manifest["succeeded"]
        self.log.info(
            "%s: %d rows landed at %s, %d of them without a usable answer",
            job.name, manifest["total"], output_path, without,
        )  # fmt: skip
        warning = check_rows(
            manifest["total"],
            without,
            self.max_failed_rows,
            what=job.name,
            kinds={kind: manifest[kind] for kind in ("failed", "blocked", "missing")},
            reasons={
                str(JobErrorInfo(item["code"], item["message"])): item["count"] for item in manifest["first_errors"]
            },
            job=job,
        )
        if warning:
            self.log.warning("%s", warning)
        return manifest
