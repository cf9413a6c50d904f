# SPDX-License-Identifier: Apache-2.0
"""
Steps of an attempt as Airflow's deferrals: the one place where operators and sensor leave the worker and come back.
"""

# What is decided lies in `lifecycle/attempt.py`. Here a `Wait` becomes a trigger with its timeout, and what Airflow
# hands to the resumed task becomes an attempt and an outcome again.

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import GeminiBatchError, NotFoundError
from airflow_provider_gemini_batch.lifecycle.attempt import (
    Attempt,
    AttemptPolicy,
    Pause,
    Step,
    carried_error,
    next_step,
)
from airflow_provider_gemini_batch.lifecycle.twins import TwinWatch
from airflow_provider_gemini_batch.lifecycle.waiting import Outcome, WaitLimits, Watch, wait_for_end
from airflow_provider_gemini_batch.watch.event import read_event

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
    from airflow_provider_gemini_batch.lifecycle.twins import Reconciled

CARRIED = "plan"
"""The name under which a deferral carries its attempt; version 0.1.0 can resume it, as it looks there too."""


def defer_wait(
    task: Any,
    attempt: Attempt,
    policy: AttemptPolicy,
    rules: TwinRules,
    *,
    poll_interval: float | None,
    cancel_on_kill: bool,
    in_loop: bool = False,
) -> None:
    """
    Leave the worker until the job has ended or a limit is reached; does not return.

    :param task: Operator or sensor with ``gemini_batch_conn_id``; it is resumed in its ``execute_complete``.
    """
    from airflow_provider_gemini_batch.triggers.batch_job import BatchJobTrigger

    # The trigger gets all that it needs to end a wait, and nothing secret: its arguments are stored in the open.
    limits, watch = policy.limits(attempt), rules.watch(attempt)
    task.defer(
        trigger=BatchJobTrigger(
            attempt.job_name or "",
            task.gemini_batch_conn_id,
            poll_interval,
            limits.deadline,
            pending_timeout=limits.pending_timeout,
            running_timeout=limits.running_timeout,
            cancel_on_kill=cancel_on_kill,
            in_loop=in_loop,
            twins={"replace": watch.replace, "settled": sorted(watch.settled), "owned": sorted(watch.owned)},
        ),
        method_name="execute_complete",
        kwargs={CARRIED: attempt.to_json()},
        # Later than the trigger's own deadline (`attempt.SLACK`): Airflow's timeout would end the task without a word
        # of its job.
        timeout=timedelta(seconds=attempt.deferral_timeout(time.time())),
    )


def defer_pause(task: Any, step: Pause) -> None:
    """Leave the worker until a moment; the task is resumed in its ``resume_submission``. Does not return."""
    from airflow_provider_gemini_batch.triggers.pause import PauseTrigger

    task.defer(
        trigger=PauseTrigger(step.until),
        method_name="resume_submission",
        kwargs={CARRIED: step.attempt.to_json()},
    )


def read_carried(carried: Mapping[str, Any], policy: AttemptPolicy) -> Attempt:
    """
    Read what a deferral carried: an attempt, or what version 0.1.0 wrote (a sensor its deadline alone).

    :raises TriggerEventError: If it cannot be read; says the way out.
    """
    if not carried:
        # `airflow dags test` drops it: the limits begin anew, and a job is found by its token or the trigger's event.
        return policy.begin(time.time())
    if CARRIED in carried:
        return Attempt.from_json(carried[CARRIED], policy.timeout)
    # A sensor of 0.1.0, which deferred with its deadline alone.
    if "deadline" in carried:
        return Attempt.from_json(carried, policy.timeout)
    raise carried_error(f"{CARRIED} is missing")


def read_wait(
    event: Any, carried: Mapping[str, Any], policy: AttemptPolicy
) -> tuple[Attempt, Outcome | GeminiBatchError]:
    """
    Read how a wait in the triggerer ended.

    :param event: The trigger's event.
    :param carried: The keyword arguments that Airflow kept for the resumed task.
    :return: The attempt, which knows its job, and what :func:`next_step` takes as outcome.
    :raises TriggerEventError: If one of them cannot be read.
    """
    wait = read_event(event)
    attempt = read_carried(carried, policy)
    # A trigger whose arguments cannot be read does not know its job; the attempt does.
    job_name = attempt.job_name or wait.job_name if wait.outcome is Outcome.ERROR else wait.job_name
    attempt = replace(attempt, job_name=job_name, twins=tuple(dict.fromkeys((*attempt.twins, *wait.twins))))
    if wait.outcome is Outcome.ERROR:
        return attempt, GeminiBatchError(f"{job_name} could not be watched any longer: {wait.message}")
    return attempt, wait.outcome


@dataclass(frozen=True)
class TwinRules:
    """
    What a task does about other jobs of the same piece of work.

    :param replace: Whether older ones with other input are cancelled.
    :param keep: Whether the job waited for is gone on with though a twin may be older: others know it by name.
    :param push: Pushes an XCom.
    """

    replace: bool = False
    keep: bool = False
    push: Callable[[str, Any], None] = lambda key, value: None

    def watch(self, attempt: Attempt) -> TwinWatch:
        """Return which jobs matter to *attempt* now."""
        replaces = self.replace and not attempt.spares_others
        return TwinWatch(replaces, frozenset((*attempt.settled, *attempt.exclude)), frozenset(attempt.owned))


