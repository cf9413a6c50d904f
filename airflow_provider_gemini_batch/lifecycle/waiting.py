# SPDX-License-Identifier: Apache-2.0
"""What to do after a look at a job, and what to tell people meanwhile: pure decisions, the same in every mode."""

# Example: `timeout=4 days`, `pending_timeout=6 h`, a job that is created at 0 h and polled all the time.
#
#   h     seen        outcome
#   ----  ----------  ------------------------------------------------------------------------------------------
#   0     PENDING     none: go on
#   3     503         none: a passing fault ends no wait before the deadline
#   3     no trust    none for some minutes, then the error: this host does not trust the certificate it is shown, and
#                     would not in four days
#   6     PENDING     PENDING_TIMEOUT, by the job's creation and not by the wait's beginning: an adopted job is as
#                     old as it is
#   6     RUNNING     (had it begun before) none: its turn has come, and the limit is over for good
#   96    RUNNING     TIMEOUT; an ended job is ENDED also now, as its answers are paid for

# Deadlines are UTC epoch seconds, so that they survive restarts and deferral.

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.api.flows import get_job
from airflow_provider_gemini_batch.api.retry import RetryPolicy
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.api.wire import Flow, Pause
from airflow_provider_gemini_batch.errors import GeminiBatchError, NetworkSettingError, NotFoundError
from airflow_provider_gemini_batch.lifecycle.own_jobs import MISSING_GRACE
from airflow_provider_gemini_batch.lifecycle.polling import next_interval
from airflow_provider_gemini_batch.lifecycle.twins import TwinWatch, find_twins, list_look_due
from airflow_provider_gemini_batch.times import duration, epoch

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.models import BatchJob

SILENCE = 600.0
"""Longest time in seconds without a progress line."""

TROUBLE_SILENCE = 290.0
"""The same while polls fail; a little less than the poller's own interval of five minutes."""

SETTING_PATIENCE = 300.0
"""Seconds for which polls may fail for this host's own settings, while its certificates are exchanged, say."""


class Outcome(StrEnum):
    """How a wait ended."""

    ENDED = "ended"
    TIMEOUT = "timeout"
    PENDING_TIMEOUT = "pending_timeout"
    RUNNING_TIMEOUT = "running_timeout"
    TWIN = "twin"
    """Another job for the same piece of work turned up: one of them has to go, and the wait goes on."""
    ERROR = "error"


@dataclass(frozen=True)
class WaitLimits:
    """
    How long to wait.

    :param deadline: UTC epoch seconds after which we stop, whatever the state.
    :param pending_timeout: Seconds a job may wait for its turn, from its creation; None for no limit.
    :param running_timeout: Seconds a job may run, from the moment we first saw it run (or its start time).
    """

    deadline: float
    pending_timeout: float | None = None
    running_timeout: float | None = None

    def outcome_of(
        self, job: BatchJob | None, now: float, running_since: float | None, created: float | None = None
    ) -> Outcome | None:
        """
        Say whether the wait is over, and how; None while it is not. All moments are of our clock.

        :param running_since: When the job was first seen to run, or its start.
        :param created: When the job was created; None to take the service's word for it.
        """
        # First of all: an end that is seen at the deadline is an end.
        if job is not None and job.is_done:
            return Outcome.ENDED
        if now >= self.deadline:
            return Outcome.TIMEOUT
        if job is None:
            return None
        created = epoch(job.create_time) if created is None else created
        if (
            self.pending_timeout is not None
            and job.state.is_waiting
            and created is not None
            and now >= created + self.pending_timeout
        ):
            return Outcome.PENDING_TIMEOUT
        if (
            self.running_timeout is not None
            and job.state is JobState.RUNNING
            and running_since is not None
            and now >= running_since + self.running_timeout
        ):
            return Outcome.RUNNING_TIMEOUT
        return None


@dataclass
class ProgressReport:
    """
    Decides which polls are worth a line: every change of state or of failed rows, the first that works again, and one
    each ten minutes; of those that fail, the first and one each five minutes.

    :param log: Takes the finished line.
    :param warn: Takes lines on polls that fail; None for *log*.
    """

    log: Callable[[str], None]
    started: float
    warn: Callable[[str], None] | None = None
    _last: tuple[str, int | None] | None = field(default=None, init=False)
    _last_time: float = field(default=0.0, init=False)
    _unknown: set[str] = field(default_factory=set, init=False)
    _failing_since: float | None = field(default=None, init=False)
    _last_fault: float = field(default=0.0, init=False)

    def fault(self, error: GeminiBatchError, now: float) -> None:
        """Take a poll into account that failed and is not the last, and log a line if it is worth one."""
        if self._failing_since is None:
            self._failing_since = now
        elif now - self._last_fault < TROUBLE_SILENCE:
            return
        self._last_fault = self._last_time = now
        failing = now - self._failing_since
        text = f" for {duration(failing)}" if failing else ""
        (self.warn or self.log)(f"Polling has failed{text}; waiting goes on. {error}")

    def see(self, job: BatchJob, now: float) -> None:
        """Take a poll into account, and log a line if it is worth one."""
        if self._failing_since is not None:
            self.log(f"{job.name} can be polled again, after {duration(now - self._failing_since)}.")
            self._failing_since = None
        if job.state is JobState.UNKNOWN and job.state_text not in self._unknown:
            self._unknown.add(job.state_text)
            self.log(f"{job.name} is in the state {job.state_text!r}, which is not known here; waiting goes on.")
        mark = (job.state_text or job.state.value, job.stats.failed)
        if mark == self._last and now - self._last_time < SILENCE:
            return
        self._last, self._last_time = mark, now
        self.log(progress_line(job, now - self.started))


