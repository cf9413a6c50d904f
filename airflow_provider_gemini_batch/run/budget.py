# SPDX-License-Identifier: Apache-2.0
"""
What may a shard cost at most, and do the run's caps allow it?

A cap holds for the task instance: what every generation of its run has asked counts, over all attempts, rounds and
clears. Each call that may have made a job counts with what is known of it:

==============================================  =======================================================================
what is known                                   what counts
==============================================  =======================================================================
the answers are collected                       what they cost; a row of unknown price, and one that may have been
                                                billed and whose answer was never seen, with its upper end
the job has ended, and is not collected         the rows that it answered, with their upper end
the job runs, or nothing is known of it         the upper end of all its rows
a create call without an answer                 the same, for ten minutes: a job that the list does not show by then
                                                was never made
==============================================  =======================================================================

The first two are *spent*, the others *reserved*. A shard that does not fit because of what is reserved waits: jobs cost
less than their upper end, as a rule. Example: ``max_cost=1``, jobs of 0.4 dollars at most each. Two are submitted, the
third waits; the first one ends and has cost 0.1, so that 0.1 + 0.4 + 0.4 leaves room for the third.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.cost.budget import LISTED_WITHIN, Budget, CostLimitError, rows_answered
from airflow_provider_gemini_batch.cost.estimate import InputMeasure
from airflow_provider_gemini_batch.run.plan import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.run import plan
    from airflow_provider_gemini_batch.run.money import Prices
    from airflow_provider_gemini_batch.run.spec import RunSpec
    from airflow_provider_gemini_batch.run.workspace import Workspace


PIECES = 10
"""A cap that all rows may pass is spent in so many pieces, or more."""


class WaitForCostError(CostLimitError):
    """
    What is next fits once jobs in flight have shown what they really cost.

    :ivar until: UTC epoch second at which to look again, if no job ends before.
    """

    def __init__(self, text: str, until: float) -> None:
        super().__init__(text)
        self.until = until


@dataclass
class Bill:
    """
    What a run has asked so far.

    :param spent: Dollars that are owed for certain, or may be and cannot be known any more.
    :param reserved: Upper end of what jobs in flight may cost.
    :param tokens: Upper end of the input tokens sent.
    :param held_tokens: Those of them in create calls without an answer.
    """

    spent: float = 0.0
    reserved: float = 0.0
    tokens: float = 0.0
    held_tokens: float = 0.0


def estimate(spec: RunSpec, prices: Prices, entry: Mapping[str, Any]) -> float | None:
    """
    Return the dollars that a shard may cost at most, or None where the price is not known.

    Each row counts with the longest answer, whatever the answers so far have cost: a cap is kept, not likely kept.

    :param entry: The shard's entry in its round.
    """
    # Rows without a template may set a limit of their own, above the run's.
    config = (spec.generation_config or {}) if spec.prompt is not None else {}
    limit = config.get("maxOutputTokens", config.get("max_output_tokens"))
    return prices.at_most(
        spec.kind,
        spec.model,
        rows=int(entry["rows"]),
        input_bytes=int(entry["bytes"]),
        max_output_tokens=limit if isinstance(limit, int) else None,
        tier="batch",
    )


def has_caps(spec: RunSpec) -> bool:
    """Whether there is a limit at all."""
    return spec.max_cost is not None or spec.max_input_tokens is not None


def check_caps(work: Workspace, shard: plan.Shard, listed: Mapping[str, BatchJob]) -> None:
    """
    Refuse a shard that may cost more, or send more tokens, than is left.

    :param listed: The run's jobs by name, as the service lists them.
    :raises CostLimitError: Naming the cap and what the run may come to.
    :raises WaitForCostError: If there may be room once what is reserved has turned out to cost less.
    """
    spec = work.spec
    if not has_caps(spec):
        return
    _, entry = work.entry(shard.id)
    bill = bill_of(work, listed)
    later = work.context.now() + LISTED_WITHIN
    if spec.max_input_tokens is not None:
        tokens = bill.tokens + _tokens(entry)
        if tokens > spec.max_input_tokens:
            said = (
                f"max_input_tokens={spec.max_input_tokens}: with what is next, the run may send {tokens:.0f} "
                "tokens. Raise it, or ask fewer rows (sample=)."
            )
            raise (
                CostLimitError(said)
                if tokens - bill.held_tokens > spec.max_input_tokens
                else WaitForCostError(said, later)
            )
    upper = estimate(spec, work.context.prices, entry)
    try:
        Budget(spec.max_cost, bill.spent, bill.reserved).check(upper, spec.model)
    except CostLimitError as error:
        Budget(spec.max_cost, bill.spent).check(upper, spec.model)
        raise WaitForCostError(str(error), later) from error


def bill_of(work: Workspace, listed: Mapping[str, BatchJob]) -> Bill:
    """Return what all generations of a task's run have asked, those before a clear among them."""
    bill = Bill()
    named: set[str] = set()
    entry: Mapping[str, Any] = {"rows": 0, "bytes": 0}
    for checkpoint in (work.checkpoint, *work.checkpoint.older()):
        headers = checkpoint.rounds()
        notes = checkpoint.notes()
        for entry in (entry for header in headers for entry in header["shards"]):
            found = {kind: notes[kind].get(entry["id"], ()) for kind in notes}
            named.update(note["job"] for note in found["job"])
            if checkpoint is not work.checkpoint and not work.context.run_claim:
                continue  # outside of a task each call has its own cap
            _add_shard(bill, work, entry, found, listed, is_latest=checkpoint is work.checkpoint)
    for name in listed.keys() - named:  # an attempt died before it noted them, or a twin made them
        rows = listed[name].stats.total or int(entry["rows"])
        size = int(entry["bytes"]) * rows / max(1, int(entry["rows"]))
        _add_job(bill, work, {"rows": rows, "bytes": size}, listed[name])
    return bill


