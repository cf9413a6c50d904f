# SPDX-License-Identifier: Apache-2.0
"""The third form of rows: lines as OpenAI's batches have them, answered in that form."""

# `{"custom_id", "method", "url", "body"}` in, `{"custom_id", "response": {"status_code", "body"}}` out, with usage as
# `promptTokens, completionTokens, totalTokens`. Reported by a client library; not documented for this endpoint.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gemini_batch_emulator.states import HTTP_OF_GRPC

if TYPE_CHECKING:
    from gemini_batch_emulator.rows import Answer

_REASONS = {"STOP": "stop", "MAX_TOKENS": "length"}


def is_line(row: Any) -> bool:
    """Whether a line has this form."""
    return isinstance(row, dict) and "custom_id" in row and isinstance(row.get("body"), dict) and "request" not in row


def request_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return the request that a line amounts to."""
    body = row["body"]
    contents, system = [], []
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        text = _text(message.get("content")) if isinstance(message, dict) else ""
        if isinstance(message, dict) and message.get("role") in ("system", "developer"):
            system.append({"text": text})
        else:
            role = "model" if isinstance(message, dict) and message.get("role") == "assistant" else "user"
            contents.append({"role": role, "parts": [{"text": text}]})
    config: dict[str, Any] = {}
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit:
        config["maxOutputTokens"] = limit
    form = body.get("response_format")
    if isinstance(form, dict) and form.get("type") in ("json_object", "json_schema"):
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = (form.get("json_schema") or {}).get("schema")
    request: dict[str, Any] = {"contents": contents}
    if system:
        request["systemInstruction"] = {"parts": system}
    return {**request, "generationConfig": config} if config else request


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def line_of(answer: Answer) -> dict[str, Any]:
    """Return the result line of an answer."""
    if answer.error is not None:
        status = HTTP_OF_GRPC.get(int(answer.error.get("code", 13)), 500)
        body: dict[str, Any] = {"error": {"code": status, "message": answer.error.get("message", "")}}
        return {"custom_id": answer.key, "response": {"status_code": status, "body": body}}
    response = answer.response or {}
    usage = response.get("usageMetadata") or {}
    choices = []
    for candidate in response.get("candidates") or ():
        parts = (candidate.get("content") or {}).get("parts") or ()
        text = "".join(part.get("text", "") for part in parts if not part.get("thought"))
        reason = _REASONS.get(candidate.get("finishReason"), "content_filter")
        message = {"role": "assistant", "content": text}
        choices.append({"index": candidate.get("index", 0), "message": message, "finish_reason": reason})
    body = {
        "id": response.get("responseId"),
        "object": "chat.completion",
        "model": response.get("modelVersion"),
        "choices": choices,
        "usage": {
            "promptTokens": usage.get("promptTokenCount", 0),
            "completionTokens": usage.get("candidatesTokenCount", 0),
            "totalTokens": usage.get("totalTokenCount", 0),
        },
    }
    return {"custom_id": answer.key, "response": {"status_code": 200, "body": body}}
