# SPDX-License-Identifier: Apache-2.0
"""One task's way to one ended job: what it remembers, and what it does next."""

# An attempt begins when Airflow starts a task and lasts over all its deferrals. `Attempt` is what has to survive them,
# `AttemptPolicy` what the user asked for, and `next_step` the table that maps what happened to what the task does. The
# table looks at no clock and sends nothing. Operator and sensor, blocking and deferrable, only translate its steps into
# Airflow, so that the same end of a job means the same everywhere.
#
#   what happened                           the next step
#   --------------------------------------  -------------------------------------------------------------
#   the job has ended, whatever was said    `Done`: judge the job
#   an error that waiting cannot cure       `Fail` with this error
#   HTTP 429 on create                      `Pause`; after `submit_timeout` `Fail`
#   a list showed the job's end, a read of  `Wait` on, until the deadline
#   the job does not, or fails for now;
#   another job of the same work turned up
#   another live job of the same work       `Wait` on, for the one that is left
#   `timeout` or `execution_timeout`        `Fail`; `on_timeout` says whether the job is cancelled
#   `pending_timeout`, and the job runs     `Wait` on: it has its turn now
#   meanwhile
#   `pending_timeout`,                      as `on_pending_timeout` and `on_running_timeout` say: `Fail`,
#   `running_timeout`                       `Wait` without this limit, or `Resubmit`
#
# Worked example: `pending_timeout=3600, on_pending_timeout="resubmit", max_resubmits=1`. The trigger reports
# `pending_timeout` for `batches/a`; a fresh read says PENDING, so the step is `Resubmit(cancel batches/a)` with
# `resubmits=1, exclude=("batches/a",)`. The new job `batches/b` gets stuck as well: no resubmission is left, and the
# step is `Fail(JobStuckError, cancel=True)`.
#
# A wait for many jobs (a run) keeps one Attempt for each of them and takes the earliest deadline.

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from airflow_provider_gemini_batch.api.retry import QUOTA
from airflow_provider_gemini_batch.cost.input_measure import InputMeasure
from airflow_provider_gemini_batch.errors import (
    GeminiBatchError,
    RateLimitedError,
    SubmitError,
    TriggerEventError,
)
from airflow_provider_gemini_batch.lifecycle.uploaded import UploadedInput
from airflow_provider_gemini_batch.lifecycle.verdict import not_ended
from airflow_provider_gemini_batch.lifecycle.waiting import Outcome, WaitLimits

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.api.retry import RetryPolicy

DAY = 24 * 3600.0
DEFAULT_TIMEOUT = 4 * DAY
"""Longer than the service lets a job wait and run (48 h on the Developer API, 72 h + 24 h on Vertex AI)."""

VERSION = 2
"""Of what :meth:`Attempt.to_json` writes. Version 1 is the plan of 0.1.0, which had no number."""

SLACK = 300.0
"""Seconds by which Airflow's timeout of a deferral lies behind our deadline: the trigger's event comes first, and the
task explains its own timeout."""

LEAST_DEFERRAL = 60.0
"""Seconds: also a deferral at the deadline leaves the trigger time to start and read the job once."""

EARLY = 30.0
"""Seconds, at most a tenth of it, by which we end before ``execution_timeout``: Airflow's own alarm would cut the
task off before it can deal with its job."""


def execution_deadline(now: float, limit: float | None) -> float | None:
    """
    Return the UTC epoch second at which a task that begins *now* has to end by itself, or None.

    :param limit: Airflow's ``execution_timeout`` in seconds, or None.
    """
    return None if limit is None else now + limit - min(EARLY, limit / 10)


OnTimeout = Literal["leave", "cancel"]
OnStuck = Literal["fail", "wait", "resubmit"]
T = TypeVar("T")


