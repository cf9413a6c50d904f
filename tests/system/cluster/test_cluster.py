# SPDX-License-Identifier: Apache-2.0
"""The judge of the cluster's story, and what it says where programs are missing; ``make test-cluster`` tells it."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from demo.processes import Processes
from tests.system.cluster.__main__ import main, read_arguments
from tests.system.cluster.story import SCENARIOS
from tests.system.cluster.work import (
    DISTINCT,
    ROWS,
    ROWS_PER_JOB,
    Work,
    faults_of_bill,
    faults_of_outputs,
    faults_of_rows,
)
from tests.system.services import postgres, redis

pytestmark = pytest.mark.newest_airflow


def answers(given: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Return an output without a fault."""
    seen: set[str] = set()
    found = []
    for row in given:
        source = "duplicate" if row["review"] in seen else "batch"
        seen.add(row["review"])
        facts = {"sentiment": "good", "score": 3, "status": "succeeded", "attempts": 1, "answer_source": source}
        found.append({**row, **facts, "request_digest": row["review"][-3:]})
    return found


def test_texts_are_of_one_run_and_some_are_repeated(tmp_path: Path) -> None:
    work = Work(tmp_path, "one", runs=3)
    texts = {row["review"] for run in range(work.runs) for row in work.rows(run)}
    assert len(texts) == work.distinct == 3 * DISTINCT < 3 * ROWS
    assert not texts & {row["review"] for row in Work(tmp_path, "another").rows(0)}
    assert DISTINCT > ROWS_PER_JOB  # several jobs for each


def test_whole_output_has_no_fault(tmp_path: Path) -> None:
    given = Work(tmp_path, "one").rows(0)
    assert faults_of_rows(given, answers(given)) == []


def spoil(found: list[dict[str, Any]], how: str) -> list[dict[str, Any]]:
    """Return an output with something wrong."""
    if how == "lost":
        return found[:-1]
    if how == "twice":
        return [*found, found[0]]
    if how == "order":
        return found[::-1]
    changes: dict[str, tuple[int, dict[str, Any]]] = {
        "failed": (3, {"status": "failed"}),
        "null": (3, {"sentiment": None}),
        "another answer": (ROWS - 1, {"score": 4}),
        "another row's answer": (3, {"request_digest": found[4]["request_digest"]}),
        "asked again": (3, {"attempts": 2}),
    }
    place, change = changes[how]
    return [{**row, **change} if number == place else row for number, row in enumerate(found)]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("lost", "59 rows instead of 60"),
        ("twice", "61 rows instead of 60"),
        ("order", "another order"),
        ("failed", "no answer for 00-0003"),
        ("null", "no answer for 00-0003"),
        ("another answer", "same text have different answers"),
        ("another row's answer", "different texts have the same request"),
        ("asked again", "asked more than once: 00-0003"),
    ],
)
def test_anything_else_is_told(tmp_path: Path, how: str, said: str) -> None:
    given = Work(tmp_path, "one").rows(0)
    assert said in "; ".join(faults_of_rows(given, spoil(answers(given), how)))


def test_missing_output_is_told(tmp_path: Path) -> None:
    assert faults_of_outputs(Work(tmp_path, "one", runs=2)) == ["run 0 has no output", "run 1 has no output"]


@pytest.mark.parametrize(
    ("rows", "repeated", "state", "said"),
    [
        (10, 0, "SUCCEEDED", ""),
        (11, 1, "SUCCEEDED", "1 requests were carried out again"),
        (9, 0, "SUCCEEDED", "9 requests were carried out, 10 were wanted"),
        (10, 0, "RUNNING", "still running: batches/a"),
    ],
    ids=["fine", "paid twice", "lost", "left running"],
)
def test_bill_is_held_against_what_was_wanted(rows: int, repeated: int, state: str, said: str) -> None:
    jobs = [{"name": "batches/a", "state": state, "deleted": False}]
    faults = faults_of_bill({"rows": rows, "repeated_rows": repeated}, jobs, 10)
    assert said in "; ".join(faults)
    assert bool(faults) == bool(said)


@pytest.mark.parametrize("missing", ["postgres", "redis"])
def test_missing_program_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "DEBIAN", tmp_path)
    if missing == "redis":
        (tmp_path / "initdb").touch(mode=0o755)
    assert main(["test", "--state", str(tmp_path / "state")]) == 1
    package = {"postgres": "postgresql", "redis": "redis-server"}[missing]
    assert f"Install the package {package} (Debian" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_redis_answers_while_it_is_wanted(tmp_path: Path) -> None:
    try:
        program = redis.find_program()
    except redis.NoRedisError as error:
        pytest.skip(str(error))
    with Processes(tmp_path, tmp_path / "processes.json") as processes:
        place = urlsplit(redis.start(processes, program, tmp_path))
        assert place.port is not None
        socket.create_connection(("127.0.0.1", place.port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", place.port), timeout=5)


def test_every_scenario_says_what_befalls_it() -> None:
    assert all(scenario.__doc__ for scenario in SCENARIOS.values())
    page = (Path(__file__).parents[3] / "docs/cluster.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE) == list(SCENARIOS)
    assert read_arguments(["test", "--only", "waiting"]).only == ["waiting"]
    with pytest.raises(SystemExit):
        read_arguments(["test", "--only", "no_such_scenario"])
