# SPDX-License-Identifier: Apache-2.0
"""The view of a run, over HTTP: what it shows of a task that waits, that has ended, and what ends it."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.api.identity import SubmissionToken, make_task_id
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.plugins.page import security
from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress, run_path
from tests.support.airflow_side import set_connection

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle
    from tests.support.page_server import PageServer

pytestmark = pytest.mark.newest_airflow

_numbers = itertools.count()
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e"


def waiting_run(page: PageServer, **more: Any) -> TaskAddress:
    """Put a run into the database that waits for two jobs."""
    address = TaskAddress("nightly", f"run_{next(_numbers)}", "classify")
    jobs: list[dict[str, Any]] = [
        {"job": "batches/live", "round": 1, "rows": 50, "state": "RUNNING", "created": None, "ended": None,
         "stats": {"total": 50, "succeeded": 30, "failed": 9, "pending": 11}, "counts": None, "cost": None,
         "estimate": 0.5, "refused": ""},
        {"job": "batches/read", "round": 1, "rows": 50, "state": "SUCCEEDED", "created": None, "ended": None,
         "stats": None, "counts": {"succeeded": 48, "blocked": 2}, "cost": 0.25, "estimate": None, "refused": ""},
    ]  # fmt: skip
    progress = {
        "at": time.time() - 24, "model": "gemini-3.5-flash-lite", "total": 100, "reused": 0, "rounds": 1,
        "counts": {"succeeded": 48, "blocked": 2}, "spent": 0.25, "reserved": 0.5, "max_cost": 3.0,
        "max_row_attempts": 3, "waiting_shards": 0, "job_count": 2, "jobs": jobs,
    }  # fmt: skip
    trigger = {
        "classpath": "airflow_provider_gemini_batch.triggers.batch_jobs.BatchJobsTrigger",
        "kwargs": {"job_names": ["batches/live"], "gemini_batch_conn_id": "gemini_run", "wake": "any"},
    }
    task = {
        "dag_id": address.dag_id, "run_id": address.run_id, "task_id": address.task_id, "state": "deferred",
        "xcoms": {"gemini_batch_progress": progress}, "trigger": trigger, **more,
    }  # fmt: skip
    page.fill(tasks=[task])
    return address


def state_of(page: PageServer, address: TaskAddress) -> str:
    where = {"dag_id": address.dag_id, "run_id": address.run_id, "task_id": address.task_id}
    return str(page.fill(states=[where])["states"][0])


def token_in(html: str) -> str:
    return html.split('name="token" value="', 1)[1].split('"', 1)[0]


def test_waiting_run_shows_jobs_rows_money_and_the_time_of_the_last_look(page: PageServer) -> None:
    html = page.client("viewer").get(run_path(waiting_run(page))).text
    for text in ("Deferred", "39 of 50", "9 failed", "48 usable, 2 not", "$0.25", "≈ $0.50", "$3.00", "100 rows",
                 "78 % done", "39 pending rows are answered at Google", "24 s ago", "gemini_run",
                 '<td>All jobs</td><td class="num">100</td>'):  # fmt: skip
        assert text in html


@pytest.mark.parametrize(
    ("said", "kind", "title"),
    [("refused", "bad", "The run would be refused."), ("over_cap", "warn", "The cap may not allow all rows.")],
)
def test_dry_run_shows_what_it_would_ask_and_what_a_cap_forbids(
    page: PageServer, said: str, kind: str, title: str
) -> None:
    manifest = {
        "total": 90, "input_rows": 100, "rows_to_ask": 40, "rows_reused": 30, "rows_duplicate": 15, "rows_unsent": 5,
        "jobs": 4, "waves": 2, "cost_at_most": 1.5, "refused": None, "over_cap": None, said: "max_cost=1: raise it.",
    }  # fmt: skip
    address = TaskAddress("nightly", f"run_{next(_numbers)}", "plan")
    page.fill(tasks=[{**address.query(), "map_index": -1, "xcoms": {"gemini_batch_manifest": manifest}}])
    html = page.client("viewer").get(run_path(address)).text
    for text in ("40 of 90 rows to ask", "30 taken from earlier answers", "15 the same as another row", "5 not sent",
                 "4 jobs in 2 waves", "at most $1.50", f'"note {kind}"', title, "max_cost=1: raise it."):  # fmt: skip
        assert text in html
    assert "pending" not in html, "no row waits"
    assert "No job yet" not in html, "none will come"


def test_run_without_a_job_says_why_it_needed_none(page: PageServer) -> None:
    for total, reused, text in ((0, 0, "There was no row to ask."), (9, 9, "9 were not sent: 9 taken from earlier")):
        manifest: dict[str, Any] = {"total": total, "reused": reused, "duplicates": 0, "job_count": 0, "jobs": []}
        address = TaskAddress("nightly", f"run_{next(_numbers)}", "classify")
        page.fill(tasks=[{**address.query(), "map_index": -1, "xcoms": {"gemini_batch_manifest": manifest}}])
        html = page.client("viewer").get(run_path(address)).text
        assert ("No job was needed" in html, text in html, "No job yet" in html) == (True, True, False)


def test_waiting_run_tells_when_earlier_runs_of_its_task_let_it_end(page: PageServer) -> None:
    took = {"state": "SUCCEEDED", "created": "2026-11-20T04:00:00Z", "ended": "2026-11-20T05:00:00Z"}
    for dag_id in ("expects", "another"):  # of the other DAG, whose jobs took no time, nothing is told
        ended = took if dag_id == "expects" else {**took, "ended": "2026-11-20T04:00:09Z"}
        before = {"model": "gemini-3.5-flash-lite", "jobs": [ended] * 3}
        page.fill(tasks=[{"dag_id": dag_id, "run_id": "before", "task_id": "classify",
                          "xcoms": {"gemini_batch_progress": before}}])  # fmt: skip
    begun = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 1230))
    job = {"job": "batches/live", "rows": 5, "state": "RUNNING", "created": begun}
    progress = {"model": "gemini-3.5-flash-lite", "total": 5, "jobs": [job], "waiting_shards": 0}
    address = waiting_run(page, dag_id="expects", xcoms={"gemini_batch_progress": progress})
    html = page.client("viewer").get(run_path(replace(address, dag_id="expects"))).text
    for text in ("Expected end", "<small>in 39 min, UTC", "3 earlier jobs of this model took 1 h 00 m"):
        assert text in html


def test_task_that_nobody_ran_is_not_here(page: PageServer) -> None:
    waiting_run(page)
    reply = page.client().get(run_path(TaskAddress("nightly", "never", "classify")))
    assert (reply.status_code, "This task has not run" in reply.text) == (404, True)


def test_mapped_task_without_an_index_says_which_ones_ran(page: PageServer) -> None:
    where = {"dag_id": "nightly", "run_id": "mapped_without_an_index", "task_id": "classify"}
    page.fill(tasks=[{**where, "map_index": index} for index in (0, 2)])
    reply = page.client().get(run_path(TaskAddress(**where)))
    assert (reply.status_code, "This task has not run" in reply.text, "0, 2" in reply.text) == (404, False, True)


def test_address_without_a_task_says_what_is_missing(page: PageServer) -> None:
    reply = page.client().get("/run?dag_id=nightly")
    assert (reply.status_code, "It names no run_id, no task_id" in reply.text) == (400, True)


def test_names_full_of_markup_stay_text(page: PageServer) -> None:
    manifest = {"job_name": f"batches/{HOSTILE}", "model": HOSTILE, "total": HOSTILE, "output_path": HOSTILE,
                "model_versions": {HOSTILE: 1}, "errors": [{"message": HOSTILE, "count": HOSTILE}],
                "succeeded": {"a": 1}, "counts": {"succeeded": HOSTILE}, "cost": HOSTILE, "jobs": [HOSTILE, 7],
                "paid_twice": HOSTILE}  # fmt: skip
    address = TaskAddress("nightly", "manual__markup", "task")
    page.fill(tasks=[{"dag_id": "nightly", "run_id": address.run_id, "task_id": "task", "state": "failed",
                      "xcoms": {"gemini_batch_manifest": manifest, "job_name": HOSTILE}}])  # fmt: skip
    reply = page.client().get(run_path(address))
    assert reply.status_code == 200
    assert "<script>alert" not in reply.text
    assert "&lt;script&gt;alert(1)" in reply.text
    assert not {"\x1b", "\u202e"} & set(reply.text)


@pytest.mark.parametrize("user", ["viewer", "user", "op", "admin"])
def test_only_who_may_edit_the_dag_cancels_a_run(page: PageServer, user: str) -> None:
    address = waiting_run(page)
    client = page.client(user)
    html = client.get(run_path(address)).text
    allowed = user != "viewer"
    assert ('action="/gemini-batch/run/cancel"' in html) == allowed
    own = token_in(html) if allowed else token_of(page, user)
    reply = client.post("/run/cancel", data={**address.query(), "token": own})
    assert reply.status_code == (303 if allowed else 403)
    assert state_of(page, address) == ("failed" if allowed else "deferred")


def token_of(page: PageServer, user: str) -> str:
    """Return a token that the user's own pages carry."""
    hour = int(time.time() // security.HOUR)
    message = f"gemini-batch page\n{hour}\n{user}".encode()
    return f"{hour}.{hmac.new(page.secret.encode(), message, hashlib.sha256).hexdigest()}"


def test_cancelling_a_run_marks_its_task_and_cancels_its_jobs(
    page: PageServer, gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.fill(connections=[{"conn_id": "gemini_run", **gemini_batch_emulator.connection("gemini")}])
    gemini_batch_emulator.script(stuck="RUNNING", pending_seconds=0)
    name = new_job(gemini_batch_emulator, monkeypatch)
    address = waiting_run(page, trigger={
        "classpath": "airflow_provider_gemini_batch.triggers.batch_job.BatchJobTrigger",
        "kwargs": {"job_name": name, "gemini_batch_conn_id": "gemini_run"},
    }, xcoms={"job_name": name})  # fmt: skip
    client = page.client("user")
    html = client.get(run_path(address)).text
    assert not gemini_batch_emulator.state.all_jobs[0].cancelled
    assert "cannot be read" not in html
    reply = client.post("/run/cancel", data={**address.query(), "token": token_in(html)})
    after = client.get(reply.headers["location"].removeprefix("/gemini-batch")).text
    assert "marked failed and its jobs are cancelled" in after
    assert (state_of(page, address), gemini_batch_emulator.state.all_jobs[0].cancelled is not None) == ("failed", True)


@pytest.mark.parametrize("loop_index", [None, 3])
def test_job_that_an_xcom_alone_names_is_cancelled_only_with_the_tasks_mark(
    page: PageServer, gemini_batch_emulator: EmulatorHandle, loop_index: int | None
) -> None:
    page.fill(connections=[{"conn_id": "gemini_run", **gemini_batch_emulator.connection("gemini")}])
    own = TaskAddress("nightly", f"run_{next(_numbers)}", "classify")
    task = make_task_id("", own.dag_id, own.run_id, own.task_id, loop_index=loop_index)
    mark = SubmissionToken(task, "e" * 16)
    names = [
        gemini_batch_emulator.seed_jobs(state="RUNNING", display_name=name)[0]
        for name in ("another DAG's", mark.display_name("own"))
    ]
    trigger = {
        "classpath": "airflow_provider_gemini_batch.triggers.batch_job.BatchJobTrigger",
        "kwargs": {"job_name": "", "gemini_batch_conn_id": "gemini_run"},
    }
    told = [{"job": name} for name in names]
    page.fill(tasks=[{"dag_id": own.dag_id, "run_id": own.run_id, "task_id": own.task_id, "state": "deferred",
                      "xcoms": {"gemini_batch_progress": {"jobs": told}}, "trigger": trigger}])  # fmt: skip
    for name, status in zip(names, (403, 303), strict=True):
        data = {**own.query(), "token": token_of(page, "user"), "job": name}
        assert page.client("user").post("/run/cancel", data=data).status_code == status
    assert {job.name for job in gemini_batch_emulator.state.all_jobs if job.cancelled is not None} == {names[1]}


def new_job(emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> str:
    """Start a job at the emulator, and return its name."""
    set_connection(monkeypatch, emulator.connection("gemini"))
    hook = GeminiBatchHook()
    return hook.create_batch("gemini-3.5-flash-lite", inlined_requests=[{"key": "k", "prompt": "Say"}]).name


# --- forged changes ---------------------------------------------------------------------------------------------------

FORGED = {
    "no token": ({}, {}),
    "another user's token": ({"token": "viewer"}, {}),
    "another site": ({"token": "own"}, {"Origin": "https://evil.example"}),
    "another site, newer browser": ({"token": "own"}, {"Sec-Fetch-Site": "cross-site"}),
    "a made-up token": ({"token": "9999999.00"}, {}),
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_change_changes_nothing(page: PageServer, case: str) -> None:
    fields, headers = FORGED[case]
    address = waiting_run(page)
    values = {"own": token_of(page, "admin"), "viewer": token_of(page, "viewer")}
    data = {**address.query(), **{name: values.get(value, value) for name, value in fields.items()}}
    reply = page.client("admin").post("/run/cancel", data=data, headers=headers)
    assert (reply.status_code, "Nothing was changed" in reply.text) == (403, True)
    assert state_of(page, address) == "deferred"


def test_change_by_get_is_refused(page: PageServer) -> None:
    address = waiting_run(page)
    data = {**address.query(), "token": token_of(page, "admin")}
    reply = page.client("admin").get("/run/cancel", params=data)
    assert (reply.status_code, state_of(page, address)) == (405, "deferred")


def test_change_is_in_airflows_audit_log(page: PageServer) -> None:
    address = waiting_run(page)
    page.client("op").post("/run/cancel", data={**address.query(), "token": token_of(page, "op")})
    logged = page.api("admin").get(f"/api/v2/eventLogs?dag_id=nightly&run_id={address.run_id}").json()["event_logs"]
    assert [(entry["event"], entry["owner"]) for entry in logged] == [("gemini_batch_cancel_run", "op")]
