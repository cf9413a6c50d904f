# SPDX-License-Identifier: Apache-2.0
"""The shared poller against the emulator over HTTP."""

from __future__ import annotations

import asyncio
import time

import pytest

from airflow_provider_gemini_batch.api.field_masks import MASK_DOUBTS
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from airflow_provider_gemini_batch.errors import AuthError, ConfigurationError, NotFoundError
from airflow_provider_gemini_batch.watch import poller
from airflow_provider_gemini_batch.watch.poller import subscribe


def settings_for(emulator, **extra):
    connection = emulator.connection("gemini", **extra)
    return settings_from_connection(
        conn_type="gemini_batch", host=connection["host"], password=connection["password"], extra=connection["extra"]
    )


async def end_of(settings, name, poll_interval=1.0):
    with subscribe(settings, name, poll_interval) as subscription:
        while True:
            look = await subscription.look(30)
            assert look is not None, "no look within 30 s"
            if isinstance(look, Exception):
                raise look
            if look.is_done:
                return look


def test_thousand_jobs_cost_a_page_a_hundred_and_one_poller(gemini_batch_emulator):
    names = gemini_batch_emulator.seed_jobs(count=1000, state="RUNNING")
    settings = settings_for(gemini_batch_emulator)
    interval = 2.0

    async def watch():
        tasks = [asyncio.create_task(end_of(settings, name, interval)) for name in names]
        await asyncio.sleep(2.5 * interval)
        before = len(gemini_batch_emulator.journal())
        await asyncio.sleep(3 * interval)
        polled = gemini_batch_emulator.journal()[before:]
        gemini_batch_emulator.finish_jobs()
        return polled, await asyncio.wait_for(asyncio.gather(*tasks), 20)

    polled, ended = asyncio.run(watch())
    # The window of three intervals may cut a fourth round.
    assert 20 <= len(polled) <= 4 * (1000 / 100 + 2)
    assert {entry["path"] for entry in polled} == {"/v1beta/batches"}
    assert len({entry["connection"] for entry in gemini_batch_emulator.journal()}) <= 2
    assert {job.name for job in ended} == set(names)


def test_last_page_is_read_however_few_jobs_it_holds(gemini_batch_emulator):
    names = gemini_batch_emulator.seed_jobs(count=406, state="SUCCEEDED")
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        return await asyncio.gather(*(end_of(settings, name, 1.0) for name in names))

    assert len(asyncio.run(watch())) == 406
    asked = [entry["path"] for entry in gemini_batch_emulator.journal() if "batches/" in entry["path"]]
    # The first to come are read before it is known how many there are.
    assert len(asked) <= 4


async def polled_beside(emulator, few, others):
    """Watch *few* jobs alone, then *others* too; return how many single reads there were before, and later requests."""
    settings = settings_for(emulator)
    waits = [asyncio.create_task(end_of(settings, name, 1.0)) for name in few]
    await asyncio.sleep(2.5)
    apart = len([entry for entry in emulator.journal() if "batches/" in entry["path"]])
    waits += [asyncio.create_task(end_of(settings, name, 1.0)) for name in others]
    await asyncio.sleep(4)
    before = len(emulator.journal())
    await asyncio.sleep(3)
    polled = emulator.journal()[before:]
    emulator.finish_jobs()
    await asyncio.wait_for(asyncio.gather(*waits), 20)
    return apart, polled


def test_job_once_missed_far_down_the_list_is_not_read_apart_from_others_beside_it(gemini_batch_emulator):
    # The list is read newest first, so the few that wait alone at first are given up after a few pages.
    names = gemini_batch_emulator.seed_jobs(count=900, state="RUNNING")
    apart, polled = asyncio.run(polled_beside(gemini_batch_emulator, names[:6], names[6:]))
    assert apart >= 6
    assert polled
    assert {entry["path"] for entry in polled} == {"/v1beta/batches"}


def test_jobs_once_missed_on_the_last_page_are_read_with_it_where_that_costs_less(gemini_batch_emulator):
    # The same, but for the others alone the list is read to the page before.
    names = gemini_batch_emulator.seed_jobs(count=1300, state="RUNNING")
    apart, polled = asyncio.run(polled_beside(gemini_batch_emulator, names[:10], names[100:]))
    assert apart >= 10
    assert polled
    assert {entry["path"] for entry in polled} == {"/v1beta/batches"}


