# SPDX-License-Identifier: Apache-2.0
"""What may a shard cost at most, and do the run's caps allow it?"""

# A cap holds for the task instance: what every generation of its run has asked counts, over all attempts, rounds and
# clears. Each call that may have made a job counts with what is known of it:
#
#   what is known                            what counts
#   ---------------------------------------  -----------------------------------------------------------------------
#   the answers are collected                what they cost; a row of unknown price, and one that may have been
#                                            billed and whose answer was never seen, with its upper end
#   the job has ended, and is not collected  the rows that it answered, with their upper end; none of a job that was
#                                            cancelled before it ran
#   the job runs, or nothing is known of it  the upper end of all its rows
#   a create call without an answer          the same, for ten minutes: a job that the list does not show by then
#                                            was never made
#
# The first two are spent, the others reserved. A shard that does not fit because of what is reserved waits: jobs cost
# less than their upper end, as a rule. Example: `max_cost=1`, jobs of 0.4 dollars at most each. Two are submitted, the
# third waits; the first one ends and has cost 0.1, so that 0.1 + 0.4 + 0.4 leaves room for the third.

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.cost.budget import (
    LISTED_WITHIN,
    Budget,
    CostLimitError,
    calls_in_doubt,
    rows_answered,
)
from airflow_provider_gemini_batch.cost.input_measure import InputMeasure
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
from airflow_provider_gemini_batch.run.claims import calls_not_refused
from airflow_provider_gemini_batch.run.plan import Limits
from airflow_provider_gemini_batch.run.snapshot import counted_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.cost.input_measure import Counted
    from airflow_provider_gemini_batch.run.context import RunContext
    from airflow_provider_gemini_batch.run.money import Prices
    from airflow_provider_gemini_batch.run.spec import RunSpec


PIECES = 10
"""A cap that all rows may pass is spent in so many pieces, or more."""


MEDIA = (
    "max_cost and max_input_tokens cannot be kept: rows with media have no upper end, nor do rows with a "
    "cached content."
)


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

    def add(self, other: Bill) -> None:
        """Count what another bill says, too."""
        self.spent += other.spent
        self.reserved += other.reserved
        self.tokens += other.tokens
        self.held_tokens += other.held_tokens


@dataclass(frozen=True)
class Foreseen:
    """
    What the caps would let a run ask.

    :param refused: Why no row would be asked; None if some would.
    :param over_cap: Why some rows may be left out; None if all of them fit.
    """

    refused: str | None = None
    over_cap: str | None = None


ReadJob = Callable[[str], "BatchJob | None"]


def measure_of(spec: RunSpec, rows: int, size: int, counted: Counted = (), **facts: bool) -> InputMeasure:
    """
    Return what is known of rows before they are asked.

    :param facts: As :class:`~airflow_provider_gemini_batch.cost.input_measure.InputMeasure` names them.
    """
    # Rows without a template may set a limit of their own, above the run's.
    config = (spec.generation_config or {}) if spec.prompt is not None else {}
    limit = config.get("maxOutputTokens", config.get("max_output_tokens"))
    return InputMeasure(rows, size, limit if isinstance(limit, int) else None, counted, **facts)


def estimate(spec: RunSpec, prices: Prices, entry: Mapping[str, Any], counted: Counted = ()) -> float | None:
    """
    Return the dollars that a shard may cost at most, or None where the price is not known.

    Each row counts with the longest answer, whatever the answers so far have cost: a cap is kept, not likely kept.

    :param entry: The shard's entry in its round.
    :param counted: Of rows of the whole input.
    """
    measure = measure_of(spec, int(entry["rows"]), int(entry["bytes"]), counted, is_part=True)
    found = prices.before(spec.kind, spec.model, measure)
    return None if found is None or found.dollars is None else found.dollars.high


def has_caps(spec: RunSpec) -> bool:
    """Whether there is a limit at all."""
    return spec.max_cost is not None or spec.max_input_tokens is not None


