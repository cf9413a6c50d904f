# SPDX-License-Identifier: Apache-2.0
"""The shared poller against the emulator over HTTP."""

from __future__ import annotations

import asyncio
import time

import pytest

from airflow_provider_gemini_batch.api.field_masks import MASK_DOUBTS
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from airflow_provider_gemini_batch.errors import AuthError, ConfigurationError
from airflow_provider_gemini_batch.watch import poller, schedule
from airflow_provider_gemini_batch.watch.poller import subscribe


def settings_for(emulator, **extra):
    connection = emulator.connection("gemini", **extra)
    return settings_from_connection(
        conn_type="gemini_batch", host=connection["host"], password=connection["password"], extra=connection["extra"]
    )


async def end_of(settings, name, poll_interval=1.0):
    with subscribe(settings, name, poll_interval) as subscription:
        while True:
            update = await subscription.next_update(30)
            assert update is not None, "no update within 30 s"
            if update.error is not None:
                raise update.error
            if update.job is not None and update.job.is_done:
                return update.job


def test_hundreds_of_jobs_share_a_poller_and_two_connections(gemini_batch_emulator):
    names = gemini_batch_emulator.seed_jobs(count=300, state="RUNNING")
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        tasks = [asyncio.create_task(end_of(settings, name, 0.5)) for name in names]
        await asyncio.sleep(1.2)
        before, began = len(gemini_batch_emulator.journal()), time.monotonic()
        await asyncio.sleep(1.5)
        # A round takes longer where the machine is busy.
        if len(gemini_batch_emulator.journal()) < before + 3:
            await asyncio.sleep(6)
        polled = gemini_batch_emulator.journal()[before:]
        rounds = (time.monotonic() - began) / 0.5 + 1  # the window may cut one
        gemini_batch_emulator.finish_jobs()
        return polled, rounds, await asyncio.wait_for(asyncio.gather(*tasks), 20)

    polled, rounds, ended = asyncio.run(watch())
    assert 3 <= len(polled) <= 3 * rounds + 1
    assert {entry["path"] for entry in polled} == {"/v1beta/batches"}
    assert len({entry["connection"] for entry in gemini_batch_emulator.journal()}) <= 2
    assert {job.name for job in ended} == set(names)


@pytest.mark.parametrize("count", [1, 8])
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
def test_trouble_on_the_wire_passes(gemini_batch_emulator, fault, count):
    names = gemini_batch_emulator.seed_jobs(count=count, state="SUCCEEDED")
    rule = gemini_batch_emulator.fault(match={"path": "batches"}, times=1, **fault)
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        return await asyncio.gather(*(end_of(settings, name, 0.2) for name in names))

    assert all(job.is_done for job in asyncio.run(watch()))
    assert rule.fired == 1


@pytest.mark.parametrize("count", [1, 8])
def test_a_refused_key_is_told_to_everybody(gemini_batch_emulator, count):
    names = gemini_batch_emulator.seed_jobs(count=count, state="RUNNING")
    settings = settings_for(gemini_batch_emulator)
    gemini_batch_emulator.fault(match={"path": "batches"}, times=None, status=401, reason="UNAUTHENTICATED")

    async def watch():
        return await asyncio.gather(*(end_of(settings, name, 0.3) for name in names), return_exceptions=True)

    assert {type(end) for end in asyncio.run(watch())} == {AuthError}


def test_an_update_that_was_asked_for_comes_at_once(gemini_batch_emulator):
    [name] = gemini_batch_emulator.seed_jobs(count=1, state="RUNNING", rows=100, script={"running_seconds": 10})

    async def watch():
        with subscribe(settings_for(gemini_batch_emulator), name, 0.1) as subscription:
            first = await subscription.next_update(5)
            same = await subscription.next_update(0.5)
            subscription.poll_now()
            updates = (first, same, await subscription.next_update(5))
            return [update.job.stats.done if update and update.job else None for update in updates]

    first, same, asked_for = asyncio.run(watch())
    assert same is None
    assert first < asked_for


def test_cancelled_wait_takes_nothing_from_the_others(gemini_batch_emulator):
    names = gemini_batch_emulator.seed_jobs(count=3, state="RUNNING")
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        first, *others = [asyncio.create_task(end_of(settings, name, 0.2)) for name in names]
        await asyncio.sleep(0.3)
        first.cancel()
        await asyncio.sleep(0.2)
        gemini_batch_emulator.finish_jobs()
        ended = await asyncio.wait_for(asyncio.gather(*others), 10)
        return first.cancelled(), ended

    cancelled, ended = asyncio.run(watch())
    assert cancelled
    assert [job.state for job in ended] == [JobState.SUCCEEDED, JobState.SUCCEEDED]


def test_one_spoilt_reply_does_not_bring_answers_through_the_triggerer(gemini_batch_emulator):
    [name] = gemini_batch_emulator.seed_jobs(count=1, state="RUNNING", rows=300)
    gemini_batch_emulator.fault(match={"path": name}, status=200, body="garbage", times=1)
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        task = asyncio.create_task(end_of(settings, name, 0.1))
        await asyncio.sleep(0.8)
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
        task = asyncio.create_task(end_of(settings, name, 0.1))
        await asyncio.sleep(1.5)
        gemini_batch_emulator.finish_jobs()
        return await asyncio.wait_for(task, 20)

    assert asyncio.run(watch()).is_done
    assert refusing.fired == MASK_DOUBTS


def test_waits_outlive_their_poller(gemini_batch_emulator):
    names = gemini_batch_emulator.seed_jobs(count=3, state="RUNNING")
    settings = settings_for(gemini_batch_emulator)

    async def end(name):
        with subscribe(settings, name, 0.3) as subscription:
            while True:
                update = await subscription.next_update(1)
                assert update is None or update.error is None
                if update is not None and update.job is not None and update.job.is_done:
                    return update.job

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


def test_a_name_of_another_backend_is_refused_at_once(gemini_batch_emulator):
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        subscribe(settings, "projects/p/locations/l/batchPredictionJobs/1")

    with pytest.raises(ConfigurationError):
        asyncio.run(watch())


def test_poller_ends_after_the_last_wait(gemini_batch_emulator, monkeypatch):
    monkeypatch.setattr(schedule, "LINGER", 0.1)
    [name] = gemini_batch_emulator.seed_jobs(count=1, state="SUCCEEDED")
    settings = settings_for(gemini_batch_emulator)

    async def watch():
        await end_of(settings, name)
        during = len(poller._POLLERS[asyncio.get_running_loop()])
        await asyncio.sleep(0.4)
        return during, len(poller._POLLERS[asyncio.get_running_loop()]), len(asyncio.all_tasks())

    assert asyncio.run(watch()) == (1, 0, 1)
