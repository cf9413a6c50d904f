# SPDX-License-Identifier: Apache-2.0
"""What do the checkpoint and the service say of a run now? The facts that :mod:`~.plan` decides by."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.models import BatchJob
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.lifecycle.own_jobs import MISSING_GRACE, is_live, out_of_sight
from airflow_provider_gemini_batch.run import plan
from airflow_provider_gemini_batch.run.claims import calls_not_refused
from airflow_provider_gemini_batch.times import epoch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.context import RunContext
    from airflow_provider_gemini_batch.run.jobs import RunJobs

log = logging.getLogger(__name__)

CANCEL_AGAIN = 600.0
"""Seconds until the next look at a job that was cancelled, and has not ended."""


class FactReader:
    """
    Reads the checkpoint and polls the jobs of one run.

    It remembers how each job was when it was read last: one that has ended is not read again.
    """

    def __init__(self, context: RunContext, checkpoint: Checkpoint, jobs: RunJobs) -> None:
        self._context = context
        self._checkpoint = checkpoint
        self._jobs = jobs
        self._read: dict[str, BatchJob] = {}
        self._skew = 0.0
        self._cancelled: set[str] = set()
        self.uncancelled: list[str] = []
        """Jobs that are too many, and could not be cancelled."""

    def facts(self) -> plan.Facts:
        """Return what the checkpoint and the service say now."""
        headers = self._checkpoint.rounds()  # these name notes that may be listed late
        notes = self._checkpoint.notes()
        rounds = []
        for header in headers:
            is_last = header is headers[-1]
            shards = [self._shard(entry, notes, is_last=is_last) for entry in header["shards"]]
            rounds.append(plan.Round(int(header["number"]), tuple(shards), header.get("tier", "batch")))
        return plan.Facts(self._checkpoint.snapshot is not None, tuple(rounds), self._checkpoint.end is not None)

    def live_jobs(self) -> tuple[str, ...]:
        """Return the names of the jobs that have not ended."""
        return tuple(one.job for found in self.facts().rounds for one in found.shards if one.state == "live")

    def _shard(self, entry: Mapping[str, Any], notes: Mapping[str, Mapping[str, Any]], *, is_last: bool) -> plan.Shard:
        shard = plan.Shard(str(entry["id"]), int(entry["rows"]))
        # Answers of calls one by one are kept while others are still to come (`run/collecting.py`).
        collected = {note["job"]: note for note in notes["collected"].get(shard.id, ()) if not note.get("open")}
        found = sorted({(note["created"] or "", note["job"]) for note in notes["job"].get(shard.id, ())})
        # The oldest first, by the service's time and then by name: whoever looks counts the same job.
        names = [name for _, name in found]
        # Only now the rare case: several jobs, or one that turned up after the shard was closed.
        if len(names) > 1 or (collected and not collected.keys() >= set(names)):
            return self._of_several(shard, names, collected, is_last=is_last)
        if collected:
            return replace(shard, state="collected")
        if not names:
            calls = calls_not_refused(notes["intent"].get(shard.id, ()), notes["void"].get(shard.id, ()))
            return replace(shard, is_called=bool(calls))
        return replace(shard, job=names[0], state="ended" if self.has_ended(names[0]) else "live")

    def _of_several(
        self, shard: plan.Shard, names: Sequence[str], collected: Mapping[str, Mapping[str, Any]], *, is_last: bool
    ) -> plan.Shard:
        """
        Say which of a shard's jobs counts, and cancel those that need not run.

        Answers of each that has run are brought in, also if the shard has answers already: they are paid for. What a
        cancel left over of one job is not the whole work, and ends no other one.

        :param is_last: Whether no later round asks the rows again.
        """
        jobs = [job for name in names if (job := self.job(name)) is not None]
        answered = [job for job in jobs if job.is_done and (job.state.has_results or job.output is not None)]
        live = [job for job in jobs if is_live(job)]
        # A job of the Developer API that was cancelled half-way ends SUCCEEDED, with failed rows; whether they are
        # rows that had not run shows when they are read.
        whole = any(job.state.has_results and not job.stats.failed for job in answered)
        whole = whole or any(is_whole(note) for note in collected.values())
        chosen = None if whole or (collected and not is_last) else next(iter(live), None)
        for job in live:
            if job is not chosen:
                self._cancel_surplus(shard, job)
        # One after the other; the next look at the facts finds the next one.
        unread = [job.name for job in answered if job.name not in collected]
        if unread:
            return replace(shard, job=unread[0], state="ended")
        if collected and (whole or not is_last):
            return replace(shard, state="collected")
        # One that is being cancelled may still leave answers.
        if running := [chosen] if chosen else [job for job in jobs if job.is_running]:
            return replace(shard, job=running[0].name, state="live")
        if collected:
            return replace(shard, state="collected")
        return replace(shard, job=jobs[0].name if jobs else names[0], state="ended")

    def _cancel_surplus(self, shard: plan.Shard, job: BatchJob) -> None:
        if job.name in self._cancelled:
            return
        self._cancelled.add(job.name)
        log.warning("%s: %s is one job too many and is cancelled.", shard.id, job.name)
        try:
            self._context.client.cancel_batch(job.name)
        except GeminiBatchError as error:
            log.error("%s could not be cancelled, and may bill: %s", job.name, error)
            self.uncancelled.append(job.name)

    def job(self, name: str) -> BatchJob | None:
        """
        Return a job as the service has it, or None if it is gone.

        A job that had ended when it was read before is not read again: a loop that collects five jobs need not ask
        twenty-five times.

        :raises ConfigurationError: If it is not found, and was seen with another key.
        """
        known = self._read.get(name)
        if known is None or known.is_running:
            job = self._jobs.get(name)
            if job is None:
                # A replica may not have heard of it yet. Taken for deleted, its rows would be paid for twice.
                if self._is_young(name):
                    return BatchJob(name)
                self._check_sight(name)
                return None
            # The reply's Date shows how far the service's clock is ahead of ours; limits are counted on ours.
            known = self._read[name] = job
            self._skew = job.skew(self._context.now())
            self._end_if_late(job)
        return known

    def _check_sight(self, name: str) -> None:
        """
        Refuse to take a job for deleted that another key has made: it may run on where ours does not see it.

        :raises ConfigurationError: Until the task is cleared after this was said.
        """
        notes = self._checkpoint.notes(look=False)
        found = [(shard, note) for shard, of_shard in notes["job"].items() for note in of_shard]
        # Notes of older versions do not say who saw the job.
        seen_by = {note.get("seen_by") for _, note in found if note["job"] == name}
        if not seen_by or not seen_by.isdisjoint((None, self._jobs.seen_by(name))):
            return
        occasion = self._context.occasion
        collected = {note["job"] for of_shard in notes["collected"].values() for note in of_shard}
        if name in collected or {note.get("told") for _, note in found} - {None, occasion}:
            return
        unseen = {note["job"]: (shard, note) for shard, note in found if note["job"] not in collected}
        if not self._context.is_trial:
            shard, note = unseen[name]
            self._checkpoint.note("job", shard, {**note, "told": occasion})
        raise out_of_sight(", ".join(unseen))

    def _is_young(self, name: str) -> bool:
        """Say whether a job was made so short a while ago that a read may not find it."""
        notes = self._checkpoint.notes(look=False)
        for shard, found in notes["job"].items():
            created = [epoch(note["created"]) for note in found if note["job"] == name]
            if created:
                # By the service's clock and by that of whoever made it: one of them may be off.
                called = [float(note["at"]) for note in notes["intent"].get(shard, ())]
                born = max((at for at in (*created, *called) if at is not None), default=0.0)
                return self._context.now() - born < MISSING_GRACE
        return False

    def has_ended(self, name: str) -> bool:
        """Say whether a job has ended, or is gone."""
        job = self.job(name)
        return job is None or job.is_done

    def last_read(self, name: str) -> BatchJob | None:
        """Return a job as this process read it last, without asking; None if it never did."""
        return self._read.get(name)

    def _end_if_late(self, job: BatchJob) -> None:
        """Cancel a job whose time is up; its rows are asked again in the next round."""
        if (
            job.is_running
            and job.state.value != "CANCELLING"
            and self._context.now() >= self._context.limits.ends_at(job, self._skew)
        ):
            log.warning("%s takes longer than its timeout allows and is cancelled; its rows are asked again.", job.name)
            self._context.client.cancel_batch(job.name)

    def next_limit(self, names: Iterable[str]) -> float:
        """
        Return the UTC epoch second at which the first of these jobs has had its time.

        A job whose time is up is cancelled, which may take the service a while: it is looked at again some minutes
        later. A wait until a moment that is over would end at once, again and again.
        """
        known = [self._read[name] for name in names if name in self._read]
        limits, now = self._context.limits, self._context.now()
        ends = [limits.ends_at(job, self._skew) for job in known if job.is_running]
        return min((end if end > now else now + CANCEL_AGAIN for end in ends), default=float("inf"))


def is_whole(note: Mapping[str, Any]) -> bool:
    """Whether what was collected of a shard leaves nothing for another job to answer; one not asked has none."""
    ended = JobState.from_wire(note.get("state"))
    return not note["job"] or (ended.has_results and not note.get("cut_short"))
