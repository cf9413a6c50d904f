# SPDX-License-Identifier: Apache-2.0
"""What do the checkpoint and the service say of a run now? The facts that :mod:`~.plan` decides by."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.run import plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.context import RunContext
    from airflow_provider_gemini_batch.run.jobs import RunJobs

log = logging.getLogger(__name__)


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

    def facts(self) -> plan.Facts:
        """Return what the checkpoint and the service say now."""
        headers = self._checkpoint.rounds()  # these name notes that may be listed late
        notes = self._checkpoint.notes()
        rounds = []
        for header in headers:
            shards = [self._shard(entry, notes) for entry in header["shards"]]
            rounds.append(plan.Round(int(header["number"]), tuple(shards), header.get("tier", "batch")))
        return plan.Facts(self._checkpoint.snapshot is not None, tuple(rounds), self._checkpoint.end is not None)

    def live_jobs(self) -> tuple[str, ...]:
        """Return the names of the jobs that have not ended."""
        return tuple(one.job for found in self.facts().rounds for one in found.shards if one.state == "live")

    def _shard(self, entry: Mapping[str, Any], notes: Mapping[str, Mapping[str, Any]]) -> plan.Shard:
        shard = plan.Shard(str(entry["id"]), int(entry["rows"]))
        if notes["collected"].get(shard.id):
            return replace(shard, state="collected")
        names = sorted((note["created"] or "", note["job"]) for note in notes["job"].get(shard.id, ()))
        if not names:
            void = {note["claim"] for note in notes["void"].get(shard.id, ())}
            calls = [note for note in notes["intent"].get(shard.id, ()) if not note.get("flex")]
            return replace(shard, is_called=any(note.get("claim") not in void for note in calls))
        name = names[0][1]
        return replace(shard, job=name, state="ended" if self.has_ended(name) else "live")

    def job(self, name: str) -> BatchJob | None:
        """
        Return a job as the service has it, or None if it is gone.

        A job that had ended when it was read before is not read again: a loop that collects five jobs need not ask
        twenty-five times.
        """
        known = self._read.get(name)
        if known is None or known.is_running:
            job = self._jobs.get(name)
            if job is None:
                return None
            known = self._read[name] = job
            self._skew = job.skew(self._context.now())
            self._end_if_late(job)
        return known

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
        """Return the UTC epoch second at which the first of these jobs has had its time."""
        known = [self._read[name] for name in names if name in self._read]
        limits = self._context.limits
        return min((limits.ends_at(job, self._skew) for job in known if job.is_running), default=float("inf"))
