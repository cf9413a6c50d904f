# SPDX-License-Identifier: Apache-2.0
"""The emulator's Files API over plain HTTP: uploads whole, in chunks, cut and resumed; files that vanish."""

from __future__ import annotations

import base64
import hashlib
import random
from typing import TYPE_CHECKING, Any

import pytest
import requests

from .conftest import Caller, generate_line

if TYPE_CHECKING:
    from pathlib import Path

GRANULE = 8 << 20


def blob(size: int, seed: int = 0) -> bytes:
    """Bytes that repeat nowhere."""
    return random.Random(seed).randbytes(size)


def stored(caller: Caller, name: str) -> bytes:
    """What the emulator keeps of a file."""
    from gemini_batch_emulator.developer.store import file_store

    path: Path = file_store(caller.emulator.state).files[name].path
    return path.read_bytes()


def test_an_upload_in_chunks_arrives_whole(caller: Caller) -> None:
    data = blob(GRANULE + 12_345)
    start = caller.start(len(data), displayName="in.jsonl")
    assert start.content == b""
    assert start.headers["x-goog-upload-status"] == "active"
    assert start.headers["x-goog-upload-chunk-granularity"] == str(GRANULE)
    url = start.headers["x-goog-upload-url"]
    assert url.startswith(f"{caller.emulator.url}/upload/{caller.version}/files?upload_id=")
    first = caller.push(url, "upload", 0, data[:GRANULE])
    assert first.headers["x-goog-upload-status"] == "active"
    last = caller.push(url, "upload, finalize", GRANULE, data[GRANULE:])
    assert last.headers["x-goog-upload-status"] == "final"
    file = last.json()["file"]
    assert stored(caller, file["name"]) == data
    assert file["sizeBytes"] == str(len(data))
    assert file["sha256Hash"] == base64.b64encode(hashlib.sha256(data).hexdigest().encode()).decode()
    assert file["state"] == "ACTIVE"
    assert file["source"] == "UPLOADED"
    assert file["displayName"] == "in.jsonl"
    assert file["mimeType"] == "application/jsonl"
    assert caller.call("GET", file["name"]).json()["sha256Hash"] == file["sha256Hash"]


def test_a_separate_finalize_ends_an_upload(one: Caller) -> None:
    one.emulator.configure(upload_granularity=0)
    start = one.start()
    assert "x-goog-upload-chunk-granularity" not in start.headers
    url = start.headers["x-goog-upload-url"]
    one.push(url, "upload", 0, b"abc")
    assert one.push(url, "finalize").json()["file"]["sizeBytes"] == "3"


def test_a_query_tells_what_has_arrived(one: Caller) -> None:
    url = one.start(2 * GRANULE).headers["x-goog-upload-url"]
    one.push(url, "upload", 0, blob(GRANULE))
    query = one.push(url, "query")
    assert query.headers["x-goog-upload-status"] == "active"
    assert query.headers["x-goog-upload-size-received"] == str(GRANULE)


def test_a_wrong_offset_an_odd_chunk_and_a_wrong_total_are_refused(one: Caller) -> None:
    url = one.start(10).headers["x-goog-upload-url"]
    wrong = one.push(url, "upload, finalize", 5, b"12345")
    assert wrong.status_code == 412
    assert wrong.headers["x-goog-upload-size-received"] == "0"
    assert wrong.headers["x-goog-upload-status"] == "active"
    assert one.push(url, "upload", 0, b"odd").status_code == 400
    assert one.push(url, "upload, finalize", 0, b"short").status_code == 400
    assert one.push(url, "upload, finalize", 5, b"-long").status_code == 200


def test_a_cancelled_session_takes_nothing_more(one: Caller) -> None:
    url = one.start(3).headers["x-goog-upload-url"]
    assert one.push(url, "cancel").headers["x-goog-upload-status"] == "cancelled"
    late = one.push(url, "upload, finalize", 0, b"abc")
    assert late.headers["x-goog-upload-status"] == "cancelled"
    assert one.call("GET", "files").json() == {}
    assert one.push(url.replace("upload_id=", "upload_id=x"), "query").status_code == 404


