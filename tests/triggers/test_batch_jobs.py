# SPDX-License-Identifier: Apache-2.0
"""One trigger for the many jobs of a run: what the wait costs, and what ends it."""

from __future__ import annotations

import asyncio

import pytest

from airflow_provider_gemini_batch.triggers import batch_jobs
from airflow_provider_gemini_batch.triggers.batch_jobs import BatchJobsTrigger
from airflow_provider_gemini_batch.watch.poller import Poller
from tests.support.airflow_side import set_connection


@pytest.fixture(params=["gemini", "vertex_ai"])
def backend(request, gemini_batch_emulator, monkeypatch):
    set_connection(monkeypatch, gemini_batch_emulator.connection(request.param))
    return request.param


@pytest.fixture
def subscriptions(monkeypatch):
    """The sizes of all subscriptions that are made."""
    made: list[int] = []
    subscribe = Poller.subscribe

    def counted(self, job_names, poll_interval):
        names = list(job_names)
        made.append(len(names))
        return subscribe(self, names, poll_interval)

    monkeypatch.setattr(Poller, "subscribe", counted)
    return made


async def first_event(trigger: BatchJobsTrigger) -> dict:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("no event")


def reads(emulator, since: int = 0) -> tuple[int, int]:
    """Return how many pages of the list, and how many single jobs, were read."""
    paths = [entry["path"] for entry in emulator.journal()[since:] if entry["method"] == "GET"]
    pages = [path for path in paths if path.endswith(("/batches", "/batchPredictionJobs"))]
    return len(pages), len(paths) - len(pages)


def test_two_hundred_jobs_cost_pages_and_four_subscriptions(gemini_batch_emulator, backend, subscriptions):
    emulator = gemini_batch_emulator
    names = emulator.seed_jobs(count=200, state="RUNNING", backend=backend)

    async def watch():
        waits = [
            asyncio.create_task(first_event(BatchJobsTrigger(names[at : at + 50], poll_interval=1.0)))
            for at in range(0, 200, 50)
        ]
        await asyncio.sleep(3.5)
        tasks, seen = len(asyncio.all_tasks()), reads(emulator)
        emulator.finish_jobs()
        return [event["ended"] for event in await asyncio.wait_for(asyncio.gather(*waits), 30)], tasks, seen

    ended, tasks, (pages, singles) = asyncio.run(watch())
    assert sorted(name for found in ended for name in found) == sorted(names)
    assert subscriptions == [50, 50, 50, 50]
    # Two pages of a hundred for each of some four rounds, where single reads would be 800.
    assert pages <= 12
    assert singles <= 4
    assert tasks < 20


@pytest.mark.parametrize(("wake", "expected"), [("any", 1), ("all", 3)])
def test_wait_ends_with_the_first_job_or_the_last(gemini_batch_emulator, backend, wake, expected):
    names = gemini_batch_emulator.seed_jobs(count=3, state="RUNNING", backend=backend)

    async def watch():
        wait = asyncio.create_task(first_event(BatchJobsTrigger(names, wake=wake, poll_interval=0.2)))
        for _ in names:
            await asyncio.sleep(0.5)
            gemini_batch_emulator.finish_jobs(count=1)
        return await asyncio.wait_for(wait, 10)

    assert len(asyncio.run(watch())["ended"]) == expected


def test_ended_job_is_collected_before_the_others_end(gemini_batch_emulator, backend, monkeypatch):
    monkeypatch.setattr(batch_jobs, "COLLECT_WITHIN", 0.5)
    names = gemini_batch_emulator.seed_jobs(count=3, state="RUNNING", backend=backend)
    gemini_batch_emulator.finish_jobs(count=1)
    event = asyncio.run(asyncio.wait_for(first_event(BatchJobsTrigger(names, poll_interval=0.2)), 10))
    assert event["ended"] == [names[0]]
