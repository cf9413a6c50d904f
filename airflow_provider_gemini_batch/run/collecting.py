# SPDX-License-Identifier: Apache-2.0
"""How do answers get into the checkpoint? One shard at a time, each closed by one note once its answers are stored."""

# A shard is closed by the answers of its job, by those of calls one by one (`retry_tier="flex"`), or by the reason why
# it was not asked. Calls one by one leave no trace at the service, so that their answers are kept as they come, in
# parts: notes marked `open` name answers, and close nothing. Whoever goes on asks the other rows alone. Example: 500
# rows, and a part every 20 s; a worker that dies loses the answers of the last 20 s, and eight that were under way.

from __future__ import annotations

import logging
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.cost.budget import CostLimitError
from airflow_provider_gemini_batch.errors import (
    AuthError,
    ConfigurationError,
    GeminiBatchError,
    NotFoundError,
    ResultsIncompleteError,
)
from airflow_provider_gemini_batch.lifecycle.cut_short import CANCELLED
from airflow_provider_gemini_batch.rows.results import is_foreign, is_keyless_error
from airflow_provider_gemini_batch.run.answers import (
    AnswerWriter,
    Judge,
    Repeated,
    judged_lines,
    passing,
    whole_job_failed,
)
from airflow_provider_gemini_batch.run.budget import Caps, WaitForCostError, has_caps
from airflow_provider_gemini_batch.run.projection import Sampled
from airflow_provider_gemini_batch.run.row_numbers import AskedRows
from airflow_provider_gemini_batch.run.tables import rows_of, text
from airflow_provider_gemini_batch.times import epoch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.client.client import GeminiBatchClient
    from airflow_provider_gemini_batch.run import plan
    from airflow_provider_gemini_batch.run.workspace import Workspace

log = logging.getLogger(__name__)

ANSWERS_LIVE = 40 * 3600.0
"""Seconds after a job's end within which its answers are not gone: the service keeps them for 48 hours."""
ANSWERS_SETTLE = 6 * 3600.0
"""Seconds after a job's end from which fewer answers than it counts are all there will be: a run has to end."""

PART_SECONDS = 20.0
"""Seconds after which answers of calls one by one are kept: what a worker that dies may lose."""


def collect(work: Workspace, shard: plan.Shard, job: BatchJob | None) -> None:
    """
    Bring in the answers of a job that has ended, and publish them.

    :param job: As it was read last; None if it is gone.
    """
    expected = work.expected(shard)
    judge = Judge(work.spec, work.context.prices, tier="batch", job_name=shard.job, when=job.end_time if job else None)
    _store(work, shard, _records(work, job, shard, expected, judge), judge, job)
    if judge.replaced_surrogates:
        log.warning("%d answers held half a character, which was replaced.", judge.replaced_surrogates)
    _say_estimate(work, shard)


def ask_flex(work: Workspace, shard: plan.Shard, caps: Caps, listed: Mapping[str, BatchJob]) -> float | None:
    """
    Ask a shard's rows one by one.

    :param listed: The run's jobs as the service lists them, by name; a cap counts what they bill.
    :return: UTC epoch second at which to try again, where the cap has room only then; None if the shard is dealt with.
    """
    from airflow_provider_gemini_batch.run.flex import ask

    work.checkpoint.check_goes_on()
    expected = work.expected(shard)
    kept = _kept_rows(work, shard)
    entry = {**work.entry(shard.id)[1], "rows": len(expected) - len(kept)}
    try:
        caps.check(entry, listed)
    except WaitForCostError as full:
        log.info("%s waits: %s", shard.id, full)
        return full.until
    except CostLimitError as error:
        close_unasked(work, shard, AskedRows(row for row in expected if row[0] not in kept), str(error))
        return None
    # A call of the tier flex leaves no trace at the service. What an attempt had asked before it died is known from
    # this note alone, and counts against the caps in full, but for the answers that it kept.
    claim = uuid.uuid4().hex
    if has_caps(work.spec):
        made = {"at": work.context.now(), "host": work.context.host, "claim": claim, "flex": True}
        work.checkpoint.note("intent", shard.id, {**made, "rows": entry["rows"]})
    when = datetime.fromtimestamp(work.context.now(), UTC).isoformat()
    judge = Judge(work.spec, work.context.prices, tier="flex", job_name=None, when=when)
    requests = work.requests(shard, expected)
    wanted = ((n, digest, msgspec.json.decode(body)) for n, digest, body in requests if n not in kept)
    _store_in_parts(work, shard, ask(work.context.client, work.spec.model, wanted, judge), judge, claim)
    return None


def _kept_rows(work: Workspace, shard: plan.Shard) -> set[int]:
    """Return the rows of a shard that an earlier attempt has asked one by one, and kept."""
    parts = [note for note in work.checkpoint.notes()["collected"].get(shard.id, ()) if note.get("open")]
    files = [text(work.checkpoint.folder.fetch(str(note["outcomes"]), work.folder)) for note in parts]
    if not files:
        return set()
    return {int(row[0]) for row in rows_of(work.database, f"SELECT n FROM read_parquet([{', '.join(files)}])")}


