# SPDX-License-Identifier: Apache-2.0
"""Every example DAG, run by Airflow itself, does the same on both backends: the connection alone is changed."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.compat import AirflowException, BaseOperator
from tests.support.airflow_home import home_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

pytestmark = pytest.mark.xdist_group("example DAGs")

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "example_dags"
ROWS = 40

CASES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "gemini_batch_nightly_generation": (
        "results.jsonl",
        {"rows": ROWS},
        ["delete_file", "delete_job", "results", "rows_to_file", "submit", "upload", "wait"],
    ),
    "gemini_batch_nightly_embeddings": (
        "vectors.jsonl",
        {"rows": ROWS},
        ["clean_up", "embed", "texts_to_file", "vectors"],
    ),
    "gemini_batch_ask_from_the_ui": (
        "answers.jsonl",
        {"rows": [f"What is {n} and {n}?" for n in range(ROWS)], "max_output_tokens": 256},
        ["answers", "ask", "questions", "read_out"],
    ),
}
"""DAG -> the file it leaves, what is asked of it, and its tasks."""


RUNS: dict[str, tuple[str, str, tuple[str, str, str]]] = {
    "gemini_batch_classify_table": ("classify", "{run_id}/reviews.parquet", ("id", "sentiment", "reviews.csv")),
    "gemini_batch_embed_table": ("embed", "{run_id}/vectors/*.parquet", ("key", "embedding", "texts.jsonl")),
    "gemini_batch_nightly_changed_rows": ("summarise", "summaries.parquet", ("key", "text", "texts.jsonl")),
}
"""DAG of one run -> its task, the table it leaves, and that one's key, an answer's column and the input."""


LANDED, READER = "gemini_batch_landed_answers", "gemini_batch_read_answers"
"""A DAG that lands answers, and one that is scheduled by their asset."""


APPROVED = "gemini_batch_approve_before_the_whole"
"""Waits for a person, whom ``dag.test`` does not have: tests/demo/test_real_examples.py runs it."""


def has_approval() -> bool:
    try:
        from airflow.providers.standard.operators import hitl
    except (ImportError, AirflowException):
        return False
    return hasattr(hitl, "ApprovalOperator")


class DagRunner:
    """
    A process that runs the DAGs of a folder in an Airflow home of its own.

    :param database: What its database is copied from.
    """

    def __init__(self, home: Path, database: Path, folder: Path = EXAMPLES) -> None:
        self.home = home
        shutil.copy(database, home / "airflow.db")
        self._log = (home / "runner.log").open("wb")
        self.environment = home_environment(home, CORE__DAGS_FOLDER=str(folder))
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("dag_runner.py")), str(folder)],
            env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        self.found = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the DAG runner ended: {self.log()[-3000:]}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def log(self) -> str:
        """What Airflow and the tasks have logged."""
        return (self.home / "runner.log").read_text(errors="replace")

    def run(self, **order: Any) -> dict[str, Any]:
        """Run a DAG and return how it ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        assert "error" not in answer, answer["error"]
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[DagRunner]:
    started = DagRunner(tmp_path_factory.mktemp("airflow"), migrated_database)
    yield started
    started.close()


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_example_is_tried_here(runner: DagRunner) -> None:
    approved = {APPROVED} if has_approval() else set()
    assert runner.found == {"dags": sorted({*CASES, *RUNS, *approved, LANDED, READER}), "errors": {}}


def params_of(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    operator: Any = next(value for value in vars(module).values() if isinstance(value, BaseOperator))
    return operator.dag.params


NIGHTLY_GENERATION, NIGHTLY_EMBEDDINGS, ASK = "nightly_generation", "nightly_embeddings", "ask_from_the_ui"


@pytest.mark.parametrize(
    ("name", "param", "value"),
    [
        *((name, "model", bad) for name in (NIGHTLY_GENERATION, NIGHTLY_EMBEDDINGS, ASK) for bad in ("", " ", None, 5)),
        *((name, "rows", bad) for name in (NIGHTLY_GENERATION, NIGHTLY_EMBEDDINGS) for bad in (0, -1, None, "5", 1.5)),
        *((ASK, "rows", bad) for bad in ([], [""], [" ", "\n"], [5], "a", None)),
        *((ASK, "max_output_tokens", bad) for bad in (0, 1.5, "long", None)),
        (ASK, "system_instruction", 5),
    ],
)
def test_the_form_refuses_what_cannot_run(name: str, param: str, value: Any) -> None:
    with pytest.raises(AirflowException):
        params_of(name).get_param(param).resolve(value)


@pytest.mark.parametrize(
    ("param", "value"), [("rows", ["a", ""]), ("system_instruction", None), ("max_output_tokens", 1)]
)
def test_the_form_takes_what_can_run(param: str, value: Any) -> None:
    assert params_of(ASK).get_param(param).resolve(value) == value


@pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "waiting"])
@pytest.mark.parametrize("dag_id", sorted(CASES))
def test_an_example_gets_the_same_rows_from_both_backends(
    runner: DagRunner, gemini_batch_emulator: EmulatorHandle, dag_id: str, deferrable: bool
) -> None:
    file_name, conf, tasks = CASES[dag_id]
    landed: dict[str, list[dict[str, Any]]] = {}
    for backend in ("gemini", "vertex_ai"):
        gemini_batch_emulator.reset()
        gemini_batch_emulator.configure(accepted_tokens=[], accepted_keys=["emulator-key"])
        gemini_batch_emulator.script(
            mode="time", pending_seconds=0.1, running_seconds=0.3, rows=[{"index": 7, "outcome": "error"}]
        )
        done = runner.run(
            dag_id=dag_id, connection=gemini_batch_emulator.connection(backend), deferrable=deferrable, conf=conf
        )
        assert done["state"] == "success", runner.log()[-6000:]
        assert done["tasks"] == dict.fromkeys(tasks, "success")
        totals = gemini_batch_emulator.ledger()["totals"]
        assert (totals["created"], totals["rows"]) == (1, ROWS)
        job = gemini_batch_emulator.ledger()["jobs"][0]
        assert (job["backend"], job["deleted"]) == (backend, "delete_job" in tasks)
        landed[backend] = rows_of(runner.home / "gemini_batch" / dag_id / done["run_id"] / file_name)
    gemini, vertex = landed["gemini"], landed["vertex_ai"]
    told = ("key", "status", "text", "embedding")
    by_key = [{row["key"]: [row[name] for name in told] for row in rows} for rows in (gemini, vertex)]
    assert by_key[0] == by_key[1]
    assert len(gemini) == len(vertex) == len(by_key[0]) == ROWS
    answer = "embedding" if "embeddings" in dag_id else "text"
    assert sum(row["status"] == "succeeded" and bool(row[answer]) for row in gemini) == ROWS - 1
    if "ask" not in dag_id:
        # These name their input, and so get its order.
        assert [row["key"] for row in gemini] == [row["key"] for row in vertex]
        assert gemini[7]["status"] == vertex[7]["status"] == "failed"


