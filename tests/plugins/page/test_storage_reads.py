# SPDX-License-Identifier: Apache-2.0
"""Each storage has threads of its own; what gets nothing is given up, and others are told at once."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_provider_gemini_batch.plugins.page import downloads, storage_reads, workers
from airflow_provider_gemini_batch.plugins.page.answers_lines import LineIndex
from airflow_provider_gemini_batch.plugins.page.answers_rows import Wanted
from airflow_provider_gemini_batch.plugins.page.answers_tables import TableIndex
from airflow_provider_gemini_batch.plugins.page.storage_reads import LOCAL, MOST, StalledError, run, storage_of
from airflow_provider_gemini_batch.plugins.page.views import answers

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

pytestmark = pytest.mark.newest_airflow

BUCKET = "s3://conn@bucket"


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Make a read wait until the event is set, and give it up soon."""
    monkeypatch.setattr(storage_reads, "SILENT", 0.02)
    until = threading.Event()
    yield until
    until.set()


async def refused(*reads: Coroutine[Any, Any, Any]) -> list[str]:
    replies = await asyncio.gather(*reads, return_exceptions=True)
    assert all(isinstance(each, StalledError) for each in replies), replies
    return [str(each) for each in replies]


@pytest.mark.parametrize(
    ("place", "storage"),
    [
        ("s3://conn@bucket/folder/a.jsonl", BUCKET),
        ("gs://other", "gs://other"),
        ("/data/a.jsonl", LOCAL),
        ("file:///data/a.jsonl", LOCAL),
        ("answers", LOCAL),
    ],
)
def test_storage_is_named_by_scheme_connection_and_bucket(place: str, storage: str) -> None:
    assert storage_of(place) == storage


@pytest.mark.parametrize("kind", list(MOST))
def test_storage_that_stalls_is_given_up_and_holds_up_no_other(kind: str, stalled: threading.Event) -> None:
    async def people() -> list[str]:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(refused(*(run(kind, BUCKET, stalled.wait, 60) for _ in range(5))))
            assert await run(kind, LOCAL, int, "1") == 1
            assert await run(kind, "s3://other", int, "2") == 2
            assert not waiting.done()
        return waiting.result() + await refused(run(kind, BUCKET, int, "3"))

    told = asyncio.run(people())
    assert sum("was given up" in each for each in told) == MOST[kind]
    assert sum("earlier reads have had nothing" in each for each in told) == 6 - MOST[kind]
    assert all(BUCKET in each for each in told)


def test_read_that_gets_something_may_last(stalled: threading.Event) -> None:
    def slowly() -> str:
        for _ in range(8):
            time.sleep(0.01)
            storage_reads.note_progress()
        return "whole"

    assert asyncio.run(run("answers", BUCKET, slowly)) == "whole"


def test_read_that_waits_for_one_that_gets_something_may_last(stalled: threading.Event) -> None:
    lock = storage_reads.ReadLock()

    def slowly() -> str:
        with lock:
            for _ in range(15):
                time.sleep(0.005)
                storage_reads.note_progress()
        return "whole"

    async def two() -> list[str]:
        return await asyncio.gather(*(run("answers", BUCKET, slowly) for _ in range(2)))

    assert asyncio.run(two()) == ["whole"] * 2


def test_read_that_waits_for_one_that_stalls_is_given_up(stalled: threading.Event) -> None:
    lock = storage_reads.ReadLock()

    def wait() -> None:
        with lock:
            stalled.wait(60)

    async def two() -> list[str]:
        return await refused(*(run("answers", BUCKET, wait) for _ in range(2)))

    assert all("was given up" in each for each in asyncio.run(two()))


@pytest.mark.parametrize("index", [LineIndex([], Wanted()), TableIndex([], ".jsonl", Wanted())])
def test_pages_of_one_filter_wait_for_each_other(index: Any) -> None:
    assert isinstance(index.lock, storage_reads.ReadLock)


def test_fault_that_no_future_takes_is_raised_all_the_same() -> None:
    async def call() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(workers.call(next, iter(())), 1)

    asyncio.run(call())


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Access Denied"), "Access Denied"),
        (requests.ConnectionError("http://nodes/a?delegation=SECRET refused"), "The log of the API server"),
    ],
)
def test_message_quotes_no_error_of_a_library(error: Exception, told: str) -> None:
    problem = answers._problem(error, BUCKET)
    assert told in str(problem)
    assert "SECRET" not in str(problem)


def test_local_disk_is_never_given_up(stalled: threading.Event) -> None:
    assert asyncio.run(run("answers", LOCAL, time.sleep, 0.05)) is None


def test_storage_is_read_again_once_its_threads_have_ended(stalled: threading.Event) -> None:
    async def before_and_after() -> int:
        await refused(*(run("answers", BUCKET, stalled.wait, 60) for _ in range(2)), run("answers", BUCKET, int, "1"))
        stalled.set()
        for _ in range(200):
            await asyncio.sleep(0.005)
            if not storage_reads._threads_of("answers", BUCKET).running:
                break
        return await run("answers", BUCKET, int, "1")

    assert asyncio.run(before_and_after()) == 1


def test_storage_is_tried_again_though_its_threads_never_end(
    stalled: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_reads, "FORGOTTEN", 0.0)
    monkeypatch.setattr(storage_reads, "MOST_THREADS", 3)

    async def again_and_again() -> list[str]:
        return [(await refused(run("answers", BUCKET, stalled.wait, 60)))[0] for _ in range(4)]

    *tried, last = asyncio.run(again_and_again())
    assert all("was given up" in each for each in tried)
    assert "3 reads of storages wait already" in last


def test_download_that_stalls_is_cut_off_and_leaves_nothing_behind(
    stalled: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    places: list[Path] = []

    def pieces() -> Iterator[bytes]:
        with tempfile.TemporaryDirectory() as folder:
            places.append(Path(folder))
            yield b"first"
            stalled.wait(60)
            yield b"never"

    async def download() -> list[bytes]:
        got = []
        try:
            async for piece in downloads.sent(BUCKET, pieces()):
                got.append(piece)
        except StalledError:
            assert places[0].exists(), "a thread still reads"
            stalled.set()
        for _ in range(200):
            await asyncio.sleep(0.005)
            if not places[0].exists():
                break
        return got

    assert asyncio.run(download()) == [b"first"]
    assert not places[0].exists()
    assert "was cut off" in caplog.text