def _add_shard(
    bill: Bill,
    work: Workspace,
    entry: Mapping[str, Any],
    notes: Mapping[str, Sequence[Mapping[str, Any]]],
    listed: Mapping[str, BatchJob],
    *,
    is_latest: bool,
) -> None:
    upper = estimate(work.spec, work.context.prices, entry) or 0.0
    collected = {note["job"]: note for note in notes["collected"]}
    for note in collected.values():
        unseen = int(note.get("cost_unknown") or 0) + int(note.get("lost") or 0)
        bill.spent += float(note.get("cost") or 0) + upper * unseen / max(1, int(entry["rows"]))
    jobs = {note["job"] for note in notes["job"]}
    for name in jobs - collected.keys():
        if name not in listed and (collected or not is_latest):  # deleted, and nobody will read it any more
            bill.spent += upper
            bill.tokens += _tokens(entry)
        else:
            _add_job(bill, work, entry, listed.get(name))
    bill.tokens += _tokens(entry) * len(jobs & collected.keys())
    calls_one_by_one = [note for note in notes["intent"] if note.get("flex")]
    if calls_one_by_one:
        # Of the last time something is collected; what an attempt had asked before it died is owed.
        times = len(calls_one_by_one)
        bill.spent += upper * (times - bool(collected))
        bill.tokens += _tokens(entry) * times
        return
    unheard = sum(1 for _ in _unheard(notes, work.context.now()))
    lost = min(unheard, max(0, len(notes["intent"]) - len(notes["void"]) - len(jobs)))
    bill.reserved += upper * lost
    bill.tokens += _tokens(entry) * lost
    bill.held_tokens += _tokens(entry) * lost


def _add_job(bill: Bill, work: Workspace, entry: Mapping[str, Any], job: BatchJob | None) -> None:
    """Count a job whose answers are not collected."""
    upper = estimate(work.spec, work.context.prices, entry) or 0.0
    bill.tokens += _tokens(entry)
    if job is None or not job.is_done:
        bill.reserved += upper
        return
    bill.spent += upper * rows_answered(job, int(entry["rows"])) / max(1, int(entry["rows"]))


def _unheard(notes: Mapping[str, Sequence[Mapping[str, Any]]], now: float) -> Iterator[Mapping[str, Any]]:
    """Yield the create calls that may have made a job a moment ago."""
    void = {note["claim"] for note in notes["void"]}
    for note in notes["intent"]:
        if note.get("claim") not in void and now - float(note["at"]) < LISTED_WITHIN:
            yield note


def _tokens(entry: Mapping[str, Any]) -> float:
    return InputMeasure(int(entry["rows"]), int(entry["bytes"])).tokens.high or 0.0


def small_shards(
    work: Workspace, listed: Callable[[], Mapping[str, BatchJob]], rows: int, size: int, limits: Limits
) -> Limits | None:
    """
    Return limits of a round's first shards where the cap may not allow all of its rows; None where it does.

    A shard counts with the longest answers, of which few are so long: small ones show soon what a row really costs, and
    leave less of the cap unused than one large shard that is refused.

    :param listed: Reads the run's jobs as the service lists them, by name: one that was cancelled unbilled leaves room.
    :param rows, size: Of the round, and the bytes of its requests.
    """
    cap = work.spec.max_cost
    if cap is None or not rows:
        return None
    left = cap - bill_of(work, listed()).spent
    wanted = estimate(work.spec, work.context.prices, {"rows": rows, "bytes": size})
    if wanted is None or wanted <= left or left <= 0:
        return None
    share = left / wanted / PIECES
    return Limits(max(1, min(limits.rows, int(rows * share))), max(1, min(limits.input_bytes, int(size * share))))
