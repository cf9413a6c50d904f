# SPDX-License-Identifier: Apache-2.0
"""
However a task waits for a job, the job's end means the same.

One list of ends, and every way to wait for them: the sensor in its three modes, the create operator that holds its
worker or defers, and the hook.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from airflow.exceptions import AirflowRescheduleException

from airflow_provider_gemini_batch.compat import AirflowSkipException, BaseSensorOperator, TaskDeferred
from airflow_provider_gemini_batch.errors import (
    AuthError,
    GeminiBatchError,
    JobCancelledError,
    JobExpiredError,
    JobFailedError,
    JobTimeoutError,
    NotFoundError,
    PartialFailureError,
)
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.operators import CreateBatchOperator
from airflow_provider_gemini_batch.sensors import BatchJobSensor
from tests.support.airflow_side import attempt, rows, set_connection

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

ROWS = 4
Wait = Callable[..., Any]
"""``wait(timeout=..., max_failed_rows=...)`` submits a job and waits for its end."""

LOOK = {"method": "GET", "path": r"batches/\w|batchPredictionJobs/\d"}
"""A look at one job, on either backend."""


@pytest.fixture
def backend() -> str:
    return "gemini"


def apart_from_airflow(name: str) -> Any:
    """Return a parameter with which a test is no other on an older Airflow."""
    return pytest.param(name, marks=pytest.mark.newest_airflow)


both_backends = pytest.mark.parametrize("backend", ["gemini", apart_from_airflow("vertex_ai")])


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, backend: str, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection(backend, max_retries=1))
    return gemini_batch_emulator


BEGAN: list[Any] = []
"""When the sensor that a test runs was first rescheduled."""


@pytest.fixture(autouse=True)
def first_reschedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow 2.11 asks its database, later ones the task instance."""
    module = sys.modules[BaseSensorOperator.__module__]
    if hasattr(module, "_orig_start_date"):
        monkeypatch.setattr(module, "_orig_start_date", lambda **_: BEGAN[0] if BEGAN else None)


def create(**arguments: Any) -> CreateBatchOperator:
    arguments = {"inlined_requests": rows(ROWS), "poll_interval": 0.05, **arguments}
    return CreateBatchOperator(task_id="create", model="gemini-3.5-flash-lite", **arguments)


def to_the_end(task: Any, after_event: Callable[[], Any] = lambda: None) -> Any:
    """
    Run a task; what it defers is watched by its trigger, and what it reschedules is run again.

    :param after_event: Called when a trigger has ended, before the task is resumed.
    """

    async def event_of(trigger: Any) -> Any:
        async for event in trigger.run():
            return event.payload
        raise AssertionError("the trigger ended without an event")

    context = attempt()
    ti = context["ti"]
    ti.max_tries, ti.start_date, ti.get_first_reschedule_date = 0, None, lambda _: ti.start_date
    BEGAN.clear()
    step: Callable[[], Any] = lambda: task.execute(context)  # noqa: E731
    while True:
        try:
            return step()
        except AirflowRescheduleException as again:
            ti.start_date = ti.start_date or again.reschedule_date
            BEGAN.append(ti.start_date)
        except TaskDeferred as deferral:
            event = asyncio.run(event_of(deferral.trigger))
            after_event()
            method, kwargs = getattr(task, deferral.method_name), deferral.kwargs or {}
            step = lambda method=method, kwargs=kwargs, event=event: method(context, event, **kwargs)  # noqa: E731


def by_sensor(mode: str) -> Wait:
    def wait(**arguments: Any) -> Any:
        name = create().execute(attempt())
        how = {"deferrable": True} if mode == "deferrable" else {"deferrable": False, "mode": mode}
        arguments = {"timeout": 60, "poke_interval": 0.05, **how, **arguments}
        return to_the_end(BatchJobSensor(task_id="wait", job_name=name, **arguments))

    return wait


def by_operator(deferrable: bool) -> Wait:
    return lambda **arguments: to_the_end(create(wait_for_completion=True, deferrable=deferrable, **arguments))


def by_hook(**arguments: Any) -> Any:
    name = create().execute(attempt())
    return GeminiBatchHook().wait_for_batch(name, poll_interval=0.05, **{"timeout": 60, **arguments})


TASKS = {
    "poke": by_sensor("poke"),
    "reschedule": by_sensor("reschedule"),
    "deferrable": by_sensor("deferrable"),
    "operator": by_operator(False),
    "operator-deferrable": by_operator(True),
}
WAYS = {**TASKS, "hook": by_hook}


