# SPDX-License-Identifier: Apache-2.0
"""Nothing that a demo has started outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from demo.processes import ComponentDiedError, Processes, free_ports, members, stop_leftovers, stop_sessions

# A component as unpleasant as Airflow's can be: its child ignores SIGTERM, and a grandchild has lost its parent.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) == 1:
    subprocess.Popen([sys.executable, __file__, "child"])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
elif sys.argv[1] == "child":
    subprocess.Popen([sys.executable, __file__, "orphan"])
    if os.fork():
        time.sleep(0.2)
        os._exit(0)
open(f"{__file__}.{sys.argv[-1].rsplit('/')[-1]}.ready", "w").close()
time.sleep(120)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "stubborn"
    path.write_text(STUBBORN)
    return path


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


def start_stubborn(processes: Processes, script: Path) -> int:
    component = processes.start("stubborn", [sys.executable, str(script)], env=os.environ, cwd=script.parent)
    for name in ("stubborn", "child", "orphan"):
        wait_for(script.with_name(f"stubborn.{name}.ready"))
    return component.process.pid


def test_whole_tree_is_stopped_even_where_it_ignores_the_request(tmp_path: Path, script: Path) -> None:
    record = tmp_path / "processes.json"
    with Processes(tmp_path, record) as processes:
        leader = start_stubborn(processes, script)
        assert len(members({leader})) >= 3
        stop_sessions({leader}, grace=0.5)
        assert members({leader}) == []
    assert not record.exists()


def test_leaving_the_block_by_an_exception_stops_everything(tmp_path: Path) -> None:
    def interrupted() -> int:
        with Processes(tmp_path, tmp_path / "processes.json") as processes:
            sleeper = processes.start("sleeper", ["sleep", "120"], env=os.environ, cwd=tmp_path)
            pids.append(sleeper.process.pid)
            raise KeyboardInterrupt

    pids: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not psutil.pid_exists(pids[0])


def test_started_commands_can_be_interrupted_though_signals_waited_while_they_were_started(tmp_path: Path) -> None:
    with Processes(tmp_path, tmp_path / "processes.json") as processes:
        sleeper = processes.start("sleeper", ["sleep", "120"], env=os.environ, cwd=tmp_path)
        sleeper.process.send_signal(signal.SIGTERM)
        assert sleeper.process.wait(10) == -signal.SIGTERM


def test_command_that_ends_by_itself_is_named_with_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path, tmp_path / "processes.json") as processes:
        component = processes.start("short", ["sh", "-c", "echo why; exit 3"], env=os.environ, cwd=tmp_path)
        component.process.wait(10)
        with pytest.raises(ComponentDiedError, match="short ended by itself with exit code 3") as caught:
            processes.check()
        assert caught.value.log.read_text() == "why\n"


def test_run_waits_for_the_end_and_refuses_a_failure(tmp_path: Path) -> None:
    with Processes(tmp_path, tmp_path / "processes.json") as processes:
        processes.run("fine", ["true"], env=os.environ, cwd=tmp_path, timeout=10)
        processes.check()
        with pytest.raises(ComponentDiedError, match="broken"):
            processes.run("broken", ["false"], env=os.environ, cwd=tmp_path, timeout=10)


def test_what_a_killed_demo_left_is_found_and_stopped(tmp_path: Path) -> None:
    record = tmp_path / "processes.json"
    starter = f"""
import os, signal
from pathlib import Path
from demo.processes import Processes
processes = Processes(Path({str(tmp_path)!r}), Path({str(record)!r}))
processes.start("sleeper", ["sleep", "120"], env=os.environ, cwd=Path({str(tmp_path)!r}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", starter], timeout=60, check=False)
    (session,) = json.loads(record.read_text())["sessions"]
    assert members({session["pid"]})
    assert stop_leftovers(record) == ["sleeper"]
    assert members({session["pid"]}) == []
    assert not record.exists()
    assert stop_leftovers(record) == []


def test_stranger_that_got_the_same_process_number_is_left_alone(tmp_path: Path) -> None:
    record = tmp_path / "processes.json"
    with Processes(tmp_path, record) as processes:
        sleeper = processes.start("sleeper", ["sleep", "120"], env=os.environ, cwd=tmp_path)
        remembered = json.loads(record.read_text())
        remembered["sessions"][0]["started"] -= 1000
        stale = tmp_path / "stale.json"
        stale.write_text(json.dumps(remembered))
        assert stop_leftovers(stale) == []
        assert sleeper.process.poll() is None


def test_free_ports_are_different() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
