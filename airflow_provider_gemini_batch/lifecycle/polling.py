# SPDX-License-Identifier: Apache-2.0
"""How long to wait between two polls of a job."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SHORTEST = 5.0
LONGEST = 600.0
SHARE_OF_AGE = 0.06
JITTER = 0.1

COSTLY_SHORTEST = 120.0
COSTLY_SHARE_OF_AGE = 0.1


def next_interval(age: float, poll_interval: float | None = None, rng: Callable[[], float] = random.random) -> float:
    """
    Return the seconds until the next look.

    A fixed *poll_interval* is kept exactly. Without one the interval is 6 % of the job's age, at least 5 s and at most
    10 minutes, with up to 10 % of jitter: an ended job is seen after 3 % of its length on average, and a day's job
    costs about 230 looks where a look every 30 s would cost 2,880.

    :param age: Seconds since the job was created.
    :param poll_interval: Seconds, or None for the adaptive interval.
    """
    if poll_interval is not None:
        return poll_interval
    return min(LONGEST, max(SHORTEST, age * SHARE_OF_AGE)) * (1 + JITTER * (rng() - 0.5))


def costly_interval(age: float) -> float:
    """
    Return the seconds until the next look where each one costs far more than reading a job.

    10 % of the job's age, at least two minutes, without an upper end: a job of a day costs some 50 looks, where
    :func:`next_interval` takes 230.

    :param age: Seconds since the job was created.
    """
    return max(COSTLY_SHORTEST, age * COSTLY_SHARE_OF_AGE)
