# SPDX-License-Identifier: Apache-2.0
"""A job as a copy of the list keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.api.identity import token_of, user_name_of
from airflow_provider_gemini_batch.times import epoch

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress


@dataclass(slots=True)
class ListedJob:
    """
    A job in a copy. Moments are UTC epoch seconds.

    :param display_name: Without our marks.
    :param token: Task half of our mark; empty if it carries none.
    :param file: Place of its rows; empty for inline rows.
    :param owner: The task it belongs to, once that is found out.
    :param read: Whether a task has landed its answers, as far as Airflow remembers.
    """

    name: str
    display_name: str
    token: str
    model: str
    state: str
    total: int | None
    succeeded: int | None
    failed: int | None
    created: float | None
    ended: float | None
    file: str
    owner: TaskAddress | None = None
    read: bool = False
    cost: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.state in ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")

    @property
    def has_answers(self) -> bool:
        """Whether it ended with answers."""
        return self.state in ("SUCCEEDED", "PARTIALLY_SUCCEEDED")


def listed(job: BatchJob) -> ListedJob:
    """Return what a copy keeps of a job."""
    token = token_of(job)
    return ListedJob(
        job.name,
        user_name_of(job.display_name),
        token.task if token is not None else "",
        job.model.rpartition("/")[2],
        job.state.value,
        job.stats.total,
        job.stats.succeeded,
        job.stats.failed,
        epoch(job.create_time),
        epoch(job.end_time),
        job.input_place or "",
    )
