# SPDX-License-Identifier: Apache-2.0
"""
The reconcile loop of a run: facts from the checkpoint, one step of the plan, its effect, again.

:meth:`Run.proceed` goes on until jobs have to be waited for, and says which; whoever waits (a trigger, a worker, a
notebook) calls it again. It may be called from any attempt on any worker: all it knows is in the checkpoint.
"""

from __future__ import annotations

import logging
import os
import tempfile
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.api.retry import QUOTA
from airflow_provider_gemini_batch.cost.budget import Budget, CostLimitError
from airflow_provider_gemini_batch.cost.estimate import InputMeasure
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    GeminiBatchError,
    NotFoundError,
    RateLimitedError,
    ResultsIncompleteError,
)
from airflow_provider_gemini_batch.files.folder import Folder
from airflow_provider_gemini_batch.lifecycle.submit import SubmitPolicy
from airflow_provider_gemini_batch.run import plan
from airflow_provider_gemini_batch.run.answers import AnswerWriter, Judge, judged_lines, passing, whole_job_failed
from airflow_provider_gemini_batch.run.checkpoint import Checkpoint, CheckpointLostError, Left
from airflow_provider_gemini_batch.run.digest import wire_key
from airflow_provider_gemini_batch.run.finish import Finisher, RunOutcome
from airflow_provider_gemini_batch.run.jobs import RunJobs, shard_digest
from airflow_provider_gemini_batch.run.merge import AnswerFile
from airflow_provider_gemini_batch.run.projection import Sampled
from airflow_provider_gemini_batch.run.requests import check_on, settings_for
from airflow_provider_gemini_batch.run.reuse import Carrier
from airflow_provider_gemini_batch.run.rounds import RoundCutter, job_limits
from airflow_provider_gemini_batch.run.row_numbers import AskedRows
from airflow_provider_gemini_batch.run.snapshot import Snapshot, take
from airflow_provider_gemini_batch.run.tables import engine, require_extra, rows_of, text
from airflow_provider_gemini_batch.times import epoch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.api.models import BackendName, BatchJob
    from airflow_provider_gemini_batch.run.context import RunContext
    from airflow_provider_gemini_batch.run.spec import RunSpec

log = logging.getLogger(__name__)

ANSWERS_LIVE = 40 * 3600.0
"""Seconds after a job's end within which its answers are not gone: the service keeps them for 48 hours."""

UNSEEN_SECONDS = 60.0
"""How long a checkpoint that another worker wrote may take to be seen: slow network disks show a file late."""


