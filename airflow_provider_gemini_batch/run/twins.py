# SPDX-License-Identifier: Apache-2.0
"""Has a shard a second job, which the service's list showed late?"""

# Claims (`claims.py`) make attempts take turns: whoever finds a claim waits for as long as its job may need to be
# listed, and looks again. Where the list lags longer than that, a shard gets a second job. The checkpoint knows where
# this may be: each create call is noted before it is made, and what came of it after it. A shard with more calls than
# jobs and refusals is in doubt, and the list is read for it where that costs next to nothing: when an attempt begins or
# is resumed, now and then while it waits, before a job's answers are brought in, and at the run's end, which waits
# until such a job would be listed.
#
# A job that turns up is noted as one more job of its shard; `FactReader` says which of them is waited for, cancels the
# others, and has the answers of all brought in that have run. Rows that were answered by two are counted in the
# manifest as `paid_twice`.
#
# Example, with a list that lags 300 s and a patience of 107 s.
#
#   s     what happens
#   ----  ---------------------------------------------------------------------------------------
#   0     attempt 1 notes its call for r1.s0, creates A, and is killed
#   110   attempt 2 finds the claim of 0 s and no job; it notes its own call, and creates B
#   111   two calls, one job: r1.s0 is in doubt. The wait reads the list now and then
#   300+  the list shows A, which is noted. A is older: it is waited for, and B is cancelled. Had
#         both run by then, the answers of both would be brought in, and counted

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.identity import token_of
from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.lifecycle.own_jobs import is_live_or_useful
from airflow_provider_gemini_batch.lifecycle.twins import LAST_LOOK_AGE, list_look_due
from airflow_provider_gemini_batch.run.claims import calls_not_refused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.jobs import RunJobs

log = logging.getLogger(__name__)

FRESH = 15.0
"""Seconds for which a look at the list is not repeated."""


class TwinLooks:
    """
    The looks of one process for second jobs of shards.

    :param read: Returns a job as it was read last, reading it if need be.
    :param now: UTC epoch seconds.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        jobs: RunJobs,
        read: Callable[[str], BatchJob | None],
        now: Callable[[], float],
    ) -> None:
        self._checkpoint = checkpoint
        self._jobs = jobs
        self._read = read
        self._now = now
        self._looked_at = float("-inf")
        self._fault: GeminiBatchError | None = None
        self._doubts: dict[str, float] = {}
        self._digests: dict[str, set[str]] = {}

    def update(self) -> None:
        """Read the notes: which shards are in doubt?"""
        self._doubts, self._digests = {}, {}
        for shard, calls in calls_in_doubt(self._checkpoint.notes()).items():
            self._doubts[shard] = max(float(note["at"]) for note in calls)
            self._digests[shard] = {note["digest"] for note in calls if "digest" in note}

    @property
    def in_doubt_until(self) -> float:
        """UTC epoch second at which the second job of any shard would be listed; the past if there is no doubt."""
        return max(self._doubts.values(), default=float("-inf")) + LAST_LOOK_AGE

    @property
    def is_due(self) -> bool:
        """Whether a wait should look now; asks nobody."""
        now = self._now()
        return any(list_look_due(max(0.0, self._looked_at - at), now - at) for at in self._doubts.values())

    def look(self) -> bool:
        """
        Read the list, if there is a doubt, and note second jobs of shards.

        :return: Whether there was one.
        """
        self.update()
        self._fault = None
        if not self._doubts or self._now() - self._looked_at < FRESH:
            return False
        try:
            listed = self._jobs.by_digest()
            found = [self._note(shard, listed) for shard in self._doubts]
        except GeminiBatchError as error:
            log.info("Whether a shard has a second job could not be checked: %s", error)
            self._fault = error
            return False
        self._looked_at = self._now()
        return any(found)

    def check_looked(self) -> None:
        """
        Raise what kept the last look from being made, if one did: at a run's end there is no later one.

        :raises GeminiBatchError: The run ends with a later attempt, which finds all answers in the checkpoint.
        """
        if self._fault is not None:
            raise self._fault

    def take(self, told: Mapping[str, str]) -> None:
        """
        Note second jobs that a wait has met in the list; another replica may not show them yet.

        :param told: Their names, and that of the known job for whose rows they are.
        """
        for twin, own in told.items():
            notes = self._checkpoint.notes()["job"]
            shards = [shard for shard, found in notes.items() if own in {note["job"] for note in found}]
            try:
                known, job = self._read(own), self._read(twin)
            except GeminiBatchError as error:
                log.warning("%s could not be read: %s", twin, error)
                continue
            is_twin = known is not None and job is not None and token_of(known) == token_of(job) is not None
            if shards and job is not None and is_twin and is_live_or_useful(job):
                log.warning("%s: %s turned up beside %s.", shards[0], twin, own)
                note_job(self._jobs, self._checkpoint, shards[0], job)

    def beside(self, names: Collection[str]) -> list[str]:
        """Return the other known jobs of the shards of some jobs."""
        found = [{note["job"] for note in notes} for notes in self._checkpoint.notes()["job"].values()]
        return sorted(name for jobs in found if jobs.intersection(names) for name in jobs.difference(names))

    def _note(self, shard: str, listed: dict[str, list[BatchJob]]) -> bool:
        """Note the jobs of a shard that are listed and not known."""
        known = {note["job"] for note in self._checkpoint.notes()["job"].get(shard, ())}
        digests = self._digests[shard] or self._digests_of(known)
        found = False
        for job in (job for digest in digests for job in listed.get(digest, ())):
            if job.name not in known and is_live_or_useful(job):
                beside = f" beside {', '.join(sorted(known))}" if known else ""
                log.warning("%s: %s turned up%s.", shard, job.name, beside)
                note_job(self._jobs, self._checkpoint, shard, job)
                found = True
        return found

    def _digests_of(self, names: Collection[str]) -> set[str]:
        """Return what jobs carry, for calls that an older version noted without it."""
        tokens = [token_of(job) for name in names if (job := self._read(name)) is not None]
        return {token.digest for token in tokens if token is not None}


def calls_in_doubt(
    notes: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
) -> dict[str, list[Mapping[str, Any]]]:
    """Return the create calls of each shard of which one may have made a job that nobody has noted."""
    found = {}
    for shard, intents in notes["intent"].items():
        calls = calls_not_refused(intents, notes["void"].get(shard, ()))
        known = {note["job"] for note in notes["job"].get(shard, ())}
        # Which of the calls made the known jobs is not known: the last one may be the one without an answer.
        if len(calls) > len(known):
            found[shard] = calls
    return found


def note_job(jobs: RunJobs, checkpoint: Checkpoint, shard: str, job: BatchJob) -> None:
    """Note a job of a shard."""
    seen_by = jobs.seen_by(job.name)
    checkpoint.note("job", shard, {"job": job.name, "created": job.create_time, "shard": shard, "seen_by": seen_by})
