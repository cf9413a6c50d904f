# SPDX-License-Identifier: Apache-2.0
"""
Ended job and row counts -> verdict. Operators, sensor, client, download and runs all ask here, so that they agree.
"""

# `max_failed_rows` is the number of rows without a usable answer that is still fine: an int counts them, a float below
# 1 is their share. The default is a tenth. Fewer rows are warned about, more fail the task. None only warns, whatever
# the share. A job without one usable answer fails in any case.
#
# A share allows whole rows only: of nine rows a tenth is none, so one failure fails; of 25 it is two.

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    GeminiBatchError,
    JobCancelledError,
    JobExpiredError,
    JobFailedError,
    JobStuckError,
    JobTimeoutError,
    PartialFailureError,
)
from airflow_provider_gemini_batch.lifecycle.waiting import Outcome
from airflow_provider_gemini_batch.times import duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_gemini_batch.api.models import BatchJob

MAX_FAILED_ROWS = 0.1
"""The share of rows without a usable answer that is fine unless the user says otherwise."""

REASONS_TOLD = 5


@dataclass(frozen=True)
class RowSample:
    """
    What the first answers of a job say, read before anybody downloads them all.

    :param reasons: Why rows failed, and how often.
    :param truncated: Number of answers that were cut off.
    :param read: Number of answers that were read.
    :param is_whole: Whether these were all.
    """

    reasons: Mapping[str, int] = field(default_factory=dict)
    truncated: int = 0
    read: int = 0
    is_whole: bool = True


