# SPDX-License-Identifier: Apache-2.0
"""
What the emulated models say: the same request always gets the same answer.

Pure functions over plain JSON. Member names of requests are accepted in camelCase and in snake_case, as the service
does; answers are camelCase. Shapes: https://ai.google.dev/api/generate-content, https://ai.google.dev/api/embeddings.
"""

from __future__ import annotations

import base64
import hashlib
import math
import random
import re
from collections.abc import Mapping
from typing import Any

EMBEDDING_DIMENSIONS = 3072
WORDS_ECHOED = 12


class FieldSelectionError(ValueError):
    """A ``fields`` parameter that cannot be read."""


def member(values: Any, name: str) -> Any:
    """Return a member by its camelCase name, also where the client wrote snake_case."""
    if not isinstance(values, Mapping):
        return None
    if name in values:
        return values[name]
    return values.get(snake(name))


def snake(name: str) -> str:
    """Write a camelCase name in snake_case."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _contents(request: Mapping[str, Any]) -> list[Any]:
    contents = request.get("contents")
    if contents is None:
        contents = request.get("content")
    if contents is None:
        return []
    return contents if isinstance(contents, list) else [contents]


def _texts(contents: list[Any]) -> list[str]:
    texts = []
    for content in contents:
        if isinstance(content, str):
            texts.append(content)
            continue
        parts = content.get("parts") if isinstance(content, Mapping) else None
        for part in parts if isinstance(parts, list) else [parts]:
            if isinstance(part, Mapping) and isinstance(part.get("text"), str):
                texts.append(part["text"])
    return texts


def prompt_text(request: Mapping[str, Any]) -> str:
    """Return all text of a request's contents."""
    return "\n".join(_texts(_contents(request)))


def count_tokens(text: str) -> int:
    """Return a token count: four characters a token, at least one for any text."""
    return (len(text) + 3) // 4


def input_tokens(request: Mapping[str, Any]) -> int:
    """Return the tokens of a request's prompt, system instruction included."""
    system = member(request, "systemInstruction")
    return count_tokens(prompt_text(request)) + (count_tokens("\n".join(_texts([system]))) if system else 0)


def output_tokens(response: Mapping[str, Any]) -> int:
    """Return the tokens a response is billed for beyond its prompt."""
    usage = response.get("usageMetadata") or {}
    return int(usage.get("candidatesTokenCount", 0)) + int(usage.get("thoughtsTokenCount", 0))


def problem_of(kind: str, request: Mapping[str, Any]) -> str | None:
    """Return what only the model would find wrong with a row, or None."""
    contents = _contents(request)
    if not contents:
        return "contents is not specified" if kind == "generate" else "content is not specified"
    if kind == "embed":
        return None if prompt_text(request) or _has_media(contents) else "content contains an empty Part."
    for content in contents:
        role = content.get("role") if isinstance(content, Mapping) else None
        if role not in (None, "user", "model", "function"):
            return "Please use a valid role: user, model."
    config = member(request, "generationConfig")
    mime_type = member(config, "responseMimeType")
    if request.get("tools") and mime_type == "application/json":
        return "Tool use with a response mime type: 'application/json' is unsupported"
    return None


def _has_media(contents: list[Any]) -> bool:
    for content in contents:
        for part in (content.get("parts") or []) if isinstance(content, Mapping) else []:
            if isinstance(part, Mapping) and (member(part, "inlineData") or member(part, "fileData")):
                return True
    return False


def respond(
    kind: str,
    model: str,
    request: Mapping[str, Any],
    seed: str,
    *,
    outcome: str = "succeed",
    reason: str = "SAFETY",
    text: str | None = None,
) -> dict[str, Any]:
    """
    Answer a request.

    :param kind: ``generate`` or ``embed``.
    :param model: With or without a path before the name.
    :param seed: Tells equal requests of one job apart.
    :param outcome: See ``RowRule`` in :mod:`gemini_batch_emulator.core`.
    """
    name = model.rsplit("/", 1)[-1]
    if kind == "embed":
        return _embedding(name, request)
    return _generation(name, request, seed, outcome, reason, text)


def _embedding(model: str, request: Mapping[str, Any]) -> dict[str, Any]:
    text = prompt_text(request)
    config = member(request, "embedContentConfig")
    wanted = member(request, "outputDimensionality") or member(config, "outputDimensionality")
    size = int(wanted or EMBEDDING_DIMENSIONS)
    task = member(request, "taskType") or member(config, "taskType") or ""
    generator = random.Random(f"{model}|{task if '001' in model else ''}|{text}")
    values = [generator.uniform(-1.0, 1.0) for _ in range(size)]
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    embedding = {"values": [round(value / length, 9) for value in values]}
    if model.startswith("gemini-embedding-2"):
        return {"embedding": embedding, "usageMetadata": {"promptTokenCount": count_tokens(text)}}
    return {"embedding": embedding, "tokenCount": str(count_tokens(text))}


def _generation(
    model: str, request: Mapping[str, Any], seed: str, outcome: str, reason: str, text: str | None
) -> dict[str, Any]:
    prompt = input_tokens(request)
    usage: dict[str, Any] = {
        "promptTokenCount": prompt,
        "totalTokenCount": prompt,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
    }
    digest = hashlib.blake2b(f"{model}|{seed}|{prompt_text(request)}".encode(), digest_size=16).digest()
    response: dict[str, Any] = {
        "usageMetadata": usage,
        "modelVersion": model,
        "responseId": base64.urlsafe_b64encode(digest).decode().rstrip("="),
    }
    if outcome == "blocked_prompt":
        return {"promptFeedback": {"blockReason": reason}, **response}
    if outcome == "no_candidates":
        return response
    if outcome == "blocked_output":
        return {"candidates": [{"finishReason": reason, "index": 0}], **response}

    parts, finish = _parts(model, request, outcome, text)
    said = count_tokens("".join(str(part.get("text", "")) for part in parts if not part.get("thought")))
    usage["candidatesTokenCount"] = said
    thoughts = count_tokens("".join(str(part.get("text", "")) for part in parts if part.get("thought")))
    if thoughts:
        usage["thoughtsTokenCount"] = thoughts
    if member(request, "cachedContent"):
        usage["cachedContentTokenCount"] = prompt
    usage["totalTokenCount"] = prompt + said + thoughts
    candidate = {"content": {"parts": parts, "role": "model"}, "finishReason": finish, "index": 0}
    return {"candidates": [candidate], **response}


