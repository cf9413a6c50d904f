# SPDX-License-Identifier: Apache-2.0
"""Nights without rows and rows that cannot be sent, in a real Airflow: what is skipped, what lands, what fails."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.dags.test_example_dags import DagRunner
from tests.run.world import read_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

DAG = """
from datetime import datetime

from airflow import __version__
try:
    from airflow.sdk import task_group
except ImportError:  # 2.11
    from airflow.decorators import task_group

from airflow_provider_gemini_batch.compat import DAG, task
from airflow_provider_gemini_batch.operators import (
    CreateBatchOperator, CreateEmbeddingBatchOperator, DownloadResultsOperator, GetBatchOperator, RunBatchOperator,
    RunEmbeddingBatchOperator, UploadFileOperator,
)
from airflow_provider_gemini_batch.sensors import BatchJobSensor

HOME = "{home}/"
TEXT, VECTOR = "gemini-3.5-flash-lite", "gemini-embedding-001"
CHOICES = {{"on_empty_input": "skip", "on_bad_row": "land"}}
HELD = {{**CHOICES, "wait_for_completion": True, "poll_interval": 0.2, "deferrable": False}}
# `dag.test` of Airflow 2.11 resumes an instance of a mapped task as if it was not mapped.
JOB = {{**HELD, "deferrable": not __version__.startswith("2.")}}

with DAG("nights", schedule=None, start_date=datetime(2026, 1, 1)):
    nothing = CreateBatchOperator(task_id="nothing", model=TEXT, input_path=HOME + "empty.jsonl", **HELD)
    DownloadResultsOperator(task_id="after_nothing", job_name=nothing.output, output_path=HOME + "x.jsonl")
    # A trigger rule that lets a task run after a skipped one leaves it without a job's name.
    for rule in ("none_failed", "all_done"):
        DownloadResultsOperator(
            task_id="download_" + rule, job_name=nothing.output, output_path=HOME + "x.jsonl", trigger_rule=rule
        )
    BatchJobSensor(task_id="sensor_none_failed", job_name=nothing.output, trigger_rule="none_failed", deferrable=True)
    GetBatchOperator(task_id="get_none_failed", job_name=nothing.output, trigger_rule="none_failed")
    CreateEmbeddingBatchOperator(task_id="embed_nothing", model=VECTOR, input_path=HOME + "empty.jsonl", **JOB)
    upload = UploadFileOperator(task_id="upload_nothing", input_path=HOME + "empty.jsonl", **CHOICES)
    CreateBatchOperator(task_id="after_upload", model=TEXT, file_name=upload.output, **{{**JOB, "on_bad_row": "fail"}})
    for kind, run, column in (("run", RunBatchOperator, "prompt"), ("run_embed", RunEmbeddingBatchOperator, "text")):
        for night in ("empty", "bad", "all_bad"):
            run(
                task_id=kind + "_" + night, model=VECTOR if column == "text" else TEXT, key="key",
                deferrable=kind == "run",
                input_path=HOME + night + ".jsonl", output_path=HOME + kind + "_" + night + ".parquet",
                **{{column: "Say {{{{ row.prompt }}}}"}}, **CHOICES, max_failed_rows=0.5,
            )

    @task_group
    def one_file(name, output):
        ask = CreateBatchOperator(task_id="ask", model=TEXT, input_path=name, **JOB)
        DownloadResultsOperator(
            task_id="results", job_name=ask.output, input_path=name, output_path=output, max_failed_rows=0.5
        )

    one_file.expand_kwargs(
        [
            {{"name": HOME + night + ".jsonl", "output": HOME + night + ".jsonl.answers"}}
            for night in ("bad", "empty", "good", "all_bad")
        ]
    )

    # Without a group the names of the jobs move up by one where a night was skipped.
    @task
    def names():
        return [HOME + night + ".jsonl" for night in ("empty", "good", "bad")]

    inputs = names()
    ask = CreateBatchOperator.partial(task_id="ask", model=TEXT, **HELD).expand(input_path=inputs)
    DownloadResultsOperator.partial(task_id="zipped", max_failed_rows=0.5, trigger_rule="none_failed").expand_kwargs(
        ask.output.zip(inputs).map(
            lambda pair: {{"job_name": pair[0], "input_path": pair[1], "output_path": pair[1] + ".zipped"}}
        )
    )
