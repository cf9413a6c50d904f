# SPDX-License-Identifier: Apache-2.0
"""
Every block of Python, SQL and shell that README.md and docs print works as printed.

Shell blocks of a page run one after the other, in a shell and an Airflow home of their own. Only ports and places are
changed. A block that needs Google, or that sets an environment up, says so behind its language (``bash google``,
``bash install``) and is parsed only. DAG files are built here; ``tests/dags/test_printed_dags.py`` runs them.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch import operators
from airflow_provider_gemini_batch.compat import task
from tests.support.airflow_home import home_environment

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))]
LANGUAGES = ("python", "sql", "bash", "sh", "shell", "console")
TAGS = ("google", "docker", "install")
MOVED_PLACES = {'"/tmp/': '"{home}/', " /tmp/": " {home}/", '"/data/': '"{home}/', " /data/": " {home}/"}


@dataclass(frozen=True)
class Block:
    """A block of a page; *tags* are the words behind its language."""

    page: str
    line: int
    language: str
    tags: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def _blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(r"^( *)```(\w+) *([^\n]*)\n(.*?)^\1```", text, flags=re.MULTILINE | re.DOTALL)
    return [
        Block(page, text.count("\n", 0, one.start()) + 1, one[2], tuple(one[3].split()), textwrap.dedent(one[4]))
        for one in found
        if one[2] in LANGUAGES
    ]


BLOCKS = [block for page in PAGES for block in _blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language not in ("python", "sql")]
RUN = list({block.text: block for block in reversed(SHELL) if not block.tags}.values())[::-1]
"""What is printed on several pages runs on one of them."""


def test_each_tag_is_known_and_most_blocks_run(capsys: pytest.CaptureFixture[str]) -> None:
    parsed = [block for block in BLOCKS if block.tags]
    assert {tag for block in parsed for tag in block.tags} <= set(TAGS)
    assert [str(block) for block in BLOCKS if block.language == "sql"] == []  # they would need a test here
    with capsys.disabled():
        print(f"\n{len(BLOCKS)} printed blocks: {len(BLOCKS) - len(parsed)} run, {len(parsed)} parsed only")
    assert len(parsed) < len(BLOCKS) / 3


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(ROOT / "docs"), str(tmp_path)],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "searchindex.js").exists()


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_shell_block_is_shell(block: Block) -> None:
    read = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr


@pytest.mark.newest_airflow
@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_python_block_runs(block: Block, gemini_batch_emulator: EmulatorHandle) -> None:
    known: dict[str, Any] = {name: getattr(operators, name) for name in operators.__all__}
    # What a page has spoken of before the block, or the reader's own.
    known |= {"task": task, "gemini_batch_emulator": gemini_batch_emulator, "articles_of": lambda day: []}
    exec(compile(ast.parse(block.text), str(block), "exec"), {**known, "__name__": "printed"})


def _environment(home: Path) -> dict[str, str]:
    options = {"CORE__DAGS_FOLDER": str(home / "dags"), "GEMINI_BATCH__HISTORY_PATH": str(home / "gemini_history")}
    return home_environment(home, **options) | {
        "GEMINI_API_KEY": "emulator-key",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def _moved(text: str, home: Path, emulator: EmulatorHandle) -> str:
    for place, moved in MOVED_PLACES.items():
        text = text.replace(place, moved.format(home=home))
    # A server runs until it is stopped: here for a moment.
    text = re.sub(r"^(python -m \S*emulator) --port 8086.*", r"timeout -s INT 3 \1 --port 0 || test $? = 124", text)
    return text.replace("http://127.0.0.1:8086", emulator.url)


def _reader_at(page: str, home: Path, emulator: EmulatorHandle) -> dict[str, str]:
    """Give a reader of *page* what the page takes for granted, and return the environment."""
    (home / "dags").mkdir()
    for number, block in enumerate(each for each in PYTHON if "with DAG(" in each.text):
        if block.page in ("README.md", page):
            (home / "dags" / f"printed_{number}.py").write_text(_moved(block.text, home, emulator), encoding="utf-8")
    (home / "rows.jsonl").write_text(json.dumps({"key": "a", "prompt": "Why?"}) + "\n", encoding="utf-8")
    (home / "gemini_history").mkdir()
    connection = json.dumps(emulator.connection("gemini"))
    return {**_environment(home), "AIRFLOW_CONN_GEMINI_BATCH_DEFAULT": connection}


@pytest.mark.newest_airflow
@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in RUN}))
def test_the_shell_blocks_of_a_page_run(
    page: str, migrated_database: Path, gemini_batch_emulator: EmulatorHandle, tmp_path: Path
) -> None:
    shutil.copy(migrated_database, tmp_path / "airflow.db")
    gemini_batch_emulator.script(mode="at_once")
    gemini_batch_emulator.configure(accepted_tokens=[], accepted_keys=["emulator-key", "any-key"])
    environment = _reader_at(page, tmp_path, gemini_batch_emulator)
    for block in (each for each in RUN if each.page == page):
        given = "airflow connections add gemini_batch_default --conn-type gemini_batch >/dev/null\n"
        script = "set -euo pipefail\n" + (given if "connections delete" in block.text else "")
        script += _moved(block.text, tmp_path, gemini_batch_emulator)
        ended = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
            check=False,
        )  # fmt: skip
        assert ended.returncode == 0, f"{block}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
        if "connections delete" in block.text or "connections add" in block.text:
            shutil.copy(migrated_database, tmp_path / "airflow.db")  # the next block may add it again