def test_look_that_shows_mere_progress_wakes_nobody_unless_hurried_or_long_ago(gemini_batch_emulator, monkeypatch):
    [name] = gemini_batch_emulator.seed_jobs(count=1, state="RUNNING", rows=100, script={"running_seconds": 10})
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        with subscribe(settings, name, 0.1) as subscription:
            first = await subscription.look(5)
            same = await subscription.look(0.6)
            subscription.hurry()
            hurried = await subscription.look(5)
            monkeypatch.setattr(poller, "REPEAT_SECONDS", 0.2)
            repeated = await subscription.look(5)
            monkeypatch.undo()
            gemini_batch_emulator.finish_jobs()
            return first, same, hurried, repeated, await subscription.look(5)

    first, same, hurried, repeated, ended = asyncio.run(watch())
    assert same is None
    assert first.stats.done < hurried.stats.done < repeated.stats.done
    assert ended.is_done
    assert len(gemini_batch_emulator.journal()) >= 6


def test_cancelled_wait_takes_nothing_from_the_others(gemini_batch_emulator):
    names = gemini_batch_emulator.seed_jobs(count=3, state="RUNNING")
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        first, *others = [asyncio.create_task(end_of(settings, name, 0.2)) for name in names]
        await asyncio.sleep(0.5)
        first.cancel()
        await asyncio.sleep(0.3)
        gemini_batch_emulator.finish_jobs()
        ended = await asyncio.wait_for(asyncio.gather(*others), 10)
        return first.cancelled(), ended

    cancelled, ended = asyncio.run(watch())
    assert cancelled
    assert [job.state for job in ended] == [JobState.SUCCEEDED, JobState.SUCCEEDED]


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "retry_after": 1},
        {"status": 503},
        {"action": "close"},
        {"action": "cut_response", "bytes": 40},
        {"status": 200, "body": "not json"},
    ],
    ids=["429", "503", "close", "cut", "garbage"],
)
def test_passing_trouble_is_told_to_nobody(gemini_batch_emulator, fault, count):
    names = gemini_batch_emulator.seed_jobs(count=count, state="SUCCEEDED")
    rule = gemini_batch_emulator.fault(match={"path": "batches"}, times=1, **fault)
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        return await asyncio.gather(*(end_of(settings, name, 0.2) for name in names))

    assert all(job.is_done for job in asyncio.run(watch()))
    assert rule.fired == 1


def test_a_429_slows_the_whole_poller(gemini_batch_emulator):
    names = gemini_batch_emulator.seed_jobs(count=50, state="RUNNING")
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        tasks = [asyncio.create_task(end_of(settings, name, 0.2)) for name in names]
        await asyncio.sleep(1.5)
        rule = gemini_batch_emulator.fault(match={"path": "batches"}, times=1, status=429, retry_after=2)
        while not rule.fired:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        hit = time.monotonic()
        before = len(gemini_batch_emulator.journal())
        while len(gemini_batch_emulator.journal()) == before:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        quiet = time.monotonic() - hit
        gemini_batch_emulator.finish_jobs()
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
        return quiet

    assert asyncio.run(watch()) >= 1.8


@pytest.mark.parametrize("wait", [0, 0.01])
def test_a_service_that_asks_for_no_pause_is_given_one(gemini_batch_emulator, wait):
    names = gemini_batch_emulator.seed_jobs(count=8, state="RUNNING")
    settings = settings_for(gemini_batch_emulator)
    gemini_batch_emulator.fault(match={"path": "batches"}, times=None, status=429, retry_after=wait)

    async def watch():
        tasks = [asyncio.create_task(end_of(settings, name, 0.2)) for name in names]
        await asyncio.sleep(3)
        for task in tasks:
            task.cancel()

    asyncio.run(watch())
    assert 1 <= len(gemini_batch_emulator.journal()) <= 5


@pytest.mark.parametrize("status", [400, 403, 404, 501])
def test_a_refused_page_of_the_list_concerns_no_wait(gemini_batch_emulator, status):
    names = gemini_batch_emulator.seed_jobs(count=250, state="RUNNING")
    rule = gemini_batch_emulator.fault(match={"path": "/batches$", "query": "pageToken"}, times=1, status=status)
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        tasks = [asyncio.create_task(end_of(settings, name, 0.5)) for name in names]
        while not rule.fired:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        gemini_batch_emulator.finish_jobs()
        return await asyncio.wait_for(asyncio.gather(*tasks), 30)

    assert {job.name for job in asyncio.run(watch())} == set(names)


