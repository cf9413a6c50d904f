# SPDX-License-Identifier: Apache-2.0
"""
Ended job and row counts -> verdict. Operators, sensor and hook all ask here, so that they agree.

``max_failed_rows``: None warns about rows without an answer and fails only a job without one usable answer; an int is
the number of such rows that is still fine, a float below 1 their share.
"""

from __future__ import annotations

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
    from collections.abc import Callable, Mapping

    from airflow_provider_gemini_batch.api.models import BatchJob


def check_max_failed_rows(value: object) -> float | None:
    """Return *value*, or raise ConfigurationError if it is neither None, a count nor a share below 1."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ConfigurationError(f"max_failed_rows must be a count (int) or a share below 1 (float), not {value!r}.")
    if isinstance(value, float) and value >= 1 and not value.is_integer():
        raise ConfigurationError(f"max_failed_rows={value!r} is neither a share below 1 nor a whole number.")
    return value


def check_ended(
    job: BatchJob,
    max_failed_rows: float | None = None,
    reasons: Callable[[BatchJob], Mapping[str, int]] | None = None,
) -> str | None:
    """
    Judge a job that has ended.

    :param reasons: Looks up why rows failed and how often; asked only if some did.
    :return: A warning about rows without an answer, or None.
    :raises JobFailedError, JobCancelledError, JobExpiredError: For a job that ended so; with the service's reason.
    :raises PartialFailureError: If more rows failed than *max_failed_rows* allows, or, without that, if the service
        calls the job partially succeeded.
    """
    reason = f" The service says: {job.error}." if job.error else " The service gave no reason."
    if job.partial_failures:
        reason += f" First partial failure: {job.partial_failures[0]}."
    if job.advice:
        reason += f" {job.advice}"
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
    if not job.is_succeeded:
        raise JobFailedError(f"{job.name} ended in the state {job.state_text or job.state.value}.{reason}", job=job)
    stats = job.stats
    succeeded, failed = stats.succeeded, stats.failed or 0
    total = max(stats.total or 0, (succeeded or 0) + failed)
    if job.state is JobState.PARTIALLY_SUCCEEDED and max_failed_rows is None:
        counts = f"{succeeded} of {total} rows have an answer" if succeeded is not None else "row counts are not known"
        raise PartialFailureError(
            f"{job.name} succeeded only in part: {counts}.{reason} Its good rows can be downloaded; to accept such a "
            "job, set max_failed_rows.",
            failed=max(failed, total - (succeeded or 0)),
            total=total,
            job=job,
        )
    if succeeded is None and not failed:
        return None
    without = max(failed, total - (succeeded or 0))
    why = reasons(job) if reasons is not None and without else None
    return check_rows(total, without, max_failed_rows, what=job.name, reasons=why, job=job)


def check_rows(
    total: int,
    failed: int,
    max_failed_rows: float | None,
    *,
    what: str,
    kinds: Mapping[str, int] | None = None,
    reasons: Mapping[str, int] | None = None,
    job: BatchJob | None = None,
) -> str | None:
    """
    Judge row counts.

    :param failed: Rows that failed, were blocked or are missing.
    :param what: Named in the message.
    :param kinds: How many of them failed, were blocked, are missing.
    :param reasons: The first reasons with how often each was given.
    :return: A warning, or None if every row has an answer.
    :raises JobFailedError: If no row has an answer.
    :raises PartialFailureError: If more rows than allowed have none.
    """
    if not failed and total:
        return None
    text = f"{what}: {failed} of {total} rows have no usable answer"
    if kinds and any(kinds.values()):
        text += ": " + ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    if reasons:
        text += " (" + "; ".join(f"{count} x {reason}" for reason, count in list(reasons.items())[:5]) + ")"
    if total - failed <= 0:
        raise JobFailedError(f"{text}." if total else f"{what} has no rows at all.", job=job)
    if max_failed_rows is not None:
        allowed = (
            max_failed_rows * total if isinstance(max_failed_rows, float) and max_failed_rows < 1 else max_failed_rows
        )
        if failed > allowed:
            raise PartialFailureError(
                f"{text}; max_failed_rows={max_failed_rows} allows {allowed:g}.", failed=failed, total=total, job=job
            )
    return f"{text}."


def not_ended(outcome: Outcome, job_name: str, job: BatchJob | None, waited: float) -> GeminiBatchError:
    """Make the error for a wait that ended before the job did."""
    state = f"it was {job.state_text or job.state.value}" if job else "it could not be looked at"
    if outcome is Outcome.PENDING_TIMEOUT:
        return JobStuckError(
            f"{job_name} has been waiting for its turn for longer than pending_timeout; {state}.",
            phase="pending",
            job=job,
        )
    if outcome is Outcome.RUNNING_TIMEOUT:
        return JobStuckError(f"{job_name} has been running for longer than running_timeout.", phase="running", job=job)
    return JobTimeoutError(
        f"Stopped waiting for {job_name} after {duration(waited)}: {state} when last seen. Unless it is cancelled it "
        "may still run, and be billed.",
        job=job,
    )
