# SPDX-License-Identifier: Apache-2.0
"""What another version deferred is resumed by Airflow, or is an error with the way out; the job is paid for once."""

from __future__ import annotations

import asyncio
import copy
import importlib
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.compat import TaskDeferred
from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.operators import (
    CreateBatchOperator,
    CreateEmbeddingBatchOperator,
    RunBatchOperator,
    RunEmbeddingBatchOperator,
)
from airflow_provider_gemini_batch.sensors import BatchJobSensor
from airflow_provider_gemini_batch.triggers.batch_job import BatchJobTrigger
from airflow_provider_gemini_batch.triggers.batch_jobs import BatchJobsTrigger
from airflow_provider_gemini_batch.triggers.pause import PauseTrigger
from airflow_provider_gemini_batch.watch.event import read_event
from tests.run.world import read_table, rows
from tests.support.airflow_side import attempt, set_connection

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

SAMPLES = json.loads((Path(__file__).parents[1] / "samples/deferrals/0.1.0.json").read_text(encoding="utf-8"))
GENERATE, EMBED = "gemini-3.5-flash-lite", "gemini-embedding-001"
WAY_OUT = "Clear the task: it finds its job again"


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    return gemini_batch_emulator


def create_task() -> Any:
    return CreateBatchOperator(
        task_id="create", model=GENERATE, inlined_requests=[{"key": "a", "prompt": "x"}],
        wait_for_completion=True, deferrable=True,
    )  # fmt: skip


def embed_task() -> Any:
    return CreateEmbeddingBatchOperator(
        task_id="create", model=EMBED, inlined_requests=[{"key": "a", "text": "x"}],
        wait_for_completion=True, deferrable=True,
    )  # fmt: skip


def sensor_task(job_name: str) -> Any:
    return BatchJobSensor(task_id="wait", job_name=job_name, deferrable=True)


MAKERS = {"create": create_task, "embed": embed_task}


def deferred(task: Any, context: Any) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        task.execute(context)
    return caught.value


def resumed(task: Any, method: str, kwargs: Any, event: Any, context: Any = None) -> Any:
    """Resume a task as Airflow does, from what its database kept as JSON."""
    stored = json.loads(json.dumps({**kwargs, "event": event}))
    return task.resume_execution(method, stored, context or attempt())


def of_0_1_0(name: str) -> Any:
    """Return what 0.1.0 stored, as if it had been stored just now."""
    sample = copy.deepcopy(SAMPLES[name])
    shift = time.time() - SAMPLES["create"]["trigger"]["kwargs"]["started"]

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(member) for key, member in value.items()}
        return value + shift if isinstance(value, float) and value > 1e9 else value

    return moved(sample)


def events_of(trigger: Any) -> list[Any]:
    async def collect() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    return asyncio.run(asyncio.wait_for(collect(), 20))


def rebuilt(stored: Any) -> Any:
    """Make a trigger as the triggerer does: its class by path, its arguments by name."""
    module, _, name = stored["classpath"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**stored["kwargs"])


def created(emulator: EmulatorHandle) -> int:
    return int(emulator.ledger()["totals"]["created"])


def cancels(emulator: EmulatorHandle) -> int:
    return len(emulator.journal(path=":cancel$"))


@pytest.mark.parametrize("kind", list(MAKERS))
@pytest.mark.parametrize("sample", ["create", "create with limits", "create, running_timeout waived"])
def test_a_create_that_0_1_0_deferred_returns_its_job(emulator: EmulatorHandle, kind: str, sample: str) -> None:
    name = deferred(MAKERS[kind](), attempt()).trigger.serialize()[1]["job_name"]
    emulator.finish_jobs()
    stored = of_0_1_0(sample)
    stored["trigger"]["kwargs"]["job_name"] = name
    [event] = events_of(rebuilt(stored["trigger"]))
    assert resumed(MAKERS[kind](), stored["method_name"], stored["kwargs"], event) == name
    assert created(emulator) == 1