def test_old_jobs_are_seen_although_a_quota_ends_before_their_page(gemini_batch_emulator):
    names = gemini_batch_emulator.seed_jobs(count=600, state="RUNNING")
    oldest = names[:10]
    settings = settings_for(gemini_batch_emulator)

    async def quota():
        while True:
            gemini_batch_emulator.clear_faults()
            gemini_batch_emulator.fault(match={"path": "/batches"}, skip=2, times=None, status=429)
            await asyncio.sleep(1.5)

    async def watch():
        tasks = {name: asyncio.create_task(end_of(settings, name, 1.0)) for name in names}
        await asyncio.sleep(1.5)
        limiting = asyncio.create_task(quota())
        gemini_batch_emulator.finish_jobs(count=len(oldest))
        ended = await asyncio.wait_for(asyncio.gather(*(tasks[name] for name in oldest)), 30)
        for task in (limiting, *tasks.values()):
            task.cancel()
        return ended

    assert {job.name for job in asyncio.run(watch())} == set(oldest)


@pytest.mark.parametrize(
    "fault",
    [{"status": 200, "body": "garbage", "times": 2}, {"status": 403, "times": 1}],
    ids=["spoilt", "refused"],
)
def test_a_list_that_failed_for_once_is_read_again(gemini_batch_emulator, monkeypatch, fault):
    monkeypatch.setattr(poller, "UNLISTED_SECONDS", 1.0 if fault["status"] == 403 else 600.0)
    names = gemini_batch_emulator.seed_jobs(count=300, state="RUNNING")
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        tasks = [asyncio.create_task(end_of(settings, name, 1.0)) for name in names]
        await asyncio.sleep(2.5)
        gemini_batch_emulator.fault(match={"path": "/batches$"}, **fault)
        await asyncio.sleep(3)
        before = len(gemini_batch_emulator.journal())
        await asyncio.sleep(3)
        for task in tasks:
            task.cancel()
        return [entry["path"] for entry in gemini_batch_emulator.journal()[before:]]

    polled = asyncio.run(watch())
    assert set(polled) == {"/v1beta/batches"}
    assert len(polled) <= 4 * 3


def test_a_list_that_repeats_its_token_is_left(gemini_batch_emulator):
    names = gemini_batch_emulator.seed_jobs(count=20, state="SUCCEEDED")
    gemini_batch_emulator.fault(
        match={"path": "/batches$"}, status=200, body={"operations": [], "nextPageToken": "same"}, times=None
    )
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        return await asyncio.wait_for(asyncio.gather(*(end_of(settings, name, 1.0) for name in names)), 20)

    assert len(asyncio.run(watch())) == len(names)
    assert len(gemini_batch_emulator.journal(path="/batches$")) <= 4


def test_one_spoilt_reply_does_not_bring_answers_through_the_triggerer(gemini_batch_emulator):
    [name] = gemini_batch_emulator.seed_jobs(count=1, state="RUNNING", rows=300)
    gemini_batch_emulator.fault(match={"path": name}, status=200, body="garbage", times=1)
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        task = asyncio.create_task(end_of(settings, name, 0.3))
        await asyncio.sleep(1)
        gemini_batch_emulator.finish_jobs()
        return await asyncio.wait_for(task, 20)

    assert asyncio.run(watch()).is_done
    ended = gemini_batch_emulator.journal(path=name)[-1]
    assert "fields=" in ended["query"]
    assert ended["response_bytes"] < 2000


def test_a_service_that_honours_no_masks_is_soon_asked_without(gemini_batch_emulator):
    [name] = gemini_batch_emulator.seed_jobs(count=1, state="RUNNING")
    refusing = gemini_batch_emulator.fault(match={"path": name, "query": "fields="}, status=400, times=None)
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        task = asyncio.create_task(end_of(settings, name, 0.2))
        await asyncio.sleep(3)
        gemini_batch_emulator.finish_jobs()
        return await asyncio.wait_for(task, 20)

    assert asyncio.run(watch()).is_done
    assert refusing.fired == MASK_DOUBTS


@pytest.mark.parametrize(
    "fault",
    [{"status": 200, "body": "garbage"}, {"status": 503}, {"status": 401}, {"action": "delay", "delay": 6}],
    ids=["garbage", "503", "401", "slow"],
)
def test_a_job_that_cannot_be_read_does_not_change_the_rhythm_of_the_others(gemini_batch_emulator, monkeypatch, fault):
    monkeypatch.setattr(poller, "SLOW_READ", 0.1)
    broken, good, other = gemini_batch_emulator.seed_jobs(count=3, state="RUNNING")
    rule = gemini_batch_emulator.fault(match={"path": broken}, times=None, **fault)
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        tasks = [asyncio.create_task(end_of(settings, name, 1.0)) for name in (broken, good, other)]
        await asyncio.sleep(8)
        looks = len(gemini_batch_emulator.journal(path=good))
        gemini_batch_emulator.clear_faults()
        gemini_batch_emulator.finish_jobs()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        return looks, [task.exception() for task in tasks[1:]]

    looks, errors = asyncio.run(watch())
    assert looks >= 7
    assert errors == [None, None]
    assert rule.fired >= 1


