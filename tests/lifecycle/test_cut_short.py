# SPDX-License-Identifier: Apache-2.0
"""Whether a cancel cut a job short is read from a piece of its answers, over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from airflow_provider_gemini_batch.api.models import BatchJob, BatchStats, JobOutput
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.client.client import GeminiBatchClient
from airflow_provider_gemini_batch.lifecycle.cut_short import SAMPLE_BYTES, CutShort

ROWS = 60_000
GOOD = {"response": {"candidates": [{"content": {"parts": [{"text": 'he said "error": {"code": 1} and left'}]}}]}}


class Answers:
    """A server with one file of answers, which counts what it sends."""

    def __init__(self, lines: list[dict[str, Any]], *, honours_range: bool, status: int = 200) -> None:
        content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        self.sent = 0
        self.gets = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.gets += 1
                wanted = self.headers.get("Range", "")
                part, code = content, status
                if honours_range and wanted.startswith("bytes=-"):
                    part, code = content[-int(wanted[7:]) :], 206
                self.send_response(code)
                self.send_header("Content-Length", str(len(part)))
                self.end_headers()
                for first in range(0, len(part), 65536):
                    try:
                        self.wfile.write(part[first : first + 65536])
                    except OSError:
                        return
                    outer.sent += len(part[first : first + 65536])

            def log_message(self, format: str, *words: Any) -> None:
                """Say nothing."""

        self.size = len(content)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def is_cut_short(self, failed: int, total: int, stats: BatchStats | None = None) -> bool:
        url = f"http://127.0.0.1:{self.server.server_address[1]}"
        client = GeminiBatchClient.connect("key", base_url=url, max_retries=1)
        job = BatchJob(
            "batches/a",
            state=JobState.SUCCEEDED,
            stats=stats or BatchStats(total=total, succeeded=total - failed, failed=failed),
            output=JobOutput("file", "files/batch-a"),
        )
        self.judge = CutShort(client.backend, client.retry)
        self.job = job
        verdict = client.run(self.judge(job))
        self.is_kept = job.name in self.judge.verdicts
        client.run(self.judge(job))  # known by now
        return verdict


@pytest.fixture
def answers() -> Iterator[Any]:
    servers: list[Answers] = []

    def make(lines: list[dict[str, Any]], **how: Any) -> Answers:
        servers.append(Answers(lines, **how))
        return servers[-1]

    yield make
    for one in servers:
        one.server.shutdown()
        one.server.server_close()


def failed(code: int) -> dict[str, Any]:
    return {"key": "k", "error": {"code": code, "message": 'a "quoted" {message}'}}


@pytest.mark.parametrize("honours_range", [True, False])
@pytest.mark.parametrize(
    ("bad", "verdict"),
    [([failed(1)] * 20_000, True), ([failed(3)] * 20, False)],
    ids=["cancelled half-way", "some rows were refused"],
)
def test_a_piece_of_a_large_file_tells(
    answers: Any, honours_range: bool, bad: list[dict[str, Any]], verdict: bool
) -> None:
    server = answers([GOOD] * (ROWS - len(bad)) + bad, honours_range=honours_range)
    assert server.is_cut_short(len(bad), ROWS) is verdict
    assert server.size > 4 * SAMPLE_BYTES
    # What the kernel's buffers hold is sent, but not read.
    assert server.sent < server.size
    assert server.gets == 1


def test_a_text_that_looks_like_an_error_is_none(answers: Any) -> None:
    server = answers([GOOD, failed(3)], honours_range=False)
    assert server.is_cut_short(1, 2) is False


def test_the_code_is_found_behind_other_members(answers: Any) -> None:
    server = answers([GOOD, {"error": {"message": "m", "code": 1}}], honours_range=False)
    assert server.is_cut_short(1, 2) is True


def test_answers_that_are_not_there_yet_are_no_sign_of_a_cancel(answers: Any) -> None:
    server = answers(
        [{"error": {"code": 404, "status": "NOT_FOUND", "message": "no"}}], honours_range=False, status=404
    )
    assert server.is_cut_short(1, 2) is False
    assert not server.is_kept  # the next attempt looks again


@pytest.mark.parametrize("stats", [BatchStats(2), BatchStats(2, 1, 0)], ids=["no counts", "a row in neither count"])
@pytest.mark.parametrize("code", [1, 3])
def test_a_job_whose_counts_leave_rows_open_is_read(answers: Any, stats: BatchStats, code: int) -> None:
    server = answers([GOOD, failed(code)], honours_range=True)
    assert server.is_cut_short(0, 2, stats) is (code == 1)


def test_without_failed_rows_nothing_is_read(answers: Any) -> None:
    server = answers([GOOD], honours_range=False)
    assert server.is_cut_short(0, 2) is False
    assert server.gets == 0


@pytest.mark.parametrize("style", ["inline", "file"])
def test_a_job_that_was_cancelled_half_way_is_told_by_the_service_itself(
    gemini_batch_emulator: Any, tmp_path: Any, style: str
) -> None:
    connection = gemini_batch_emulator.connection("gemini")
    client = GeminiBatchClient.connect(connection["password"], base_url=connection["host"])
    rows = [{"key": f"k{number}", "prompt": f"Say {number}."} for number in range(10)]
    source: dict[str, Any] = {"inlined_requests": rows}
    if style == "file":
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"input_path": str(path)}
    gemini_batch_emulator.script(mode="time", pending_seconds=0, running_seconds=100)
    job = client.create_batch("gemini-3.5-flash-lite", **source)
    gemini_batch_emulator.advance(60)
    client.cancel_batch(job.name)
    gemini_batch_emulator.advance(60)
    ended = client.get_batch(job.name)
    assert ended.state.has_results
    assert 0 < (ended.stats.succeeded or 0) < 10
    assert client.run(CutShort(client.backend, client.retry)(ended))
