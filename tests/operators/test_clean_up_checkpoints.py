# SPDX-License-Identifier: Apache-2.0
"""``CleanUpBatchesOperator(checkpoints=True)`` removes what ended runs remember, and nothing that is still needed."""

from __future__ import annotations

import os
import time

import pytest

from airflow_provider_gemini_batch.compat import TaskDeferred
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.operators import CleanUpBatchesOperator, RunBatchOperator
from airflow_provider_gemini_batch.run.checkpoint import ABANDONED
from tests.run.world import MODEL, rows
from tests.support.airflow_side import attempt, set_connection

DAY = 24 * 3600.0


@pytest.fixture
def emulator(gemini_batch_emulator, monkeypatch):
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    return gemini_batch_emulator


@pytest.fixture
def root(tmp_path):
    return tmp_path / "checkpoints"


def run(root, run_id, **arguments):
    operator = RunBatchOperator(
        task_id="run", model=MODEL, rows=rows(2), prompt="Say {{ row.word }}", key="id", checkpoint_path=str(root),
        output_path=str(root.parent / f"{run_id}.parquet"), **arguments,
    )  # fmt: skip
    return operator.execute(attempt(run_id=run_id))


def kept(root):
    """Return the runs that have a checkpoint."""
    return sorted(path.name for path in root.glob("*/*/*") if path.name != "_targets")


def clean(root, **arguments):
    operator = CleanUpBatchesOperator(
        task_id="clean", states=["FAILED"], checkpoints=True, checkpoint_path=str(root), **arguments
    )
    return operator.execute(attempt())


def later(monkeypatch, seconds):
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + seconds)


def test_ended_run_is_forgotten_after_a_week_and_a_live_one_is_kept(emulator, root, monkeypatch):
    emulator.script(mode="at_once", times=1)
    run(root, "ended", deferrable=False)
    with pytest.raises(TaskDeferred):
        run(root, "live", deferrable=True)
    before = kept(root)
    assert (len(before), clean(root)) == (2, [])
    later(monkeypatch, 8 * DAY)
    would = clean(root, dry_run=True)
    assert (kept(root), len(would)) == (before, 1)
    assert clean(root) == would
    (removed,) = (entry["checkpoint"] for entry in would)
    assert kept(root) == [name for name in before if name != os.path.basename(removed)]


def test_run_that_nobody_goes_on_with_is_forgotten(emulator, root, monkeypatch):
    with pytest.raises(TaskDeferred):
        run(root, "left", deferrable=True)
    later(monkeypatch, ABANDONED - DAY)
    assert clean(root, older_than=DAY) == []
    later(monkeypatch, 2 * DAY)
    assert len(clean(root, older_than=DAY)) == 1
    assert kept(root) == []


def test_strange_folders_are_left_alone(emulator, root):
    (root / "photos" / "2026" / "may").mkdir(parents=True)
    (root / "photos" / "2026" / "may" / "sea.jpg").write_bytes(b"x")
    assert clean(root, older_than=0.001) == []
    assert (root / "photos" / "2026" / "may" / "sea.jpg").exists()


def test_checkpoints_without_a_place_are_an_error(emulator):
    with pytest.raises(ConfigurationError, match="checkpoints=True needs checkpoint_path"):
        CleanUpBatchesOperator(task_id="clean", checkpoints=True).execute(attempt())
