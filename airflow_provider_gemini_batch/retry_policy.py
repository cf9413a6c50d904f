# SPDX-License-Identifier: Apache-2.0
"""
Which errors of our tasks are worth a retry, and when (Airflow 3.3 and later).

::

    CreateBatchOperator(..., retries=5, retry_policy=GeminiBatchRetryPolicy(quota_delay=timedelta(hours=2)))

A DAG's ``default_args`` take it as well. Exhausted quota is retried late: more tries within minutes meet the same limit
and use up ``retries``. What no retry can change fails at once. Everything else is left to the task's ``retry_delay``.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow_provider_gemini_batch.errors import (
    AuthError,
    ConfigurationError,
    JobConflictError,
    RateLimitedError,
    RequestRejectedError,
    TriggerEventError,
)

try:
    from airflow_provider_gemini_batch.compat import RetryDecision, RetryPolicy
except ImportError as error:
    raise ImportError("GeminiBatchRetryPolicy needs Airflow 3.3 or later, which has retry policies.") from error

_HOPELESS = (ConfigurationError, JobConflictError, RequestRejectedError, TriggerEventError)


class GeminiBatchRetryPolicy(RetryPolicy):
    """
    Fail at once over what a retry cannot change; wait for quota.

    :param quota_delay: Seconds or timedelta before the next try after a 429, unless the service asks for longer.
    """

    def __init__(self, quota_delay: float | timedelta = timedelta(hours=1)) -> None:
        self.quota_delay = quota_delay if isinstance(quota_delay, timedelta) else timedelta(seconds=quota_delay)

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        """Decide by the error, or by the error of ours that led to it."""
        for error in _chain(exception):
            if isinstance(error, RateLimitedError):
                delay = max(self.quota_delay, timedelta(seconds=error.retry_after or 0))
                return RetryDecision.retry(delay, f"The quota is used up; the next try is in {delay}.")
            # Without a status no token could be had, which may pass.
            if isinstance(error, _HOPELESS) or (isinstance(error, AuthError) and error.status):
                return RetryDecision.fail(f"{type(error).__name__}: a retry would end the same way.")
        return RetryDecision.default()

    def serialize(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"quota_delay": self.quota_delay.total_seconds()}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> GeminiBatchRetryPolicy:
        """Read what :meth:`serialize` returned."""
        return cls(data["quota_delay"])


def _chain(exception: BaseException | None) -> list[BaseException]:
    """Return an error and what it was raised from, the outermost first."""
    found: list[BaseException] = []
    while exception is not None and exception not in found:
        found.append(exception)
        exception = exception.__cause__ or (None if exception.__suppress_context__ else exception.__context__)
    return found
