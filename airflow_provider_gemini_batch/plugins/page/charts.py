# SPDX-License-Identifier: Apache-2.0
"""Dollars and tokens a day as bars. Pure: numbers in, lengths in per cent out; the template writes them as SVG."""

# Lengths are attributes of SVG, which the strict content policy allows, and in per cent, so that text keeps its size.
# The table below a chart holds the same figures.

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SERIES = 4
"""Names that have a colour of their own; the others share one."""

FEWEST = 7
"""Days that are drawn at least: a single bar as wide as the page tells nothing."""

FLAT = 4
"""How many times the highest bar a limit may be, and still be drawn."""

OTHERS = "others"


@dataclass(frozen=True)
class Piece:
    """A part of a bar; all lengths in per cent of the chart. *kind* is a class of ``style.css``."""

    kind: str
    name: str
    value: float
    y: float
    height: float


@dataclass(frozen=True)
class Bar:
    """A day's bar."""

    day: str
    total: float
    x: float
    width: float
    pieces: Sequence[Piece]


@dataclass(frozen=True)
class Chart:
    """
    Bars, one a day.

    :param lines: Values that have a line, with its distance from the top in per cent.
    :param legend: Class, name and sum of each series.
    :param limit: Distance from the top of the line that bars should stay below; None without one.
    """

    bars: Sequence[Bar]
    lines: Sequence[tuple[float, float]]
    legend: Sequence[tuple[str, str, float]]
    limit: float | None = None


def by_day(
    parts: Iterable[Mapping[str, Any]], by: str, value: str, today: date, days: int, limit: float | None = None
) -> Chart | None:
    """
    Return a chart of the last *days*, stacked by a member; None where nothing is to be drawn.

    :param parts: Each with ``day`` as ISO date, and numbers.
    :param by: Member that is stacked, the largest below.
    :param value: Member that is summed up.
    :param limit: What a day should not exceed. It is drawn unless it is so high that the bars would be flat beside it.
    """
    known = [part for part in parts if part[value]]
    sums = Counter[str]()
    for part in known:
        sums[str(part[by])] += part[value]
    if not sums or sums.total() <= 0:
        return None
    # "1 others" would say less than the one name: a single rest is shown by its own.
    named = [name for name, _ in sums.most_common(SERIES if len(sums) > SERIES + 1 else SERIES + 1)]
    series = {name: f"s{number}" for number, name in enumerate(named, start=1)}
    daily: dict[str, Counter[str]] = defaultdict(Counter)
    for part in known:
        daily[str(part["day"])][str(part[by]) if str(part[by]) in series else OTHERS] += part[value]
    oldest = min(min(map(_date, daily)), today - timedelta(days=FEWEST - 1))
    first = max(today - timedelta(days=days - 1), oldest)
    count = (today - first).days + 1
    highest = max(day.total() for day in daily.values())
    # A budget of 1,000 dollars would make a day of 3 a line on the ground.
    limit = limit if limit is not None and limit <= FLAT * highest else None
    top = _round_up(max(highest, limit or 0.0))
    bars = [_bar(first + timedelta(days=number), number, count, daily, series, top) for number in range(count)]
    legend = [(series[name], name, sums[name]) for name in named]
    rest = sums.total() - sum(sums[name] for name in named)
    if rest > 0:
        legend.append(("s5", f"{len(sums) - len(named)} others", rest))
    lines = [(top * part / 4, 100 - 25 * part) for part in range(5)]
    return Chart(bars, lines, legend, None if limit is None else round(100 - 100 * limit / top, 3))


def tokens_by_day(parts: Iterable[Mapping[str, Any]], today: date, days: int) -> Chart | None:
    """Return a chart of tokens, of prompts and of answers, the more below."""
    kinds = {"output_tokens": "out", "input_tokens": "in"}
    flat = [{"day": part["day"], "kind": kinds[name], "tokens": part[name]} for part in parts for name in kinds]
    return by_day(flat, "kind", "tokens", today, days)


def _bar(
    day: date, number: int, count: int, daily: Mapping[str, Counter[str]], series: Mapping[str, str], top: float
) -> Bar:
    found = daily.get(day.isoformat(), Counter[str]())
    pieces: list[Piece] = []
    y = 100.0
    for name in [*series, OTHERS]:
        if found[name] > 0:
            height = 100 * found[name] / top
            y -= height
            pieces.append(Piece(series.get(name, "s5"), name, found[name], round(y, 3), round(height, 3)))
    return Bar(day.isoformat(), found.total(), round(100 * number / count, 3), round(84 / count, 3), pieces)


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return date.max


def _round_up(value: float) -> float:
    """Return the next number that is 1, 2, 4, 6 or 8 times a power of ten: the top of a scale."""
    power = 1e-9
    while power * 10 < value:
        power *= 10
    return next((power * step for step in (1, 2, 4, 6, 8, 10) if power * step >= value), power * 10)
