# SPDX-License-Identifier: Apache-2.0
"""Every example DAG in a real Airflow with a triggerer of its own, as it stands and with waits that hold a worker."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from demo.__main__ import bring_up, run_dag, wait_until
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
APPROVED = "gemini_batch_approve_before_the_whole"


@pytest.mark.parametrize("waits_in", ["triggerer", "worker"])
def test_every_example_lands_all_its_rows(tmp_path: Path, waits_in: str) -> None:
    dags = tmp_path / "dags"
    shutil.copytree(ROOT / "example_dags", dags, ignore=shutil.ignore_patterns("__pycache__"))
    if waits_in == "worker":
        for path in dags.glob("*.py"):
            text = path.read_text()
            changed = re.sub(r'deferrable(=|": )True', r"deferrable\1False", text)
            assert changed != text
            path.write_text(changed)
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


def told(logs: Path, word: str) -> str:
    """Return the lines of the scheduler's log with *word*."""
    lines = (logs / "scheduler.log").read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines if word in line)


@pytest.mark.parametrize("choice", ["Approve", "Reject"])
def test_a_person_sees_the_sample_and_the_whole_pays_for_the_rest_alone(tmp_path: Path, choice: str) -> None:
    dags = tmp_path / "dags"
    shutil.copytree(ROOT / "example_dags", dags, ignore=shutil.ignore_patterns("__pycache__"))
    logs = tmp_path / "logs"
    logs.mkdir()
    with Processes(logs, tmp_path / "processes.json") as processes:
        stack = Stack(ROOT, tmp_path, dags, processes)
        bring_up(stack, APPROVED, Display())
        airflow = stack.airflow
        airflow.unpause(APPROVED)
        run_id = airflow.trigger(APPROVED, {})

        def waits_for_a_person() -> bool:
            return airflow.task_states(APPROVED, run_id).get("approve") == "awaiting_input"

        wait_until(waits_for_a_person, 180, stack, "The approval")
        assert "All 60 rows will cost about" in airflow.xcom(APPROVED, run_id, "show")
        assert [job["rows"] for job in stack.emulator.jobs()] == [30]
        # Airflow 3.3 fails a task that is answered before its scheduler has heard that the worker is free.
        wait_until(lambda: "with state success" in told(logs, "task_id='approve'"), 60, stack, "The end of the worker")
        airflow.respond(APPROVED, run_id, "approve", choice)
        wait_until(lambda: airflow.run_state(APPROVED, run_id) in ("success", "failed"), 180, stack, "The run")
        assert airflow.run_state(APPROVED, run_id) == "success", airflow.task_states(APPROVED, run_id)
        if choice == "Reject":
            assert airflow.task_states(APPROVED, run_id)["whole"] == "skipped"
            assert [job["rows"] for job in stack.emulator.jobs()] == [30]
            return
        whole = airflow.xcom(APPROVED, run_id, "whole")
        assert (whole["total"], whole["succeeded"], whole["reused"]) == (60, 60, 30)
        assert [job["rows"] for job in stack.emulator.jobs()] == [30, 30]
