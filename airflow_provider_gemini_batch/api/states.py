# SPDX-License-Identifier: Apache-2.0
"""The states of a batch job."""

# The two backends spell the same states with two prefixes (`BATCH_STATE_`, `JOB_STATE_`), and Google's own samples mix
# them. `JobState.from_wire` is the only place that knows spellings; everything else speaks of members.
#
# `TRANSITIONS` says what may follow what. A job in an end state never changes again. An unknown state is
# `JobState.UNKNOWN`: not final, so that a wait goes on until its deadline.
#
# Sources: https://ai.google.dev/api/batch-api (BatchState);
# https://aiplatform.googleapis.com/$discovery/rest?version=v1 (JobState).

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """State of a batch job, the same on both backends; the value is the word without the service's prefix."""

    QUEUED = "QUEUED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    UPDATING = "UPDATING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    PARTIALLY_SUCCEEDED = "PARTIALLY_SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    UNKNOWN = "UNKNOWN"

    @classmethod
    def from_wire(cls, text: object) -> JobState:
        """
        Read a state as either backend spells it.

        :param text: E.g. ``BATCH_STATE_RUNNING`` or ``JOB_STATE_RUNNING``; anything else is accepted.
        :return: The member; :attr:`UNKNOWN` for a word that no member has, for UNSPECIFIED, and for None.
        """
        word = str(text or "").upper()
        for prefix in ("BATCH_STATE_", "JOB_STATE_"):
            word = word.removeprefix(prefix)
        if word == "CANCELED":
            word = "CANCELLED"
        # A word that is new must not end a wait: taken for an end, a running job would be paid for and forgotten.
        return cls.__members__.get(word, cls.UNKNOWN)

    @classmethod
    def _missing_(cls, value: object) -> JobState | None:
        """Let ``JobState("BATCH_STATE_RUNNING")`` work for people; a word that no state has stays an error."""
        state = cls.from_wire(value)
        return None if state is cls.UNKNOWN else state

    @property
    def is_terminal(self) -> bool:
        """Whether the job can never change again."""
        return self in TERMINAL

    @property
    def has_results(self) -> bool:
        """Whether the job ended and left answers for all or some rows."""
        return self in (JobState.SUCCEEDED, JobState.PARTIALLY_SUCCEEDED)

    @property
    def is_waiting(self) -> bool:
        """Whether the job has not begun to run."""
        return self in (JobState.QUEUED, JobState.PENDING)


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset(
        {JobState.PENDING, JobState.RUNNING, JobState.CANCELLING, JobState.CANCELLED, JobState.FAILED, JobState.EXPIRED}
    ),
    JobState.PENDING: frozenset(
        {JobState.RUNNING, JobState.CANCELLING, JobState.CANCELLED, JobState.FAILED, JobState.EXPIRED}
    ),
    JobState.RUNNING: frozenset(
        {
            JobState.SUCCEEDED,
            JobState.PARTIALLY_SUCCEEDED,
            JobState.FAILED,
            JobState.CANCELLING,
            JobState.CANCELLED,
            JobState.EXPIRED,
            JobState.PAUSED,
            JobState.UPDATING,
        }
    ),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING, JobState.CANCELLED}),
    JobState.UPDATING: frozenset({JobState.RUNNING, JobState.FAILED}),
    JobState.CANCELLING: frozenset({JobState.CANCELLED, JobState.SUCCEEDED, JobState.FAILED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.PARTIALLY_SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
    JobState.EXPIRED: frozenset(),
    JobState.UNKNOWN: frozenset(JobState),
}
"""What may follow what. A job still unknown to us may become anything."""

TERMINAL: frozenset[JobState] = frozenset(state for state, following in TRANSITIONS.items() if not following)
"""The end states."""
