# SPDX-License-Identifier: Apache-2.0
"""Rule 4 of :mod:`~.lifecycle.submit`: did another attempt submit the same, too?"""

# Asked after a create, for as long as the submission lasts. The oldest job stays, so that all attempts choose alike;
# the wait that follows goes on asking, see `lifecycle/twins.py`.

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.lifecycle.own_jobs import age_order, is_live, is_live_or_useful
from airflow_provider_gemini_batch.lifecycle.wave import pause_before_look

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.api.wire import Flow
    from airflow_provider_gemini_batch.lifecycle.submission import SourceT
    from airflow_provider_gemini_batch.lifecycle.wave import OpenOrder, Wave


def without_twins(wave: Wave[SourceT]) -> Flow[None]:
    """Make sure that no twin of a live job lives on; the oldest stays."""
    for order in wave.orders:
        wave.note(order)
    first = (0.0,) if any(order.is_new for order in wave.orders) else ()
    for pause in (*first, *(wave.policy.rivals if wave.may_have_rivals else ())):
        live = [order for order in wave.orders if order.job is not None and is_live(order.job)]
        if not live:
            return
        if pause:
            yield pause_before_look(pause, "Another attempt may have submitted a job, too.")
        try:
            listed = yield from wave.listed()
            for order in live:
                yield from _converge(wave, order, listed)
        except GeminiBatchError as error:
            # There is a job and it is noted; a look for a twin must not cost it.
            for order in live:
                order.reason += f" Whether another attempt submitted a twin could not be checked ({error})."
            return


def _converge(wave: Wave[SourceT], order: OpenOrder[SourceT], listed: list[BatchJob]) -> Flow[None]:
    ours = order.job
    assert ours is not None
    found = wave.sorted_out(listed, order)
    same = {job.name: job for job in found.same}
    if wave.replaces:
        yield from wave.choice.cancel_all(job for job in found.other if age_order(job) < age_order(ours))
    # The one that was just created may be missing from the list: it is put in by hand below.
    twins = [job for name, job in same.items() if name != ours.name and is_live_or_useful(job)]
    if not twins:
        return  # ours may not be listed yet: that means nothing
    winner = yield from wave.choice.of((*twins, same.get(ours.name, ours)))
    if winner is None:
        return
    if winner.name != ours.name:
        reason = f"{winner.name} of another attempt at this task is older than {ours.name} and is taken instead."
        order.take(winner, "reused" if winner.state.has_results else "adopted", reason)
        # Noted before the others are cancelled: if this process dies in between, the next attempt must find the winner,
        # not the job that is about to be cancelled.
        wave.note(order)
    yield from wave.choice.cancel_all(job for job in (*twins, ours) if job.name != winner.name)
