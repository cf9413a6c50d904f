# SPDX-License-Identifier: Apache-2.0
"""
Result rows of either backend, read one at a time.

:func:`read_row` is the one place that says what an answer is worth. It decodes what the verdict needs and keeps the
rest as the bytes that came, so that a large vector or response is copied, not parsed. Nothing here raises over a bad
row: what cannot be read is a failed row that says why.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Generic, Literal, TypeVar

import msgspec

from airflow_provider_gemini_batch.api.models import BatchResult, grpc_code
from airflow_provider_gemini_batch.errors import ReplyFormatError
from airflow_provider_gemini_batch.rows.keys import KEY_PREFIX

Status = Literal["succeeded", "failed", "blocked", "missing"]

# https://ai.google.dev/api/generate-content#FinishReason
BLOCKING_FINISH_REASONS = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "PROHIBITED_CONTENT",
        "BLOCKLIST",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "MODEL_ARMOR",
    }
)

_NOTHING = msgspec.Raw(b"")
_NULL = msgspec.Raw(b"null")
_EMPTY = (b"", b"null")
_NO_TEXT = (*_EMPTY, b'""')
_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
_decode = msgspec.json.Decoder().decode


class _Line(msgspec.Struct, gc=False):
    key: msgspec.Raw = _NOTHING
    response: msgspec.Raw = _NOTHING
    error: msgspec.Raw = _NOTHING
    status: msgspec.Raw = _NOTHING
    metadata: msgspec.Raw = _NOTHING
    instance: msgspec.Raw = _NOTHING
    predictions: msgspec.Raw = _NOTHING


class _Part(msgspec.Struct, gc=False):
    text: msgspec.Raw = _NOTHING
    thought: bool | None = None
    functionCall: msgspec.Raw = _NOTHING
    inlineData: msgspec.Raw = _NOTHING
    fileData: msgspec.Raw = _NOTHING
    executableCode: msgspec.Raw = _NOTHING
    codeExecutionResult: msgspec.Raw = _NOTHING

    @property
    def is_usable(self) -> bool:
        if self.thought:
            return False
        if bytes(self.text) not in _NO_TEXT:
            return True
        others = (self.functionCall, self.inlineData, self.fileData, self.executableCode, self.codeExecutionResult)
        return any(bytes(other) not in _EMPTY for other in others)


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part | None] | None = None


class _Candidate(msgspec.Struct, gc=False):
    content: _Content | None = None
    finishReason: str | None = None
    finishMessage: str | None = None


class _Feedback(msgspec.Struct, gc=False):
    blockReason: str | None = None
    blockReasonMessage: str | None = None


class _Vector(msgspec.Struct, gc=False):
    values: msgspec.Raw = _NOTHING


class _Response(msgspec.Struct, gc=False):
    candidates: list[_Candidate | None] | None = None
    promptFeedback: _Feedback | None = None
    usageMetadata: msgspec.Raw = _NOTHING
    embedding: _Vector | None = None
    embeddings: list[_Vector] | None = None
    tokenCount: msgspec.Raw = _NOTHING


# The common lines: a key, and a response with one text or one vector. Decoding one into these types is to check it.
class _OneText(msgspec.Struct, gc=False):
    text: msgspec.Raw
    thought: None = None


class _TextContent(msgspec.Struct, gc=False):
    parts: tuple[_OneText]


class _TextCandidate(msgspec.Struct, gc=False):
    content: _TextContent
    finishReason: str | None = None


class _TextResponse(msgspec.Struct, gc=False):
    candidates: tuple[_TextCandidate]
    usageMetadata: msgspec.Raw = _NULL
    embedding: None = None
    embeddings: None = None


class _OneVector(msgspec.Struct, gc=False):
    values: msgspec.Raw


class _VectorResponse(msgspec.Struct, gc=False):
    embedding: _OneVector
    usageMetadata: msgspec.Raw = _NULL
    tokenCount: msgspec.Raw = _NOTHING
    candidates: None = None


_R = TypeVar("_R")


class _CommonLine(msgspec.Struct, Generic[_R], gc=False):
    key: str
    response: _R
    error: None = None
    status: Literal[""] | None = None
    predictions: None = None


class _Statistics(msgspec.Struct, gc=False):
    token_count: int | float | None = None


class _LegacyVector(msgspec.Struct, gc=False):
    values: msgspec.Raw = _NOTHING
    statistics: _Statistics | None = None


class _Prediction(msgspec.Struct, gc=False):
    embeddings: _LegacyVector | None = None


_read_line = msgspec.json.Decoder(_Line).decode
_read_raw_line = msgspec.json.Decoder(_CommonLine[msgspec.Raw]).decode
_read_text_line = msgspec.json.Decoder(_CommonLine[_TextResponse]).decode
_read_text_response = msgspec.json.Decoder(_TextResponse).decode
_read_vector_line = msgspec.json.Decoder(_CommonLine[_VectorResponse]).decode
_read_vector_response = msgspec.json.Decoder(_VectorResponse).decode
_read_response = msgspec.json.Decoder(_Response).decode
_read_text = msgspec.json.Decoder(str).decode
_read_predictions = msgspec.json.Decoder(list[_Prediction]).decode


class OutputRow(msgspec.Struct, gc=False):
    """A result row as users get it, in the order of its members; what is already JSON text stays so."""

    key: str | None
    status: Status
    text: msgspec.Raw
    embedding: msgspec.Raw
    finish_reason: str | None
    error: dict[str, Any] | None
    usage: msgspec.Raw
    response: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    def line(self) -> bytes:
        """Return the row as one JSON line, newline included. It begins with the key."""
        return _encode(self) + b"\n"


def output_lines(rows: Sequence[OutputRow]) -> bytes:
    """Return what :meth:`OutputRow.line` gives for each row, in one."""
    return _encode_lines(rows)


class ResultRow:
    """
    One result, judged, with its large members still as JSON text.

    :param key: None where the line tells none.
    :param text: The answer's text as a JSON string, or None.
    :param embedding: The vector as JSON text, or None.
    :param usage: The service's token counts as JSON text, or None.
    :param response: The raw response as JSON text, or None.

    ``readable`` is False for a line that is no JSON, ``is_ordered`` True where the backend keeps the input's order.
    """

    __slots__ = (
        "embedding",
        "error",
        "finish_reason",
        "is_ordered",
        "key",
        "readable",
        "response",
        "status",
        "text",
        "usage",
    )

    def __init__(self, key: str | None, status: Status = "failed") -> None:
        self.key = key
        self.status: Status = status
        self.text: bytes | None = None
        self.embedding: bytes | None = None
        self.finish_reason: str | None = None
        self.error: dict[str, Any] | None = None
        self.usage: bytes | None = None
        self.response: bytes | None = None
        self.readable = True
        self.is_ordered = False

    @classmethod
    def missing(cls, key: str) -> ResultRow:
        """Return the row that stands for an input row without an answer."""
        row = cls(key, "missing")
        row.error = {"code": 0, "message": "the service returned no result for this row"}
        return row

    def line(self, *, include_response: bool = True) -> bytes:
        """Return the result row as users get it; see :class:`OutputRow`."""
        return OutputRow(
            self.key,
            self.status,
            msgspec.Raw(self.text or b"null"),
            msgspec.Raw(self.embedding or b"null"),
            self.finish_reason,
            self.error,
            msgspec.Raw(self.usage or b"null"),
            msgspec.Raw(self.response or b"null") if include_response else msgspec.UNSET,
        ).line()

    def result(self) -> BatchResult:
        """Return the result as a value, fully decoded."""
        return BatchResult(
            key=self.key or "",
            status=self.status,
            text=_loose(self.text),
            embedding=_loose(self.embedding),
            finish_reason=self.finish_reason,
            error=self.error,
            usage=_loose(self.usage),
            response=_loose(self.response),
        )


def read_row(line: bytes | str | Mapping[str, Any]) -> ResultRow:
    """
    Read one result of either backend: a line of an output file, or an entry of ``inlinedResponses``.

    The row *succeeded* if there is a vector, or an answer with text or another usable part that is not a thought. It is
    *blocked* if the prompt or the answer was held back, and *failed* otherwise.

    Source: https://ai.google.dev/gemini-api/docs/batch-api and
    https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-from-cloud-storage
    """
    try:
        raw = _encode(line) if isinstance(line, Mapping) else line
        found = _read_line(raw)
    except (msgspec.MsgspecError, UnicodeError, TypeError, ValueError, RecursionError) as fault:
        row = ResultRow(_salvaged_key(line))
        row.readable = False
        row.error = {"code": 0, "message": f"the service's result line cannot be read: {fault}"}
        return row
    row = ResultRow(_key(found))
    try:
        if isinstance(raw, bytes):
            raw.decode()  # the decoder does not look into what it passes over
    except UnicodeError:
        row.readable = False
        row.error = {"code": 0, "message": "the service's result line cannot be read: it is not UTF-8"}
        return row
    # Vertex AI writes a status beside every answer, and its rows in any order.
    row.is_ordered = not found.status and not found.instance
    response = bytes(found.response)
    if response not in _EMPTY:
        row.response = response
    status = bytes(found.status)
    if bytes(found.error) not in _EMPTY:
        row.error = _status_error(_loose(bytes(found.error)))
    elif status[:1] == b'"' and status != b'""':
        # Vertex AI: an empty string says success, any other text is the error.
        row.error = _text_error(_loose(status))
    elif status[:1] == b"{" and status != b"{}" and response in (*_EMPTY, b"{}"):
        row.error = _status_error(_loose(status))
    if row.error is not None:
        if response in (*_EMPTY, b"{}"):
            row.response = None
        return row
    try:
        if bytes(found.predictions) not in _EMPTY:
            _judge_predictions(row, found.predictions)
        elif row.response is None:
            row.error = {"code": 0, "message": "the service returned neither an answer nor an error for this row"}
        else:
            _judge(row, _read_response(response))
    except (msgspec.MsgspecError, UnicodeError) as fault:
        row.status = "failed"
        row.error = {"code": 0, "message": f"the answer has a form that is not understood: {fault}"}
    return row


def quick_rows(lines: Sequence[bytes], *, include_response: bool = True) -> list[OutputRow] | None:
    """
    Return the rows of lines that are all of the most common kinds, or None: then :func:`read_row` has to look.

    Common are a text alone and a vector alone, one kind in all of *lines*. Each row's line is what
    ``read_row(line).line()`` gives.

    :param lines: At least one.
    """
    try:
        for line in lines:
            if not line.isascii():
                line.decode()  # as in read_row
        # Inside a text its quotes would be escaped.
        if b'"embedding"' in lines[0]:
            return _vectors(lines, include_response)
        return _texts(lines, include_response)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _texts(lines: Sequence[bytes], include_response: bool) -> list[OutputRow] | None:
    keys, responses, raws = _common(lines, include_response, _read_text_line, _read_text_response)
    candidates = [response.candidates[0] for response in responses]
    texts = [candidate.content.parts[0].text for candidate in candidates]
    if not all([text[:1] == b'"' and len(text) > 2 for text in map(bytes, texts)]):  # noqa: C419 - half the time
        return None
    return [
        OutputRow(key, "succeeded", text, _NULL, candidate.finishReason, None, response.usageMetadata, raw)
        for key, text, candidate, response, raw in zip(keys, texts, candidates, responses, raws, strict=True)
    ]


def _vectors(lines: Sequence[bytes], include_response: bool) -> list[OutputRow] | None:
    keys, responses, raws = _common(lines, include_response, _read_vector_line, _read_vector_response)
    vectors = [response.embedding.values for response in responses]
    if not all([vector[:1] == b"[" and vector[1:9].strip(b" \t\r\n]") for vector in map(bytes, vectors)]):  # noqa: C419
        return None
    return [
        OutputRow(key, "succeeded", _NULL, vector, None, None, _vector_usage(response), raw)
        for key, vector, response, raw in zip(keys, vectors, responses, raws, strict=True)
    ]


def _common(
    lines: Sequence[bytes],
    include_response: bool,
    read_line: Callable[[bytes], _CommonLine[_R]],
    read_response: Callable[[msgspec.Raw], _R],
) -> tuple[list[str], list[_R], Iterable[msgspec.Raw | msgspec.UnsetType]]:
    """Decode common lines: their keys, responses, and raw responses if these are wanted."""
    if include_response:
        with_raws = list(map(_read_raw_line, lines))
        raws = [found.response for found in with_raws]
        return _own_keys(with_raws), list(map(read_response, raws)), raws
    whole = list(map(read_line, lines))
    return _own_keys(whole), [found.response for found in whole], [msgspec.UNSET] * len(lines)


def _own_keys(lines: Iterable[_CommonLine[Any]]) -> list[str]:
    return [line.key.removeprefix(KEY_PREFIX) for line in lines]


def _vector_usage(response: _VectorResponse) -> msgspec.Raw:
    usage = response.usageMetadata
    if bytes(usage) in _EMPTY and (count := _number(bytes(response.tokenCount))) is not None:
        return msgspec.Raw(b'{"tokenCount":%d}' % count)
    return usage


def read_result(line: bytes | str | Mapping[str, Any], *, position: int | None = None) -> BatchResult:
    """
    Read one result as a value; see :func:`read_row`.

    :param position: Number of the row, from 1, for a key if the line has none: only right where results keep the
        order of the input, as the Developer API promises.
    """
    row = read_row(line)
    if row.key is None and row.is_ordered and position is not None:
        row.key = f"row-{position}"
    return row.result()


_ARRAY = re.compile(r'"inlined_?[rR]esponses"\s*:\s*\[')
_WINDOW = 1 << 20


def iter_inline_results(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    """
    Yield the entries of ``inlinedResponses`` from a job resource, holding one window of it in memory.

    The resource carries its results twice, in ``metadata.output`` and in ``response``; the first copy is read.

    :param stream: The whole operation as JSON text.
    :raises ReplyFormatError: If the text ends within the results, or an entry is no JSON.
    """
    # Bytes that are not UTF-8 become what no JSON text can hold, so that the entry they are in is not readable.
    text = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    decoder = json.JSONDecoder()
    buffer = ""
    ended = False

    def more(size: int) -> str:
        nonlocal ended
        data = stream.read(size)
        ended = not data
        return text.decode(data, final=ended)

    while (match := _ARRAY.search(buffer)) is None:
        if ended:
            return
        # A name cut by the window's end is found in the next one.
        buffer = buffer[-256:] + more(_WINDOW)
    place = match.end()
    while True:
        while place < len(buffer) and buffer[place] in " \t\r\n,":
            place += 1
        if place < len(buffer):
            if buffer[place] == "]":
                return
            try:
                entry, place = decoder.raw_decode(buffer, place)
            except (json.JSONDecodeError, RecursionError) as fault:
                if ended:
                    raise ReplyFormatError(
                        "The results inside the job resource end in the middle or are no JSON; fetch the job again.",
                        excerpt=buffer[place : place + 200],
                    ) from fault
            else:
                yield entry if isinstance(entry, dict) else {}
                continue
        elif ended:
            raise ReplyFormatError("The results inside the job resource end in the middle; fetch the job again.")
        # Twice what did not suffice, so that an entry of many megabytes is not parsed again for every piece.
        buffer = buffer[place:]
        buffer += more(max(_WINDOW, len(buffer)))
        place = 0


def _judge(row: ResultRow, response: _Response) -> None:
    usage = bytes(response.usageMetadata)
    if usage not in _EMPTY:
        row.usage = usage
    vector = response.embedding
    if vector is None and response.embeddings:
        vector = response.embeddings[0]
    if vector is not None:
        if row.usage is None and (count := _number(bytes(response.tokenCount))) is not None:
            row.usage = b'{"tokenCount":%d}' % count
        _take_vector(row, bytes(vector.values))
        return
    candidate = next((one for one in response.candidates or () if one is not None), None)
    if candidate is not None:
        row.finish_reason = candidate.finishReason
        parts = [part for part in (candidate.content.parts or () if candidate.content else ()) if part is not None]
        if any(part.is_usable for part in parts):
            row.status = "succeeded"
            texts = [text for part in parts if not part.thought and (text := bytes(part.text)) not in _EMPTY]
            if len(texts) == 1 and texts[0][:1] == b'"':
                row.text = texts[0]
            elif texts:
                row.text = _encode("".join([_read_text(text) for text in texts]))
            return
    feedback = response.promptFeedback
    reason = row.finish_reason
    if feedback is not None and feedback.blockReason:
        row.status = "blocked"
        message = f"the prompt was blocked: {feedback.blockReason}"
        said = feedback.blockReasonMessage
    elif reason in BLOCKING_FINISH_REASONS:
        row.status = "blocked"
        message = f"the answer was blocked: {reason}"
        said = candidate.finishMessage if candidate is not None else None
    elif reason == "MAX_TOKENS":
        message = "maxOutputTokens was used up before any text came (thinking counts towards it); set it higher"
        said = None
    else:
        message = f"the answer is empty (finish reason {reason or 'not given'})"
        said = candidate.finishMessage if candidate is not None else None
    row.error = {"code": 0, "message": f"{message} ({said})" if said else message}


def _judge_predictions(row: ResultRow, raw: msgspec.Raw) -> None:
    predictions = _read_predictions(raw)
    row.response = b'{"predictions":%b}' % bytes(raw)
    vector = predictions[0].embeddings if predictions else None
    if vector is not None and vector.statistics is not None and vector.statistics.token_count is not None:
        row.usage = b'{"tokenCount":%d}' % int(vector.statistics.token_count)
    _take_vector(row, bytes(vector.values) if vector is not None else b"")


def _take_vector(row: ResultRow, values: bytes) -> None:
    if values[:1] == b"[" and values[1:-1].strip():
        row.embedding = values
        row.status = "succeeded"
    else:
        row.error = {"code": 0, "message": "the answer holds an empty vector"}


def _key(line: _Line) -> str | None:
    raw = bytes(line.key)
    value: Any = None
    if raw not in _EMPTY:
        value = _loose(raw)
    else:
        for holder in (bytes(line.metadata), bytes(line.instance)):
            if holder[:1] == b"{":
                inner = _loose(holder)
                value = inner.get("key") if isinstance(inner, dict) else None
                if value is not None:
                    break
    if isinstance(value, str):
        return value.removeprefix(KEY_PREFIX)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # Vertex AI's importer gives number-like keys of files that were not prepared here back as numbers.
        return str(value)
    return None


_SURROGATE = re.compile("[\ud800-\udfff]").search
_LEADING_KEY = re.compile(rb'\s*\{\s*"key"\s*:\s*("(?:[^"\\]|\\.)*")\s*,')


def _salvaged_key(line: bytes | str | Mapping[str, Any]) -> str | None:
    """Return the key of a line that broke off after it, or of an entry that is not readable elsewhere."""
    if isinstance(line, Mapping):
        holder = line.get("metadata")
        key = holder.get("key") if isinstance(holder, Mapping) else line.get("key")
        return key.removeprefix(KEY_PREFIX) if isinstance(key, str) and not _SURROGATE(key) else None
    match = _LEADING_KEY.match(line.encode("utf-8", "replace") if isinstance(line, str) else line)
    key = _loose(match[1]) if match else None
    return key.removeprefix(KEY_PREFIX) if isinstance(key, str) else None


def _status_error(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        code, message = value.get("code"), value.get("message")
        error: dict[str, Any] = {
            "code": grpc_code(code if isinstance(code, int) and not isinstance(code, bool) else 0, value.get("status")),
            "message": message if isinstance(message, str) and message else "no message given",
        }
        if value.get("details"):
            error["details"] = value["details"]
        return error
    return {"code": 0, "message": value if isinstance(value, str) and value else "no message given"}


def _text_error(text: Any) -> dict[str, Any]:
    text = str(text)
    start = text.find("{")
    if start >= 0:
        inner = _loose(text[start:].encode("utf-8", "replace"))
        if isinstance(inner, dict):
            body = inner.get("error", inner)
            if isinstance(body, dict) and ("message" in body or "code" in body):
                return _status_error(body)
    return {"code": 0, "message": text}


def _number(raw: bytes) -> int | None:
    try:
        return int(raw.strip(b'"'))
    except ValueError:
        return None


def _loose(raw: bytes | None) -> Any:
    """Decode what lies inside a line that was only skipped over; None if it turns out to be broken."""
    if raw is None:
        return None
    try:
        return _decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
