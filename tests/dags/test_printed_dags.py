# SPDX-License-Identifier: Apache-2.0
"""The DAGs printed in README.md and docs, put into a DAG folder and run by Airflow as they are."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.dags.test_example_dags import ROOT, DagRunner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

pytestmark = pytest.mark.xdist_group("printed DAGs")

PAGES = ("README.md", "docs/csv.md", "docs/expand.md", "docs/classify.md")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.+?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="module")
def runner(home: Path, migrated_database: Path) -> Iterator[DagRunner]:
    folder = home / "dags"
    folder.mkdir()
    for number, block in enumerate(block for page in PAGES for block in blocks(page, "python")):
        # Nothing but the places of the files is changed.
        (folder / f"printed_{number}.py").write_text(block.replace('"/tmp/', f'"{home}/'), encoding="utf-8")
    started = DagRunner(home, migrated_database, folder)
    yield started
    started.close()


def run(
    runner: DagRunner, emulator: EmulatorHandle, dag_id: str, backend: str, *, deferrable: bool = True
) -> dict[str, Any]:
    emulator.configure(accepted_tokens=[], accepted_keys=["emulator-key"])
    emulator.script(mode="time", pending_seconds=0.1, running_seconds=0.3)
    connection = emulator.connection(backend)
    done = runner.run(dag_id=dag_id, connection=connection, deferrable=deferrable, conf={})
    assert done["state"] == "success", runner.log()[-6000:]
    tasks: dict[str, Any] = done["tasks"]
    return tasks


def test_every_block_is_a_dag_file(runner: DagRunner) -> None:
    found = ["ask", "ask_by_region", "ask_what_came", "classify_reviews", "rate_reviews"]
    assert runner.found == {"dags": found, "errors": {}}


@pytest.mark.parametrize("backend", ["gemini", "vertex_ai"])
def test_the_smallest_dag_lands_its_answer(
    runner: DagRunner, home: Path, gemini_batch_emulator: EmulatorHandle, backend: str
) -> None:
    assert run(runner, gemini_batch_emulator, "ask", backend) == {"ask": "success", "results": "success"}
    (answer,) = (json.loads(line) for line in (home / "answers.jsonl").read_text(encoding="utf-8").splitlines())
    assert (answer["key"], answer["status"]) == ("sky", "succeeded")
    assert answer["text"]


@pytest.mark.parametrize("backend", ["gemini", "vertex_ai"])
def test_mapped_tasks_land_each_its_own_file(
    runner: DagRunner, home: Path, gemini_batch_emulator: EmulatorHandle, backend: str
) -> None:
    for region in ("north", "south"):
        row = {"key": region, "prompt": f"Write of the {region}."}
        (home / f"{region}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    # Airflow 2.11: `dag.test` resumes an instance of a mapped task as if it was not mapped, and refuses its answer.
    deferrable = not importlib.metadata.version("apache-airflow").startswith("2.")
    done = run(runner, gemini_batch_emulator, "ask_by_region", backend, deferrable=deferrable)
    assert set(done.values()) == {"success"}
    for region in ("north", "south"):
        (answer,) = (home / f"{region}.answers.jsonl").read_text(encoding="utf-8").splitlines()
        assert json.loads(answer)["key"] == region


def test_a_file_without_rows_skips_its_own_tasks_alone(
    runner: DagRunner, home: Path, gemini_batch_emulator: EmulatorHandle
) -> None:
    (home / "north.jsonl").write_text("", encoding="utf-8")
    (home / "south.jsonl").write_text('{"key": "south", "prompt": "Write."}\n{"key": "bad"}\n', encoding="utf-8")
    gemini_batch_emulator.script(mode="at_once")
    connection = gemini_batch_emulator.connection("gemini")
    done = runner.run(dag_id="ask_what_came", connection=connection, deferrable=False, conf={})
    states = [done["instances"][f"one_file.{task}[{number}]"] for number in (0, 1) for task in ("ask", "results")]
    assert states == ["skipped", "skipped", "success", "failed"], runner.log()[-6000:]
    lines = (home / "south.answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["succeeded", "failed"]


@pytest.mark.parametrize("backend", ["gemini", "vertex_ai"])
def test_a_csv_file_comes_back_with_answers_in_further_columns(
    runner: DagRunner, home: Path, gemini_batch_emulator: EmulatorHandle, backend: str
) -> None:
    (source,) = blocks("docs/csv.md", "csv")
    (home / "reviews.csv").write_text(source, encoding="utf-8")
    assert set(run(runner, gemini_batch_emulator, "rate_reviews", backend).values()) == {"success"}
    with (home / "reviews_rated.csv").open(newline="", encoding="utf-8") as file:
        first, second, third = csv.DictReader(file)
    assert (first["text"], second["text"]) == ("Arrived late, works well.", "Broke after\ntwo days 😡")
    for rated in (first, second):
        assert rated["status"] == "succeeded"
        assert rated["sentiment"] in ("good", "bad", "mixed")
        assert rated["reason"]
    assert third == {"id": "r3", "text": "", "status": "not asked", "sentiment": "", "reason": ""}
    assert [job["state"] for job in gemini_batch_emulator.ledger()["jobs"] if not job["deleted"]] == []


@pytest.mark.parametrize("backend", ["gemini", "vertex_ai"])
def test_run_of_the_classify_page_leaves_its_typed_table(
    runner: DagRunner, home: Path, gemini_batch_emulator: EmulatorHandle, backend: str
) -> None:
    pytest.importorskip("duckdb")
    from tests.run.world import read_table

    (home / "reviews.csv").write_text("id,review,day\n01,Fine,2026-01-02\n02,Broke at once,\n", encoding="utf-8")
    assert run(runner, gemini_batch_emulator, "classify_reviews", backend) == {"classify": "success"}
    table = read_table(str(home / "reviews.parquet"))
    assert [(row["id"], row["day"], row["status"]) for row in table] == [
        ("01", "2026-01-02", "succeeded"), ("02", None, "succeeded"),
    ]  # fmt: skip
    assert all(row["sentiment"] in ("good", "bad", "mixed") and isinstance(row["topics"], list) for row in table)
