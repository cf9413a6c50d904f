# SPDX-License-Identifier: Apache-2.0
"""What stands around a row, over HTTP: why rows failed, one row with its images, the file itself, mapped tasks."""

from __future__ import annotations

import base64
import itertools
import json
import re
import sqlite3
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from airflow_provider_gemini_batch.plugins.page.images import images_in, without_images
from airflow_provider_gemini_batch.plugins.page.reasons import reasons_in
from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress, answers_path, run_path
from airflow_provider_gemini_batch.plugins.page.views.answers import shown_row

if TYPE_CHECKING:
    from tests.support.page_server import PageServer

_numbers = itertools.count()
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()
SVG = base64.b64encode(b"<svg onload=alert(1)>").decode()
MARKUP = "<script>alert(1)</script>"
MANIFEST = {
    "total": 4, "counts": {"succeeded": 1, "invalid": 2, "blocked": 1}, "finish_reasons": {"STOP": 1, "MAX_TOKENS": 2},
    "errors": [
        {"status": "invalid", "code": None, "message": "finish reason MAX_TOKENS", "count": 2},
        {"status": "blocked", "code": 3, "message": f"prompt {MARKUP} refused", "count": 1},
    ],
}  # fmt: skip


def rows() -> list[dict[str, Any]]:
    common = {
        "finish_reason": "STOP",
        "error_message": None,
        "model_version": "flash-001",
        "attempts": 1,
        "cost": 0.002,
    }
    return [
        {"key": "good", "review": MARKUP, "photo": f"data:image/png;base64,{PNG}", "sentiment": "glad",
         "status": "succeeded", **common},
        {"key": "cut", "review": "long", "sentiment": None, "status": "invalid", **common,
         "finish_reason": "MAX_TOKENS", "error_message": "finish reason MAX_TOKENS"},
        {"key": "cut 2", "review": "long", "sentiment": None, "status": "invalid", **common,
         "finish_reason": "MAX_TOKENS", "error_message": "finish reason MAX_TOKENS"},
        {"key": "held", "review": "x", "sentiment": None, "status": "blocked", **common, "error_code": 3,
         "error_message": f"prompt {MARKUP} refused"},
    ]  # fmt: skip


def landed(page: PageServer, place: Path, *, map_index: int = -1, dag_id: str = "panel", run: str = "") -> TaskAddress:
    if not place.exists():
        place.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    address = TaskAddress(dag_id, run or f"rows_{next(_numbers)}", "classify", map_index)
    manifest = {**MANIFEST, "output_path": str(place), "answer_columns": ["sentiment"]}
    task = {"dag_id": dag_id, "run_id": address.run_id, "task_id": "classify", "map_index": map_index}
    page.fill(tasks=[{**task, "xcoms": {"gemini_batch_manifest": manifest}}])
    return address


@pytest.mark.parametrize(
    ("cost", "text"), [(0.0000005, "< $0.000001"), (0.00002, "$0.00002"), (0, "$0"), ("0.0123", "$0.0123"), ("x", "x")]
)
def test_cost_of_a_row_is_never_shown_as_nothing(cost: Any, text: str) -> None:
    assert shown_row({"key": "k", "status": "succeeded", "cost": cost}, "")["facts"]["cost"] == text


def test_reasons_are_counted_by_the_manifest_and_explained() -> None:
    found = reasons_in(MANIFEST)
    assert [(each.count, each.status, each.marks) for each in found] == [
        (2, "invalid", "MAX_TOKENS"),
        (1, "blocked", "3"),
    ]
    assert found[0].what == "Cut off before the answer was complete."
    assert "maxOutputTokens" in found[0].todo
    assert [each.search for each in reasons_in({"finish_reasons": {"STOP": 9, "SAFETY": 4}})] == ["SAFETY"]
    assert reasons_in({"errors": "x", "finish_reasons": 3}) == []