def test_waits_outlive_their_poller(gemini_batch_emulator):
    names = gemini_batch_emulator.seed_jobs(count=3, state="RUNNING")
    settings = settings_for(gemini_batch_emulator)

    async def end(name):
        with subscribe(settings, name, 0.3) as subscription:
            while True:
                look = await subscription.look(1)
                assert not isinstance(look, Exception)
                if look is not None and look.is_done:
                    return look

    async def watch():
        tasks = [asyncio.create_task(end(name)) for name in names]
        await asyncio.sleep(0.5)
        [running] = poller._POLLERS[asyncio.get_running_loop()].values()
        assert running._task is not None
        running._task.cancel()
        await asyncio.sleep(0.1)
        gemini_batch_emulator.finish_jobs()
        return await asyncio.wait_for(asyncio.gather(*tasks), 10)

    assert {job.name for job in asyncio.run(watch())} == set(names)


def test_a_job_that_is_gone_is_told_to_its_own_wait_alone(gemini_batch_emulator):
    names = gemini_batch_emulator.seed_jobs(count=10, state="RUNNING")
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        missing = asyncio.create_task(end_of(settings, "batches/neverwas", 0.3))
        tasks = [asyncio.create_task(end_of(settings, name, 0.3)) for name in names]
        with pytest.raises(NotFoundError):
            await asyncio.wait_for(missing, 10)
        gemini_batch_emulator.finish_jobs()
        return await asyncio.wait_for(asyncio.gather(*tasks), 10)

    assert len(asyncio.run(watch())) == 10


def test_refused_credentials_are_told_to_everybody(gemini_batch_emulator):
    names = gemini_batch_emulator.seed_jobs(count=10, state="RUNNING")
    settings = settings_for(gemini_batch_emulator)
    gemini_batch_emulator.fault(match={"path": "batches"}, times=None, status=401, reason="UNAUTHENTICATED")

    async def watch():
        return await asyncio.gather(*(end_of(settings, name, 0.3) for name in names), return_exceptions=True)

    assert {type(end) for end in asyncio.run(watch())} == {AuthError}


def test_jobs_that_cannot_be_listed_are_read_one_by_one(gemini_batch_emulator):
    names = gemini_batch_emulator.seed_jobs(count=10, state="SUCCEEDED")
    settings = settings_for(gemini_batch_emulator)
    gemini_batch_emulator.fault(match={"path": "/batches$"}, times=None, status=403, reason="PERMISSION_DENIED")

    async def watch():
        return await asyncio.gather(*(end_of(settings, name, 0.3) for name in names))

    assert {job.name for job in asyncio.run(watch())} == set(names)


def test_jobs_whose_state_the_list_does_not_tell_are_read_one_by_one(gemini_batch_emulator):
    names = gemini_batch_emulator.seed_jobs(count=8, state="SUCCEEDED")
    listed = {"operations": [{"name": name, "done": True} for name in names]}
    gemini_batch_emulator.fault(match={"path": "/batches$"}, status=200, body=listed, times=None)

    async def watch():
        waits = (end_of(settings_for(gemini_batch_emulator), name, 0.5) for name in names)
        return await asyncio.wait_for(asyncio.gather(*waits), 20)

    assert {job.state for job in asyncio.run(watch())} == {JobState.SUCCEEDED}


def test_a_name_of_another_backend_is_refused_at_once(gemini_batch_emulator):
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        subscribe(settings, "projects/p/locations/l/batchPredictionJobs/1")

    with pytest.raises(ConfigurationError):
        asyncio.run(watch())


def test_poller_ends_after_the_last_wait(gemini_batch_emulator, monkeypatch):
    monkeypatch.setattr(poller, "LINGER", 0.1)
    [name] = gemini_batch_emulator.seed_jobs(count=1, state="SUCCEEDED")
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        await end_of(settings, name)
        during = len(poller._POLLERS[asyncio.get_running_loop()])
        await asyncio.sleep(0.4)
        return during, len(poller._POLLERS[asyncio.get_running_loop()]), len(asyncio.all_tasks())

    assert asyncio.run(watch()) == (1, 0, 1)
