# SPDX-License-Identifier: Apache-2.0
"""Token counts of one answer, by what is billed apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_DIGITS = 20
"""Of a 64-bit number."""

_APART = ("AUDIO", "IMAGE", "VIDEO")


@dataclass(frozen=True)
class Tokens:
    """
    Counts of one answer or of many, disjoint.

    :param prompt: All of the prompt, as the service counts it; decides the price tier. Not a part of the sum.
    :param text_in: Input billed as text, uncached. Tokens of tool results are among them.
    :param cached: Input read from a cache, of any modality but audio.
    :param cached_audio: Audio read from a cache.
    :param media_in: Uncached input by modality: ``AUDIO``, ``IMAGE``, ``VIDEO``.
    :param text_out: Output billed as text: the answer and the thoughts.
    :param media_out: Output by modality.
    :param thoughts: Those of *text_out* that are thoughts.
    """

    prompt: int = 0
    text_in: int = 0
    cached: int = 0
    cached_audio: int = 0
    media_in: Mapping[str, int] = field(default_factory=dict)
    text_out: int = 0
    media_out: Mapping[str, int] = field(default_factory=dict)
    thoughts: int = 0


def read_tokens(usage: Mapping[str, Any] | None) -> Tokens:
    """
    Read Google's ``usageMetadata`` (or an embedding's counts).

    Example: ``{"promptTokenCount": 100, "cachedContentTokenCount": 40, "candidatesTokenCount": 7, "thoughtsTokenCount":
    3}`` is 60 tokens of text in, 40 cached, 10 of text out. Details by modality that add up to more than the whole are
    cut to it: the whole is what is billed.

    :param usage: Counts as the service names them; what is missing or no count is 0.
    """
    usage = _in_googles_words(usage) if isinstance(usage, Mapping) else {}
    prompt = _count(usage, "promptTokenCount") or _count(usage, "tokenCount")
    # Cached tokens are a part of the prompt, and have a rate of their own; each token must be counted once.
    cached = min(_count(usage, "cachedContentTokenCount"), prompt)
    cached_by = _by_modality(usage.get("cacheTokensDetails"), cached)
    media = _by_modality(usage.get("promptTokensDetails"), prompt)
    uncached = {kind: max(0, number - cached_by.get(kind, 0)) for kind, number in media.items()}
    cached_audio = cached_by.get("AUDIO", 0)
    # What details by modality do not name is text.
    uncached_left = prompt - cached
    kept: dict[str, int] = {}
    for kind, number in uncached.items():
        kept[kind] = min(number, uncached_left)
        uncached_left -= kept[kind]
    answer, thoughts = _count(usage, "candidatesTokenCount"), _count(usage, "thoughtsTokenCount")
    media_out = _by_modality(usage.get("candidatesTokensDetails"), answer)
    return Tokens(
        prompt=prompt,
        # Tokens of tool results are input, too, and stand beside the prompt's count, not in it.
        text_in=uncached_left + _count(usage, "toolUsePromptTokenCount"),
        cached=cached - cached_audio,
        cached_audio=cached_audio,
        media_in={kind: number for kind, number in kept.items() if number},
        # Thoughts are billed as output, and `candidatesTokenCount` leaves them out.
        text_out=answer - sum(media_out.values()) + thoughts,
        media_out=media_out,
        thoughts=thoughts,
    )


def _in_googles_words(usage: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    Return counts under Google's names; those of an answer in OpenAI's shape are named otherwise.

    There the answer's count may leave the thoughts out, and the total counts them.
    """
    if not usage.keys().isdisjoint(("promptTokenCount", "candidatesTokenCount", "tokenCount")):
        return usage
    prompt, answer, total = (
        _count(usage, camel) or _count(usage, snake)
        for camel, snake in (
            ("promptTokens", "prompt_tokens"),
            ("completionTokens", "completion_tokens"),
            ("totalTokens", "total_tokens"),
        )
    )
    details = usage.get("promptTokensDetails") or usage.get("prompt_tokens_details")
    details = details if isinstance(details, Mapping) else {}
    return {
        "promptTokenCount": prompt,
        "candidatesTokenCount": max(answer, total - prompt),
        "cachedContentTokenCount": _count(details, "cachedTokens") or _count(details, "cached_tokens"),
    }


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    if (
        isinstance(value, str) and value.isdecimal() and len(value) <= _DIGITS
    ):  # JSON of protocol buffers writes 64-bit numbers as text
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _by_modality(details: Any, whole: int) -> dict[str, int]:
    """Sum what is not text by modality; documents count as images do."""
    found: dict[str, int] = {}
    for each in details if isinstance(details, list) else ():
        if not isinstance(each, Mapping):
            continue
        kind = {"DOCUMENT": "IMAGE"}.get(str(each.get("modality")), str(each.get("modality")))
        number = min(_count(each, "tokenCount"), whole - sum(found.values()))
        if kind in _APART and number > 0:
            found[kind] = found.get(kind, 0) + number
    return found