@pytest.mark.parametrize(
    "value",
    [
        f"data:image/svg+xml;base64,{SVG}", f"data:image/png;base64,{SVG}", f"data:text/html;base64,{SVG}",
        "data:image/png;base64,AAAA' onerror='x", {"mimeType": "image/svg+xml", "data": SVG},
        {"mimeType": "image/png", "data": "A" * 2_000_000}, {"mimeType": 3, "data": None}, "https://elsewhere/x.png",
        "data:image/png;base64," + " " * 1_000_000 + "!",  # an expression that goes back and forth never ends on it
    ],
)  # fmt: skip
def test_what_is_no_small_picture_is_not_shown(value: Any) -> None:
    assert images_in({"row": [value]}) == []


def test_pictures_are_found_at_any_depth_and_named_in_text() -> None:
    inline = {"mimeType": "image/png", "data": PNG}
    response = {"candidates": [{"content": {"parts": [{"text": "here"}, {"inlineData": inline}]}}]}
    assert images_in({"a": "x", "response": response}) == [f"data:image/png;base64,{PNG}"]
    assert PNG not in json.dumps(without_images({"response": response}))
    deep: Any = inline
    for _ in range(500):
        deep = [deep]
    assert images_in(deep) == []


def test_moment_and_exact_number_stand_without_quotes() -> None:
    row = {"status": "succeeded", "answered_at": datetime(2026, 11, 28, 7, tzinfo=UTC), "price": Decimal("1.50")}
    shown = shown_row({"key": 7, "sold": True, **row}, "")
    assert shown["facts"] == {"answered_at": "2026-11-28 07:00:00+00:00"}
    assert (shown["key"], shown["given"]) == ("7", {"sold": "true", "price": "1.50"})


@pytest.mark.newest_airflow
def test_reason_leads_to_its_rows(page: PageServer, tmp_path: Path) -> None:
    address = landed(page, tmp_path / "a.jsonl")
    html = page.client("viewer").get(answers_path(address)).text
    assert "<b>2</b> · Cut off before the answer was complete." in html
    assert MARKUP not in html
    shown = page.client("viewer").get(answers_path(address, status="failing", search="finish reason MAX_TOKENS")).text
    assert ("cut 2" in shown, "held" in shown) == (True, False)


@pytest.mark.newest_airflow
def test_opened_row_shows_all_of_it_and_nothing_as_markup(page: PageServer, tmp_path: Path) -> None:
    address = landed(page, tmp_path / "a.jsonl")
    html = page.client("viewer").get(answers_path(address, status="succeeded", open=1)).text
    panel = html[html.index("<aside") :]
    assert f'<img class="shown" src="data:image/png;base64,{PNG}"' in panel
    assert "<dt>sentiment</dt><dd><bdi>glad</bdi></dd>" in panel, "a typed column is the answer"
    assert "<dt>model version</dt><dd>flash-001</dd>" in panel
    assert MARKUP not in html
    assert "<dt>cost</dt><dd>$0.002</dd>" in panel
    assert "[image/png, " in panel
    failed = page.client("viewer").get(answers_path(address, status="blocked", open=1)).text
    assert "Why did this fail?" in failed
    assert "<aside" not in page.client("viewer").get(answers_path(address, open=0)).text
    assert page.client("viewer").get(answers_path(address, open=99)).status_code == 200


