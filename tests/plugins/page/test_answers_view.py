# SPDX-License-Identifier: Apache-2.0
"""Landed answers, over HTTP: each form of an output, filters, what is gone, and what is none of ours."""

from __future__ import annotations

import gzip
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from airflow_provider_gemini_batch.plugins.page import answers_file, answers_lines, answers_tables
from airflow_provider_gemini_batch.plugins.page.answers_file import read_page
from airflow_provider_gemini_batch.plugins.page.answers_rows import Wanted, is_wanted
from airflow_provider_gemini_batch.plugins.page.errors import PageError
from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress, answers_path, spend_path

if TYPE_CHECKING:
    from tests.support.page_server import PageServer

_numbers = itertools.count()
HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m"


def write(place: Path, count: int, *, failed: int = 0, prefix: str = "") -> str:
    """Write an output of *count* rows in the form that its name asks for; the last ones failed."""
    columns = (
        "'k' || i AS key, 'review ' || i AS review, "
        f"CASE WHEN i >= {count - failed} THEN 'failed' ELSE 'succeeded' END AS \"{prefix}status\", "
        f"CASE WHEN i >= {count - failed} THEN NULL ELSE 'answer ' || i END AS \"{prefix}text\", "
        f'CASE WHEN i >= {count - failed} THEN 13 END AS "{prefix}error_code", '
        f"CASE WHEN i >= {count - failed} THEN 'internal' END AS \"{prefix}error_message\", "
        f"'STOP' AS \"{prefix}finish_reason\", 'flash-00' || (1 + i % 2) AS \"{prefix}model_version\""
    )
    form = {".jsonl": "json", ".csv": "csv, HEADER", ".parquet": "parquet"}[place.suffix]
    duckdb.sql(f"COPY (SELECT {columns} FROM range({count}) t(i)) TO '{place}' (FORMAT {form})")
    return str(place)