def test_an_upload_cut_three_times_is_resumed_to_identical_bytes(one: Caller) -> None:
    data = blob(3 * GRANULE + 77)
    url = one.start(len(data)).headers["x-goog-upload-url"]
    for cut in (1_000_000, 3_000_000, 5_000_001):
        one.emulator.fault(match={"path": "^/upload/"}, action="cut_upload", bytes=cut)
        offset = received(one, url)
        with pytest.raises(requests.ConnectionError):
            one.push(url, "upload, finalize", offset, data[offset:])
    offset = received(one, url)
    assert offset == 9_000_001
    file = one.push(url, "upload, finalize", offset, data[offset:]).json()["file"]
    assert stored(one, file["name"]) == data
    assert file["sha256Hash"] == base64.b64encode(hashlib.sha256(data).hexdigest().encode()).decode()


def received(caller: Caller, url: str) -> int:
    """Ask a session how much has arrived; the fault that waits for data is skipped by asking past it."""
    rules = list(caller.emulator.state.faults)
    caller.emulator.clear_faults()
    query = caller.push(url, "query")
    caller.emulator.state.faults.extend(rule for rule in rules if not rule.fired)
    return int(query.headers["x-goog-upload-size-received"])


def test_a_lost_answer_to_finalize_can_be_asked_for_again(one: Caller) -> None:
    url = one.start(3).headers["x-goog-upload-url"]
    one.emulator.fault(match={"path": "^/upload/"}, action="close", when="after")
    with pytest.raises(requests.ConnectionError):
        one.push(url, "upload, finalize", 0, b"abc")
    query = one.push(url, "query")
    assert query.headers["x-goog-upload-status"] == "final"
    assert query.json()["file"]["sizeBytes"] == "3"
    assert one.push(url, "upload, finalize", 0, b"abc").json() == query.json()
    assert len(one.call("GET", "files").json()["files"]) == 1


def test_the_last_answer_may_lack_the_file_or_hold_an_error(one: Caller) -> None:
    one.emulator.configure(upload_final_without_file=True)
    url = one.start(3).headers["x-goog-upload-url"]
    answer = one.push(url, "upload, finalize", 0, b"abc")
    assert (answer.status_code, answer.json()) == (200, {})
    one.emulator.configure(upload_final_without_file=False, reject_mime_types=["jsonl"])
    url = one.start(3, mime="jsonl").headers["x-goog-upload-url"]
    answer = one.push(url, "upload, finalize", 0, b"abc")
    assert answer.status_code == 200
    assert answer.json()["error"]["message"] == "Unsupported MIME type: jsonl"


def test_multipart_and_raw_uploads_work(one: Caller) -> None:
    url = f"{one.emulator.url}/upload/v1beta/files"
    data = b'{"key": "a"}\r\n--not-a-boundary\n'
    body = (
        b'--xyz\r\nContent-Type: application/json\r\n\r\n{"file": {"displayName": "m", "name": "files/mine"}}\r\n'
        b"--xyz\r\nContent-Type: application/jsonl\r\n\r\n" + data + b"\r\n--xyz--\r\n"
    )
    headers = {"Content-Type": "multipart/related; boundary=xyz"}
    file = one.http.post(url, params={"uploadType": "multipart"}, data=body, headers=headers, timeout=10).json()["file"]
    assert (file["name"], file["displayName"], file["mimeType"]) == ("files/mine", "m", "application/jsonl")
    assert stored(one, "files/mine") == data
    headers = {"X-Goog-Upload-Protocol": "raw", "Content-Type": "text/plain"}
    file = one.http.post(url, data=b"raw", headers=headers, timeout=10).json()["file"]
    assert stored(one, file["name"]) == b"raw"


