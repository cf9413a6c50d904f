# SPDX-License-Identifier: Apache-2.0
"""Rows by their number, compactly."""

from __future__ import annotations

import random

import pytest

from airflow_provider_gemini_batch.run.answers import Record
from airflow_provider_gemini_batch.run.reuse import RecordFiles
from airflow_provider_gemini_batch.run.row_numbers import AskedRows, RowSet


def digest(n: int) -> bytes:
    return n.to_bytes(16, "big")


@pytest.mark.parametrize("numbers", [range(7, 50), [3, 4, 9, 1000, 10_000_000], []])
def test_rows_asked_are_found_with_their_digests(numbers):
    asked = AskedRows((n, digest(n)) for n in numbers)
    assert list(asked) == [(n, digest(n)) for n in numbers]
    assert [asked.place(n) for n in numbers] == list(range(len(numbers)))
    others = set(range(-2, 1100)) - set(numbers)
    assert [n for n in others if n in asked or asked.digest(n) is not None] == []


def test_set_of_rows_agrees_with_a_plain_set():
    draw = random.Random(1)
    own, plain = RowSet(100, 400), set()
    for _ in range(2000):
        n = draw.randint(100, 400)
        if draw.random() < 0.5:
            own.add(n)
            plain.add(n)
        else:
            own.discard(n)
            plain.discard(n)
    assert {n for n in range(-10, 500) if n in own} == plain


def test_set_without_bounds_is_empty():
    assert 0 not in RowSet(0, -1)


def test_carried_answers_go_to_files_of_a_bounded_number(tmp_path):
    files = RecordFiles(str(tmp_path), "carried", lambda writer: dict(writer.counts), most=3)
    with files:
        for n in range(7):
            files.add(Record(n, 0, 0, ["text"]))
            files.close_full()
    assert files.found == [{"succeeded": 3}, {"succeeded": 3}, {"succeeded": 1}]
