# SPDX-License-Identifier: Apache-2.0
"""A person whose request hangs keeps nobody else waiting: over HTTP, against a real API server."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from airflow_provider_gemini_batch.plugins.page.urls import answers_path, run_path, spend_path
from tests.plugins.page.test_answers_view import landed, write
from tests.plugins.page.test_run_view import token_in, waiting_run

if TYPE_CHECKING:
    from tests.support.page_server import PageServer

pytestmark = pytest.mark.newest_airflow

SOON = 5.0
"""Seconds within which the others are answered; what hangs takes longer."""


def test_form_that_never_arrives_whole_holds_up_nobody(page: PageServer) -> None:
    client = page.client("admin")
    client.get(spend_path())  # signed in, and the server's modules are loaded
    head = (
        "POST /gemini-batch/jobs/list HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nCookie: _token={page.token('user')}\r\n\r\ntoken="
    )
    where = urlsplit(page.url)
    with closing(socket.create_connection((where.hostname, where.port), SOON)) as slow:
        slow.sendall(head.encode())
        assert [client.get(spend_path(), timeout=SOON).status_code for _ in range(5)] == [200] * 5


def test_google_that_does_not_answer_a_cancel_holds_up_no_view(page: PageServer) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:  # takes connections, and says nothing
        extra = {"timeout": 3 * SOON, "max_retries": 1}
        host = f"http://127.0.0.1:{silent.getsockname()[1]}"
        fields = {"conn_type": "gemini_batch", "host": host, "password": "k" * 39, "extra": extra}
        page.fill(connections=[{"conn_id": "gemini_silent", **fields}])
        trigger = {
            "classpath": "airflow_provider_gemini_batch.triggers.batch_job.BatchJobTrigger",
            "kwargs": {"job_name": "batches/live", "gemini_batch_conn_id": "gemini_silent"},
        }
        address = waiting_run(page, trigger=trigger)
        client, other = page.client("user"), page.client("admin")
        token = token_in(client.get(run_path(address)).text)
        with ThreadPoolExecutor(1) as pool:
            cancelling = pool.submit(client.post, "/run/cancel", data={**address.query(), "token": token})
            asked, _ = silent.accept()
            with closing(asked):
                assert other.get(run_path(address), timeout=SOON).status_code == 200
                assert not cancelling.done(), "Google has not answered yet"
            assert cancelling.result().status_code == 303


def test_storage_that_does_not_answer_holds_up_no_other_answers(page: PageServer, tmp_path: Path) -> None:
    here = answers_path(landed(page, write(tmp_path / "a.jsonl", 60)), status="all")
    client, others = page.client("admin"), page.client("viewer")
    client.get(here)  # signed in, and the server's modules are loaded
    with closing(socket.create_server(("127.0.0.1", 0))) as silent, ThreadPoolExecutor(4) as people:
        page.fill(stores=[{"conn_id": "stalled", "endpoint": f"http://127.0.0.1:{silent.getsockname()[1]}"}])
        there = answers_path(landed(page, "s3://stalled@bucket/a.jsonl"))
        asked = [people.submit(others.get, each) for each in (there, there, *[download_of(there)] * 2)]
        with closing(silent.accept()[0]):
            replies = [client.get(each, timeout=SOON).status_code for each in (here, download_of(here))]
            assert not any(each.done() for each in asked), "the storage has not answered"
        silent.close()  # whoever asks now is refused
        assert {each.result().status_code for each in asked} == {502}
    assert replies == [200, 200]


def download_of(answers: str) -> str:
    return answers.replace("/answers?", "/answers/download?").replace("&status=all", "")
