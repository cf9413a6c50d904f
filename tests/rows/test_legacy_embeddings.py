# SPDX-License-Identifier: Apache-2.0
"""Answers that come without a key get that of the row with their text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.rows.legacy_embeddings import with_keys
from airflow_provider_gemini_batch.rows.normalise import normalise_rows
from airflow_provider_gemini_batch.rows.results import read_row
from airflow_provider_gemini_batch.rows.settings import RowSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

LEGACY = RowSettings("embed", "vertex_ai", "text-embedding-005")


def answer(text: Any, **members: Any) -> bytes:
    predictions = [{"embeddings": {"values": [0.5]}}]
    return json.dumps({"instance": {"content": text}, "predictions": predictions, "status": "", **members}).encode()


def keys_of(answers: list[bytes], *rows: dict[str, Any]) -> list[str | None]:
    lines = [row.line() for row in normalise_rows(rows, LEGACY)]
    return [read_row(line).key for line in with_keys(answers, lambda: lines)]


def test_each_answer_is_known_by_its_text_in_any_order() -> None:
    rows = [{"key": "007", "text": "één"}, {"key": 'q"', "text": 'a "b"\n'}, {"text": "c"}]
    assert keys_of([answer("c"), answer('a "b"\n'), answer("één")], *rows) == ["row-3", 'q"', "007"]


def test_rows_of_one_text_get_an_answer_each_and_no_row_gets_two() -> None:
    rows = [{"key": "a", "text": "x"}, {"key": "b", "text": "x"}]
    assert keys_of([answer("x")] * 3, *rows) == ["a", "b", None]


def test_the_rest_of_an_answer_stays() -> None:
    [line] = with_keys([b"  " + answer("x")], lambda: [b'{"key":"a","content":"x"}'])
    assert json.loads(line) == {"key": "a", **json.loads(answer("x"))}


def test_a_key_that_came_back_is_believed_and_the_input_not_read() -> None:
    def never() -> Iterator[bytes]:
        raise AssertionError("the input was read")

    lines = [
        answer("x", key="afgb:own"),
        b'{"instance":{"content":"x","key":"afgb:within"},"predictions":[]}',
        b'{"instance":{"content":5},"predictions":[]}',
        b"no JSON",
    ]
    assert list(with_keys(lines, never)) == lines


def test_an_answer_to_a_text_that_was_not_asked_stays_without_a_key() -> None:
    assert keys_of([answer("y")], {"key": "a", "text": "x"}) == [None]
    assert [read_row(line).key for line in with_keys([answer("y")], lambda: [b"no JSON", b"[]", b""])] == [None]