def _store_in_parts(work: Workspace, shard: plan.Shard, records: Iterator[Any], judge: Judge, claim: str) -> None:
    """
    Keep answers as they come; the last part closes the shard.

    :param claim: Names this attempt's calls, for the caps.
    :raises GeminiBatchError: What ends the calls before the last one; the answers before it are kept.
    """
    is_last = False
    while not is_last:
        fault: Exception | None = None
        with AnswerWriter(work.folder, f"collected-{shard.id}") as writer:
            try:
                is_last = _write_part(work, records, writer)
            except Exception as error:
                fault = error
            facts = writer.finish(work.checkpoint, work.database)
        noted: dict[str, Any] = {"shard": shard.id, "job": "", "state": "FLEX", "claim": claim}
        if not is_last:
            # A refused key is heard of once no call is under way any more: nothing of this attempt is in doubt.
            noted |= {"open": True, "is_over": isinstance(fault, AuthError)}
        work.checkpoint.note("collected", shard.id, {**facts, **noted, "single_calls": judge.single_calls})
        judge.single_calls = {}
        counts = ", ".join(f"{count} {status}" for status, count in facts["counts"].items())
        log.info("Collected answers (%s): %s.", shard.id, counts or "none")
        if fault is not None:
            raise fault


def _write_part(work: Workspace, records: Iterator[Any], writer: AnswerWriter) -> bool:
    """Write the answers of the next seconds; say whether they were the last ones."""
    begun = work.context.now()
    while not writer.longest or work.context.now() - begun < PART_SECONDS:
        work.context.stop()
        found = next(records, None)
        if found is None:
            return True
        record, digest, cost = found
        writer.add(record, digest, passing=passing(record), cost=cost)
    return False


def close_unasked(work: Workspace, shard: plan.Shard, expected: AskedRows, reason: str) -> None:
    """Close a shard that is not asked; its rows get *reason* as their error."""
    log.warning("%s is not asked: %s", shard.id, reason)
    judge = Judge(work.spec, work.context.prices, tier="batch", job_name=None, when=None)
    with AnswerWriter(work.folder, f"refused-{shard.id}") as writer:
        for record, digest, *_ in whole_job_failed("missing", None, f"not asked: {reason}", expected, judge):
            writer.add(record, digest, passing=False, cost=0.0, asked=False)
        facts = writer.finish(work.checkpoint, work.database)
    work.checkpoint.note("collected", shard.id, {**facts, "shard": shard.id, "job": "", "refused": reason})


def _records(
    work: Workspace, job: BatchJob | None, shard: plan.Shard, expected: AskedRows, judge: Judge
) -> Iterator[Any]:
    if job is None:
        return whole_job_failed("missing", None, f"{shard.job} is gone: it was deleted.", expected, judge)
    if job.output is not None or job.is_succeeded:
        try:
            # Of a job that succeeded, answers may appear a while after its end: the reader waits for them.
            # Vertex AI names an output directory also for some jobs that failed, so that here an error is one of a job
            # that succeeded alone.
            lines = work.context.client.result_lines(job)
            # The reader is lazy: what is wrong with the place shows at the first line, and has to show inside this
            # `try`.
            first = next(lines, None)
            repeated = Repeated()
            whole = _whole(_chained(first, lines), job, work.context.now(), len(expected), repeated)
            return judged_lines(whole, expected, judge, repeated)
        except NotFoundError:
            if job.is_succeeded and _since_end(job, work.context.now()) < ANSWERS_LIVE:
                raise  # not there yet, not gone: a retry reads anew
            return whole_job_failed("missing", None, f"The answers of {job.name} are gone.", expected, judge)
        except (ConfigurationError, GeminiBatchError):
            if job.is_succeeded:
                raise
    reason = str(job.error.message) if job.error else "the service gave no reason"
    code = job.error.code if job.error else None
    # The service may give such an end no code. These two say "passing" (`plan.PASSING_CODES`): the rows are asked
    # again.
    if job.state.value == "EXPIRED":
        code = code or 4
    elif job.state.value == "CANCELLED":
        code = code or 1
    return whole_job_failed("failed", code, f"the job ended {job.state.value}: {reason}", expected, judge)


def _store(work: Workspace, shard: plan.Shard, records: Iterator[Any], judge: Judge, job: BatchJob | None) -> None:
    cancelled = 0
    with AnswerWriter(work.folder, f"collected-{shard.id}") as writer:
        for record, digest, cost, is_first in records:
            cancelled += record.c == CANCELLED
            writer.add(record, digest, passing=passing(record), cost=cost, asked=is_first)
        facts = writer.finish(work.checkpoint, work.database)
    state = job.state.value if job is not None else "GONE"
    lost = _lost(shard, job, facts["counts"])
    if lost:
        log.warning("%s: up to %d answers of %s may be billed, and are lost.", shard.id, lost, shard.job)
    noted = {
        "shard": shard.id,
        "job": shard.job,
        "state": state,
        "lost": lost,
        "remote": _remote(job),
        "single_calls": judge.single_calls,
        "cut_short": bool(cancelled),  # another job of the same rows, if there is one, goes on
    }
    # Last: this note closes the shard. Who dies before it leaves files that nobody names, and the job is read once
    # more.
    work.checkpoint.note("collected", shard.id, {**facts, **noted})
    counts = ", ".join(f"{count} {status}" for status, count in facts["counts"].items())
    log.info("Collected %s (%s): %s.", shard.job, shard.id, counts)


