# SPDX-License-Identifier: Apache-2.0
"""What an answer is worth."""

# * succeeded: a vector, or a text or another usable part that is not a thought. An answer that was cut off, at the
#   limit of tokens or by a filter, is one too; `finish_reason` tells.
# * blocked: the prompt or the answer was held back.
# * failed: anything else.
#
# Of several candidates the first whole one counts, or else the first usable one. What the others say, and vectors
# beyond the first, is kept beside it (`texts`, `embeddings`), so that nothing paid for is lost.

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from airflow_provider_gemini_batch.rows.answer_types import (
    EMPTY,
    Candidate,
    Response,
    Vector,
    read_predictions,
    read_text,
    whole_number,
)
from airflow_provider_gemini_batch.rows.row_errors import problem

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.rows.result_row import ResultRow

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
WHOLE_FINISH_REASONS = frozenset({"", "STOP", "FINISH_REASON_UNSPECIFIED", "stop", "tool_calls", "function_call"})
"""The answer is all there; the words in lower case are those of OpenAI-shaped answers."""

TRUNCATED_INPUT = "TRUNCATED"
"""Ours, for a vector of the first part of a text alone: the older embedding models tell it in a member of their own."""

_encode = msgspec.json.Encoder().encode


def is_cut_off(finish_reason: str | None) -> bool:
    """
    Say whether there is more to an answer than came.

    A word that is not known counts: Google has added a dozen of them, and each says why an answer ended too early.
    """
    return finish_reason is not None and finish_reason not in WHOLE_FINISH_REASONS


def judge(row: ResultRow, response: Response) -> None:
    """Fill *row* with what a response holds, and say what it is worth."""
    usage = bytes(response.usageMetadata)
    if usage not in EMPTY:
        row.usage = usage
    row.model_version = response.modelVersion
    # `embedding` for one content, `embeddings` for a request with several.
    vectors = [response.embedding] if response.embedding is not None else response.embeddings or []
    if vectors:
        if row.usage is None and (count := whole_number(bytes(response.tokenCount))) is not None:
            row.usage = b'{"tokenCount":%d}' % count
        _judge_vectors(row, vectors)
        return
    candidates = [one for one in response.candidates or () if one is not None]
    usable = [one for one in candidates if one.usable_parts]
    if usable:
        # Several candidates are paid for one by one; the first whole one is what a single call would have given.
        best = next((one for one in usable if not is_cut_off(one.finishReason)), usable[0])
        row.status = "succeeded"
        row.finish_reason = best.finishReason
        row.text = _text_of(best)
        if len(usable) > 1:
            texts = [_text_of(one) or b"null" for one in usable]
            row.several["texts"] = msgspec.Raw(b"[%b]" % b",".join(texts))
        return
    candidate = candidates[0] if candidates else None
    row.finish_reason = candidate.finishReason if candidate else None
    _explain_nothing(row, response, candidate)


def judge_predictions(row: ResultRow, raw: bytes) -> None:
    """Fill *row* with the answer of one of the older embedding models."""
    predictions = read_predictions(raw)
    row.response = b'{"predictions":%b}' % raw
    vectors = [one.embeddings for one in predictions if one.embeddings is not None]
    if vectors and vectors[0].statistics is not None and vectors[0].statistics.token_count is not None:
        row.usage = b'{"tokenCount":%d}' % int(vectors[0].statistics.token_count)
    if any(one.statistics is not None and one.statistics.truncated for one in vectors):
        row.finish_reason = TRUNCATED_INPUT
    _judge_vectors(row, [Vector(one.values) for one in vectors] or [Vector()])


def _judge_vectors(row: ResultRow, vectors: list[Vector]) -> None:
    values = next((raw for one in vectors if (raw := bytes(one.values))[:1] == b"[" and raw[1:-1].strip()), None)
    if values is None:
        row.error = problem("the answer holds an empty vector")
        return
    row.embedding = values
    row.status = "succeeded"
    if len(vectors) > 1:
        row.several["embeddings"] = msgspec.Raw(b"[%b]" % b",".join(bytes(one.values) or b"null" for one in vectors))


def _text_of(candidate: Candidate) -> bytes | None:
    """Return a candidate's text as a JSON string, without thoughts; None if it has another usable part only."""
    texts = [text for part in candidate.usable_parts if (text := bytes(part.text)) not in EMPTY]
    if len(texts) == 1 and texts[0][:1] == b'"':
        return texts[0]
    return _encode("".join([read_text(text) for text in texts])) if texts else None


def _explain_nothing(row: ResultRow, response: Response, candidate: Candidate | None) -> None:
    feedback, reason = response.promptFeedback, row.finish_reason
    said = candidate.finishMessage if candidate is not None else None
    if feedback is not None and feedback.blockReason:
        row.status = "blocked"
        row.error = problem(f"the prompt was blocked: {feedback.blockReason}", feedback.blockReasonMessage)
    elif reason in BLOCKING_FINISH_REASONS:
        row.status = "blocked"
        row.error = problem(f"the answer was blocked: {reason}", said)
    # Thoughts count towards the limit and come first, so that nothing may be left for the answer.
    elif reason == "MAX_TOKENS":
        row.error = problem(
            "maxOutputTokens was used up before any text came (thinking counts towards it); set it higher"
        )
    else:
        row.error = problem(f"the answer is empty (finish reason {reason or 'not given'})", said)
