# SPDX-License-Identifier: Apache-2.0
"""Links as Airflow's UI finds them: a serialised DAG, and XComs in a real database."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.dags.test_example_dags import ROOT, DagRunner
from tests.support.tls_front import certificate, https

if TYPE_CHECKING:
    import pytest

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

DAG_FILE = """
from airflow_provider_gemini_batch.compat import DAG
from airflow_provider_gemini_batch.operators import CreateBatchOperator, DownloadResultsOperator
from airflow_provider_gemini_batch.sensors import BatchJobSensor

with DAG("linked", schedule=None):
    submit = CreateBatchOperator(
        task_id="submit",
        model="gemini-3.5-flash-lite",
        inlined_requests=[{{"key": "a", "prompt": "Say a"}}],
        wait_for_completion=True,
    )
    wait = BatchJobSensor(task_id="wait", job_name=submit.output)
    wait >> DownloadResultsOperator(task_id="land", job_name=submit.output, output_path="{output}")
"""


def test_airflow_finds_the_links_of_each_task(
    gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, migrated_database: Path
) -> None:
    gemini_batch_emulator.configure(create_missing_buckets=True)
    pem = certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "linked.py").write_text(DAG_FILE.format(output=tmp_path / "out.jsonl"))
    home = tmp_path / "home"
    home.mkdir()
    runner = DagRunner(home, migrated_database, folder)
    try:
        with https(urlsplit(gemini_batch_emulator.url).port or 0, pem) as url:
            connection = gemini_batch_emulator.connection("vertex_ai", storage_host=gemini_batch_emulator.url)
            ended = runner.run(dag_id="linked", connection={**connection, "host": url}, deferrable=True, conf={})
        assert ended["state"] == "success", runner.log()[-3000:]
    finally:
        runner.close()
    shown = subprocess.run(
        [sys.executable, "-m", "tests.dags.link_reader", str(folder), "linked"],
        cwd=ROOT, env=runner.environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    links = json.loads(shown.stdout.strip().splitlines()[-1])
    number = gemini_batch_emulator.ledger()["jobs"][0]["name"].rpartition("/")[2]
    console = "https://console.cloud.google.com/"
    job = f"{console}vertex-ai/locations/us-central1/batch-predictions/{number}?project=emulated-project"
    assert {task_id: shown["Job at Google"] for task_id, shown in links.items()} == dict.fromkeys(links, job)
    assert all(shown["Input"].startswith(f"{console}storage/browser/_details/") for shown in links.values())
    assert links["wait"]["Results"].startswith(f"{console}storage/browser/emulator/airflow/results/")
