# SPDX-License-Identifier: Apache-2.0
"""Every example DAG in a real Airflow with a triggerer of its own, as it stands and with waits that hold a worker."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from demo.__main__ import bring_up, run_dag, wait_until
from demo.display import Display
from demo.processes import Processes
from demo.report import find_manifest
from demo.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.newest_airflow, pytest.mark.slow, pytest.mark.xdist_group("real_airflow")]

ROOT = Path(__file__).resolve().parents[2]
CONFS: dict[str, dict[str, Any]] = {
    "gemini_batch_nightly_generation": {"rows": 50},
    "gemini_batch_nightly_embeddings": {"rows": 50},
    "gemini_batch_ask_from_the_ui": {},
}
APPROVED = "gemini_batch_approve_before_the_whole"


IN_WORKER = "_in_worker"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A real Airflow with every example, as it stands and with waits that hold a worker."""
    place = tmp_path_factory.mktemp("examples")
    dags, logs = place / "dags", place / "logs"
    shutil.copytree(ROOT / "example_dags", dags, ignore=shutil.ignore_patterns("__pycache__"))
    logs.mkdir()
    for path in sorted(dags.glob("*.py")):
        text = path.read_text()
        changed = re.sub(r'deferrable(=|": )True', r"deferrable\1False", text)
        assert changed != text
        for dag_id in CONFS:
            if f'"{dag_id}"' in changed:
                renamed = changed.replace(f'"{dag_id}"', f'"{dag_id}{IN_WORKER}"')
                path.with_name(f"{path.stem}{IN_WORKER}.py").write_text(renamed)
    with Processes(logs, place / "processes.json") as processes:
        stack = Stack(ROOT, place, dags, processes)
        bring_up(stack, APPROVED, Display())
        for dag_id in CONFS:
            for name in (dag_id, dag_id + IN_WORKER):
                wait_until(functools.partial(stack.airflow.has_dag, name), 60, stack, name)
        yield stack


@pytest.fixture
def stack(started: Stack) -> Stack:
    """The same Airflow with a fresh service."""
    started.emulator.reset()
    return started


@pytest.mark.parametrize("waits_in", ["triggerer", "worker"])
def test_every_example_lands_all_its_rows(stack: Stack, waits_in: str) -> None:
    display = Display()
    task_logs: list[str] = []
    for example, conf in CONFS.items():
        dag_id = example if waits_in == "triggerer" else example + IN_WORKER
        manifest = find_manifest(run_dag(stack, dag_id, conf, display))
        assert manifest["total"] == manifest["succeeded"] == conf.get("rows", manifest["total"]) > 0
        assert Path(manifest["output_path"]).read_text().count("\n") == manifest["total"]
        task_logs += [log.name for log in (stack.home / "logs" / f"dag_id={dag_id}").rglob("*.log*")]
    assert stack.emulator.jobs()
    assert task_logs
    assert any(".trigger." in name for name in task_logs) == (waits_in == "triggerer")


def told(stack: Stack, *words: str) -> bool:
    """Return whether a line of the scheduler's log holds all *words*."""
    lines = (stack.home.parent / "logs" / "scheduler.log").read_text(errors="replace").splitlines()
    return any(all(word in line for word in words) for line in lines)


@pytest.mark.parametrize("choice", ["Approve", "Reject"])
def test_a_person_sees_the_sample_and_the_whole_pays_for_the_rest_alone(stack: Stack, choice: str) -> None:
    airflow = stack.airflow
    airflow.unpause(APPROVED)
    run_id = airflow.trigger(APPROVED, {})

    def waits_for_a_person() -> bool:
        return airflow.task_states(APPROVED, run_id).get("approve") == "awaiting_input"

    wait_until(waits_for_a_person, 180, stack, "The approval")
    assert "All 60 rows will cost about" in airflow.xcom(APPROVED, run_id, "show")
    assert [job["rows"] for job in stack.emulator.jobs()] == [30]
    # Airflow 3.3 fails a task that is answered before its scheduler has heard that the worker is free.
    ended = ("with state success", "task_id='approve'", run_id)
    wait_until(lambda: told(stack, *ended), 60, stack, "The end of the worker")
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
