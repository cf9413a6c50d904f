# SPDX-License-Identifier: Apache-2.0
"""Which piece of work a task is: the same on every attempt, another one for another Airflow, index or pass."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_gemini_batch.api.identity import FormerTask, make_task_id
from airflow_provider_gemini_batch.errors import SubmitError
from airflow_provider_gemini_batch.task import installation as module
from airflow_provider_gemini_batch.task.identity import task_identity
from airflow_provider_gemini_batch.task.installation import REMEMBERED, Installation, installation

NOW = 1_800_000_000.0
DAY = 24 * 3600.0


class Desk:
    """One Airflow's Variables."""

    def __init__(self) -> None:
        self.value: str | None = None
        self.is_down = False

    def read(self) -> str | None:
        if self.is_down:
            raise SubmitError("no answer")
        return self.value

    def write(self, value: str) -> None:
        if self.is_down:
            raise SubmitError("no answer")
        self.value = value


@pytest.fixture
def second_look_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait no five seconds before a new id is read again."""
    monkeypatch.setattr(module, "SECOND_LOOK", 0.0)


def here(desk: Desk, namespace: str = "", now: float = NOW) -> Installation:
    return installation(namespace, desk, now=lambda: now, sleep=lambda seconds: None)


def test_an_installation_is_the_same_for_all_its_tasks_and_no_other() -> None:
    production, staging = Desk(), Desk()
    assert here(production).name == here(production, now=NOW + 400 * DAY).name != here(staging).name


def test_what_version_0_1_0_submitted_is_looked_for_for_14_days() -> None:
    desk = Desk()
    assert here(desk).former == (("", NOW),)
    assert here(desk, now=NOW + REMEMBERED - 1).former == (("", NOW),)
    assert here(desk, now=NOW + REMEMBERED + 1).former == ()


def test_of_two_tasks_that_make_up_an_id_at_once_both_take_one() -> None:
    desk = Desk()
    names: list[str] = []

    def sleep(seconds: float) -> None:
        if not names:
            names.append("")
            desk.value = None  # the other one had looked before the first wrote
            names.append(installation("", desk, now=lambda: NOW, sleep=sleep).name)

    assert installation("", desk, now=lambda: NOW, sleep=sleep).name == names[1]


@pytest.mark.parametrize("seconds", [0.1, 1.0, 4.0])
def test_a_slow_write_of_another_id_is_waited_for(seconds: float) -> None:
    desk, clock = Desk(), [NOW]
    late = json.dumps({"id": "late", "current": "airflow:late", "former": []})

    def sleep(pause: float) -> None:
        clock[0] += pause
        if clock[0] >= NOW + seconds:
            desk.value = late  # its writer had looked before ours was there

    name = installation("", desk, now=lambda: clock[0], sleep=sleep).name
    assert name == installation("", desk, now=lambda: clock[0], sleep=sleep).name == "airflow:late"


def test_a_new_namespace_is_told_once_and_the_former_identity_kept() -> None:
    desk = Desk()
    before = here(desk).name
    changed = here(desk, "staging", NOW + DAY)
    assert changed.name == "staging"
    assert before in changed.change
    assert changed.former == (("", NOW), (before, NOW + DAY))
    again = here(desk, "staging", NOW + 2 * DAY)
    assert (again.change, again.former) == ("", changed.former)
    assert here(desk, "", NOW + 3 * DAY).former == (("", NOW), ("staging", NOW + 3 * DAY))


def test_workers_of_two_namespaces_leave_no_growing_list_behind() -> None:
    desk = Desk()
    for minute in range(20):
        last = here(desk, ("a", "b")[minute % 2], NOW + minute)
    assert dict(last.former).keys() == {"", "a"} - {""}
    assert len(desk.value or "") < 300


def test_an_airflow_that_does_not_answer_gets_no_new_id() -> None:
    desk = Desk()
    kept = here(desk)
    value = desk.value
    desk.is_down = True
    with pytest.raises(SubmitError):
        here(desk)
    assert here(desk, "staging").name == "staging"
    desk.is_down = False
    assert desk.value == value
    assert here(desk).name == kept.name


@pytest.mark.parametrize("text", ["mine", "{}", '{"id": 3}', '{"id": "a", "former": [3, {"name": 1}]}', "[1]", ""])
def test_a_value_that_somebody_wrote_by_hand_is_an_id(text: str) -> None:
    desk = Desk()
    desk.value = text
    assert here(desk).name == here(desk).name


def test_the_supervisor_is_asked_and_a_fault_is_no_missing_variable() -> None:
    comms = pytest.importorskip("airflow.sdk.execution_time.comms")
    errors = pytest.importorskip("airflow.sdk.exceptions")
    kept: dict[str, str] = {}
    fault: list[Any] = []

    class Supervisor:
        def send(self, message: Any) -> Any:
            if fault:
                return comms.ErrorResponse(error=fault[0])
            if isinstance(message, comms.PutVariable):
                kept[message.key] = str(message.value)
                return None
            if message.key not in kept:
                return comms.ErrorResponse(error=errors.ErrorType.VARIABLE_NOT_FOUND)
            return comms.VariableResult(key=message.key, value=kept[message.key])

    desk = module._Supervisor(Supervisor())
    name = installation("", desk, sleep=lambda seconds: None).name
    assert json.loads(kept["gemini_batch_installation"])["current"] == name
    fault.append(errors.ErrorType.API_SERVER_ERROR)
    with pytest.raises(SubmitError, match="gemini_batch_installation"):
        desk.read()
    with pytest.raises(SubmitError, match="namespace"):
        desk.write("x")


class UnframedSupervisor:
    """The conversation of Airflow 3.0.0 to 3.0.2: a question has one reply, a write has one only if it is refused."""

    def __init__(self, comms: Any, errors: Any, refuses: bool, failing: int) -> None:
        self.lock = nullcontext()
        self.kept: dict[str, str] = {"other": "theirs"}
        self.replies: list[Any] = []
        self._comms, self._types, self._refuses, self._failing = comms, errors.ErrorType, refuses, failing
        self._error = errors.AirflowRuntimeError

    def send_request(self, log: Any, msg: Any) -> None:
        fault = self._comms.ErrorResponse(error=self._types.API_SERVER_ERROR, detail={"status_code": 403})
        if isinstance(msg, self._comms.PutVariable):
            if self._refuses:
                self.replies.append(fault)
            else:
                self.kept[msg.key] = str(msg.value)
        elif msg.key.startswith(f"{module.VARIABLE}_") and self._failing:
            self._failing -= 1
            self.replies.append(fault)
        elif msg.key in self.kept:
            self.replies.append(self._comms.VariableResult(key=msg.key, value=self.kept[msg.key]))
        else:
            missing = self._types.VARIABLE_NOT_FOUND
            self.replies.append(self._comms.ErrorResponse(error=missing, detail={"key": msg.key}))

    def get_message(self) -> Any:
        assert self.replies, "A task that waits for a reply that is not due waits for ever."
        reply = self.replies.pop(0)
        if getattr(reply, "error", None) == self._types.API_SERVER_ERROR:
            raise self._error(error=reply)
        return reply


@pytest.fixture
def unframed() -> Any:
    comms = pytest.importorskip("airflow.sdk.execution_time.comms")
    errors = pytest.importorskip("airflow.sdk.exceptions")
    return lambda refuses, failing=0: UnframedSupervisor(comms, errors, refuses, failing)


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_a_refused_write_leaves_no_reply_unread_on_the_first_3_0(unframed: Any, failing: int) -> None:
    supervisor = unframed(refuses=True, failing=failing)
    desk = module._Supervisor(supervisor)
    with pytest.raises(SubmitError, match="namespace"):
        installation("", desk, sleep=lambda seconds: None)
    assert supervisor.replies == []


def test_with_a_namespace_a_refused_write_is_no_fault_on_the_first_3_0(unframed: Any) -> None:
    supervisor = unframed(refuses=True)
    assert installation("staging", module._Supervisor(supervisor), sleep=lambda seconds: None).name == "staging"
    assert supervisor.replies == []


@pytest.mark.parametrize("failing", [0, 1, 4])
def test_a_kept_write_is_no_refused_one_on_the_first_3_0(unframed: Any, failing: int) -> None:
    supervisor = unframed(refuses=False, failing=failing)
    name = installation("", module._Supervisor(supervisor), sleep=lambda seconds: None).name
    assert json.loads(supervisor.kept[module.VARIABLE])["current"] == name
    assert supervisor.replies == []


def test_a_task_whose_replies_are_out_of_step_does_not_submit(unframed: Any) -> None:
    desk = module._Supervisor(unframed(refuses=True, failing=99))
    with pytest.raises(SubmitError, match="told apart"):
        installation("staging", desk, sleep=lambda seconds: None)


def test_a_reply_about_another_variable_is_no_identity(unframed: Any) -> None:
    supervisor = unframed(refuses=False)
    supervisor.send_request(logging, SimpleNamespace(key="other"))
    with pytest.raises(SubmitError, match="told apart"):
        installation("", module._Supervisor(supervisor), sleep=lambda seconds: None)


# --- tasks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    found = Desk()
    monkeypatch.setattr(module, "desk_here", lambda: found)
    return found


def context(try_number: int = 1, map_index: int = -1, **more: Any) -> dict[str, Any]:
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=map_index, try_number=try_number)
    return {"ti": ti, **more}


@pytest.mark.usefixtures("second_look_comes_at_once")
def test_a_retry_is_the_same_piece_of_work(desk: Desk) -> None:
    first, second = task_identity(context()), task_identity(context(2))
    assert first.task == second.task
    assert (first.may_have_rivals, first.earlier_attempts) == (False, 0)
    assert (second.may_have_rivals, second.earlier_attempts) == (True, 1)


@pytest.mark.usefixtures("second_look_comes_at_once")
def test_a_token_of_version_0_1_0_is_a_former_one_that_is_not_proven(desk: Desk) -> None:
    (former,) = task_identity(context(2)).former
    assert former.task == make_task_id("", "d", "r", "t")
    assert not former.is_proven


@pytest.mark.usefixtures("second_look_comes_at_once")
def test_what_the_store_noted_is_proven_and_the_change_is_told(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    old = make_task_id("", "d", "r", "t")
    with caplog.at_level(logging.WARNING):
        identity = task_identity(context(2), noted={"intent": f"{old}.{'1' * 16}"})
    assert FormerTask(old) in identity.former
    assert identity.owns(old)
    assert "identity has changed" in caplog.text


@pytest.mark.usefixtures("second_look_comes_at_once")
def test_each_pass_of_a_loop_is_a_piece_of_work_of_its_own(desk: Desk) -> None:
    passes = [task_identity(context(loop=SimpleNamespace(index=index))).task for index in range(2)]
    outside = task_identity(context()).task
    assert len({*passes, outside}) == 3
    name = json.loads(str(desk.value))["current"]
    assert outside == make_task_id(name, "d", "r", "t")  # as without loops


@pytest.mark.usefixtures("second_look_comes_at_once")
def test_a_retried_index_knows_its_neighbours(desk: Desk) -> None:
    mine, other = task_identity(context(2, 3)), task_identity(context(1, 4))
    assert other.task in mine.indexes
    assert mine.task not in mine.indexes
    assert other.indexes == task_identity(context(2)).indexes == frozenset()


@pytest.mark.usefixtures("second_look_comes_at_once")
def test_an_index_that_is_new_in_a_cleared_run_knows_its_neighbours(desk: Desk) -> None:
    mine = task_identity(context(1, 2, dag_run=SimpleNamespace(clear_number=1)))
    assert task_identity(context(1, 1)).task in mine.indexes
    assert mine.may_be_reordered
    assert not task_identity(context(2, 2, dag_run=SimpleNamespace(clear_number=0))).may_be_reordered
    assert not task_identity(context(2, dag_run=SimpleNamespace(clear_number=1))).may_be_reordered
