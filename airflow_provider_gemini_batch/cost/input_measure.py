# SPDX-License-Identifier: Apache-2.0
"""
How many tokens will the rows hold? What is known of them before they are sent, and the range that it gives.

Counted. ``countTokens`` on a few rows, evenly spread over the input, gives tokens for each byte, and the other rows are
taken to hold as many. The range is three standard errors of that ratio each way, and never less than a fifth for
sixteen rows (more for fewer): of rows that are one in five, a handful may hold none. Where all rows were counted a
twentieth is left, as the bill is not made by ``countTokens``.

Example: 1,000 rows of 400 bytes each; 16 of them, 6,400 bytes, were counted as 1,600 tokens, with a standard deviation
of 8 tokens about their ratio of a quarter. All rows: 100,000 tokens; three standard errors are 3 * 1000 * 8 / 4, which
is 6,000; a fifth is more, so the range goes from 80,000 to 120,000.

Not counted. A token is taken for 4 bytes of request, and the range goes from 8 bytes a token (JSON and markup around
little text) to 2 (scripts beyond ASCII; a text of digits alone may pass that, and only a count shows it).

Media. Bytes say nothing of what images, sound, films and cached contents hold: rows that were counted stand for the
others by their number, and there is no upper end unless all were counted.

A part of the rows, such as one job of a run, may hold its densest rows alone. Its upper end takes each byte for as many
tokens as the densest row that was counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import starmap

from airflow_provider_gemini_batch.cost.ranges import Range

BYTES_A_TOKEN = 4.0
MOST_BYTES_A_TOKEN = 8.0
LEAST_BYTES_A_TOKEN = 2.0

Counted = Sequence[tuple[int, int]]
"""Bytes and tokens of each row that ``countTokens`` counted."""

_ERRORS = 3.0
_LEAST_ERROR = 0.2
_LEAST_ERROR_OF = 16
_ERROR_OF_ALL = 0.05


@dataclass(frozen=True)
class InputMeasure:
    """
    What is known of the rows before they are sent.

    :param rows: How many.
    :param size: Bytes of all requests, as JSON.
    :param max_output_tokens: The largest ``maxOutputTokens`` of a row, or None if a row has none.
    :param counted: Of some of the rows, or of rows like them; empty if none were counted.
    :param has_media: Whether a row holds media, or names media or a cached content.
    :param is_part: Whether the rows are some of those that *counted* stands for, and may differ from the others.
    """

    rows: int
    size: int
    max_output_tokens: int | None = None
    counted: Counted = ()
    has_media: bool = False
    is_part: bool = False

    @property
    def is_counted_whole(self) -> bool:
        """Whether each row was counted."""
        return len(self.counted) >= self.rows and not self.is_part

    @property
    def tokens(self) -> Range:
        """Input tokens of all rows."""
        if self.counted:
            return self._by_count()
        if self.has_media:
            return Range(float(self.rows), None, None)
        return Range(self.size / MOST_BYTES_A_TOKEN, self.size / BYTES_A_TOKEN, self.size / LEAST_BYTES_A_TOKEN)

    @property
    def basis(self) -> str:
        """What the range rests on, for people."""
        if self.is_counted_whole:
            return "input counted"
        if self.counted:
            return f"input counted on {len(self.counted)} rows"
        return "input of media not known" if self.has_media else "input estimated at a token for 4 bytes"

    def _by_count(self) -> Range:
        number = len(self.counted)
        size, tokens = (sum(each) for each in zip(*self.counted, strict=True))
        ratio, mean = tokens / max(1, size), tokens / number
        likely = self.rows * mean if self.has_media else self.size * ratio
        if self.is_counted_whole:
            error = _ERROR_OF_ALL * likely
        else:
            squares = sum((held - (mean if self.has_media else ratio * bytes_)) ** 2 for bytes_, held in self.counted)
            spread = _ERRORS * self.rows * math.sqrt(squares / max(1, number - 1) / number)
            error = max(spread, likely * _LEAST_ERROR * math.sqrt(max(1.0, _LEAST_ERROR_OF / number)))
        high: float | None = likely + error
        if self.has_media and not self.is_counted_whole:
            high = None
        elif self.is_part:
            high = max(likely + error, self.size * max(starmap(_density, self.counted)))
        return Range(max(min(float(self.rows), likely), likely - error), likely, high)


def _density(size: int, tokens: int) -> float:
    return tokens / max(1, size)
