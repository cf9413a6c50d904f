# SPDX-License-Identifier: Apache-2.0
"""All jobs of a connection, over HTTP: the list at the emulator, owners from marks, permissions, changes."""

from __future__ import annotations

import itertools
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.api.identity import SubmissionToken, make_task_id
from airflow_provider_gemini_batch.plugins.page.urls import jobs_path
from tests.plugins.page.test_run_view import token_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle
    from tests.support.page_server import PageServer

pytestmark = pytest.mark.newest_airflow

_numbers = itertools.count()
DIGEST = "e" * 16


class Jobs:
    """A connection of its own, jobs at the emulator, and the view of them."""

    def __init__(self, page: PageServer, emulator: EmulatorHandle) -> None:
        self.page, self.emulator = page, emulator
        self.conn_id = f"gemini_{next(_numbers)}"
        page.fill(connections=[{"conn_id": self.conn_id, **emulator.connection("gemini")}])

    def add(self, display_name: str = "by hand", *, task: str = "", state: str = "SUCCEEDED") -> str:
        """Have a job at the emulator, with the mark of a task if one is given; return its name."""
        if task:
            display_name = SubmissionToken(task, DIGEST).display_name(display_name)
        [name] = self.emulator.seed_jobs(display_name=display_name, state=state)
        return name

    def listed(self, user: str = "admin", **filters: str) -> str:
        """Return the page once the list is complete."""
        return settled(lambda: self.page.client(user).get(jobs_path(self.conn_id, **filters)).text)

    def post(self, path: str, user: str = "admin", **fields: Any) -> Any:
        """Send a form of the page."""
        data = {"conn_id": self.conn_id, "token": token_of(self.page, user), **fields}
        return self.page.client(user).post(path, data=data)


def settled(look: Callable[[], str]) -> str:
    """Look until the page no longer waits for something in the background."""
    deadline = time.monotonic() + 20
    while "data-again" in (html := look()):
        assert time.monotonic() < deadline, html
        time.sleep(0.05)
    return html