@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_create_that_0_1_0_paused_submits_once(emulator: EmulatorHandle, kind: str) -> None:
    stored = of_0_1_0("create without quota")
    context = attempt()
    [event] = events_of(rebuilt({**stored["trigger"], "kwargs": {"until": time.time()}}))
    for _ in range(2):
        with pytest.raises(TaskDeferred):
            resumed(MAKERS[kind](), stored["method_name"], stored["kwargs"], event, context)
    assert created(emulator) == 1


def test_a_sensor_that_0_1_0_deferred_returns_its_summary(emulator: EmulatorHandle) -> None:
    [name] = emulator.seed_jobs(count=1, state="SUCCEEDED")
    stored = of_0_1_0("sensor")
    stored["trigger"]["kwargs"]["job_name"] = name
    [event] = events_of(rebuilt(stored["trigger"]))
    assert resumed(sensor_task(name), stored["method_name"], stored["kwargs"], event)["name"] == name


PLANS: dict[str, Any] = {
    "another key": {"attempt": {"deadline": 1.0}},
    "null": {"plan": None},
    "a text": {"plan": "batches/a"},
    "a list": {"plan": [1.0]},
    "JSON twice": {"plan": '{"deadline": 1e12}'},
    "empty": {"plan": {}},
    "cut short": {"plan": {"version": 2, "started": 1.0}},
    "no deadline of a newer version": {"plan": {"version": 3, "limits": {"deadline": 1e12}}},
    "deadline null": {"plan": {"deadline": None}},
    "deadline a date": {"plan": {"deadline": "2026-12-01T00:00:00Z"}},
    "deadline an object": {"plan": {"deadline": {"__type": "datetime", "__var": 1.0}}},
    "deadline true": {"plan": {"deadline": True}},
    "deadline infinite": {"plan": {"deadline": math.inf}},
    "submit_deadline null": {"plan": {"deadline": 1e12, "submit_deadline": None}},
    "tries a text": {"plan": {"deadline": 1e12, "tries": "1"}},
    "tries negative": {"plan": {"deadline": 1e12, "tries": -1}},
    "tries a fraction": {"plan": {"deadline": 1e12, "tries": 0.5}},
    "waived an object": {"plan": {"deadline": 1e12, "waived": {"pending_timeout": True}}},
    "exclude null": {"plan": {"deadline": 1e12, "exclude": None}},
    "exclude of numbers": {"plan": {"deadline": 1e12, "exclude": [3]}},
    "owned a text": {"plan": {"deadline": 1e12, "owned": "ab"}},
    "spares_others a text": {"plan": {"deadline": 1e12, "spares_others": "no"}},
    "last_look_age null": {"plan": {"deadline": 1e12, "last_look_age": None}},
    "uploaded a list": {"plan": {"deadline": 1e12, "uploaded": ["files/a"]}},
    "uploaded cut short": {"plan": {"deadline": 1e12, "uploaded": {"sha256": "ab", "file_name": "files/a"}}},
    "the sensor's deadline a text": {"deadline": "soon"},
}


