# SPDX-License-Identifier: Apache-2.0
"""Answers to ``embedContent``: vectors of length one, drawn from the text; https://ai.google.dev/api/embeddings."""

from __future__ import annotations

import math
import random
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gemini_batch_emulator.answering.draws import Draw, number_of
from gemini_batch_emulator.answering.requests import count_tokens

if TYPE_CHECKING:
    from gemini_batch_emulator.answering.generation import Prompt

DIMENSIONS = 3072
BASES = 16
SIGNS_CHANGED = 16


def embed(model: str, prompt: Prompt) -> dict[str, Any]:
    """
    Answer a request.

    :param model: Short name of the model; the first Gemini embedding model heeds the task type, later ones do not.
    """
    size = prompt.settings.dimensions or DIMENSIONS
    task = prompt.settings.task if "001" in model else ""
    values = vector(number_of(f"{model}|{task}|{prompt.text}"), size)
    tokens = count_tokens(prompt.text) + sum(prompt.media.values())
    # Captured: the second model counts in `usageMetadata`, the first in `tokenCount`, which is a string.
    if model.startswith("gemini-embedding-2"):
        return {"embedding": {"values": values}, "usageMetadata": {"promptTokenCount": tokens}}
    return {"embedding": {"values": values}, "tokenCount": str(tokens)}


def vector(number: int, size: int) -> list[float]:
    """
    Return *size* numbers whose squares add up to one, drawn by *number*.

    Drawing and scaling 768 numbers would take a third of a millisecond. Turning a vector that is there already, and
    changing the sign of some of its members, keeps its length; vectors turned differently are as good as orthogonal.
    """
    draw = Draw(number)
    base = _base(size, draw.below(BASES))
    start = draw.below(size)
    values = base[start:] + base[:start]
    for _ in range(SIGNS_CHANGED):
        place = draw.below(size)
        values[place] = -values[place]
    return values


@lru_cache(maxsize=64)
def _base(size: int, number: int) -> list[float]:
    generator = random.Random(f"{size}|{number}")
    raw = [generator.uniform(-1.0, 1.0) for _ in range(size)]
    length = math.sqrt(math.fsum(value * value for value in raw)) or 1.0
    return [round(value / length, 9) for value in raw]
