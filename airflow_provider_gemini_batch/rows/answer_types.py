# SPDX-License-Identifier: Apache-2.0
"""The service's answers as types: what decoding a response looks at, and what it passes over as bytes."""

# Sources: https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse; for the older embedding models
# https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/embeddings/batch-prediction-genai-embeddings.

from __future__ import annotations

from typing import Any, Final

import msgspec

NOTHING: Final = msgspec.Raw(b"")
NULL: Final = msgspec.Raw(b"null")
EMPTY = (b"", b"null")
"""A member that is absent, or null."""

_NO_TEXT = (*EMPTY, b'""')
_decode = msgspec.json.Decoder().decode


class Part(msgspec.Struct, gc=False):
    """A part of an answer; all but one member are absent."""

    text: msgspec.Raw = NOTHING
    thought: bool | None = None
    functionCall: msgspec.Raw = NOTHING
    inlineData: msgspec.Raw = NOTHING
    fileData: msgspec.Raw = NOTHING
    executableCode: msgspec.Raw = NOTHING
    codeExecutionResult: msgspec.Raw = NOTHING

    @property
    def is_usable(self) -> bool:
        """Whether the part holds something of the answer itself; a thought does not."""
        if self.thought:
            return False
        if bytes(self.text) not in _NO_TEXT:
            return True
        others = (self.functionCall, self.inlineData, self.fileData, self.executableCode, self.codeExecutionResult)
        return any(bytes(other) not in EMPTY for other in others)


class Content(msgspec.Struct, gc=False):
    """The parts of an answer."""

    parts: list[Part | None] | None = None


class Candidate(msgspec.Struct, gc=False):
    """One of the answers to a prompt; nearly always the only one."""

    content: Content | None = None
    finishReason: str | None = None
    finishMessage: str | None = None

    @property
    def usable_parts(self) -> list[Part]:
        """The parts that are no thoughts and not empty."""
        parts = self.content.parts or () if self.content else ()
        return [part for part in parts if part is not None and part.is_usable]


class Feedback(msgspec.Struct, gc=False):
    """Why a prompt was not answered."""

    blockReason: str | None = None
    blockReasonMessage: str | None = None


class Vector(msgspec.Struct, gc=False):
    """An embedding."""

    values: msgspec.Raw = NOTHING


class Response(msgspec.Struct, gc=False):
    """The answer to one row, text or vector."""

    candidates: list[Candidate | None] | None = None
    promptFeedback: Feedback | None = None
    usageMetadata: msgspec.Raw = NOTHING
    modelVersion: str | None = None
    embedding: Vector | None = None
    embeddings: list[Vector] | None = None
    tokenCount: msgspec.Raw = NOTHING


class Statistics(msgspec.Struct, gc=False):
    """What the older embedding models count."""

    token_count: int | float | None = None
    truncated: bool | None = None


class LegacyVector(msgspec.Struct, gc=False):
    """An embedding of the older models."""

    values: msgspec.Raw = NOTHING
    statistics: Statistics | None = None


class Prediction(msgspec.Struct, gc=False):
    """An answer of the older embedding models."""

    embeddings: LegacyVector | None = None


read_response = msgspec.json.Decoder(Response).decode
read_predictions = msgspec.json.Decoder(list[Prediction]).decode
read_text = msgspec.json.Decoder(str).decode


def decode_or_none(raw: bytes | None) -> Any:
    """Decode what was only passed over up to now; None if it turns out to be broken."""
    if raw is None:
        return None
    try:
        return _decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def whole_number(raw: bytes) -> int | None:
    """Read a count that is a number or, as int64 are in JSON, a string."""
    try:
        return int(raw.strip(b'"'))
    except ValueError:
        return None
