# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of whole runs: what a step costs is counted once, and scripts by hand do the whole job."""

from __future__ import annotations

import time

import duckdb
import pytest

from benchmarks.run_by_hand import SCRIPTS, by_duckdb, pandas, polars
from benchmarks.run_inputs import DIMENSIONS, KINDS
from benchmarks.run_steps import Steps


def test_step_within_a_step_counts_for_itself():
    steps = Steps()
    with steps.step("outer"):
        end = time.process_time() + 0.05
        with steps.step("inner"):
            while time.process_time() < end:
                pass
    assert steps.found["inner"].cpu >= 0.04
    assert steps.found["outer"].cpu < 0.03


def test_memory_of_a_step_is_not_that_of_the_next():
    steps = Steps()
    with steps.step("large"):
        block = bytearray(200_000_000)
        del block
    with steps.step("small"):
        pass
    assert steps.found["large"].memory - steps.found["small"].memory > 150_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_answers_out_of_order_are_one_for_each_row(kind, tmp_path):
    path = tmp_path / "answers.jsonl"
    KINDS[kind].write_answers(path, 30)
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted(KINDS[kind].answer(n).rstrip("\n") for n in range(30))
    assert lines[0] != KINDS[kind].answer(0).rstrip("\n")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("script", [pandas, polars, by_duckdb])
def test_script_by_hand_joins_each_answer_to_its_row(script, kind, tmp_path):
    source, requests = tmp_path / f"in{KINDS[kind].suffix}", tmp_path / "requests.jsonl"
    answers, output = tmp_path / "answers.jsonl", tmp_path / "out.parquet"
    KINDS[kind].write_input(source, 30)
    KINDS[kind].write_answers(answers, 30)
    script(kind, str(source), str(requests), str(answers), str(output))
    assert len(requests.read_text().splitlines()) == 30
    shown = {"short": "sentiment", "long": "text[:3]", "vectors": "len(embedding)"}[kind]
    found = duckdb.execute(f"SELECT id, {shown} FROM read_parquet('{output}')").fetchall()
    assert [row[0] for row in found] == [f"k{n}" for n in range(30)]
    wanted = {"short": "bad", "long": "1 A", "vectors": DIMENSIONS}[kind]
    assert found[1][1] == wanted


def test_each_script_has_a_name():
    assert set(SCRIPTS) == {script.__name__ for script in (pandas, polars, by_duckdb)}
