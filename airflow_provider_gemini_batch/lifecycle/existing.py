# SPDX-License-Identifier: Apache-2.0
"""Rule 1 of :mod:`~.lifecycle.submit`: which of this task's jobs is taken, and which are cancelled?"""

# One look reads the jobs we know by name and the list. For each order the first of these counts:
#
# 1. a job with the same input that is live or has answers: it is taken, its twins are cancelled;
# 2. one that another map index submitted, as the mapped list was re-ordered: it is taken;
# 3. any job with the same input, among siblings: a shard is asked once, whatever came of it;
# 4. a job with other input: `on_existing_job` says whether it is cancelled, taken or an error.

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError, JobConflictError
from airflow_provider_gemini_batch.lifecycle.cancelling import cancel_live
from airflow_provider_gemini_batch.lifecycle.own_jobs import Found, age_order, is_live

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.api.wire import Flow
    from airflow_provider_gemini_batch.lifecycle.submission import SourceT
    from airflow_provider_gemini_batch.lifecycle.wave import OpenOrder, Wave


def take_existing(wave: Wave[SourceT]) -> Flow[None]:
    """
    Look once, and take what the rules let us take; cancel what ``replace`` tells us to.

    :raises ConfigurationError: If a noted job is one of the other backend.
    """
    _check_names(wave)
    noted = yield from wave.own.get(wave.known_names)
    try:
        listed = yield from wave.listed()
    except GeminiBatchError:
        # Without the list nothing is created, but a job we know by name may be taken all the same.
        for order in wave.open:
            yield from _decide(wave, order, wave.sorted_out(noted, order), alone=True)
        if wave.open:
            raise
        return
    known = {job.name: job for job in (*listed, *noted)}  # noted ones were just read: they win
    for order in wave.open:
        yield from _decide(wave, order, wave.sorted_out(known.values(), order))


def _check_names(wave: Wave[SourceT]) -> None:
    """Refuse to submit beside a job that this connection can neither read nor cancel."""
    for name in wave.known_names:
        try:
            wave.backend.check_job_name(name)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"An earlier attempt at this task submitted {name} with another connection, where it may run and bill; "
                "nothing was submitted. Give the task that connection back; or cancel the job there and clear the "
                f"task, which then submits with this one. {error}"
            ) from error


def _decide(wave: Wave[SourceT], order: OpenOrder[SourceT], found: Found, *, alone: bool = False) -> Flow[None]:
    """
    Take a job with our digest if one counts; else apply ``on_existing_job``.

    :param alone: Only take: neither cancel nor judge by jobs with other input, as the picture is not whole.
    """
    wave.doubtful += [job.name for job in found.doubtful if job.name not in wave.doubtful]
    chosen = yield from wave.choice.of(found.same)
    if chosen is not None:
        if not alone:
            yield from wave.choice.cancel_all(job for job in found.same if job.name != chosen.name)
            if wave.replaces:
                yield from wave.choice.cancel_all(found.other)
        _take(order, chosen, "with the same input")
        return
    # Only by equal rows: what another index asked is as good as our own answer to the same question.
    chosen = yield from wave.choice.of(found.reordered)
    if chosen is not None:
        # Another index wants our former job then: it is left alone.
        _take(order, chosen, "at another map index with the same input: the mapped list was re-ordered")
    elif wave.on_existing_job == "siblings" and found.same:
        job = min(found.same, key=age_order)
        order.take(job, "adopted", f"{job.name} ({job.state.value}) is what came of these rows.")
    elif not alone:
        yield from _apply_on_existing_job(wave, order, found.other)


def _apply_on_existing_job(wave: Wave[SourceT], order: OpenOrder[SourceT], others: Iterable[BatchJob]) -> Flow[None]:
    if wave.on_existing_job == "siblings":
        return
    if wave.on_existing_job == "replace":
        for job in others:
            # A job that has ended cannot be stopped any more, and costs nothing further.
            if not is_live(job) or job.name in wave.replaced:
                continue
            if wave.replaces:
                yield from _cancel_for_replacement(wave, job)
            elif job.name not in wave.spared:
                wave.spared.append(job.name)
        return
    other = yield from wave.choice.of(others)
    if other is None:
        return
    if wave.on_existing_job == "reuse":
        _take(order, other, "with other input, as on_existing_job='reuse' asks")
        return
    raise JobConflictError(
        f"{other.name} ({other.state.value}) was submitted by this task with other input. Set on_existing_job to "
        "'replace' (cancels it if it is live, and submits the new input) or 'reuse' (takes it), or delete it.",
        job=other,
    )


def _take(order: OpenOrder[SourceT], job: BatchJob, why: str) -> None:
    if job.state.has_results:
        order.take(job, "reused", f"Reusing the answers of {job.name}, which this task submitted {why}.")
    else:
        text = f"Adopting {job.name} ({job.state.value}), which this task submitted {why}."
        order.take(job, "adopted", text)


def _cancel_for_replacement(wave: Wave[SourceT], job: BatchJob) -> Flow[None]:
    """Cancel a job before it is replaced; if that fails nothing is created, as both would bill."""
    if (yield from cancel_live(wave.backend, job.name, wave.policy.cancels, wave.policy.reads)):
        wave.replaced.append(job.name)
