# SPDX-License-Identifier: Apache-2.0
"""How does another job take the place of a stuck one, so that the same rows are not paid for twice?"""

# In this order, as a cancel cannot be taken back:
#
# 1. Look whether the rows are there still. A file at Google lives for 48 hours, and a job may be stuck for longer: once
#    the file is gone, the job that runs is the last one that these rows can give, and the task waits on for it.
# 2. Cancel. If the service refuses, the error ends the task: nothing is submitted beside a job that runs.
# 3. Wait until the job has ended. It may do so with all of its answers, and then counts again.
#
# Two flows, as a caller may be interrupted in the third step and must not be between the first and the second.

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.errors import FileGoneError
from airflow_provider_gemini_batch.lifecycle.attempt import Wait, after_cancel, next_step, without_resubmit
from airflow_provider_gemini_batch.lifecycle.cancelling import cancel_live, left_by_cancel
from airflow_provider_gemini_batch.lifecycle.upload import look_at_remote
from airflow_provider_gemini_batch.lifecycle.waiting import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.retry import RetryPolicy
    from airflow_provider_gemini_batch.api.wire import Flow
    from airflow_provider_gemini_batch.lifecycle.attempt import Attempt, AttemptPolicy, Resubmit, Step


def cancel_stuck(
    backend: Backend, step: Resubmit, remote_rows: str | None, retry: RetryPolicy, log: Any
) -> Flow[Wait | None]:
    """
    Cancel a stuck job whose rows can be submitted again.

    :param remote_rows: The file at Google that holds the rows; None if they are somewhere else.
    :param log: Takes ``warning``.
    :return: None once the job was asked to cancel; the wait for it if nothing can take its place.
    :raises GeminiBatchError: If it could not be cancelled.
    """
    if remote_rows:
        try:
            yield from look_at_remote(backend, remote_rows, retry)
        except FileGoneError as error:
            return Wait(without_resubmit(step), f"{step.cancel} is waited for after all. {error}")
    log.warning("%s", step.why)
    yield from cancel_live(backend, step.cancel, retry, retry)
    return None


def follow_cancel(
    backend: Backend,
    step: Resubmit,
    policy: AttemptPolicy,
    retry: RetryPolicy,
    now: Callable[[], float],
    log: Any,
) -> Flow[Attempt | Step]:
    """
    Wait until a stuck job that was asked to cancel has ended.

    :param log: Takes ``error``.
    :return: The attempt that submits anew, or what the task does where no time is left for another job.
    """
    left = yield from left_by_cancel(backend, step.cancel, retry, now, step.attempt.ends_at)
    if now() >= step.attempt.ends_at:  # nobody would wait for another one
        return next_step(without_resubmit(step), Outcome.TIMEOUT, left, policy, now())
    if left is not None and not left.is_done:
        log.error("%s has not ended since its cancel, and may bill beside its successor.", step.cancel)
    return after_cancel(step, left)
