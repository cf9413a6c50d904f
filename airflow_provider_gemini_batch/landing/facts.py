# SPDX-License-Identifier: Apache-2.0
"""What a job tells of its answers before they are read."""

# A result file can be cut at a line's end, a shard can be a proxy's error page, or not listed yet. Nothing in what
# arrives tells. The job's own counts do.

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from airflow_provider_gemini_batch.api.identity import input_digest_of
from airflow_provider_gemini_batch.rows.settings import RowSettings

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob


@dataclass(frozen=True)
class JobFacts:
    """
    What a job tells of its answers.

    :param answers: So many lines must arrive at least; None if nothing is known.
    :param input_digest: Names the lines of the input the job was made from; empty if the job does not tell.
    :param ended: When the job ended, RFC 3339: prices depend on the day.
    :param row_settings: By which an input row without an answer is judged: could it be sent at all?
    """

    name: str = ""
    model: str = ""
    answers: int | None = None
    input_digest: str = ""
    row_settings: RowSettings | None = None
    ended: str | None = None

    @classmethod
    def of(cls, job: BatchJob) -> Self:
        """Read a job that has ended."""
        kind = "embed" if "embedding" in job.model else "generate"
        return cls(
            job.name,
            job.model,
            job.expected_answers,
            input_digest_of(job),
            RowSettings(kind, job.backend, job.model),  # type: ignore[arg-type]
            job.end_time,
        )
