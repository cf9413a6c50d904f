# SPDX-License-Identifier: Apache-2.0
"""Every example DAG in a real Airflow with a triggerer of its own, as it stands and with waits that hold a worker."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from demo.__main__ import bring_up, run_dag
from demo.display import Display
from demo.processes import Processes
from demo.report import find_manifest
from demo.stack import Stack

pytestmark = [pytest.mark.newest_airflow, pytest.mark.slow, pytest.mark.xdist_group("real_airflow")]

ROOT = Path(__file__).resolve().parents[2]
CONFS: dict[str, dict[str, Any]] = {
    "gemini_batch_nightly_generation": {"rows": 50},
    "gemini_batch_nightly_embeddings": {"rows": 50},
    "gemini_batch_ask_from_the_ui": {},
}


@pytest.mark.parametrize("waits_in", ["triggerer", "worker"])
def test_every_example_lands_all_its_rows(tmp_path: Path, waits_in: str) -> None:
    dags = tmp_path / "dags"
    shutil.copytree(ROOT / "example_dags", dags, ignore=shutil.ignore_patterns("__pycache__"))
    if waits_in == "worker":
        for path in dags.glob("*.py"):
            text = path.read_text()
            assert "deferrable=True" in text
            path.write_text(text.replace("deferrable=True", "deferrable=False"))
    logs = tmp_path / "logs"
    logs.mkdir()
    with Processes(logs, tmp_path / "processes.json") as processes:
        stack = Stack(ROOT, tmp_path, dags, processes)
        for dag_id, conf in CONFS.items():
            display = Display()
            if dag_id == next(iter(CONFS)):
                bring_up(stack, dag_id, display)
            manifest = find_manifest(run_dag(stack, dag_id, conf, display))
            assert manifest["total"] == manifest["succeeded"] == conf.get("rows", manifest["total"]) > 0
            assert Path(manifest["output_path"]).read_text().count("\n") == manifest["total"]
        assert stack.emulator.jobs()
        task_logs = [log.name for log in (tmp_path / "airflow" / "logs").rglob("*.log*")]
        assert any(".trigger." in name for name in task_logs) == (waits_in == "triggerer")
