# SPDX-License-Identifier: Apache-2.0
"""What the page keeps goes when nobody looks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.plugins.page import kept
from airflow_provider_gemini_batch.plugins.page.kept import IDLE_SECONDS, Kept

if TYPE_CHECKING:
    import pytest


class Thing:
    size = 1000


def test_what_nobody_asks_for_is_dropped_after_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[str] = []
    things: Kept[Thing] = Kept(lambda: released.append("closed"))
    thing = things.get("a", Thing)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + IDLE_SECONDS - 5)
    things._drop_if_idle()
    assert (list(things._entries.values()), released) == ([thing], [])
    monkeypatch.setattr(time, "monotonic", lambda: now + IDLE_SECONDS + 5)
    things._drop_if_idle()
    assert (list(things._entries), released) == ([], ["closed"])


def test_entries_asked_for_longest_ago_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_BYTES", 3000)
    things: Kept[Thing] = Kept()
    first = things.get("a", Thing)
    for key in "bcad":  # "a" was asked for again, so "b" goes
        things.get(key, Thing)
    assert list(things._entries) == ["c", "a", "d"]
    assert things.get("a", Thing) is first
    things.drop()
