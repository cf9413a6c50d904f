# SPDX-License-Identifier: Apache-2.0
"""Values of XComs, which may be anything, read as what they should be."""

from __future__ import annotations

from typing import Any


def count_of(value: Any) -> int | None:
    """Return a whole number, None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number_of(value: Any) -> float | None:
    """Return a number, None for anything else."""
    return float(value) if is_number(value) else None


def is_number(value: Any) -> bool:
    """Say whether a value is a number that can be shown."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15


def text_of(value: Any) -> str | None:
    """Return a text, None for anything else."""
    return value if isinstance(value, str) else None


def counts_of(value: Any) -> dict[str, int]:
    """Return the whole numbers of an object by their names."""
    if not isinstance(value, dict):
        return {}
    return {str(name): count for name, count in value.items() if count_of(count) is not None}