@pytest.fixture(params=[*TASKS, apart_from_airflow("hook")])
def wait(request: pytest.FixtureRequest) -> Wait:
    return WAYS[request.param]


@pytest.fixture(params=list(TASKS))
def task(request: pytest.FixtureRequest) -> Wait:
    return TASKS[request.param]


@contextlib.contextmanager
def logged(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[io.StringIO]:
    """Collect what is logged, wherever this Airflow sends it."""
    caplog.set_level(logging.INFO)
    text = io.StringIO()
    yield text
    out, err = capsys.readouterr()
    text.write(caplog.text or out + err)
    sys.stdout.write(out)


FAILED_ROW = [{"index": 1, "outcome": "error", "code": 13}]


@both_backends
@pytest.mark.parametrize(
    ("end", "error", "words"),
    [
        ({"state": "FAILED", "code": 13, "message": "the model broke"}, JobFailedError, "the model broke"),
        ({"state": "CANCELLED", "code": 1, "message": "CANCELED"}, JobCancelledError, "CANCELED"),
        ({"state": "EXPIRED"}, JobExpiredError, "expired"),
        ({"state": "PARTIALLY_SUCCEEDED", "share": 0.5}, PartialFailureError, "only in part"),
    ],
    ids=lambda value: value["state"] if isinstance(value, dict) else "",
)
def test_a_bad_end_is_its_own_error_with_the_services_reason(
    emulator: EmulatorHandle, wait: Wait, end: dict[str, Any], error: type[Exception], words: str
) -> None:
    emulator.script(pending_seconds=0.1, running_seconds=0.1, end=end)
    with pytest.raises(error, match=words) as caught:
        wait()
    assert type(caught.value) is error
    assert caught.value.job.name in str(caught.value)  # type: ignore[attr-defined]


@both_backends
@pytest.mark.parametrize(
    ("allowed", "fails"), [(None, False), (0, True), (1, False), (0.1, True), (0.25, False)], ids=str
)
def test_max_failed_rows_is_the_same_bound(
    emulator: EmulatorHandle, task: Wait, allowed: float | None, fails: bool
) -> None:
    emulator.script(pending_seconds=0.1, running_seconds=0.1, rows=FAILED_ROW)
    if fails:
        with pytest.raises(PartialFailureError, match="1 of 4"):
            task(max_failed_rows=allowed)
    else:
        task(max_failed_rows=allowed)


@pytest.mark.parametrize(("allowed", "fails"), [(1, True), (2, False), (0.5, False)], ids=str)
def test_a_partial_success_is_accepted_within_max_failed_rows(
    emulator: EmulatorHandle, task: Wait, allowed: float, fails: bool
) -> None:
    emulator.script(mode="at_once", end={"state": "PARTIALLY_SUCCEEDED", "share": 0.5})
    if fails:
        with pytest.raises(PartialFailureError, match="2 of 4"):
            task(max_failed_rows=allowed)
    else:
        task(max_failed_rows=allowed)


def test_a_job_without_one_answer_has_failed_and_says_why_rows_did(emulator: EmulatorHandle, wait: Wait) -> None:
    emulator.script(pending_seconds=0.1, running_seconds=0.1, rows=[{"outcome": "error", "code": 13}])
    with pytest.raises(JobFailedError, match=r"4 of 4 .* \(4 x The emulator was told to fail this row\. \(code 13\)\)"):
        wait()


@both_backends
def test_a_timeout_is_a_timeout_and_leaves_the_job(emulator: EmulatorHandle, wait: Wait) -> None:
    emulator.script(stuck="RUNNING", pending_seconds=0)
    with pytest.raises(JobTimeoutError, match=r"it was RUNNING|it was \w+_RUNNING") as caught:
        wait(timeout=0.5)
    assert caught.value.job is not None
    assert emulator.ledger()["totals"]["running"] == 1


def test_a_timeout_while_the_service_is_down_is_a_timeout(emulator: EmulatorHandle, wait: Wait) -> None:
    emulator.script(stuck="RUNNING", pending_seconds=0)
    emulator.fault(match=LOOK, status=503, times=None)
    with pytest.raises(JobTimeoutError):
        wait(timeout=0.5)


@pytest.mark.parametrize("word", ["BATCH_STATE_PONDERING", "PAUSED", ""])
def test_a_state_that_is_no_end_is_waited_out_and_logged_once(
    emulator: EmulatorHandle,
    wait: Wait,
    word: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    emulator.script(pending_seconds=0, running_seconds=0.1, hold={"state": word, "seconds": 0.3})
    with logged(capsys, caplog) as log:
        wait()
    assert log.getvalue().count("which is not known here") == (0 if word == "PAUSED" else 1)


@pytest.mark.parametrize("word", ["BATCH_STATE_PONDERING", "PAUSED"])
def test_a_state_that_never_ends_ends_by_the_deadline(emulator: EmulatorHandle, wait: Wait, word: str) -> None:
    emulator.script(pending_seconds=0, running_seconds=0, hold={"state": word})
    with pytest.raises(JobTimeoutError, match=word):
        wait(timeout=0.7)


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "retry_after": 0.1},
        {"status": 503, "body": "html"},
        {"action": "close"},
        {"action": "cut_response", "bytes": 20},
        {"status": 200, "body": "garbage"},
    ],
    ids=lambda fault: str(fault.get("action") or f"{fault['status']}-{fault.get('body', '')}"),
)
def test_passing_trouble_is_waited_out(emulator: EmulatorHandle, wait: Wait, fault: dict[str, Any]) -> None:
    emulator.script(pending_seconds=0.1, running_seconds=0.1)
    rule = emulator.fault(match=LOOK, times=1, skip=1, **fault)
    wait()
    assert rule.fired == 1


