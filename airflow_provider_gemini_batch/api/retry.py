# SPDX-License-Identifier: Apache-2.0
"""Which faults are worth another try, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_gemini_batch.errors import GeminiBatchError


MIN_HINT = 1.0
"""Seconds."""


@dataclass(frozen=True)
class RetryPolicy:
    """
    Exponential back-off with full jitter above half: ``base * 2**(attempt-1)``, at most ``cap``, times 0.5 to 1.

    A wait the service asked for (``retry_after``) is kept, plus up to a tenth of jitter, at most ``max_hint``. One of
    less than a second is as good as none: with it, a service that is busy for long would be asked without a pause.

    :param max_attempts: Tries in all; None for no end (the caller has a deadline).
    :param base: Seconds before the second try.
    :param cap: Longest computed pause in seconds.
    :param max_hint: Longest pause in seconds that we take from the service.
    :param spend_pause: Shortest pause in seconds after a refusal for a limit of money spent; None to pause as usual.
    :param rng: Source of jitter, 0 to 1.
    """

    max_attempts: int | None = 5
    base: float = 1.0
    cap: float = 60.0
    max_hint: float = 600.0
    spend_pause: float | None = None
    rng: Callable[[], float] = field(default=random.random, repr=False, compare=False)

    def delay_after(self, error: GeminiBatchError, attempt: int) -> float | None:
        """
        Say how long to pause after the *attempt*-th try (from 1) ended in *error*.

        :return: Seconds, or None if another try is not worth it.
        """
        if not error.is_transient or (self.max_attempts is not None and attempt >= self.max_attempts):
            return None
        hint = getattr(error, "retry_after", None)
        if self.spend_pause is not None and getattr(error, "is_spend_limit", False):
            hint = max(hint or 0.0, self.spend_pause)
        if hint is not None and hint >= MIN_HINT:
            # Jitter on top, never below: the service has said that earlier is of no use, and hundreds of tasks were
            # told the same second.
            return float(min(hint, self.max_hint)) * (1 + 0.1 * self.rng())
        # The exponent is bounded, as a wait without an end counts on and 2.0 ** 1100 is an error.
        return float(min(self.cap, self.base * 2.0 ** min(attempt - 1, 30))) * (0.5 + 0.5 * self.rng())


NO_RETRY = RetryPolicy(max_attempts=1)

QUOTA = RetryPolicy(max_attempts=None, base=30.0, cap=1800.0, max_hint=3600.0, spend_pause=600.0)
"""
Pauses after a create was refused for a quota (HTTP 429), until the caller's own deadline.

Quotas of requests, running jobs and waiting tokens free up as jobs end, over minutes to hours. The limit of money spent
counts the last ten minutes, so to ask earlier is of no use (https://ai.google.dev/gemini-api/docs/rate-limits).
"""
