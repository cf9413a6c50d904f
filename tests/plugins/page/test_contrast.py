# SPDX-License-Identifier: Apache-2.0
"""
Colours of the style sheet against each other, as WCAG 2.2 wants them: 4.5 for text, 3 for what a shape alone says.

Worked example: white is ``oklch(1 0 0)``, luminance 1; the grey of luminance 0.183 has the contrast
(1 + 0.05) / (0.183 + 0.05) = 4.5 to it.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from airflow_provider_gemini_batch.plugins import page

STYLE = (Path(page.__file__).parent / "static" / "style.css").read_text()
THEMES = {"light": 0, "dark": 1}
TEXT, SHAPE = 4.5, 3.0


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour: ``oklch(L C H)`` or ``#rgb``."""
    if colour.startswith("#"):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        shares = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    else:
        light, chroma, hue = (float(part) for part in colour.removeprefix("oklch(").rstrip(")").split())
        a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
        long, middle, short = (
            (light + x * a + y * b) ** 3
            for x, y in ((0.3963377774, 0.2158037573), (-0.1055613458, -0.0638541728), (-0.0894841775, -1.291485548))
        )
        red = 4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short
        green = -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short
        blue = -0.0041960863 * long - 0.7034186147 * middle + 1.707614701 * short
        red, green, blue = (min(1.0, max(0.0, part)) for part in (red, green, blue))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return how far two colours are apart, 1 to 21."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def palette(theme: str) -> dict[str, str]:
    """Return the style sheet's colours by name."""
    found = {}
    for name, light, dark in re.findall(
        r"--([\w-]+): light-dark\((#\w+|oklch\([^)]+\)), (#\w+|oklch\([^)]+\))\)", STYLE
    ):
        found[name] = (light, dark)[THEMES[theme]]
    return found


GROUNDS = ("bg", "bg-subtle", "bg-muted", "bg-raised", "bg-selected")
PAIRS = [
    *((text, ground, TEXT) for text in ("fg", "fg-muted", "link") for ground in GROUNDS),
    *((text, ground, TEXT) for text in ("ok-fg", "bad-fg", "warn-fg") for ground in ("bg", "bg-subtle", "bg-raised")),
    *(("fg", ground, TEXT) for ground in ("bad-bg", "warn-bg", "info-bg")),
    ("bad-fg", "bad-bg", TEXT),
    ("warn-fg", "warn-bg", TEXT),
    *((mark, "bg", SHAPE) for mark in ("succeeded", "failed", "blocked", "invalid", "missing", "brand", "focus")),
    *(("focus", ground, SHAPE) for ground in GROUNDS),
    ("line-field", "bg", SHAPE),
    *((series, "bg", SHAPE) for series in ("s1", "s2", "s4")),
]


@pytest.mark.parametrize("theme", THEMES)
def test_text_and_marks_stand_out_from_their_ground(theme: str) -> None:
    colours = palette(theme)
    faint = {
        f"{text} on {ground}: {contrast(colours[text], colours[ground]):.2f}, not {least}"
        for text, ground, least in PAIRS
        if contrast(colours[text], colours[ground]) < least
    }
    assert faint == set()


def test_white_words_can_be_read_on_every_pill_and_button() -> None:
    grounds = dict(re.findall(r"\.pill\.(\w+) \{ --p: (oklch\([^)]+\))", STYLE))
    grounds |= {f"brand, {theme}": palette(theme)["brand"] for theme in THEMES}
    [danger] = re.findall(r"\.btn\.danger\.main \{ background: (oklch\([^)]+\))", STYLE)
    grounds["danger"] = danger
    assert len(grounds) > 8
    faint = {name: round(contrast("#fff", ground), 2) for name, ground in grounds.items()}
    assert {name: ratio for name, ratio in faint.items() if ratio < TEXT} == {}


def test_contrast_is_computed_as_wcag_says() -> None:
    assert contrast("#000", "#fff") == pytest.approx(21)
    assert contrast("#767676", "#fff") == pytest.approx(4.54, abs=0.01)
    assert contrast("oklch(1 0 0)", "#ffffff") == pytest.approx(1, abs=0.001)
    assert contrast("oklch(0.627955 0.257683 29.2338)", "#f00") == pytest.approx(1, abs=0.01)
