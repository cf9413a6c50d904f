# SPDX-License-Identifier: Apache-2.0
"""
Input rows of about a kilobyte and result lines of about two, in files as large as wanted.

The input in wire form, the input in the short form and the results hold the same rows, as far as each of them goes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

SENTENCE = "A sentence of ordinary length, as a row of a nightly job has many of. "
PROMPT = SENTENCE * 14
ANSWER = SENTENCE * 28


def short_row(number: int) -> str:
    """Return an input row as people write it."""
    return f'{{"key": "k{number}", "prompt": "{number}: {PROMPT}"}}\n'


def wire_row(number: int) -> str:
    """Return an input row as it is sent."""
    return (
        f'{{"key": "k{number}", "request": {{"contents": [{{"role": "user", '
        f'"parts": [{{"text": "{number}: {PROMPT}"}}]}}]'
        ', "generationConfig": {"temperature": 0.2}}}\n'
    )


def result_line(number: int) -> str:
    """Return a line of results, as the service writes them."""
    return (
        f'{{"response": {{"candidates": [{{"content": {{"parts": [{{"text": "{ANSWER}"}}], "role": "model"}}, '
        '"finishReason": "STOP", "index": 0}], "usageMetadata": {"promptTokenCount": 200, "candidatesTokenCount": 400, '
        f'"totalTokenCount": 600}}, "modelVersion": "gemini-3.5-flash-lite"}}, "key": "k{number}"}}\n'
    )


def write_lines(path: Path, line: Callable[[int], str], *, size: int = 0, count: int = 0) -> int:
    """
    Write lines until *size* bytes are full or *count* lines are there; return how many there are.

    :param line: Makes the line of a number, from 1.
    """
    number = written = 0
    with path.open("w", encoding="ascii", buffering=1 << 20) as file:
        while (written < size) if size else (number < count):
            number += 1
            written += file.write(line(number))
    return number
