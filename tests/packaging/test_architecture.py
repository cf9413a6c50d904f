# SPDX-License-Identifier: Apache-2.0
"""``docs/architecture.md`` names every room and only modules that there are."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = "airflow_provider_gemini_batch"


def test_every_room_is_in_the_table(root: Path) -> None:
    text = (root / "docs/architecture.md").read_text(encoding="utf-8")
    table = text[text.index("## The rooms") : text.index("## The import rule")]
    named = set(re.findall(r"`(\w+)`", table))
    rooms = {path.parent.name for path in (root / PACKAGE).glob("*/__init__.py")}
    assert rooms - {"example_dags"} <= named


def test_every_module_that_is_named_exists(root: Path) -> None:
    text = (root / "docs/architecture.md").read_text(encoding="utf-8")
    modules = re.findall(r"`([a-z_]+/[a-z_]+\.py)`", text)
    assert len(modules) > 20
    assert [name for name in modules if not (root / PACKAGE / name).exists()] == []


def test_every_module_of_a_larger_room_is_named(root: Path) -> None:
    text = (root / "docs/architecture.md").read_text(encoding="utf-8")
    table = text[text.index("## Inside the larger rooms") : text.index("## The way of a row")]
    named: dict[str, set[str]] = {}
    for room, modules in re.findall(r"^\| `(\w+)`[^|]*\| (.*) \|$", table, re.MULTILINE):
        named.setdefault(room, set()).update(re.findall(r"`(\w+)`", modules))
    assert len(named) > 10
    for room, names in named.items():
        there = {path.stem for path in (root / PACKAGE / room).rglob("*.py")} - {"__init__"}
        assert (room, there - names, names - there - {"developer", "vertex"}) == (room, set(), set())


def test_the_layers_are_those_of_the_contract(root: Path) -> None:
    contract = (root / "pyproject.toml").read_text(encoding="utf-8")
    lines = re.search(r"^layers = \[\n(.*?)^\]", contract, re.MULTILINE | re.DOTALL)
    assert lines is not None
    wanted = [set(re.findall(r"\w+", line)) - {"links", "lineage"} for line in lines[1].splitlines()]
    text = (root / "docs/architecture.md").read_text(encoding="utf-8")
    block = text[text.index("## The import rule") :].split("```")[1].removeprefix("text\n")
    drawn = [set(re.findall(r"\w+", line.partition("(")[0])) for line in block.splitlines() if line.strip()]
    assert drawn == [layer for layer in wanted if layer != {"example_dags"}]