class _ClaimedError(GeminiBatchError):
    """Another attempt is about to create the job of a shard."""

    def __init__(self, until: float) -> None:
        super().__init__("Another attempt is submitting the same rows.")
        self.until = until


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
        self.owner = uuid.uuid4().hex
        self.free_claims: set[str] = set()
        """Claims of this attempt whose create call was refused for certain."""
        self._seen: dict[str, BatchJob] = {}
        self._tries = 0
        self._is_told = False
        self.checkpoint = self._generation(generation)

    # --- generations --------------------------------------------------------------------------------------------------

    def _generation(self, number: int | None) -> Checkpoint:
        """Return the generation to work on: a new one if the last one ended on another occasion, or asked otherwise."""
        left = self.context.left
        if number is not None:
            self._await_snapshot(left or Left(number))
            return Checkpoint(self.context.checkpoint, number)
        if left is not None and left.host != self.context.host:
            self._await_snapshot(left)  # what this worker itself has written and does not see is gone
        latest = Checkpoint.latest(self.context.checkpoint)
        end = latest.end
        if end is not None:
            return latest if end.get("occasion") == self.context.occasion else latest.next_generation()
        header = latest.snapshot
        if header is not None and header.get("fingerprint") != self.spec.fingerprint:
            log.warning("What is asked has changed since the input was read: its jobs are cancelled, it is read anew.")
            self.jobs.cancel(_job_names(latest))
            latest.finish({"outcome": "replaced", "occasion": "replaced", "ended": self.context.now()})
            return latest.next_generation()
        return latest

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
        while True:
            self.context.stop()
            self._tell()
            step = plan.next_step(self.facts(), self.spec.policy)
            log.debug("Next step: %r", step)
            if isinstance(step, plan.Wait):
                return Waiting(tuple(shard.job for shard in step.shards), step.wake)
            if isinstance(step, plan.Finished):
                return RunOutcome.read(self.checkpoint.end or {}).result()
            waiting = self._carry_out(step)
            if waiting is not None:
                return waiting

    def _carry_out(self, step: plan.Step) -> Waiting | None:
        with tempfile.TemporaryDirectory(prefix="gemini-batch-run-") as folder, engine(folder) as database:
            work = _Work(self, database, folder)
            if isinstance(step, plan.TakeSnapshot):
                work.take_snapshot()
            elif isinstance(step, plan.CutRound):
                work.cut_round(step)
            elif isinstance(step, plan.Submit):
                return work.submit(step.shards)
            elif isinstance(step, plan.Collect):
                work.collect(step.shard)
            elif isinstance(step, plan.AskFlex):
                work.ask_flex(step.shard)
            elif isinstance(step, plan.WriteOutputs):
                work.write_outputs()
        return None

    def facts(self) -> plan.Facts:
        """Return what the checkpoint and the service say now."""
        headers = self.checkpoint.rounds()  # these name notes that may be listed late
        notes = self.checkpoint.notes()
        rounds = []
        for header in headers:
            shards = [self._shard(entry, notes) for entry in header["shards"]]
            rounds.append(plan.Round(int(header["number"]), tuple(shards), header.get("tier", "batch")))
        return plan.Facts(self.checkpoint.snapshot is not None, tuple(rounds), self.checkpoint.end is not None)

    def _shard(self, entry: Mapping[str, Any], notes: Mapping[str, Mapping[str, Any]]) -> plan.Shard:
        shard = plan.Shard(str(entry["id"]), int(entry["rows"]))
        if notes["collected"].get(shard.id):
            return replace(shard, state="collected")
        names = sorted((note["created"] or "", note["job"]) for note in notes["job"].get(shard.id, ()))
        if not names:
            return shard
        name = names[0][1]
        job = self._look(name)
        ended = job is None or job.is_done
        return replace(shard, job=name, state="ended" if ended else "live")

    def _look(self, name: str) -> BatchJob | None:
        """Look at a job, once in a while: a loop that collects five jobs need not ask twenty-five times."""
        known = self._seen.get(name)
        if known is None or known.is_running:
            job = self.jobs.get(name)
            if job is None:
                return None
            known = self._seen[name] = job
            self._end_if_late(job)
        return known

    def last_look(self, name: str) -> BatchJob | None:
        """Return a job as this process saw it last, without asking; None if it never did."""
        return self._seen.get(name)

    def _end_if_late(self, job: BatchJob) -> None:
        """Cancel a job whose time is up; its rows are asked again in the next round."""
        if (
            job.is_running
            and job.state.value != "CANCELLING"
            and self.context.now() >= self.context.limits.ends_at(job)
        ):
            log.warning("%s takes longer than its timeout allows and is cancelled; its rows are asked again.", job.name)
            self.context.client.cancel_batch(job.name)

    def next_limit(self, waiting: Waiting) -> float:
        """Return the UTC epoch second at which the first of the jobs waited for has had its time."""
        known = [self._seen[name] for name in waiting.jobs if name in self._seen]
        return min((self.context.limits.ends_at(job) for job in known if job.is_running), default=float("inf"))

    def is_over(self, waiting: Waiting) -> bool:
        """Look at the jobs of a wait, and say whether it is over."""
        if waiting.until is not None and self.context.now() >= waiting.until:
            return True
        ended = [self._has_ended(name) for name in waiting.jobs]
        return bool(ended) and (any(ended) if waiting.wake == "any" else all(ended))

    def _has_ended(self, name: str) -> bool:
        job = self._look(name)
        return job is None or job.is_done

    def progress(self) -> tuple[int, int]:
        """Return how many rows are done, and how many there are."""
        notes = self.checkpoint.notes()
        snapshot = self.checkpoint.snapshot or {}
        done = sum(sum(note["counts"].values()) for found in notes["collected"].values() for note in found)
        done += sum(sum(note["counts"].values()) for note in snapshot.get("carried") or ())
        for shard, found in notes["job"].items():
            job = self._seen.get(found[0]["job"])
            if shard not in notes["collected"] and job is not None:
                done += job.stats.done or 0
        total = int(snapshot.get("rows") or 0)
        return min(done, total), total

    def plan(self) -> dict[str, Any]:
        """
        Return what would be asked, without asking: rows, jobs, and what they may cost at most.

        What is read stays in a folder of its own, so that a run that follows reads the input anew.
        """
        require_extra()
        with tempfile.TemporaryDirectory(prefix="gemini-batch-plan-") as place:
            context = replace(self.context, checkpoint=Folder(place), run_claim="")
            trial = Run(self.spec, context)
            trial._carry_out(plan.TakeSnapshot())
            trial._carry_out(plan.CutRound(1))
            snapshot, (header,) = Snapshot.read(trial.checkpoint.snapshot or {}), trial.checkpoint.rounds()
            rows = sum(shard["rows"] for shard in header["shards"])
            costs = [trial.estimate(shard) for shard in header["shards"]]
            known = [cost for cost in costs if cost is not None]
            return {
                "total": snapshot.rows,
                "input_rows": snapshot.total_rows,
                "rows_to_ask": rows,
                "rows_reused": snapshot.rows - rows,
                "jobs": len(header["shards"]),
                "waves": -(-len(header["shards"]) // self.spec.max_jobs),
                "input_bytes": sum(shard["bytes"] for shard in header["shards"]),
                "cost_at_most": sum(known) if len(known) == len(costs) else None,
            }

    def estimate(self, entry: Mapping[str, Any]) -> float | None:
        """Return what a shard may cost at most, or None where the price is not known."""
        # Rows without a template may set a limit of their own, above the run's.
        config = (self.spec.generation_config or {}) if self.spec.prompt is not None else {}
        limit = config.get("maxOutputTokens", config.get("max_output_tokens"))
        return self.context.prices.at_most(
            self.spec.kind,
            self.spec.model,
            rows=int(entry["rows"]),
            input_bytes=int(entry["bytes"]),
            max_output_tokens=limit if isinstance(limit, int) else None,
            tier="batch",
        )

    # --- ended from outside -------------------------------------------------------------------------------------------

    def cancel(self) -> list[str]:
        """Cancel all jobs of the run; return the names of those that could not be."""
        return self.jobs.cancel(_job_names(self.checkpoint))

    def live_jobs(self) -> list[str]:
        """Return the names of the jobs that are not collected."""
        return _job_names(self.checkpoint)

    def generation_number(self) -> int:
        """Return the number of the generation that is worked on."""
        return self.checkpoint.number


def _job_names(checkpoint: Checkpoint) -> list[str]:
    notes = checkpoint.notes()
    collected = set(notes["collected"])
    return [str(note["job"]) for shard, found in notes["job"].items() if shard not in collected for note in found]


class _Work:
    """The effects of steps, with an engine and a folder for what is being written."""

    def __init__(self, run: Run, database: DuckDBPyConnection, folder: str) -> None:
        self.run = run
        self.spec = run.spec
        self.context = run.context
        self.checkpoint = run.checkpoint
        self.database = database
        self.folder = folder

    @property
    def _backend(self) -> BackendName:
        return "vertex_ai" if self.context.client.settings.backend == "vertex_ai" else "gemini"

    @property
    def snapshot(self) -> Snapshot:
        """The generation's snapshot."""
        header = self.checkpoint.snapshot
        if header is None:
            raise CheckpointLostError(f"The snapshot of {self.checkpoint.folder.place} cannot be read any more.")
        return Snapshot.read(header)

    def take_snapshot(self) -> None:
        """Read the input, after all that can be checked without it."""
        self.spec.check()
        check_on(self.spec, self._backend)
        if self.spec.retry_tier == "flex":
            from airflow_provider_gemini_batch.run.flex import check_backend

            check_backend(self._backend)
        finisher = Finisher(self.spec, self.context, self.checkpoint, self.database, self.folder)
        finisher.check()
        carrier = Carrier(self.spec, self.checkpoint, self.folder, self.context.reuse_tables, say=log.info)
        source = self.context.source()
        snapshot = take(
            source,
            self.spec,
            self.checkpoint,
            self.database,
            self.folder,
            self.context.variables,
            carrier,
            log.warning,
            self.context.host,
        )
        finisher.check_columns(snapshot)
        log.info("The input has %d rows; %d get an answer.", snapshot.total_rows, snapshot.rows)

    def cut_round(self, step: plan.CutRound) -> None:
        """Put what is to be asked into shards."""
        cutter = RoundCutter(self.spec, self.checkpoint, self.snapshot, self.database, self.folder)
        limits = job_limits(self.spec, settings_for(self.spec, self._backend))
        header = cutter.cut(step.number, step.tier, limits)
        rows = sum(shard["rows"] for shard in header["shards"])
        if rows:
            log.info("Round %d asks %d rows in %d shards.", step.number, rows, len(header["shards"]))

    def _entry(self, shard: plan.Shard) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a shard's round and its entry there."""
        for header in self.checkpoint.rounds():
            for entry in header["shards"]:
                if entry["id"] == shard.id:
                    return header, entry
        raise CheckpointLostError(f"The shard {shard.id} is in no round of {self.checkpoint.folder.place}.")

    def expected(self, shard: plan.Shard) -> AskedRows:
        """Return the rows of a shard."""
        header, entry = self._entry(shard)
        narrow = self.checkpoint.folder.fetch(self.snapshot.narrow, self.folder)
        within = f"n BETWEEN {int(entry['first'])} AND {int(entry['last'])}"
        query = f"SELECT n, d FROM read_parquet({text(narrow)}) WHERE {within} ORDER BY n"
        if header.get("rows"):
            asked = self.checkpoint.folder.fetch(header["rows"], self.folder)
            query = (
                f"SELECT n, d FROM (SELECT n, d FROM read_parquet({text(narrow)}) WHERE {within}) "
                f"JOIN (SELECT n FROM read_parquet({text(asked)}) WHERE {within}) USING (n) ORDER BY n"
            )
        return AskedRows(rows_of(self.database, query))

    # --- submitting ---------------------------------------------------------------------------------------------------

    def submit(self, shards: Sequence[plan.Shard]) -> Waiting | None:
        """Find or create the jobs of shards; stop at the first that there is no quota for."""
        looked_at = self.context.now()
        present = self.run.jobs.by_digest()
        notes = self.checkpoint.notes()
        for shard in shards:
            expected = self.expected(shard)
            keys = (wire_key(n, digest.hex()) for n, digest in expected)
            digest = shard_digest(self.checkpoint.number, shard.id, keys)
            known = present.get(digest, [])
            if known:
                self._adopt(shard, known)
                continue
            try:
                self._afford(shard)
                self._create(shard, expected, digest, notes["intent"].get(shard.id, ()), looked_at)
            except _ClaimedError as claimed:
                log.info("%s: another attempt is submitting it; looking for its job soon.", shard.id)
                live = [one.job for found in self.run.facts().rounds for one in found.shards if one.state == "live"]
                return Waiting(tuple(live), "any", claimed.until)
            except CostLimitError as error:
                self._give_up(shard, expected, str(error))
            except RateLimitedError as error:
                return self._without_quota(error)
        self.run._tries = 0
        return None

    def _adopt(self, shard: plan.Shard, known: Sequence[BatchJob]) -> None:
        job, *others = known
        log.info("%s: %s (%s) was submitted by an earlier attempt.", shard.id, job.name, job.state.value)
        for twin in others:
            if twin.is_running:
                log.warning("%s is a twin of %s and is cancelled.", twin.name, job.name)
                self.context.client.cancel_batch(twin.name)
        self._know(shard, job)

    def _know(self, shard: plan.Shard, job: BatchJob) -> None:
        self.checkpoint.note("job", shard.id, {"job": job.name, "created": job.create_time, "shard": shard.id})
        self.context.on_job(job.name)

    def _create(
        self,
        shard: plan.Shard,
        expected: AskedRows,
        digest: str,
        intents: Sequence[Mapping[str, Any]],
        looked_at: float,
    ) -> None:
        intent_at = max((float(note["at"]) for note in intents), default=None)
        path = os.path.join(self.folder, f"{shard.id}.jsonl")
        self._write_input(shard, expected, path)

        claims: list[str] = []

        def remember(what: str, value: str) -> None:
            if what == "intent":
                self.context.stop()
                claims.append(self._claim(shard, looked_at))
                self.checkpoint.note("intent", shard.id, {"at": self.context.now(), "host": self.context.host})
            elif what == "job":
                self.context.on_job(value)

        try:
            job = self.run.jobs.submit(self.spec, path, digest, intent_at=intent_at, remember=remember)
        except RateLimitedError:
            self.run.free_claims.update(claims)
            raise
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)
        self._know(shard, job)

    def _claim(self, shard: plan.Shard, looked_at: float) -> str:
        """
        Make sure that no job of this shard may come of another create call; called right before each.

        Of two attempts that come here at once, one creates the claim. The other one waits for as long as the first
        one's job may need to show up, and then looks at the list again: whoever died after its claim has a job there,
        or never will. The same holds for this attempt's own claim if the reply to its create call was lost.

        :param looked_at: When the list was read in which this shard had no job.
        :return: The claim.
        """
        policy = self.context.submit_policy or SubmitPolicy()
        patience = sum(policy.reconcile) + policy.in_flight
        number = 1
        while True:
            name = f"claim-{shard.id}-{number}.json"
            mine = {
                "owner": self.run.owner,
                "call": uuid.uuid4().hex,
                "at": self.context.now(),
                "host": self.context.host,
            }
            claim = self.checkpoint.create(name, mine)
            if claim.get("call") == mine["call"]:
                return name
            until = float(claim["at"]) + patience
            # A claim of this attempt's is as good as new if its create call was refused.
            is_refused = claim["owner"] == self.run.owner and name in self.run.free_claims
            if not is_refused and looked_at < until:
                raise _ClaimedError(until)
            number += 1

    def _write_input(self, shard: plan.Shard, expected: AskedRows, path: str) -> None:
        _, entry = self._entry(shard)
        requests = self.snapshot.requests(self.checkpoint, self.folder, int(entry["first"]), int(entry["last"]))
        with open(path, "wb", buffering=1 << 20) as out:
            for n, digest, body in requests:
                if n in expected:
                    out.write(b'{"key":"%b","request":%b}\n' % (wire_key(n, digest).encode(), body))

    def _afford(self, shard: plan.Shard) -> None:
        """Refuse a shard that may cost more, or send more tokens, than is left."""
        if self.spec.max_cost is None and self.spec.max_input_tokens is None:
            return
        _, entry = self._entry(shard)
        notes = self.checkpoint.notes()
        if self.spec.max_input_tokens is not None:
            sent = [self._entry(plan.Shard(name, 0))[1] for name in notes["job"]]
            tokens = sum(InputMeasure(int(one["rows"]), int(one["bytes"])).tokens.high or 0 for one in (*sent, entry))
            if tokens > self.spec.max_input_tokens:
                raise CostLimitError(
                    f"max_input_tokens={self.spec.max_input_tokens}: with what is next, the run may send {tokens:.0f} "
                    "tokens. Raise it, or ask fewer rows (sample=)."
                )
        spent = sum(float(note.get("cost") or 0) for found in notes["collected"].values() for note in found)
        flying = [name for name in notes["job"] if name not in notes["collected"]]
        reserved = sum(self.run.estimate(self._entry(plan.Shard(name, 0))[1]) or 0.0 for name in flying)
        Budget(self.spec.max_cost, spent, reserved).check(self.run.estimate(entry), self.spec.model)

    def _without_quota(self, error: RateLimitedError) -> Waiting:
        self.run._tries += 1
        pause = QUOTA.delay_after(error, self.run._tries) or QUOTA.cap
        live = [shard for one in self.run.facts().rounds for shard in one.shards if shard.state == "live"]
        log.warning("No quota for a job now; next try in %.0f s. %s", pause, error)
        return Waiting(tuple(shard.job for shard in live), "any", self.context.now() + pause)

    # --- collecting ---------------------------------------------------------------------------------------------------

    def collect(self, shard: plan.Shard) -> None:
        """Bring in the answers of a job, and publish them."""
        expected = self.expected(shard)
        job = self.run._look(shard.job)
        judge = Judge(
            self.spec, self.context.prices, tier="batch", job_name=shard.job, when=job.end_time if job else None
        )
        self._store(shard, self._records(job, shard, expected, judge), job)
        if judge.replaced_surrogates:
            log.warning("%d answers held half a character, which was replaced.", judge.replaced_surrogates)
        if job is not None:
            self._remove_remote(job)
        self._say_estimate(shard)

    def _say_estimate(self, shard: plan.Shard) -> None:
        """Say what the answers so far let the rest of their round cost."""
        header, _ = self._entry(shard)
        collected = self.checkpoint.notes()["collected"]
        notes = [note for entry in header["shards"] for note in collected.get(entry["id"], ())[:1]]
        line = Sampled.of_notes(notes).so_far(sum(int(entry["rows"]) for entry in header["shards"]))
        if line is not None:
            log.info("%s", line)

    def _records(self, job: BatchJob | None, shard: plan.Shard, expected: AskedRows, judge: Judge) -> Iterator[Any]:
        if job is None:
            return whole_job_failed("missing", None, f"{shard.job} is gone: it was deleted.", expected, judge)
        if job.output is not None or job.is_succeeded:
            try:
                # Of a job that succeeded, answers may appear a while after its end: the reader waits for them.
                lines = self.context.client.result_lines(job)
                first = next(lines, None)
                return judged_lines(_whole(_chained(first, lines), job), expected, judge)
            except NotFoundError:
                if job.is_succeeded and self.context.now() - (epoch(job.end_time) or 0.0) < ANSWERS_LIVE:
                    raise  # not there yet, not gone: a retry reads anew
                return whole_job_failed("missing", None, f"The answers of {job.name} are gone.", expected, judge)
            except (ConfigurationError, GeminiBatchError):
                if job.is_succeeded:
                    raise
        reason = str(job.error.message) if job.error else "the service gave no reason"
        code = job.error.code if job.error else None
        if job.state.value == "EXPIRED":
            code = code or 4
        elif job.state.value == "CANCELLED":
            code = code or 1
        return whole_job_failed("failed", code, f"the job ended {job.state.value}: {reason}", expected, judge)

    def _store(self, shard: plan.Shard, records: Iterator[Any], job: BatchJob | None) -> None:
        with AnswerWriter(self.folder, f"collected-{shard.id}") as writer:
            for record, digest, cost in records:
                writer.add(record, digest, passing=passing(record), cost=cost)
            facts = writer.finish(self.checkpoint, self.database)
        state = job.state.value if job is not None else "GONE"
        self.checkpoint.note("collected", shard.id, {**facts, "shard": shard.id, "job": shard.job, "state": state})
        counts = ", ".join(f"{count} {status}" for status, count in facts["counts"].items())
        log.info("%s: collected %s (%s).", shard.id, shard.job or "answers", counts)

    def _give_up(self, shard: plan.Shard, expected: AskedRows, reason: str) -> None:
        """Close a shard that is not asked."""
        log.warning("%s is not asked: %s", shard.id, reason)
        judge = Judge(self.spec, self.context.prices, tier="batch", job_name=None, when=None)
        with AnswerWriter(self.folder, f"refused-{shard.id}") as writer:
            for record, digest, _ in whole_job_failed("missing", None, f"not asked: {reason}", expected, judge):
                writer.add(record, digest, passing=False, cost=0.0, asked=False)
            facts = writer.finish(self.checkpoint, self.database)
        self.checkpoint.note("collected", shard.id, {**facts, "shard": shard.id, "job": "", "refused": reason})

    def _remove_remote(self, job: BatchJob) -> None:
        """Remove a collected job's rows and answers from Google; what stays is a nuisance, not a failure."""
        client = self.context.client
        places = [job.input_place] if job.input_place else []
        with suppress(GeminiBatchError):
            if job.output is not None and job.output.kind == "gcs":
                places += [file.name for file in client.all_files(prefix=job.output.place.rstrip("/") + "/")]
        for place in places:
            with suppress(GeminiBatchError):
                client.delete_file(place)

    def ask_flex(self, shard: plan.Shard) -> None:
        """Ask a shard's rows one by one."""
        from airflow_provider_gemini_batch.run.flex import ask

        expected = self.expected(shard)
        judge = Judge(self.spec, self.context.prices, tier="flex", job_name=None, when=None)
        _, entry = self._entry(shard)
        requests = self.snapshot.requests(self.checkpoint, self.folder, int(entry["first"]), int(entry["last"]))
        wanted = ((n, digest, msgspec.json.decode(body)) for n, digest, body in requests if n in expected)
        self._store(shard, ask(self.context.client, self.spec.model, wanted, judge), None)

    # --- the end ------------------------------------------------------------------------------------------------------

    def write_outputs(self) -> None:
        """Write the table everywhere, and end the generation."""
        files = [AnswerFile.read(note, 0) for note in self.snapshot.carried]
        notes = self.checkpoint.notes()["collected"]
        for shard, found in sorted(notes.items()):
            number = int(shard[1:].split(".", 1)[0])
            files += [AnswerFile.read(note, number) for note in found]
        finisher = Finisher(self.spec, self.context, self.checkpoint, self.database, self.folder)
        outcome = finisher.finish(self.snapshot, files, notes)
        ended = {"occasion": self.context.occasion, "ended": self.context.now()}
        self.checkpoint.finish({**outcome.header(), **ended})


def _whole(lines: Iterator[Any], job: BatchJob) -> Iterator[Any]:
    """
    Yield a job's result lines.

    :raises ResultsIncompleteError: After the last one, if they are fewer than the job counts.
    """
    count = 0
    for line in lines:
        count += 1
        yield line
    # Rows that the service lost are in no count, and are asked again; the number of rows alone says nothing here.
    counted = job.stats.done if job.is_succeeded else None
    if counted is not None and count < counted:
        raise ResultsIncompleteError(
            f"{job.name} has {count} answers and counts {counted}; nothing of it was kept. A retry reads them anew."
        )


def _chained(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    if first is not None:
        yield first
    yield from rest