@dataclass(frozen=True)
class Attempt:
    """
    What a task remembers between its deferrals. Moments are UTC epoch seconds.

    :param started: When the attempt began.
    :param deadline: When the wait for the job ends.
    :param submit_deadline: When the wait for quota ends.
    :param execution_deadline: When Airflow's ``execution_timeout`` ends all of it; None without one.
    :param job_name: The job waited for, once there is one.
    :param tries: How often a create was refused for a quota.
    :param resubmits: How often a stuck job was submitted again.
    :param exclude: Names of jobs that are not to be taken again.
    :param waived: Names of limits that were exceeded and no longer count.
    :param uploaded: The rows, if they lie at Google already.
    :param settled: Names of jobs of the same work that were dealt with, and do not interrupt the wait again.
    :param twins: Names of jobs of the same work that turned up during the wait.
    :param paid_twice: Names of all jobs that ran for the same rows, if there are several.
    :param last_look_age: How old in seconds an ended job has to be for the last look for twins.
    :param owned: Task halves whose jobs are certainly this task's own; empty where an older version did not say.
    :param spares_others: Whether live jobs of this task with other input are left alone, whatever the task asks for.
    """

    started: float
    deadline: float
    submit_deadline: float
    execution_deadline: float | None = None
    job_name: str | None = None
    tries: int = 0
    resubmits: int = 0
    exclude: tuple[str, ...] = ()
    waived: tuple[str, ...] = ()
    uploaded: UploadedInput | None = None
    settled: tuple[str, ...] = ()
    twins: tuple[str, ...] = ()
    paid_twice: tuple[str, ...] = ()
    last_look_age: float = 0.0
    owned: tuple[str, ...] = ()
    spares_others: bool = False

    @property
    def ends_at(self) -> float:
        """The earlier one of the deadlines that bound a wait for the job."""
        return min(self.deadline, math.inf if self.execution_deadline is None else self.execution_deadline)

    def deferral_timeout(self, now: float) -> float:
        """Return the seconds after which Airflow itself ends a deferral; the trigger's deadline comes first."""
        return max(LEAST_DEFERRAL, self.ends_at - now + SLACK)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values. Version 0.1.0 reads them as well, as it knows the members of its own plan."""
        return {
            "version": VERSION,
            "started": self.started,
            "deadline": self.deadline,
            "submit_deadline": self.submit_deadline,
            "execution_deadline": self.execution_deadline,
            "job_name": self.job_name,
            "tries": self.tries,
            "resubmits": self.resubmits,
            "exclude": list(self.exclude),
            "waived": list(self.waived),
            "uploaded": None if self.uploaded is None else self.uploaded.to_json(),
            "settled": list(self.settled),
            "twins": list(self.twins),
            "paid_twice": list(self.paid_twice),
            "last_look_age": self.last_look_age,
            "owned": list(self.owned),
            "spares_others": self.spares_others,
        }

    @classmethod
    def from_json(cls, value: Any, timeout: float = DEFAULT_TIMEOUT) -> Attempt:
        """
        Read what :meth:`to_json` of this, an older or a newer version wrote.

        Members that are not known are passed over, and those that an older version did not write get their defaults.

        :param timeout: Seconds that the task waits in all: tells when an attempt began that does not say so.
        :raises TriggerEventError: For anything else; says what and the way out.
        """
        read = _Reader(value)
        deadline = read.number("deadline")
        return cls(
            started=read.number("started", deadline - timeout),
            deadline=deadline,
            submit_deadline=read.number("submit_deadline", deadline),
            execution_deadline=read.optional("execution_deadline", read.number),
            job_name=read.optional("job_name", read.text),
            tries=read.count("tries"),
            resubmits=read.count("resubmits"),
            exclude=read.texts("exclude"),
            waived=read.texts("waived"),
            uploaded=read.optional("uploaded", read.uploaded),
            settled=read.texts("settled"),
            twins=read.texts("twins"),
            paid_twice=read.texts("paid_twice"),
            last_look_age=read.number("last_look_age", 0.0),
            owned=read.texts("owned"),
            spares_others=read.flag("spares_others"),
        )


@dataclass(frozen=True)
class AttemptPolicy:
    """
    What the user asked for; durations in seconds.

    :param timeout: Longest wait for the job.
    :param submit_timeout: Longest wait for quota.
    :param execution_timeout: Airflow's limit for the task, deferrals included; None for none.
    :param on_timeout: What happens to the job when *timeout* or *execution_timeout* ends the wait.
    :param quota: How long to pause after a create was refused for a quota.
    """

    timeout: float = DEFAULT_TIMEOUT
    submit_timeout: float = DAY
    execution_timeout: float | None = None
    on_timeout: OnTimeout = "leave"
    pending_timeout: float | None = None
    on_pending_timeout: OnStuck = "fail"
    running_timeout: float | None = None
    on_running_timeout: OnStuck = "fail"
    max_resubmits: int = 1
    quota: RetryPolicy = field(default=QUOTA, repr=False)

    def begin(self, now: float) -> Attempt:
        """Start an attempt."""
        return Attempt(
            started=now,
            deadline=now + self.timeout,
            submit_deadline=now + self.submit_timeout,
            execution_deadline=execution_deadline(now, self.execution_timeout),
        )

    def limits(self, attempt: Attempt) -> WaitLimits:
        """Return how long *attempt* may wait now."""
        return WaitLimits(
            attempt.ends_at,
            None if Outcome.PENDING_TIMEOUT in attempt.waived else self.pending_timeout,
            None if Outcome.RUNNING_TIMEOUT in attempt.waived else self.running_timeout,
        )

    def choice(self, outcome: Outcome) -> OnStuck:
        """Return what to do about a stuck job."""
        return self.on_pending_timeout if outcome is Outcome.PENDING_TIMEOUT else self.on_running_timeout


# --- steps ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """The job has ended: judge it (:mod:`~airflow_provider_gemini_batch.lifecycle.verdict`)."""

    job: BatchJob


@dataclass(frozen=True)
class Wait:
    """
    Wait for ``attempt.job_name``.

    :param why: For the log, where the wait goes on against expectation.
    """

    attempt: Attempt
    why: str = ""


@dataclass(frozen=True)
class Pause:
    """
    Leave the worker, and submit again at *until*.

    :param until: UTC epoch seconds.
    """

    attempt: Attempt
    until: float
    why: str


@dataclass(frozen=True)
class Resubmit:
    """
    Cancel *cancel*, then submit anew. If the cancel fails nothing is submitted: both jobs would bill.

    :param cancel: Name of the stuck job.
    """

    attempt: Attempt
    cancel: str
    why: str


@dataclass(frozen=True)
class Fail:
    """
    The task fails.

    :param cancel: Whether the job is cancelled first.
    """

    error: GeminiBatchError
    cancel: bool = False


Step = Done | Wait | Pause | Resubmit | Fail


def next_step(
    attempt: Attempt, outcome: Outcome | GeminiBatchError, job: BatchJob | None, policy: AttemptPolicy, now: float
) -> Step:
    """
    Decide what the task does next; see the table at the top.

    :param outcome: How the wait for ``attempt.job_name`` ended, or the error that ended it or refused the create.
    :param job: The job as read after *outcome*, or None if it could not be read for now.
    :param now: UTC epoch seconds.
    """
    # First of all: an end that was reached is worth more than any limit that was passed meanwhile.
    if job is not None and job.is_done:
        return Done(job)
    # A 429 with a job is one on a read, and says nothing of the submission.
    if isinstance(outcome, RateLimitedError) and attempt.job_name is None:
        return _after_refusal(attempt, outcome, policy, now)
    if isinstance(outcome, GeminiBatchError):
        return Fail(outcome)
    if outcome is Outcome.TIMEOUT or now >= attempt.ends_at:
        return Fail(_timeout(attempt, job, now), cancel=policy.on_timeout == "cancel")
    if job is None or outcome in (Outcome.ENDED, Outcome.TWIN):
        return Wait(attempt)
    if outcome is Outcome.PENDING_TIMEOUT and not job.state.is_waiting:
        # It had its turn between the trigger's event and this read. A stale list may call it pending once more.
        return Wait(_waive(attempt, outcome), f"{job.name} has begun to run; waiting goes on.")
    return _after_stuck(attempt, outcome, job, policy, now)


def _after_refusal(attempt: Attempt, error: RateLimitedError, policy: AttemptPolicy, now: float) -> Step:
    """Wait for quota as long as the service says, or longer each time; until submit_timeout."""
    attempt = replace(attempt, tries=attempt.tries + 1)
    pause = policy.quota.delay_after(error, attempt.tries)
    limit = error.quota or (
        "money spent within ten minutes, or a month"
        if error.is_spend_limit
        else "a request rate, the number of running jobs, or the tokens in waiting jobs"
    )
    until = min(attempt.submit_deadline, math.inf if attempt.execution_deadline is None else attempt.execution_deadline)
    if pause is None or now >= until:
        name = "submit_timeout" if until == attempt.submit_deadline else "execution_timeout"
        refused = SubmitError(
            f"No quota for this job within {name}; nothing was submitted. Suspected limit: {limit}. {error}"
        )
        refused.__cause__ = error
        return Fail(refused)
    # One try more at the very end, rather than to give up before it.
    pause = min(pause, until - now)
    why = f"No quota for this job (suspected limit: {limit}); next try in {pause:.0f} s. {error}"
    return Pause(attempt, now + pause, why)


def _after_stuck(attempt: Attempt, outcome: Outcome, job: BatchJob, policy: AttemptPolicy, now: float) -> Step:
    """Apply ``on_pending_timeout`` or ``on_running_timeout``."""
    choice = policy.choice(outcome)
    if choice == "wait":
        return Wait(_waive(attempt, outcome), f"{job.name} exceeded {outcome.value}; waiting goes on.")
    if choice == "resubmit" and attempt.resubmits < policy.max_resubmits:
        # Excluded by name: the cancelled job may be listed as live for a while, and must not be taken again.
        again = replace(attempt, job_name=None, resubmits=attempt.resubmits + 1, exclude=(*attempt.exclude, job.name))
        return Resubmit(again, job.name, f"{job.name} exceeded {outcome.value}: it is cancelled and submitted again.")
    stuck = not_ended(outcome, job.name, job, now - attempt.started)
    return Fail(stuck, cancel=choice == "resubmit" or policy.on_timeout == "cancel")


def after_cancel(step: Resubmit, left: BatchJob | None) -> Attempt:
    """
    Return the attempt that submits anew, once the stuck job was asked to cancel.

    A job that ended with answers before the cancel reached it counts again: the submission takes them if they are
    whole, as they are paid for.

    :param left: The stuck job as read after the cancel, ended if it did so in time; None if it is gone.
    """
    if left is None or not left.state.has_results:
        return step.attempt
    return replace(step.attempt, exclude=tuple(name for name in step.attempt.exclude if name != left.name))


def without_resubmit(step: Resubmit) -> Attempt:
    """Return the attempt that waits on for a stuck job, as nothing can take its place."""
    exclude = tuple(name for name in step.attempt.exclude if name != step.cancel)
    kept = replace(step.attempt, job_name=step.cancel, resubmits=step.attempt.resubmits - 1, exclude=exclude)
    return _waive(_waive(kept, Outcome.PENDING_TIMEOUT), Outcome.RUNNING_TIMEOUT)


def _waive(attempt: Attempt, limit: Outcome) -> Attempt:
    return replace(attempt, waived=(*attempt.waived, limit.value))


def _timeout(attempt: Attempt, job: BatchJob | None, now: float) -> GeminiBatchError:
    limit = "execution_timeout" if attempt.ends_at < attempt.deadline else "timeout"
    return not_ended(Outcome.TIMEOUT, attempt.job_name or "the job", job, now - attempt.started, limit)


# --- reading what a deferral carried ----------------------------------------------------------------------------------


class _Reader:
    """Reads members of a JSON object that another version may have written; each error names the member."""

    def __init__(self, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise carried_error(f"it is {_shown(value)}, not an object")
        self._members = value

    def _take(self, name: str, kinds: type | tuple[type, ...], what: str) -> Any:
        # Unknown members are passed over, so that a newer version may add some; a known one of the wrong type is an
        # error, as a guess about money is worse.
        value = self._members.get(name)
        if name not in self._members:
            raise carried_error(f"{name} is missing")
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise carried_error(f"{name} is {_shown(value)}, not {what}")
        return value

    def number(self, name: str, default: float | None = None, *, finite: bool = True) -> float:
        if default is not None and name not in self._members:
            return default
        value = float(self._take(name, (int, float), "a number"))
        if finite and not math.isfinite(value):
            raise carried_error(f"{name} is {value}, not a number")
        return value

    def above_zero(self, name: str) -> float:
        value = self.number(name)
        if value <= 0:
            raise carried_error(f"{name} is {value}, not above 0")
        return value

    def count(self, name: str) -> int:
        value = self._take(name, int, "a whole number") if name in self._members else 0
        if value < 0:
            raise carried_error(f"{name} is {value}, below 0")
        return int(value)

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self._members.get(name, default)
        if not isinstance(value, bool):
            raise carried_error(f"{name} is {_shown(value)}, not true or false")
        return value

    def text(self, name: str) -> str:
        return str(self._take(name, str, "a text"))

    def texts(self, name: str) -> tuple[str, ...]:
        values = self._take(name, (list, tuple), "a list of texts") if name in self._members else ()
        if not all(isinstance(value, str) for value in values):
            raise carried_error(f"{name} is {_shown(values)}, not a list of texts")
        return tuple(values)

    def uploaded(self, name: str) -> UploadedInput:
        inner = _Reader(self._take(name, Mapping, "an object"))
        return UploadedInput(
            inner.text("sha256"),
            inner.text("file_name"),
            inner.text("fingerprint"),
            inner.optional("rows", inner.count),
            inner.optional("input_digest", inner.text) or "",
            inner.flag("sent"),
            inner.optional("measure", inner.measure),
        )

    def measure(self, name: str) -> InputMeasure:
        inner = _Reader(self._take(name, Mapping, "an object"))
        # A cap is held by it: what is not told counts as what costs most.
        return InputMeasure(
            int(inner.above_zero("rows")),
            int(inner.above_zero("size")),
            inner.optional("max_output_tokens", inner.count),
            inner.pairs("counted"),
            has_media=inner.flag("has_media", default=True),
        )

    def pairs(self, name: str) -> tuple[tuple[int, int], ...]:
        values = self._take(name, (list, tuple), "a list of pairs") if name in self._members else ()
        pairs = tuple(tuple(pair) if isinstance(pair, (list, tuple)) else () for pair in values)
        if not all(len(pair) == 2 and all(type(each) is int and each >= 0 for each in pair) for pair in pairs):
            raise carried_error(f"{name} is {_shown(values)}, not a list of pairs of numbers")
        return pairs

    def optional(self, name: str, read: Callable[[str], T]) -> T | None:
        return None if self._members.get(name) is None else read(name)


def check_stored(arguments: Mapping[str, Any]) -> None:
    """
    Check the arguments of a stored trigger, which another version may have written.

    :raises TriggerEventError: Naming the argument and the way out.
    """
    read = _Reader(arguments)
    if not read.text("job_name"):
        raise carried_error("job_name is empty")
    read.text("gemini_batch_conn_id")
    read.optional("backend", read.text)
    read.optional("poll_interval", read.above_zero)
    read.flag("cancel_on_kill")
    read.number("started")
    for name in ("pending_timeout", "running_timeout"):
        read.optional(name, read.number)
    read.optional("deadline", lambda name: read.number(name, finite=False))


def carried_error(what: str) -> TriggerEventError:
    """Make the error for a deferral whose values cannot be read."""
    return TriggerEventError(
        f"What this task's deferral carried cannot be read: {what}. Another version of the provider may have written "
        "it. Clear the task: it finds its job again, and pays nothing twice."
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
