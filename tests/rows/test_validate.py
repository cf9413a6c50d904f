# SPDX-License-Identifier: Apache-2.0
"""A whole input is checked without sending anything: every fault with its line, reason and fix."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.rows.normalise import normalise_rows
from airflow_provider_gemini_batch.rows.settings import RowSettings
from airflow_provider_gemini_batch.rows.validate import MAX_FAULTS, validate

LEGACY = {"kind": "embed", "backend": "vertex_ai", "model": "text-embedding-005"}
LINES = [
    b'{"key": "a", "prompt": "x"}\n',
    b'{"key": "a", "prompt": "x"}\n',
    b'{"key": "b", "prompt": " "}\n',
    b'{"prompt": "x", "temperature": 1}\n',
    b'{"key": "c", "request": {"contents": [{"parts": {"text": "x"}}]}}\n',
    b"\n",
    b"{\n",
    b'{"key": 7, "prompt": "x"}\n',
    b'{"key": "d", "prompt": "x", "tools": [{"googleSearch": {}}]}\n',
]


def test_every_fault_is_told_with_line_reason_and_fix() -> None:
    found = validate(LINES * 2, RowSettings())
    assert found.report.refused == len(found.faults) == 13
    assert not found.is_fine
    first = found.faults[0]
    assert (first.number, first.key, first.reason) == (2, "a", "this key was there before")
    assert first.fix == "keys tell answers apart and must be unique"
    assert {fault.number for fault in found.faults} >= {2, 3, 4, 7, 8, 10, 17}


def test_a_fine_input_is_fine() -> None:
    found = validate([b'{"key": "%d", "prompt": "x"}\n' % n for n in range(3)], RowSettings())
    assert found.is_fine
    assert (found.report.sent, found.faults, found.problems) == (3, [], [])
    sent = b"".join(
        row.line() for row in normalise_rows([b'{"key": "%d", "prompt": "x"}' % n for n in range(3)], RowSettings())
    )
    assert found.wire_bytes == len(sent)


@pytest.mark.parametrize(
    ("lines", "settings", "says"),
    [
        ([], {}, "no input rows"),
        ([b"\n"], {}, "no input rows"),
        ([b'{"prompt": "x"}'], {"task_type": "X"}, "embedding jobs"),
        ([b'{"prompt": "x"}'], {"key": ""}, "key must name"),
        ([b'{"text": "x"}'] * 30_001, LEGACY, "30,000"),
    ],
)  # fmt: skip
def test_problems_of_the_whole_input_are_told(lines: list[bytes], settings: Any, says: str) -> None:
    (problem,) = validate(lines, RowSettings(**settings)).problems
    assert says in problem


def test_a_file_of_another_kind_is_one_fault() -> None:
    found = validate([b"key,prompt\n", b"a,x\n", b"b,y\n"], RowSettings())
    assert len(found.faults) == 1
    assert "CSV" in found.faults[0].fix


def test_faults_are_counted_beyond_those_that_are_kept() -> None:
    found = validate([b'{"prompt": " "}\n'] * (MAX_FAULTS + 5), RowSettings())
    assert (found.report.refused, len(found.faults)) == (MAX_FAULTS + 5, MAX_FAULTS)


@given(st.lists(st.sampled_from(LINES), max_size=12), st.sampled_from(["gemini", "vertex_ai"]))
def test_an_input_is_fine_exactly_when_it_can_be_sent(lines: list[bytes], backend: Any) -> None:
    settings = RowSettings(backend=backend)
    try:
        sent = [json.loads(row.line())["key"] for row in normalise_rows(lines, settings)]
    except ConfigurationError:
        sent = []
    found = validate(lines, settings)
    assert found.is_fine is bool(sent)
    assert not sent or found.report.sent == len(sent)
