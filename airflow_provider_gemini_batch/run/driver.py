# SPDX-License-Identifier: Apache-2.0
"""The reconcile loop of a run: facts from the checkpoint, one step of the plan, its effect, again."""

# Theory of operation
# -------------------
#
# `Run.proceed` goes on until jobs have to be waited for, and says which; whoever waits (a trigger, a worker, a
# notebook) calls it again. It may be called from any attempt on any worker: all it knows is in the checkpoint. Between
# two steps nothing is kept in memory that another worker could not read there.
#
# A generation lasts from one reading of the input to one publication of the outputs. An attempt begins with the latest:
#
#   the latest generation                      what this attempt does
#   -----------------------------------------  ------------------------------------------------------------------------
#   has no snapshot yet                        works on it: nothing was asked so far
#   is open, and asked what we ask             works on it: its jobs are ours, whichever attempt made them
#   is open, asked the same of each row, but   leaves it: submits nothing more, collects what its jobs answer, and
#   source or columns of the table differ      takes these answers into the next generation
#   is open, and asked something else          cancels its jobs, and begins the next generation
#   has ended on this occasion (a retry)       returns its outcome again, and asks nothing
#   has ended on another occasion (a clear)    begins the next generation, which takes over answers that still fit
#
# Example: a run of three shards is cleared after its prompt was edited, while two of its jobs run. The digests of the
# requests differ, so both are cancelled, generation 1 ends as `replaced`, and generation 2 reads the input anew.

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.client.counting import counted
from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.lifecycle.own_jobs import MISSING_GRACE
from airflow_provider_gemini_batch.run import plan
from airflow_provider_gemini_batch.run.budget import Caps, has_caps, measure_of
from airflow_provider_gemini_batch.run.checkpoint import Checkpoint, CheckpointLostError, Left
from airflow_provider_gemini_batch.run.collecting import ask_flex, collect, remove_remote
from airflow_provider_gemini_batch.run.facts import FactReader, is_whole
from airflow_provider_gemini_batch.run.finish import Finisher, RunOutcome
from airflow_provider_gemini_batch.run.jobs import RunJobs
from airflow_provider_gemini_batch.run.merge import AnswerFile
from airflow_provider_gemini_batch.run.requests import check_on, settings_for
from airflow_provider_gemini_batch.run.reuse import Carrier
from airflow_provider_gemini_batch.run.rounds import KEY_BYTES, RoundCutter, job_limits
from airflow_provider_gemini_batch.run.siblings import AskedElsewhereError, Siblings
from airflow_provider_gemini_batch.run.snapshot_taking import take
from airflow_provider_gemini_batch.run.step_folder import remove_abandoned, step_folder
from airflow_provider_gemini_batch.run.submitting import Submitter
from airflow_provider_gemini_batch.run.tables import engine, require_extra
from airflow_provider_gemini_batch.run.twins import TwinLooks, calls_in_doubt
from airflow_provider_gemini_batch.run.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow_provider_gemini_batch.run.context import RunContext
    from airflow_provider_gemini_batch.run.plan import Limits
    from airflow_provider_gemini_batch.run.spec import RunSpec

log = logging.getLogger(__name__)

UNSEEN_SECONDS = 60.0
"""How long a checkpoint that another worker wrote may take to be seen: slow network disks show a file late."""


@dataclass(frozen=True)
class Waiting:
    """
    Jobs that have to be waited for.

    :param jobs: Their names.
    :param wake: ``any`` or ``all``; see :class:`~.plan.Wait`.
    :param until: UTC epoch seconds of a wait for quota instead, with no jobs.
    """

    jobs: tuple[str, ...] = ()
    wake: str = "all"
    until: float | None = None


