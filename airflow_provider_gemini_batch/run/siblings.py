# SPDX-License-Identifier: Apache-2.0
"""Has another index of a mapped task asked our rows already?"""

# Each index of a mapped task is a run of its own. Once somebody clears what makes the list, an index may stand for rows
# that another one has asked: `[a, b]` became `[new, a, b]`, and index 1 is to answer what index 0 has. The checkpoints
# of a task lie side by side, and each names its rows by the digest of their requests. So before rows are asked that
# this index has not had before, the others' checkpoints are looked through: answers there are taken, those of jobs that
# have ended are brought in first, and jobs that run are waited for.
#
# Example: both jobs run when `[a, b]` is cleared and becomes `[b, a]`. Index 0 brings its own job in (a) and reads
# its input anew: b. Index 1's checkpoint has b, whose job runs on: index 0 looks again after two minutes or
# more, brings the answers in once the job has ended, and takes them. Nothing is asked again.

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.lifecycle.polling import costly_interval
from airflow_provider_gemini_batch.run import plan
from airflow_provider_gemini_batch.run.budget import Caps
from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
from airflow_provider_gemini_batch.run.collecting import collect
from airflow_provider_gemini_batch.run.facts import FactReader
from airflow_provider_gemini_batch.run.jobs import RunJobs
from airflow_provider_gemini_batch.run.submitting import Submitter
from airflow_provider_gemini_batch.run.tables import text
from airflow_provider_gemini_batch.run.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.api.models import BatchJob

log = logging.getLogger(__name__)


class AskedElsewhereError(GeminiBatchError):
    """
    Rows of this run are being answered for another index.

    :ivar until: UTC epoch second at which to look again.
    """

    def __init__(self, text: str, until: float) -> None:
        super().__init__(text)
        self.until = until


class Siblings:
    """
    The checkpoints of a mapped task's other indexes.

    :param work: Of the generation that begins.
    :param jobs: Reads jobs by name, whosever they are.
    """

    def __init__(self, work: Workspace, jobs: RunJobs) -> None:
        self._work = work
        self._jobs = jobs

    def __call__(self, engine: DuckDBPyConnection, narrow: str) -> Iterator[Checkpoint]:
        """
        Yield the generations that have rows of ours, with all answers that there are.

        :param narrow: Path of the new snapshot's rows.
        :raises AskedElsewhereError: If a job with such rows runs.
        """
        context = self._work.context
        folders = context.siblings
        before = self._work.checkpoint.older() if context.history is None else Checkpoint.all(context.history)
        # Of all generations of this index: rows that it has had before are its own, also where a later generation lost
        # them.
        own = [found for one in before if (found := self._narrow_of(one)) is not None]
        if not folders or not self._counted(engine, narrow, own, "ANTI"):
            return  # the list may have changed; what this index asks has not
        for folder in folders:
            for generation in Checkpoint.all(folder):
                theirs = self._narrow_of(generation)
                if theirs is None or not self._counted(engine, narrow, [theirs], "SEMI"):
                    continue
                log.info("%s holds rows that this index is to ask: its answers are taken.", generation.folder.place)
                self._bring_in(generation)
                yield generation

    def _narrow_of(self, generation: Checkpoint) -> str | None:
        """Return the local path of a generation's rows, if it asked what this run asks."""
        header = generation.snapshot
        if header is None or header.get("asked") != self._work.spec.request_fingerprint:
            return None
        return generation.folder.fetch(str(header["narrow"]), self._work.folder)

    @staticmethod
    def _counted(engine: DuckDBPyConnection, narrow: str, others: list[str], kind: str) -> int:
        """Count our rows whose requests are (``SEMI``) or are not (``ANTI``) among those of others."""
        if not others:
            return 1 if kind == "ANTI" else 0
        files = ", ".join(map(text, others))
        found = engine.execute(
            f"SELECT count(*) FROM read_parquet({text(narrow)}) {kind} JOIN read_parquet([{files}]) USING (d)"
        ).fetchone()
        return int(found[0]) if found else 0

    def _bring_in(self, generation: Checkpoint) -> None:
        """Collect what has ended of a generation; whoever works on it, too, finds it collected."""
        # A generation that has ended has brought all in; and a plan changes nothing, here or elsewhere.
        if generation.end is not None or self._work.context.is_trial:
            return
        work = self._work
        theirs = Workspace(work.spec, work.context, generation, work.database, work.folder)
        reader = FactReader(work.context, generation, self._jobs)
        sought: set[str] = set()
        while True:
            step = plan.leaving_step(reader.facts(), sought)
            if isinstance(step, plan.Collect):
                collect(theirs, step.shard, reader.job(step.shard.job))
                continue
            if isinstance(step, plan.Adopt):
                until = self._submitter(generation, reader).adopt(theirs, step.shards, sought)
                if until is not None:
                    raise AskedElsewhereError("Rows of this index may have been asked for another one just now.", until)
                continue
            if isinstance(step, plan.Wait):
                names = ", ".join(shard.job for shard in step.shards)
                raise AskedElsewhereError(
                    f"Rows of this index are being answered for another one: {names}.",
                    next_look([reader.job(shard.job) for shard in step.shards], work.context.now()),
                )
            return

    def _submitter(self, generation: Checkpoint, reader: FactReader) -> Submitter:
        """Return what finds jobs of another index, which carry the name of its checkpoint's folder."""
        context = self._work.context
        jobs = RunJobs(context.client, replace(context.identity, task=generation.root.name), context.submit_policy)
        return Submitter(context, generation, jobs, Caps(self._work.spec, context, generation, reader.job))


def next_look(jobs: Sequence[BatchJob | None], now: float) -> float:
    """Return when to look again at jobs that run: the later, the older the youngest of them is."""
    # Each look reads the input anew.
    born = [job.born(now) or now for job in jobs if job is not None]
    return now + costly_interval(now - max(born, default=now))
