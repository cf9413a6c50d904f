# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a row, and the words for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

TOO_DEEP = "objects or lists are nested too deeply"


class RowProblem(Exception):
    """
    What is wrong with one row. Leaves this package only inside a ``ConfigurationError`` or a :class:`RowFault`.

    :param reason: What is wrong, for people.
    :param fix: What to do about it; empty where the reason says it.
    """

    def __init__(self, reason: str, fix: str = "") -> None:
        super().__init__(reason, fix)
        self.reason = reason
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.reason}; {self.fix}" if self.fix else self.reason


class OtherKind(RowProblem):
    """A line that shows, as the first one, that the whole file is of another kind."""


@dataclass(frozen=True)
class RowFault:
    """
    A row that cannot be sent: where it is, what is wrong and what to do.

    :param unit: ``line`` of a file, or ``row`` of a list.
    :param number: Of the line or row, from 1.
    :param key: The row's key, or None where the row has none that can be read.
    :param is_other_kind: Whether the file is no file of rows, as far as this line tells.
    """

    unit: str
    number: int
    key: str | None
    reason: str
    fix: str = ""
    is_other_kind: bool = False

    def __str__(self) -> str:
        known = f" (key {shown(self.key)})" if self.key is not None else ""
        return f"{self.unit} {self.number}{known}: {self.reason}" + (f"; {self.fix}" if self.fix else "")


def kind_of(value: Any) -> str:
    """Return the JSON kind of a value with its article: ``a list``, ``null``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    for kind, name in (
        (str, "a string"),
        ((int, float), "a number"),
        ((list, tuple), "a list"),
        (Mapping, "an object"),
    ):
        if isinstance(value, kind):
            return name
    return type(value).__name__


def listed(names: Iterable[object]) -> str:
    """Return names in quotes, sorted, long ones cut."""
    return ", ".join(repr(name if len(str(name)) <= 60 else str(name)[:57] + "...") for name in sorted(names, key=str))


def shown(value: Any) -> str:
    """Return a value as people recognise it, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
