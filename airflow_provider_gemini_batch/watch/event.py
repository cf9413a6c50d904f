# SPDX-License-Identifier: Apache-2.0
"""
A wait in the triggerer, and the event that ends it.

:func:`event_for` alone makes events, and :func:`read_event` alone reads them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.models import BatchStats
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.errors import GeminiBatchError, TriggerEventError
from airflow_provider_gemini_batch.lifecycle.waiting import Outcome, Watch
from airflow_provider_gemini_batch.times import duration, epoch

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.watch.poller import Subscription

LAST_LOOK = 3.0
"""Seconds that a limit waits for one more look: a job that has just ended, or begun to run, is not given up."""

TROUBLE_CHECK = 360.0
"""Seconds without a look after which a wait asks what keeps the poller; longer than a look is told again after."""

MESSAGE_CHARACTERS = 1000


@dataclass(frozen=True)
class WaitEvent:
    """
    How a wait ended, as the resumed task reads it.

    :param state: As last seen; UNKNOWN if the job never was.
    :param message: For people; why the wait ended without an ended job.
    :param error: Class name of the error behind the outcome ``error``.
    """

    outcome: Outcome
    job_name: str
    state: JobState = JobState.UNKNOWN
    stats: BatchStats = field(default_factory=BatchStats)
    message: str = ""
    error: str = ""


def event_for(
    outcome: Outcome, job_name: str, job: BatchJob | None, message: str = "", error: str = ""
) -> dict[str, Any]:
    """
    Make the payload of an event: a few names and numbers, since it is logged and stored in the open.

    :param job: As last seen, or None.
    :param error: Class name of an error.
    """
    return {
        "outcome": outcome.value,
        "job_name": job_name,
        "state": job.state.value if job is not None else JobState.UNKNOWN.value,
        "stats": job.stats.as_dict() if job is not None else BatchStats().as_dict(),
        "message": message[:MESSAGE_CHARACTERS],
        "error": error,
    }


def read_event(event: Any) -> WaitEvent:
    """
    Read the payload that :func:`event_for` made.

    :raises TriggerEventError: For anything else.
    """
    if not isinstance(event, Mapping):
        raise TriggerEventError(f"The task was resumed with {type(event).__name__}, not with a batch job's event.")
    try:
        outcome = Outcome(event["outcome"])
        job_name = event["job_name"]
        state = JobState(event.get("state") or JobState.UNKNOWN.value)
        stats = _read_stats(event.get("stats"))
    except (KeyError, ValueError, TypeError) as error:
        raise TriggerEventError(
            f"The task was resumed with an event that this version does not know ({error}); it may stem from another "
            "version of the provider. Clear the task: it finds its job again."
        ) from error
    if not isinstance(job_name, str) or not job_name:
        raise TriggerEventError("The task was resumed with an event that names no batch job.")
    return WaitEvent(outcome, job_name, state, stats, str(event.get("message") or ""), str(event.get("error") or ""))


def _read_stats(value: Any) -> BatchStats:
    if value is None:
        return BatchStats()
    if not isinstance(value, Mapping):
        raise TypeError("stats is not an object")
    numbers = {}
    for member in dataclasses.fields(BatchStats):
        number = value.get(member.name)
        if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
            raise TypeError(f"stats.{member.name} is not a whole number")
        numbers[member.name] = number
    return BatchStats(**numbers)


def why(outcome: Outcome, job_name: str, waited: float, trouble: GeminiBatchError | None) -> str:
    """Say for an event why a wait ended without an ended job."""
    if outcome is Outcome.ENDED:
        return ""
    text = f"stopped waiting for {job_name} after {duration(waited)}"
    return f"{text}; the last looks failed: {trouble}" if trouble is not None else text


async def watch_until_over(watch: Watch, subscription: Subscription) -> Outcome:
    """
    Take looks until the wait is over. Limits are kept by our own timer, whatever the poller does.

    :raises GeminiBatchError: What no further look can help.
    """
    while True:
        limit = _next_limit(watch)
        look = await subscription.look(min(limit - time.time(), TROUBLE_CHECK))
        if look is None and (now := time.time()) < limit:
            if subscription.trouble is not None:
                watch.on_fault(subscription.trouble, now)
            continue
        if look is None:
            subscription.hurry()
            look = await subscription.look(LAST_LOOK)
        now = time.time()
        if look is None:
            outcome = watch.limits.outcome_of(watch.job, now, watch.running_since)
        elif isinstance(look, GeminiBatchError):
            outcome = watch.fault(look, now)
        else:
            outcome = watch.see(look, now)
        if outcome is not None:
            return outcome


def _next_limit(watch: Watch) -> float:
    """Return the UTC epoch second at which, without a further look, the wait would be over."""
    limits, job = watch.limits, watch.job
    times = [limits.deadline]
    if job is not None and job.state.is_waiting and limits.pending_timeout is not None:
        created = epoch(job.create_time)
        if created is not None:
            times.append(created + limits.pending_timeout)
    if job is not None and job.state is JobState.RUNNING and limits.running_timeout is not None:
        times.append((watch.running_since or time.time()) + limits.running_timeout)
    return min(times)
