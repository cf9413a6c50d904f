# SPDX-License-Identifier: Apache-2.0
"""Answers to ``generateContent``: text made from the prompt's first words, or a value that fits the asked schema."""

# Shapes: https://ai.google.dev/api/generate-content. Counters are plausible, not the model's: four characters a token.

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from gemini_batch_emulator.answering.requests import Settings, count_tokens

if TYPE_CHECKING:
    from gemini_batch_emulator.answering.draws import Lengths

WORDS_ECHOED = 12
IMAGE_TOKENS = 1120
"""Output tokens of a picture of 1K."""

_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
_encode = msgspec.json.Encoder().encode


class Prompt(msgspec.Struct):
    """
    What is asked, as answers are made of it.

    :param number: Hash of the text.
    :param media: Input tokens of its files, by modality.
    """

    text: str
    number: int
    settings: Settings
    media: dict[str, int]

    @property
    def words(self) -> str:
        """The first words of the prompt."""
        return " ".join(self.text[:400].split(None, WORDS_ECHOED)[:WORDS_ECHOED])


@dataclass(frozen=True)
class Manner:
    """
    How to answer; the members of a script and a row's rule that speak of it.

    :param outcome: As in :class:`~.scripts.RowRule`.
    :param reason: Block or finish reason.
    :param text: Say this.
    :param how: How a schema is broken.
    :param output_tokens: Tokens of the answer; None counts its text.
    :param thoughts_tokens: Tokens of the thinking; None is none, unless thoughts are shown.
    :param cached_tokens: Tokens of the prompt that came from a cache.
    :param model_version: The model that says to have answered; empty is the one asked.
    """

    outcome: str = "succeed"
    reason: str = "SAFETY"
    text: str | None = None
    how: str = "type"
    output_tokens: Lengths | None = None
    thoughts_tokens: Lengths | None = None
    cached_tokens: int | None = None
    model_version: str = ""
    seed: int = 0


USUAL = Manner()


def generate(model: str, prompt: Prompt, index: int, manner: Manner = USUAL) -> dict[str, Any]:
    """
    Answer a request.

    :param model: Short name of the model.
    :param index: Tells equal requests of one job apart.
    """
    settings = prompt.settings
    text_tokens = count_tokens(prompt.text) + settings.system_tokens
    details = [{"modality": "TEXT", "tokenCount": text_tokens}] if text_tokens or not prompt.media else []
    details += [{"modality": name, "tokenCount": tokens} for name, tokens in prompt.media.items()]
    asked = text_tokens + sum(prompt.media.values())
    usage: dict[str, Any] = {"promptTokenCount": asked, "totalTokenCount": asked, "promptTokensDetails": details}
    response: dict[str, Any] = {
        "usageMetadata": usage,
        "modelVersion": manner.model_version or model,
        "responseId": _response_id(prompt, index),
    }
    if manner.outcome == "blocked_prompt":
        return {"promptFeedback": {"blockReason": manner.reason}, **response}
    if manner.outcome == "no_candidates":
        return response
    if manner.outcome == "blocked_output":
        return {"candidates": [{"finishReason": manner.reason, "index": 0}], **response}
    _add_cached(usage, prompt, manner, asked)
    parts, finish = _parts(model, prompt, manner, usage)
    usage["totalTokenCount"] = asked + usage["candidatesTokenCount"] + usage.get("thoughtsTokenCount", 0)
    candidate = {"content": {"parts": parts, "role": "model"}, "finishReason": finish, "index": 0}
    return {"candidates": [candidate], **response}


def _response_id(prompt: Prompt, index: int) -> str:
    # The service's are 22 characters of base64; nobody reads them, and ten million of them cost ten seconds.
    return f"{prompt.number:016x}{index:06x}"


def _add_cached(usage: dict[str, Any], prompt: Prompt, manner: Manner, asked: int) -> None:
    cached = manner.cached_tokens
    if cached is None and prompt.settings.has_cache:
        cached = asked
    if cached:
        usage["cachedContentTokenCount"] = min(cached, asked)
        usage["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": min(cached, asked)}]


def _parts(model: str, prompt: Prompt, manner: Manner, usage: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Return the parts and the finish reason; counts what was said and thought."""
    settings = prompt.settings
    # An image is billed by its own tokens and has no text, whatever else is asked.
    if settings.makes_images:
        usage["candidatesTokenCount"] = IMAGE_TOKENS
        usage["candidatesTokensDetails"] = [{"modality": "IMAGE", "tokenCount": IMAGE_TOKENS}]
        return [{"inlineData": {"mimeType": "image/png", "data": _PIXEL}}], "STOP"
    answer = manner.text if manner.text is not None else _answer(prompt, manner)
    thought, thoughts = _thoughts(model, prompt, manner)
    finish = "STOP"
    tokens = count_tokens(answer)
    if manner.output_tokens is not None:
        tokens = manner.output_tokens.draw(prompt.number, manner.seed, 1)
        # Only free text can be stretched: JSON that fits a schema would not fit it any more.
        if manner.text is None and settings.make is None and not settings.options:
            answer = _stretched(answer, tokens)
    # Thinking counts against maxOutputTokens, too.
    room = None if settings.limit is None else max(0, settings.limit - (thoughts if manner.thoughts_tokens else 0))
    if room is not None and tokens > room:
        answer, tokens, finish = answer[: room * 4], room, "MAX_TOKENS"
    if manner.outcome == "max_tokens":
        answer = answer[: max(1, len(answer) // 2)]
        tokens, finish = min(tokens, count_tokens(answer)), "MAX_TOKENS"
    usage["candidatesTokenCount"] = tokens
    if thoughts:
        usage["thoughtsTokenCount"] = thoughts
    part: dict[str, Any] = {"text": answer}
    if not thought:
        return [part], finish
    part["thoughtSignature"] = base64.b64encode(hashlib.blake2b(answer.encode(), digest_size=48).digest()).decode()
    return [{"text": thought, "thought": True}, part], finish


def _thoughts(model: str, prompt: Prompt, manner: Manner) -> tuple[str, int]:
    """Return the thought to show, if one is to be shown, and the tokens of the thinking."""
    text = ""
    if manner.outcome == "thoughts" or prompt.settings.has_thoughts or "thinking" in model:
        text = f"**Reading the request**\n\nIt has {len(prompt.text)} characters."
    if manner.thoughts_tokens is None:
        return text, count_tokens(text)
    tokens = manner.thoughts_tokens.draw(prompt.number, manner.seed, 2)
    limit = prompt.settings.limit
    return text, tokens if limit is None else min(tokens, limit)


def _answer(prompt: Prompt, manner: Manner) -> str:
    settings = prompt.settings
    words = prompt.words
    if settings.make is not None:
        value = settings.make.value(prompt.number, words)
        if manner.outcome == "invalid":
            value = settings.make.broken(value, manner.how)
        return _encode(value).decode()
    if settings.options:
        return (
            "none of these" if manner.outcome == "invalid" else settings.options[prompt.number % len(settings.options)]
        )
    guided = f" Instruction: {' '.join(settings.system.split()[:WORDS_ECHOED])}." if settings.system else ""
    return f"[{prompt.number >> 32:08x}] {len(prompt.text.split())} words: {words}{guided}"


def _stretched(text: str, tokens: int) -> str:
    """The text cut or repeated to have so many tokens."""
    length = tokens * 4
    if len(text) >= length:
        return text[:length]
    return ((text + " ") * (length // (len(text) + 1) + 1))[:length]
