# SPDX-License-Identifier: Apache-2.0
"""Answers to ``embedContent``: vectors of length one, drawn from the text; https://ai.google.dev/api/embeddings."""

from __future__ import annotations

import math
import random
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gemini_batch_emulator.answering.requests import count_tokens

if TYPE_CHECKING:
    from gemini_batch_emulator.answering.generation import Prompt

DIMENSIONS = 3072


@lru_cache(maxsize=16)
def _pool(size: int) -> list[float]:
    """Numbers from -1 to 1 to cut vectors from: drawing each anew would take a millisecond a row."""
    generator = random.Random(size)
    return [generator.uniform(-1.0, 1.0) for _ in range(size * 2 + 64)]


def embed(model: str, prompt: Prompt) -> dict[str, Any]:
    """
    Answer a request.

    :param model: Short name of the model; the first Gemini embedding model heeds the task type, later ones do not.
    """
    size = prompt.settings.dimensions or DIMENSIONS
    values = vector(f"{model}|{prompt.settings.task if '001' in model else ''}|{prompt.text}", size)
    tokens = count_tokens(prompt.text) + sum(prompt.media.values())
    if model.startswith("gemini-embedding-2"):
        return {"embedding": {"values": values}, "usageMetadata": {"promptTokenCount": tokens}}
    return {"embedding": {"values": values}, "tokenCount": str(tokens)}


def vector(seed: str, size: int) -> list[float]:
    """Return *size* numbers whose squares add up to one."""
    generator = random.Random(seed)
    pool = _pool(size)
    start = generator.randrange(size)
    step = generator.uniform(0.25, 1.0)
    raw = [value * step for value in pool[start : start + size]]
    # A handful of numbers of the text's own makes vectors with the same start differ.
    for _ in range(8):
        raw[generator.randrange(size)] = generator.uniform(-1.0, 1.0)
    length = math.sqrt(math.fsum(value * value for value in raw)) or 1.0
    return [round(value / length, 9) for value in raw]