@pytest.mark.parametrize("kwargs", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("method", ["execute_complete", "resume_submission"])
def test_a_plan_that_cannot_be_read_says_the_way_out(emulator: EmulatorHandle, kwargs: Any, method: str) -> None:
    name = deferred(create_task(), attempt()).trigger.serialize()[1]["job_name"]
    event = {"outcome": "ended", "job_name": name} if method == "execute_complete" else {"until": 1.0}
    with pytest.raises(GeminiBatchError, match=WAY_OUT):
        resumed(create_task(), method, kwargs, event)
    assert cancels(emulator) == 0
    assert deferred(create_task(), attempt()).trigger.serialize()[1]["job_name"] == name
    assert created(emulator) == 1


@pytest.mark.parametrize("kwargs", PLANS.values(), ids=PLANS)
def test_a_sensors_plan_that_cannot_be_read_says_the_way_out(emulator: EmulatorHandle, kwargs: Any) -> None:
    [name] = emulator.seed_jobs(count=1, state="SUCCEEDED")
    with pytest.raises(GeminiBatchError, match=WAY_OUT):
        resumed(sensor_task(name), "execute_complete", kwargs, {"outcome": "ended", "job_name": name})


NEWER: dict[str, Any] = {
    "members of tomorrow": lambda plan: {"plan": {**plan, "version": 3, "budget": {"usd": 1}}},
    "arguments of tomorrow": lambda plan: {"plan": plan, "trace": "00-ab", "lease": None},
    "version a text": lambda plan: {"plan": {**plan, "version": "0.9.0rc1"}},
    "version null": lambda plan: {"plan": {**plan, "version": None}},
    "version huge": lambda plan: {"plan": {**plan, "version": 10**30}},
    "no version": lambda plan: {"plan": {name: value for name, value in plan.items() if name != "version"}},
    "flat": lambda plan: dict(plan),
}


@pytest.mark.parametrize("change", NEWER.values(), ids=NEWER)
def test_what_a_newer_version_adds_is_passed_over(emulator: EmulatorHandle, change: Any) -> None:
    before = deferred(create_task(), attempt())
    name = before.trigger.serialize()[1]["job_name"]
    emulator.finish_jobs()
    event = {"outcome": "ended", "job_name": name, "queue": "b", "stats": {"total": 1, "retried": 4}, "twins": None}
    assert resumed(create_task(), "execute_complete", change(before.kwargs["plan"]), event) == name
    assert created(emulator) == 1


EVENTS: dict[str, Any] = {
    "none": None,
    "a text": "ended",
    "a list": ["ended", "batches/a"],
    "empty": {},
    "an outcome of tomorrow": {"outcome": "preempted", "job_name": "batches/a"},
    "outcome null": {"outcome": None, "job_name": "batches/a"},
    "outcome a list": {"outcome": ["ended"], "job_name": "batches/a"},
    "no job": {"outcome": "ended"},
    "job a number": {"outcome": "ended", "job_name": 3},
    "state of tomorrow": {"outcome": "ended", "job_name": "batches/a", "state": "HIBERNATED"},
    "state a list": {"outcome": "ended", "job_name": "batches/a", "state": ["RUNNING"]},
    "stats a list": {"outcome": "ended", "job_name": "batches/a", "stats": [1]},
    "stats of texts": {"outcome": "ended", "job_name": "batches/a", "stats": {"total": "3"}},
}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("task", ["create", "sensor"])
def test_an_event_that_cannot_be_read_is_an_error_of_ours(emulator: EmulatorHandle, event: Any, task: str) -> None:
    before = deferred(create_task(), attempt())
    name = before.trigger.serialize()[1]["job_name"]
    resuming = create_task() if task == "create" else sensor_task(name)
    with pytest.raises(GeminiBatchError, match="The task was resumed with"):
        resumed(resuming, "execute_complete", before.kwargs, event)
    assert cancels(emulator) == 0


STORED: dict[str, Any] = {
    "nothing": lambda kwargs: {},
    "no job": lambda kwargs: {**kwargs, "job_name": ""},
    "job null": lambda kwargs: {**kwargs, "job_name": None},
    "job a number": lambda kwargs: {**kwargs, "job_name": 3},
    "job a list": lambda kwargs: {**kwargs, "job_name": [kwargs["job_name"]]},
    "job under another name": lambda kwargs: {"name": kwargs["job_name"], "started": kwargs["started"]},
    "connection null": lambda kwargs: {**kwargs, "gemini_batch_conn_id": None},
    "connection an object": lambda kwargs: {**kwargs, "gemini_batch_conn_id": {"conn_id": "x"}},
    "interval a text": lambda kwargs: {**kwargs, "poll_interval": "PT30S"},
    "interval an object": lambda kwargs: {**kwargs, "poll_interval": {"seconds": 30}},
    "interval negative": lambda kwargs: {**kwargs, "poll_interval": -30.0},
    "interval 0": lambda kwargs: {**kwargs, "poll_interval": 0},
    "interval NaN": lambda kwargs: {**kwargs, "poll_interval": math.nan},
    "deadline a date": lambda kwargs: {**kwargs, "deadline": "2026-12-01T00:00:00Z"},
    "deadline a list": lambda kwargs: {**kwargs, "deadline": []},
    "started a date": lambda kwargs: {**kwargs, "started": "2026-11-27"},
    "started NaN": lambda kwargs: {**kwargs, "started": math.nan},
    "pending_timeout a text": lambda kwargs: {**kwargs, "pending_timeout": "1h"},
    "running_timeout an object": lambda kwargs: {**kwargs, "running_timeout": {}},
    "cancel_on_kill a text": lambda kwargs: {**kwargs, "cancel_on_kill": "no"},
    "backend of tomorrow": lambda kwargs: {**kwargs, "backend": "bedrock"},
    "backend a number": lambda kwargs: {**kwargs, "backend": 1},
}


@pytest.mark.parametrize("change", STORED.values(), ids=STORED)
def test_a_trigger_that_cannot_be_read_ends_the_wait_with_its_cause(emulator: EmulatorHandle, change: Any) -> None:
    before = deferred(create_task(), attempt())
    path, kwargs = before.trigger.serialize()
    [payload] = events_of(rebuilt({"classpath": path, "kwargs": change(json.loads(json.dumps(kwargs)))}))
    assert read_event(json.loads(json.dumps(payload))).outcome.value == "error"
    context = attempt()
    with pytest.raises(GeminiBatchError, match=r"could not be watched any longer") as caught:
        resumed(create_task(), "execute_complete", before.kwargs, payload, context)
    assert kwargs["job_name"] in str(caught.value)
    assert "broke off" not in str(caught.value)
    assert "a job" not in json.dumps(context["ti"].xcoms)
    assert cancels(emulator) == 0
    assert deferred(create_task(), attempt()).trigger.serialize()[1]["job_name"] == kwargs["job_name"]
    assert created(emulator) == 1


HARMLESS: dict[str, Any] = {
    "arguments of tomorrow": {"lease": "x", "version": 9},
    "twins a text": {"twins": "all"},
    "twins a list": {"twins": ["batches/b"]},
    "twins of numbers": {"twins": {"settled": [1], "owned": 3, "replace": "yes"}},
    "deadline NaN": {"deadline": math.nan},
    "deadline infinite": {"deadline": math.inf},
    "started long ago": {"started": 0.0},
    "started a whole number": {"started": 1795766240},
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_odd_arguments_that_do_no_harm_keep_the_wait(emulator: EmulatorHandle, change: Any) -> None:
    [name] = emulator.seed_jobs(count=1, state="SUCCEEDED")
    path, kwargs = BatchJobTrigger(name).serialize()
    [payload] = events_of(rebuilt({"classpath": path, "kwargs": {**kwargs, **change}}))
    assert (payload["outcome"], payload["state"]) == ("ended", "SUCCEEDED")


@pytest.mark.parametrize("until", [None, "soon", [], {}, True, -1.0, math.nan, math.inf, -math.inf])
def test_a_pause_whose_end_cannot_be_read_is_over(until: Any) -> None:
    assert len(events_of(PauseTrigger(until, lease="x"))) == 1


RUN_TRIGGERS: dict[str, Any] = {
    "names a text": {"job_names": "batches/a"},
    "names null": {"job_names": None, "deadline": 0.0},
    "connection null": {"gemini_batch_conn_id": None},
    "wake of tomorrow": {"wake": "majority"},
    "interval a text": {"poll_interval": "PT30S"},
    "deadline a date": {"deadline": "2026-12-01"},
    "started a date": {"started": "2026-11-27"},
    "backend of tomorrow": {"backend": "bedrock"},
    "arguments of tomorrow": {"lease": "x"},
    "known a text": {"known": "batches/b"},
    "known of numbers": {"known": [3, None]},
}


@pytest.mark.parametrize("change", RUN_TRIGGERS.values(), ids=RUN_TRIGGERS)
def test_a_runs_trigger_that_cannot_be_read_wakes_the_task(emulator: EmulatorHandle, change: Any) -> None:
    [name] = emulator.seed_jobs(count=1, state="SUCCEEDED")
    kwargs = {**BatchJobsTrigger([name], deadline=time.time() + 15).serialize()[1], **change}
    [payload] = events_of(BatchJobsTrigger(**kwargs))
    assert set(payload) <= {"ended", "error", "twins"}


def run_task(folder: Path, kind: str) -> Any:
    arguments: dict[str, Any] = {
        "task_id": "run", "rows": rows(3), "key": "id", "deferrable": True, "output_path": str(folder / "out.parquet"),
    }  # fmt: skip
    if kind == "embed":
        return RunEmbeddingBatchOperator(model=EMBED, text="{{ row.word }}", **arguments)
    return RunBatchOperator(model=GENERATE, prompt="Say {{ row.word }}", **arguments)


STATES: dict[str, Any] = {
    "nothing": {},
    "null": {"state": None},
    "a text": {"state": "7"},
    "a list": {"state": [1.0, 7]},
    "empty": {"state": {}},
    "a plan of a create": {"plan": {"deadline": 1e12, "tries": 0}},
    "deadline a date": {"state": {"deadline": "2026-12-01"}},
    "deadline null": {"state": {"deadline": None, "generation": None}},
    "deadline NaN": {"state": {"deadline": math.nan}},
    "deadline infinite": {"state": {"deadline": math.inf}},
    "deadline true": {"state": {"deadline": True}},
    "generation a text": {"state": {"generation": "1"}},
    "generation true": {"state": {"generation": True}},
    "host a number": {"state": {"host": 3}},
    "members of tomorrow": {"state": {"version": 9, "lease": {"a": 1}}, "trace": "00"},
}
RUN_EVENTS: dict[str, Any] = {
    "nothing": None,
    "a text": "ended",
    "a list": [1],
    "twins a list": {"ended": [], "twins": ["batches/b"]},
    "twins of numbers": {"ended": 3, "twins": {"batches/b": 4, "5": None}},
    "twins of strangers": {"ended": [], "twins": {"batches/b": "batches/c"}},
}


@pytest.mark.parametrize("event", RUN_EVENTS.values(), ids=RUN_EVENTS)
def test_a_run_goes_on_whatever_its_event_says(emulator: EmulatorHandle, tmp_path: Path, event: Any) -> None:
    context = attempt()
    before = deferred(run_task(tmp_path, "generate"), context)
    emulator.finish_jobs()
    manifest = resumed(run_task(tmp_path, "generate"), "resume", before.kwargs, event, context)
    assert (manifest["succeeded"], created(emulator)) == (3, 1)


@pytest.mark.parametrize("kind", ["generate", "embed"])
@pytest.mark.parametrize("kwargs", STATES.values(), ids=STATES)
def test_a_run_goes_on_whatever_its_deferral_carried(
    emulator: EmulatorHandle, tmp_path: Path, kind: str, kwargs: Any
) -> None:
    context = attempt()
    names = deferred(run_task(tmp_path, kind), context).trigger.serialize()[1]["job_names"]
    emulator.finish_jobs()
    manifest = resumed(run_task(tmp_path, kind), "resume", kwargs, {"ended": names, "of": "tomorrow"}, context)
    assert (manifest["succeeded"], manifest["jobs"]) == (3, names)
    assert len(read_table(str(tmp_path / "out.parquet"))) == 3
    assert created(emulator) == 1
