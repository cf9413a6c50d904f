# SPDX-License-Identifier: Apache-2.0
"""How does a shard get its job? It is found in the list by the digest of its rows, or created under a claim."""

# The list is read once for all shards of a step. What stops a shard stops those after it: no quota now, or another
# attempt that submits the same rows; no room under a cap while other jobs run. A cap that the shard would pass in any
# case closes that shard alone.

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.retry import QUOTA
from airflow_provider_gemini_batch.client.measure import MediaWatch
from airflow_provider_gemini_batch.cost.budget import CostLimitError
from airflow_provider_gemini_batch.errors import GeminiBatchError, RateLimitedError
from airflow_provider_gemini_batch.lifecycle.own_jobs import is_live_or_useful
from airflow_provider_gemini_batch.run.budget import MEDIA, Caps, WaitForCostError, has_caps
from airflow_provider_gemini_batch.run.claims import ClaimedError, Claims, calls_not_refused, patience
from airflow_provider_gemini_batch.run.collecting import close_unasked
from airflow_provider_gemini_batch.run.digest import wire_key
from airflow_provider_gemini_batch.run.jobs import shard_digest
from airflow_provider_gemini_batch.run.twins import note_job

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.run import plan
    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.context import RunContext
    from airflow_provider_gemini_batch.run.jobs import RunJobs
    from airflow_provider_gemini_batch.run.row_numbers import AskedRows
    from airflow_provider_gemini_batch.run.workspace import Workspace

log = logging.getLogger(__name__)


