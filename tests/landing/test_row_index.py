# SPDX-License-Identifier: Apache-2.0
"""Rows on disk are found by their key, also where two keys have one hash."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from airflow_provider_gemini_batch.landing import row_index
from airflow_provider_gemini_batch.landing.row_index import RowIndex

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["as it is", "one hash"], autouse=True)
def _hashes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Python's hash tell keys apart, or let all keys have the same one."""
    if request.param == "one hash":
        monkeypatch.setattr(row_index, "hash", lambda key: 7, raising=False)


def line(key: str, status: str = "succeeded", note: int = 0) -> bytes:
    return b'{"key":"%b","status":"%b","note":%d}\n' % (key.encode(), status.encode(), note)


def test_each_key_finds_its_own_row(tmp_path: Path) -> None:
    keys = [f"k{number}" for number in range(50)]
    with closing(RowIndex(str(tmp_path))) as index:
        for key in keys:
            index.add(key, line(key), True)
        assert list(index.build()) == []
        assert [index.find(key) for key in reversed(keys)] == [(line(key), True, False) for key in reversed(keys)]
        assert index.find("k") is None
        assert list(index.unused()) == []


def test_a_success_wins_over_a_failure_with_its_key(tmp_path: Path) -> None:
    with closing(RowIndex(str(tmp_path))) as index:
        index.add("a", line("a", "failed"), False)
        index.add("b", line("b"), True)
        index.add("a", line("a", note=1), True)
        index.add("a", line("a", note=2), True)
        assert list(index.build()) == [line("a", "failed"), line("a", note=2)]
        assert index.find("a") == (line("a", note=1), True, False)
        assert index.find("a") == (line("a", note=1), True, True)
