# SPDX-License-Identifier: Apache-2.0
"""Who may ask for what, over HTTP against a real API server with Airflow's own users."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress, answers_path, jobs_path, run_path, spend_path
from tests.support.page_server import USERS

if TYPE_CHECKING:
    from tests.support.page_server import PageServer

pytestmark = pytest.mark.newest_airflow

ADDRESS = TaskAddress("nightly", "manual__1", "classify")
PATHS = {"run": run_path(ADDRESS), "answers": answers_path(ADDRESS), "jobs": jobs_path("a_conn"), "spend": spend_path()}


@pytest.mark.parametrize("view", PATHS)
def test_nobody_sees_a_view_without_a_login(page: PageServer, view: str) -> None:
    reply = page.client(None).get(PATHS[view])
    assert (reply.status_code, "You are signed out" in reply.text) == (401, True)


@pytest.mark.parametrize("user", USERS)
def test_only_who_may_read_connections_sees_their_jobs(page: PageServer, user: str) -> None:
    reply = page.client(user).get(PATHS["jobs"])
    assert (reply.status_code == 403) == (user in ("viewer", "user"))


def test_every_answer_carries_the_strict_policy(page: PageServer) -> None:
    for user, path in (
        (None, PATHS["jobs"]),
        ("admin", PATHS["jobs"]),
        ("admin", "/nowhere"),
        ("admin", "/static/page.js"),
    ):
        headers = page.client(user).get(path).headers
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_fault_of_a_view_keeps_its_words_from_the_browser_and_the_connection_open(page: PageServer) -> None:
    address = TaskAddress("nightly", "manual__fault", "classify")
    trigger = {"classpath": "airflow_provider_gemini_batch.triggers.batch_jobs.X", "kwargs": ["a row's text"]}
    page.fill(tasks=[{**address.query(), "state": "deferred", "trigger": trigger}])
    for _ in range(2):
        reply = page.client().get(run_path(address))
        assert (reply.status_code, "ValueError" in reply.text, "a row's text" in reply.text) == (500, True, False)
        assert reply.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "Exception in ASGI application" not in page.log_path.read_text(), "the server's own cuts the connection"