class Submitter:
    """Submits the shards of one run; it remembers this attempt's claims and its tries for quota."""

    def __init__(self, context: RunContext, checkpoint: Checkpoint, jobs: RunJobs, caps: Caps) -> None:
        self._context = context
        self._checkpoint = checkpoint
        self._jobs = jobs
        self._caps = caps
        self._claims = Claims(context, checkpoint)
        self._tries = 0

    def submit(self, work: Workspace, shards: Sequence[plan.Shard]) -> float | None:
        """
        Find or create the jobs of shards; stop at the first that cannot have one now.

        :return: UTC epoch second at which to try again, unless a job ends before; None if no shard is left without a
            job.
        """
        # Taken before the list is read: a claim that is made meanwhile is newer than the look, which then proves
        # nothing for it.
        looked_at = self._context.now()
        present = self._jobs.by_digest()
        listed = {job.name: job for jobs in present.values() for job in jobs}
        notes = self._checkpoint.notes()
        for shard in shards:
            # The digest is that of the rows, so a job is found here also after the checkpoint was lost.
            expected = work.expected(shard)
            digest = self._digest(shard, expected)
            known = present.get(digest, [])
            if known:
                self._adopt(shard, known)
                continue
            try:
                calls = calls_not_refused(notes["intent"].get(shard.id, ()), notes["void"].get(shard.id, ()))
                self._create(work, shard, expected, digest, calls, looked_at, listed)
            except ClaimedError as claimed:
                log.info("%s: another attempt is submitting it; looking for its job soon.", shard.id)
                return claimed.until
            except WaitForCostError as full:
                log.info("%s waits: %s", shard.id, full)
                return full.until
            except CostLimitError as error:
                close_unasked(work, shard, expected, str(error))
            except RateLimitedError as error:
                return self._without_quota(error, shard)
        self._tries = 0
        return None

    def _digest(self, shard: plan.Shard, expected: AskedRows) -> str:
        return shard_digest(self._checkpoint.number, shard.id, (wire_key(n, one.hex()) for n, one in expected))

    def adopt(self, work: Workspace, shards: Sequence[plan.Shard], sought: set[str]) -> float | None:
        """
        Find the jobs of shards for which somebody was about to create one, and create none.

        :param sought: Gets the shards that have no job.
        :return: UTC epoch second at which to look again, as a job may not be listed yet; None if nothing is left open.
        """
        looked_at, later = self._context.now(), []
        present, notes = self._jobs.by_digest(), self._checkpoint.notes()
        for shard in shards:
            known = present.get(self._digest(shard, work.expected(shard)), [])
            calls = calls_not_refused(notes["intent"].get(shard.id, ()), notes["void"].get(shard.id, ()))
            until = max((float(note["at"]) for note in calls), default=0.0) + patience(self._context)
            if known:
                self._adopt(shard, known)
            elif looked_at < until:
                later.append(until)
            else:
                sought.add(shard.id)
        return min(later, default=None)

    def _without_quota(self, error: RateLimitedError, shard: plan.Shard) -> float:
        # Refused calls are noted, as a wait may end in another process: pauses grow all the same.
        self._tries = max(self._tries + 1, len(self._checkpoint.notes(look=False)["void"].get(shard.id, ())))
        pause = QUOTA.delay_after(error, self._tries) or QUOTA.cap
        log.warning("No quota for a job now; next try in %.0f s. %s", pause, error)
        return self._context.now() + pause

    def _adopt(self, shard: plan.Shard, known: Sequence[BatchJob]) -> None:
        job, *others = known
        log.info("%s: %s (%s) was submitted by an earlier attempt.", shard.id, job.name, job.state.value)
        for twin in others:
            if is_live_or_useful(twin):  # which of them counts is decided in :mod:`.facts`
                note_job(self._jobs, self._checkpoint, shard.id, twin)
        self._know(shard, job)

    def _know(self, shard: plan.Shard, job: BatchJob) -> None:
        note_job(self._jobs, self._checkpoint, shard.id, job)
        self._context.on_job(job.name)

    def _create(
        self,
        work: Workspace,
        shard: plan.Shard,
        expected: AskedRows,
        digest: str,
        intents: Sequence[Mapping[str, Any]],
        looked_at: float,
        listed: Mapping[str, BatchJob],
    ) -> None:
        _, entry = work.entry(shard.id)
        self._caps.check(entry, listed, look=False)  # refused before its rows are written out
        intent_at = max((float(note["at"]) for note in intents), default=None)
        path = os.path.join(work.folder, f"{shard.id}.jsonl")
        has_media = _write_input(work, shard, expected, path)
        if has_media and has_caps(work.spec):
            raise CostLimitError(MEDIA)

        # The order is: claim, note, call. Who dies after the claim makes others wait for it; who dies after the note
        # makes them look for a job. Any other order has a moment in which a job may exist of which nobody knows.
        claims: list[str] = []

        def remember(what: str, value: str) -> None:
            if what == "intent":
                self._context.stop()
                claims.append(self._claims.claim(shard.id, looked_at))
                made = {
                    "at": self._context.now(),
                    "host": self._context.host,
                    "claim": claims[-1],
                    "digest": digest,
                }
                self._checkpoint.note("intent", shard.id, made)
                try:
                    self._checkpoint.check_goes_on()  # after the note: whoever gives it up reads the notes after that
                except GeminiBatchError:
                    self._checkpoint.note("void", shard.id, {"claim": claims[-1]})
                    raise
            elif what == "refused" and claims:
                self._checkpoint.note("void", shard.id, {"claim": claims[-1]})
            elif what == "job":
                self._context.on_job(value)

        try:
            job = self._jobs.submit(
                work.spec,
                path,
                digest,
                listed=(looked_at, list(listed.values())),  # the claims see to what was made since
                intent_at=intent_at,
                remember=remember,
                # Asked again right before the call: an upload may take an hour, in which other workers submit as well.
                may_create=(lambda: self._caps.check(entry, listed)) if has_caps(work.spec) else None,
            )
        except RateLimitedError:
            # Refused for certain, so that this attempt need not wait for its own call when it tries again.
            self._claims.release(claims)
            raise
        finally:
            # A step may submit several shards of up to 1.8 GB.
            with suppress(FileNotFoundError):
                os.unlink(path)
        self._know(shard, job)


def _write_input(work: Workspace, shard: plan.Shard, expected: AskedRows, path: str) -> bool:
    """Write a shard's rows as the input file of its job; say whether one of them holds media or names some."""
    media = MediaWatch()
    with open(path, "wb", buffering=1 << 20) as out:
        for n, digest, body in work.requests(shard, expected):
            media.see(body)
            out.write(b'{"key":"%b","request":%b}\n' % (wire_key(n, digest).encode(), body))
    return media.found
