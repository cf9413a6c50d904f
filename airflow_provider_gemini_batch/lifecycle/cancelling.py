# SPDX-License-Identifier: Apache-2.0
"""What became of a job that was asked to cancel?"""

# A cancel call only asks. A job that ran goes on for some seconds (Developer API), or is CANCELLING for longer (Vertex
# AI), and may end with all of its answers. Whoever submits the same rows meanwhile pays for them twice.

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.api.flows import cancel_job, get_job
from airflow_provider_gemini_batch.api.wire import Pause
from airflow_provider_gemini_batch.errors import NotFoundError, RequestRejectedError
from airflow_provider_gemini_batch.lifecycle.own_jobs import is_live

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.api.retry import RetryPolicy
    from airflow_provider_gemini_batch.api.wire import Flow

SETTLES_WITHIN = 120.0
"""Seconds for which the end of a cancelled job is waited for; the Developer API was seen to take three to seven."""

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 15.0


def cancel_live(backend: Backend, job_name: str, cancels: RetryPolicy, reads: RetryPolicy) -> Flow[bool]:
    """
    Cancel a job; return False if the service refuses to, as it has ended.

    :raises RequestRejectedError: If the service refuses to cancel a job that runs on.
    """
    try:
        yield from cancel_job(backend, job_name, cancels)
    except RequestRejectedError:
        # It may have ended meanwhile; what the Developer API answers then is not published.
        # 400 may mean "it has ended already" or "it cannot be cancelled": only a read tells.
        fresh = yield from get_job(backend, job_name, reads)
        if is_live(fresh):
            raise
        return False
    return True


def left_by_cancel(
    backend: Backend, job_name: str, reads: RetryPolicy, now: Callable[[], float], until: float
) -> Flow[BatchJob | None]:
    """
    Wait for the end of a job that was asked to cancel, and return the job as last read; None if it is gone.

    :param until: UTC epoch seconds at which the wait ends in any case.
    """
    until = min(until, now() + SETTLES_WITHIN)
    pause = _FIRST_PAUSE
    while True:
        try:
            job = yield from get_job(backend, job_name, reads)
        except NotFoundError:
            return None
        left = until - now()
        if job.is_done or left <= 0:
            return job
        yield Pause(min(pause, left), f"{job_name} was asked to cancel, and has not ended yet.")
        pause = min(2 * pause, _LONGEST_PAUSE)
