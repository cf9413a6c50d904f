# SPDX-License-Identifier: Apache-2.0
"""Result rows of either backend, read one at a time."""

# `read_row` is the one place that says what a line means. It decodes what the verdict needs and keeps the rest as the
# bytes that came, so that a large vector or response is copied, not parsed. Nothing here raises over a bad row: what
# cannot be read is a failed row that says why.
#
# A line holds members of the service's and members of the caller's own, which the service passes through. An example
# from Vertex AI, whose input row was `{"id": 17, "request": {...}}`:
#
#     {"id": 17, "status": "", "processed_time": "...", "request": {...}, "response": {"candidates": [...]}}
#
# gives a row with `key` null, `status` succeeded, and `id` and `request` carried along, because they are all that tells
# which prompt was answered. With a key, the echo of the request is dropped: the key tells as much. The verdict never
# depends on the key.

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.rows.answer_types import EMPTY, decode_or_none, read_response
from airflow_provider_gemini_batch.rows.judging import judge, judge_predictions
from airflow_provider_gemini_batch.rows.keys import KEY_PREFIX
from airflow_provider_gemini_batch.rows.openai_results import judge_openai
from airflow_provider_gemini_batch.rows.result_row import ResultRow
from airflow_provider_gemini_batch.rows.row_errors import problem, status_error, text_error

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchResult

_BOM = b"\xef\xbb\xbf"
_EMPTY_OBJECT = (*EMPTY, b"{}")
_SERVICE_MEMBERS = frozenset(
    {"key", "response", "error", "status", "metadata", "instance", "predictions", "request", "processed_time"}
)
_OPENAI_MEMBERS = frozenset({"custom_id", "id", "method", "url"})
_ECHOES = ("request", "instance")
"""What the service repeats of the row it was asked."""

_encode = msgspec.json.Encoder().encode
_read_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def read_row(line: bytes | str | Mapping[str, Any], key_names: Sequence[str] = ()) -> ResultRow:
    """
    Read one result of either backend: a line of an output file, an entry of ``inlinedResponses``, a row of a table.

    :param key_names: The caller's own members by which the row is known; none where that is the service's ``key``.

    Source: https://ai.google.dev/gemini-api/docs/batch-api and
    https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-from-cloud-storage
    """
    try:
        raw = _encode(line) if isinstance(line, Mapping) else line
        # The mark stands before the first line alone; to look for it costs less than to know which line this is.
        if isinstance(raw, bytes):
            raw = raw.removeprefix(_BOM)
        # One level alone: a vector of 3,072 numbers stays bytes, which are copied into the output as they came.
        members = _read_members(raw)
    except (msgspec.MsgspecError, UnicodeError, TypeError, ValueError, RecursionError) as fault:
        return _unreadable(_salvaged_key(line), str(fault))
    row = ResultRow(None)
    try:
        if isinstance(raw, bytes):
            raw.decode()  # the decoder does not look into what it passes over
    except UnicodeError:
        return _unreadable(_key(members, {}, key_names), "it is not UTF-8")
    row.own = _own_members(members)
    row.key = _key(members, row.own, key_names)
    if row.key is None:
        # Nothing else tells which row was asked.
        row.own.update((name, members[name]) for name in _ECHOES if _member(members, name) not in EMPTY)
        # Vertex AI writes a status beside every answer, and its rows in any order.
        row.is_ordered = not row.own and not _member(members, "status")
    _read_answer(row, members)
    return row


def is_foreign(line: bytes | str | Mapping[str, Any]) -> bool:
    """
    Say whether a line is none that the service wrote, nor the beginning of one: each is an object.

    A proxy's page stands in place of answers, which are there and paid for. One that is an object, too, is a
    :func:`keyless error <is_keyless_error>`.
    """
    if isinstance(line, Mapping) or line[:1] in (b"{", "{"):
        return False
    text = line.encode("utf-8", "replace") if isinstance(line, str) else line
    text = text.removeprefix(_BOM).lstrip()
    return bool(text) and not text.startswith(b"{")


def is_keyless_error(line: Any) -> bool:
    """
    Say of a job whose rows all have keys whether a line is an error without one: what a proxy writes that speaks JSON.

    Told by the bytes, as each line is asked. Where a row may lack a key, see :attr:`.ResultRow.is_nobodys`.
    """
    return isinstance(line, bytes) and b'"key"' not in line and line.lstrip()[1:].lstrip().startswith(b'"error"')


def read_result(line: bytes | str | Mapping[str, Any]) -> BatchResult:
    """Read one result as a value; see :func:`read_row`."""
    return read_row(line).result()


def _read_answer(row: ResultRow, members: Mapping[str, msgspec.Raw]) -> None:
    """Read answer or error into *row*."""
    response = _member(members, "response")
    if response not in EMPTY:
        row.response = response
    row.error = _stated_error(members, response)
    if row.error is not None:
        if response in _EMPTY_OBJECT:
            row.response = None
        return
    predictions = _member(members, "predictions")
    try:
        if predictions not in EMPTY:
            judge_predictions(row, predictions)
        elif row.response is None:
            row.error = problem("the service returned neither an answer nor an error for this row")
        elif _is_openai(members):
            judge_openai(row, response)
        else:
            judge(row, read_response(response))
    except (msgspec.MsgspecError, UnicodeError) as fault:
        row.status = "failed"
        row.error = problem(f"the answer has a form that is not understood: {fault}")


