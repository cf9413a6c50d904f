# SPDX-License-Identifier: Apache-2.0
"""
One billed job for one piece of work.

The service creates (and bills) a job for every create call, so a call is never simply repeated. The rules, in order:

1. Find before create. Jobs that carry our mark (:mod:`~airflow_provider_gemini_batch.api.identity`) are looked up by
   the names we remember and in the service's list, on every attempt. A job with answers is reused, a live one
   adopted. A failed, cancelled or expired one does not count, nor does one that is being cancelled.
2. Rows are uploaded only once it is clear that a job has to be created; if that took a while, rule 1 is applied again.
3. A create that ended without a clear answer is followed by looks at the list over some time, since a new job shows up
   there late. Only if none finds a job is the call made again, a few times at most.
4. After a create, look for a twin: a worker thought dead may have submitted beside us. Of several live jobs the oldest
   wins, by the service's own time and then by name, so that both attempts choose alike; the others are cancelled.
5. No job is created while the list cannot be read.

Nothing here looks at a clock, sleeps or sends: it is a flow, see :mod:`~airflow_provider_gemini_batch.api.wire`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from airflow_provider_gemini_batch.api.flows import Pages, cancel_job, exchange, get_job, list_page
from airflow_provider_gemini_batch.api.identity import TASK_LABEL, SubmissionToken, token_of
from airflow_provider_gemini_batch.api.retry import NO_RETRY, RetryPolicy
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.api.wire import Flow, HttpRequest, Pause
from airflow_provider_gemini_batch.errors import (
    GeminiBatchError,
    JobConflictError,
    NotFoundError,
    ReplyFormatError,
    RequestRejectedError,
    SubmitError,
    TransportError,
)
from airflow_provider_gemini_batch.times import instant

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.models import BatchJob, JobSpec

SourceT = TypeVar("SourceT")

OnExistingJob = Literal["replace", "reuse", "fail", "siblings"]
Action = Literal["created", "adopted", "reused", "replaced"]


@dataclass(frozen=True)
class SubmitPolicy:
    """
    How patiently a submission is settled. Times are seconds.

    :param settle: Pauses before each look after a create without a clear answer. The sum has to be well above the time
        a new job needs to show up in the list (observed: seconds) plus the time a request may be on its way.
    :param settle_rivals: Pauses before the further looks for a twin after a create, when another attempt may run.
    :param max_creates: Create calls in all, when none of them got a clear answer.
    :param reads: Retries of get and list.
    :param cancels: Retries of cancel.
    :param connects: Retries of a create that certainly never left this machine.
    :param clock_skew: How far the service's clock and ours may differ.
    :param in_flight: How long after a remembered intent its create call may still be on its way.
    :param fresh: A look older than this is repeated before a create.
    """

    settle: tuple[float, ...] = (0, 2, 5, 10, 15, 15)
    settle_rivals: tuple[float, ...] = (10,)
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
    """

    job: BatchJob
    action: Action
    reason: str
    surplus: tuple[str, ...] = ()
    uncancelled: tuple[str, ...] = ()


def submit(
    backend: Backend,
    spec_for: Callable[[SourceT], JobSpec],
    prepare: Callable[[], Flow[SourceT]],
    token: SubmissionToken,
    *,
    since: float | None,
    known_names: Sequence[str] = (),
    on_existing_job: OnExistingJob = "replace",
    may_have_rivals: bool = False,
    intent_at: float | None = None,
    exclude: Collection[str] = frozenset(),
    policy: SubmitPolicy | None = None,
    now: Callable[[], float],
    remember: Callable[[str, str], None] = lambda what, value: None,
    is_remnant: Callable[[BatchJob], bool] = lambda job: False,
) -> Flow[Submission]:
    """
    Find this submission's job, or create it.

    :param spec_for: Makes the job from what *prepare* returned; the mark is put on here.
    :param prepare: Uploads the rows; called only when a job has to be created.
    :param since: UTC epoch before which no job of this task can have been created (e.g. the start of the DAG run), or
        None if unknown: then the whole list is read.
    :param known_names: Names of jobs remembered for this task, of whatever input.
    :param on_existing_job: What to do about a job of this task with other input that is live or has answers: cancel the
        live ones and create, take it, or raise. ``siblings`` neither takes nor cancels it: the shards of one run are
        jobs of one task, each with rows of its own.
    :param may_have_rivals: Another attempt at this task may run right now (a retry, a clear, a remembered intent).
    :param intent_at: UTC epoch at which an earlier attempt remembered that it was about to create, if no job name was
        remembered after that. Its job may exist and not be listed yet.
    :param exclude: Names of jobs that must not be taken, e.g. one that was stuck and has just been cancelled.
    :param now: UTC epoch seconds.
    :param remember: Called with ``("intent", "<task>.<digest>")`` right before every create, and with
        ``("job", name)`` as soon as a job is known.
    :param is_remnant: Whether a SUCCEEDED job is what a cancel left over: its answers are not the whole work.
    :raises JobConflictError: With ``on_existing_job="fail"``.
    :raises RateLimitedError: The create was refused for a quota; nothing was created by it.
    :raises SubmitError: It could not be settled whether a job exists.
    :raises ApiError: Any clear refusal, of the list or of the create.
    """
    attempt = _Attempt(
        backend, spec_for, prepare, token, since, tuple(known_names), on_existing_job, may_have_rivals, intent_at,
        frozenset(exclude), policy or SubmitPolicy(), now, remember, is_remnant,
    )  # fmt: skip
    return (yield from attempt.run())