class Caps:
    """
    The caps of one run, and what counts against them.

    What came of a shard whose answers are collected is counted once: a check looks at new notes and at the shards in
    flight, however many there were before.

    :param checkpoint: The generation that is worked on.
    :param read: Returns a job as the service has it now, None if it is gone. A list may show counts that are out of
        date.
    """

    def __init__(self, spec: RunSpec, context: RunContext, checkpoint: Checkpoint, read: ReadJob) -> None:
        self._spec = spec
        self._context = context
        self._read = read
        self._checkpoint = checkpoint
        # Outside of a task each call has its own cap: what earlier ones spent is no business of this one.
        self._accounts = [_Account(checkpoint, is_latest=True, counts=True)]
        older = checkpoint.older() if context.history is None else Checkpoint.all(context.history)
        self._accounts += [_Account(one, is_latest=False, counts=bool(context.run_claim)) for one in older]

    def check(self, entry: Mapping[str, Any], listed: Mapping[str, BatchJob], *, look: bool = True) -> None:
        """
        Refuse a shard that may cost more, or send more tokens, than is left.

        :param entry: The shard's entry in its round.
        :param listed: The run's jobs by name, as the service lists them.
        :param look: Whether to look for what other workers noted meanwhile.
        :raises CostLimitError: Naming the cap and what the run may come to.
        :raises WaitForCostError: If there may be room once what is reserved has turned out to cost less.
        """
        spec = self._spec
        if not has_caps(spec):
            return
        bill = self.bill(listed, look=look)
        later = self._context.now() + LISTED_WITHIN
        if spec.max_input_tokens is not None:
            tokens = bill.tokens + self._tokens(entry)
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
        upper = self._upper(entry)
        try:
            Budget(spec.max_cost, bill.spent, bill.reserved).check(upper, spec.model)
        except CostLimitError as error:
            Budget(spec.max_cost, bill.spent).check(upper, spec.model)
            raise WaitForCostError(str(error), later) from error

    def foresee(
        self, listed: Callable[[], Mapping[str, BatchJob]], rows: int, size: int, *, has_media: bool
    ) -> Foreseen:
        """
        Say what the caps would let a run ask, without asking.

        :param listed: Reads the run's jobs as the service lists them, by name.
        :param rows, size: Of all that is to be asked, and the bytes of its requests.
        :param has_media: Whether one of the rows holds media, or names some.
        """
        if not has_caps(self._spec) or not rows:
            return Foreseen()
        if has_media:
            return Foreseen(refused=MEDIA)
        jobs = listed()
        try:
            self.check({"rows": rows, "bytes": size}, jobs)
        except ConfigurationError as all_rows:
            try:
                self.check({"rows": 1, "bytes": math.ceil(size / rows)}, jobs)
            except WaitForCostError:
                pass  # there may be room once jobs in flight have ended
            except ConfigurationError as one_row:
                return Foreseen(refused=str(one_row))
            return Foreseen(over_cap=f"{all_rows} Rows that do not fit in the end would land as missing.")
        return Foreseen()

    def bill(self, listed: Mapping[str, BatchJob], *, look: bool = True) -> Bill:
        """Return what all generations of a task's run have asked, those before a clear among them."""
        bill = Bill()
        named: set[str] = set()
        for account in self._accounts:
            account.catch_up(self._shard_bill, listed, look=look)
            named |= account.named
            if account.counts:
                bill.add(account.settled)
                for shard in account.open:
                    bill.add(self._shard_bill(account, shard, listed))
        last = next((account.last for account in self._accounts if account.last is not None), {"rows": 0, "bytes": 0})
        for name in listed.keys() - named:  # an attempt died before it noted them, or a twin made them
            rows = listed[name].stats.total or int(last["rows"])
            size = int(last["bytes"]) * rows / max(1, int(last["rows"]))
            self._add_job(bill, {"rows": rows, "bytes": size}, listed[name])
        return bill

    def _shard_bill(self, account: _Account, shard: str, listed: Mapping[str, BatchJob]) -> Bill:
        """Return what a shard has asked."""
        bill, entry = Bill(), account.entries[shard]
        notes = account.notes_of(shard)
        upper = self._upper(entry) or 0.0
        collected = {note["job"]: note for note in notes["collected"]}
        # Calls one by one, which have no job to tell them apart, may be noted in several parts.
        noted = [*notes["collected"]] if set(collected) == {""} else [*collected.values()]
        for note in noted:
            unseen = int(note.get("cost_unknown") or 0) + int(note.get("lost") or 0)
            bill.spent += float(note.get("cost") or 0) + upper * unseen / max(1, int(entry["rows"]))
        jobs = {note["job"] for note in notes["job"]}
        for name in jobs - collected.keys():
            if name not in listed and (collected or not account.is_latest):  # deleted: nobody will read it any more
                bill.spent += upper
                bill.tokens += self._tokens(entry)
            else:
                self._add_job(bill, entry, listed.get(name))
        # Each job has sent the shard's input, whatever came back.
        bill.tokens += self._tokens(entry) * len(jobs & collected.keys())
        if any(note.get("flex") for note in notes["intent"]):
            asked, owed = _asked_one_by_one(notes, int(entry["rows"]))
            bill.spent += upper * owed / max(1, int(entry["rows"]))
            bill.tokens += self._tokens(entry) * asked / max(1, int(entry["rows"]))
            return bill
        lost = min(_recent_calls(notes, self._context.now()), _calls_without_a_job(notes))
        bill.reserved += upper * lost
        bill.tokens += self._tokens(entry) * lost
        bill.held_tokens += self._tokens(entry) * lost
        return bill

    def _add_job(self, bill: Bill, entry: Mapping[str, Any], job: BatchJob | None) -> None:
        """Count a job whose answers are not collected."""
        upper = self._upper(entry) or 0.0
        bill.tokens += self._tokens(entry)
        if job is None or not job.is_done:
            bill.reserved += upper
            return
        job = self._read(job.name) or job
        bill.spent += upper * rows_answered(job, int(entry["rows"])) / max(1, int(entry["rows"]))

    def _upper(self, entry: Mapping[str, Any]) -> float | None:
        return estimate(self._spec, self._context.prices, entry, counted_in(self._checkpoint.snapshot))

    def _tokens(self, entry: Mapping[str, Any]) -> float:
        rows, size = int(entry["rows"]), int(entry["bytes"])
        measure = InputMeasure(rows, size, counted=counted_in(self._checkpoint.snapshot), is_part=True)
        return measure.tokens.high or 0.0

    def small_shards(
        self, listed: Callable[[], Mapping[str, BatchJob]], rows: int, size: int, limits: Limits
    ) -> Limits | None:
        """
        Return limits of a round's first shards where the cap may not allow all of its rows; None where it does.

        A shard counts with the longest answers, of which few are so long: small ones show soon what a row really costs,
        and leave less of the cap unused than one large shard that is refused.

        :param listed: Reads the run's jobs as the service lists them, by name: one that was cancelled unbilled leaves
            room.
        :param rows, size: Of the round, and the bytes of its requests.
        """
        cap = self._spec.max_cost
        # For dollars alone: answers show what rows really cost, while their input tokens count the same before and
        # after.
        if cap is None or not rows:
            return None
        left = cap - self.bill(listed()).spent
        wanted = self._upper({"rows": rows, "bytes": size})
        if wanted is None or wanted <= left or left <= 0:
            return None
        share = left / wanted / PIECES
        return Limits(max(1, min(limits.rows, int(rows * share))), max(1, min(limits.input_bytes, int(size * share))))