def rows_in(html: str) -> list[str]:
    """Return the table's rows as text."""
    body = html.partition("<tbody>")[2].partition("</tbody>")[0]
    return [re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", row)) for row in body.split("<tr>")[1:]]


@pytest.fixture
def jobs(page: PageServer, gemini_batch_emulator: EmulatorHandle) -> Jobs:
    return Jobs(page, gemini_batch_emulator)


def owned(jobs: Jobs, dag_id: str, **facts: Any) -> str:
    """Start a job of a task instance that is in the database; the page knows it by the hash alone."""
    run_id = f"jobs_run_{next(_numbers)}"
    jobs.page.fill(tasks=[{"dag_id": dag_id, "run_id": run_id, "task_id": "classify", "state": "deferred", **facts}])
    return jobs.add(f"{dag_id}.classify", task=make_task_id("", dag_id, run_id, "classify"))


def test_owner_is_read_from_the_mark_and_others_have_none(jobs: Jobs) -> None:
    owned(jobs, "nightly")
    jobs.add("an experiment")
    jobs.add("elsewhere.classify", task="f" * 16)
    rows = rows_in(jobs.listed())
    ours, hand, stranger = (next(row for row in rows if name in row) for name in ("nightly", "experiment", "elsewhere"))
    assert re.search(r"run_\d+ · classify", ours)
    assert "no mark of a task in its name" in hand
    assert "of no task that this Airflow knows" in stranger


def test_owner_with_a_salt_is_found_by_the_mark_that_its_task_left(jobs: Jobs) -> None:
    task = make_task_id("", "salted", "run_s", "classify", salt="again")
    jobs.page.fill(tasks=[{"dag_id": "salted", "run_id": "run_s", "task_id": "classify", "operator": "Own",
                           "xcoms": {"submission_token": f"{task}.{DIGEST}"}}])  # fmt: skip
    jobs.add("a name of its own", task=task)
    assert "salted" in rows_in(jobs.listed())[0]


def test_owner_of_a_derived_operator_is_found_by_its_display_name(jobs: Jobs) -> None:
    owned(jobs, "derived.dag", operator="MyOwnOperator")
    assert re.search(r"run_\d+ · classify", rows_in(jobs.listed())[0])


def test_filters_and_search_show_what_they_say(jobs: Jobs) -> None:
    owned(jobs, "nightly")
    jobs.add("an experiment")
    assert len(rows_in(jobs.listed())) == 2
    assert "experiment" in rows_in(jobs.listed(state="no-owner"))[0]
    assert "nightly" in rows_in(jobs.listed(search="NIGHTLY classify"))[0]
    assert "No such job" in jobs.listed(search="nothing like it")
    assert rows_in(jobs.listed(older="7")) == []


def test_unreachable_service_is_said_and_nothing_breaks(jobs: Jobs) -> None:
    jobs.page.fill(connections=[{"conn_id": jobs.conn_id, "conn_type": "gemini_batch", "host": "http://127.0.0.1:9",
                                 "password": "key", "extra": {"max_retries": 1}}])  # fmt: skip
    html = jobs.listed()
    assert "Google&#39;s list could not be read to its end." in html
    assert "at Google, listed" not in html, "nobody knows whether there are none"


def test_connection_that_is_not_there_is_said(page: PageServer) -> None:
    html = settled(lambda: page.client().get(jobs_path("nowhere")).text)
    assert "The connection &#39;nowhere&#39; cannot be looked up" in html


def test_display_names_full_of_markup_stay_text(jobs: Jobs) -> None:
    jobs.add("<script>alert(1)</script>")
    html = jobs.listed(search="<script>")
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_cancel_asks_first_and_is_done_in_the_background(jobs: Jobs) -> None:
    name = jobs.add(state="RUNNING")
    jobs.listed("op")
    asked = jobs.page.client("op").get(
        "/jobs/confirm", params={"conn_id": jobs.conn_id, "action": "cancel", "name": name}
    )
    assert "Cancel 1 job?" in asked.text
    assert jobs.emulator.state.all_jobs[0].cancelled is None
    assert jobs.post("/jobs/change", "op", action="cancel", name=name).status_code == 303
    assert "1 done" in jobs.listed("op")
    assert jobs.emulator.state.all_jobs[0].cancelled is not None


def test_running_job_is_not_deleted(jobs: Jobs) -> None:
    name = jobs.add(state="RUNNING")
    jobs.listed()
    assert jobs.post("/jobs/change", action="delete", name=name).status_code == 409
    assert len(jobs.emulator.state.all_jobs) == 1


def test_job_that_the_list_does_not_hold_is_not_changed(jobs: Jobs) -> None:
    jobs.listed()
    assert jobs.post("/jobs/change", action="cancel", name="batches/other").status_code == 409


@pytest.mark.parametrize("path", ["/jobs/change", "/jobs/list", "/jobs/stop", "/jobs/clean-up"])
@pytest.mark.parametrize("user", ["viewer", "user"])
def test_who_may_not_read_the_connection_changes_nothing_of_it(jobs: Jobs, user: str, path: str) -> None:
    assert jobs.post(path, user, action="cancel", name="batches/x").status_code == 403


@pytest.mark.parametrize("path", ["/jobs/change", "/jobs/list", "/jobs/stop", "/jobs/clean-up"])
def test_forged_form_changes_nothing(jobs: Jobs, path: str) -> None:
    assert jobs.post(path, token="1.2").status_code == 403


def test_only_the_owners_dag_can_say_that_answers_were_read(jobs: Jobs) -> None:
    name = owned(jobs, "nightly")
    said = {"gemini_batch_manifest": {"job_name": name, "output_path": "/x.jsonl", "cost": {"actual": 2.5}}}
    jobs.page.fill(tasks=[{"dag_id": "another", "run_id": f"says_{next(_numbers)}", "task_id": "t", "xcoms": said}])
    assert "answers not read" in rows_in(jobs.listed())[0]
    jobs.page.fill(tasks=[{"dag_id": "nightly", "run_id": f"says_{next(_numbers)}", "task_id": "t", "xcoms": said}])
    jobs.post("/jobs/list")
    html = jobs.listed()
    assert rows_in(html), html
    row = rows_in(html)[0]
    assert "answers not read" not in row
    assert "$2.50" in row


def test_clean_up_deletes_what_its_dry_run_has_shown(jobs: Jobs) -> None:
    owned(jobs, "unread_dag")
    jobs.add("an experiment")
    for job in jobs.emulator.state.all_jobs:
        job.created -= 9 * 86400
    jobs.add("still running", state="RUNNING")
    jobs.listed()
    client = jobs.page.client()
    plan = client.get("/jobs/clean-up", params={"conn_id": jobs.conn_id}).text
    shown = [line.strip() for line in rows_in(plan)]
    assert shown == [
        "would be deleted 1 ended more than 7 days ago, no owner",
        "stays 1 has not ended",
        "stays 1 ended, but its answers were not read, as far as Airflow remembers",
    ]
    assert len(jobs.emulator.state.all_jobs) == 3
    digest = plan.split('name="plan" value="')[1].split('"')[0]
    assert jobs.post("/jobs/clean-up", plan=digest).status_code == 400  # the box is not ticked
    assert jobs.post("/jobs/clean-up", plan="0" * 32, read="yes").status_code == 409
    assert jobs.post("/jobs/clean-up", plan=digest, read="yes").status_code == 303
    jobs.listed()
    names = {job.display_name.split(" [")[0] for job in jobs.emulator.state.all_jobs if not job.deleted}
    assert names == {"unread_dag.classify", "still running"}
