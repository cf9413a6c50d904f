# SPDX-License-Identifier: Apache-2.0
"""HTML from templates. What comes from rows, names or the service is text, whatever it holds."""

# Jinja2 escapes every value; on top, `plain` takes out what a terminal would obey and what turns the order of letters
# around, so that a name cannot pass for another one.

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.plugins.page.threads import CpuThrottle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jinja2 import Environment

HERE = Path(__file__).parent

_TERMINAL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI, e.g. colours
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC, e.g. the window's title
    r"|\x1b."
)
# Control characters but tab and newline, marks of direction, and the byte order mark.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def plain(value: Any) -> str:
    """Return a value as text without terminal codes, control characters and marks of direction."""
    text = value if isinstance(value, str) else str(value)
    if text.isprintable():  # so are nearly all; what is hidden, and a newline, is not
        return text
    return _HIDDEN.sub("", _TERMINAL.sub("", text))


def number(value: Any) -> str:
    """Return a whole number with commas, a dash for none."""
    return "–" if value is None else f"{int(value):,}"


def dollars(value: float | None) -> str:
    """Return an amount; an unknown one is called so."""
    if value is None:
        return "unknown"
    if 0 < value < 0.01:
        return "< $0.01"
    return f"${value:,.2f}"


def tokens(value: Any) -> str:
    """Return a count of tokens in millions or thousands."""
    if value is None:
        return "–"
    count = int(value)
    if count >= 1_000_000:
        return f"{count / 1_000_000:,.2f} M"
    return f"{count / 1000:,.1f} k" if count >= 10_000 else f"{count:,}"


def short(value: float) -> str:
    """Return a number for an axis, e.g. ``1.5 M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"


def duration(seconds: float | None) -> str:
    """Return a length of time in the two units that matter, e.g. ``2 h 05 m``."""
    if seconds is None:
        return "–"
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86400} d"


def clock(epoch: float | None, pattern: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Return a moment in UTC; the script shows it in the zone of the browser."""
    from datetime import UTC, datetime

    try:
        return "–" if epoch is None else datetime.fromtimestamp(epoch, UTC).strftime(pattern)
    except (ValueError, OverflowError, OSError):  # a number that is no moment, as an XCom may hold
        return "–"


def iso(epoch: float | None) -> str:
    """Return a moment for the attribute ``datetime``."""
    return "" if epoch is None else clock(epoch, "%Y-%m-%dT%H:%M:%SZ").removeprefix("–")


def short_name(job_name: Any) -> str:
    """Return the last part of a job's name, by which people know it."""
    return plain(job_name).rstrip("/").rpartition("/")[2]


def render(template: str, context: Mapping[str, Any]) -> str:
    """Render a template of :data:`HERE` ``/templates``."""
    throttle, pieces = CpuThrottle(20), []
    for piece in environment().get_template(template).generate(context):
        pieces.append(piece)
        throttle.pause_if_due()
    return "".join(pieces)


@cache
def environment() -> Environment:
    """Return the environment that all templates share."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    made.filters.update(
        plain=plain, number=number, dollars=dollars, tokens=tokens, duration=duration, clock=clock, iso=iso,
        short=short, short_name=short_name,
    )  # fmt: skip
    return made


def _finalize(value: Any) -> Any:
    """Take hidden characters out of every value that a template writes; none is nothing."""
    from markupsafe import Markup

    if value is None:
        return ""
    return value if isinstance(value, Markup) else plain(value)
