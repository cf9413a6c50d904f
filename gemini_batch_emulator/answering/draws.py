# SPDX-License-Identifier: Apache-2.0
"""
Numbers drawn from a request's text: the same text, seed and purpose give the same numbers, in any job and process.
"""

# A hash of the text is the seed, and a linear congruential generator goes on from it. Python's own generator would give
# better numbers and take ten times as long to seed, which for ten million rows is minutes.

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any

_MASK = (1 << 64) - 1
_NORMAL = NormalDist()
SHAPES = ("constant", "uniform", "lognormal", "pareto")


def number_of(text: str) -> int:
    """Return 64 bits of a text's hash."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class Draw:
    """A sequence of numbers."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def below(self, limit: int) -> int:
        """Return the next number, at least 0 and below *limit*."""
        self._state = state = (self._state * 6364136223846793005 + 1442695040888963407) & _MASK
        # The high bits: the low ones of such a generator repeat after a few numbers.
        return (state >> 33) % limit

    def share(self) -> float:
        """Return the next number, above 0 and below 1."""
        # Never 0 or 1, for which the shapes below have no number.
        return (self.below(1 << 30) + 0.5) / (1 << 30)


@dataclass(frozen=True)
class Lengths:
    """
    How many tokens answers have, or the thinking before them.

    ========================  =======================================================================================
    ``constant``              always *median*
    ``uniform``               *least* to *most*
    ``lognormal``             *median* times e to the power of *sigma* times a normal number: 0.5 is moderate, 1.5 wide
    ``pareto``                heavy-tailed: *median* is its median, *alpha* its exponent; below 2 the variance has no
                              bound, below 1 the mean neither
    ========================  =======================================================================================

    :param least: No draw is smaller.
    :param most: No draw is larger; as a rule what a model can write at most.
    """

    shape: str = "constant"
    median: float = 20.0
    sigma: float = 0.5
    alpha: float = 1.5
    least: int = 1
    most: int = 65_536

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"no such shape of lengths: {self.shape!r}; there is {', '.join(SHAPES)}")

    @classmethod
    def of(cls, value: Any) -> Lengths | None:
        """
        Read a length as scripts write it: None, a number of tokens, or an object with the members of this class.

        :raises ValueError: If it is none of these.
        """
        if value is None or isinstance(value, Lengths):
            return value
        if isinstance(value, Mapping):
            unknown = sorted(set(value) - {field.name for field in fields(cls)})
            if unknown:
                raise ValueError(f"lengths have no {', '.join(unknown)}")
            return cls(**value)
        if isinstance(value, int) and not isinstance(value, bool):
            return cls(median=value, least=0)
        raise ValueError(f"a length is a number of tokens or an object, not {value!r}")

    def draw(self, number: int, seed: int, purpose: int) -> int:
        """Return the number of tokens for the text with hash *number*."""
        if self.shape == "constant":
            return max(self.least, min(self.most, round(self.median)))
        # The purpose keeps the length of an answer and that of its thoughts apart: else long answers would have long
        # thoughts.
        share = Draw(number ^ (seed * 0x9E3779B97F4A7C15 + purpose)).share()
        if self.shape == "uniform":
            return self.least + int(share * (self.most - self.least + 1))
        if self.shape == "lognormal":
            tokens = self.median * math.exp(self.sigma * _NORMAL.inv_cdf(share))
        else:
            tokens = self.median * (2.0 * (1.0 - share)) ** (-1.0 / self.alpha)
        return max(self.least, min(self.most, round(min(tokens, 1e12))))
