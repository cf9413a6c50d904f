# SPDX-License-Identifier: Apache-2.0
"""Rules 2 and 3 of :mod:`~.lifecycle.submit`: when is a job created, and what if the answer is lost?"""

# A create call has one of three ends, and each has one way on:
#
#   end              way on
#   ---------------  ---------------------------------------------------------------------------------------------
#   the job          it is noted at once
#   a clear refusal  nothing was created; the rest of the wave is not sent
#   no clear answer  the job may exist: looks at the list over some time, and a call anew if none of them shows it

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.api.flows import exchange, get_job
from airflow_provider_gemini_batch.api.retry import NO_RETRY
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.api.wire import Pause
from airflow_provider_gemini_batch.errors import GeminiBatchError, NotFoundError, SubmitError, TransportError
from airflow_provider_gemini_batch.lifecycle.existing import take_existing
from airflow_provider_gemini_batch.lifecycle.own_jobs import is_live
from airflow_provider_gemini_batch.lifecycle.wave import pause_before_look

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.api.wire import Flow, HttpRequest
    from airflow_provider_gemini_batch.lifecycle.submission import Action, SourceT
    from airflow_provider_gemini_batch.lifecycle.wave import OpenOrder, Wave


def reconcile_intent(wave: Wave[SourceT], started: float) -> Flow[None]:
    """An earlier attempt may have created and not said what came of it: give its job time to be listed."""
    intent_at = wave.intent_at
    if wave.known_names and all(name in wave.own.jobs for name in wave.known_names):
        intent_at = None  # what came of the noted intent is known
    if intent_at is None and wave.may_have_rivals and not wave.all_accounted_for:
        intent_at = started  # nobody noted anything, so a create may be a moment old
    if intent_at is None:
        return
    # Whoever made that intent may still live: a worker that lost its connection to Airflow goes on for minutes.
    wave.may_have_rivals = True
    patience = sum(wave.policy.reconcile) + wave.policy.in_flight
    for pause in wave.policy.reconcile:
        # By then a job of that call is listed, or the call never arrived.
        if wave.now() - intent_at >= patience:
            return
        if pause:
            yield pause_before_look(pause, "An earlier attempt may have submitted a job.")
            yield from take_existing(wave)
        if not wave.open:
            return


def create_all(wave: Wave[SourceT]) -> Flow[None]:
    """Create a job for each order that is still open; a refusal ends the wave."""
    looked_at = wave.now()
    # One after the other, as each create may be the one that a quota refuses.
    for order in wave.open:
        # The body is built before the list is read again: reading, checking and uploading may take an hour, and in that
        # time another attempt may have created the job.
        request = yield from _prepared(wave, order)
        if wave.now() - looked_at > wave.policy.fresh:
            yield from take_existing(wave)
            looked_at = wave.now()
        if order.is_open:
            yield from _create(wave, order, request)
        if order.error is not None:
            for rest in wave.open:
                # An order whose call was lost keeps its own story: its job may exist, whatever became of the others.
                if rest.lost is None:
                    rest.error = order.error
            break
    yield from _reconcile_lost(wave)


def _prepared(wave: Wave[SourceT], order: OpenOrder[SourceT]) -> Flow[HttpRequest]:
    yield from _ask(wave, order)
    source = yield from order.order.prepare()
    spec = order.token.mark(order.order.spec_for(source), has_labels=wave.backend.has_labels)
    return wave.backend.create_job(spec)


def _ask(wave: Wave[SourceT], order: OpenOrder[SourceT]) -> Flow[None]:
    """Ask whether a job may be created; only for who counts what the jobs of before have answered, they are read."""
    if wave.may_create is not None:
        earlier = (yield from _earlier(wave)) if wave.reads_earlier else list(wave.own.jobs.values())
        wave.may_create(earlier, len(order.unheard))


def _earlier(wave: Wave[SourceT]) -> Flow[list[BatchJob]]:
    """Read this task's jobs of before, those that must not be taken among them: they may have billed, too."""
    jobs = []
    for name in dict.fromkeys((*wave.own.jobs, *wave.exclude)):
        try:
            jobs.append((yield from get_job(wave.backend, name, wave.policy.reads)))  # a list lacks the counts
        except NotFoundError:
            continue
    return jobs


