# SPDX-License-Identifier: Apache-2.0
"""``make demo`` for real: the emulator, four Airflow processes, one run, one kill; and nothing left of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from demo.processes import members

pytestmark = [pytest.mark.newest_airflow, pytest.mark.slow, pytest.mark.xdist_group("real_airflow")]

ROOT = Path(__file__).resolve().parents[2]


def demo(state: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "demo", "run", "--state", str(state), *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def sessions_of(state: Path) -> set[int]:
    return {session["pid"] for session in json.loads((state / "processes.json").read_text())["sessions"]}


def users_of(state: Path) -> list[str]:
    """Return the command lines of processes that work below *state*."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(state):
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return found


def test_demo_lands_every_row_and_leaves_nothing_running(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        try:
            output, _ = process.communicate(timeout=400)
        finally:
            process.terminate()
    assert process.returncode == 0, output
    assert "What came back" in output
    assert "killed the process of classify" in output
    assert "attempt 2 of classify begins; the service has 1 job" in output
    assert "1 job billed after 2 attempts; 60 of 60 rows ran" in output
    assert "rows     60: " in output
    assert "succeeded" in output
    assert "single calls would have cost" in output
    assert "the first 5 answers" in output
    assert "deferred" in output  # the wait was the triggerer's
    assert "job SUCCEEDED" in output
    assert output.rstrip().splitlines()[-1].startswith("  docs/"), "the last lines say what to do next"
    assert users_of(tmp_path) == []
    assert not (tmp_path / "processes.json").exists()


def test_ctrl_c_stops_what_was_started(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if "starting Airflow" in line:
                    break
            time.sleep(3)
            sessions = sessions_of(tmp_path)
            assert len(sessions) == 5
            assert len(members(sessions)) >= 5
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
            returncode = process.wait(60)
        finally:
            process.terminate()
    assert returncode == 128 + signal.SIGINT, rest
    assert "stopped" in rest
    assert members(sessions) == []
    assert users_of(tmp_path) == []
