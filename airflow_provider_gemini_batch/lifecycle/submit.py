# SPDX-License-Identifier: Apache-2.0
"""One billed job for one piece of work."""

# The service creates (and bills) a job for every create call, so a call is never simply repeated. The rules, in order:
#
# 1. Find before create. Jobs that carry our token (`api/identity.py`) are looked up by the names we noted and in the
#    service's list, on every attempt. A job with answers is reused, a live one adopted. A failed, cancelled or expired
#    one does not count, nor does one that is being cancelled.
# 2. Rows are uploaded only once it is clear that a job has to be created; if that took a while, rule 1 is applied
#    again.
# 3. A create that may have happened unheard is reconciled: looks at the list over some time, since a new job shows up
#    there late. That is a create call without a clear answer; an intent that an earlier attempt noted, without a job's
#    name after it; and any attempt that may have rivals and knows neither an intent nor a name (no task state store, or
#    one that a clear has emptied), unless as many jobs of this task are listed as there were attempts before it. Only
#    if no look finds a job is one created, a few times at most.
# 4. After a create, look for a twin: a worker thought dead may have submitted beside us. Of several live jobs the
#    oldest wins, by the service's own time and then by name, so that both attempts choose alike; the others are
#    cancelled. What the list does not show by then is found while the task waits (`lifecycle/twins.py`).
# 5. No job is created while the list cannot be read.
#
# Nothing here looks at a clock, sleeps or sends: it is a flow, see `api/wire.py`.
#
# Theory of operation
# -------------------
#
# Between "the service has the job" and "the next attempt can know of it" lie three gaps, each with its own bridge:
#
#   gap                               bridge
#   --------------------------------  -------------------------------------------------------------------------------
#   the answer to the create is lost  the token in the job's name: the job can be recognised in the list (rules 1, 3)
#   this process dies before it has   the intent in the task state store, noted before the call: the next attempt
#   noted the job's name              knows that a job may exist, and waits for the list (rule 3)
#   the list shows a new job late     patience before a create (rule 3), and looks for twins after it (rule 4, and the
#                                     wait)
#
# Example: a worker is killed right after its create call, on Airflow 3.3, and the list lags 20 s.
#
#   s   what happens                                                               rule
#   --  -------------------------------------------------------------------------  ----
#   0   attempt 1 lists: nothing; uploads; notes the intent; creates A; is killed  1, 2
#   3   attempt 2 reads the intent, lists: nothing. It does not create             1, 3
#   3+  it looks again after 0, 2, 5, 10 s                                         3
#   20  the look at 20 s shows A; attempt 2 adopts it and notes its name           3
#   30  it looks once more for a twin, finds none, and waits for A                 4
#
# With a lag of 90 s the looks end at 50 s, attempt 2 creates B, and looks for a twin at 60 s in vain. Its wait finds A:
# see `lifecycle/twins.py`.
#
# A wave is several submissions of one task, e.g. the shards of a run: the list is read once for all of them, lost
# answers are reconciled together, and twins are looked for once. `submit` is a wave of one.

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.identity import SubmissionToken, TaskIdentity
from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError
from airflow_provider_gemini_batch.lifecycle.creating import create_all, reconcile_intent
from airflow_provider_gemini_batch.lifecycle.existing import take_existing
from airflow_provider_gemini_batch.lifecycle.rivals import without_twins
from airflow_provider_gemini_batch.lifecycle.submission import OnExistingJob, Order, SourceT, Submission, SubmitPolicy
from airflow_provider_gemini_batch.lifecycle.wave import OpenOrder, Wave

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.models import BatchJob, JobSpec
    from airflow_provider_gemini_batch.api.wire import Flow


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
    reads_earlier: bool = True,
    listed: tuple[float, Sequence[BatchJob]] | None = None,
) -> Flow[list[Submission | GeminiBatchError]]:
    """
    Find or create the jobs of several submissions of one task.

    :param orders: What is wanted; more than one only with ``on_existing_job="siblings"``.
    :param known_names: Names of jobs noted for this task, of whatever input.
    :param on_existing_job: What to do about a job of this task with other input that is live or has answers: cancel the
        live ones and create, take it, or raise. ``siblings`` neither takes nor cancels it: the shards of one run are
        jobs of one task, each with rows of its own. There a job of the very same input is taken in whatever state.
    :param intent_at: UTC epoch at which an earlier attempt noted that it was about to create. Unless the job noted
        after that is found, one may exist and not be listed yet, or be so young that a read by name misses it.
    :param exclude: Names of jobs that must not be taken, e.g. one that was stuck and has just been cancelled.
    :param now: UTC epoch seconds.
    :param remember: Called with ``("intent", "<task>.<digest>")`` right before every create, with ``("refused",
        "<task>.<digest>")`` if it certainly made no job, and with ``("job", name)`` as soon as a job is known.
    :param was_cut_short: Whether a SUCCEEDED job is what a cancel left over: its answers are not the whole work.
    :param may_create: Called before rows are uploaded and a job is created, with this task's own earlier jobs and the
        number of create calls without an answer, which may have made one each; what it raises ends the submission.
    :param reads_earlier: Whether *may_create* counts what earlier jobs have answered: each is read for it, as a list
        lacks the counts. Else they are as last seen, without those of *exclude*.
    :param listed: A look at the list that the caller has made: its UTC epoch second, and this task's jobs. It stands
        for the first look, if it is no older than ``policy.fresh``.
    :return: For each order what came of it. After a refusal the rest of the wave is not sent, and gets the same error.
    :raises GeminiBatchError: As :func:`submit`, where it concerns the wave as a whole.
    """
    if len(orders) > 1 and on_existing_job != "siblings":
        raise ConfigurationError("Several submissions of one task are siblings: on_existing_job='siblings'.")
    wave = Wave(
        backend, [OpenOrder(order) for order in orders], identity, tuple(known_names), on_existing_job, intent_at,
        frozenset(exclude), policy or SubmitPolicy(), now, remember, was_cut_short, may_create, reads_earlier, listed,
    )  # fmt: skip
    return (yield from _run(wave))


def _run(wave: Wave[SourceT]) -> Flow[list[Submission | GeminiBatchError]]:
    """Apply the rules, in order."""
    started = wave.now()
    yield from take_existing(wave)
    # A job adopted under a former identity, or of another index, is what came of an earlier attempt as well.
    wave.own_count = len(wave.own.owned | {order.job.name for order in wave.orders if order.job is not None})
    if wave.open:
        # Later looks need not go further back: what is older was listed in this one.
        wave.own.since = started if wave.own.since is None else max(wave.own.since, started)
        yield from reconcile_intent(wave, started)
        wave.own_count = len(wave.own.owned)
    if wave.open:
        yield from create_all(wave)
    yield from without_twins(wave)
    return [wave.outcome(order) for order in wave.orders]