@pytest.mark.newest_airflow
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "parts"])
def test_rows_are_downloaded_whole_or_the_failing_ones(page: PageServer, tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    if name == "parts":
        place.mkdir()
        (place / "0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    elif name.endswith("parquet"):
        (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
        duckdb.sql(f"COPY (FROM '{tmp_path}/b.jsonl') TO '{place}' (FORMAT parquet)")
    path = answers_path(landed(page, place)).replace("/answers?", "/answers/download?")
    whole = page.client("viewer").get(path)
    assert whole.headers["Content-Disposition"].endswith("parts.jsonl" if name == "parts" else name)
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    if name == "a.jsonl":
        assert whole.content == place.read_bytes()
    failing = page.client("viewer").get(f"{path}&status=failing")
    assert [json.loads(line)["key"] for line in failing.text.splitlines()] == ["cut", "cut 2", "held"]
    assert page.client(None).get(path).status_code == 401


@pytest.mark.newest_airflow
def test_file_that_is_none_of_ours_is_not_downloaded(page: PageServer, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"private_key": "SECRET"}\n')
    reply = page.client().get(
        answers_path(landed(page, tmp_path / "a.jsonl")).replace("/answers?", "/answers/download?")
    )
    assert (reply.status_code, "SECRET" in reply.text) == (415, False)


@pytest.mark.newest_airflow
def test_mapped_task_leads_to_its_other_entries(page: PageServer, tmp_path: Path) -> None:
    addresses = [landed(page, tmp_path / "a.jsonl", map_index=index, run="mapped") for index in (0, 1, 2)]
    for path in (run_path(addresses[1]), answers_path(addresses[1])):
        html = page.client("viewer").get(path).text
        assert '<option value="1" selected>map index 1</option>' in html
        assert '<option value="2">map index 2</option>' in html


# --- answers in a database --------------------------------------------------------------------------------------------


def in_table(
    page: PageServer, folder: Path, *, table: str = "main.answers", told: str = "", **more: Any
) -> TaskAddress:
    with sqlite3.connect(folder / "lake.db") as database:
        columns = "review, sentiment, status, finish_reason, error_code, error_message, model_version, attempts, cost"
        database.execute(f"CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, {columns})")
        for number in range(120):
            status = "failed" if number % 40 == 7 else "succeeded"
            values = (
                f"k{number:03}",
                f"{MARKUP} 100% {number}",
                "glad",
                status,
                "STOP",
                None,
                None,
                "flash-001",
                1,
                0.1,
            )
            database.execute(f"INSERT OR REPLACE INTO answers VALUES ({','.join('?' * 10)})", values)
        database.execute("CREATE TABLE IF NOT EXISTS secrets (status TEXT, private_key TEXT)")
        database.execute("INSERT INTO secrets VALUES ('x', 'SECRET')")
    page.fill(connections=[{"conn_id": "lake", "conn_type": "sqlite", "host": str(folder / "lake.db")}])
    address = TaskAddress("panel", f"table_{next(_numbers)}", "classify")
    manifest = {"output_table": told or table, "total": 120, "counts": {"succeeded": 117, "failed": 3}, **more}
    arguments = {"output_table": table, "output_conn_id": "lake"}
    task = {"dag_id": "panel", "run_id": address.run_id, "task_id": "classify", "arguments": arguments}
    page.fill(tasks=[{**task, "xcoms": {"gemini_batch_manifest": manifest}}])
    return address


@pytest.mark.newest_airflow
def test_answers_in_a_table_are_paged_filtered_and_searched(page: PageServer, tmp_path: Path) -> None:
    address = in_table(page, tmp_path, answer_columns=["sentiment"])

    def keys(**filters: Any) -> list[str]:
        html = page.client("op").get(answers_path(address, **filters)).text
        assert MARKUP not in html
        return re.findall(r"Open row (k\d+)", html)

    assert keys() == ["k007", "k047", "k087"]
    assert keys(status="all", page=3) == [f"k{number}" for number in range(100, 120)]
    assert keys(status="all", search="100% 11") == ["k011", *(f"k{number}" for number in range(110, 120))]
    assert keys(status="all", search="1_0%") == []
    assert keys(status="succeeded", version="flash-002") == []


@pytest.mark.newest_airflow
@pytest.mark.parametrize(("user", "status"), [(None, 401), ("viewer", 403), ("user", 403), ("op", 200), ("admin", 200)])
def test_table_needs_its_connection_too(page: PageServer, tmp_path: Path, user: str | None, status: int) -> None:
    assert page.client(user).get(answers_path(in_table(page, tmp_path))).status_code == status


@pytest.mark.newest_airflow
@pytest.mark.parametrize(
    ("table", "told"),
    [("answers", "secrets"), ("secrets", ""), ('answers" UNION SELECT * FROM "secrets', ""), ("gone", "")],
)
def test_table_that_is_none_of_the_tasks_answers_shows_nothing(
    page: PageServer, tmp_path: Path, table: str, told: str
) -> None:
    reply = page.client().get(answers_path(in_table(page, tmp_path, table=table, told=told), status="all"))
    assert reply.status_code in (404, 415, 502)
    assert "SECRET" not in reply.text
