# SPDX-License-Identifier: Apache-2.0
"""The DAGs printed in README.md, put into a DAG folder and run by Airflow as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.dags.test_example_dags import ROOT, DagRunner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_gemini_batch.emulator.pytest_plugin import EmulatorHandle

BLOCKS = re.findall(
    r"^```python\n(.+?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="module")
def runner(home: Path) -> Iterator[DagRunner]:
    folder = home / "dags"
    folder.mkdir()
    for number, block in enumerate(BLOCKS):
        # Nothing but the place of the answers is changed.
        (folder / f"readme_{number}.py").write_text(block.replace('"/tmp/', f'"{home}/'), encoding="utf-8")
    started = DagRunner(home, folder)
    yield started
    started.close()


def test_every_block_is_a_dag_file(runner: DagRunner) -> None:
    assert len(BLOCKS) == 1
    assert runner.found == {"dags": ["ask"], "errors": {}}


@pytest.mark.parametrize("backend", ["gemini", "vertex_ai"])
def test_the_smallest_dag_lands_its_answer(
    runner: DagRunner, home: Path, gemini_batch_emulator: EmulatorHandle, backend: str
) -> None:
    gemini_batch_emulator.configure(accepted_tokens=[], accepted_keys=["emulator-key"])
    gemini_batch_emulator.script(mode="time", pending_seconds=0.1, running_seconds=0.3)
    connection = gemini_batch_emulator.connection(backend)
    done = runner.run(dag_id="ask", connection=connection, deferrable=True, conf={})
    assert done["state"] == "success", runner.log()[-6000:]
    assert done["tasks"] == {"ask": "success", "results": "success"}
    (answer,) = (json.loads(line) for line in (home / "answers.jsonl").read_text(encoding="utf-8").splitlines())
    assert (answer["key"], answer["status"]) == ("sky", "succeeded")
    assert answer["text"]
