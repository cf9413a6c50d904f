# SPDX-License-Identifier: Apache-2.0
"""Downloads of answers: one pass, whatever it takes, in threads that Airflow's routes do not need."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_gemini_batch.plugins.page import (
    answers_file,
    answers_lines,
    answers_tables,
    downloads,
    storage_reads,
)
from airflow_provider_gemini_batch.plugins.page.errors import PageError
from tests.plugins.page.test_answers_view import write

pytestmark = pytest.mark.newest_airflow

ENOUGH = 2_000
"""Pieces of a download that does not end."""


class Counting(MemoryFileSystem):
    """Object storage in memory that counts how often a file is opened."""

    store: ClassVar[dict[str, Any]] = {}
    opened: ClassVar[Counter[str]] = Counter()

    def _open(self, path: str, *rest: Any, **more: Any) -> Any:
        self.opened[path.rpartition("/")[2]] += 1
        return super()._open(path, *rest, **more)


@pytest.fixture
def storage(tmp_path: Path) -> Any:
    """Return what copies a file to object storage, and gives its URI."""
    from airflow.sdk.io import attach

    attach("memory", conn_id="counted", fs=Counting())

    def put(place: Path, content: bytes | None = None) -> str:
        uri = f"memory://counted@bucket/{tmp_path.name}/{place.name}"
        with Counting().open(uri.replace("counted@", ""), "wb") as target:
            target.write(place.read_bytes() if content is None else content)
        Counting.opened.clear()
        return uri

    return put


def keys_in(place: str, status: str) -> list[str]:
    _, pieces = downloads.open_rows(place, status)
    taken = list(islice(pieces, ENOUGH))
    assert len(taken) < ENOUGH, "the download ends"
    return [json.loads(line)["key"] for line in b"".join(taken).splitlines()]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("has_duckdb", [True, False])
def test_failing_rows_are_downloaded_though_they_take_longer_than_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, has_duckdb: bool
) -> None:
    monkeypatch.setattr(answers_lines, "SECONDS", 0.0)
    monkeypatch.setattr(answers_tables, "has_duckdb", lambda: has_duckdb)
    place = write(tmp_path / name, 3_000, failed=120)
    if name == "a.parquet" and not has_duckdb:
        with pytest.raises(PageError, match="cannot be read here"):
            downloads.open_rows(place, "failing")
        return
    assert keys_in(place, "failing") == [f"k{number}" for number in range(2_880, 3_000)]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_download_goes_on_when_the_page_drops_what_it_keeps(tmp_path: Path, name: str) -> None:
    place = write(tmp_path / name, 30_000, failed=20_000)
    _, pieces = downloads.open_rows(place, "failing")
    first = next(pieces)
    answers_file.release()  # as after five minutes without a request, which a download may take
    assert b"".join([first, *pieces]).count(b"\n") == 20_000


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz", "a.parquet"])
def test_failing_rows_in_object_storage_are_fetched_once(tmp_path: Path, storage: Any, name: str) -> None:
    place = Path(write(tmp_path / name.removesuffix(".gz"), 3_000, failed=700))
    if name.endswith(".gz"):
        packed = tmp_path / name
        packed.write_bytes(gzip.compress(place.read_bytes()))
        place = packed
    uri = storage(place)
    assert len(keys_in(uri, "failing")) == 700
    assert Counting.opened == {name: 1}


def test_whole_parquet_of_object_storage_is_fetched_once(tmp_path: Path, storage: Any) -> None:
    place = Path(write(tmp_path / "a.parquet", 300))
    name, pieces = downloads.open_rows(storage(place), "")
    assert (name, b"".join(pieces)) == ("a.parquet", place.read_bytes())
    assert Counting.opened == {"a.parquet": 1}


def test_relative_path_keeps_its_name_and_its_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.csv", 3)
    name, pieces = downloads.open_rows("a.csv", "")
    assert (name, b"".join(pieces)) == ("a.csv", (tmp_path / "a.csv").read_bytes())


@pytest.mark.parametrize("status", ["", "failing"])
def test_nothing_is_sent_of_a_file_that_is_none_of_ours(tmp_path: Path, status: str) -> None:
    for name, content in {"a.jsonl": '{"private": "SECRET"}', "a.csv": "status,private\nx,SECRET"}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(PageError, match="not the columns"):
            downloads.open_rows(str(tmp_path / name), status)
    duckdb.sql(f"COPY (SELECT 'SECRET' AS private) TO '{tmp_path}/a.parquet'")
    with pytest.raises(PageError, match="not the columns"):
        downloads.open_rows(str(tmp_path / "a.parquet"), status)


def test_download_takes_none_of_airflows_threads_and_is_closed_with_its_reader() -> None:
    taken: list[int] = []
    closed: list[bool] = []
    others: Any = None

    def pieces() -> Any:
        try:
            for number in range(100):
                if others is not None:
                    taken.append(others.borrowed_tokens)
                yield b"" if number % 2 else b"x"
        finally:
            closed.append(True)

    async def read_three() -> None:
        nonlocal others
        import anyio.to_thread

        others = anyio.to_thread.current_default_thread_limiter()
        sent = downloads.sent(storage_reads.LOCAL, pieces())
        assert [await anext(sent) for _ in range(3)] == [b"x"] * 3
        await sent.aclose()

    asyncio.run(read_three())
    assert taken == [0] * 5, "three pieces, and two that hold nothing"
    assert closed == [True]
