# SPDX-License-Identifier: Apache-2.0
"""Disks that fill up, damaged files, rows that fail far inside: one clear error, and nothing is lost or paid."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.atomic import DiskFullError
from airflow_provider_gemini_batch.files.folder import Folder


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 kB."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], check=False, capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f"a small disk needs the right to mount: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def created(world) -> int:
    return int(world.emulator.ledger()["totals"]["created"])


def long_rows(count):
    """Return rows that compress badly."""
    import random

    chance = random.Random(1)
    return [{"id": n, "word": chance.randbytes(1000).hex()} for n in range(count)]


def test_checkpoint_on_a_full_disk_says_where_and_costs_nothing(world, small_disk):
    checkpoint = Folder(str(small_disk / "checkpoint"), settle=0.0)
    with pytest.raises(DiskFullError, match=r"small/checkpoint.*Make room and retry"):
        world.attempt(world.spec(), long_rows(800), checkpoint=checkpoint)
    assert created(world) == 0


def test_temporary_folder_on_a_full_disk_names_tmpdir(world, small_disk, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with pytest.raises(DiskFullError, match=r"Make room and retry\. .*TMPDIR"):
        world.attempt(world.spec(), long_rows(800))
    assert created(world) == 0


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_output_on_a_full_disk_leaves_the_old_one_and_a_retry_asks_nothing(world, small_disk, suffix):
    world.emulator.script(mode="at_once")
    name = f"small/out.{suffix}"
    old = Path(world.path(name))
    old.write_text("old")
    (small_disk / "other").write_bytes(b"x" * 230_000)
    with pytest.raises(DiskFullError, match=r"small.*Make room and retry"):
        world.attempt(world.spec(name, keep_columns=("word",)), long_rows(60))
    assert old.read_text() == "old"
    ran = world.rows_run()
    (small_disk / "other").unlink()
    assert world.attempt(world.spec(name, keep_columns=("word",)), long_rows(60))["succeeded"] == 60
    assert world.rows_run() == ran == 60


def test_parquet_that_is_damaged_inside_is_named(world):
    import duckdb

    path = world.path("in.parquet")
    duckdb.sql(f"COPY (SELECT n AS id, sha256(n::VARCHAR) AS word FROM range(5000) t(n)) TO '{path}' (FORMAT parquet)")
    content = bytearray(Path(path).read_bytes())
    content[40_000:60_000] = bytes(20_000)
    Path(path).write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"in\.parquet"):
        world.attempt(world.spec(), path)
    assert created(world) == 0


def test_template_that_fails_far_inside_names_the_row(world):
    source = [{"id": f"k{n}", "n": n - 30_000} for n in range(30_010)]
    with pytest.raises(ConfigurationError, match=r"row 30001 \(key 'k30000'\): the prompt's template fails"):
        world.attempt(world.spec(prompt="{{ 10 // row.n }}"), source)
    assert created(world) == 0
