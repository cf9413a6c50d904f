# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_gemini_batch.errors import ReplyFormatError
from airflow_provider_gemini_batch.rows.inline_results import iter_inline_results
from airflow_provider_gemini_batch.rows.judging import is_cut_off
from airflow_provider_gemini_batch.rows.line_batches import split_lines
from airflow_provider_gemini_batch.rows.quick_results import quick_rows
from airflow_provider_gemini_batch.rows.result_row import output_lines
from airflow_provider_gemini_batch.rows.results import read_result, read_row


def answer(*parts: dict[str, Any], reason: str | None = "STOP") -> dict[str, Any]:
    return {"key": "a", "response": {"candidates": [{"content": {"parts": list(parts)}, "finishReason": reason}]}}


def test_thoughts_are_no_part_of_the_text() -> None:
    result = read_result(answer({"text": "hm", "thought": True}, {"text": "o"}, {"text": "k"}))
    assert (result.status, result.text, result.finish_reason) == ("succeeded", "ok", "STOP")


def test_a_function_call_is_an_answer() -> None:
    result = read_result(answer({"functionCall": {"name": "f", "args": {}}}))
    assert (result.status, result.text) == ("succeeded", None)


@pytest.mark.parametrize(
    ("row", "status", "says"),
    [
        ({"response": {"promptFeedback": {"blockReason": "SAFETY"}}}, "blocked", "prompt was blocked: SAFETY"),
        (answer(reason="PROHIBITED_CONTENT"), "blocked", "answer was blocked: PROHIBITED_CONTENT"),
        (answer(reason="MAX_TOKENS"), "failed", "maxOutputTokens"),
        (answer({"text": "only", "thought": True}), "failed", "empty"),
        (answer({"text": ""}), "failed", "empty"),
        (answer({"text": 5}, {"text": "b"}), "failed", "not understood"),
        ({"response": None}, "failed", "neither an answer nor an error"),
        ({}, "failed", "neither an answer nor an error"),
        ({"response": {}}, "failed", "empty"),
        ({"response": []}, "failed", "not understood"),
        ({"response": {"embedding": {"values": []}}}, "failed", "empty vector"),
        ({"error": {"code": 8}}, "failed", "no message given"),
        ({"error": "boom"}, "failed", "boom"),
        ({"status": {"code": 13, "message": "inner"}}, "failed", "inner"),
        ({"status": "Something odd", "response": {}}, "failed", "Something odd"),
    ],
)
def test_a_row_without_a_usable_answer_says_why(row: dict[str, Any], status: str, says: str) -> None:
    result = read_result({"key": "a", **row})
    assert result.status == status
    assert result.error is not None
    assert says in result.error["message"]


def test_text_cut_off_at_the_token_limit_is_an_answer() -> None:
    assert read_result(answer({"text": "half"}, reason="MAX_TOKENS")).status == "succeeded"


@pytest.mark.parametrize("reason", ["SAFETY", "OTHER", "MALFORMED_FUNCTION_CALL", "MAX_TOKENS", "REASON_OF_TOMORROW"])
def test_a_whole_candidate_counts_before_one_cut_off(reason: str) -> None:
    cut, whole = ({"content": {"parts": [{"text": text}]}} for text in ("half", "whole"))
    both = [{**cut, "finishReason": reason}, {**whole, "finishReason": "STOP"}]
    found = read_result({"key": "a", "response": {"candidates": both}})
    assert (found.text, found.finish_reason, found.own["texts"]) == ("whole", "STOP", ["half", "whole"])
    assert read_result({"key": "a", "response": {"candidates": both[:1]}}).finish_reason == reason


def test_an_argument_called_body_makes_no_foreign_answer() -> None:
    call = answer({"functionCall": {"name": "post", "args": {"body": "x"}}})["response"]
    assert read_result({"custom_id": 5, "response": call}).status == "succeeded"


def test_an_answer_in_a_foreign_shape_may_carry_a_key() -> None:
    choice = {"message": {"content": "half"}, "finish_reason": "length"}
    found = read_result({"custom_id": "a", "key": "b", "response": {"status_code": 200, "body": {"choices": [choice]}}})
    assert (found.key, found.text, found.finish_reason) == ("b", "half", "length")


