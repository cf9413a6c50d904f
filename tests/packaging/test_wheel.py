# SPDX-License-Identifier: Apache-2.0
"""What a user gets from ``pip install``: files, metadata, entry points, and imports that cost nothing."""

from __future__ import annotations

import configparser
import email
import json
import os
import re
import runpy
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import airflow_provider_gemini_batch

pytestmark = pytest.mark.xdist_group("wheel")

NAME = "airflow_provider_gemini_batch"
EMULATOR = "gemini_batch_emulator"


def member(wheel: Path, suffix: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(f".dist-info/{suffix}")]
        return archive.read(name).decode()


def run_installed(installed: Path, tmp_path: Path, code: str) -> Any:
    """Run *code* with the installed wheel first on the path; it prints one JSON value."""
    env = {**os.environ, "PYTHONPATH": str(installed), "AIRFLOW_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_wheel_holds_the_package_its_licence_and_the_example_dags_with_their_data(wheel: Path, root: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    modules = {
        str(path.relative_to(root))
        for package in (NAME, EMULATOR)
        for path in (root / package).rglob("*")
        if path.is_file() and not {"__pycache__", ".ruff_cache", ".mypy_cache"} & set(path.parts)
    }
    examples = {
        f"{NAME}/{path.relative_to(root)}"
        for path in (root / "example_dags").rglob("*")
        if path.is_file() and not {"__pycache__", ".ruff_cache", ".mypy_cache"} & set(path.parts)
    }
    assert f"{NAME}/py.typed" in modules
    assert f"{NAME}/example_dags/data/texts.jsonl" in examples
    others = held - modules - examples
    assert modules | examples <= held
    assert all(".dist-info/" in name for name in others), others
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in held)


def test_sdist_can_be_tested_and_has_no_leftovers(distributions: Path) -> None:
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "LICENSE", "Makefile", "tests/packaging/test_wheel.py"} <= names
    assert {"docs/operators.md", ".dockerignore", ".pre-commit-config.yaml"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", ".demo"))]
    assert ".env" not in names


def test_metadata_names_what_is_needed_and_caps_no_library(wheel: Path) -> None:
    metadata = email.message_from_string(member(wheel, "METADATA"))
    assert metadata["Name"] == "airflow-provider-gemini-batch"
    assert metadata["Version"] == airflow_provider_gemini_batch.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata["Requires-Python"].split(",")) == {">=3.11", "<3.14"}  # 3.14 was not tried
    assert "Framework :: Apache Airflow :: Provider" in metadata.get_all("Classifier", [])
    needed = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    always = {each.name: each.specifier for each in needed if each.marker is None}
    assert set(always) == {
        "apache-airflow",
        "genai-prices",
        "google-auth",
        "jsonschema",
        "msgspec",
        "requests",
        "urllib3",
    }
    for specifier in always.values():
        assert {part.operator for part in specifier} == {">="}


def test_the_description_leads_to_no_file_beside_it(wheel: Path, root: Path) -> None:
    metadata = email.message_from_string(member(wheel, "METADATA"))
    described = str(metadata.get_payload())
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert re.findall(r"\]\((?!https?:)[^)]+\)", described) == []
    assert "[classify](docs/classify.md)" in (root / "README.md").read_text(encoding="utf-8")
    assert "classify (`docs/classify.md`)" in described
    assert "Changes: CHANGELOG.md." in described  # the text names the file already


def test_with_a_repository_the_description_leads_there(root: Path) -> None:
    hook = runpy.run_path(str(root / "hatch_build.py"))["standing_alone"]
    text = "![A](docs/a.png)\n\n[cost](docs/cost.md), [web](https://example.org)"
    assert hook(text, "https://git.example/us") == (
        "![A](https://git.example/us/raw/HEAD/docs/a.png)\n\n"
        "[cost](https://git.example/us/blob/HEAD/docs/cost.md), [web](https://example.org)"
    )


@pytest.mark.newest_airflow  # not for Airflow's sake: older locks hold a twine that does not know our metadata version
def test_index_would_accept_the_distributions(distributions: Path) -> None:
    files = [str(path) for path in distributions.iterdir()]
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_entry_points_lead_to_the_provider_and_the_plugins(wheel: Path, installed: Path, tmp_path: Path) -> None:
    declared = configparser.ConfigParser()
    declared.read_string(member(wheel, "entry_points.txt"))
    assert set(declared["apache_airflow_provider"]) == {"provider_info"}
    assert set(declared["airflow.plugins"]) == {"gemini_batch"}
    assert set(declared["pytest11"]) == {"gemini_batch"}
    found = run_installed(
        installed,
        tmp_path,
        f"""
import json, sys
from importlib.metadata import distributions
(ours,) = distributions(path=[{str(installed)!r}])
points = {{point.group: point.load() for point in ours.entry_points}}
info = points["apache_airflow_provider"]()
plugin = points["pytest11"]
listeners = points["airflow.plugins"].listeners
print(json.dumps([
    info["package-name"], plugin.__file__, hasattr(plugin, "gemini_batch_emulator"), listeners[0].__file__
]))
""",
    )
    assert found == [
        "airflow-provider-gemini-batch",
        str(installed / EMULATOR / "pytest_plugin.py"),
        True,
        str(installed / NAME / "plugins" / "listener.py"),
    ]


def test_reading_provider_info_and_api_loads_neither_airflow_nor_an_http_library(
    installed: Path, tmp_path: Path
) -> None:
    loaded = run_installed(
        installed,
        tmp_path,
        """
import importlib, json, pkgutil, sys
import airflow_provider_gemini_batch.get_provider_info as entry
import airflow_provider_gemini_batch.api as api
entry.get_provider_info()
names = [module.name for module in pkgutil.walk_packages(api.__path__, api.__name__ + ".")]
assert names
for name in names:
    importlib.import_module(name)
heavy = {"airflow", "requests", "httpx", "google", "starlette", "uvicorn", "fsspec", "upath", "asyncio"}
print(json.dumps(sorted(heavy & {name.split(".")[0] for name in sys.modules})))
""",
    )
    assert loaded == []


def test_type_checkers_are_told_that_we_are_typed(installed: Path) -> None:
    assert (installed / NAME / "py.typed").is_file()