@pytest.fixture(params=["duckdb", "lines"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Read with DuckDB, and as where it is not installed."""
    if request.param == "lines":
        monkeypatch.setattr(answers_tables, "has_duckdb", lambda: False)
    return str(request.param)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a (1).parquet"])
@pytest.mark.parametrize("prefix", ["", "g_"])
def test_each_form_gives_the_same_page(tmp_path: Path, reader: str, name: str, prefix: str) -> None:
    place = write(tmp_path / name, 120, failed=3, prefix=prefix)
    if reader == "lines" and name.endswith("parquet"):
        with pytest.raises(PageError, match="cannot be read here"):
            read_page(place, Wanted())
        return
    pages = [read_page(place, Wanted(page=number)) for number in (1, 2, 3)]
    assert [len(page.rows) for page in pages] == [50, 50, 20]
    assert [page.more for page in pages] == [True, True, False]
    assert (pages[0].rows[0]["key"], pages[0].prefix) == ("k0", prefix)
    assert [row["key"] for row in read_page(place, Wanted("failing")).rows] == ["k117", "k118", "k119"]
    assert [row["key"] for row in read_page(place, Wanted("succeeded", "REVIEW 77")).rows] == ["k77"]
    assert len(read_page(place, Wanted(version="flash-001", page=2)).rows) == 10


def shown(page: PageServer, manifest: dict[str, Any], **task: Any) -> TaskAddress:
    """Put a task with a manifest into the database."""
    address = TaskAddress("shown", f"run_{next(_numbers)}", "classify")
    xcoms = {"gemini_batch_manifest": manifest} if manifest else {}
    page.fill(tasks=[{**address.query(), "map_index": -1, "xcoms": xcoms, **task}])
    return address


@pytest.mark.newest_airflow
def test_reasons_are_those_of_the_rows_that_the_filter_shows(page: PageServer, tmp_path: Path) -> None:
    errors = [{"status": "failed", "code": 13, "message": "it broke", "count": 2},
              {"status": "blocked", "code": None, "message": "PROHIBITED_CONTENT", "count": 1}]  # fmt: skip
    address = shown(page, {"output_path": write(tmp_path / "a.jsonl", 5, failed=3), "total": 5, "errors": errors,
                           "counts": {"succeeded": 2, "failed": 2, "blocked": 1}})  # fmt: skip
    found = {}
    for status in ("failing", "all", "failed", "blocked", "succeeded"):
        html = page.client("viewer").get(answers_path(address, status=status)).text
        found[status] = [name for name in ("<code>it broke", "<code>PROHIBITED") if name in html]
    assert found["failing"] == found["all"] == ["<code>it broke", "<code>PROHIBITED"]
    assert (found["failed"], found["blocked"], found["succeeded"]) == (["<code>it broke"], ["<code>PROHIBITED"], [])


@pytest.mark.newest_airflow
def test_run_without_rows_has_no_filter_to_clear(page: PageServer, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("")
    address = shown(page, {"output_path": str(tmp_path / "none.jsonl"), "total": 0, "counts": {}, "errors": []})
    html = page.client("viewer").get(answers_path(address)).text
    assert "The input had no row" in html
    assert [
        text for text in ("Clear the filter", "each row has a usable answer", 'role="search"') if text in html
    ] == []


@pytest.mark.newest_airflow
def test_answers_of_a_run_under_way_are_counted_before_they_are_written(page: PageServer) -> None:
    progress = {"total": 1000, "counts": {"succeeded": 480, "blocked": 20}, "jobs": []}
    address = shown(page, {}, state="deferred", xcoms={"gemini_batch_progress": progress})
    reply = page.client("viewer").get(answers_path(address))
    assert reply.status_code == 404
    assert "So far 500 of 1,000 rows are answered: 480 succeeded, 20 blocked." in reply.text


@pytest.mark.newest_airflow
def test_text_that_runs_from_right_to_left_does_so_in_its_own_place(page: PageServer, tmp_path: Path) -> None:
    row = {"key": "k", "review": "שלום!", "status": "failed", "text": "تم", "error_message": "خطأ", "prompt": "مرحبا",
           "finish_reason": "STOP", "model_version": "m"}  # fmt: skip
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    address = shown(page, {"output_path": str(tmp_path / "a.jsonl"), "total": 1, "counts": {"failed": 1}})
    html = page.client("viewer").get(answers_path(address, open=1)).text
    for text in (
        "<bdi>שלום!</bdi>",
        '<dd class="prose" dir="auto">שלום!',
        '<pre dir="auto">تم',
        '<pre dir="auto">مرحبا',
    ):
        assert text in html


def test_folder_of_parts_is_one_table(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"part-{number}.parquet", 30)
    (tmp_path / "_SUCCESS").write_text("")
    assert len(read_page(str(tmp_path), Wanted(page=2)).rows) == 10


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("key.json", '{"private_key": "SECRET"}'),
        ("airflow.cfg", "[core]\nfernet_key = SECRET"),
        ("rows.jsonl", '{"private_key": "SECRET", "status": "x"}'),
        ("table.csv", "status,private_key\nx,SECRET"),
        ("lines.jsonl", "SECRET"),
    ],
)
def test_file_that_is_no_output_of_ours_shows_nothing(tmp_path: Path, reader: str, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(PageError) as refused:
        read_page(str(tmp_path / name), Wanted())
    assert "SECRET" not in str(refused.value)


def test_reading_lines_stops_says_so_and_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_lines, "SECONDS", 0.0)
    monkeypatch.setattr(answers_lines, "BLOCK", 100_000)
    place = write(tmp_path / "a.jsonl", 2000, failed=1)
    found = read_page(place, Wanted("failing"))
    assert (len(found.rows), found.more) == (0, False)
    assert 0 < found.stopped < 1000
    for _ in range(10):
        found = read_page(place, Wanted("failing"))
    assert ([row["key"] for row in found.rows], found.stopped, found.found) == (["k1999"], 0, 1)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "parts"])
def test_pages_of_lines_agree_with_reading_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(answers_lines, "BLOCK", 5_000)
    monkeypatch.setattr(answers_lines, "FAR_APART", 2_000)
    rows = [
        {"key": f"k{n}", "status": ("blocked", "failed")[n % 2] if n % 9 == 0 or n > 700 else "succeeded",
         "text": f'the "Tür" no. {n} {{"status":"failed"}}' if n % 3 else "TÜR/x", "echo": {"status": "failed"},
         "error": None, "response": None, "model_version": f"v{n % 2}", "finish_reason": "STOP"}
        for n in range(900)
    ]  # fmt: skip
    lines = [json.dumps(row, ensure_ascii=n % 2 == 0).encode() + b"\n" for n, row in enumerate(rows)]
    if name == "parts":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jsonl").write_bytes(b"".join(lines[:400]))
        (tmp_path / name / "1.jsonl").write_bytes(b"\n" + b"\n".join(lines[400:])[:-1])  # blank lines, no last newline
    else:
        (tmp_path / name).write_bytes(gzip.compress(b"".join(lines)) if name.endswith("gz") else b"".join(lines))
    filters = [
        Wanted(), Wanted("failing"), Wanted("blocked"), Wanted("failed"), Wanted("failing", version="v1"),
        Wanted(version="v0"), Wanted(search="tür"), Wanted(search="TÜR/x"), Wanted(search="NO. 77"),
        Wanted(search="status"), Wanted("failed", "no."),
    ]  # fmt: skip
    for wanted in filters:
        expected = [row for row in rows if is_wanted(row, "", wanted, wanted.words)]
        for page in (3, 1, 2, len(expected) // 50 + 1, 1):  # in any order, and again
            found = read_page(str(tmp_path / name), replace(wanted, page=page))
            assert list(found.rows) == expected[(page - 1) * 50 : page * 50], (wanted, page)
            assert found.more == (len(expected) > page * 50)


def test_file_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    place = write(tmp_path / "a.jsonl", 120, failed=3)
    assert len(read_page(place, Wanted("failing")).rows) == 3
    write(tmp_path / "a.jsonl", 120, failed=4)
    assert len(read_page(place, Wanted("failing")).rows) == 4


def test_search_that_many_ask_for_at_once_is_made_once(tmp_path: Path) -> None:
    place = write(tmp_path / "a.jsonl", 30_000)
    answers_file.release()
    with ThreadPoolExecutor(8) as people:
        pages = list(people.map(lambda _: read_page(place, Wanted(search="review 27777")), range(20)))
    assert {tuple(row["key"] for row in page.rows) for page in pages} == {("k27777",)}
    (index,) = answers_file._kept._entries.values()
    assert index.lines == 30_000, "each line was searched once"


def test_what_is_kept_of_files_is_bounded_and_can_be_dropped(tmp_path: Path) -> None:
    place = write(tmp_path / "a.jsonl", 2_000, failed=1_000)
    for number in range(220):
        read_page(place, Wanted(search=f"review {number}"))
    kept = answers_file._kept
    assert len(kept._entries) <= 200
    assert kept.size < 1_000_000
    answers_file.release()
    assert (len(kept._entries), kept._timer) == (0, None)


# --- over HTTP --------------------------------------------------------------------------------------------------------


def landed(page: PageServer, place: str, dag_id: str = "nightly", **more: Any) -> TaskAddress:
    address = TaskAddress(dag_id, f"answers_{next(_numbers)}", "classify")
    manifest = {"output_path": place, "total": 3, "counts": {"succeeded": 2, "blocked": 1}, **more}
    page.fill(tasks=[{"dag_id": dag_id, "run_id": address.run_id, "task_id": "classify",
                      "xcoms": {"gemini_batch_manifest": manifest}}])  # fmt: skip
    return address


@pytest.mark.newest_airflow
def test_failing_rows_come_first_with_their_reason_and_markup_stays_text(page: PageServer, tmp_path: Path) -> None:
    rows = [
        {"key": "good", "status": "succeeded", "text": "fine", "finish_reason": "STOP", "error": None, "response": {}},
        {"key": HOSTILE, "status": "blocked", "text": None, "finish_reason": "SAFETY", "review": HOSTILE,
         "error": {"code": 3, "message": HOSTILE}, "response": {}},
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    address = landed(page, str(tmp_path / "a.jsonl"))
    html = page.client("viewer").get(answers_path(address)).text
    assert "safety filters held the answer back" in html
    assert ">fine<" not in html
    assert "<img" not in html
    assert "\x1b" not in html
    assert "fine" in page.client("viewer").get(answers_path(address, status="all")).text


@pytest.mark.newest_airflow
def test_answers_of_a_job_are_those_that_another_task_of_the_run_landed(page: PageServer, tmp_path: Path) -> None:
    row = {"key": "good", "status": "succeeded", "text": "fine", "error": None}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    manifest = {"output_path": str(tmp_path / "a.jsonl"), "total": 1, "counts": {"succeeded": 1}}
    where = {"dag_id": "nightly", "run_id": f"answers_{next(_numbers)}"}
    asks = {"operator": "CreateBatchOperator", "xcoms": {"job_name": "batches/read-by-results"}}
    lands = {**manifest, "job_name": "batches/read-by-results"}
    of_others = {**manifest, "job_name": "batches/of-others"}
    page.fill(tasks=[
        {**where, "task_id": "ask", **asks},
        {**where, "task_id": "results", "xcoms": {"gemini_batch_manifest": lands}},
        {**where, "task_id": "others", "xcoms": {"gemini_batch_manifest": of_others}},
        {**where, "task_id": "unread", "operator": "CreateBatchOperator", "xcoms": {"job_name": "batches/unread"}},
    ])  # fmt: skip
    client = page.client("viewer")
    html = client.get(answers_path(TaskAddress(**where, task_id="ask"))).text
    assert ("fine" in html, "landed by results" in html) == (True, True)
    assert client.get(answers_path(TaskAddress(**where, task_id="unread"))).status_code == 404


@pytest.mark.newest_airflow
def test_file_that_is_gone_is_said(page: PageServer) -> None:
    reply = page.client().get(answers_path(landed(page, "/nowhere/a.parquet")))
    assert (reply.status_code, "no longer here" in reply.text) == (404, True)


@pytest.mark.newest_airflow
def test_spend_sums_what_manifests_tell_and_exports_it(page: PageServer) -> None:
    tokens = {"prompt": 1_000_000, "output": 2_000, "thoughts": 0, "cached": 0}
    cost = {"actual": 12.5, "rows_of_unknown_cost": 0}
    landed(page, "/x.parquet", "=spend|dag", cost=cost, tokens=tokens, model_versions={"flash-001": 3})
    html = page.client("viewer").get(spend_path()).text
    assert "=spend|dag" in html
    assert "$12.50" in html
    text = page.client("viewer").get("/spend.csv?days=7").text
    assert "'=spend|dag,classify,flash-001,3,1000000,2000,12.5,0" in text
