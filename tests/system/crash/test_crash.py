# SPDX-License-Identifier: Apache-2.0
"""The judge of the crash suite, and that it leaves nothing unjudged; ``make crash`` carries it out."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from demo.processes import ComponentDiedError, Processes
from tests.system.crash.__main__ import Thread, main, read_arguments
from tests.system.crash.cases import ALL_CASES, BACKENDS, Case
from tests.system.crash.scripts import SCRIPTS
from tests.system.crash.verdict import Verdict, judge, table
from tests.system.crash.world import Until, pending_signals
from tests.system.services import postgres

pytestmark = pytest.mark.newest_airflow

ROOT = Path(__file__).parents[3]
WANTED = Case("wanted", "gemini", "a job whose answers somebody wants")
DROPPED = Case("dropped", "gemini", "a job that is cancelled", needed=0, created=1, ends=("failed",))


def job(state: str = "SUCCEEDED", billed: int = 3, deleted: bool = False) -> dict[str, Any]:
    return {"state": state, "billed_rows": billed, "deleted": deleted}


def verdict(case: Case, *jobs: dict[str, Any], seen: tuple[str | None, ...] = ("success",)) -> Verdict:
    return judge(case, jobs, seen, 1.0)


def test_one_billed_job_and_the_state_that_was_wanted_are_fine() -> None:
    assert verdict(WANTED, job()).is_fine
    assert verdict(DROPPED, job("CANCELLED", billed=0), seen=("failed",)).is_fine


@pytest.mark.parametrize(
    "found",
    [
        verdict(WANTED, job(), job()),
        verdict(WANTED, job(), job("RUNNING", billed=0)),
        verdict(WANTED, job(), job("CANCELLED", billed=0)),
        verdict(WANTED),
        verdict(WANTED, job(), seen=("failed",)),
        verdict(WANTED, job(), seen=(None,)),
        verdict(WANTED, job(), seen=("success", "success")),
        verdict(DROPPED, job("PENDING", billed=0), seen=("failed",)),
        verdict(DROPPED, job(), seen=("failed",)),
        judge(WANTED, [job()], ["success"], 1.0, "did not see the retry"),
    ],
    ids=[
        "billed twice",
        "an orphan",
        "a job too many",
        "no job",
        "failed",
        "no state",
        "instances too many",
        "left running",
        "billed though dropped",
        "not provoked",
    ],
)
def test_anything_else_is_not(found: Verdict) -> None:
    assert not found.is_fine
    assert table([found])[-1].endswith("FAILED")


def test_every_case_has_a_script_and_is_told_from_the_others_by_its_jobs_names() -> None:
    assert {case.name for case in ALL_CASES} == set(SCRIPTS)
    assert len({case.dag_id for case in ALL_CASES}) == len(ALL_CASES)
    prefixes = [f"{case.dag_id}." for case in ALL_CASES]
    assert not [(a, b) for a in prefixes for b in prefixes if a != b and a.startswith(b)]
    for name in ("triggerer_killed", "task_killed", "deferred_cleared", "deferred_failed", "deferred_succeeded"):
        assert {case.backend for case in ALL_CASES if case.name == name} == set(BACKENDS)


def test_a_script_that_waits_in_vain_says_what_for() -> None:
    thread = Thread(iter([Until("a miracle", lambda: False, patience=-1)]))
    thread.go_on()
    assert (thread.is_over, thread.trouble) == (True, "did not see a miracle")


def test_a_script_goes_on_as_far_as_it_can() -> None:
    thread = Thread(iter([Until("this", lambda: True), Until("that", lambda: False)]))
    thread.go_on()
    assert not thread.is_over


def test_without_postgresql_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "DEBIAN", tmp_path)
    assert main(["--state", str(tmp_path / "state")]) == 1
    assert "Install the package postgresql" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_the_newest_postgresql_of_debian_is_taken_where_none_is_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "DEBIAN", tmp_path)
    for version in ("9.6", "15", "17"):
        (tmp_path / version / "bin").mkdir(parents=True)
    for version in ("9.6", "15"):
        (tmp_path / version / "bin/initdb").touch()
    assert postgres.find_programs() == tmp_path / "15/bin"


def test_unknown_cases_are_refused() -> None:
    assert read_arguments(["--only", "task_killed"]).only == ["task_killed"]
    with pytest.raises(SystemExit):
        read_arguments(["--only", "no_such_case"])


def test_a_dismissed_command_may_end_and_is_stopped_if_it_stays(tmp_path: Path) -> None:
    with Processes(tmp_path, tmp_path / "processes.json") as processes:
        ends = processes.start("ends", ["true"], env=os.environ, cwd=tmp_path)
        stays = processes.start("stays", ["sleep", "120"], env=os.environ, cwd=tmp_path)
        ends.process.wait(10)
        with pytest.raises(ComponentDiedError):
            processes.check()
        for component in (ends, stays):
            processes.dismiss(component)
        processes.check()
    assert stays.process.poll() is not None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_a_signal_that_waits_for_a_stopped_process_is_seen() -> None:
    import psutil

    with subprocess.Popen(["sleep", "120"]) as sleeper:
        try:
            process = psutil.Process(sleeper.pid)
            process.suspend()
            assert 15 not in pending_signals(process)
            process.terminate()
            deadline = time.monotonic() + 5
            while 15 not in pending_signals(process):
                assert time.monotonic() < deadline
        finally:
            sleeper.kill()