class Run:
    """
    One run.

    :param spec: What is asked.
    :param context: The world around it.
    :param generation: Number of the generation that is resumed; None finds it.
    """

    def __init__(self, spec: RunSpec, context: RunContext, generation: int | None = None) -> None:
        self.spec = spec
        self.context = context
        self.jobs = RunJobs(context.client, context.identity, context.submit_policy)
        self._is_told = False
        self._is_leaving = False
        """Whether the generation worked on asked otherwise, and only its jobs are waited for."""
        self._is_unwanted = False
        """Whether it is left only to find jobs that may have been made, and to cancel them."""
        self._sought: set[str] = set()
        """Shards of such a generation that have no job for certain."""
        self.checkpoint = self._generation(generation)
        self._open()

    def _open(self) -> None:
        self.reader = FactReader(self.context, self.checkpoint, self.jobs)
        self._caps = Caps(self.spec, self.context, self.checkpoint, self.reader.job)
        self._submitter = Submitter(self.context, self.checkpoint, self.jobs, self._caps)
        self.twins = TwinLooks(self.checkpoint, self.jobs, self.reader.job, self.context.now)
        self._leftover = leftover(self.checkpoint)

    def _cancel_again(self, surplus: Sequence[str] = ()) -> list[str]:
        """
        Cancel jobs that nobody wants and that could not be cancelled before; return those that still cannot be.

        :param surplus: Such jobs of this generation: only at its end is it sure that no shard waits for one of them.
        """
        names, ended = self._leftover
        are_old = self.context.now() - ended > MISSING_GRACE
        self._leftover = self.jobs.cancel_again(names, are_old=are_old), ended
        return [*self._leftover[0], *self.jobs.cancel_again(surplus)]

    # --- generations --------------------------------------------------------------------------------------------------

    def _generation(self, number: int | None) -> Checkpoint:
        """Return the generation to work on: a new one if the last one ended on another occasion, or asked otherwise."""
        left = self.context.left
        if number is not None:
            # A deferral names the generation. One that this worker does not see must not be begun anew: all that was
            # asked and paid for would be asked again, only because a disk is slow or not shared.
            self._await_snapshot(left or Left(number))
            found = Checkpoint(self.context.checkpoint, number)
            while (found.end or {}).get("outcome") == "replaced":  # by another attempt, during the wait
                found = found.next_generation()
            return self._if_unchanged(found)
        if left is not None and left.host != self.context.host:
            self._await_snapshot(left)  # what this worker itself has written and does not see is gone
        latest = Checkpoint.latest(self.context.checkpoint)
        end = latest.end
        if end is not None:
            return latest if end.get("occasion") == self.context.occasion else latest.next_generation()
        return self._if_unchanged(latest)

    def _if_unchanged(self, checkpoint: Checkpoint) -> Checkpoint:
        """
        Return the generation, or the next one if it asked otherwise.

        Where only the source or the table's columns are others, its answers are wanted: its jobs are waited for first.
        So are those of a mapped index whose list may have changed: what it asked before (another prompt, another
        model), another index may be about to ask now, and which one does shows in none of their checkpoints yet.
        """
        header = checkpoint.snapshot
        if header is None or checkpoint.end is not None:
            return checkpoint
        is_same = header.get("fingerprint") == self.spec.fingerprint and not self._stands_for_other_rows(header)
        if is_same and not checkpoint.is_given_up:
            return checkpoint
        checkpoint.give_up(self.context.now())
        self._is_leaving = True
        if header.get("asked") == self.spec.request_fingerprint:
            log.warning("The run has changed since the input was read: once its jobs have ended, it is read anew.")
            return checkpoint
        if self.context.may_be_reordered:
            log.warning(
                "What is asked has changed since the input was read, and another index of this mapped task may ask "
                "now what this one asked: its jobs are not cancelled (%s). Once they have ended, the input is read "
                "anew. If no index wants their answers, cancel them, and the run goes on at once.",
                ", ".join(_job_names(checkpoint)) or "none",
            )
            return checkpoint
        log.warning("What is asked has changed since the input was read: its jobs are cancelled, it is read anew.")
        self._is_unwanted = bool(calls_in_doubt(checkpoint.notes()))
        if not self._is_unwanted:
            return self._replaced(checkpoint)
        self.jobs.cancel(_job_names(checkpoint))
        return checkpoint

    def _stands_for_other_rows(self, header: Mapping[str, Any]) -> bool:
        """Say whether a mapped list has changed, so that this index has other rows than were read for it."""
        before, now = header.get("rows_digest"), self.spec.rows_digest
        return self.context.may_be_reordered and bool(before and now) and before != now

    def _replaced(self, checkpoint: Checkpoint) -> Checkpoint:
        """End a generation that asked otherwise, with whatever of it still runs, and return the next one."""
        # The jobs are cancelled before the end is published. Who dies in between leaves an open generation, and the
        # next attempt cancels again; the other way round nobody would look at these jobs any more.
        failed = self.jobs.cancel(_job_names(checkpoint))
        failed += [name for name in self.jobs.cancel_again(leftover(checkpoint)[0]) if name not in failed]
        # A job that cannot be cancelled does not hold up the run: later attempts try again, and its manifest names it.
        ended = {"outcome": "replaced", "occasion": "replaced", "ended": self.context.now()}
        checkpoint.finish({**ended, "still_running": failed})
        remove_remote(self.context.client, checkpoint.notes()["collected"])
        self._is_leaving = self._is_unwanted = self._is_told = False
        return checkpoint.next_generation()

    def _await_snapshot(self, left: Left) -> None:
        """
        Wait until this worker sees what an earlier attempt left.

        :raises CheckpointLostError: If it does not within a minute.
        """
        checkpoint, waited = Checkpoint(self.context.checkpoint, left.generation), 0.0
        while not left.is_in(checkpoint.snapshot):
            if waited >= UNSEEN_SECONDS:
                raise CheckpointLostError(
                    f"This worker ({self.context.host}) does not see the checkpoint {checkpoint.folder.place}, which "
                    f"{left.host or 'another one'} wrote. Set checkpoint_path to a place that all workers share, such "
                    f"as object storage. A retry on {left.host or 'that worker'} goes on with it; a cleared task goes "
                    "on without it, and finds its jobs at the service."
                )
            self.context.sleep(5.0)
            waited += 5.0

    def left(self) -> Left | None:
        """Return what the next attempt has to see; None before the input is read."""
        header = self.checkpoint.snapshot
        return None if header is None else Left(self.checkpoint.number, str(header.get("host") or ""))

    def _tell(self) -> None:
        if not self._is_told and (left := self.left()) is not None:
            self._is_told = True
            self.context.on_checkpoint(left)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def proceed(self) -> Waiting | dict[str, Any]:
        """
        Go on until jobs have to be waited for, or the run has ended.

        :return: What to wait for, or the manifest.
        :raises RunFailedError: If the run has ended and its outcome is a failure; the outputs are published.
        :raises ConfigurationError: For what cannot work, before money is spent.
        """
        require_extra()
        remove_abandoned()
        self.twins.look()
        self._cancel_again()
        while True:
            # Before each step, so that nothing is begun for a task that somebody has marked.
            self.context.stop()
            self._tell()
            if self._is_unwanted and not calls_in_doubt(self.checkpoint.notes()):
                self._begin_anew()
            # Read anew each time: another attempt may have published a round or collected a job meanwhile.
            facts = self.reader.facts()
            step = (
                plan.leaving_step(facts, self._sought) if self._is_leaving else plan.next_step(facts, self.spec.policy)
            )
            log.debug("Next step: %r", step)
            is_last = isinstance(step, plan.WriteOutputs) or (isinstance(step, plan.Finished) and self._is_leaving)
            # A second job of a shard changes the facts, so the step is chosen again. Looked for where it matters: the
            # answers that are brought in may be those of the wrong job, and after the end nobody looks any more.
            if (is_last or isinstance(step, plan.Collect)) and self.twins.look():
                continue
            if is_last and self.context.now() < self.twins.in_doubt_until:
                log.info("A job of an earlier attempt may be listed late: the run goes on once it would be.")
                return Waiting(until=self.twins.in_doubt_until)
            if is_last:
                self.twins.check_looked()
            if isinstance(step, plan.Wait):
                # The wait reads the list only for shards in doubt (`is_over`).
                self.twins.update()
                return Waiting(tuple(shard.job for shard in step.shards), step.wake)
            if isinstance(step, plan.Finished) and self._is_leaving:
                self._begin_anew()
                continue
            if isinstance(step, plan.Finished):
                return self._result()
            waiting = self.carry_out(step)
            if waiting is not None:
                return waiting

    def _begin_anew(self) -> None:
        """End the generation that is left, and go on with the next one."""
        self.checkpoint = self._replaced(self.checkpoint)
        self._open()

    def _result(self) -> dict[str, Any]:
        end = self.checkpoint.end or {}
        if end.get("outcome") == "replaced":  # it has no outputs, and nothing of it may pass for success
            raise GeminiBatchError(
                f"Another attempt at this run went on with it and asks something else: {self.checkpoint.folder.place} "
                "is given up, and this attempt with it."
            )
        return RunOutcome.read(end).result()

    def carry_out(self, step: plan.Step) -> Waiting | None:
        """
        Have the effect of one step.

        :return: What to wait for, if the step could not be finished now.
        """
        # Folder and engine last one step: memory and disk that a large step took are free in the next.
        with step_folder() as folder, engine(folder) as database:
            work = Workspace(self.spec, self.context, self.checkpoint, database, folder)
            if isinstance(step, plan.TakeSnapshot):
                try:
                    _take_snapshot(work, self.jobs)
                except AskedElsewhereError as error:
                    log.info("%s", error)
                    return Waiting(until=error.until)
            elif isinstance(step, plan.CutRound):
                _cut_round(work, step, partial(self._caps.small_shards, self.jobs.listed))
            elif isinstance(step, plan.Submit):
                until = self._submitter.submit(work, step.shards)
                if until is not None:
                    return self._until(until)
            elif isinstance(step, plan.Adopt):
                until = self._submitter.adopt(work, step.shards, self._sought)
                if until is not None:
                    return self._until(until)
            elif isinstance(step, plan.Collect):
                collect(work, step.shard, self.reader.job(step.shard.job))
            elif isinstance(step, plan.AskFlex):
                until = ask_flex(work, step.shard, self._caps, self.jobs.listed() if has_caps(self.spec) else {})
                if until is not None:
                    return self._until(until)
            elif isinstance(step, plan.WriteOutputs):
                _write_outputs(work, self._cancel_again(self.reader.uncancelled))
        return None

    def _until(self, moment: float) -> Waiting:
        return Waiting(self.reader.live_jobs(), "any", None if math.isinf(moment) else moment)

    def is_over(self, waiting: Waiting) -> bool:
        """Read the jobs of a wait, and say whether it is over."""
        if waiting.until is not None and self.context.now() >= waiting.until:
            return True
        if self.twins.is_due and self.twins.look():
            return True
        ended = [self.reader.has_ended(name) for name in waiting.jobs]
        return bool(ended) and (any(ended) if waiting.wake == "any" else all(ended))

    # --- ended from outside -------------------------------------------------------------------------------------------

    def cancel(self) -> list[str]:
        """Cancel all jobs of the run; return the names of those that could not be."""
        return self.jobs.cancel(_job_names(self.checkpoint))

    def live_jobs(self) -> list[str]:
        """Return the names of the jobs that are not collected."""
        return _job_names(self.checkpoint)


