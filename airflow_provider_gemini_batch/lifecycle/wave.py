# SPDX-License-Identifier: Apache-2.0
"""What has been learnt so far in one run through the rules of :mod:`~.lifecycle.submit`."""

# A wave has several orders (shards of a run), or one. The rules live in modules of their own, each of which reads and
# changes this state: `lifecycle/existing.py` (rule 1), `lifecycle/creating.py` (rules 2 and 3) and
# `lifecycle/rivals.py` (rule 4).

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic

from airflow_provider_gemini_batch.api.wire import Pause
from airflow_provider_gemini_batch.lifecycle.own_jobs import Found, OwnJobs
from airflow_provider_gemini_batch.lifecycle.submission import (
    Action,
    OnExistingJob,
    Order,
    SourceT,
    Submission,
    SubmitPolicy,
)
from airflow_provider_gemini_batch.lifecycle.twins import SETTLED_AGE, Choice

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.identity import SubmissionToken, TaskIdentity
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.api.wire import Flow, HttpRequest
    from airflow_provider_gemini_batch.errors import GeminiBatchError


@dataclass
class OpenOrder(Generic[SourceT]):
    """An order on its way to a job; its attributes are what has been learnt so far."""

    order: Order[SourceT]
    job: BatchJob | None = None
    action: Action = "created"
    reason: str = ""
    error: GeminiBatchError | None = None
    lost: GeminiBatchError | None = None
    """Why the last create call has no clear answer, while that is so."""
    unheard: list[float] = field(default_factory=list)
    """UTC epoch seconds of the create calls whose outcome nobody has heard of."""
    is_new: bool = False
    """Whether the job is what came of a create call of ours."""
    noted: str = ""

    @property
    def token(self) -> SubmissionToken:
        """By which the job is recognised."""
        return self.order.token

    @property
    def is_open(self) -> bool:
        """Whether there is neither a job nor an error yet."""
        return self.job is None and self.error is None

    def take(self, job: BatchJob, action: Action, reason: str) -> None:
        """Settle on a job."""
        self.job, self.action, self.reason, self.lost = job, action, reason, None

    def hear(self, born: float | None, *, is_alone: bool) -> None:
        """
        Take a listed job for what came of a call without an answer, unless it is older than each of them.

        :param born: When the job was created, by our clock.
        :param is_alone: Whether no other attempt can have made it, whatever the clocks say.
        """
        # A job came of the last call before it was born: a later call cannot have made it, an earlier one may have made
        # another.
        before = [at for at in self.unheard if born is not None and at <= born]
        if before:
            self.unheard.remove(max(before))
        elif is_alone and self.unheard:
            self.unheard.remove(min(self.unheard))


