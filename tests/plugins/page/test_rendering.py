# SPDX-License-Identifier: Apache-2.0
"""Values become text that neither a browser nor a terminal obeys."""

from __future__ import annotations

import pytest

from airflow_provider_gemini_batch.plugins.page import rendering


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;a title\x07text", "text"),
        ("bell\x07 and null\x00", "bell and null"),
        ("user\u202efdp.exe", "userfdp.exe"),
        ("a\u2066b\u2069\ufeff", "ab"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("żółć 漢字 🙂", "żółć 漢字 🙂"),
        ("\x9b31mC1", "31mC1"),
    ],
)
def test_hidden_characters_are_taken_out(given: str, shown: str) -> None:
    assert rendering.plain(given) == shown


def test_template_escapes_and_cleans_every_value() -> None:
    template = rendering.environment().from_string('<a title="{{ x }}">{{ x }}</a>{{ nothing }}')
    assert template.render(x='"><script>\x1b[1m', nothing=None) == (
        '<a title="&#34;&gt;&lt;script&gt;">&#34;&gt;&lt;script&gt;</a>'
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (59, "59 s"), (61, "1 min"), (7500, "2 h 05 m"), (200_000, "2 d")]
)
def test_durations_are_read_at_a_glance(seconds: float | None, text: str) -> None:
    assert rendering.duration(seconds) == text


def test_unknown_price_is_never_zero() -> None:
    assert [rendering.dollars(each) for each in (None, 0.0, 0.004, 1234.5)] == [
        "unknown", "$0.00", "< $0.01", "$1,234.50",
    ]  # fmt: skip