def leftover(checkpoint: Checkpoint) -> tuple[list[str], float]:
    """
    Return the jobs that could not be cancelled when the generation before ended, and when that was.

    Its end names those of the generations before it, too, as far as they could not be cancelled by then.
    """
    before = next(checkpoint.older(), None)
    end = (before.end if before is not None else None) or {}
    names = (end.get("manifest") or {}).get("still_running") or end.get("still_running") or ()
    return list(names), float(end.get("ended") or 0.0)


def _job_names(checkpoint: Checkpoint) -> list[str]:
    notes, names = checkpoint.notes(), []
    for shard, found in notes["job"].items():
        collected = {note["job"]: note for note in notes["collected"].get(shard, ())}
        # Answers of a job that was cut short do not close its shard's other jobs: these may still run, and bill.
        if not any(map(is_whole, collected.values())):
            names += [str(note["job"]) for note in found if note["job"] not in collected]
    return list(dict.fromkeys(names))  # a job may be noted twice, by who sees it


def _take_snapshot(work: Workspace, jobs: RunJobs) -> None:
    """Read the input, after all that can be checked without it."""
    # The order is that of what a mistake costs: arguments, the model, the outputs, and only then the input, which may
    # take an hour to read.
    work.spec.check()
    check_on(work.spec, work.backend)
    work.context.client.check_model(work.spec.model)
    if work.spec.retry_tier == "flex":
        from airflow_provider_gemini_batch.run.flex import check_backend

        check_backend(work.context.client.backend)
    finisher = Finisher(work.spec, work.context, work.checkpoint, work.database, work.folder)
    finisher.check()
    older = None if work.context.history is None else Checkpoint.all(work.context.history)
    carrier = Carrier(
        work.spec, work.checkpoint, work.folder, work.context.reuse_tables, say=log.info, older=older,
        siblings=Siblings(work, jobs),
    )  # fmt: skip
    snapshot = take(
        work.context.source(), work.spec, work.checkpoint, work.database, work.folder, work.context.variables, carrier,
        log.warning, host=work.context.host, check=finisher.check_columns, count=partial(_count, work),
    )  # fmt: skip
    log.info("The input has %d rows; %d of them are in this run.", snapshot.total_rows, snapshot.rows)


