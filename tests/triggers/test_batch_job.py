# SPDX-License-Identifier: Apache-2.0
"""The trigger against the emulator, through an Airflow connection."""

from __future__ import annotations

import asyncio
import json
import math
import time
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_gemini_batch.api.models import BatchJob, BatchStats
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from airflow_provider_gemini_batch.errors import TriggerEventError
from airflow_provider_gemini_batch.lifecycle import waiting
from airflow_provider_gemini_batch.lifecycle.waiting import Outcome
from airflow_provider_gemini_batch.task.kill import state_in
from airflow_provider_gemini_batch.triggers.batch_job import BatchJobTrigger
from airflow_provider_gemini_batch.triggers.batch_jobs import BatchJobsTrigger
from airflow_provider_gemini_batch.triggers.pause import PauseTrigger
from airflow_provider_gemini_batch.watch import event as wait
from airflow_provider_gemini_batch.watch import schedule
from airflow_provider_gemini_batch.watch.event import event_for, read_event
from tests.support import odd_server


@pytest.fixture
def emulator(gemini_batch_emulator, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_GEMINI_BATCH_DEFAULT", json.dumps(gemini_batch_emulator.connection("gemini")))
    return gemini_batch_emulator


def events_of(trigger):
    async def collect():
        return [event.payload async for event in trigger.run()]

    return asyncio.run(collect())


def test_ended_job_yields_one_small_event(emulator):
    [name] = emulator.seed_jobs(count=1, state="SUCCEEDED")
    [payload] = events_of(BatchJobTrigger(name, deadline=time.time() + 20))
    event = read_event(json.loads(json.dumps(payload)))
    assert (event.outcome, event.job_name, event.state) == (Outcome.ENDED, name, JobState.SUCCEEDED)
    assert len(json.dumps(payload)) < 500


def test_deadline_ends_the_wait_although_the_interval_is_long(emulator):
    [name] = emulator.seed_jobs(count=1, state="RUNNING")
    begin = time.time()
    [payload] = events_of(BatchJobTrigger(name, poll_interval=3600, deadline=begin + 1))
    assert read_event(payload).outcome is Outcome.TIMEOUT
    assert time.time() - begin < 6


def test_an_outage_is_told_in_the_tasks_log(emulator, monkeypatch, caplog, capsys):
    [name] = emulator.seed_jobs(count=1, state="RUNNING")
    emulator.fault(match={"path": "batches"}, times=2, status=503, message="down for a while", skip=1)
    monkeypatch.setattr(wait, "TROUBLE_CHECK", 0.3)
    monkeypatch.setattr(schedule, "REPEAT_SECONDS", 0.1)
    caplog.set_level("INFO")
    events_of(BatchJobTrigger(name, poll_interval=0.1, deadline=time.time() + 5))
    texts = (caplog.text, capsys.readouterr().out)  # Airflow 2.11 writes to both
    assert max(text.count(f"Polling has failed; waiting goes on. Job {name}: HTTP 503") for text in texts) == 1
    assert max(text.count(f"{name} can be polled again") for text in texts) == 1


@pytest.mark.parametrize("kind", ["one job", "jobs of a run"])
def test_a_proxy_that_refuses_our_password_ends_the_wait_in_minutes(monkeypatch, kind):
    monkeypatch.setenv(
        "AIRFLOW_CONN_GEMINI_BATCH_DEFAULT",
        json.dumps({"conn_type": "gemini_batch", "host": "https://service.invalid", "password": "a-key"}),
    )
    monkeypatch.setattr(wait, "TROUBLE_CHECK", 0.1)
    monkeypatch.setattr(schedule, "REPEAT_SECONDS", 0.1)
    monkeypatch.setattr(waiting, "SETTING_PATIENCE", 0.3)
    with odd_server.servers() as servers:
        proxy = servers.start(odd_server.reply(407, b"no"))
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:old@127.0.0.1:{proxy.port}")
        arguments = {"poll_interval": 0.1, "deadline": time.time() + 30}
        one, many = BatchJobTrigger("batches/a", **arguments), BatchJobsTrigger(["batches/a"], **arguments)
        [payload] = events_of(one if kind == "one job" else many)
    assert payload["error"] == "NetworkSettingError"
    assert "the proxy opened no tunnel (407" in payload["message"]


def test_deadline_holds_while_the_service_is_down(emulator):
    [name] = emulator.seed_jobs(count=1, state="RUNNING")
    emulator.fault(match={"path": "batches"}, times=None, status=503)
    [payload] = events_of(BatchJobTrigger(name, poll_interval=0.2, deadline=time.time() + 1))
    event = read_event(payload)
    assert event.outcome is Outcome.TIMEOUT
    assert "the last polls failed" in event.message


@pytest.mark.parametrize(
    ("state", "limit", "outcome"),
    [
        ("PENDING", {"pending_timeout": 0.5}, Outcome.PENDING_TIMEOUT),
        ("RUNNING", {"running_timeout": 0.5}, Outcome.RUNNING_TIMEOUT),
    ],
)
def test_stuck_job_ends_the_wait(emulator, state, limit, outcome):
    [name] = emulator.seed_jobs(count=1, state=state)
    [payload] = events_of(BatchJobTrigger(name, poll_interval=0.2, deadline=time.time() + 20, **limit))
    assert read_event(payload).outcome is outcome


def test_missing_job_is_an_error_once_the_grace_is_over(emulator):
    trigger = BatchJobTrigger("batches/neverwas", poll_interval=0.2, started=time.time() - 100)
    [payload] = events_of(trigger)
    event = read_event(payload)
    assert (event.outcome, event.error) == (Outcome.ERROR, "NotFoundError")


def test_first_404s_of_a_young_job_are_waited_out(emulator):
    [name] = emulator.seed_jobs(count=1, state="SUCCEEDED")
    rule = emulator.fault(match={"path": name}, times=3, status=404, reason="NOT_FOUND")
    [payload] = events_of(BatchJobTrigger(name, poll_interval=0.2, deadline=time.time() + 20))
    assert read_event(payload).outcome is Outcome.ENDED
    assert rule.fired == 3


def test_unknown_connection_is_an_error_event(emulator):
    [payload] = events_of(BatchJobTrigger("batches/a", "no_such_connection", deadline=time.time() + 5))
    event = read_event(payload)
    assert event.outcome is Outcome.ERROR
    assert "no_such_connection" in event.message


@pytest.mark.parametrize(("fault", "times"), [(OSError("no database"), 3), ("missing", 2)], ids=["broken", "missing"])
def test_trouble_with_looking_the_connection_up_is_waited_out(emulator, mocker, fault, times):
    from airflow_provider_gemini_batch import compat
    from airflow_provider_gemini_batch.compat import AirflowNotFoundException

    [name] = emulator.seed_jobs(count=1, state="SUCCEEDED")
    real, asked = compat.get_connection_in_trigger, []

    async def sometimes(conn_id):
        asked.append(conn_id)
        if len(asked) <= times:
            raise AirflowNotFoundException("not defined") if fault == "missing" else fault
        return await real(conn_id)

    mocker.patch.object(compat, "get_connection_in_trigger", sometimes)
    [payload] = events_of(BatchJobTrigger(name, deadline=time.time() + 60))
    assert read_event(payload).outcome is Outcome.ENDED
    assert len(asked) == times + 1


def test_a_connection_that_cannot_work_is_told_at_once(emulator, monkeypatch):
    wrong = {"conn_type": "gemini_batch", "password": "k", "host": "http://example.org"}
    monkeypatch.setenv("AIRFLOW_CONN_GEMINI_BATCH_DEFAULT", json.dumps(wrong))
    begin = time.time()
    [payload] = events_of(BatchJobTrigger("batches/a", deadline=begin + 60))
    assert payload["error"] == "ConfigurationError"
    assert "plain http://" in payload["message"]
    assert time.time() - begin < 2


def test_the_deadline_holds_while_the_connection_cannot_be_looked_up(emulator, mocker):
    from airflow_provider_gemini_batch import compat

    async def never(conn_id):
        raise OSError("no database")

    mocker.patch.object(compat, "get_connection_in_trigger", never)
    begin = time.time()
    [payload] = events_of(BatchJobTrigger("batches/a", deadline=begin + 1))
    assert payload["outcome"] == "error"
    assert time.time() - begin < 4


def test_refused_key_is_an_error_event_without_the_key(emulator):
    [name] = emulator.seed_jobs(count=1, state="RUNNING")
    emulator.fault(match={"path": "batches"}, times=None, status=401, reason="UNAUTHENTICATED")
    [payload] = events_of(BatchJobTrigger(name, poll_interval=0.2, deadline=time.time() + 20))
    assert (payload["outcome"], payload["error"]) == ("error", "AuthError")
    assert emulator.connection()["password"] not in json.dumps(payload)


def test_a_wait_goes_on_with_the_key_that_has_replaced_a_refused_one(emulator, monkeypatch):
    [name] = emulator.seed_jobs(count=1, state="RUNNING")
    emulator.configure(accepted_keys=["the-new-key"])
    connections = iter(("the-old-key", "the-new-key"))

    async def look_up(trigger):
        return settings_from_connection(
            conn_type="gemini_batch", host=emulator.url, password=next(connections), extra={}
        )

    monkeypatch.setattr(BatchJobTrigger, "_look_up_connection", look_up)
    emulator.finish_jobs()
    [payload] = events_of(BatchJobTrigger(name, poll_interval=0.2, deadline=time.time() + 20))
    assert (payload["outcome"], payload["state"]) == ("ended", "SUCCEEDED")


def test_a_deadline_that_is_no_number_is_no_limit(emulator):
    [name] = emulator.seed_jobs(count=1, state="RUNNING")

    async def watch():
        events = BatchJobTrigger(name, poll_interval=0.5, deadline=math.nan).run()
        event = asyncio.ensure_future(anext(events))
        await asyncio.sleep(2)
        looks = len(emulator.journal())
        emulator.finish_jobs()
        return (await asyncio.wait_for(event, 10)).payload, looks

    payload, looks = asyncio.run(watch())
    assert payload["outcome"] == "ended"
    assert looks <= 6


def test_arguments_survive_storage_and_other_versions():
    trigger = BatchJobTrigger("batches/a", "c", 5.0, 99.0, pending_timeout=1.0, cancel_on_kill=False, old_option=3)
    path, arguments = trigger.serialize()
    again = BatchJobTrigger(**json.loads(json.dumps(arguments)))
    assert again.serialize() == (path, arguments)
    assert path == "airflow_provider_gemini_batch.triggers.batch_job.BatchJobTrigger"


def test_event_round_trip():
    job = BatchJob("batches/a", state=JobState.FAILED, stats=BatchStats(10, 7, 3, 0))
    event = read_event(event_for(Outcome.ENDED, "batches/a", job, "m", "E"))
    assert (event.state, event.stats, event.message, event.error) == (JobState.FAILED, job.stats, "m", "E")


@pytest.mark.parametrize(
    "event",
    [
        None,
        "done",
        {},
        {"outcome": "won", "job_name": "batches/a"},
        {"outcome": "ended", "job_name": ""},
        {"outcome": "ended", "job_name": "batches/a", "state": "SIDEWAYS"},
        {"outcome": "ended", "job_name": "batches/a", "stats": {"total": "many"}},
    ],
)
def test_unknown_event_is_refused(event):
    with pytest.raises(TriggerEventError):
        read_event(event)


def test_task_state_is_found_for_plain_and_mapped_tasks():
    states = {"run": {"task": "failed", "task_3": "deferred"}}
    assert state_in(states, "run", "task", -1) == "failed"
    assert state_in(states, "run", "task", 3) == "deferred"
    assert state_in(states, "other", "task", -1) is None


@pytest.mark.parametrize(("state", "cancels"), [("failed", 1), ("skipped", 1), ("deferred", 0), (None, 0)])
def test_kill_cancels_only_for_a_task_that_is_over(emulator, mocker, state, cancels):
    [name] = emulator.seed_jobs(count=1, state="RUNNING")
    trigger = BatchJobTrigger(name)
    mocker.patch.object(trigger, "_task_state", autospec=True, return_value=state)
    asyncio.run(trigger.on_kill())
    assert len(emulator.journal(path=":cancel$")) == cancels


@pytest.mark.newest_airflow
@pytest.mark.parametrize(("run", "cancels"), [("running", 0), ("failed", 1)])
def test_kill_of_a_loops_pass_goes_by_the_run_not_by_another_pass(emulator, mocker, run, cancels):
    """Airflow tells a trigger the state of the loop's last pass alone; its own was cleared, and goes on."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    [name] = emulator.seed_jobs(count=1, state="RUNNING")
    trigger = BatchJobTrigger(**json.loads(json.dumps(BatchJobTrigger(name, in_loop=True).serialize()[1])))
    instance: Any = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1)
    trigger.task_instance = instance
    mocker.patch.object(RuntimeTaskInstance, "get_task_states", return_value={"r": {"t": "success"}})
    mocker.patch.object(RuntimeTaskInstance, "get_dagrun_state", return_value=run)
    asyncio.run(trigger.on_kill())
    assert len(emulator.journal(path=":cancel$")) == cancels


@pytest.mark.parametrize("is_wanted", ["after its event", "not asked for"])
def test_kill_leaves_the_job_alone(emulator, mocker, is_wanted):
    [name] = emulator.seed_jobs(count=1, state="SUCCEEDED")
    trigger = BatchJobTrigger(name, cancel_on_kill=is_wanted != "not asked for")
    if is_wanted == "after its event":
        events_of(trigger)
    state = mocker.patch.object(trigger, "_task_state", autospec=True, return_value="failed")
    asyncio.run(trigger.on_kill())
    assert state.call_count == 0
    assert emulator.journal(path=":cancel$") == []


def test_kill_that_is_cut_off_still_cancels_the_job(emulator, mocker):
    [name] = emulator.seed_jobs(count=1, state="RUNNING")
    trigger = BatchJobTrigger(name)

    async def slowly():
        await asyncio.sleep(0.3)
        return "failed"

    mocker.patch.object(trigger, "_task_state", side_effect=slowly)

    async def kill():
        task = asyncio.create_task(trigger.on_kill())
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.sleep(1.5)

    asyncio.run(kill())
    assert len(emulator.journal(path=":cancel$")) == 1


@pytest.mark.parametrize("names", [None, "batches/a", {"a": 1}, ["batches/a", 3]])
def test_arguments_that_another_version_stored_for_many_jobs_are_read(names):
    trigger = BatchJobsTrigger(names, deadline="soon", colour="red")
    assert all(isinstance(name, str) for name in trigger.serialize()[1]["job_names"])


@pytest.mark.parametrize("until", [None, "soon", -1.0])
def test_a_pause_that_another_version_stored_resumes_the_task(until):
    async def event():
        async for found in PauseTrigger(until, colour="red").run():
            return found.payload
        return None

    assert asyncio.run(asyncio.wait_for(event(), 5)) is not None