def _stated_error(members: Mapping[str, msgspec.Raw], response: bytes) -> dict[str, Any] | None:
    """Return the error that a line states, or None."""
    error, status = _member(members, "error"), _member(members, "status")
    # An empty error object beside an answer is what proto JSON writes for "no error"; alone in a line it is all that
    # there is.
    if error not in (EMPTY if response in _EMPTY_OBJECT else _EMPTY_OBJECT) and not _is_own_error(members):
        return status_error(decode_or_none(error))
    if status[:1] == b'"' and status != b'""':
        # Vertex AI: an empty string says success, any other text is the error.
        return text_error(decode_or_none(status))
    if status[:1] == b"{" and status != b"{}" and response in _EMPTY_OBJECT:
        return status_error(decode_or_none(status))
    return None


def _member(members: Mapping[str, msgspec.Raw], name: str) -> bytes:
    found = members.get(name)
    return b"" if found is None else bytes(found)


def _is_openai(members: Mapping[str, msgspec.Raw]) -> bool:
    """Say whether a line has OpenAI's shape, and ``custom_id`` is no member of the caller's own beside a request."""
    if "custom_id" not in members:
        return False
    response = _member(members, "response")
    if response[:1] == b"{" and b'"body"' in response:
        inner = _read_members(response)
        return "body" in inner and inner.keys().isdisjoint(("candidates", "promptFeedback", "embedding", "embeddings"))
    is_alone = members.keys().isdisjoint(("key", "request", "status", "metadata"))
    # A row that failed before it was asked has no response to look into: its shape is told by what else stands in the
    # line.
    return is_alone and response in _EMPTY_OBJECT and _member(members, "error") not in EMPTY


def _is_own_error(members: Mapping[str, msgspec.Raw]) -> bool:
    """Say whether ``error`` is a column of the caller's: Vertex AI tells its own in ``status``, and never so."""
    return _member(members, "status")[:1] == b'"' and _member(members, "error")[:1] != b"{"


def _own_members(members: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    """Return the members that are neither the service's nor ours: the caller's own, also those in ``metadata``."""
    known = _SERVICE_MEMBERS | _OPENAI_MEMBERS if _is_openai(members) else _SERVICE_MEMBERS
    own: dict[str, Any] = {}
    metadata = _member(members, "metadata")
    if metadata not in EMPTY:
        inner = decode_or_none(metadata)
        if isinstance(inner, dict):
            own.update((name, value) for name, value in inner.items() if name != "key")
        else:
            own["metadata"] = members["metadata"]
    own.update((name, value) for name, value in members.items() if name not in known)
    if _member(members, "error") not in EMPTY and _is_own_error(members):
        own["error"] = members["error"]
    return own


def _key(members: Mapping[str, msgspec.Raw], own: Mapping[str, Any], key_names: Sequence[str]) -> str | None:
    """Return a row's key: from the members that are named, else the service's own, else that of the row it echoes."""
    key = decode_or_none(_member(members, "key") or None)
    is_ours = isinstance(key, str) and key.startswith(KEY_PREFIX)
    # Behind our prefix is the key as it was sent; Vertex AI's importer may have made another value of the member.
    if key_names and not is_ours and all(name in own for name in key_names):
        values = [decode_or_none(_encode(own[name])) for name in key_names]
        if len(values) > 1:
            return _encode(values).decode()
        if (named := _key_text(values[0])) is not None:
            return named
    candidates = [key]
    if candidates == [None]:
        for name in ("metadata", "instance"):
            holder = decode_or_none(_member(members, name) or None)
            candidates.append(holder.get("key") if isinstance(holder, dict) else None)
        if _is_openai(members):
            candidates.append(decode_or_none(_member(members, "custom_id")))
    return next((_key_text(value) for value in candidates if value is not None), None)


def _key_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value.removeprefix(KEY_PREFIX)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # Vertex AI's importer gives number-like keys of files that were not prepared here back as numbers.
        return str(value)
    return None


def _unreadable(key: str | None, why: str) -> ResultRow:
    row = ResultRow(key)
    row.is_readable = False
    row.error = problem(f"the service's result line cannot be read: {why}")
    return row


_SURROGATE = re.compile("[\ud800-\udfff]").search
_LEADING_KEY = re.compile(rb'\s*\{\s*"key"\s*:\s*("(?:[^"\\]|\\.)*")\s*,')


def _salvaged_key(line: bytes | str | Mapping[str, Any]) -> str | None:
    """Return the key of a line that broke off after it, or of an entry that is not readable elsewhere."""
    if isinstance(line, Mapping):
        holder = line.get("metadata")
        key = holder.get("key") if isinstance(holder, Mapping) else line.get("key")
        return key.removeprefix(KEY_PREFIX) if isinstance(key, str) and not _SURROGATE(key) else None
    match = _LEADING_KEY.match(line.encode("utf-8", "replace") if isinstance(line, str) else line)
    key = decode_or_none(match[1]) if match else None
    return key.removeprefix(KEY_PREFIX) if isinstance(key, str) else None