@dataclass(frozen=True)
class _Found:
    """What one look told: our jobs by kind. Excluded jobs are in none of them."""

    same: tuple[BatchJob, ...] = ()
    """Jobs with our digest, of any state."""
    other: tuple[BatchJob, ...] = ()
    """Jobs of this task with other input, of any state."""


class _Attempt(Generic[SourceT]):
    """One run through the rules of this module; its attributes are what has been learnt so far."""

    def __init__(
        self,
        backend: Backend,
        spec_for: Callable[[SourceT], JobSpec],
        prepare: Callable[[], Flow[SourceT]],
        token: SubmissionToken,
        since: float | None,
        known_names: tuple[str, ...],
        on_existing_job: OnExistingJob,
        may_have_rivals: bool,
        intent_at: float | None,
        exclude: frozenset[str],
        policy: SubmitPolicy,
        now: Callable[[], float],
        remember: Callable[[str, str], None],
        is_remnant: Callable[[BatchJob], bool],
    ) -> None:
        self.backend = backend
        self.spec_for = spec_for
        self.prepare = prepare
        self.token = token
        self.since = since
        self.known_names = known_names
        self.on_existing_job = on_existing_job
        self.may_have_rivals = may_have_rivals
        self.intent_at = intent_at
        self.exclude = exclude
        self.policy = policy
        self.now = now
        self.remember = remember
        self.is_remnant = is_remnant
        self.seen: set[str] = set()
        """Names of every job of ours that any look has shown."""
        self.rejected: set[str] = set()
        """Names of ended jobs whose answers turned out not to be usable."""
        self.surplus: list[str] = []
        self.uncancelled: list[str] = []
        self.replaced: list[str] = []

    def run(self) -> Flow[Submission]:
        started = self.now()
        taken = yield from self._take_existing()
        if taken is None:
            # Later looks need not go further back: what is older was listed in this one.
            self.since = started if self.since is None else max(self.since, started)
            taken = yield from self._settle_intent()
        if taken is not None:
            return (yield from self._without_twins(taken))
        looked_at = self.now()
        source = yield from self.prepare()
        spec = self.token.mark(self.spec_for(source), self.backend.name)
        request = self.backend.create_job(spec)
        if self.now() - looked_at > self.policy.fresh:
            taken = yield from self._take_existing()
            if taken is not None:
                return (yield from self._without_twins(taken))
        return (yield from self._create(request))

    def _without_twins(self, taken: Submission) -> Flow[Submission]:
        """
        Look again for twins of a live job before taking it, when other attempts may have created one.

        Two attempts that died after their creates may leave two jobs, of which the list shows only the older at first.
        """
        self.remember("job", taken.job.name)
        if not (self.may_have_rivals and _is_live(taken.job)):
            return taken
        for pause in self.policy.settle_rivals:
            yield _before_look(pause, "Another attempt may have submitted a job, too.")
            try:
                again = yield from self._take_existing()
            except GeminiBatchError:
                return taken  # there is a job to wait for; a later attempt looks again
            if again is not None:
                taken = again
                self.remember("job", taken.job.name)
        return taken

    # --- looking ------------------------------------------------------------------------------------------------------

    def _take_existing(self) -> Flow[Submission | None]:
        """Look once, and take what the rules let us take; cancel what ``replace`` tells us to."""
        remembered = yield from self._get_known()
        try:
            listed = yield from self._list_own()
        except GeminiBatchError:
            # Without the list nothing is created, but a job we know by name may be taken all the same.
            taken = yield from self._decide(_sorted_out(remembered, self.token), alone=True)
            if taken is None:
                raise
            return taken
        known = {job.name: job for job in (*listed, *remembered)}  # remembered ones are fresh: they win
        return (yield from self._decide(_sorted_out(known.values(), self.token)))

    def _get_known(self) -> Flow[list[BatchJob]]:
        jobs = []
        for name in dict.fromkeys(self.known_names):
            if name in self.exclude:
                continue
            try:
                job = yield from get_job(self.backend, name, self.policy.reads)
            except NotFoundError:
                continue  # deleted, or forgotten by the service
            self.seen.add(job.name)
            jobs.append(job)
        return jobs

    def _list_own(self) -> Flow[list[BatchJob]]:
        """Read the list, newest first, as far back as a job of this task can be, and keep this task's jobs."""
        horizon = None if self.since is None else self.since - self.policy.clock_skew
        wanted = None
        if self.backend.name == "vertex_ai":
            since = None if horizon is None else datetime.fromtimestamp(horizon, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            wanted = self.backend.own_jobs_filter({TASK_LABEL: self.token.task}, since)
        try:
            jobs = yield from self._read_list(wanted, horizon)
        except RequestRejectedError:
            if wanted is None:
                raise
            # The filter's grammar is documented, but no create may hang on it: compare on our side instead.
            jobs = yield from self._read_list(None, horizon)
        self.seen.update(job.name for job in jobs)
        return [job for job in jobs if job.name not in self.exclude]

    def _read_list(self, wanted: str | None, horizon: float | None) -> Flow[list[BatchJob]]:
        own: list[BatchJob] = []
        pages = Pages()
        for page_token in pages:
            page = yield from list_page(self.backend, self.policy.reads, page_token=page_token, filter=wanted)
            for job in page.jobs:
                token = token_of(job)
                if token is not None and token.task == self.token.task:
                    own.append(job)
            try:
                pages.turn(page)
            except ReplyFormatError as fault:
                raise SubmitError(
                    "The service's list of jobs does not end, so it cannot be told whether this task's job exists; "
                    f"none was created. Look for [airflow {self.token}] in the list of jobs."
                ) from fault
            if horizon is not None and page.jobs and all(_is_older(job, horizon) for job in page.jobs):
                break
        return own

    def _settle_intent(self) -> Flow[Submission | None]:
        """An earlier attempt was about to create and did not say what came of it: give its job time to be listed."""
        if self.intent_at is None:
            return None
        self.may_have_rivals = True
        patience = sum(self.policy.settle) + self.policy.in_flight
        for pause in self.policy.settle:
            if self.now() - self.intent_at >= patience:
                return None
            yield _before_look(pause, "An earlier attempt may have submitted a job.")
            taken = yield from self._take_existing()
            if taken is not None:
                return taken
        return None

    # --- deciding -----------------------------------------------------------------------------------------------------

    def _decide(self, found: _Found, *, alone: bool = False) -> Flow[Submission | None]:
        """
        Take a job with our digest if one counts; else apply ``on_existing_job``.

        :param alone: Only take: neither cancel nor judge by jobs with other input, as the picture is not whole.
        """
        chosen = yield from self._choose(found.same)
        if chosen is not None:
            if not alone:
                yield from self._cancel_surplus(job for job in found.same if job.name != chosen.name)
                if self.on_existing_job == "replace":
                    yield from self._cancel_surplus(found.other)
            return self._taken(chosen, "with the same input")
        if alone:
            return None
        if self.on_existing_job == "replace":
            for job in found.other:
                if _is_live(job) and job.name not in self.replaced:
                    yield from self._cancel_for_replacement(job)
            return None
        other = None if self.on_existing_job == "siblings" else (yield from self._choose(found.other))
        if other is None:
            return None
        if self.on_existing_job == "reuse":
            return self._taken(other, "with other input, as on_existing_job='reuse' asks")
        raise JobConflictError(
            f"{other.name} ({other.state.value}) was submitted by this task with other input. Set on_existing_job to "
            "'replace' (cancels it if it is live, and submits the new input) or 'reuse' (takes it), or delete it.",
            job=other,
        )

    def _choose(self, jobs: Iterable[BatchJob]) -> Flow[BatchJob | None]:
        """
        Return the one job to take: the oldest with usable answers, else the oldest live one.

        What a list says of a job may be stale and lacks numbers, so a job is looked at before it is taken.
        """
        candidates = [job for job in sorted(jobs, key=_age_order) if job.name not in self.rejected]
        live: list[BatchJob] = []
        for candidate in candidates:
            if not (_is_live(candidate) or candidate.state.has_results):
                continue
            try:
                job = yield from get_job(self.backend, candidate.name, self.policy.reads)
            except NotFoundError:
                continue
            if job.state.has_results:
                if job.stats.succeeded != 0 and not self.is_remnant(job):
                    return job
                self.rejected.add(job.name)
            elif _is_live(job):
                live.append(job)
        return min(live, key=_age_order, default=None)  # anew: a create's answer may lack the time

    def _taken(self, job: BatchJob, why: str) -> Submission:
        if job.state.has_results:
            return self._submission(
                job, "reused", f"Reusing the answers of {job.name}, which this task submitted {why}."
            )
        text = f"Adopting {job.name} ({job.state.value}), which this task submitted {why}."
        return self._submission(job, "adopted", text)

    def _submission(self, job: BatchJob, action: Action, reason: str) -> Submission:
        if self.surplus:
            reason += f" Cancelled as surplus: {', '.join(self.surplus)}."
        if self.uncancelled:
            reason += f" Could not be cancelled and may still run: {', '.join(self.uncancelled)}."
        return Submission(job, action, reason, tuple(self.replaced + self.surplus), tuple(self.uncancelled))

    # --- cancelling ---------------------------------------------------------------------------------------------------

    def _cancel_surplus(self, jobs: Iterable[BatchJob]) -> Flow[None]:
        """Cancel what lives among *jobs*. There is a job to wait for, so a failing cancel is told, not raised."""
        for job in jobs:
            if not _is_live(job) or job.name in self.surplus:
                continue
            try:
                yield from cancel_job(self.backend, job.name, self.policy.cancels)
            except GeminiBatchError:
                if job.name not in self.uncancelled:
                    self.uncancelled.append(job.name)
            else:
                self.surplus.append(job.name)
                if job.name in self.uncancelled:
                    self.uncancelled.remove(job.name)

    def _cancel_for_replacement(self, job: BatchJob) -> Flow[None]:
        """Cancel a job before it is replaced; if that fails nothing is created, as both would bill."""
        try:
            yield from cancel_job(self.backend, job.name, self.policy.cancels)
        except RequestRejectedError:
            # It may have ended meanwhile; what the Developer API answers then is not published.
            fresh = yield from get_job(self.backend, job.name, self.policy.reads)
            if _is_live(fresh):
                raise
            return
        self.replaced.append(job.name)

    # --- creating -----------------------------------------------------------------------------------------------------

    def _create(self, request: HttpRequest) -> Flow[Submission]:
        connects = 0
        creates = 0
        while True:
            # If we die right after this line, the next attempt knows that a job of ours may exist, and by which mark.
            self.remember("intent", str(self.token))
            try:
                job = yield from exchange(request, self.backend.read_job, NO_RETRY)
            except GeminiBatchError as error:
                if not error.may_have_taken_effect:
                    if not isinstance(error, TransportError):
                        raise  # a clear refusal (4xx, 429): nothing was created
                    connects += 1
                    delay = self.policy.connects.delay_after(error, connects)
                    if delay is None:
                        raise
                    yield Pause.before_retry(delay, error)
                    continue
                creates += 1
                self.may_have_rivals = True  # the lost call may still be carried out
                taken = yield from self._settle(error)
                if taken is not None:
                    return taken
                if creates >= self.policy.max_creates:
                    raise SubmitError(
                        f"{creates} create calls ended without a clear answer (the last: {error}), and no job showed "
                        f"up in the list. Look for [airflow {self.token}] among the jobs; the next attempt at this "
                        "task takes such a job if there is one by then."
                    ) from error
                continue
            self.remember("job", job.name)
            self.seen.add(job.name)
            return (yield from self._converge(job))

    def _settle(self, error: GeminiBatchError) -> Flow[Submission | None]:
        """Look for the job of a create call without a clear answer; None if none shows up over the whole time."""
        before = frozenset(self.seen)
        new: list[BatchJob] = []
        for pause in self.policy.settle:
            if pause:
                yield _before_look(pause, f"The create call ended without a clear answer ({error}).")
            try:
                jobs = yield from self._list_own()
                same = _sorted_out(jobs, self.token).same
                job = yield from self._choose(same)
            except GeminiBatchError as unreadable:
                raise SubmitError(
                    f"The create call ended without a clear answer ({error}), and the list of jobs cannot be read "
                    f"({unreadable}), so nothing more was created. Look for [airflow {self.token}] among the jobs; "
                    "the next attempt at this task takes such a job if there is one."
                ) from error
            new = [candidate for candidate in same if candidate.name not in before and not _is_live(candidate)]
            # A job that failed at once is what came of our call, too.
            job = job or next((failed for failed in new if failed.state is JobState.FAILED), None)
            if job is not None:
                return (yield from self._found(job))
        # One that was cancelled since the call is an outcome as well, but a live one might have shown up beside it.
        return (yield from self._found(new[0])) if new else None

    def _found(self, job: BatchJob) -> Flow[Submission]:
        self.remember("job", job.name)
        how = f"The answer to the create call was lost; {job.name} was found in the list by its mark."
        return (yield from self._converge(job, how))

    def _converge(self, ours: BatchJob, how: str | None = None) -> Flow[Submission]:
        """Make sure that no twin of the job we just created lives on; the oldest stays."""
        action: Action = "replaced" if self.replaced else "adopted" if how else "created"
        reason = how or f"Created {ours.name}: no job of this task with this input was live or had answers."
        if self.replaced:
            reason += f" Cancelled to be replaced: {', '.join(self.replaced)}."
        if not _is_live(ours):
            return self._submission(ours, action, reason)
        for pause in (0.0, *(self.policy.settle_rivals if self.may_have_rivals else ())):
            if pause:
                yield _before_look(pause, "Another attempt may have submitted a job, too.")
            try:
                jobs = {job.name: job for job in _sorted_out((yield from self._list_own()), self.token).same}
                twins = [job for name, job in jobs.items() if name != ours.name and _is_live_or_useful(job)]
                if not twins:
                    continue  # ours may not be listed yet: that means nothing
                winner = yield from self._choose((*twins, jobs.get(ours.name, ours)))
            except GeminiBatchError as error:
                # There is a job and it is remembered; a look for a twin must not cost it.
                reason += f" Whether another attempt submitted a twin could not be checked ({error})."
                break
            if winner is None:
                continue
            if winner.name != ours.name:
                self.remember("job", winner.name)
                reason = (
                    f"{winner.name} of another attempt at this task is older than {ours.name} and is taken instead."
                )
                action = "reused" if winner.state.has_results else "adopted"
            yield from self._cancel_surplus(job for job in (*twins, ours) if job.name != winner.name)
            ours = winner
        return self._submission(ours, action, reason)


def _before_look(seconds: float, why: str) -> Pause:
    return Pause(seconds, f"{why} Looking for it in {seconds:g} s." if seconds else "")


def _sorted_out(jobs: Iterable[BatchJob], token: SubmissionToken) -> _Found:
    same: list[BatchJob] = []
    other: list[BatchJob] = []
    for job in jobs:
        found = token_of(job)
        # A remembered job whose mark somebody edited away is still ours, and nothing says that its input differs.
        if found is None or found == token:
            same.append(job)
        elif found.task == token.task:
            other.append(job)
    return _Found(tuple(same), tuple(other))


def _is_live(job: BatchJob) -> bool:
    """Whether the job runs or will, as far as we know; one that is being cancelled is as good as cancelled."""
    return not job.state.is_terminal and job.state is not JobState.CANCELLING


def _is_live_or_useful(job: BatchJob) -> bool:
    return _is_live(job) or job.state.has_results


def _is_older(job: BatchJob, horizon: float) -> bool:
    created = instant(job.create_time)
    return created is not None and created[0] < horizon


def _age_order(job: BatchJob) -> tuple[bool, tuple[int, int], str]:
    """Order by age, then name: the same for everybody who looks. A job without a time comes last."""
    created = instant(job.create_time)
    return (created is None, created or (0, 0), job.name)
