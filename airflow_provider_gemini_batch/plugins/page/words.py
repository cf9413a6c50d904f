# SPDX-License-Identifier: Apache-2.0
"""States as the page shows them: a colour's class and a word."""

from __future__ import annotations

from typing import NamedTuple

OUTCOMES = ("succeeded", "failed", "blocked", "invalid", "missing")
"""Outcomes of a row, in the order in which they are shown."""


class Shown(NamedTuple):
    """
    A state.

    :param kind: Class of the pill in ``style.css``.
    :param word: What it says.
    """

    kind: str
    word: str


_TASK = {
    "deferred": "deferred",
    "running": "running",
    "queued": "queued",
    "scheduled": "queued",
    "up_for_retry": "expired",
    "up_for_reschedule": "deferred",
    "success": "success",
    "failed": "failed",
    "upstream_failed": "failed",
}

_JOB = {
    "QUEUED": "queued",
    "PENDING": "queued",
    "RUNNING": "running",
    "PAUSED": "input",
    "UPDATING": "running",
    "CANCELLING": "cancelled",
    "SUCCEEDED": "success",
    "PARTIALLY_SUCCEEDED": "success",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "EXPIRED": "expired",
    "GONE": "cancelled",
}


def task_state(state: str) -> Shown:
    """Return a state of Airflow's, e.g. ``up_for_retry``, as it is shown."""
    return Shown(_TASK.get(state, "cancelled"), (state or "not scheduled").replace("_", " ").capitalize())


def job_state(state: str) -> Shown:
    """Return a job's state as it is shown; of one that nobody has looked at since, that is said."""
    if not state:
        return Shown("queued", "Submitted")
    return Shown(_JOB.get(state, "cancelled"), state.replace("_", " ").capitalize())
