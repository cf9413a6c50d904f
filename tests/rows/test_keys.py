# SPDX-License-Identifier: Apache-2.0
"""Keys by any name, and members of the caller's own: on the way in, and as a download reads them again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.rows.input_rows import KnownBlock, Recheck, known_rows, row_keys
from airflow_provider_gemini_batch.rows.keys import KeyRule
from airflow_provider_gemini_batch.rows.normalise import normalise_rows
from airflow_provider_gemini_batch.rows.notes import RowReport
from airflow_provider_gemini_batch.rows.problems import RowProblem
from airflow_provider_gemini_batch.rows.settings import RowSettings

REQUEST = {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}


def sent(*rows: Any, **settings: Any) -> list[Any]:
    return [
        json.loads(row.line()) for row in normalise_rows([json.dumps(row) for row in rows], RowSettings(**settings))
    ]


def refusal(*rows: Any, **settings: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        sent(*rows, **settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "row", "expected"),
    [
        ("key", {"key": "a"}, "a"),
        (["key"], {"key": "a"}, "a"),
        ("key", {}, "row-1"),
        ("id", {"id": 17}, "17"),
        ("id", {"id": "17"}, "17"),
        ("id", {"id": 1.5}, "1.5"),
        ("custom_id", {"metadata": {"custom_id": "c"}}, "c"),
        (["day", "id"], {"day": "2026-11-27", "id": 17}, '["2026-11-27",17]'),
        (("key", "part"), {"key": "a", "part": 2}, '["a",2]'),
    ],
)
def test_a_key_is_read_from_the_members_that_are_named(key: Any, row: dict[str, Any], expected: str) -> None:
    whole = {**row, "request": REQUEST}
    assert sent(whole, key=key)[0]["key"] == expected
    assert list(row_keys([json.dumps(whole)], key)) == [expected]
    short = {**row, "prompt": "x"}
    assert sent(short, key=key)[0]["key"] == expected
    assert list(row_keys([short], key)) == [expected]


@pytest.mark.parametrize(
    ("key", "row", "says"),
    [
        ("id", {}, "has no 'id', by which rows are to be known; add it, or change key="),
        ("id", {"id": None}, "has no 'id'"),
        ("id", {"id": ""}, "'id' is empty"),
        ("id", {"id": [1]}, "'id' must be a string or a number to be a key, not a list"),
        ("id", {"id": True}, "'id' must be a string or a number to be a key, not true or false"),
        ("id", {"id": 1, "key": "a"}, "has 'key' beside 'id'"),
        (["day", "id"], {"day": "d"}, "has no 'id'"),
        ("id", {"id": "x" * 1001}, "longer than 1000"),
    ],
)
def test_a_row_without_a_usable_key_is_refused(key: Any, row: dict[str, Any], says: str) -> None:
    assert says in refusal({**row, "request": REQUEST}, key=key)


def test_a_repeated_key_of_another_name_is_refused() -> None:
    row = {"id": 17, "request": REQUEST}
    assert "must be unique" in refusal(row, row, key="id")
    assert "must be unique" in refusal(row, {**row, "id": "17"}, key="id")


@given(st.lists(st.tuples(st.text(min_size=1, max_size=5), st.integers()), unique=True, max_size=20))
def test_no_two_combinations_share_a_key(rows: list[tuple[str, int]]) -> None:
    rule = KeyRule(["a", "b"])
    assert len({rule.read({"a": a, "b": b}, 1) for a, b in rows}) == len(rows)


@pytest.mark.parametrize("key", ["", [], [""], ["a", "a"], 7, {"a": 1}])
def test_a_key_that_names_nothing_is_refused(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="key must name the member"):
        KeyRule(key)


# --- members of one's own ---------------------------------------------------------------------------------------------


OWN = {"id": 17, "url": "https://x", "tags": ["a"], "of": {"b": 1}, "none": None, "Status": "new", "a b": 1}


def test_plain_members_of_ones_own_go_with_the_row_on_vertex_ai() -> None:
    row = {"key": "a", **OWN, "request": REQUEST}
    assert sent(row, backend="vertex_ai") == [{"key": "afgb:a", "id": 17, "url": "https://x", "request": REQUEST}]


def test_a_key_may_be_called_like_a_setting() -> None:
    row = {"generation_config": "a", "request": REQUEST}
    assert sent(row, key="generation_config") == [{"key": "a", "request": REQUEST}]
    assert "must stand in 'request'" in refusal({**row, "key": "b"})


@pytest.mark.parametrize("name", ["error", "Status", "predictions"])
def test_a_column_that_vertex_ai_would_answer_with_is_not_sent(name: str) -> None:
    assert name not in sent({"key": "a", name: "mine", "request": REQUEST}, backend="vertex_ai")[0]


def test_files_of_the_developer_api_hold_key_and_request_alone() -> None:
    assert sent({"key": "a", **OWN, "request": REQUEST}) == [{"key": "a", "request": REQUEST}]


def test_an_inline_row_carries_all_members_of_ones_own() -> None:
    (row,) = normalise_rows([{"key": "a", **OWN, "request": REQUEST}], RowSettings())
    assert row.inline() == {"request": REQUEST, "metadata": {**OWN, "key": "a"}}


def test_a_download_reads_the_members_of_ones_own_again() -> None:
    plain = {"key": "p", "request": REQUEST}
    lines = [json.dumps(row).encode() + b"\n" for row in (plain, {"key": "a", **OWN, "request": REQUEST}, plain)]
    lines.append(json.dumps({"request": REQUEST, "metadata": {"key": "m", "n": 1}}).encode())
    found = [(each.keys, None) if isinstance(each, KnownBlock) else (each.key, each.own) for each in known_rows(lines)]
    assert found == [(["p"], None), ("a", OWN), (["p"], None), ("m", {"n": 1})]


@pytest.mark.parametrize(
    ("member", "says"),
    [
        ("generationConfig", "must stand in 'request'"),
        ("system_instruction", "must stand in 'request'"),
        ("temperature", "'request.generationConfig'"),
        ("max_output_tokens", "'request.generationConfig'"),
    ],
)
def test_a_setting_beside_the_request_is_no_member_of_ones_own(member: str, says: str) -> None:
    said = refusal({"key": "a", "request": REQUEST, member: 1})
    assert says in said
    assert "a column of your own needs another name" in said


def test_a_column_has_one_kind_over_the_whole_file_on_vertex_ai() -> None:
    rows = [{"key": str(n), "id": value, "request": REQUEST} for n, value in enumerate((1, "x"))]
    assert "id is a string here and a number in line 1" in refusal(*rows, backend="vertex_ai")
    assert len(sent(*rows)) == 2


def test_a_line_of_openai_is_named_with_the_way_out() -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": []}}
    said = refusal(line)
    assert "OpenAI's Batch API" in said
    assert "body.messages" in said


# --- rows that are left out -------------------------------------------------------------------------------------------


BAD = [
    b'{"key": "a", "prompt": "x"}\n',
    b'{"key": "b", "prompt": " "}\n',
    b"\n",
    b'{"key": 7, "prompt": "x"}\n',
    b"{\n",
    b'{"key": "a", "prompt": "again"}\n',
    b'{"prompt": "y"}\n',
]


@pytest.mark.parametrize("backend", ["gemini", "vertex_ai"])
def test_bad_rows_are_left_out_and_the_others_keep_their_keys(backend: Any) -> None:
    report = RowReport()
    rows = list(normalise_rows(BAD, RowSettings(backend=backend, skip_bad_rows=True), report))
    assert [row.key for row in rows] == ["a", "row-6"]
    assert (report.sent, report.refused) == (2, 4)
    assert [fault.number for fault in report.faults] == [2, 4, 5, 6]


def test_a_download_knows_the_rows_that_were_left_out() -> None:
    found: list[tuple[str, Any]] = []
    for each in known_rows(BAD, tolerant=True):
        found += zip(each.keys, each.lines, strict=True) if isinstance(each, KnownBlock) else [(each.key, each.raw)]
    recheck = Recheck(RowSettings())
    assert [(key, recheck.reason(raw)) for key, raw in found] == [
        ("a", None),
        ("b", "'prompt' is empty"),
        ("row-3", "'key' must be a string, not a number; write it in quotes"),
        ("row-4", found and recheck.reason(b"{")),
        ("a", None),
        ("row-6", None),
    ]
    assert "not JSON" in str(recheck.reason(b"{"))


def test_a_refused_row_leaves_no_trace_in_the_importers_rules() -> None:
    def row(key: str, **config: Any) -> dict[str, Any]:
        return {"key": key, "prompt": "x", "generationConfig": config}

    rows = [row("a", stopSequences="x", newMember={}), row("b", stopSequences=["x"]), row("b", seed={"x": 1})]
    rows.append(row("c", seed=1))
    report = RowReport()
    settings = RowSettings(backend="vertex_ai", skip_bad_rows=True)
    assert [each.key for each in normalise_rows(rows, settings, report)] == ["b", "c"]


def test_the_row_problem_of_a_key_names_its_way_out() -> None:
    with pytest.raises(RowProblem) as caught:
        KeyRule("id").read({}, 1)
    assert caught.value.fix == "add it, or change key="


@pytest.mark.parametrize("backend", ["gemini", "vertex_ai"])
def test_nulls_in_the_data_of_a_call_are_sent(backend: Any) -> None:
    call = {"functionCall": {"name": "f", "args": {"x": None, "y": 1}}}
    reply = {"functionResponse": {"name": "f", "response": {"r": None, "z": {"w": None}}}}
    contents = [{"role": "model", "parts": [call]}, {"role": "user", "parts": [reply]}]
    row = {"key": "a", "request": {"contents": contents, "generationConfig": {"seed": None, "topK": 1}}}
    assert sent(row, backend=backend)[0]["request"]["contents"] == contents
