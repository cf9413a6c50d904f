# SPDX-License-Identifier: Apache-2.0
"""A wait in the triggerer, and the event that ends it."""

# `event_for` alone makes events, and `read_event` alone reads them.

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_gemini_batch.api.models import BatchStats
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.errors import GeminiBatchError, TriggerEventError
from airflow_provider_gemini_batch.lifecycle.waiting import Outcome, Watch
from airflow_provider_gemini_batch.times import duration

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.watch.steps import Update
    from airflow_provider_gemini_batch.watch.subscription import Subscription

LAST_POLL = 3.0
"""Seconds that a limit waits for one more poll."""

TROUBLE_CHECK = 360.0
"""Seconds without an update after which a wait asks what keeps the poller; longer than it takes to repeat one."""

MESSAGE_CHARACTERS = 1000


@dataclass(frozen=True)
class WaitEvent:
    """
    How a wait ended, as the resumed task reads it.

    :param state: As last seen; UNKNOWN if the job never was.
    :param message: For people; why the wait ended without an ended job.
    :param error: Class name of the error behind the outcome ``error``.
    :param twins: With the outcome ``twin``: names of the jobs that turned up. The task's own look may meet a list that
        lacks them.
    """

    outcome: Outcome
    job_name: str
    state: JobState = JobState.UNKNOWN
    stats: BatchStats = field(default_factory=BatchStats)
    message: str = ""
    error: str = ""
    twins: tuple[str, ...] = ()


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
        # The event is stored in Airflow's database and shown in its UI: bounded, and without anything of the rows.
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
    # A task may be resumed by an event that an older or newer triggerer made. Not understood must not mean ended.
    except (KeyError, ValueError, TypeError) as error:
        raise TriggerEventError(
            f"The task was resumed with an event that this version does not know ({error}); it may stem from another "
            "version of the provider. Clear the task: it finds its job again."
        ) from error
    if not isinstance(job_name, str) or not job_name:
        raise TriggerEventError("The task was resumed with an event that names no batch job.")
    twins = event.get("twins")
    named = tuple(name for name in twins if isinstance(name, str)) if isinstance(twins, (list, tuple)) else ()
    message, kind = str(event.get("message") or ""), str(event.get("error") or "")
    return WaitEvent(outcome, job_name, state, stats, message, kind, named)


def _read_stats(value: Any) -> BatchStats:
    if value is None:
        return BatchStats()
    if not isinstance(value, Mapping):
        raise TypeError("stats is not an object")
    # Checked one by one: a count that is a text would fail much later, in a comparison far from here.
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
    return f"{text}; the last polls failed: {trouble}" if trouble is not None else text


class End(NamedTuple):
    """
    How the wait for one job ended.

    :param error: With :attr:`Outcome.ERROR`, what no further poll can help; with a limit, what kept polls from
        succeeding in the end, if anything did.
    """

    job_name: str
    outcome: Outcome
    error: GeminiBatchError | None = None


OnSibling = Callable[[str, "BatchJob | None", "BatchJob"], Awaitable["Outcome | None"]]
"""``await on_sibling(job_name, job, sibling)``: a page of the list showed another job of the same task. Runs in the
wait's own task; a returned outcome ends the wait."""


async def watch_until_over(watch: Watch, subscription: Subscription, on_sibling: OnSibling | None = None) -> End:
    """
    Take updates on the one job of a subscription until the wait is over.

    :raises GeminiBatchError: What no further poll can help.
    """
    [job_name] = subscription.job_names
    end = await next_end({job_name: watch}, subscription, on_sibling=on_sibling)
    assert end is not None, "there was no time limit"
    if end.outcome is Outcome.ERROR and end.error is not None:
        raise end.error
    return end


