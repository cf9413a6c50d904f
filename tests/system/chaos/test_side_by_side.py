# SPDX-License-Identifier: Apache-2.0
"""The comparison with the official provider: what its harness shows of ours, and of a task that forgets."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.system.chaos import report
from tests.system.chaos.__main__ import main
from tests.system.chaos.interpreter import Interpreter, InterpreterGone
from tests.system.chaos.schedule import MODES
from tests.system.chaos.side_by_side import FAULTS, Bill, comparison, plans_for, play_all, troubles

pytestmark = [pytest.mark.newest_airflow, pytest.mark.xdist_group("side by side")]

BLOCKING = [
    dataclasses.replace(fault, modes=("blocking",))
    for fault in FAULTS
    if fault.kill_at == "created" or (fault.events and fault.events[0].action in ("second", "mark"))
    if "blocking" in fault.modes
]
IN_THE_TRIGGERER = [fault for fault in FAULTS if fault.modes == ("deferrable",)]


@pytest.fixture(scope="module")
def bills() -> list[Bill]:
    with (
        Interpreter(sys.executable, "tests.system.chaos.forgetful:FORGETFUL") as forgetful,
        Interpreter(sys.executable, "tests.system.chaos.fork_server:OURS") as ours,
    ):
        both = (forgetful, ours)
        return play_all([*plans_for(both, BLOCKING), *plans_for([ours], IN_THE_TRIGGERER)], at_once=8)


def _of(provider: str, bills: list[Bill]) -> list[Bill]:
    return [bill for bill in bills if bill.provider == provider]


@pytest.mark.slow
def test_ours_is_billed_once_whatever_befalls_it(bills: list[Bill]) -> None:
    ours = _of("ours", bills)
    assert len(ours) == len(BLOCKING) + len(IN_THE_TRIGGERER) == 5
    assert troubles(ours) == []
    assert all(bill.is_clean for bill in ours)


@pytest.mark.slow
def test_the_harness_notices_a_task_that_forgets_its_job(bills: list[Bill]) -> None:
    told = {bill.fault.name: (bill.billed, bill.left, bill.end, bill.trouble) for bill in _of("forgetful", bills)}
    assert told == {
        "killed when its create has been carried out": (2, 1, "succeeded", ""),
        "a second attempt beside a worker thought dead": (2, 1, "succeeded", ""),
        "marked failed while it waits": (1, 1, "marked", ""),
    }


def test_the_table_adds_up_what_each_provider_billed() -> None:
    def billed(provider: str, *numbers: int) -> list[Bill]:
        return [Bill(provider, FAULTS[1], mode, billed=number) for mode, number in zip(MODES, numbers, strict=True)]

    official, ours = (SimpleNamespace(provider=name, versions={"x": "1.2"}) for name in ("official", "ours"))
    text = comparison([*billed("official", 2, 3), *billed("ours", 1, 1)], (official, ours))
    last = [line for line in text.splitlines() if line.startswith("|")][-1]
    assert "5/2 = 2.50" in last
    assert "2/2 = 1.00" in last
    assert "official: x 1.2; ours: x 1.2." in text


def test_bills_of_ours_that_are_not_clean_fail_the_run_and_those_of_others_do_not() -> None:
    twice = Bill("ours", FAULTS[2], "blocking", created=2, billed=2, left=1, attempts=2, end="succeeded")
    assert len(troubles([twice])) == 1
    assert troubles([dataclasses.replace(twice, provider="official")]) == []
    # Where nothing goes wrong a failure means that the harness cannot run it, and its figures would mean nothing.
    assert len(troubles([dataclasses.replace(twice, provider="official", fault=FAULTS[0])])) == 1


def test_an_interpreter_that_cannot_load_the_provider_says_why() -> None:
    with pytest.raises(InterpreterGone, match="No module named 'nowhere'"), Interpreter(sys.executable, "nowhere:X"):
        pass


def test_without_the_official_provider_its_part_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    kept = tmp_path / "RESULTS.md"
    assert main(["--part", "official", "--results", str(kept)]) == 0
    assert "left out" in capsys.readouterr().out
    assert not kept.exists()


def test_keeping_one_part_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    kept = tmp_path / "RESULTS.md"
    for part in reversed(report.PARTS):
        report.keep(kept, part, f"old figures of {part}")
    report.keep(kept, report.PARTS[1], report.table(("a", "b"), [("1", "2")]))
    text = kept.read_text()
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        report.TITLE,
        *(f"## {part}" for part in report.PARTS),
    ]
    assert f"old figures of {report.PARTS[0]}" in text
    assert f"old figures of {report.PARTS[1]}" not in text
    assert "| 1   | 2   |" in text