def check_max_failed_rows(value: object) -> float | None:
    """Return *value*, or raise ConfigurationError if it is neither None, a count nor a share below 1."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ConfigurationError(f"max_failed_rows must be a count (int) or a share below 1 (float), not {value!r}.")
    if isinstance(value, float) and value >= 1 and not value.is_integer():
        raise ConfigurationError(f"max_failed_rows={value!r} is neither a share below 1 nor a whole number.")
    return value


def allowed_rows(max_failed_rows: float, total: int) -> int:
    """Return how many of *total* rows may lack a usable answer."""
    if isinstance(max_failed_rows, float) and max_failed_rows < 1:
        return math.floor(max_failed_rows * total + 1e-9)  # 0.29 * 100 is 28.999999999999996
    return int(max_failed_rows)


def check_ended(
    job: BatchJob,
    max_failed_rows: float | None = MAX_FAILED_ROWS,
    look: Callable[[BatchJob], RowSample] | None = None,
    *,
    count_truncated: bool = False,
) -> str | None:
    """
    Judge a job that has ended, by the counts it reports itself.

    :param look: Reads the first answers; asked only if some rows failed, or if *count_truncated*.
    :param count_truncated: Whether answers that were cut off count as failed, among those that *look* reads.
    :return: A warning about rows without an answer, or None.
    :raises JobFailedError, JobCancelledError, JobExpiredError: For a job that ended so; with the service's reason.
    :raises PartialFailureError: If more rows failed than *max_failed_rows* allows.
    """
    # A job that failed, expired or was cancelled fails the task, whatever its counts say.
    check_state(job)
    stats = job.stats
    succeeded, failed = stats.succeeded, stats.failed or 0
    # The larger of the two, as one of the counts may be behind.
    total = max(stats.total or 0, (succeeded or 0) + failed)
    is_partial = job.state is JobState.PARTIALLY_SUCCEEDED
    what = f"{job.name} succeeded only in part" if is_partial else job.name
    if succeeded is None and not failed:
        return _unknown_counts(job, what, max_failed_rows) if is_partial else None
    # A row that is in neither count has no answer: it counts as failed, not as unknown.
    without = failed if succeeded is None else max(failed, total - succeeded)
    sample = look(job) if look is not None and (without or count_truncated) else RowSample()
    return check_rows(
        total,
        without,
        max_failed_rows,
        what=what,
        reasons=sample.reasons,
        truncated=sample.truncated,
        count_truncated=count_truncated,
        sampled=None if sample.is_whole else sample.read,
        job=job,
    )


def check_state(job: BatchJob) -> None:
    """
    Raise the error of a job that ended without answers, with the service's own reason.

    :raises JobFailedError, JobCancelledError, JobExpiredError: For a job that ended so.
    """
    if job.is_succeeded:
        return
    reason = _reason(job)
    if job.state is JobState.FAILED:
        raise JobFailedError(f"{job.name} failed.{reason}", job=job)
    if job.state is JobState.CANCELLED:
        raise JobCancelledError(f"{job.name} was cancelled.{reason}", job=job)
    if job.state is JobState.EXPIRED:
        raise JobExpiredError(
            f"{job.name} expired: Google did not get to it in time, and there are no results.{reason} "
            "Submit it again, or split the input.",
            job=job,
        )
    raise JobFailedError(f"{job.name} ended in the state {job.state_text or job.state.value}.{reason}", job=job)


def _reason(job: BatchJob) -> str:
    reason = f" The service says: {job.error}." if job.error else " The service gave no reason."
    if job.partial_failures:
        reason += f" First partial failure: {job.partial_failures[0]}."
    if job.advice:
        reason += f" {job.advice}"
    return reason


def _unknown_counts(job: BatchJob, what: str, max_failed_rows: float | None) -> str:
    """Judge a job that tells that rows failed, and not how many: only a user who asked for no bound gets a warning."""
    text = f"{what}: row counts are not known.{_reason(job)}"
    if max_failed_rows is None:
        return text
    raise PartialFailureError(
        f"{text} Its good rows can be downloaded; to accept such a job, set max_failed_rows=None.", job=job
    )


def check_rows(
    total: int,
    failed: int,
    max_failed_rows: float | None,
    *,
    what: str,
    kinds: Mapping[str, int] | None = None,
    reasons: Mapping[str, int] | None = None,
    truncated: int = 0,
    count_truncated: bool = False,
    sampled: int | None = None,
    job: BatchJob | None = None,
) -> str | None:
    """
    Judge row counts.

    :param failed: Rows that failed, were blocked or are missing.
    :param what: Named in the message.
    :param kinds: How many of them failed, were blocked, are missing.
    :param reasons: The first reasons with how often each was given.
    :param truncated: Answers that were cut off; they are not among *failed*.
    :param count_truncated: Whether these count as failed.
    :param sampled: The number of answers that *reasons* and *truncated* were counted in; None for all of them.
    :return: A warning, or None if every row has a whole answer.
    :raises JobFailedError: If no row has an answer.
    :raises PartialFailureError: If more rows than allowed have none.
    """
    among = "" if sampled is None else f" among the first {sampled} answers"
    cut = ""
    if truncated and count_truncated:
        failed = min(total, failed + truncated)
        kinds = {**(kinds or {}), f"cut off{among}": truncated}
    elif truncated:
        cut = (
            f"{what}: {truncated} answers{among} were cut off, at the limit of output tokens (raise maxOutputTokens) "
            "or for another finish_reason than STOP. count_truncated=True counts them as failed."
        )
    if not failed and total:
        return cut or None
    text = f"{what}: {failed} of {total} rows have no usable answer"
    if kinds and any(kinds.values()):
        text += ": " + ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    if reasons:
        told = "; ".join(f"{count} x {reason}" for reason, count in list(reasons.items())[:REASONS_TOLD])
        text += f" ({told}{among})"
    # Whatever the bound says: with no answer at all there is nothing to land.
    if total - failed <= 0:
        raise JobFailedError(f"{text}." if total else f"{what} has no rows at all.", job=job)
    if max_failed_rows is not None and failed > (allowed := allowed_rows(max_failed_rows, total)):
        raise PartialFailureError(
            f"{text}; max_failed_rows={max_failed_rows} allows {allowed}.", failed=failed, total=total, job=job
        )
    return f"{text}. {cut}".rstrip()


def not_ended(
    outcome: Outcome, job_name: str, job: BatchJob | None, waited: float, limit: str = "timeout"
) -> GeminiBatchError:
    """
    Make the error for a wait that ended before the job did.

    :param limit: Which argument ended the wait.
    """
    state = f"it was {job.state_text or job.state.value}" if job else "it could not be read"
    if outcome is Outcome.PENDING_TIMEOUT:
        return JobStuckError(
            f"{job_name} has been waiting for its turn for longer than pending_timeout; {state}.",
            phase="pending",
            job=job,
        )
    if outcome is Outcome.RUNNING_TIMEOUT:
        return JobStuckError(f"{job_name} has been running for longer than running_timeout.", phase="running", job=job)
    return JobTimeoutError(
        f"Stopped waiting for {job_name} after {duration(waited)} ({limit}): {state} when last seen. Unless it is "
        "cancelled it may still run, and be billed.",
        limit=limit,
        job=job,
    )
