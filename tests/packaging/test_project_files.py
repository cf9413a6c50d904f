# SPDX-License-Identifier: Apache-2.0
"""Lock files, make targets, CI script, example data: what is said about them is so."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import airflow_provider_gemini_batch

LOCKED_AIRFLOWS = ["2.11", "3.0", "3.1", "3.2", "3.3", "3.4"]


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    with (root / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def pins(lock: Path) -> dict[str, set[str]]:
    """Return the versions a lock file holds for each distribution (markers may choose between several)."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text(), flags=re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


@pytest.mark.parametrize("version", LOCKED_AIRFLOWS)
def test_lock_meets_every_declared_dependency(root: Path, project: dict[str, Any], version: str) -> None:
    locked = pins(root / f"requirements/airflow-{version}.txt")
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *extras["tests"], *(extras["lint"] if version == "3.3" else [])]
    for text in wanted:
        requirement = Requirement(text)
        if requirement.name == project["project"]["name"]:
            continue
        versions = locked.get(canonicalize_name(requirement.name), set())
        assert versions, f"{text} is not locked"
        assert all(requirement.specifier.contains(each) for each in versions), f"{text}: {versions}"
    assert next(iter(locked["apache-airflow"])).startswith(f"{version}.")


def test_locks_name_no_host_and_hash_everything(root: Path) -> None:
    locks = sorted(set((root / "requirements").glob("*.txt")) - set((root / "requirements").glob("released-*.txt")))
    assert len(locks) == len(LOCKED_AIRFLOWS) + 2  # Google's provider, the cluster
    for lock in locks:
        text = lock.read_text()
        assert "://" not in text
        assert "--index" not in text
        assert "--find-links" not in text
        entries = re.split(r"\n(?=\S)", text.strip())
        assert len(entries) > 50
        assert all("--hash=sha256:" in entry for entry in entries), lock


def test_cluster_is_the_newest_airflow_and_celery(root: Path) -> None:
    cluster, newest = (pins(root / f"requirements/{name}.txt") for name in ("cluster", "airflow-3.3"))
    assert {"celery", "redis", "apache-airflow-providers-celery"} <= set(cluster) - set(newest)
    assert {name: found for name, found in cluster.items() if newest.get(name, found) != found} == {}


def test_ci_runs_make_test_and_nothing_else(root: Path) -> None:
    script = (root / ".ci/run").read_text()
    commands = [line for line in script.splitlines() if "make" in line]
    assert commands == ["exec make test </dev/null"]
    assert (root / ".ci/run").stat().st_mode & 0o111


def test_every_make_target_that_documents_speak_of_exists(root: Path) -> None:
    targets = re.findall(r"^([a-z%-]+):", (root / "Makefile").read_text(), flags=re.MULTILINE)
    known = re.compile("|".join(["it", "sure", *(target.replace("%", "[0-9.]+") for target in targets)]))
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docker-compose.yaml", ".env.example"):
        spoken_of = set(re.findall(r"`?\bmake ([a-z]+(?:-[a-z0-9.]*[a-z0-9])*)\b", (root / name).read_text()))
        assert [each for each in spoken_of if not known.fullmatch(each)] == [], name


def test_without_a_usable_python_the_message_says_what_to_install(root: Path, tmp_path: Path) -> None:
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    for tool in ("sh", "cat"):
        (tmp_path / tool).symlink_to(f"/bin/{tool}")
    done = subprocess.run(
        ["/bin/sh", str(root / ".ci/find-python")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "3.11, 3.12 or 3.13" in done.stderr
    assert "python3-venv" in done.stderr


def test_changelog_speaks_of_this_version(root: Path) -> None:
    assert f"## [{airflow_provider_gemini_batch.__version__}]" in (root / "CHANGELOG.md").read_text()


def test_licence_is_apache_2_in_full(root: Path) -> None:
    text = (root / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_every_source_file_names_the_licence(root: Path) -> None:
    folders = ("airflow_provider_gemini_batch", "benchmarks", "demo", "example_dags", "tests")
    sources = [path for folder in folders for path in (root / folder).rglob("*.py") if ".work" not in path.parts]
    assert len(sources) > 30
    unmarked = [path for path in sources if "SPDX-License-Identifier: Apache-2.0" not in path.read_text()[:200]]
    assert unmarked == []


def test_example_data_is_a_thousand_rows_of_several_languages_long_and_short(root: Path) -> None:
    folder = root / "example_dags/data"
    rows = [json.loads(line) for line in (folder / "texts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 1000
    assert len({row["key"] for row in rows}) == len(rows)
    assert all(set(row) == {"key", "text"} and row["text"].strip() for row in rows)
    assert {row["key"].split("-")[1] for row in rows} == {"ar", "en", "es", "fr", "ru", "zh"}
    lengths = sorted(len(row["text"]) for row in rows)
    assert lengths[0] < 10
    assert lengths[-1] > 10_000
    assert (folder / "texts.jsonl").stat().st_size < 1_500_000
    note = (folder / "README.md").read_text()
    assert f"{len(rows):,} rows" in note
    for source in {row["key"].split("-")[0] for row in rows}:
        assert f"`{source}-" in note
        count = sum(row["key"].startswith(f"{source}-") for row in rows)
        assert f"| {count} |" in note, source
