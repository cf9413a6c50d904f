# SPDX-License-Identifier: Apache-2.0
"""Waits for one job and for many, against the emulator over HTTP."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from airflow_provider_gemini_batch.api.identity import SubmissionToken
from airflow_provider_gemini_batch.api.models import BatchJob
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.errors import NotFoundError, ServerError
from airflow_provider_gemini_batch.lifecycle.waiting import Outcome, WaitLimits, Watch
from airflow_provider_gemini_batch.watch.event import End, next_end, watch_until_over
from airflow_provider_gemini_batch.watch.poller import subscribe, subscribe_many
from airflow_provider_gemini_batch.watch.steps import Update
from tests.watch.test_poller import settings_for


async def the_next_end(*arguments):
    end = await next_end(*arguments)
    assert end is not None
    return end


def watches_for(names, **limits):
    return {name: Watch(WaitLimits(**{"deadline": math.inf, **limits}), time.time()) for name in names}


def test_one_subscription_waits_for_fifty_jobs(gemini_batch_emulator):
    names = gemini_batch_emulator.seed_jobs(count=50, state="RUNNING")

    async def watch():
        watches = watches_for(names)
        with subscribe_many(settings_for(gemini_batch_emulator), names, 0.2) as subscription:
            assert await next_end(watches, subscription, 0.7) is None
            gemini_batch_emulator.finish_jobs(count=20)
            ends = [await the_next_end(watches, subscription, 5) for _ in range(20)]
            left = subscription.job_names
            assert await next_end(watches, subscription, 0.5) is None
            gemini_batch_emulator.finish_jobs()
            ends += [await the_next_end(watches, subscription, 5) for _ in left]
            assert subscription.job_names == ()
            with pytest.raises(ValueError, match="No job"):
                await next_end(watches, subscription, 0.1)
            return ends

    ends = asyncio.run(watch())
    assert {end.job_name for end in ends} == set(names)
    assert {end.outcome for end in ends} == {Outcome.ENDED}


def test_each_of_many_jobs_has_limits_of_its_own(gemini_batch_emulator):
    [late] = gemini_batch_emulator.seed_jobs(count=1, state="RUNNING")
    [pending] = gemini_batch_emulator.seed_jobs(count=1, state="PENDING")
    [good] = gemini_batch_emulator.seed_jobs(count=1, state="SUCCEEDED")

    async def watch():
        watches = {
            **watches_for([late], deadline=time.time() + 0.5),
            **watches_for([pending], pending_timeout=0.3),
            **watches_for([good]),
        }
        with subscribe_many(settings_for(gemini_batch_emulator), watches, 0.2) as subscription:
            return {end.job_name: end.outcome for end in [await the_next_end(watches, subscription) for _ in watches]}

    assert asyncio.run(watch()) == {
        late: Outcome.TIMEOUT,
        pending: Outcome.PENDING_TIMEOUT,
        good: Outcome.ENDED,
    }


def test_a_job_of_many_that_is_gone_ends_alone(gemini_batch_emulator):
    [good] = gemini_batch_emulator.seed_jobs(count=1, state="RUNNING")

    async def watch():
        watches = {
            "batches/gone": Watch(WaitLimits(math.inf), time.time() - 100),
            **watches_for([good]),
        }
        with subscribe_many(settings_for(gemini_batch_emulator), watches, 0.2) as subscription:
            first = await the_next_end(watches, subscription, 5)
            gemini_batch_emulator.finish_jobs()
            return first, await the_next_end(watches, subscription, 5)

    first, second = asyncio.run(watch())
    assert (first.job_name, first.outcome, type(first.error)) == ("batches/gone", Outcome.ERROR, NotFoundError)
    assert second == End(good, Outcome.ENDED)


def test_a_cancelled_wait_for_many_goes_on_where_it_was(gemini_batch_emulator):
    names = gemini_batch_emulator.seed_jobs(count=2, state="RUNNING")

    async def watch():
        watches = watches_for(names)
        with subscribe_many(settings_for(gemini_batch_emulator), names, 0.2) as subscription:
            waiting = asyncio.create_task(next_end(watches, subscription))
            await asyncio.sleep(0.3)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            gemini_batch_emulator.finish_jobs()
            return {(await the_next_end(watches, subscription, 5)).job_name for _ in names}

    assert asyncio.run(watch()) == set(names)


def test_whoever_learns_of_an_end_may_end_the_wait(gemini_batch_emulator):
    """A webhook, say, long before the next poll."""
    [name] = gemini_batch_emulator.seed_jobs(count=1, state="RUNNING")

    async def watch():
        [watch] = watches_for([name]).values()
        with subscribe(settings_for(gemini_batch_emulator), name, 3600) as subscription:
            waiting = asyncio.create_task(watch_until_over(watch, subscription))
            await asyncio.sleep(0.3)
            subscription.deliver(Update(name, job=BatchJob(name, state=JobState.SUCCEEDED)))
            return await asyncio.wait_for(waiting, 2)

    assert asyncio.run(watch()).outcome is Outcome.ENDED


def test_a_sibling_in_the_list_reaches_the_wait_which_may_end(gemini_batch_emulator):
    name = SubmissionToken("0123456789abcdef", "1" * 16).display_name("mine")
    own, twin = gemini_batch_emulator.seed_jobs(count=2, state="RUNNING", display_name=name)
    others = gemini_batch_emulator.seed_jobs(count=6, state="RUNNING")
    seen = []

    async def on_sibling(job_name, job, sibling):
        seen.append((job_name, job.name, sibling.name))
        return Outcome.ENDED

    async def watch():
        settings = settings_for(gemini_batch_emulator)
        [watch] = watches_for([own]).values()
        with subscribe_many(settings, others, 0.2), subscribe(settings, own, 0.2) as subscription:
            return await asyncio.wait_for(watch_until_over(watch, subscription, on_sibling), 10)

    assert asyncio.run(watch()).outcome is Outcome.ENDED
    assert seen == [(own, own, twin)]


def test_what_kept_polls_from_succeeding_is_told_at_the_limit(gemini_batch_emulator):
    [name] = gemini_batch_emulator.seed_jobs(count=1, state="RUNNING")
    gemini_batch_emulator.fault(match={"path": "batches"}, times=None, status=503)

    async def watch():
        [watch] = watches_for([name], deadline=time.time() + 0.5).values()
        with subscribe(settings_for(gemini_batch_emulator), name, 0.2) as subscription:
            return await watch_until_over(watch, subscription)

    end = asyncio.run(watch())
    assert (end.outcome, type(end.error)) == (Outcome.TIMEOUT, ServerError)
