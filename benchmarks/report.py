# SPDX-License-Identifier: Apache-2.0
"""What a measure hands over, and the table made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

HEAD = ("measure", "ours", "official provider", "ratio", "physical limit", "target", "met")
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Row:
    """
    One line of the table; texts are as they are to be read.

    :param ratio: Ours to the official provider's.
    :param limit: What the machine allows at best, with ours as a share of it.
    :param met: None where there is no target.
    :param is_failure: The measure could not be taken.
    """

    measure: str
    ours: str
    official: str = ""
    ratio: str = ""
    limit: str = ""
    target: str = ""
    met: bool | None = None
    is_failure: bool = False

    def cells(self) -> tuple[str, ...]:
        """Return the texts in the order of :data:`HEAD`."""
        met = {None: "", True: "yes", False: "**no**"}[self.met]
        return (self.measure, self.ours, self.official, self.ratio, self.limit, self.target, met)


@dataclass(frozen=True)
class Part:
    """
    A piece of a measure that can fail for itself.

    :param name: Stands in the table if it does.
    """

    name: str
    rows: Callable[[], list[Row]]


def carry_out(measure: str, parts: Callable[[], Iterator[Part]], show: Callable[[str], None]) -> list[Row]:
    """Run a measure part by part; whatever fails becomes a row, and the rest goes on."""
    rows: list[Row] = []

    def add(new: list[Row]) -> None:
        rows.extend(new)
        for row in new:
            show(line(row.cells()))

    try:
        for part in parts():
            try:
                add(part.rows())
            except Exception as error:
                add([failed(f"{measure}: {part.name}", error)])
    except Exception as error:
        add([failed(measure, error)])
    return rows


def failed(name: str, error: Exception) -> Row:
    """Return the row of a measure that could not be made."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).replace("|", "/")
    return Row(name, f"could not be measured ({text})", met=False, is_failure=True)


def line(cells: tuple[str, ...]) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def table(rows: list[Row]) -> str:
    """Return the Markdown table."""
    return "\n".join([line(HEAD), line(("---",) * len(HEAD)), *(line(row.cells()) for row in rows)])


# --- figures --------------------------------------------------------------------------------------------------------


def ratio(ours: float, official: float) -> str:
    """Say how many times less, or more, ours is."""
    if ours <= 0 or official <= 0:
        return ""
    share = ours / official
    return f"1/{1 / share:,.0f}" if share <= 0.1 else f"{share:.2f}"


def size(count: float) -> str:
    """Write a number of bytes."""
    if abs(count) < MEGABYTE:
        return f"{count / 1000:.1f} KB"
    return f"{count / MEGABYTE:,.1f} MB" if count < 100 * MEGABYTE else f"{count / MEGABYTE:,.0f} MB"


def milliseconds(seconds: float) -> str:
    """Write a short time."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:,.0f} ms"
