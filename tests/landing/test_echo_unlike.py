# SPDX-License-Identifier: Apache-2.0
"""Answers without a key are not joined where rows differ in more than their contents."""

from __future__ import annotations

from typing import Any

from airflow_provider_gemini_batch.landing.echo import EchoKeys
from airflow_provider_gemini_batch.rows.input_rows import known_rows
from airflow_provider_gemini_batch.rows.settings import RowSettings

CONTENTS = [{"role": "user", "parts": [{"text": "the same document"}]}]


def keys_of(systems: list[str]) -> list[str | None]:
    def row(system: str) -> dict[str, Any]:
        return {"contents": CONTENTS, "systemInstruction": {"parts": [{"text": system}]}}

    rows = [{"request": row(system)} for system in systems]
    settings = RowSettings("generate", "vertex_ai", "gemini-3.5-flash-lite")
    echo = EchoKeys(lambda: known_rows(rows), settings)
    return [echo.key_of(row(system)) for system in reversed(systems)]


def test_same_contents_under_other_instructions_are_not_told_apart() -> None:
    assert keys_of(["one", "two", "three"]) == [None, None, None]


def test_equal_requests_are_interchangeable() -> None:
    assert sorted(str(key) for key in keys_of(["one", "one"])) == ["row-1", "row-2"]
