# SPDX-License-Identifier: Apache-2.0
"""``docs/emulator.md`` says what there is: knobs, scripts, rules and faults with defaults, routes, limitations."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gemini_batch_emulator.control import PREFIX
from gemini_batch_emulator.faults import Fault
from gemini_batch_emulator.knobs import Config
from gemini_batch_emulator.limitations import LIMITATIONS
from gemini_batch_emulator.scripts import OUTCOMES, Ending, JobScript, RowRule
from tests.emulator.conftest import generate_line

if TYPE_CHECKING:
    from tests.emulator.conftest import Caller

MANUAL = (Path(__file__).parents[2] / "docs" / "emulator.md").read_text(encoding="utf-8")
COUNTERS = {"matched", "fired"}


def section(title: str) -> str:
    """The text below the headings that begin with *title*."""
    return "".join(part for part in re.split(r"^## ", MANUAL, flags=re.MULTILINE) if part.startswith(title))


def listed(text: str) -> dict[str, str]:
    """Names and defaults of the rows of tables with three columns."""
    return dict(re.findall(r"^\| `(\w+)` \| (.+?) \| ", text, flags=re.MULTILINE))


def default(field: Field[Any]) -> Any:
    """A member's default."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


@pytest.mark.parametrize(
    ("title", "classes"),
    [
        ("How a job behaves", (JobScript, Ending)),
        ("What becomes of rows", (RowRule,)),
        ("Faults", (Fault,)),
        ("Knobs", (Config,)),
    ],
)
def test_every_member_is_listed_with_its_default(title: str, classes: tuple[type[Any], ...]) -> None:
    own = {field.name: field for cls in classes for field in fields(cls) if field.name not in COUNTERS}
    found = listed(section(title))
    assert set(found) == set(own)
    for name, text in found.items():
        if text.startswith("`"):
            assert json.loads(text.strip("`")) == default(own[name]), name


def test_every_outcome_is_listed() -> None:
    rows = re.findall(r"^\| ([^|]*) \| ", section("What becomes of rows").partition("| outcome |")[2], re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(OUTCOMES)


def test_every_control_route_is_listed(one: Caller) -> None:
    from gemini_batch_emulator.app import create_app

    routes = create_app(one.emulator.state).routes
    served = {
        f"{method} {route.path.removeprefix(PREFIX)}"
        for route in routes
        if route.path.startswith(PREFIX)
        for method in (route.methods or set()) - {"HEAD"}
    }
    named = set(re.findall(r"`((?:GET|POST|PATCH|DELETE) [\w/]+)`", section("Control routes")))
    assert named == served


def test_the_limitations_are_those_of_the_help() -> None:
    assert LIMITATIONS.strip() in MANUAL


def test_the_printed_script_does_what_is_said(one: Caller) -> None:
    [code] = re.findall(r"```python\n(.*?)```", MANUAL, flags=re.DOTALL)
    exec(code, {"gemini_batch_emulator": one.emulator})

    def ask(numbers: list[int]) -> dict[int, dict[str, Any]]:
        schema = {"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}}, "required": ["n"]}
        config = {"responseMimeType": "application/json", "responseSchema": schema}
        lines = [generate_line(str(number), f"row {number}", generationConfig=config) for number in numbers]
        rows = one.output(one.ended(one.create(one.upload(lines)["name"])))
        return {int(row["key"]): row for row in rows}

    def is_broken(row: dict[str, Any]) -> bool:
        text = row["response"]["candidates"][0]["content"]["parts"][0]["text"]
        return not isinstance(json.loads(text)["n"], int)

    first = ask(list(range(1000)))
    failed = [number for number, row in first.items() if "error" in row]
    broken = [number for number, row in first.items() if "error" not in row and is_broken(row)]
    assert (len(first), len(failed), len(broken)) == (999, 37, 5)
    again = ask([*failed, *broken, 999])
    assert set(again) == {*failed, *broken}
    assert not [row for row in again.values() if "error" in row or is_broken(row)]
    assert one.emulator.executions()["rows"] == 1000 + 37 + 5 + 1
