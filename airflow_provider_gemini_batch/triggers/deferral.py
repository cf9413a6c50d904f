# SPDX-License-Identifier: Apache-2.0
"""
Steps of an attempt as Airflow's deferrals: the one place where operators and sensor leave the worker and come back.

What is decided lies in :mod:`airflow_provider_gemini_batch.lifecycle.attempt`. Here a :class:`Wait` becomes a trigger
with its timeout, and what Airflow hands to the resumed task becomes an attempt and an outcome again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.lifecycle.attempt import (
    Attempt,
    AttemptPolicy,
    Pause,
    Step,
    carried_error,
    next_step,
)
from airflow_provider_gemini_batch.lifecycle.waiting import Outcome
from airflow_provider_gemini_batch.watch.event import read_event

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook

CARRIED = "plan"
"""The name under which a deferral carries its attempt; version 0.1.0 can resume it, as it looks there too."""


def defer_wait(
    task: Any, attempt: Attempt, policy: AttemptPolicy, *, poll_interval: float | None, cancel_on_kill: bool
) -> None:
    """
    Leave the worker until the job has ended or a limit is reached; does not return.

    :param task: Operator or sensor with ``gemini_batch_conn_id``; it is resumed in its ``execute_complete``.
    """
    from airflow_provider_gemini_batch.triggers.batch_job import BatchJobTrigger

    limits = policy.limits(attempt)
    task.defer(
        trigger=BatchJobTrigger(
            attempt.job_name or "",
            task.gemini_batch_conn_id,
            poll_interval,
            limits.deadline,
            pending_timeout=limits.pending_timeout,
            running_timeout=limits.running_timeout,
            cancel_on_kill=cancel_on_kill,
        ),
        method_name="execute_complete",
        kwargs={CARRIED: attempt.to_json()},
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
    attempt = replace(read_carried(carried, policy), job_name=wait.job_name)
    if wait.outcome is Outcome.ERROR:
        return attempt, GeminiBatchError(f"{wait.job_name} could not be watched any longer: {wait.message}")
    return attempt, wait.outcome


def step_after_wait(
    hook: GeminiBatchHook, attempt: Attempt, outcome: Outcome | GeminiBatchError, policy: AttemptPolicy, log: Any
) -> Step:
    """
    Read the job once more, and decide.

    It may have ended since the wait did; and a list, from which the triggerer may have it, has old counts.
    """
    job = None if isinstance(outcome, GeminiBatchError) else read_again(hook, attempt.job_name or "", log)
    return next_step(attempt, outcome, job, policy, time.time())


def read_again(hook: GeminiBatchHook, job_name: str, log: Any) -> BatchJob | None:
    """Read a job; None after a passing fault, which ends no wait."""
    try:
        return hook.get_batch(job_name)
    except GeminiBatchError as error:
        if not error.is_transient:
            raise
        log.warning("%s could not be read. %s", job_name, error)
        return None


def execution_timeout_of(task: Any) -> float | None:
    """Return a task's ``execution_timeout`` in seconds, or None; Airflow 3 itself does not apply it to deferrals."""
    limit = getattr(task, "execution_timeout", None)
    return limit.total_seconds() if isinstance(limit, timedelta) else None