def test_names_are_checked_and_taken_once(one: Caller) -> None:
    assert one.upload(b"a", name="files/my-id")["name"] == "files/my-id"
    one.start(1, name="files/my-id", expect=409)
    for name in ("x" * 41, "Upper", "-dash", "dash-", "under_score"):
        one.start(1, name=f"files/{name}", expect=400)
    one.start(1, displayName="x" * 513, expect=400)


def test_files_are_listed_newest_first_in_pages_without_outputs(caller: Caller) -> None:
    assert caller.call("GET", "files").json() == {}
    names = [caller.upload([generate_line("a")])["name"] for _ in range(12)]
    caller.ended(caller.create(names[0]))
    first = caller.call("GET", "files").json()
    assert [file["name"] for file in first["files"]] == names[:1:-1]
    rest = caller.call("GET", "files", params={"pageToken": first["nextPageToken"], "pageSize": 100}).json()
    assert [file["name"] for file in rest["files"]] == names[1::-1]
    assert "nextPageToken" not in rest


def test_a_deleted_or_expired_file_answers_403(caller: Caller) -> None:
    gone, old = caller.upload(b"{}"), caller.upload(b"{}")
    caller.call("DELETE", gone["name"])
    for method in ("GET", "DELETE"):
        error = caller.call(method, gone["name"], expect=403).json()["error"]
        assert error["status"] == "PERMISSION_DENIED"
        assert "may not exist" in error["message"]
    caller.emulator.advance(48 * 3600 + 1)
    caller.call("GET", old["name"], expect=403)
    assert caller.call("GET", "files").json() == {}


def test_the_output_of_a_job_can_only_be_downloaded(caller: Caller) -> None:
    file = caller.upload([generate_line("a")])
    output = caller.ended(caller.create(file["name"]))["response"]["responsesFile"]
    for method in ("GET", "DELETE"):
        assert "40 characters" in caller.call(method, output, expect=400).json()["error"]["message"]
    caller.call("GET", f"{output}:download?alt=media")
    caller.call("GET", f"{file['name']}:download?alt=media", expect=400)
    caller.call("GET", "files/batch-nothing:download?alt=media", expect=404)


def test_ranges_are_ignored_unless_the_knob_says_otherwise(one: Caller) -> None:
    file = one.upload([generate_line("a"), generate_line("b")])
    path = f"{one.ended(one.create(file['name']))['response']['responsesFile']}:download?alt=media"
    whole = one.call("GET", path, headers={"Range": "bytes=10-19"}).content
    one.emulator.configure(download_ranges=True)
    part = one.call("GET", path, headers={"Range": "bytes=10-19"}, expect=206)
    assert part.content == whole[10:20]
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(whole)}"
    assert one.call("GET", path, headers={"Range": "bytes=10-"}, expect=206).content == whole[10:]
    one.call("GET", path, headers={"Range": f"bytes={len(whole)}-"}, expect=416)


def test_a_processing_file_cannot_be_used_until_it_is_active(one: Caller) -> None:
    one.emulator.configure(file_processing_polls=2)
    file = one.upload([generate_line("a")])
    assert file["state"] == "PROCESSING"
    assert one.create(file["name"], expect=400)["error"]["status"] == "FAILED_PRECONDITION"
    states = [one.call("GET", file["name"]).json()["state"] for _ in range(3)]
    assert states == ["PROCESSING", "PROCESSING", "ACTIVE"]
    one.create(file["name"])
    one.emulator.configure(file_state="FAILED")
    assert one.call("GET", file["name"]).json()["error"]["code"] == 3


@pytest.mark.parametrize("announced", [True, False])
def test_files_over_the_limit_are_refused(one: Caller, announced: bool) -> None:
    one.emulator.configure(max_file_bytes=100)
    if announced:
        one.start(101, expect=400)
        return
    answer: Any = one.push(one.start().headers["x-goog-upload-url"], "upload, finalize", 0, b"x" * 101)
    assert answer.status_code == 400