def _lost(shard: plan.Shard, job: BatchJob | None, counts: Mapping[str, int]) -> int:
    """
    Return how many answers a job may have made, and billed, that nobody can read any more: an upper bound.

    A cancelled job that shows answers shows all it made, and one that never ran has made none. One that expired, or was
    deleted, shows none.
    """
    if job is not None and job.never_ran:
        return 0
    if job is None:
        return shard.rows
    answered = sum(counts.get(name, 0) for name in ("succeeded", "invalid", "blocked"))
    if job.state.value in ("EXPIRED", "CANCELLED") and not answered:
        return shard.rows
    if job.is_succeeded:  # it counts rows that it has no line of
        lines = shard.rows - counts.get("missing", 0)
        return max(0, min(shard.rows, _answers_of(job, has_some=bool(lines)) or 0) - lines)
    return max(0, (job.stats.succeeded or 0) - answered)


def _say_estimate(work: Workspace, shard: plan.Shard) -> None:
    """Say what the answers so far let the rest of their round cost."""
    header, _ = work.entry(shard.id)
    collected = work.checkpoint.notes(look=False)["collected"]
    notes = [note for entry in header["shards"] for note in collected.get(entry["id"], ())[:1]]
    line = Sampled.of_notes(notes).so_far(sum(int(entry["rows"]) for entry in header["shards"]))
    if line is not None:
        log.info("%s", line)


def _remote(job: BatchJob | None) -> dict[str, str]:
    """Return where a job's rows and answers lie at Google, for :func:`remove_remote`."""
    if job is None:
        return {}
    output = job.output.place if job.output is not None and job.output.kind == "gcs" else ""
    places = {"input": job.input_place or "", "output": output}
    return {name: place for name, place in places.items() if place}


def remove_remote(client: GeminiBatchClient, notes: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """
    Remove rows and answers of collected jobs from Google; what stays is a nuisance, not a failure.

    Called when the generation is over: until then they are what a lost checkpoint is rebuilt from.

    :param notes: Those that say what was collected, by shard.
    """
    for note in (each for found in notes.values() for each in found):
        remote = note.get("remote") or {}
        places = [remote["input"]] if "input" in remote else []
        with suppress(GeminiBatchError):
            if "output" in remote:
                places += [file.name for file in client.all_files(prefix=remote["output"].rstrip("/") + "/")]
        for place in places:
            with suppress(GeminiBatchError):
                client.delete_file(place)


def _whole(lines: Iterator[Any], job: BatchJob, now: float, rows: int, repeated: Repeated) -> Iterator[Any]:
    """
    Yield a job's result lines.

    :param rows: Of the job: it may count a row twice, as it may write two lines for it.
    :param repeated: What whoever takes the lines finds to be of the same row: it stands for no other row.
    :raises ResultsIncompleteError: After the last one, if they are fewer than the job counts, and more may come; also
        for lines of somebody else, in place of which there may be answers.
    """
    count = foreign = 0
    for line in lines:
        is_none = is_foreign(line)
        foreign += is_none or is_keyless_error(line)
        count += not is_none
        yield line
    counted = _answers_of(job, has_some=bool(count))
    counted, count = counted if counted is None else min(counted, rows), count - repeated.lines
    if count >= counted if counted is not None else not foreign:
        return
    if _since_end(job, now) < ANSWERS_SETTLE:
        raise ResultsIncompleteError(
            f"{job.name} has {count} answers and {_more(counted, foreign)}; nothing of it was kept. A retry, "
            "or a clear of the failed task, reads them anew and asks no row again; from "
            f"{ANSWERS_SETTLE / 3600:g} hours after its end on, what is there is taken, and the other rows are "
            "asked again."
        )
    log.warning("%s has %d answers and %s: the other rows are asked again.", job.name, count, _more(counted, foreign))


def _more(counted: int | None, foreign: int) -> str:
    return f"counts {counted}" if counted is not None else f"{foreign} lines that are none, as of a proxy's page"


def _answers_of(job: BatchJob, *, has_some: bool) -> int | None:
    """
    Return how many answers a job counts; None if it does not say.

    :param has_some: Whether there is an answer. Rows that the service lost are in no count, and are asked again: of a
        job without counts and answers, these may be all. One without counts that has answers was to answer each row.
    """
    if not job.is_succeeded:
        return None
    return job.expected_answers if has_some and job.stats.done is None else job.stats.done


def _since_end(job: BatchJob, now: float) -> float:
    """Return the seconds since a job has ended, by the next best of its times where the service does not say when."""
    moments = (epoch(text) for text in (job.end_time, job.update_time, job.create_time))
    return now - next((moment for moment in moments if moment is not None), now)


def _chained(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    if first is not None:
        yield first
    yield from rest