class _Account:
    """
    What the notes of one generation say, sorted into what can change and what cannot.

    :param counts: Whether it counts against the caps.
    """

    def __init__(self, checkpoint: Checkpoint, *, is_latest: bool, counts: bool) -> None:
        self.is_latest = is_latest
        self.counts = counts
        self.settled = Bill()
        self.open: set[str] = set()
        """Shards that may still come to another sum: in flight, or noted since the last look."""
        self.entries: dict[str, Mapping[str, Any]] = {}
        self.named: set[str] = set()
        """Names of all jobs that are noted."""
        self.last: Mapping[str, Any] | None = None
        self._checkpoint = checkpoint
        self._bills: dict[str, Bill] = {}
        self._notes: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]] = {}
        self._rounds = self._noted = 0

    def catch_up(
        self, bill_of: Callable[[_Account, str, Mapping[str, BatchJob]], Bill], listed: Mapping[str, BatchJob],
        *, look: bool
    ) -> None:  # fmt: skip
        """Read what is new, and settle what cannot change any more."""
        headers = self._checkpoint.rounds()
        self._notes = self._checkpoint.notes(look=look)
        for entry in (entry for header in headers[self._rounds :] for entry in header["shards"]):
            self.entries[entry["id"]] = self.last = entry
            if any(self.notes_of(entry["id"]).values()):  # another worker has cut the round, and goes on already
                self.open.add(entry["id"])
        self._rounds = len(headers)
        for kind, shard in self._checkpoint.journal[self._noted :]:
            if shard in self.entries:
                self._reopen(shard)
            if kind == "job":
                self.named.update(note["job"] for note in self._notes[kind].get(shard, ()))
        self._noted = len(self._checkpoint.journal)
        for shard in [shard for shard in self.open if self._is_settled(shard)]:
            self._bills[shard] = bill_of(self, shard, listed)
            self.settled.add(self._bills[shard])
            self.open.discard(shard)

    def _reopen(self, shard: str) -> None:
        self.open.add(shard)
        if shard in self._bills:
            del self._bills[shard]
            self.settled = Bill()
            for bill in self._bills.values():
                self.settled.add(bill)

    def notes_of(self, shard: str) -> dict[str, Sequence[Mapping[str, Any]]]:
        """Return what is noted of a shard, by kind."""
        return {kind: found.get(shard, ()) for kind, found in self._notes.items()}

    def _is_settled(self, shard: str) -> bool:
        """Whether neither time nor a job's end can change what a shard has asked."""
        notes = self.notes_of(shard)
        collected = {note["job"] for note in notes["collected"]}
        is_heard = _calls_without_a_job(notes) == 0 or any(note.get("flex") for note in notes["intent"])
        return bool(collected) and is_heard and {note["job"] for note in notes["job"]} <= collected


