# SPDX-License-Identifier: Apache-2.0
"""When is a job due again? On ticks that waits with the same interval share, or after a share of the job's age."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.lifecycle.polling import next_interval
from airflow_provider_gemini_batch.lifecycle.twins import list_look_due

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_gemini_batch.watch.steps import WatchedJob

SHORTEST_TICK = 0.1
"""Seconds between rounds at least, whatever a wait asks for: a round is everybody's."""


class Ticks:
    """
    The clock of one schedule.

    :param start: Second of the schedule's clock from which ticks count.
    :param utc: UTC epoch seconds.
    """

    def __init__(self, start: float, utc: Callable[[], float]) -> None:
        self._start = start
        self._utc = utc

    def next_tick(self, now: float, interval: float) -> float:
        """Return the next tick that all waits with this interval share."""
        # All waits of one interval share a clock, so that a round reads all of them with the same pages.
        # The small addend keeps a poll that came a rounding error early from being due again at the same tick.
        interval = max(interval, SHORTEST_TICK)
        return self._start + (math.floor((now - self._start) / interval + 1e-9) + 1) * interval

    def plan(self, job: WatchedJob, now: float) -> None:
        """Say when a job that was read now is due again."""
        if job.poll_interval is not None:
            job.span = 0.0
            job.due = self.next_tick(now, job.poll_interval)
            return
        # The age by the service's own clock where it is known: a job that was adopted after a day is not polled like a
        # new one.
        job.span = next_interval(self._utc() - (job.born if job.created is None else job.created))
        job.due = now + job.span

    def siblings_due(self, job: WatchedJob, page_read_at: float | None) -> bool:
        """
        Say whether page 1 of the list is due, as it may show another job of the same task.

        :param page_read_at: UTC epoch second of the last time it was read; None for never.
        """
        if job.task is None or job.created is None:
            return False
        page_age = 0.0 if page_read_at is None else max(0.0, page_read_at - job.created)
        return list_look_due(page_age, self._utc() - job.created)
