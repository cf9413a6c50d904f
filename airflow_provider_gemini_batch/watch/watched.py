# SPDX-License-Identifier: Apache-2.0
"""Who waits for which job? The watched jobs by what a reply names: a job's key, or the task in its token."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_provider_gemini_batch.watch.steps import WatchedJob


class WatchedJobs:
    """All watched jobs; several may have one key, as several may wait for one job."""

    def __init__(self) -> None:
        self._by_key: dict[str, list[WatchedJob]] = {}
        self._by_task: dict[str, list[WatchedJob]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[WatchedJob]:
        for jobs in self._by_key.values():
            yield from jobs

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    @property
    def keys(self) -> int:
        """How many different jobs are watched."""
        return len(self._by_key)

    @property
    def have_tasks(self) -> bool:
        """Whether the task of any of them is known."""
        return bool(self._by_task)

    def add(self, job: WatchedJob) -> None:
        """Take a job in."""
        self._by_key.setdefault(job.key, []).append(job)
        self._count += 1

    def remove(self, job: WatchedJob) -> bool:
        """Let a job go; return whether it was there."""
        if not _drop(self._by_key, job.key, job):
            return False
        if job.task is not None:
            _drop(self._by_task, job.task, job)
        self._count -= 1
        return True

    def of(self, key: str) -> Sequence[WatchedJob]:
        """Return those with this key."""
        return self._by_key.get(key, ())

    def of_task(self, task: str) -> Sequence[WatchedJob]:
        """Return those whose token has this task."""
        return self._by_task.get(task, ())

    def learn_task(self, job: WatchedJob, task: str) -> None:
        """Note the task in a job's token."""
        job.task = task
        self._by_task.setdefault(task, []).append(job)


def _drop(index: dict[str, list[WatchedJob]], key: str, job: WatchedJob) -> bool:
    jobs = index.get(key, [])
    if job not in jobs:
        return False
    jobs.remove(job)
    if not jobs:
        del index[key]
    return True