def _count(work: Workspace, requests: Sequence[bytes]) -> Sequence[tuple[int, int]]:
    """Have the tokens of a few requests counted, where that may be."""
    if not work.context.counts_tokens:
        return ()
    rows = ((len(body) + KEY_BYTES, msgspec.json.decode(body)) for body in requests)
    return counted(work.context.client, work.spec.model, rows, log)


def _cut_round(work: Workspace, step: plan.CutRound, small: Callable[[int, int, Limits], Limits | None]) -> None:
    """Put what is to be asked into shards; *small* says how large the first ones may be under a cap."""
    cutter = RoundCutter(work.spec, work.checkpoint, work.snapshot, work.database, work.folder)
    limits = job_limits(work.spec, settings_for(work.spec, work.backend))
    header = cutter.cut(step.number, step.tier, limits, small)
    rows = sum(shard["rows"] for shard in header["shards"])
    if rows:
        count = len(header["shards"])
        way = "one by one" if step.tier == "flex" else f"in {count} job{'' if count == 1 else 's'}"
        log.info("Round %d asks %d rows, %s.", step.number, rows, way)
        size = sum(shard["bytes"] for shard in header["shards"])
        measure = measure_of(work.spec, rows, size, work.snapshot.counted, has_media=work.snapshot.has_media)
        found = work.context.prices.before(work.spec.kind, work.spec.model, measure)
        if found is not None:
            log.info("What it may cost: %s", found.line())
            work.context.on_estimate(found)


def _write_outputs(work: Workspace, unwanted: Sequence[str]) -> None:
    """
    Write the table everywhere, and end the generation.

    :param unwanted: Jobs that run on, as they could not be cancelled.
    """
    snapshot = work.snapshot
    files = [AnswerFile.read(note, 0) for note in snapshot.carried]
    notes = work.checkpoint.notes()["collected"]
    for shard, found in sorted(notes.items()):
        files += [AnswerFile.read(note, plan.round_of(shard)) for note in found]
    finisher = Finisher(work.spec, work.context, work.checkpoint, work.database, work.folder)
    outcome = finisher.finish(snapshot, files, notes, unwanted)
    ended = {"occasion": work.context.occasion, "ended": work.context.now()}
    work.checkpoint.finish({**outcome.header(), **ended})
    remove_remote(work.context.client, notes)