class Wave(Generic[SourceT]):
    """Orders on their way to their jobs, and all that the rules know of this task's jobs."""

    def __init__(
        self,
        backend: Backend,
        orders: list[OpenOrder[SourceT]],
        identity: TaskIdentity,
        known_names: tuple[str, ...],
        on_existing_job: OnExistingJob,
        intent_at: float | None,
        exclude: frozenset[str],
        policy: SubmitPolicy,
        now: Callable[[], float],
        remember: Callable[[str, str], None],
        was_cut_short: Callable[[BatchJob], Flow[bool]],
        may_create: Callable[[Sequence[BatchJob], int], None] | None,
        reads_earlier: bool,
        look: tuple[float, Sequence[BatchJob]] | None,
    ) -> None:
        self.backend = backend
        self.orders = orders
        self.identity = identity
        self.known_names = known_names
        self.on_existing_job = on_existing_job
        self.intent_at = intent_at
        self.exclude = exclude
        self.policy = policy
        self.now = now
        self.remember = remember
        self.may_create = may_create
        self.reads_earlier = reads_earlier
        self._look = look
        self.may_have_rivals = identity.may_have_rivals
        self.own = OwnJobs(backend, identity, policy.reads, exclude=exclude, clock_skew=policy.clock_skew)
        self.choice = Choice(backend, policy.reads, policy.cancels, was_cut_short, now, self.own.may_cancel)
        self.replaced: list[str] = []
        self.doubtful: list[str] = []
        self.spared: list[str] = []
        self.requests: dict[str, HttpRequest] = {}
        self.own_count = 0
        """How many jobs of this task were there before the first create."""

    @property
    def open(self) -> list[OpenOrder[SourceT]]:
        """The orders that have neither a job nor an error yet."""
        return [order for order in self.orders if order.is_open]

    @property
    def replaces(self) -> bool:
        """
        Whether live jobs of this task with other input are cancelled.

        Not where the mapped list may have changed: what was submitted for our index may be what another one asks now.
        Example: [A, B] became [N, A, B]; index 0 finds its own job with A's rows, which index 1 adopts.
        """
        return self.on_existing_job == "replace" and not self.identity.may_be_reordered

    @property
    def all_accounted_for(self) -> bool:
        """Whether every earlier attempt has a job in the list, so that none hides another one."""
        # Where their number is not known, one stands for them all.
        earlier = self.identity.earlier_attempts
        if earlier is None:
            earlier = int(self.identity.may_have_rivals)
        return self.own_count >= earlier

    def in_doubt_since(self, order: OpenOrder[SourceT]) -> float | None:
        """
        Return when the last create call was made that may have left a twin which nobody has seen yet.

        :return: UTC epoch seconds: now, if nobody knows; None if there is no such call.
        """
        unheard = [at for one in self.orders for at in one.unheard]
        if not self.may_have_rivals or (not unheard and self.all_accounted_for):
            return None
        if unheard or self.intent_at is not None:
            return max(unheard, default=self.intent_at)
        born = order.job.born(self.now()) if order.job is not None and not order.is_new else None
        # Whoever did not find a job that is so old called long ago, and what came of it is listed by now.
        return None if born is not None and self.now() - born >= SETTLED_AGE else self.now()

    def listed(self) -> Flow[list[BatchJob]]:
        """Read the jobs of this task in the list; the first time those that the caller has just read, if it has."""
        look, self._look = self._look, None
        if look is not None and self.now() - look[0] <= self.policy.fresh:
            return self.own.take(look[1])
        return (yield from self.own.read([order.token.digest for order in self.orders]))

    def sorted_out(self, jobs: Iterable[BatchJob], order: OpenOrder[SourceT]) -> Found:
        """Sort jobs by what they are to an order."""
        return self.own.sorted_out(jobs, order.token, self.known_names)

    def note(self, order: OpenOrder[SourceT]) -> None:
        """Tell the name of an order's job to whoever remembers it, once."""
        if order.job is not None and order.noted != order.job.name:
            order.noted = order.job.name
            self.remember("job", order.noted)

    def outcome(self, order: OpenOrder[SourceT]) -> Submission | GeminiBatchError:
        """Return what came of an order, with all that the log should say of it."""
        if order.job is None:
            assert order.error is not None
            return order.error
        reason = order.reason
        choice = self.choice
        if choice.cancelled:
            reason += f" Cancelled as surplus: {', '.join(choice.cancelled)}."
        if choice.uncancelled:
            reason += f" Could not be cancelled and may still run: {', '.join(choice.uncancelled)}."
        if self.doubtful:
            reason += (
                f" Left alone, as they may be another Airflow's: {', '.join(self.doubtful)} (other input, submitted"
                " before this installation's identity changed)."
            )
        if spared := [name for name in self.spared if name != order.job.name]:
            reason += (
                f" Left alone, though submitted by this index with other input: {', '.join(spared)}. If the mapped list"
                " has changed, another index wants it; if none does, cancel it."
            )
        paid = [name for name in choice.paid if name != order.job.name]
        return Submission(
            order.job,
            order.action,
            reason,
            tuple(self.replaced + choice.cancelled),
            tuple(choice.uncancelled),
            (order.job.name, *paid) if paid and order.job.state.has_results else (),
            tuple(dict.fromkeys([*choice.rejected, *choice.cancelled, *self.replaced])),
            self.in_doubt_since(order),
            self.identity.owned,
            self.identity.may_be_reordered,
        )


def pause_before_look(seconds: float, why: str) -> Pause:
    """Return the pause before one more look at the list, which says why."""
    return Pause(seconds, f"{why} Looking for it in {seconds:g} s.")
