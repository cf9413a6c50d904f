# SPDX-License-Identifier: Apache-2.0
"""Which rows stand for all."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest

from airflow_provider_gemini_batch.cost.row_sample import MOST_BYTES, MOST_ROWS, RowSample, sample_of


def line(number: int, size: int = 100) -> bytes:
    return b"%d " % number + b"x" * (size - len(b"%d " % number) - 1) + b"\n"


def numbers(sample: RowSample) -> list[int]:
    return [int(row.split(b" ")[0]) for row in sample.rows]


def sampled(blocks: list[bytes]) -> RowSample:
    sample = RowSample()
    for block in blocks:
        sample.see(block)
    return sample


@pytest.mark.parametrize("count", [1, 5, MOST_ROWS])
def test_few_rows_are_all_kept(count: int) -> None:
    assert numbers(sampled([line(n) for n in range(count)])) == list(range(count))
    assert numbers(sampled([b"".join(line(n) for n in range(count))])) == list(range(count))


@pytest.mark.parametrize("count", [17, 100, 5_000])
def test_rows_are_spread_over_the_whole_input(count: int) -> None:
    found = numbers(sampled([line(n) for n in range(count)]))
    assert MOST_ROWS // 2 <= len(found) <= MOST_ROWS
    gaps = [after - before for before, after in zip(found, [*found[1:], count], strict=True)]
    assert max(gaps) <= 3 * count / len(found)
    assert found == sorted(set(found))


@pytest.mark.parametrize("seed", range(10))
def test_blocks_give_the_rows_that_single_rows_give(seed: int) -> None:
    draw = random.Random(seed)
    lines = [line(n, draw.randint(10, 3_000)) for n in range(2_000)]
    blocks, place = [], 0
    while place < len(lines):
        step = draw.randint(1, 400)
        blocks.append(b"".join(lines[place : place + step]))
        place += step
    assert sampled(blocks).rows == sampled(lines).rows
    assert set(sampled(blocks).rows) <= set(lines)


def test_rows_without_a_newline_are_taken_one_by_one() -> None:
    assert sampled([b"first", b"second"]).rows == (b"first", b"second")


def test_long_rows_take_bounded_memory() -> None:
    row = line(1, 1_000_000)
    tracemalloc.start()
    sample = RowSample()
    for _ in range(200):
        sample.see(bytes(row))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 1 <= len(sample.rows) <= MOST_BYTES // len(row)
    assert peak < 2 * MOST_BYTES


def test_a_row_beyond_all_bounds_is_not_kept() -> None:
    assert sampled([b"x" * (MOST_BYTES + 1), line(1)]).rows == (line(1),)


class OnDisk:
    """A file that remembers how much of it was read."""

    def __init__(self, path: Path, lines: list[bytes]) -> None:
        path.write_bytes(b"".join(lines))
        self._path = path
        self.size = path.stat().st_size
        self.was_read = 0

    def read(self, offset: int, length: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(offset)
            found = file.read(length)
        self.was_read += len(found)
        return found


def test_a_small_file_gives_all_of_its_rows(tmp_path: Path) -> None:
    lines = [line(n) for n in range(MOST_ROWS)]
    assert sample_of(OnDisk(tmp_path / "rows", lines)) == tuple(lines)


def test_a_large_file_is_looked_into_at_few_places(tmp_path: Path) -> None:
    lines = [line(n, 1_000) for n in range(20_000)]
    file = OnDisk(tmp_path / "rows", lines)
    found = sample_of(file)
    assert len(found) == MOST_ROWS
    assert [int(row.split(b" ")[0]) // 1_250 for row in found] == list(range(MOST_ROWS))
    assert set(found) <= set(lines)
    assert file.was_read <= MOST_ROWS * (1 << 16)


@pytest.mark.parametrize("length", [700_000, 9_000_000])
def test_long_rows_of_a_file_are_read_within_bounds(tmp_path: Path, length: int) -> None:
    lines = [line(n, length) for n in range(12)]
    file = OnDisk(tmp_path / "rows", lines)
    found = sample_of(file)
    assert set(found) <= set(lines)
    assert bool(found) == (length < MOST_BYTES)
    assert file.was_read <= MOST_BYTES
