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
