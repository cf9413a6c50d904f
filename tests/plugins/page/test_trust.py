# SPDX-License-Identifier: Apache-2.0
"""A manifest that a person has written is not believed, one that is the task's own is, whatever was tried."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress, answers_path
from tests.plugins.page.test_permissions import landed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.page_server import PageServer

pytestmark = pytest.mark.newest_airflow

KEY = "gemini_batch_manifest"
SECRET = "the secret answer"


def entries_of(address: TaskAddress) -> str:
    return f"/api/v2/dags/{address.dag_id}/dagRuns/{address.run_id}/taskInstances/{address.task_id}/xcomEntries"


def naming(place: str) -> dict[str, Any]:
    return {"output_path": place, "total": 1, "counts": {"succeeded": 1}}


def rewrite(page: PageServer, address: TaskAddress, place: str, user: str = "op", **parameters: str) -> int:
    url = f"{entries_of(address)}/{KEY}"
    return int(page.api(user).patch(url, params=parameters, json={"value": naming(place)}).status_code)


def test_answers_of_another_dag_are_not_read_through_an_xcom_that_a_person_wrote(
    page: PageServer, tmp_path: Path
) -> None:
    _, theirs = landed(page, tmp_path, "theirs", SECRET)
    mine, _ = landed(page, tmp_path, "mine", "my answer")
    assert rewrite(page, mine, theirs, run_id="elsewhere") == 200
    reply = page.client("op").get(answers_path(mine))
    assert reply.status_code == 403
    assert "written by hand (op, " in reply.text
    assert SECRET not in reply.text
    sent = page.client("op").get("/answers/download", params=mine.query())
    assert (sent.status_code, SECRET in sent.text) == (403, False)


@pytest.mark.parametrize("kind", ["application/json", "application/x+json", "Application/JSON"])
def test_manifest_created_in_any_kind_of_body_is_not_believed(page: PageServer, tmp_path: Path, kind: str) -> None:
    _, theirs = landed(page, tmp_path, "theirs", SECRET)
    dag_id = f"mine_{kind.replace('/', '_').replace('+', '_')}"
    mine, _ = landed(
        page, tmp_path, dag_id, "my answer", task={"state": "running", "xcoms": {}}
    )  # the log alone speaks
    page.fill(dags=[{"dag_id": dag_id, "task_id": "classify"}])
    body = json.dumps({"key": KEY, "value": naming(theirs), "map_index": -1})
    made = page.api("op").post(entries_of(mine), content=body, headers={"content-type": kind})
    assert made.status_code == 201, made.text
    reply = page.client("op").get(answers_path(mine))
    assert (reply.status_code, SECRET in reply.text) == (403, False)
    assert "written by hand (op, " in reply.text


def test_manifest_written_after_the_end_is_not_believed_once_the_log_is_cleaned(
    page: PageServer, tmp_path: Path
) -> None:
    _, theirs = landed(page, tmp_path, "theirs", SECRET)
    mine, _ = landed(page, tmp_path, "mine", "my answer")
    assert rewrite(page, mine, theirs) == 200
    page.fill(cleaned=[{"table": "log"}])
    assert not page.api().get("/api/v2/eventLogs", params={"event": "update_xcom_entry"}).json()["event_logs"]
    reply = page.client("op").get(answers_path(mine))
    assert (reply.status_code, SECRET in reply.text) == (403, False)
    assert "after the task had ended" in reply.text


def test_refused_attempt_to_write_it_locks_nothing(page: PageServer, tmp_path: Path) -> None:
    mine, _ = landed(page, tmp_path, "mine", "my answer")
    assert rewrite(page, mine, "/elsewhere.jsonl", "viewer") == 403
    body = {"key": KEY, "value": naming("/elsewhere.jsonl"), "map_index": -1}
    assert page.api("viewer").post(entries_of(mine), json=body).status_code == 403
    logged = page.api().get("/api/v2/eventLogs", params={"dag_id": "mine", "run_id": mine.run_id}).json()
    assert {each["event"] for each in logged["event_logs"]} == {"update_xcom_entry", "create_xcom_entry"}
    assert "my answer" in page.client("viewer").get(answers_path(mine)).text
    later, _ = landed(page, tmp_path, "mine", "my later answer", task={"age": -3600})  # an hour after it
    assert "my later answer" in page.client("viewer").get(answers_path(later)).text


@pytest.mark.parametrize("form", ["the same", "home", "sample", "object", "slash"])
def test_place_that_the_arguments_name_in_another_form_is_read(page: PageServer, tmp_path: Path, form: str) -> None:
    folder = page.log_path.parent if form == "home" else tmp_path
    argument: Any = str(tmp_path / "reviews.jsonl")
    place = tmp_path / ("reviews.sample.jsonl" if form == "sample" else "reviews.jsonl")
    if form == "home":
        argument, place = "~/reviews.jsonl", folder / "reviews.jsonl"
    if form == "object":
        argument = {"path": argument, "kwargs": {}}
    if form == "slash":
        argument, place = f"{tmp_path}/reviews/", tmp_path / "reviews"
        place.mkdir()
    mine, written = landed(page, tmp_path, "mine", "my answer", task={"arguments": {"output_path": argument}})
    content = (tmp_path / written).read_bytes()
    (place / "0.jsonl" if form == "slash" else place).write_bytes(content)
    assert rewrite(page, mine, str(place)) == 200, "what it names counts, not who wrote it"
    reply = page.client("viewer").get(answers_path(mine))
    assert (reply.status_code, "my answer" in reply.text) == (200, True)
