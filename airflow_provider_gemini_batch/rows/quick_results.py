# SPDX-License-Identifier: Apache-2.0
"""Common result lines, read a block at a time."""

# Nearly every line holds a key and either one text or one vector. A block of such lines of one kind is decoded into
# types that fit nothing else: decoding one is checking it. Whatever does not fit (a thought, an error, members of one's
# own, a line that is no JSON) makes `quick_rows` return None, and each line of the block is read by `read_row`, which
# says the same and takes five times as long.
#
# What is asked of each line is asked by one call for the block where that is possible (`map` of a function in C), as a
# turn of a Python loop costs a twentieth of the whole. Whether a text is one, and not empty, is seen from its first two
# bytes, without a copy of it.

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Literal, TypeVar

import msgspec

from airflow_provider_gemini_batch.rows.answer_types import EMPTY, NOTHING, NULL, whole_number
from airflow_provider_gemini_batch.rows.keys import KEY_PREFIX
from airflow_provider_gemini_batch.rows.result_row import OutputRow


class _OneText(msgspec.Struct, gc=False):
    text: msgspec.Raw
    # None alone: a thought of whatever value makes decoding fail, and the line goes the slow path. The same idea stands
    # behind each `None = None` here.
    thought: None = None


class _TextContent(msgspec.Struct, gc=False):
    # Exactly one part; a tuple type is a length as well.
    parts: tuple[_OneText]


class _TextCandidate(msgspec.Struct, gc=False):
    content: _TextContent
    finishReason: str | None = None


class _TextResponse(msgspec.Struct, gc=False):
    candidates: tuple[_TextCandidate]
    usageMetadata: msgspec.Raw = NULL
    modelVersion: str | None = None
    embedding: None = None
    embeddings: None = None


class _OneVector(msgspec.Struct, gc=False):
    values: msgspec.Raw


class _VectorResponse(msgspec.Struct, gc=False):
    embedding: _OneVector
    usageMetadata: msgspec.Raw = NULL
    modelVersion: str | None = None
    tokenCount: msgspec.Raw = NOTHING
    candidates: None = None


_R = TypeVar("_R")
_head_of = struct.Struct("2s").unpack_from


class _CommonLine(msgspec.Struct, Generic[_R], gc=False, forbid_unknown_fields=True):
    """The members that need nobody's attention; any other is the caller's own."""

    key: str
    response: _R
    error: None = None
    status: Literal[""] | None = None
    predictions: None = None
    metadata: None = None
    request: msgspec.Raw = NOTHING
    processed_time: msgspec.Raw = NOTHING


_read_raw_line = msgspec.json.Decoder(_CommonLine[msgspec.Raw]).decode
_read_text_line = msgspec.json.Decoder(_CommonLine[_TextResponse]).decode
_read_text_response = msgspec.json.Decoder(_TextResponse).decode
_read_vector_line = msgspec.json.Decoder(_CommonLine[_VectorResponse]).decode
_read_vector_response = msgspec.json.Decoder(_VectorResponse).decode


def quick_rows(lines: Sequence[bytes], *, include_response: bool = True) -> list[OutputRow] | None:
    """
    Return the rows of lines that are all of the most common kinds, or None: then ``read_row`` has to look.

    Common are a text alone and a vector alone, one kind in all of *lines*. Each row's line is what
    ``read_row(line).line()`` gives.

    :param lines: At least one.
    """
    try:
        if not all(map(bytes.isascii, lines)):
            for line in lines:
                line.decode()  # as in read_row
        # Inside a text its quotes would be escaped.
        if b'"embedding"' in lines[0]:
            return _vectors(lines, include_response)
        return _texts(lines, include_response)
    except (msgspec.MsgspecError, struct.error, UnicodeError, RecursionError):
        return None


def _texts(lines: Sequence[bytes], include_response: bool) -> list[OutputRow] | None:
    keys, responses, raws = _common(lines, include_response, _read_text_line, _read_text_response)
    candidates = [response.candidates[0] for response in responses]
    texts = [candidate.content.parts[0].text for candidate in candidates]
    # Two bytes tell a text that is not empty. A value of one byte, a number, has no such head and raises.
    if any(head[:1] != b'"' or head == b'""' for (head,) in set(map(_head_of, texts))):
        return None
    return [
        OutputRow(
            key, "succeeded", text, NULL, one.finishReason, response.modelVersion, None, response.usageMetadata, raw
        )
        for key, text, one, response, raw in zip(keys, texts, candidates, responses, raws, strict=True)
    ]


def _vectors(lines: Sequence[bytes], include_response: bool) -> list[OutputRow] | None:
    keys, responses, raws = _common(lines, include_response, _read_vector_line, _read_vector_response)
    vectors = [response.embedding.values for response in responses]
    # An empty vector is a failed row. The first few bytes tell, as JSON has no other way to begin one.
    if not all([vector[:1] == b"[" and vector[1:9].strip(b" \t\r\n]") for vector in map(bytes, vectors)]):  # noqa: C419
        return None
    return [
        OutputRow(key, "succeeded", NULL, vector, None, response.modelVersion, None, _vector_usage(response), raw)
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
        # Two decodings in place of one: the response is wanted as the bytes that came, and once more in pieces.
        with_raws = list(map(_read_raw_line, lines))
        raws = [found.response for found in with_raws]
        return _own_keys(with_raws), list(map(read_response, raws)), raws
    whole = list(map(read_line, lines))
    return _own_keys(whole), [found.response for found in whole], [msgspec.UNSET] * len(lines)


def _own_keys(lines: Iterable[_CommonLine[Any]]) -> list[str]:
    return [line.key.removeprefix(KEY_PREFIX) for line in lines]


def _vector_usage(response: _VectorResponse) -> msgspec.Raw:
    usage = response.usageMetadata
    if bytes(usage) in EMPTY and (count := whole_number(bytes(response.tokenCount))) is not None:
        return msgspec.Raw(b'{"tokenCount":%d}' % count)
    return usage