"""

GOOD: list[dict[str, Any]] = [{"key": f"k{n}", "prompt": f"Say {n}"} for n in range(4)]
BAD: list[dict[str, Any]] = [GOOD[0], {"key": "k1", "prompt": None}, *GOOD[2:]]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[DagRunner]:
    home = tmp_path_factory.mktemp("airflow")
    nights: dict[str, list[dict[str, Any]]] = {
        "empty": [],
        "good": GOOD,
        "bad": BAD,
        "all_bad": [{**row, "prompt": None} for row in GOOD],
    }
    for night, lines in nights.items():
        (home / f"{night}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    (home / "dags").mkdir()
    (home / "dags" / "nights.py").write_text(DAG.format(home=home), encoding="utf-8")
    started = DagRunner(home, migrated_database, home / "dags")
    assert started.found == {"dags": ["nights"], "errors": {}}
    yield started
    started.close()


EXPECTED = {
    "nothing": "skipped",
    "after_nothing": "skipped",
    "download_none_failed": "failed",
    "download_all_done": "failed",
    "sensor_none_failed": "failed",
    "get_none_failed": "failed",
    "embed_nothing": "skipped",
    "upload_nothing": "skipped",
    "after_upload": "skipped",
    "run_empty": "skipped",
    "run_bad": "success",
    "run_all_bad": "failed",
    "run_embed_empty": "skipped",
    "run_embed_bad": "success",
    "run_embed_all_bad": "failed",
    "one_file.ask[0]": "success",
    "one_file.ask[1]": "skipped",
    "one_file.ask[2]": "success",
    "one_file.ask[3]": "failed",
    "one_file.results[0]": "success",
    "one_file.results[1]": "skipped",
    "one_file.results[2]": "success",
    "one_file.results[3]": "upstream_failed",
    "names": "success",
    "ask[0]": "skipped",
    "ask[1]": "success",
    "ask[2]": "success",
    # The job of "good" stands beside the input "empty", that of "bad" beside "good": refused, nothing is written.
    "zipped[0]": "failed",
    "zipped[1]": "failed",
}


def test_nights_without_rows_are_skipped_and_bad_rows_land(
    runner: DagRunner, gemini_batch_emulator: EmulatorHandle
) -> None:
    gemini_batch_emulator.script(mode="at_once")
    connection = gemini_batch_emulator.connection("gemini")
    done = runner.run(dag_id="nights", connection=connection, deferrable=None, conf={})
    assert done["instances"] == EXPECTED, runner.log()[-6000:]
    answers = [json.loads(line) for line in (runner.home / "bad.jsonl.answers").read_text().splitlines()]
    assert [(row["key"], row["status"]) for row in answers] == [
        ("k0", "succeeded"), ("k1", "failed"), ("k2", "succeeded"), ("k3", "succeeded"),
    ]  # fmt: skip
    assert answers[1]["error"]["message"].startswith("not sent")
    for kind in ("run", "run_embed"):
        table = read_table(str(runner.home / f"{kind}_bad.parquet"))
        assert [row["status"] for row in table] == ["succeeded", "failed", "succeeded", "succeeded"]
        assert {row["status"] for row in read_table(str(runner.home / f"{kind}_all_bad.parquet"))} == {"failed"}
    assert not list(runner.home.glob("*.zipped"))
    assert not (runner.home / "x.jsonl").exists()
    # Twice bad, twice good by files; once each by runs: what could not be sent was never asked.
    assert gemini_batch_emulator.ledger()["totals"]["billed_rows"] == 3 + 4 + 4 + 3 + 3 + 3
    assert "job_name is empty" in runner.log()
