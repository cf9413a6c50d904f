# SPDX-License-Identifier: Apache-2.0
"""Result lines of jobs made elsewhere: a verdict never depends on our key, and what tells rows apart is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_gemini_batch.rows.quick_results import quick_rows
from airflow_provider_gemini_batch.rows.result_row import line_with
from airflow_provider_gemini_batch.rows.results import read_result, read_row


def response(*texts: str, reason: str = "STOP", **members: Any) -> dict[str, Any]:
    candidates = [{"content": {"parts": [{"text": text}] if text else []}, "finishReason": reason} for text in texts]
    return {"candidates": candidates, "modelVersion": "gemini-3.8-flash", **members}


def landed(line: dict[str, Any], *names: str) -> dict[str, Any]:
    raw = json.dumps(line).encode()
    found: dict[str, Any] = json.loads(read_row(raw, names).line())
    return found


REQUEST = {"contents": [{"role": "user", "parts": [{"text": "hi", "fileData": None}]}]}


def test_an_answer_without_a_key_succeeds_and_echoes_its_request() -> None:
    row = landed({"status": "", "processed_time": "x", "request": REQUEST, "response": response("a")})
    assert (row["key"], row["status"], row["text"], row["request"]) == (None, "succeeded", "a", REQUEST)
    assert "processed_time" not in row


def test_own_members_are_carried_and_never_hide_ours() -> None:
    line = {"id": 17, "text": "mine", "usage": 5, "key": "afgb:a", "status": "", "response": response("a")}
    row = landed(line)
    assert (row["key"], row["id"], row["text"], row["input_text"], row["input_usage"]) == ("a", 17, "a", "mine", 5)
    assert quick_rows([json.dumps(line).encode()]) is None, "the quick way would drop them"
    assert read_result(line).own == {"id": 17, "text": "mine", "usage": 5}


@pytest.mark.parametrize("own", ["E12", 5, ["x"]])
def test_a_column_called_error_is_no_error_on_vertex_ai(own: Any) -> None:
    row = landed({"error": own, "status": "", "response": response("a")})
    assert (row["status"], row["text"], row["input_error"]) == ("succeeded", "a", own)
    failed = landed({"error": own, "status": "Bad Request: x"})
    assert (failed["status"], failed["error"]["message"], failed["input_error"]) == ("failed", "Bad Request: x", own)
    assert landed({"key": "a", "error": "boom"})["error"]["message"] == "boom"
    assert landed({"key": "a", "status": "", "error": {"code": 3, "message": "m"}})["status"] == "failed"


def test_own_metadata_is_carried_and_no_key_comes_from_the_position() -> None:
    entry = {"response": response("a"), "metadata": {"request_id": "r-2", "lang": "de"}}
    row = landed(entry)
    assert (row["key"], row["request_id"], row["lang"]) == (None, "r-2", "de")
    assert read_result(entry).key == ""


@pytest.mark.parametrize(
    ("line", "names", "key"),
    [
        ({"id": 17}, ("id",), "17"),
        ({"id": "x", "day": 3}, ("day", "id"), '[3,"x"]'),
        ({"metadata": {"id": "m"}}, ("id",), "m"),
        ({"id": 0, "key": "afgb:000"}, ("id",), "000"),
        ({"id": 7, "key": "other"}, ("id",), "7"),
        ({"key": "a"}, ("id",), "a"),
        ({"other": 1}, ("id",), None),
    ],
)
def test_a_row_is_known_by_the_members_named(line: dict[str, Any], names: tuple[str, ...], key: str | None) -> None:
    assert read_row(json.dumps({**line, "response": response("a")}).encode(), names).key == key


def test_texts_of_the_users_own_stand_beside_those_of_several_candidates() -> None:
    row = landed({"key": "a", "status": "", "texts": "mine", "response": response("1", "2")})
    assert (row["texts"], row["input_texts"]) == (["1", "2"], "mine")
    line = read_row({"key": "a", "response": {"embeddings": [{"values": [1]}, {"values": [2]}]}}).line()
    joined = json.loads(line_with(line, {"embeddings": "mine"}))
    assert (joined["embeddings"], joined["input_embeddings"]) == ([[1], [2]], "mine")


def test_the_second_vector_counts_where_the_first_is_empty() -> None:
    row = landed({"key": "a", "response": {"embeddings": [{"values": []}, {"values": [3, 4]}]}})
    assert (row["status"], row["embedding"], row["embeddings"]) == ("succeeded", [3, 4], [[], [3, 4]])


def test_an_empty_error_beside_an_answer_is_none() -> None:
    assert landed({"key": "a", "error": {}, "response": response("x")})["text"] == "x"
    assert landed({"key": "a", "error": {}})["status"] == "failed"


def test_the_second_candidate_counts_where_the_first_is_blocked() -> None:
    blocked = {"finishReason": "SAFETY"}
    good = response("fine")["candidates"][0]
    row = landed({"key": "a", "response": {"candidates": [blocked, good]}})
    assert (row["status"], row["text"], row["finish_reason"]) == ("succeeded", "fine", "STOP")


def test_no_candidate_and_no_vector_is_dropped() -> None:
    assert landed({"key": "a", "response": response("one", "two")})["texts"] == ["one", "two"]
    vectors = [{"values": [1, 2]}, {"values": [3]}]
    row = landed({"key": "a", "response": {"embeddings": vectors}})
    assert (row["embedding"], row["embeddings"]) == ([1, 2], [[1, 2], [3]])


def test_thoughts_cut_off_are_never_the_text() -> None:
    parts = [{"text": '{"half', "thought": False}, {"text": "let me think", "thought": True}]
    answer = {"content": {"parts": parts}, "finishReason": "MAX_TOKENS"}
    row = landed({"key": "a", "response": {"candidates": [answer]}})
    assert (row["status"], row["text"], row["finish_reason"]) == ("succeeded", '{"half', "MAX_TOKENS")


def test_the_model_that_answered_is_landed_on_either_way() -> None:
    line = json.dumps({"key": "a", "response": response("x")}).encode()
    quick = quick_rows([line])
    assert quick is not None
    assert quick[0].line() == read_row(line).line()
    assert json.loads(quick[0].line())["model_version"] == read_result(line).model_version == "gemini-3.8-flash"


def test_a_byte_order_mark_is_no_part_of_a_line() -> None:
    line = b"\xef\xbb\xbf" + json.dumps({"key": "a", "response": response("x")}).encode()
    assert read_result(line).text == "x"


BODY = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "model": "m", "usage": {"totalTokens": 3}}


@pytest.mark.parametrize(
    ("reply", "status", "text", "reason"),
    [
        ({"response": {"status_code": 200, "body": BODY}, "error": None}, "succeeded", "hi", "stop"),
        (
            {"response": {"status_code": 200, "body": {"choices": [{"finish_reason": "content_filter"}]}}},
            "blocked",
            None,
            "content_filter",
        ),
        ({"response": {"status_code": 400, "body": {"error": {"code": 400, "message": "bad"}}}}, "failed", None, None),
        ({"response": {"status_code": 200, "body": {"choices": []}}}, "failed", None, None),
        ({"response": None, "error": {"code": 3, "message": "bad"}}, "failed", None, None),
    ],
)
def test_openai_shaped_lines_are_read(reply: dict[str, Any], status: str, text: str | None, reason: str | None) -> None:
    row = landed({"id": "batch_req_1", "custom_id": "a", **reply})
    assert (row["key"], row["status"], row["text"], row["finish_reason"]) == ("a", status, text, reason)
    if status == "succeeded":
        assert (row["usage"], row["model_version"]) == ({"totalTokens": 3}, "m")
    else:
        assert row["error"]["message"]


def test_openai_shaped_vectors_are_read() -> None:
    body = {"data": [{"embedding": [1, 2]}], "model": "e", "usage": {"promptTokens": 1}}
    row = landed({"custom_id": "a", "response": {"status_code": 200, "body": body}})
    assert (row["status"], row["embedding"]) == ("succeeded", [1, 2])


def test_no_answer_in_openais_shape_is_dropped() -> None:
    filtered = {"message": {"content": None}, "finish_reason": "content_filter"}
    good = [{"message": {"content": text}, "finish_reason": "stop"} for text in ("a", "b")]
    body = {"status_code": 200, "body": {"choices": [filtered, *good]}}
    row = landed({"custom_id": "k", "response": body})
    assert (row["status"], row["text"], row["texts"]) == ("succeeded", "a", ["a", "b"])
    vectors = [{"embedding": [3], "index": 1}, {"embedding": [1], "index": 0}]
    row = landed({"custom_id": "k", "response": {"status_code": 200, "body": {"data": vectors}}})
    assert (row["embedding"], row["embeddings"]) == ([1], [[1], [3]])


def test_members_of_the_input_replace_those_echoed() -> None:
    line = read_row(json.dumps({"key": "a", "id": 0, "status": "", "response": response("x")}).encode()).line()
    row = json.loads(line_with(line, {"id": "000", "status": "open"}))
    assert (row["id"], row["status"], row["input_status"]) == ("000", "succeeded", "open")