def _create(wave: Wave[SourceT], order: OpenOrder[SourceT], request: HttpRequest) -> Flow[None]:
    """Call once, or again as long as the call certainly never left this machine."""
    # Kept for a repeated call: the very same bytes, so that both calls ask for the same job.
    wave.requests[order.token.digest] = request
    connects = 0
    while True:
        # If we die right after this line, the next attempt knows that a job of ours may exist, and by which token.
        wave.remember("intent", str(order.token))
        called_at = wave.now()
        try:
            job = yield from exchange(request, wave.backend.read_job, NO_RETRY)
        except GeminiBatchError as error:
            if error.may_have_taken_effect:
                order.unheard.append(called_at)
                order.lost = error
                wave.may_have_rivals = True  # the lost call may still be carried out
                return
            # The note is taken back, or the next attempt would wait for a job that cannot come.
            wave.remember("refused", str(order.token))
            connects += 1
            # Only a call that never left this machine (no connection, no TLS, a proxy that opened no tunnel) is made
            # again at once.
            delay = wave.policy.connects.delay_after(error, connects) if isinstance(error, TransportError) else None
            if delay is None:
                order.error = error  # a clear refusal (4xx, 429): nothing was created
                return
            yield Pause.before_retry(delay, error)
            continue
        action: Action = "replaced" if wave.replaced else "created"
        order.take(job, action, f"Created {job.name}: no job of this task with this input was live or had answers.")
        if wave.replaced:
            order.reason += f" Cancelled to be replaced: {', '.join(wave.replaced)}."
        # Made by this very attempt, so that nobody has looked for twins since: `rivals.py` does so at once.
        order.is_new = True
        wave.note(order)
        wave.own.seen.add(job.name)
        return


def _reconcile_lost(wave: Wave[SourceT]) -> Flow[None]:
    """Find the jobs of create calls without a clear answer; call again where none shows up over the whole time."""
    while lost := [order for order in wave.open if order.lost is not None]:
        yield from _find_lost(wave, lost)
        for order in lost:
            if not order.is_open:
                continue
            if len(order.unheard) < wave.policy.max_creates:
                yield from _ask(wave, order)
                order.lost = None
                yield from _create(wave, order, wave.requests[order.token.digest])
                continue
            order.error = SubmitError(
                f"{len(order.unheard)} create calls ended without a clear answer (the last: {order.lost}), and no job "
                f"showed up in the list. Look for [airflow {order.token}] among the jobs; the next attempt at this "
                "task takes such a job if there is one by then."
            )
            order.error.__cause__ = order.lost


def _find_lost(wave: Wave[SourceT], lost: list[OpenOrder[SourceT]]) -> Flow[None]:
    # What had been seen before the call cannot be what came of it.
    before = frozenset(wave.own.seen)
    new: dict[str, BatchJob] = {}
    for pause in wave.policy.reconcile:
        waiting = [order for order in lost if order.is_open]
        if not waiting:
            return
        if pause:
            yield pause_before_look(pause, f"The create call ended without a clear answer ({waiting[0].lost}).")
        try:
            jobs = yield from wave.listed()
            for order in waiting:
                same = wave.sorted_out(jobs, order).same
                job = yield from wave.choice.of(same)
                ended = [one for one in same if one.name not in before and not is_live(one)]
                # A job that failed at once is what came of our call, too.
                job = job or next((failed for failed in ended if failed.state is JobState.FAILED), None)
                if job is not None:
                    _found(wave, order, job)
                elif ended:
                    # Kept to the end of all looks: a live job may still show up, and counts more than one that has
                    # ended.
                    new[order.token.digest] = ended[0]
        except GeminiBatchError as unreadable:
            for order in waiting:
                if order.is_open:
                    # No create while the list cannot be read: the job of the lost call may be in it.
                    order.error = _unreadable(order, unreadable)
            return
    for order in lost:
        # One that was cancelled since the call is an outcome as well, but a live one might have shown up beside it.
        if order.is_open and order.token.digest in new:
            _found(wave, order, new[order.token.digest])


def _found(wave: Wave[SourceT], order: OpenOrder[SourceT], job: BatchJob) -> None:
    reason = f"The answer to the create call was lost; {job.name} was found in the list by its token."
    order.take(job, "replaced" if wave.replaced else "adopted", reason)
    order.is_new = True
    # The job of another attempt, listed late, says nothing of our calls: they may have made one more.
    order.hear(job.born(wave.now()), is_alone=not wave.identity.may_have_rivals)
    wave.note(order)
    if wave.replaced:
        order.reason += f" Cancelled to be replaced: {', '.join(wave.replaced)}."


def _unreadable(order: OpenOrder[SourceT], unreadable: GeminiBatchError) -> SubmitError:
    error = SubmitError(
        f"The create call ended without a clear answer ({order.lost}), and the list of jobs cannot be read "
        f"({unreadable}), so nothing more was created. Look for [airflow {order.token}] among the jobs; the next "
        "attempt at this task takes such a job if there is one."
    )
    error.__cause__ = order.lost
    return error
