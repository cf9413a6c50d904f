# SPDX-License-Identifier: Apache-2.0
"""A wait's share of the shared poller: the updates on its jobs that it has not taken yet."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.errors import GeminiBatchError
    from airflow_provider_gemini_batch.watch.steps import Update, WatchedJob


class Polls(Protocol):
    """What a subscription asks of the poller."""

    @property
    def trouble(self) -> GeminiBatchError | None:
        """What keeps the poller from reading at the moment."""

    def leave(self, job: WatchedJob) -> None:
        """Let a job go."""

    def poll_now(self, job: WatchedJob) -> None:
        """Make a job due now."""

    def keep_running(self) -> None:
        """Make sure that somebody polls."""


class Subscription:
    """
    One wait for one job or for several; use it as a context manager.

    Of each job it holds the newest update alone. Whatever learns of a job calls :meth:`deliver`: the poller, and a
    webhook as well.
    """

    __slots__ = ("_jobs", "_poller", "_untaken", "_waiter", "last_chances")

    def __init__(self, poller: Polls) -> None:
        self._poller = poller
        self._jobs: dict[str, WatchedJob] = {}
        self._untaken: dict[tuple[str, str], Update] = {}
        self._waiter: asyncio.Future[None] | None = None
        self.last_chances: dict[str, float] = {}
        """Kept for :func:`~airflow_provider_gemini_batch.watch.event.next_end`: times until which a job over its
        limit is given one more poll."""

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def watch(self, job: WatchedJob) -> None:
        """Take a job on; the poller calls this."""
        self._jobs[job.job_name] = job

    @property
    def job_names(self) -> tuple[str, ...]:
        """The full names of the jobs that are still watched."""
        return tuple(self._jobs)

    def close(self) -> None:
        """Leave; others go on."""
        for job_name in tuple(self._jobs):
            self.drop(job_name)

    def drop(self, job_name: str) -> None:
        """Stop watching one job."""
        job = self._jobs.pop(job_name, None)
        if job is not None:
            self._poller.leave(job)

    def trouble_of(self, job_name: str) -> GeminiBatchError | None:
        """Return what keeps the poller from reading, or from reading this job, if anything does at the moment."""
        job = self._jobs.get(job_name)
        return self._poller.trouble or (job.trouble if job is not None else None)

    def poll_now(self, job_name: str | None = None) -> None:
        """Ask for a poll of one job, or of all, as soon as the poller may, and for an update whatever it shows."""
        for job in self._jobs.values():
            if job_name in (None, job.job_name):
                self._poller.poll_now(job)

    async def next_update(self, timeout: float | None = None) -> Update | None:
        """
        Wait for an update: a poll that shows another state or number of failed rows, or that was asked for, an error,
        a sibling. What shows nothing new is repeated every five minutes.

        :param timeout: Seconds, or None for no limit.
        :return: None when the time is over.
        """
        self._poller.keep_running()
        # An update that is there is returned also when there is no time left.
        if not self._untaken and (timeout is None or timeout > 0):
            loop = asyncio.get_running_loop()
            waiter = self._waiter = loop.create_future()
            timer = None if timeout is None else loop.call_later(timeout, _wake, waiter)
            try:
                await waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        return self._untaken.pop(next(iter(self._untaken))) if self._untaken else None

    def deliver(self, update: Update) -> None:
        """Hand an update over; one on the same job that was not taken yet is replaced."""
        if update.job_name not in self._jobs:
            return
        # The newest one only: a wait that is busy with an old update needs the state that holds, not the history of it.
        # Siblings are kept apart, as each is news of another job.
        self._untaken[update.job_name, update.sibling.name if update.sibling is not None else ""] = update
        if self._waiter is not None:
            _wake(self._waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
