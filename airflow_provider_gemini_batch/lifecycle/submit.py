# SPDX-License-Identifier: Apache-2.0
"""
One billed job for one piece of work.

The service creates (and bills) a job for every create call, so a call is never simply repeated. The rules, in order:

1. Find before create. Jobs that carry our token (:mod:`~airflow_provider_gemini_batch.api.identity`) are looked up by
   the names we noted and in the service's list, on every attempt. A job with answers is reused, a live one adopted. A
   failed, cancelled or expired one does not count, nor does one that is being cancelled.
2. Rows are uploaded only once it is clear that a job has to be created; if that took a while, rule 1 is applied again.
3. A create that may have happened unheard is reconciled: looks at the list over some time, since a new job shows up
   there late. That is a create call without a clear answer; an *intent* that an earlier attempt noted, without a job's
   name after it; and any attempt that may have rivals and knows neither an intent nor a name (no task state store, or
   one that a clear has emptied), unless as many jobs of this task are listed as there were attempts before it. Only if
   no look finds a job is one created, a few times at most.
4. After a create, look for a twin: a worker thought dead may have submitted beside us. Of several live jobs the oldest
   wins, by the service's own time and then by name, so that both attempts choose alike; the others are cancelled. What
   the list does not show by then is found while the task waits (:mod:`~airflow_provider_gemini_batch.lifecycle.twins`).
5. No job is created while the list cannot be read.

Nothing here looks at a clock, sleeps or sends: it is a flow, see :mod:`~airflow_provider_gemini_batch.api.wire`.

Theory of operation
-------------------

Between "the service has the job" and "the next attempt can know of it" lie three gaps, each with its own bridge:

===============================  =================================================================================
gap                              bridge
===============================  =================================================================================
the answer to the create is lost the token in the job's name: the job can be recognised in the list (rules 1 and 3)
this process dies before it has  the intent in the task state store, noted before the call: the next attempt knows that
noted the job's name             a job may exist, and waits for the list (rule 3)
the list shows a new job late    patience before a create (rule 3), and looks for twins after it (rule 4, and the wait)
===============================  =================================================================================

Example: a worker is killed right after its create call, on Airflow 3.3, and the list lags 20 s.

====  ============================================================================  ==============================
 s    what happens                                                                  rule
====  ============================================================================  ==============================
 0    attempt 1 lists: nothing; uploads; notes the intent; creates A; is killed     1, 2
 3    attempt 2 reads the intent, lists: nothing. It does not create                1, 3
 3+   it looks again after 0, 2, 5, 10 s                                            3
20    the look at 20 s shows A; attempt 2 adopts it and notes its name              3
30    it looks once more for a twin, finds none, and waits for A                    4
====  ============================================================================  ==============================

With a lag of 60 s the looks end at 50 s, attempt 2 creates B, and its wait finds A: see
:mod:`~airflow_provider_gemini_batch.lifecycle.twins`.

A *wave* is several submissions of one task, e.g. the shards of a run: the list is read once for all of them, lost
answers are reconciled together, and twins are looked for once. :func:`submit` is a wave of one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from airflow_provider_gemini_batch.api.flows import cancel_job, exchange, get_job
from airflow_provider_gemini_batch.api.identity import SubmissionToken, TaskIdentity
from airflow_provider_gemini_batch.api.retry import NO_RETRY, RetryPolicy
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.api.wire import Flow, HttpRequest, Pause
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    GeminiBatchError,
    JobConflictError,
    NotFoundError,
    RequestRejectedError,
    SubmitError,
    TransportError,
)
from airflow_provider_gemini_batch.lifecycle.own_jobs import Found, OwnJobs, age_order, is_live, is_live_or_useful
from airflow_provider_gemini_batch.lifecycle.twins import Choice

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.models import BatchJob, JobSpec

SourceT = TypeVar("SourceT")

OnExistingJob = Literal["replace", "reuse", "fail", "siblings"]
Action = Literal["created", "adopted", "reused", "replaced"]


@dataclass(frozen=True)
class SubmitPolicy:
    """
    How patiently a submission is made sure of. Times are seconds.

    :param reconcile: Pauses before each look for a job that may have been created unheard. The sum has to be well above
        the time a new job needs to show up in the list (observed: seconds) plus the time a request may be on its way.
    :param rivals: Pauses before the further looks for a twin after a create, when another attempt may run.
    :param max_creates: Create calls in all, when none of them got a clear answer.
    :param reads: Retries of get and list.
    :param cancels: Retries of cancel.
    :param connects: Retries of a create that certainly never left this machine.
    :param clock_skew: How far the service's clock and ours may differ.
    :param in_flight: How long after a noted intent its create call may still be on its way.
    :param fresh: A look older than this is repeated before a create.
    """

    reconcile: tuple[float, ...] = (0, 2, 5, 10, 15, 15)
    rivals: tuple[float, ...] = (10,)
    max_creates: int = 3
    reads: RetryPolicy = field(default_factory=lambda: RetryPolicy(max_attempts=8, cap=30))
    cancels: RetryPolicy = field(default_factory=RetryPolicy)
    connects: RetryPolicy = field(default_factory=RetryPolicy)
    clock_skew: float = 600
    in_flight: float = 60
    fresh: float = 5


@dataclass(frozen=True)
class Submission:
    """
    What came of it.

    :param job: The one job to wait for.
    :param action: ``created``; ``adopted`` (a live job of ours was found); ``reused`` (one with answers was found);
        ``replaced`` (created, after jobs of this task with other input were cancelled).
    :param reason: One line for the log.
    :param surplus: Names of the jobs that were cancelled on the way.
    :param uncancelled: Names of surplus jobs whose cancel call failed: they may still run and bill.
    :param paid_twice: Names of all jobs that ran for the same rows, the one taken first; empty if it is alone.
    :param settled: Names of jobs about which nothing more is to be done while the task waits.
    :param may_have_twin: Whether another attempt may have created a job that was not listed yet.
    :param owned: Task halves whose jobs are certainly this task's own.
    :param spares_others: Whether live jobs of this task with other input are left alone: they may be another index's.
    """

    job: BatchJob
    action: Action
    reason: str
    surplus: tuple[str, ...] = ()
    uncancelled: tuple[str, ...] = ()
    paid_twice: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()
    may_have_twin: bool = False
    owned: tuple[str, ...] = ()
    spares_others: bool = False


@dataclass(frozen=True)
class Order(Generic[SourceT]):
    """
    One job that is wanted.

    :param spec_for: Makes the job from what *prepare* returned; the token is put on here.
    :param prepare: Uploads the rows; called only when a job has to be created.
    """

    token: SubmissionToken
    spec_for: Callable[[SourceT], JobSpec]
    prepare: Callable[[], Flow[SourceT]]


def never_cut_short(job: BatchJob) -> Flow[bool]:
    """Take every SUCCEEDED job for the whole work."""
    yield from ()
    return False


def submit(
    backend: Backend,
    spec_for: Callable[[SourceT], JobSpec],
    prepare: Callable[[], Flow[SourceT]],
    token: SubmissionToken,
    *,
    since: float | None = None,
    identity: TaskIdentity | None = None,
    may_have_rivals: bool = False,
    **options: Any,
) -> Flow[Submission]:
    """
    Find this submission's job, or create it.

    :param since: UTC epoch before which no job of this task can have been created (e.g. the start of the DAG run), or
        None if unknown: then the whole list is read.
    :param identity: Says all that is known of the piece of work, instead of *since* and *may_have_rivals*.
    :param may_have_rivals: Another attempt at this task may run right now (a retry, a clear, a noted intent).
    :param options: As for :func:`submit_wave`.
    :raises JobConflictError: With ``on_existing_job="fail"``.
    :raises RateLimitedError: The create was refused for a quota; nothing was created by it.
    :raises SubmitError: It could not be settled whether a job exists.
    :raises ApiError: Any clear refusal, of the list or of the create.
    """
    work = identity or TaskIdentity(token.task, since, may_have_rivals)
    orders = (Order(token, spec_for, prepare),)
    (outcome,) = yield from submit_wave(backend, orders, work, **options)
    if isinstance(outcome, GeminiBatchError):
        raise outcome
    return outcome


def submit_wave(
    backend: Backend,
    orders: Sequence[Order[SourceT]],
    identity: TaskIdentity,
    *,
    known_names: Sequence[str] = (),
    on_existing_job: OnExistingJob = "replace",
    intent_at: float | None = None,
    exclude: Collection[str] = frozenset(),
    policy: SubmitPolicy | None = None,
    now: Callable[[], float],
    remember: Callable[[str, str], None] = lambda what, value: None,
    was_cut_short: Callable[[BatchJob], Flow[bool]] = never_cut_short,
    may_create: Callable[[Sequence[BatchJob], int], None] | None = None,
) -> Flow[list[Submission | GeminiBatchError]]:
    """
    Find or create the jobs of several submissions of one task.

    :param orders: What is wanted; more than one only with ``on_existing_job="siblings"``.
    :param known_names: Names of jobs noted for this task, of whatever input.
    :param on_existing_job: What to do about a job of this task with other input that is live or has answers: cancel the
        live ones and create, take it, or raise. ``siblings`` neither takes nor cancels it: the shards of one run are
        jobs of one task, each with rows of its own. There a job of the very same input is taken in whatever state.
    :param intent_at: UTC epoch at which an earlier attempt noted that it was about to create, if no job name was
        noted after that. Its job may exist and not be listed yet.
    :param exclude: Names of jobs that must not be taken, e.g. one that was stuck and has just been cancelled.
    :param now: UTC epoch seconds.
    :param remember: Called with ``("intent", "<task>.<digest>")`` right before every create, and with
        ``("job", name)`` as soon as a job is known.
    :param was_cut_short: Whether a SUCCEEDED job is what a cancel left over: its answers are not the whole work.
    :param may_create: Called before rows are uploaded and a job is created, with this task's own earlier jobs and the
        number of create calls without an answer, which may have made one each; what it raises ends the submission.
    :return: For each order what came of it. After a refusal the rest of the wave is not sent, and gets the same error.
    :raises GeminiBatchError: As :func:`submit`, where it concerns the wave as a whole.
    """
    if len(orders) > 1 and on_existing_job != "siblings":
        raise ConfigurationError("Several submissions of one task are siblings: on_existing_job='siblings'.")
    wave = _Wave(
        backend, [_Open(order) for order in orders], identity, tuple(known_names), on_existing_job, intent_at,
        frozenset(exclude), policy or SubmitPolicy(), now, remember, was_cut_short, may_create,
    )  # fmt: skip
    return (yield from wave.run())


@dataclass
class _Open(Generic[SourceT]):
    """An order on its way to a job; its attributes are what has been learnt so far."""

    order: Order[SourceT]
    job: BatchJob | None = None
    action: Action = "created"
    reason: str = ""
    error: GeminiBatchError | None = None
    lost: GeminiBatchError | None = None
    """Why the last create call has no clear answer, while that is so."""
    creates: int = 0
    is_new: bool = False
    """Whether the job is what came of a create call of ours."""
    noted: str = ""

    @property
    def token(self) -> SubmissionToken:
        return self.order.token

    @property
    def is_open(self) -> bool:
        return self.job is None and self.error is None

    def take(self, job: BatchJob, action: Action, reason: str) -> None:
        """Settle on a job."""
        self.job, self.action, self.reason, self.lost = job, action, reason, None


class _Wave(Generic[SourceT]):
    """One run through the rules of this module; its attributes are what has been learnt so far."""

    def __init__(
        self,
        backend: Backend,
        orders: list[_Open[SourceT]],
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
        self.may_have_rivals = identity.may_have_rivals
        self.own = OwnJobs(backend, identity, policy.reads, exclude=exclude, clock_skew=policy.clock_skew)
        self.choice = Choice(backend, policy.reads, policy.cancels, was_cut_short, self.own.may_cancel)
        self.replaced: list[str] = []
        self.doubtful: list[str] = []
        self.spared: list[str] = []
        self.requests: dict[str, HttpRequest] = {}
        self.own_count = 0
        """How many jobs of this task were there before the first create."""
        self.was_lost = False

    @property
    def open(self) -> list[_Open[SourceT]]:
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
        earlier = self.identity.earlier_attempts
        if earlier is None:
            earlier = int(self.identity.may_have_rivals)
        return self.own_count >= earlier

    def run(self) -> Flow[list[Submission | GeminiBatchError]]:
        started = self.now()
        yield from self._take_existing()
        if self.open:
            # Later looks need not go further back: what is older was listed in this one.
            self.own.since = started if self.own.since is None else max(self.own.since, started)
            self.own_count = len(self.own.owned)
            yield from self._reconcile_intent(started)
            self.own_count = len(self.own.owned)
        if self.open:
            yield from self._create_all()
        yield from self._without_twins()
        return [self._outcome(order) for order in self.orders]

    def _outcome(self, order: _Open[SourceT]) -> Submission | GeminiBatchError:
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
            self.may_have_rivals and order.is_new and (self.was_lost or not self.all_accounted_for),
            self.identity.owned,
            self.identity.may_be_reordered,
        )

    # --- rule 1: look -------------------------------------------------------------------------------------------------

    def _take_existing(self) -> Flow[None]:
        """Look once, and take what the rules let us take; cancel what ``replace`` tells us to."""
        noted = yield from self.own.get(self.known_names)
        try:
            listed = yield from self._listed()
        except GeminiBatchError:
            # Without the list nothing is created, but a job we know by name may be taken all the same.
            for order in self.open:
                yield from self._decide(order, self._sorted_out(noted, order), alone=True)
            if self.open:
                raise
            return
        known = {job.name: job for job in (*listed, *noted)}  # noted ones were just read: they win
        for order in self.open:
            yield from self._decide(order, self._sorted_out(known.values(), order))

    def _listed(self) -> Flow[list[BatchJob]]:
        return (yield from self.own.read([order.token.digest for order in self.orders]))

    def _sorted_out(self, jobs: Iterable[BatchJob], order: _Open[SourceT]) -> Found:
        return self.own.sorted_out(jobs, order.token, self.known_names)

    def _decide(self, order: _Open[SourceT], found: Found, *, alone: bool = False) -> Flow[None]:
        """
        Take a job with our digest if one counts; else apply ``on_existing_job``.

        :param alone: Only take: neither cancel nor judge by jobs with other input, as the picture is not whole.
        """
        self.doubtful += [job.name for job in found.doubtful if job.name not in self.doubtful]
        chosen = yield from self.choice.of(found.same)
        if chosen is not None:
            if not alone:
                yield from self.choice.cancel_all(job for job in found.same if job.name != chosen.name)
                if self.replaces:
                    yield from self.choice.cancel_all(found.other)
            self._take(order, chosen, "with the same input")
            return
        chosen = yield from self.choice.of(found.reordered)
        if chosen is not None:
            # Another index wants our former job then: it is left alone.
            self._take(order, chosen, "at another map index with the same input: the mapped list was re-ordered")
        elif self.on_existing_job == "siblings" and found.same:
            job = min(found.same, key=age_order)
            order.take(job, "adopted", f"{job.name} ({job.state.value}) is what came of these rows.")
        elif not alone:
            yield from self._apply_on_existing_job(order, found.other)

    def _apply_on_existing_job(self, order: _Open[SourceT], others: Iterable[BatchJob]) -> Flow[None]:
        if self.on_existing_job == "siblings":
            return
        if self.on_existing_job == "replace":
            for job in others:
                if not is_live(job) or job.name in self.replaced:
                    continue
                if self.replaces:
                    yield from self._cancel_for_replacement(job)
                elif job.name not in self.spared:
                    self.spared.append(job.name)
            return
        other = yield from self.choice.of(others)
        if other is None:
            return
        if self.on_existing_job == "reuse":
            self._take(order, other, "with other input, as on_existing_job='reuse' asks")
            return
        raise JobConflictError(
            f"{other.name} ({other.state.value}) was submitted by this task with other input. Set on_existing_job to "
            "'replace' (cancels it if it is live, and submits the new input) or 'reuse' (takes it), or delete it.",
            job=other,
        )

    @staticmethod
    def _take(order: _Open[SourceT], job: BatchJob, why: str) -> None:
        if job.state.has_results:
            order.take(job, "reused", f"Reusing the answers of {job.name}, which this task submitted {why}.")
        else:
            text = f"Adopting {job.name} ({job.state.value}), which this task submitted {why}."
            order.take(job, "adopted", text)

    def _cancel_for_replacement(self, job: BatchJob) -> Flow[None]:
        """Cancel a job before it is replaced; if that fails nothing is created, as both would bill."""
        try:
            yield from cancel_job(self.backend, job.name, self.policy.cancels)
        except RequestRejectedError:
            # It may have ended meanwhile; what the Developer API answers then is not published.
            fresh = yield from get_job(self.backend, job.name, self.policy.reads)
            if is_live(fresh):
                raise
            return
        self.replaced.append(job.name)

    # --- rules 2 and 3: create ----------------------------------------------------------------------------------------

    def _reconcile_intent(self, started: float) -> Flow[None]:
        """An earlier attempt may have created and not said what came of it: give its job time to be listed."""
        intent_at = self.intent_at
        if intent_at is None and self.may_have_rivals and not self.known_names and not self.all_accounted_for:
            intent_at = started  # nobody noted anything, so a create may be a moment old
        if intent_at is None:
            return
        self.may_have_rivals = True
        patience = sum(self.policy.reconcile) + self.policy.in_flight
        for pause in self.policy.reconcile:
            if self.now() - intent_at >= patience:
                return
            if pause:
                yield _before_look(pause, "An earlier attempt may have submitted a job.")
                yield from self._take_existing()
            if not self.open:
                return

    def _create_all(self) -> Flow[None]:
        looked_at = self.now()
        for order in self.open:
            request = yield from self._prepared(order)
            if self.now() - looked_at > self.policy.fresh:
                yield from self._take_existing()
                looked_at = self.now()
            if order.is_open:
                yield from self._create(order, request)
            if order.error is not None:
                for rest in self.open:
                    if rest.lost is None:
                        rest.error = order.error
                break
        yield from self._reconcile_lost()

    def _prepared(self, order: _Open[SourceT]) -> Flow[HttpRequest]:
        yield from self._ask(order)
        source = yield from order.order.prepare()
        return self.backend.create_job(order.token.mark(order.order.spec_for(source), self.backend.name))

    def _ask(self, order: _Open[SourceT]) -> Flow[None]:
        """Ask whether a job may be created; jobs are read for that alone."""
        if self.may_create is not None:
            self.may_create((yield from self._earlier()), order.creates)

    def _earlier(self) -> Flow[list[BatchJob]]:
        """Read this task's jobs of before, those that must not be taken among them: they may have billed, too."""
        jobs = []
        for name in dict.fromkeys((*self.own.jobs, *self.exclude)):
            try:
                jobs.append((yield from get_job(self.backend, name, self.policy.reads)))  # a list lacks the counts
            except NotFoundError:
                continue
        return jobs

    def _create(self, order: _Open[SourceT], request: HttpRequest) -> Flow[None]:
        """Call once, or again as long as the call certainly never left this machine."""
        self.requests[order.token.digest] = request
        connects = 0
        while True:
            # If we die right after this line, the next attempt knows that a job of ours may exist, and by which token.
            self.remember("intent", str(order.token))
            try:
                job = yield from exchange(request, self.backend.read_job, NO_RETRY)
            except GeminiBatchError as error:
                if error.may_have_taken_effect:
                    order.creates += 1
                    order.lost = error
                    self.was_lost = True
                    self.may_have_rivals = True  # the lost call may still be carried out
                    return
                connects += 1
                delay = self.policy.connects.delay_after(error, connects) if isinstance(error, TransportError) else None
                if delay is None:
                    order.error = error  # a clear refusal (4xx, 429): nothing was created
                    return
                yield Pause.before_retry(delay, error)
                continue
            action: Action = "replaced" if self.replaced else "created"
            order.take(job, action, f"Created {job.name}: no job of this task with this input was live or had answers.")
            if self.replaced:
                order.reason += f" Cancelled to be replaced: {', '.join(self.replaced)}."
            order.is_new = True
            self._note(order)
            self.own.seen.add(job.name)
            return

    def _note(self, order: _Open[SourceT]) -> None:
        if order.job is not None and order.noted != order.job.name:
            order.noted = order.job.name
            self.remember("job", order.noted)

    def _reconcile_lost(self) -> Flow[None]:
        """Find the jobs of create calls without a clear answer; call again where none shows up over the whole time."""
        while lost := [order for order in self.open if order.lost is not None]:
            yield from self._find_lost(lost)
            for order in lost:
                if not order.is_open:
                    continue
                if order.creates < self.policy.max_creates:
                    yield from self._ask(order)
                    order.lost = None
                    yield from self._create(order, self.requests[order.token.digest])
                    continue
                order.error = SubmitError(
                    f"{order.creates} create calls ended without a clear answer (the last: {order.lost}), and no job "
                    f"showed up in the list. Look for [airflow {order.token}] among the jobs; the next attempt at this "
                    "task takes such a job if there is one by then."
                )
                order.error.__cause__ = order.lost

    def _find_lost(self, lost: list[_Open[SourceT]]) -> Flow[None]:
        before = frozenset(self.own.seen)
        new: dict[str, BatchJob] = {}
        for pause in self.policy.reconcile:
            waiting = [order for order in lost if order.is_open]
            if not waiting:
                return
            if pause:
                yield _before_look(pause, f"The create call ended without a clear answer ({waiting[0].lost}).")
            try:
                jobs = yield from self._listed()
                for order in waiting:
                    same = self._sorted_out(jobs, order).same
                    job = yield from self.choice.of(same)
                    ended = [one for one in same if one.name not in before and not is_live(one)]
                    # A job that failed at once is what came of our call, too.
                    job = job or next((failed for failed in ended if failed.state is JobState.FAILED), None)
                    if job is not None:
                        self._found(order, job)
                    elif ended:
                        new[order.token.digest] = ended[0]
            except GeminiBatchError as unreadable:
                for order in waiting:
                    if order.is_open:
                        order.error = _unreadable(order, unreadable)
                return
        for order in lost:
            # One that was cancelled since the call is an outcome as well, but a live one might have shown up beside it.
            if order.is_open and order.token.digest in new:
                self._found(order, new[order.token.digest])

    def _found(self, order: _Open[SourceT], job: BatchJob) -> None:
        reason = f"The answer to the create call was lost; {job.name} was found in the list by its token."
        order.take(job, "replaced" if self.replaced else "adopted", reason)
        order.is_new = True
        self._note(order)
        if self.replaced:
            order.reason += f" Cancelled to be replaced: {', '.join(self.replaced)}."

    # --- rule 4: twins ------------------------------------------------------------------------------------------------

    def _without_twins(self) -> Flow[None]:
        """Make sure that no twin of a live job lives on; the oldest stays."""
        for order in self.orders:
            self._note(order)
        first = (0.0,) if any(order.is_new for order in self.orders) else ()
        for pause in (*first, *(self.policy.rivals if self.may_have_rivals else ())):
            live = [order for order in self.orders if order.job is not None and is_live(order.job)]
            if not live:
                return
            if pause:
                yield _before_look(pause, "Another attempt may have submitted a job, too.")
            try:
                listed = yield from self._listed()
                for order in live:
                    yield from self._converge(order, listed)
            except GeminiBatchError as error:
                # There is a job and it is noted; a look for a twin must not cost it.
                for order in live:
                    order.reason += f" Whether another attempt submitted a twin could not be checked ({error})."
                return

    def _converge(self, order: _Open[SourceT], listed: list[BatchJob]) -> Flow[None]:
        ours = order.job
        assert ours is not None
        found = self._sorted_out(listed, order)
        same = {job.name: job for job in found.same}
        if self.replaces:
            yield from self.choice.cancel_all(job for job in found.other if age_order(job) < age_order(ours))
        twins = [job for name, job in same.items() if name != ours.name and is_live_or_useful(job)]
        if not twins:
            return  # ours may not be listed yet: that means nothing
        winner = yield from self.choice.of((*twins, same.get(ours.name, ours)))
        if winner is None:
            return
        if winner.name != ours.name:
            reason = f"{winner.name} of another attempt at this task is older than {ours.name} and is taken instead."
            order.take(winner, "reused" if winner.state.has_results else "adopted", reason)
            self._note(order)
        yield from self.choice.cancel_all(job for job in (*twins, ours) if job.name != winner.name)


def _before_look(seconds: float, why: str) -> Pause:
    return Pause(seconds, f"{why} Looking for it in {seconds:g} s.")


def _unreadable(order: _Open[SourceT], unreadable: GeminiBatchError) -> SubmitError:
    error = SubmitError(
        f"The create call ended without a clear answer ({order.lost}), and the list of jobs cannot be read "
        f"({unreadable}), so nothing more was created. Look for [airflow {order.token}] among the jobs; the next "
        "attempt at this task takes such a job if there is one."
    )
    error.__cause__ = order.lost
    return error
