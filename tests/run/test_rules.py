# SPDX-License-Identifier: Apache-2.0
"""Rules that hold for every run, as a task that blocks and as one that defers; ``rules.md`` names all their tests."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.compat import AirflowFailException, TaskDeferred
from airflow_provider_gemini_batch.errors import JobTimeoutError, ResultsIncompleteError
from airflow_provider_gemini_batch.operators import RunBatchOperator
from airflow_provider_gemini_batch.operators.base import MANIFEST_KEY
from tests.run.world import MODEL, read_table, rows
from tests.support.airflow_side import attempt, set_connection

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
TEST_ID = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
WORKING = [("gemini", "deferrable"), ("vertex_ai", "blocking")]
ALL = [(backend, mode) for backend in ("gemini", "vertex_ai") for mode in ("blocking", "deferrable")]


class Killed(BaseException):
    """The process is gone."""


class Task:
    """
    A task over its attempts, on one backend and in one mode; time passes while it waits.

    :ivar deferred: What its deferrals carried.
    """

    def __init__(self, emulator: Any, folder: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.emulator = emulator
        self.path = str(folder / "out.parquet")
        self.deferred: list[dict[str, Any]] = []
        self.context: dict[str, Any] = {}
        self._mode = mode
        self._on_sleep: Callable[[float], None] = emulator.advance
        monkeypatch.setattr("time.time", emulator.state.now)
        monkeypatch.setattr("time.sleep", lambda seconds: self._on_sleep(seconds))

    def operator(self, **arguments: Any) -> RunBatchOperator:
        given: dict[str, Any] = {"rows": rows(6), "output_path": self.path, "key": "id", "max_failed_rows": None}
        return RunBatchOperator(
            task_id="ask", model=MODEL, prompt="Say {{ row.word }}", deferrable=self._mode == "deferrable",
            **{**given, **arguments},
        )  # fmt: skip

    def begin(self, number: int, clears: int = 0) -> dict[str, Any]:
        self.context = attempt(number)
        self.context["dag_run"] = SimpleNamespace(clear_number=clears)
        self.context["ti"].max_tries = number - 1 if clears else 0
        return self.context

    def run(self, number: int = 1, *, clears: int = 0, **arguments: Any) -> dict[str, Any]:
        """Let an attempt run to its end."""
        context, kept = self.begin(number, clears), None
        for _ in range(30):
            try:
                if kept is None:
                    return self.operator(**arguments).execute(context)
                return self.operator(**arguments).resume(context, None, **kept)
            except TaskDeferred as deferred:
                kept = deferred.kwargs
                assert kept is not None
                self.deferred.append({**kept, "trigger": deferred.trigger.serialize()[1]})
                self.emulator.advance(3600)
        raise AssertionError("The task does not end.")

    def die_waiting(self, **arguments: Any) -> None:
        """Let a first attempt submit, and its worker or its triggerer be lost while it waits."""

        def die(seconds: float) -> None:
            raise Killed

        self._on_sleep = die
        with pytest.raises((TaskDeferred, Killed)):
            self.operator(**arguments).execute(self.begin(1))
        self._on_sleep = self.emulator.advance

    def rows_run(self) -> int:
        """Return how many rows the service has executed."""
        return int(self.emulator.ledger()["totals"]["billed_rows"])


@pytest.fixture
def task(request: Any, gemini_batch_emulator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    backend, mode = request.param
    set_connection(monkeypatch, gemini_batch_emulator.connection(backend))
    return Task(gemini_batch_emulator, tmp_path, mode, monkeypatch)


in_both_modes = pytest.mark.parametrize("task", WORKING, indirect=True, ids=["-".join(pair) for pair in WORKING])


@pytest.mark.parametrize(
    ("task", "late"), [*((pair, 0) for pair in ALL), *((pair, 3 * 3600) for pair in WORKING)], indirect=["task"]
)
def test_what_a_lost_attempt_submitted_is_paid_for_once_and_collected(task: Task, late: float) -> None:
    task.die_waiting(rows_per_job=2, max_jobs=2)
    task.emulator.advance(late)
    manifest = task.run(2, rows_per_job=2, max_jobs=2)
    assert (manifest["counts"], manifest["paid_twice"], task.rows_run()) == ({"succeeded": 6}, 0, 6)
    assert [row["id"] for row in read_table(task.path)] == [f"k{n}" for n in range(6)]


@in_both_modes
def test_an_attempt_whose_time_is_over_leaves_its_jobs_to_the_next(task: Task) -> None:
    task.emulator.script(mode="time", pending_seconds=60, running_seconds=3 * 3600)
    limit = timedelta(minutes=30)
    with pytest.raises(JobTimeoutError, match="execution_timeout"):
        task.run(execution_timeout=limit)
    task.emulator.advance(3 * 3600)
    assert task.run(2, execution_timeout=limit)["succeeded"] == 6
    assert (task.emulator.ledger()["totals"]["created"], task.rows_run()) == (1, 6)


@in_both_modes
@pytest.mark.parametrize("script", [{"results_share": 0.5}, {"spoilt": {"0": "proxy_page"}}], ids=["cut", "page"])
def test_a_run_that_fails_in_the_middle_leaves_the_old_output(task: Task, script: dict[str, Any]) -> None:
    task.run()
    old = Path(task.path).read_bytes()
    task.emulator.script(**script)
    with pytest.raises(ResultsIncompleteError):
        task.run(2, clears=1, rows=rows(7))
    assert Path(task.path).read_bytes() == old


@in_both_modes
def test_nothing_that_a_task_leaves_in_airflow_grows_with_rows(task: Task, caplog: pytest.LogCaptureFixture) -> None:
    sizes = []
    for count in (30, 300):
        task.deferred.clear()
        path = task.path.replace("out", f"out-{count:03}")
        task.run(rows=rows(count), submission_salt=str(count), output_path=path)
        sizes.append(len(json.dumps([task.context["ti"].xcoms, task.deferred], default=str)))
    assert sizes[1] < sizes[0] + 100
    assert "word-7-" not in caplog.text


@in_both_modes
def test_a_cap_is_kept_over_jobs_and_attempts(task: Task) -> None:
    task.emulator.script(rows=[{"outcome": "succeed", "output_tokens": 1000}])
    capped = {"max_cost": 0.0065, "generation_config": {"maxOutputTokens": 1000}, "rows_per_job": 2, "rows": rows(12)}
    for number in (1, 2):
        with pytest.raises(AirflowFailException, match="Not all rows were asked"):
            task.run(number, clears=number - 1, **capped)
    assert 4 <= task.rows_run() <= 5
    assert [row["status"] for row in read_table(task.path)].count("succeeded") == task.rows_run()


@in_both_modes
def test_reasons_decide_who_is_asked_again_and_a_clear_asks_the_rest(task: Task) -> None:
    passing = {"pattern": "word-1-", "outcome": "error", "code": 13, "message": "try again", "first": 1}
    lasting = {"pattern": "word-[23]-", "outcome": "error", "code": 3, "message": "no"}
    task.emulator.script(rows=[passing, lasting])
    with pytest.raises(AirflowFailException, match="2 of 6 rows"):
        task.run(max_failed_rows=0.1)
    assert task.context["ti"].xcoms[MANIFEST_KEY]["counts"] == {"succeeded": 4, "failed": 2}
    shown = [(row["status"], row["error_code"], row["attempts"]) for row in read_table(task.path)]
    assert shown[:4] == [("succeeded", None, 1), ("succeeded", None, 2), ("failed", 3, 1), ("failed", 3, 1)]
    before = task.emulator.executions()["rows"]
    with pytest.raises(AirflowFailException, match="2 of 6 rows"):
        task.run(2, clears=1, max_failed_rows=0.1)
    assert task.emulator.executions()["rows"] == before + 2


def test_every_rule_names_tests_that_there_are() -> None:
    text = (HERE / "rules.md").read_text()
    named = TEST_ID.findall(text)
    assert len(named) > 30
    root = HERE.parent.parent
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (root / file).read_text()]
    assert missing == []
    table = [line.split("|") for line in text.splitlines() if re.match(r"\| \d", line)]
    assert sorted({int(cells[1].split(".")[0]) for cells in table}) == list(range(1, 9))
    for cells in table:  # each rule has a test in each mode, or says why it needs none
        assert all(TEST_ID.search(cell) or "same code" in cell for cell in cells[3:5]), cells[1]
