# SPDX-License-Identifier: Apache-2.0
"""Emulator and provider know nothing of each other, so that an error in one shows in the other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROVIDER, EMULATOR = "airflow_provider_gemini_batch", "gemini_batch_emulator"
SHIM = ROOT / PROVIDER / "emulator" / "__main__.py"


def imported(path: Path) -> set[str]:
    """Names of the top-level packages that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("path", sorted((ROOT / EMULATOR).rglob("*.py")), ids=lambda path: path.stem)
def test_the_emulator_imports_nothing_of_the_provider(path: Path) -> None:
    assert PROVIDER not in imported(path)
    assert f'"{PROVIDER}.' not in path.read_text(encoding="utf-8").replace(f'prog="python -m {PROVIDER}.', "")


@pytest.mark.parametrize("path", sorted((ROOT / PROVIDER).rglob("*.py")), ids=lambda path: path.stem)
def test_only_the_shim_of_the_provider_imports_the_emulator(path: Path) -> None:
    assert (EMULATOR in imported(path)) is (path == SHIM)


def test_the_shim_stays_a_shim() -> None:
    assert len([line for line in SHIM.read_text(encoding="utf-8").splitlines() if line.strip()]) == 5
