# SPDX-License-Identifier: Apache-2.0
"""What can the poller be told to do, and what does a wait hear? What :mod:`.schedule` and its driver exchange."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

from airflow_provider_gemini_batch.api.models import BatchJob, JobPage
from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.watch.sweep import ReadPage


@dataclass(frozen=True, slots=True)
class Update:
    """
    What a subscriber hears about one of its jobs; one of the last three is set.

    :param job_name: The job that was subscribed to.
    :param job: As it was read.
    :param error: Why it could not be read. A transient error is told for the log alone: polling goes on.
    :param sibling: Another job with the same task in its token, as a page of the list showed it.
    """

    job_name: str
    job: BatchJob | None = None
    error: GeminiBatchError | None = None
    sibling: BatchJob | None = None


class WatchedJob:
    """
    One job of one subscriber.

    :param key: What jobs are compared by; see :func:`key_of`.
    :param poll_interval: Seconds between polls, or None for the adaptive interval.
    :param owner: Whoever is told; nothing here looks into it.
    :param due: When it is to be read, in seconds of the schedule's clock.
    """

    __slots__ = ("born", "complained_at", "created", "due", "failures", "job_name", "key", "owner", "poll_interval",
                 "seen_at", "siblings", "span", "task", "told", "told_at", "trouble", "unlisted_until")  # fmt: skip

    def __init__(
        self, key: str, job_name: str, poll_interval: float | None, owner: Any, *, due: float, now: float, utc: float
    ) -> None:
        self.key = key
        self.job_name = job_name
        self.poll_interval = poll_interval
        self.owner = owner
        self.due = due
        self.span = 0.0  # seconds between polls in the adaptive interval
        self.born = utc
        self.created: float | None = None  # UTC epoch seconds, once known
        self.task: str | None = None  # the task in its token, once known
        self.siblings: dict[str, str] | None = None  # names of those that were told, and their states
        self.seen_at = now
        self.failures = 0
        self.trouble: GeminiBatchError | None = None
        self.complained_at = -math.inf
        self.unlisted_until = -math.inf
        self.told: tuple[object, ...] | None = None
        self.told_at = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class ReadJob:
    """Read one job."""

    key: str
    job_name: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Hand updates to the owners of their jobs."""

    updates: tuple[tuple[WatchedJob, Update], ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until a second of the schedule's clock, infinity included, or until something happens."""

    until: float


@dataclass(frozen=True, slots=True)
class Stop:
    """End: nobody waits any longer."""


Read = ReadPage | ReadJob
Step = ReadPage | ReadJob | Tell | Wait | Stop
Result = JobPage | BatchJob | GeminiBatchError


@dataclass
class SingleReads:
    """The single reads of a round that are still to be made, and what came of the others."""

    queue: deque[tuple[str, str]]
    asked: int
    failed: int = 0
    fault: GeminiBatchError | None = None


def key_of(job_name: str) -> str:
    """Return a job's name without its project: Vertex AI answers with the project's number where one sent its id."""
    if job_name.startswith("projects/"):
        return job_name.split("/", 2)[2]
    return job_name