def test_a_refused_key_is_told_at_once(emulator: EmulatorHandle, wait: Wait) -> None:
    emulator.script(stuck="RUNNING", pending_seconds=0)
    emulator.fault(
        match=LOOK, times=None, status=401, skip=1,
        reason="UNAUTHENTICATED",
    )  # fmt: skip
    with pytest.raises(GeminiBatchError) as caught:
        wait(timeout=20)
    assert isinstance(caught.value, AuthError) or "401" in str(caught.value)
    assert not isinstance(caught.value, JobTimeoutError)


def test_never_fail_skips_in_every_mode(emulator: EmulatorHandle) -> None:
    emulator.script(pending_seconds=0.1, running_seconds=0.1, end={"state": "FAILED"})
    for mode in ("poke", "reschedule", "deferrable"):
        with pytest.raises(AirflowSkipException):
            by_sensor(mode)(never_fail=True)
        emulator.reset()
        emulator.script(mode="at_once", end={"state": "FAILED"})


@pytest.mark.parametrize("mode", ["poke", "reschedule", "deferrable"])
def test_soft_fail_skips_at_the_timeout(emulator: EmulatorHandle, mode: str) -> None:
    emulator.script(stuck="RUNNING", pending_seconds=0)
    with pytest.raises(AirflowSkipException):
        by_sensor(mode)(timeout=0.4, soft_fail=True)


def test_a_job_deleted_meanwhile_is_not_found_in_every_mode(emulator: EmulatorHandle, task: Wait, mocker: Any) -> None:
    mocker.patch("airflow_provider_gemini_batch.lifecycle.waiting.MISSING_GRACE", 0.0)
    emulator.script(stuck="RUNNING", pending_seconds=0)
    emulator.fault(
        match=LOOK, times=None, status=404, skip=1,
        reason="NOT_FOUND",
    )  # fmt: skip
    with pytest.raises(GeminiBatchError) as caught:
        task(timeout=20)
    assert isinstance(caught.value, NotFoundError) or "404" in str(caught.value)
    assert not isinstance(caught.value, JobTimeoutError)


@pytest.mark.parametrize("who", ["sensor", "operator"])
def test_trouble_between_the_trigger_and_the_resumed_task_is_waited_out(emulator: EmulatorHandle, who: str) -> None:
    emulator.script(pending_seconds=0.2, running_seconds=0.2)
    faults: list[Any] = []

    def break_down() -> None:
        if not faults:
            match = {"method": "GET", "path": r"batches/\w"}
            faults.append(emulator.fault(match=match, status=503, times=3))

    if who == "operator":
        task: Any = create(wait_for_completion=True, deferrable=True, timeout=60)
    else:
        name = create().execute(attempt())
        task = BatchJobSensor(task_id="wait", job_name=name, deferrable=True, poke_interval=0.05, timeout=60)
    to_the_end(task, break_down)
    assert faults[0].fired == 3
