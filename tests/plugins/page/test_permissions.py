# SPDX-License-Identifier: Apache-2.0
"""Every route for every role, and what a person tries who may do something with another DAG."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.plugins.page.app import routes
from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress, answers_path
from tests.plugins.page.test_run_view import HOSTILE, token_of
from tests.support.page_server import USERS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.page_server import PageServer

pytestmark = pytest.mark.newest_airflow

_numbers = itertools.count()
ALL, OPERATORS, EDITORS = set(USERS), {"op", "admin"}, {"user", "op", "admin"}
MAY: dict[tuple[str, str], set[str]] = {
    ("GET", "/run"): ALL,
    ("POST", "/run/cancel"): EDITORS,
    ("GET", "/answers"): ALL,
    ("GET", "/answers/download"): ALL,
    ("GET", "/sample"): ALL,
    ("GET", "/spend"): ALL,
    ("GET", "/spend.csv"): ALL,
    ("GET", "/jobs"): OPERATORS,
    ("GET", "/jobs/confirm"): OPERATORS,
    ("POST", "/jobs/change"): OPERATORS,
    ("POST", "/jobs/list"): OPERATORS,
    ("POST", "/jobs/stop"): OPERATORS,
    ("GET", "/jobs/clean-up"): OPERATORS,
    ("POST", "/jobs/clean-up"): OPERATORS,
}


def landed(
    page: PageServer, folder: Path, dag_id: str, text: str, *, task: dict[str, Any] | None = None, **row: Any
) -> tuple[TaskAddress, str]:
    """Land an answer of a DAG, by a task with more members than it needs; return its address, and the file's path."""
    place = folder / f"{dag_id}-{next(_numbers)}.jsonl"
    ours = {"key": "r1", "status": "succeeded", "text": text, "finish_reason": "STOP", "error_message": None,
            "model_version": "gemini-3.5-flash-lite"}  # fmt: skip
    place.write_text(json.dumps(ours | row) + "\n")
    address = TaskAddress(dag_id, f"run_{next(_numbers)}", "classify")
    manifest = {"output_path": str(place), "total": 1, "counts": {"succeeded": 1}}
    page.fill(tasks=[{"dag_id": dag_id, "run_id": address.run_id, "task_id": "classify",
                      "xcoms": {"gemini_batch_manifest": manifest}, **(task or {})}])  # fmt: skip
    return address, str(place)


def test_every_route_is_in_the_table_of_who_may_what() -> None:
    assert {(route.method, route.path) for route in routes()} == set(MAY)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(("method", "path"), MAY)
def test_route_lets_in_who_may_and_refuses_all_others(
    page: PageServer, tmp_path: Path, method: str, path: str, user: str
) -> None:
    address, _ = landed(page, tmp_path, "matrix", "an answer")
    fields = {**address.query(), "conn_id": "nowhere"}
    client = page.client(user)
    if method == "GET":
        reply = client.get(path, params=fields)
    else:
        reply = client.post(path, data={**fields, "token": token_of(page, user)})
    assert (reply.status_code == 403) == (user not in MAY[method, path]), reply.text
    assert reply.status_code < 500


@pytest.mark.parametrize(("method", "path"), MAY)
def test_route_tells_nobody_anything_without_a_login(page: PageServer, method: str, path: str) -> None:
    reply = page.client(None).request(method, path)
    assert (reply.status_code, "You are signed out" in reply.text) == (401, True)


@pytest.mark.parametrize(("method", "path"), [each for each in MAY if each[0] == "POST"])
def test_change_needs_the_pages_own_form(page: PageServer, method: str, path: str) -> None:
    own = {"token": token_of(page, "admin"), "conn_id": "nowhere"}
    client = page.client("admin")
    answers = [
        client.post(path, data={**own, "token": ""}),
        client.post(path, data=own, headers={"Sec-Fetch-Site": "cross-site"}),
        client.post(path, data=own, headers={"Origin": "null"}),
        client.post(path, json=own),
        client.post(path, content=b"token=x", headers={"Content-Type": "text/plain"}),
    ]
    assert [reply.status_code for reply in answers] == [403, 403, 403, 415, 415]


@pytest.mark.parametrize("path", ["/run", "/answers", "/answers/download"])
def test_answers_need_leave_to_read_the_dags_xcoms(page: PageServer, tmp_path: Path, path: str) -> None:
    address, _ = landed(page, tmp_path, "xcoms", "the secret answer")
    task = f"/api/v2/dags/xcoms/dagRuns/{address.run_id}/taskInstances/classify"
    assert page.api("tasks_only").get(task).status_code == 200
    reply = page.client("tasks_only").get(path, params=address.query())
    assert (reply.status_code, "the secret answer" in reply.text) == (403, False)


def test_markup_and_terminal_codes_in_rows_and_names_stay_text(page: PageServer, tmp_path: Path) -> None:
    row = {"key": HOSTILE, "status": "failed", "error_message": HOSTILE, "finish_reason": HOSTILE, HOSTILE: HOSTILE}
    address, _ = landed(page, tmp_path, "hostile", HOSTILE, **row)
    for path in (answers_path(address, status="all"), answers_path(address, status="all", search=HOSTILE)):
        reply = page.client("viewer").get(path)
        assert reply.status_code == 200
        assert "&lt;script&gt;alert(1)" in reply.text
        assert "<script>alert" not in reply.text
        assert not {"\x1b", "\u202e"} & set(reply.text)


def test_results_file_that_is_gone_is_said(page: PageServer, tmp_path: Path) -> None:
    address, place = landed(page, tmp_path, "gone", "an answer")
    (tmp_path / place).unlink()
    reply = page.client("viewer").get(answers_path(address))
    assert reply.status_code == 404
    assert "These answers are no longer here" in reply.text


def test_untouched_connection_without_a_port_can_be_tested(page: PageServer) -> None:
    page.fill(connections=[{"conn_id": "no_port", "conn_type": "gemini_batch", "host": "http://127.0.0.1:9",
                            "password": "key", "extra": {"max_retries": 1}}])  # fmt: skip
    # As the form of Airflow 3.3 sends it.
    body = {"connection_id": "no_port", "conn_type": "gemini_batch", "description": "", "host": "http://127.0.0.1:9",
            "login": "", "password": "***", "port": 0, "schema": "", "extra": '{"max_retries": 1}'}  # fmt: skip
    reply = page.api("admin").post("/api/v2/connections/test", json=body)
    assert (reply.status_code, reply.json()["status"]) == (200, False), reply.text
    assert "127.0.0.1:9" in reply.json()["message"]
    shown = page.api("admin").get("/api/v2/connections/no_port").json()
    assert shown["port"] in (0, None)
