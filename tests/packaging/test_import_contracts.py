# SPDX-License-Identifier: Apache-2.0
"""The import rule of ``docs/architecture.md``, as ``pyproject.toml`` states it, holds; and can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="the locks of older Airflow versions leave it out")

BROKEN = {
    "a room stands on one above it": ("api/wire.py", "import airflow_provider_gemini_batch.client.client"),
    "a flow knows files": ("lifecycle/upload.py", "import airflow_provider_gemini_batch.files.paths"),
    "rows know calls": ("rows/keys.py", "import airflow_provider_gemini_batch.api.flows"),
    "a room below Airflow's imports it": ("client/client.py", "import airflow.models"),
    "the provider imports the emulator": ("hooks/gemini_batch.py", "import gemini_batch_emulator.server"),
    "the emulator imports the provider": (
        "../gemini_batch_emulator/server.py",
        "import airflow_provider_gemini_batch.times",
    ),
    "a circle inside a room": ("api/models.py", "import airflow_provider_gemini_batch.api.flows"),
}


def check(place: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    return subprocess.run([*command, "--no-cache"], cwd=place, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def copy(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("copy")
    for package in ("airflow_provider_gemini_batch", "gemini_batch_emulator"):
        shutil.copytree(root / package, place / package, ignore=shutil.ignore_patterns("__pycache__", "static"))
    shutil.copy(root / "pyproject.toml", place)
    return place


def test_the_contracts_hold(copy: Path) -> None:
    done = check(copy)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_is_found(copy: Path, case: str) -> None:
    name, line = BROKEN[case]
    path = copy / "airflow_provider_gemini_batch" / name
    kept = path.read_text(encoding="utf-8")
    try:
        path.write_text(f"{kept}\n\n{line}\n", encoding="utf-8")
        done = check(copy)
    finally:
        path.write_text(kept, encoding="utf-8")
    assert (done.returncode, "BROKEN" in done.stdout) == (1, True), done.stdout + done.stderr