def _asked_one_by_one(notes: Mapping[str, Sequence[Mapping[str, Any]]], rows: int) -> tuple[int, int]:
    """
    Return how many calls of a shard may have been made one by one, and how many of these nobody has an answer of.

    Of an attempt that died, all that it was about to ask is owed, but for the answers that it kept. Example: of 500
    rows, attempt 1 kept 100 answers and died; attempt 2 asked the other 400, which may all have been asked before.
    """
    asked = owed = 0
    for call in (note for note in notes["intent"] if note.get("flex")):
        about = int(call.get("rows", rows))
        kept = [note for note in notes["collected"] if note.get("claim") == call["claim"]]
        asked += about
        if all(note.get("open") and not note.get("is_over") for note in kept):
            owed += max(0, about - sum(sum(note["counts"].values()) for note in kept))
    return asked, owed


def _calls_without_a_job(notes: Mapping[str, Sequence[Mapping[str, Any]]]) -> int:
    """Return how many create calls of a shard may have made a job that nobody knows of."""
    calls = calls_not_refused(notes["intent"], notes["void"])
    return calls_in_doubt(len(calls), len({note["job"] for note in notes["job"]}))


def _recent_calls(notes: Mapping[str, Sequence[Mapping[str, Any]]], now: float) -> int:
    """Return how many create calls of a shard may have made a job a moment ago, which is not listed yet."""
    calls = calls_not_refused(notes["intent"], notes["void"])
    return sum(now - float(note["at"]) < LISTED_WITHIN for note in calls)
