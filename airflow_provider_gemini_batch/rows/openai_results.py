# SPDX-License-Identifier: Apache-2.0
"""Answers in OpenAI's shape, which the Developer API gives to a file of rows in that shape."""

# `{"custom_id": "a", "response": {"status_code": 200, "body": {...}}}`, where the body is a chat completion or a list
# of embeddings. Counts of tokens come in camelCase (`promptTokens`) and are kept so.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.rows.answer_types import EMPTY, NOTHING
from airflow_provider_gemini_batch.rows.row_errors import problem, status_error

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.rows.result_row import ResultRow

_REFUSED = 400
"""From this HTTP status on a row was refused."""

_encode = msgspec.json.Encoder().encode


class _Message(msgspec.Struct, gc=False):
    content: Any = None
    tool_calls: msgspec.Raw = NOTHING
    refusal: str | None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message | None = None
    finish_reason: str | None = None


class _Datum(msgspec.Struct, gc=False):
    embedding: msgspec.Raw = NOTHING
    index: int | None = None


class _Body(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    data: list[_Datum] | None = None
    model: str | None = None
    usage: msgspec.Raw = NOTHING
    error: msgspec.Raw = NOTHING


class _Envelope(msgspec.Struct, gc=False):
    status_code: int | None = None
    body: _Body | None = None


_read_envelope = msgspec.json.Decoder(_Envelope).decode
_decode = msgspec.json.Decoder().decode


def judge_openai(row: ResultRow, response: bytes) -> None:
    """Fill *row* with the answer of an OpenAI-shaped line, and say what it is worth."""
    envelope = _read_envelope(response)
    body = envelope.body or _Body()
    row.model_version = body.model
    if bytes(body.usage) not in EMPTY:
        row.usage = bytes(body.usage)
    if bytes(body.error) not in EMPTY:
        row.error = status_error(_decode(bytes(body.error)))
    elif (envelope.status_code or 0) >= _REFUSED:
        row.error = problem(f"the row was refused with HTTP status {envelope.status_code}")
    elif body.data and (vectors := _vectors(body.data)):
        row.status = "succeeded"
        row.embedding = vectors[0]
        if len(vectors) > 1:
            row.several["embeddings"] = msgspec.Raw(b"[%b]" % b",".join(vectors))
    else:
        choices = body.choices or []
        usable = [one for one in choices if one.message is not None and one.message.content]
        _judge_choice(row, next(iter(usable or choices), _Choice()))
        if len(usable) > 1:
            texts = [_text(one.message.content) for one in usable if one.message is not None]
            row.several["texts"] = msgspec.Raw(_encode(texts))


def _vectors(data: list[_Datum]) -> list[bytes]:
    """Return vectors in the order of what was asked."""
    ordered = sorted(data, key=lambda one: one.index or 0)
    return [vector for one in ordered if (vector := bytes(one.embedding))[:1] == b"["]


def _judge_choice(row: ResultRow, choice: _Choice) -> None:
    row.finish_reason = choice.finish_reason
    message = choice.message or _Message()
    if message.content:
        row.status = "succeeded"
        row.text = _encode(_text(message.content))
    elif bytes(message.tool_calls) not in (*EMPTY, b"[]"):
        row.status = "succeeded"
    elif choice.finish_reason == "content_filter" or message.refusal:
        row.status = "blocked"
        row.error = problem("the answer was blocked: content_filter", message.refusal)
    else:
        row.error = problem(f"the answer is empty (finish reason {choice.finish_reason or 'not given'})")


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return str(content)
