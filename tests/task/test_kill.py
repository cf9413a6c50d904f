# SPDX-License-Identifier: Apache-2.0
"""A task that is being ended asks Airflow why, whatever it was in the middle of; an orphan learns that it is one."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_gemini_batch.errors import SubmitError
from airflow_provider_gemini_batch.task.kill import HANDLER_PATIENCE, TaskEnd, cancel_if_marked
from airflow_provider_gemini_batch.task.store import SubmissionStore

ROOT = Path(__file__).parents[2]

TASK = """
import json, os, signal, socket, sys, threading, time
import msgspec
from airflow.sdk.execution_time import comms, task_runner
from airflow_provider_gemini_batch.task.kill import TaskEnd

own, supervisors = socket.socketpair()
task_runner.SUPERVISOR_COMMS = comms.CommsDecoder(socket=own)
seen = []

class TaskInstance:
    dag_id, run_id, task_id, map_index = "d", "r", "t", 2
    get_task_states = staticmethod(task_runner.RuntimeTaskInstance.get_task_states)

def receive(count):
    data = b""
    while len(data) < count:
        data += supervisors.recv(count - len(data))
    return data

def supervise():
    # As Airflow's does: it ends the task between two questions, and goes on answering meanwhile.
    for number in range(2):
        size = int.from_bytes(receive(4), "big")
        identity, body, *_ = msgspec.msgpack.decode(receive(size))
        if number == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)
        answer = {"GetVariable": {"key": "v", "value": "mine", "type": "VariableResult"},
                  "GetTaskStates": {"task_states": {"r": {"t_2": "failed"}}, "type": "TaskStatesResult"}}[body["type"]]
        supervisors.sendall(comms._ResponseFrame(id=identity, body=answer).as_bytes())

def on_term(number, frame):
    ti = TaskInstance()
    TaskEnd().cancel_if_marked(ti, lambda: ["batches/a"], seen.append)
    seen.append("handler left")

signal.signal(signal.SIGTERM, on_term)
threading.Thread(target=supervise, daemon=True).start()
answer = task_runner.SUPERVISOR_COMMS.send(comms.GetVariable(key="v"))
deadline = time.monotonic() + 5
while "batches/a" not in seen and time.monotonic() < deadline:
    time.sleep(0.01)
print(json.dumps({"answer": answer.value, "seen": sorted(seen)}))
"""


@pytest.mark.newest_airflow
def test_question_about_the_state_is_answered_though_the_signal_came_in_the_middle_of_another_one(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TASK],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"answer": "mine", "seen": ["batches/a", "handler left"]}


class Store:
    """A state store whose supervisor has died."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def get(self, key: str) -> Any:
        raise self._error

    def set(self, key: str, value: Any) -> None:
        raise self._error


def _broken_by_a_dead_supervisor() -> Exception:
    """Return what Airflow's own conversation raises when the other end is gone."""
    comms = pytest.importorskip("airflow.sdk.execution_time.comms")
    own, supervisors = socket.socketpair()
    supervisors.close()
    with own, pytest.raises((EOFError, OSError)) as caught:
        comms.CommsDecoder(socket=own).send(comms.GetVariable(key="v"))
    return caught.value


@pytest.mark.newest_airflow
def test_a_task_without_its_supervisor_does_not_submit() -> None:
    with pytest.raises(SubmitError, match="nothing was submitted"):
        SubmissionStore(Store(_broken_by_a_dead_supervisor())).note("intent", "token")


@pytest.mark.newest_airflow
def test_a_job_that_exists_is_settled_though_the_supervisor_is_gone() -> None:
    SubmissionStore(Store(_broken_by_a_dead_supervisor())).note("job", "batches/a")


def test_a_store_that_refuses_does_not_keep_a_task_from_submitting() -> None:
    memory = SubmissionStore(Store(RuntimeError("the API server says no")))
    memory.note("intent", "token")
    assert memory.recall() == {}


class RunningTask:
    """A task instance of Airflow 3 that somebody has brought into a state."""

    dag_id, run_id, task_id, map_index = "d", "r", "t", -1

    def __init__(self, state: str) -> None:
        self._state = state

    def get_task_states(self, **_: Any) -> dict[str, Any]:
        return {"r": {"t": self._state}}


def ended_by_airflow(ti: Any, cancel: Any) -> None:
    """Do what ``on_kill`` does."""
    TaskEnd().cancel_if_marked(ti, lambda: ["batches/a"], cancel)


class LoopedTask(RunningTask):
    """A pass of a task loop. Airflow tells states of the loop's last pass, and by region those of each."""

    region_id, region_index = uuid.UUID(int=7), 0

    def __init__(self, ended: dict[int, str], last: str, map_index: int = -1) -> None:
        super().__init__(last)
        self._ended = ended
        self.map_index = map_index

    def get_template_context(self) -> dict[str, Any]:
        return {"loop": SimpleNamespace(index=0)}

    def get_task_breadcrumbs(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        assert (dag_id, run_id) == (self.dag_id, self.run_id)
        crumb = {"task_id": self.task_id, "map_index": self.map_index, "region_id": str(self.region_id)}
        ended = [{**crumb, "region_index": index, "state": state} for index, state in self._ended.items()]
        return [{"task_id": "rows", "map_index": -1, "state": "success"}, *ended, {**ended[0], "task_id": "note"}]


@pytest.mark.parametrize(
    ("ended", "last", "cancels"),
    [
        ({1: "success"}, "success", False),  # the first pass was cleared alone, and is ended for its next try
        ({0: "failed", 1: "success"}, "success", True),
        ({0: "failed", 1: "success"}, "running", True),
    ],
)
def test_a_pass_of_a_loop_is_judged_by_its_own_state(ended: dict[int, str], last: str, cancels: bool) -> None:
    cancelled: list[str] = []
    ended_by_airflow(LoopedTask(ended, last), cancelled.append)
    assert cancelled == (["batches/a"] if cancels else [])


def test_a_task_that_was_not_marked_is_left_alone() -> None:
    cancelled: list[str] = []
    ended_by_airflow(RunningTask("running"), cancelled.append)
    assert cancelled == []


@pytest.mark.parametrize("state", ["running", "deferred", "queued", "scheduled", "up_for_retry", "restarting", None])
def test_a_job_that_its_task_still_needs_is_not_cancelled(state: str | None) -> None:
    cancelled: list[str] = []
    cancel_if_marked(lambda: ["batches/a"], lambda: state, cancelled.append, logging.getLogger(__name__))
    assert cancelled == []


@pytest.mark.parametrize("state", ["failed", "success", "skipped", "upstream_failed", "removed"])
def test_a_marked_task_cancels_its_job(state: str) -> None:
    cancelled: list[str] = []
    cancel_if_marked(lambda: ["batches/a"], lambda: state, cancelled.append, logging.getLogger(__name__))
    assert cancelled == ["batches/a"]


def test_a_cancel_that_fails_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def cancel(name: str) -> None:
        raise RuntimeError(f"no cancel for {name}")

    ended_by_airflow(RunningTask("failed"), cancel)
    assert "batches/a could not be cancelled and may still run and bill: no cancel for batches/a" in caplog.text


def test_where_the_process_ends_right_after_the_handler_a_slow_cancel_is_waited_for() -> None:
    class TaskInstance211:
        def current_state(self) -> str:
            return "failed"

    cancelled: list[str] = []

    def cancel(name: str) -> None:
        time.sleep(HANDLER_PATIENCE + 0.3)
        cancelled.append(name)

    ended_by_airflow(TaskInstance211(), cancel)
    assert cancelled == ["batches/a"]