def _parts(model: str, request: Mapping[str, Any], outcome: str, text: str | None) -> tuple[list[dict[str, Any]], str]:
    config = member(request, "generationConfig")
    thinking = member(config, "thinkingConfig")
    answer = text if text is not None else _answer_text(request, config)
    finish = "STOP"
    limit = member(config, "maxOutputTokens")
    if limit is not None and count_tokens(answer) > int(limit):
        answer, finish = answer[: int(limit) * 4], "MAX_TOKENS"
    if outcome == "max_tokens":
        answer, finish = answer[: max(1, len(answer) // 2)], "MAX_TOKENS"
    part: dict[str, Any] = {"text": answer}
    parts = [part]
    if outcome == "thoughts" or "thinking" in model or member(thinking, "includeThoughts"):
        parts.insert(
            0, {"text": f"**Reading the request**\n\nIt has {len(prompt_text(request))} characters.", "thought": True}
        )
        signature = hashlib.blake2b(answer.encode(), digest_size=48).digest()
        part["thoughtSignature"] = base64.b64encode(signature).decode()
    return parts, finish


def _answer_text(request: Mapping[str, Any], config: Any) -> str:
    prompt = prompt_text(request)
    digest = hashlib.blake2b(prompt.encode(), digest_size=4).hexdigest()
    words = prompt.split()
    first = " ".join(words[:WORDS_ECHOED])
    system = member(request, "systemInstruction")
    guided = f" Instruction: {' '.join(' '.join(_texts([system])).split()[:WORDS_ECHOED])}." if system else ""
    mime_type = member(config, "responseMimeType")
    if mime_type == "application/json":
        import msgspec

        schema = member(config, "responseSchema") or member(config, "responseJsonSchema")
        value = _example(schema, first, digest) if schema else {"answer": first, "digest": digest}
        return msgspec.json.encode(value).decode()
    if mime_type == "text/x.enum":
        options = (member(config, "responseSchema") or {}).get("enum") or [first]
        return str(options[int(digest, 16) % len(options)])
    return f"[{digest}] {len(words)} words: {first}{guided}"


def _example(schema: Any, text: str, digest: str, depth: int = 0) -> Any:
    """Make a small value that fits a response schema."""
    if not isinstance(schema, Mapping) or depth > 12:
        return text
    if schema.get("enum"):
        return schema["enum"][int(digest, 16) % len(schema["enum"])]
    options = schema.get("anyOf") or schema.get("any_of")
    if options:
        return _example(options[0], text, digest, depth + 1)
    kind = schema.get("type")
    kind = str(kind[0] if isinstance(kind, list) and kind else kind).lower()
    number = int(digest[:4], 16) % 100
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties") or {}
        return {name: _example(inner, text, digest, depth + 1) for name, inner in properties.items()}
    if kind == "array":
        size = max(1, int(schema.get("minItems") or schema.get("min_items") or 1))
        return [_example(schema.get("items"), text, digest, depth + 1) for _ in range(size)]
    if kind == "integer":
        return max(number, int(schema.get("minimum") or 0))
    if kind == "number":
        return number / 100
    if kind == "boolean":
        return number % 2 == 0
    return None if kind == "null" else text


# Partial responses --------------------------------------------------------------------------------------------------


def select_fields(value: Any, selection: str) -> Any:
    """
    Keep only what a ``fields`` parameter asks for.

    :param selection: E.g. ``operations(name,metadata/state),nextPageToken`` or ``*``.
    :raises FieldSelectionError: If it cannot be read.

    Source: https://cloud.google.com/storage/docs/json_api#partial-response.
    """
    mask, position = _read_selection(selection.replace(" ", ""), 0)
    if position != len(selection.replace(" ", "")):
        raise FieldSelectionError(f"Invalid field selection {selection}")
    return _apply(value, mask)


def _read_selection(text: str, position: int) -> tuple[dict[str, Any], int]:
    mask: dict[str, Any] = {}
    while True:
        path = []
        while True:
            found = re.compile(r"[^,()/]+").match(text, position)
            if not found:
                raise FieldSelectionError(f"Invalid field selection {text}")
            path.append(found.group(0))
            position = found.end()
            if position < len(text) and text[position] == "/":
                position += 1
                continue
            break
        inner: dict[str, Any] = {}
        if position < len(text) and text[position] == "(":
            inner, position = _read_selection(text, position + 1)
            if position >= len(text) or text[position] != ")":
                raise FieldSelectionError(f"Invalid field selection {text}")
            position += 1
        node = mask
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node.setdefault(path[-1], {}).update(inner)
        if position < len(text) and text[position] == ",":
            position += 1
            continue
        return mask, position


def _apply(value: Any, mask: dict[str, Any]) -> Any:
    if not mask:
        return value
    if isinstance(value, list):
        return [_apply(item, mask) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for name, item in value.items():
        wanted = mask.get(name, mask.get(snake(name), mask.get("*")))
        if wanted is not None:
            kept[name] = _apply(item, wanted)
    return kept
