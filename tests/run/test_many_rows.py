# SPDX-License-Identifier: Apache-2.0
"""Decisions over millions of rows within the engine's 128 MB; the rows are made by the engine, too."""

from __future__ import annotations

import contextlib

import pytest

from airflow_provider_gemini_batch.files.folder import Folder
from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
from airflow_provider_gemini_batch.run.plan import Limits
from airflow_provider_gemini_batch.run.rounds import RoundCutter
from airflow_provider_gemini_batch.run.snapshot import Snapshot
from airflow_provider_gemini_batch.run.spec import Outputs, RunSpec
from airflow_provider_gemini_batch.run.tables import engine, rows_of

ROWS, JOBS = 3_000_000, 15


@pytest.fixture
def cutter(tmp_path):
    """A generation of which one round is collected: each thousandth row has failed for a passing reason."""
    checkpoint = Checkpoint(Folder(str(tmp_path / "checkpoint"), settle=0.0), 1)
    narrow, outcomes = str(tmp_path / "narrow.parquet"), str(tmp_path / "outcomes.parquet")
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(engine(str(tmp_path)))
        rows = f"SELECT range AS n, ''::BLOB AS d, 300::BIGINT AS size FROM range({ROWS})"
        database.execute(f"COPY ({rows}) TO '{narrow}' (FORMAT parquet)")
        each = ROWS // JOBS
        for job in range(JOBS):
            # In any order, as answers come: 7919 and the rows of a job have no common divisor.
            place = f"{job * each} + (range * 7919) % {each}"
            database.execute(
                "COPY (SELECT n, ''::BLOB AS d, (CASE WHEN n % 1000 = 0 THEN 1 ELSE 0 END)::UTINYINT AS s, "
                f"n % 1000 = 0 AS passing, TRUE AS asked, 0.1::DOUBLE AS cost FROM (SELECT {place} AS n "
                f"FROM range({each}))) TO '{outcomes}' (FORMAT parquet)"
            )
            name = checkpoint.put("outcomes", ".parquet", outcomes)
            checkpoint.note("collected", f"r1.s{job}", {"shard": f"r1.s{job}", "outcomes": name})
        snapshot = Snapshot(
            ROWS, ROWS, "", checkpoint.put("narrow", ".parquet", narrow), (), {"id": "VARCHAR"}, {}, "", 0, 0, 0.0, ""
        )
        spec = RunSpec("generate", "gemini-3.5-flash-lite", Outputs(str(tmp_path / "out.parquet")), prompt="x")
        yield RoundCutter(spec, checkpoint, snapshot, database, str(tmp_path)), checkpoint, database


def test_rows_that_failed_are_found_among_millions(cutter):
    work, checkpoint, database = cutter
    header = work.cut(2, "batch", Limits())
    assert [(shard["first"], shard["last"], shard["rows"]) for shard in header["shards"]] == [
        (0, ROWS - 1000, ROWS // 1000)
    ]
    asked = rows_of(database, f"SELECT n FROM read_parquet('{checkpoint.folder.path(header['rows'])}')")
    assert [n for (n,) in asked] == list(range(0, ROWS, 1000))