def step_after_wait(
    hook: GeminiBatchHook,
    attempt: Attempt,
    outcome: Outcome | GeminiBatchError,
    policy: AttemptPolicy,
    log: Any,
    rules: TwinRules,
) -> Step:
    """
    Read the job once more, leave one of its twins, and decide.

    It may have ended since the wait did; and a list, from which the triggerer may have it, has old counts.
    """
    job: BatchJob | None = None
    if not isinstance(outcome, GeminiBatchError):
        attempt, job = reconciled(hook, attempt, log, rules)
    return next_step(attempt, outcome, job, policy, time.time())


def reconciled(hook: GeminiBatchHook, attempt: Attempt, log: Any, rules: TwinRules) -> tuple[Attempt, BatchJob | None]:
    """
    Look once for twins of the job, and leave one of them.

    :return: The attempt, which may have another job now, and that job as just read; None for it after a passing fault,
        which ends no wait, or while it is not found.
    """
    job_name = attempt.job_name or ""
    try:
        left = hook.reconcile(
            job_name,
            rules.watch(attempt),
            known=attempt.twins,
            exclude=frozenset(attempt.exclude),
            keep=rules.keep,
            hold_until_age=attempt.last_look_age,
            hold_until=attempt.ends_at,
        )
    except GeminiBatchError as error:
        # A replica may not have heard of a young job. Where it is truly gone, the wait that goes on finds that out.
        if not (error.is_transient or isinstance(error, NotFoundError)):
            raise
        log.warning("%s could not be read. %s", job_name, error)
        return attempt, None
    _say(left, job_name, log)
    paid = tuple(dict.fromkeys((*left.paid_twice, *attempt.paid_twice)))
    # Said once, not after each of a wait's looks.
    if paid != attempt.paid_twice:
        say_paid_twice(paid, log, rules.push)
    # The name in XCom is what downstream tasks download: it has to be that of the job which is gone on with.
    if left.job.name != job_name:
        rules.push("job_name", left.job.name)
    settled = tuple(dict.fromkeys((*attempt.settled, *left.settled)))
    return replace(attempt, job_name=left.job.name, settled=settled, twins=(), paid_twice=paid), left.job


def settle(
    hook: GeminiBatchHook, attempt: Attempt, log: Any, rules: TwinRules, *, since: float | None = None
) -> Attempt:
    """
    Look for twins for ``attempt.last_look_age`` seconds, for a task that does not wait for its job's end.

    Whoever waits for the job later does not know that there may be one: a short job would be paid for twice unsaid.
    The attempt's own limits end the look, as the job is submitted and its task must not fail for it.

    :param since: UTC epoch seconds of the last create call that may have made a twin; now, if nobody knows. One that is
        older than that is listed by now, and the submission itself has looked.
    """
    now = time.time()
    until = min((now if since is None else min(since, now)) + attempt.last_look_age, attempt.ends_at)
    if until <= now:
        return attempt
    log.info("Another attempt may have submitted a job, too. Looking for it for %.0f s.", until - now)
    # A twin ends the wait for a moment: one of the two is left, and the look goes on, as there may be a third.
    outcome = Outcome.TWIN
    try:
        while outcome is Outcome.TWIN and attempt.job_name:
            watch = Watch(WaitLimits(until), time.time())
            backend = hook.client.backend
            looking = wait_for_end(backend, attempt.job_name, watch, time.time, twins=rules.watch(attempt))
            outcome = hook.run(looking)
            attempt, _ = reconciled(hook, replace(attempt, twins=watch.twins), log, rules)
    except GeminiBatchError as error:  # the job exists; to look for another one must not cost it
        log.warning("Whether another attempt submitted a twin of %s could not be checked: %s", attempt.job_name, error)
    return attempt


def _say(left: Reconciled, job_name: str, log: Any) -> None:
    if left.job.name != job_name:
        log.warning("%s of another attempt at this task is taken instead of %s.", left.job.name, job_name)
    if left.cancelled:
        log.warning("Surplus jobs of this task were cancelled: %s", ", ".join(left.cancelled))
    if left.uncancelled:
        log.error("Surplus jobs could not be cancelled, and may bill: %s", ", ".join(left.uncancelled))


def say_paid_twice(names: Sequence[str], log: Any, push: Callable[[str, Any], None]) -> None:
    """Tell log and XCom (``paid_twice``) that several jobs ran for the same rows."""
    log.error("The same rows were paid for by several jobs: %s. The answers are those of the first.", ", ".join(names))
    push("paid_twice", list(names))


def execution_timeout_of(task: Any) -> float | None:
    """Return a task's ``execution_timeout`` in seconds, or None; Airflow 3 itself does not apply it to deferrals."""
    limit = getattr(task, "execution_timeout", None)
    return limit.total_seconds() if isinstance(limit, timedelta) else None