def table_of(place: Path, key: str, answer: str) -> list[tuple[Any, ...]]:
    import duckdb

    with duckdb.connect() as connection:
        return connection.execute(f"SELECT {key}, status, {answer}, request_digest FROM '{place}'").fetchall()


def keys_of(name: str, key: str) -> list[str]:
    with (EXAMPLES / "data" / name).open(encoding="utf-8", newline="") as file:
        return [row[key] for row in (csv.DictReader(file) if name.endswith(".csv") else map(json.loads, file))]


@pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "waiting"])
@pytest.mark.parametrize("dag_id", sorted(RUNS))
def test_a_run_gets_the_same_table_from_both_backends(
    runner: DagRunner, gemini_batch_emulator: EmulatorHandle, dag_id: str, deferrable: bool
) -> None:
    task_id, place, (key, answer, source) = RUNS[dag_id]
    tables = []
    for backend in ("gemini", "vertex_ai"):
        gemini_batch_emulator.reset()
        gemini_batch_emulator.configure(accepted_tokens=[], accepted_keys=["emulator-key"])
        gemini_batch_emulator.script(mode="time", pending_seconds=0.1, running_seconds=0.3, shuffle=True)
        (runner.home / "gemini_batch" / dag_id / "summaries.parquet").unlink(missing_ok=True)
        connection = gemini_batch_emulator.connection(backend)
        done = runner.run(dag_id=dag_id, connection=connection, deferrable=deferrable, conf={})
        assert done["state"] == "success", runner.log()[-6000:]
        assert done["tasks"] == {task_id: "success"}
        folder = runner.home / "gemini_batch" / dag_id
        tables.append(table_of(folder / place.format(run_id=done["run_id"]), key, answer))
    first, second = tables
    assert first == second
    assert [row[0] for row in first] == keys_of(source, key)
    assert all(status == "succeeded" and value for _, status, value, _ in first)


def test_the_second_night_asks_nothing_that_is_unchanged(
    runner: DagRunner, gemini_batch_emulator: EmulatorHandle
) -> None:
    dag_id = "gemini_batch_nightly_changed_rows"
    gemini_batch_emulator.script(mode="at_once")
    (runner.home / "gemini_batch" / dag_id / "summaries.parquet").unlink(missing_ok=True)
    connection = gemini_batch_emulator.connection("gemini")
    executed = []
    for _ in range(2):
        done = runner.run(dag_id=dag_id, connection=connection, deferrable=False, conf={})
        assert done["state"] == "success", runner.log()[-6000:]
        executed.append(gemini_batch_emulator.ledger()["totals"]["rows"])
    assert executed[0] == executed[1] > 0


@pytest.mark.skipif(
    importlib.metadata.version("apache-airflow").startswith("2."), reason="`dag.test` of Airflow 2.11 makes no events"
)
def test_landed_answers_are_an_event_that_carries_the_manifest(
    runner: DagRunner, gemini_batch_emulator: EmulatorHandle
) -> None:
    gemini_batch_emulator.script(mode="at_once")
    connection = gemini_batch_emulator.connection("gemini")
    done = runner.run(dag_id=LANDED, connection=connection, deferrable=False, conf={})
    assert done["state"] == "success", runner.log()[-6000:]
    read = subprocess.run(
        [sys.executable, "-m", "tests.dags.event_reader"],
        cwd=ROOT, env=runner.environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert read.returncode == 0, read.stderr
    (event,) = json.loads(read.stdout.strip().splitlines()[-1])
    manifest = event["gemini_batch_manifest"]
    assert manifest["total"] == manifest["succeeded"] > 0
    assert manifest["output_path"].endswith("/gemini_batch_landed_answers/answers.jsonl")
    assert runner.run(dag_id=READER, connection=connection, deferrable=False, conf={})["state"] == "success"