async def next_end(
    watches: Mapping[str, Watch],
    subscription: Subscription,
    timeout: float | None = None,
    on_sibling: OnSibling | None = None,
) -> End | None:
    """
    Take updates until the wait for one of several jobs is over; its job then leaves the subscription.

    May be called again for the others, and cancelled at any time. Limits are kept by our own timer, whatever the
    poller does.

    :param watches: By full job names; those that *subscription* no longer watches are passed over.
    :param timeout: Seconds; None for no limit.
    :return: None when the time is over.
    """
    until = math.inf if timeout is None else time.time() + timeout
    while True:
        # Found anew each time: an update may have changed a limit (a job that begins to run leaves its pending limit
        # behind).
        limit, first = _first_limit(watches, subscription)
        # Never longer than TROUBLE_CHECK, as a poller that cannot reach the service has no updates to give, and the
        # wait should say so.
        update = await subscription.next_update(min(min(limit, until) - time.time(), TROUBLE_CHECK))
        now = time.time()
        if update is not None:
            end = await _take(update, watches, now, on_sibling)
            # An update has come, so that a later limit gets a last poll of its own.
            subscription.last_chances.pop(update.job_name, None)
        elif now >= limit:
            end = _over_limit(first, watches[first], subscription, now)
        elif now >= until:
            return None
        else:
            end = _take_trouble(subscription, watches, now)
        if end is not None:
            subscription.drop(end.job_name)
            return end


def _first_limit(watches: Mapping[str, Watch], subscription: Subscription) -> tuple[float, str]:
    """Return when, without a further poll, the first of the waits would be over, and for which job."""
    names = [name for name in subscription.job_names if name in watches]
    limits = [(subscription.last_chances.get(name) or _next_limit(watches[name]), name) for name in names]
    if not limits:
        raise ValueError("No job of this subscription is waited for.")
    return min(limits)


async def _take(update: Update, watches: Mapping[str, Watch], now: float, on_sibling: OnSibling | None) -> End | None:
    """Show an update to the wait it concerns; return how that ended, or None."""
    name = update.job_name
    watch = watches.get(name)
    # The update was on its way when the wait for its job ended.
    if watch is None:
        return None
    outcome: Outcome | None = None
    if update.job is not None:
        outcome = watch.see(update.job, now)
    elif update.sibling is not None:
        outcome = None if on_sibling is None else await on_sibling(name, watch.job, update.sibling)
    elif update.error is not None:
        return _fault(name, watch, update.error, now)
    return None if outcome is None else End(name, outcome, update.error)


def _fault(name: str, watch: Watch, error: GeminiBatchError, now: float) -> End | None:
    """Show a failed poll to the wait it concerns; return how that ended, or None."""
    try:
        outcome = watch.fault(error, now)
    except GeminiBatchError as fault:
        return End(name, Outcome.ERROR, fault)
    return None if outcome is None else End(name, outcome, error)


def _take_trouble(subscription: Subscription, watches: Mapping[str, Watch], now: float) -> End | None:
    """Show trouble that lasts to each wait that has it; return the first that ended by it, or None."""
    for name in subscription.job_names:
        trouble = subscription.trouble_of(name)
        if trouble is not None and name in watches:
            end = _fault(name, watches[name], trouble, now)
            if end is not None:
                return end
    return None


def _over_limit(name: str, watch: Watch, subscription: Subscription, now: float) -> End | None:
    """Give a job that is over its limit one more poll: one that has just ended, or begun to run, is not given up."""
    # What is known may be as old as the last poll. The job is read once more before money that was paid is given up.
    if name not in subscription.last_chances:
        subscription.last_chances[name] = now + LAST_POLL
        subscription.poll_now(name)
        return None
    del subscription.last_chances[name]
    outcome = watch.outcome(now)
    return None if outcome is None else End(name, outcome, subscription.trouble_of(name))


def _next_limit(watch: Watch) -> float:
    """Return the UTC epoch second at which, without a further poll, the wait would be over."""
    limits, job = watch.limits, watch.job
    times = [limits.deadline]
    if job is not None and job.state.is_waiting and limits.pending_timeout is not None:
        created = watch.created
        if created is not None:
            times.append(created + limits.pending_timeout)
    if job is not None and job.state is JobState.RUNNING and limits.running_timeout is not None:
        times.append((watch.running_since or time.time()) + limits.running_timeout)
    return min(times)
