# SPDX-License-Identifier: Apache-2.0
"""From rows in to rows out: keys of other names, members of one's own, gzip, and rows that were left out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.operators import CreateBatchOperator, DownloadResultsOperator
from tests.support.airflow_side import attempt

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

CONTENTS = [{"role": "user", "parts": [{"text": "x"}]}]
ROWS = [{"id": n, "url": f"u{n}", "tags": [n], "request": {"contents": CONTENTS}} for n in (17, 18, 19)]


@pytest.fixture
def emulator(emulator: EmulatorHandle) -> EmulatorHandle:
    emulator.script(mode="at_once")
    return emulator


def landed(tmp_path: Path, content: bytes, **arguments: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Submit rows and download their answers; return the result rows and the manifest."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    given: dict[str, Any] = {"model": "gemini-3.5-flash-lite", "input_path": path, **arguments}
    job = CreateBatchOperator(task_id="create", wait_for_completion=True, poll_interval=0.1, **given).execute(attempt())
    given = {"input_path": path, "output_path": tmp_path / "out.jsonl", "max_failed_rows": None}
    given |= {"key": arguments["key"]} if "key" in arguments else {}
    manifest = DownloadResultsOperator(task_id="download", job_name=job, **given).execute(attempt())
    return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()], manifest


def lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize("key", ["key", "id", ["url", "id"]])
def test_members_of_ones_own_stand_beside_the_answers(emulator: EmulatorHandle, tmp_path: Path, key: Any) -> None:
    rows, manifest = landed(tmp_path, lines(ROWS), key=key)
    assert manifest["succeeded"] == 3
    assert [(row["id"], row["url"], row["tags"]) for row in rows] == [(n, f"u{n}", [n]) for n in (17, 18, 19)]
    first = {"key": "row-1", "id": "17"}.get(str(key), '["u17",17]')
    assert rows[0]["key"] == first


def test_a_gzipped_input_is_read_on_both_ways(emulator: EmulatorHandle, tmp_path: Path) -> None:
    rows, manifest = landed(tmp_path, gzip.compress(lines(ROWS)))
    assert manifest["succeeded"] == 3
    assert [row["id"] for row in rows] == [17, 18, 19]


def test_a_row_that_was_left_out_lands_with_its_reason(emulator: EmulatorHandle, tmp_path: Path) -> None:
    given = [{"key": "a", "prompt": "x"}, {"key": "b", "prompt": " "}, {"key": "c", "prompt": "y"}]
    rows, manifest = landed(tmp_path, lines(given), on_bad_row="land")
    assert [(row["key"], row["status"]) for row in rows] == [("a", "succeeded"), ("b", "failed"), ("c", "succeeded")]
    assert "'prompt' is empty" in rows[1]["error"]["message"]
    assert (manifest["succeeded"], manifest["failed"], manifest["missing"]) == (2, 1, 0)