def progress_line(job: BatchJob, elapsed: float) -> str:
    """Return state, rows done of total, percent, failed rows and elapsed time of a job in one line."""
    stats = job.stats
    parts = [f"{job.name}: {job.state_text if job.state is JobState.UNKNOWN else job.state.value}"]
    if stats.total:
        parts.append(f"{'?' if stats.done is None else stats.done}/{stats.total} rows")
    if job.progress is not None:
        parts.append(f"{job.progress:.0f} %")
    if stats.failed:
        parts.append(f"{stats.failed} failed")
    parts.append(f"{duration(elapsed)} elapsed")
    return ", ".join(parts)


@dataclass
class Watch:
    """
    What one waiting task remembers between looks: enough to decide, whoever does the looking.

    :param limits: How long to wait.
    :param started: UTC epoch seconds when the wait began.
    :param on_look: Called with every job seen.
    :param on_fault: Called with every passing fault that kept us from it.
    """

    limits: WaitLimits
    started: float
    on_look: Callable[[BatchJob, float], None] = field(default=lambda job, now: None)
    on_fault: Callable[[GeminiBatchError, float], None] = field(default=lambda error, now: None)
    job: BatchJob | None = field(default=None, init=False)
    running_since: float | None = field(default=None, init=False)
    twins: tuple[str, ...] = field(default=(), init=False)
    """With the outcome TWIN: names of the jobs that turned up."""

    _kept_away_since: float | None = field(default=None, init=False)

    skew: float = field(default=0.0, init=False)
    """Seconds by which the service's clock is ahead of ours."""

    def see(self, job: BatchJob, now: float) -> Outcome | None:
        """Take a poll into account; return how the wait ended, or None to go on."""
        self.job = job
        self._kept_away_since = None
        self.skew = job.skew(now)
        if job.state is JobState.RUNNING and self.running_since is None:
            started = epoch(job.start_time)
            self.running_since = now if started is None else started - self.skew
        self.on_look(job, now)
        return self.outcome(now)

    @property
    def created(self) -> float | None:
        """When the job was created, by our clock; None while that is not known."""
        created = epoch(self.job.create_time) if self.job is not None else None
        return None if created is None else created - self.skew

    def outcome(self, now: float) -> Outcome | None:
        """Judge what was last seen of the job."""
        return self.limits.outcome_of(self.job, now, self.running_since, self.created)

    def fault(self, error: GeminiBatchError, now: float) -> Outcome | None:
        """
        Take a failed look into account.

        :return: None to go on (passing trouble, or a job too young to be found), TIMEOUT at the deadline.
        :raises GeminiBatchError: *error* itself, if no further look can help.
        """
        # A read may be answered by a replica that has not heard of the job yet; later a 404 is the truth.
        young = isinstance(error, NotFoundError) and now - self.started < MISSING_GRACE
        if not (error.is_transient or young) or self._is_kept_away(error, now):
            raise error
        self.on_fault(error, now)
        return self.limits.outcome_of(None, now, None)

    def _is_kept_away(self, error: GeminiBatchError, now: float) -> bool:
        """Return whether this host's settings have failed each poll for so long that waiting is no help."""
        if not isinstance(error, NetworkSettingError):
            self._kept_away_since = None
            return False
        if self._kept_away_since is None:
            self._kept_away_since = now
        return now - self._kept_away_since >= SETTING_PATIENCE

    def pause(self, now: float, poll_interval: float | None) -> float:
        """Return the seconds until the next poll is due, never beyond the deadline."""
        born = self.created
        interval = next_interval(now - (born if born is not None else self.started), poll_interval)
        return max(0.0, min(interval, self.limits.deadline - now))


def wait_for_end(
    backend: Backend,
    job_name: str,
    watch: Watch,
    now: Callable[[], float],
    *,
    poll_interval: float | None = None,
    retry: RetryPolicy | None = None,
    twins: TwinWatch | None = None,
) -> Flow[Outcome]:
    """
    Look at a job until the wait is over; ``watch.job`` then holds the last look.

    429, 5xx, lost connections and unreadable replies are waited out with growing pauses until the deadline.

    :param poll_interval: Seconds between polls, or None for the adaptive interval.
    :param twins: Says which listed job is a twin; None reads no list.
    :return: How the wait ended.
    :raises GeminiBatchError: What no further look can help: refused credentials, a job that does not exist.
    """
    back_off = retry or RetryPolicy(max_attempts=None)
    # Not repeated within a poll: the loop is the repetition, and each failure of it is counted and told.
    once = RetryPolicy(max_attempts=1)
    failures = 0
    listed_at = 0.0
    while True:
        try:
            job = yield from get_job(backend, job_name, once)
        except GeminiBatchError as error:
            outcome = watch.fault(error, now())
            failures += 1
            pause = back_off.delay_after(error, failures) or next_interval(0.0, poll_interval)
            pause = min(pause, max(0.0, watch.limits.deadline - now()))
        else:
            failures = 0
            outcome = watch.see(job, now())
            pause = watch.pause(now(), poll_interval)
            age = now() - (watch.started if watch.created is None else watch.created)
            if outcome is None and twins is not None and list_look_due(listed_at, age):
                listed_at = age
                watch.twins = yield from _twins(backend, job, twins)
                if watch.twins:
                    return Outcome.TWIN
        if outcome is not None:
            return outcome
        yield Pause(pause)


def _twins(backend: Backend, job: BatchJob, twins: TwinWatch) -> Flow[tuple[str, ...]]:
    try:
        found = yield from find_twins(backend, job, twins, RetryPolicy(max_attempts=2))
    except GeminiBatchError:
        return ()  # a look for a twin costs no wait
    return tuple(twin.name for twin in found)