def test_string_errors_of_vertex_are_taken_apart() -> None:
    body = json.dumps({"error": {"code": 400, "message": "bad role", "status": "INVALID_ARGUMENT"}})
    result = read_result({"key": "afgb:007", "status": f"Bad Request: {body}", "response": {}})
    assert (result.key, result.status, result.response) == ("007", "failed", None)
    assert result.error == {"code": 3, "message": "bad role"}


@pytest.mark.parametrize(
    ("row", "usage"),
    [
        ({"response": {"tokenCount": "7", "embedding": {"values": [0.5, -1]}}}, {"tokenCount": 7}),
        (
            {"response": {"embedding": {"values": [0.5, -1]}, "usageMetadata": {"promptTokenCount": 3}}},
            {"promptTokenCount": 3},
        ),
        (
            {"predictions": [{"embeddings": {"statistics": {"token_count": 8}, "values": [0.5, -1]}}], "status": ""},
            {"tokenCount": 8},
        ),
    ],
)
def test_vectors_of_every_model_family_are_read(row: dict[str, Any], usage: dict[str, int]) -> None:
    result = read_result({"key": "a", **row})
    assert (result.status, result.embedding, result.usage) == ("succeeded", [0.5, -1], usage)


@pytest.mark.parametrize("line", [b"", b"<html>", b'{"key": "a", "resp', b"[1]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_garbage_is_a_failed_row_never_a_traceback(line: bytes) -> None:
    row = read_row(line)
    assert (row.status, row.is_readable) == ("failed", False)
    assert json.loads(row.line())["error"]["message"]


def test_keys_come_from_metadata() -> None:
    assert read_result({"response": {}, "metadata": {"key": "m"}}).key == "m"
    assert read_result({"response": {}, "metadata": {}}).key == ""


def test_a_vector_of_a_text_cut_short_is_told() -> None:
    vector = {"statistics": {"token_count": 2048, "truncated": True}, "values": [1.0]}
    found = read_result({"predictions": [{"embeddings": vector}], "status": ""})
    assert (found.status, found.finish_reason) == ("succeeded", "TRUNCATED")
    assert is_cut_off(found.finish_reason)
    assert not is_cut_off(None)


@given(st.text(), st.text())
def test_text_and_key_reach_the_result_line_as_they_were(key: str, text: str) -> None:
    try:
        line = json.dumps({"key": key, "response": answer({"text": text})["response"]}).encode()
        (key + text).encode()
    except UnicodeEncodeError:
        return
    row = json.loads(read_row(line).line())
    assert row["key"] == key.removeprefix("afgb:")
    assert row["text"] == (text or None)


@given(st.lists(st.binary(max_size=6)), st.integers(1, 5))
def test_lines_do_not_depend_on_how_the_stream_was_cut(lines: list[bytes], size: int) -> None:
    content = b"\n".join(lines)
    chunks = [content[at : at + size] for at in range(0, len(content), size)]
    assert list(split_lines(chunks)) == [line for line in content.split(b"\n") if line.strip()]


_TEXT = b'{"candidates": [{"content": {"parts": [{"text": "a\\n\\u00e9"}]}, "finishReason": "STOP"}]}'
_VECTOR = b'{"embedding": {"values": [0.5, -1]}, "tokenCount": "7"}'


@pytest.mark.parametrize(
    ("line", "is_common"),
    [
        (b'{"key": "a", "response": ' + _TEXT + b"}", True),
        (b'{"response": ' + _TEXT + b', "key": "a"}', True),
        (b'{"response":' + _VECTOR + b',"key":"afgb:007"}', True),
        (b'{"key":"a","response":' + _VECTOR + b"}", True),
        (b'{"key":"a","response":' + _TEXT.replace(b"STOP", b"SAFETY") + b"}", True),
        (b'{"key":"a\\u00e9","response":' + _TEXT + b"}", True),
        (b'{"key":"a","response":' + _TEXT + b',"key":"b"}', True),
        (b'{"response":' + _VECTOR + b',"key":"a","response":' + _VECTOR + b"}", True),
        (b'{"key":"a","response":' + _TEXT.replace(b"a\\n", b'\\"embedding\\"') + b"}", True),
        (b'{"key":"a","error":null,"status":null,"response":' + _TEXT + b"}", True),
        (b'{"key":"a","response":{"candidates":[' + b"{}," + b"{}]}}", False),
        (b'{"status":"","processed_time":"x","request":{},"response":' + _TEXT + b',"key":"afgb:a"}', True),
        (b'{"key":"a","status":"no","response":' + _TEXT + b"}", False),
        (b'{"key":"a","response":' + _TEXT.replace(b"STOP", b"\xff") + b"}", False),
        (b'{"key":"a","response":' + _TEXT.replace(b"\\n", b"\xff") + b"}", False),
        (b'{"key":"a","response":' + _TEXT.replace(b"\\n", "\u00e9".encode()) + b"}", True),
        (b'{"key":5,"response":' + _TEXT + b"}", False),
        (b'{"key":"a","response":' + _TEXT + b',"error":{"code":3}}', False),
        (b'{"response":' + _TEXT + b',"error":{"code":3},"key":"a"}', False),
        (b'{"key":"a","response":{"candidates":[{"content":{"parts":[{"text":""}]}}]}}', False),
        (b'{"key":"a","response":{"candidates":[{"content":{"parts":[{"text":"x","thought":true}]}}]}}', False),
        (b'{"key":"a","response":{"embedding":{"values":[ ]}}}', False),
        (b'{"key":"a","response":{"embedding":{"values":[1]}', False),
        (b'{"key":"a","response":{"x":' + b"[" * 100_000, False),
        (b'{"response":{"key":"a"}', False),
        (b"", False),
    ],
)
def test_common_lines_read_the_quick_way_say_the_same(line: bytes, is_common: bool) -> None:
    for include_response in (True, False):
        quick, row = quick_rows([line], include_response=include_response), read_row(line)
        assert (quick is not None) is is_common
        if quick is not None:
            expected = row.line(include_response=include_response)
            assert (quick[0].key, bytes(quick[0].usage)) == (row.key, row.usage or b"null")
            assert quick[0].line() == expected
            assert output_lines(quick * 2) == expected * 2
            assert row.status == "succeeded"


def test_a_line_that_answers_twice_says_the_same_on_either_way() -> None:
    line = b'{"response":' + _TEXT + b',"key":"a","response":' + _VECTOR + b"}"
    quick = quick_rows([line])
    assert quick is not None
    assert quick[0].line() == read_row(line).line()
    assert quick_rows([line], include_response=False) is None


class _Counted(io.BytesIO):
    most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.most = max(self.most, size or 0)
        return super().read(size)


def test_inline_results_are_read_once_and_in_windows() -> None:
    rows: list[Any] = [{"response": {"text": "é" * 3_000, "n": n}, "metadata": {"key": str(n)}} for n in range(1_000)]
    rows[5] = None
    inner = {"inlinedResponses": {"inlinedResponses": rows}}
    operation = {"name": "batches/x", "metadata": {"output": inner}, "done": True, "response": inner}
    stream = _Counted(json.dumps(operation, ensure_ascii=False, indent=1).encode())
    assert list(iter_inline_results(stream)) == [row or {} for row in rows]
    assert 0 < stream.most <= 4 << 20


def test_inline_results_cut_off_are_an_error() -> None:
    with pytest.raises(ReplyFormatError, match="end in the middle"):
        list(iter_inline_results(io.BytesIO(b'{"inlinedResponses": [{"a": 1}, {"b"')))


def test_a_job_without_results_yields_none() -> None:
    assert list(iter_inline_results(io.BytesIO(b'{"name": "batches/x"}'))) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": 400, "status": "INVALID_ARGUMENT"}, 3),
        ({"code": 400, "status": "FAILED_PRECONDITION"}, 9),
        ({"code": 429}, 8),
        ({"code": 500}, 13),
        ({"code": 503, "status": "a word of its own"}, 14),
        ({"code": 418}, 418),
        ({"code": 13}, 13),
        ({}, 0),
    ],
)
def test_an_error_has_the_same_code_whichever_backend_the_row_ran_on(error: dict[str, Any], code: int) -> None:
    body = {"error": {**error, "message": "m"}}
    by_text = read_result(
        json.dumps({"key": "a", "status": f"Bad Request: {json.dumps(body)}", "response": {}}).encode()
    )
    by_number = read_result(json.dumps({"key": "a", "error": {"code": code, "message": "m"}}).encode())
    assert by_text.error == by_number.error == {"code": code, "message": "m"}
