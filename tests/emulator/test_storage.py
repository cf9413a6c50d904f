# SPDX-License-Identifier: Apache-2.0
"""The Cloud Storage JSON API of the emulator, over HTTP."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import requests

from gemini_batch_emulator.storage import GRANULE, glob_pattern, object_store
from tests.support.discovery import schema_problems, schemas_of

if TYPE_CHECKING:
    from tests.support.emulator_serving import Served

UPLOAD = "/upload/storage/v1/b/emulator/o"
OBJECTS = "/storage/v1/b/emulator/o"


def start(served: Served, name: str = "big.jsonl", **params: str) -> str:
    """Begin a resumable upload; return its session URL."""
    reply = served.call("POST", UPLOAD, params={"uploadType": "resumable", "name": name, **params})
    assert reply.status_code == 200, reply.text
    return str(reply.headers["Location"])


def send(served: Served, session: str, data: bytes, content_range: str) -> tuple[int, str]:
    """PUT a chunk; return status and the Range that is kept."""
    reply = served.http.put(session, data=data, headers={"Content-Range": content_range}, timeout=30)
    return reply.status_code, reply.headers.get("Range", "")


def reason(reply: object) -> str:
    return str(reply.json()["error"]["errors"][0]["reason"])  # type: ignore[attr-defined]


def test_a_simple_upload_comes_back_byte_for_byte_with_its_hash(served: Served) -> None:
    data = os.urandom(100_000)
    stored = served.call(
        "POST", UPLOAD, params={"uploadType": "media", "name": "a/b c.bin"}, data=data, headers={"Content-Type": "x/y"}
    ).json()
    assert stored["md5Hash"] == base64.b64encode(hashlib.md5(data).digest()).decode()
    assert (stored["size"], stored["contentType"], stored["name"]) == ("100000", "x/y", "a/b c.bin")
    path = OBJECTS + "/a%2Fb%20c.bin"
    assert served.call("GET", path).json() == stored
    assert served.call("GET", path, params={"alt": "media"}).content == data
    assert served.call("GET", "/download" + path, params={"alt": "media"}).content == data


def test_every_reply_fits_googles_discovery_document(served: Served) -> None:
    schemas = schemas_of("storage.v1")
    served.put("a/o", ["{}"])
    served.put("p", ["{}"])
    replies = {
        "Object": served.call("GET", OBJECTS + "/p").json(),
        "Objects": served.call("GET", OBJECTS, params={"delimiter": "/", "maxResults": "1"}).json(),
        "Bucket": served.call("GET", "/storage/v1/b/emulator").json(),
        "Buckets": served.call("GET", "/storage/v1/b", params={"project": "p"}).json(),
    }
    for name, reply in replies.items():
        assert schema_problems(reply, name, schemas) == []


def test_a_multipart_upload_takes_metadata_and_data(served: Served) -> None:
    data = b"line\r\n--not-the-boundary\r\nline"
    metadata = json.dumps({"name": "m.txt", "metadata": {"k": "v"}}).encode()
    body = (
        b"--xyz\r\nContent-Type: application/json\r\n\r\n" + metadata + b"\r\n--xyz\r\nContent-Type: text/x\r\n\r\n"
    ) + data + b"\r\n--xyz--\r\n"  # fmt: skip
    stored = served.call(
        "POST",
        UPLOAD,
        params={"uploadType": "multipart"},
        data=body,
        headers={"Content-Type": 'multipart/related; boundary="xyz"'},
    ).json()
    assert (stored["contentType"], stored["metadata"]) == ("text/x", {"k": "v"})
    assert served.call("GET", OBJECTS + "/m.txt", params={"alt": "media"}).content == data


def test_a_resumable_upload_in_chunks(served: Served) -> None:
    data = os.urandom(2 * GRANULE + 77)
    session = start(served)
    assert session.startswith(served.url)
    assert send(served, session, b"", "bytes */*") == (308, "")
    assert send(served, session, data[:GRANULE], f"bytes 0-{GRANULE - 1}/*") == (308, f"bytes=0-{GRANULE - 1}")
    assert served.call("GET", OBJECTS + "/big.jsonl").status_code == 404
    last = f"bytes {GRANULE}-{len(data) - 1}/{len(data)}"
    assert send(served, session, data[GRANULE:], last)[0] == 200
    assert object_store(served.state).read("emulator", "big.jsonl") == data
    # A repeated last chunk (its answer was lost) and a query are answered with the object again.
    assert send(served, session, b"", f"bytes */{len(data)}")[0] == 200


def test_small_chunks_are_refused_and_odd_ones_kept_in_part(served: Served) -> None:
    session = start(served)
    assert send(served, session, b"x" * 1000, "bytes 0-999/*")[0] == 400
    odd = GRANULE + 500
    assert send(served, session, b"x" * odd, f"bytes 0-{odd - 1}/*") == (308, f"bytes=0-{GRANULE - 1}")
    assert send(served, session, b"x" * GRANULE, f"bytes {odd}-{odd + GRANULE - 1}/*")[0] == 503


def test_an_upload_kept_in_part_is_resumed_where_it_stands(served: Served) -> None:
    data = os.urandom(4 * GRANULE)
    served.state.configure({"extra": {"storage_keep_bytes": [GRANULE + 5]}})
    session = start(served)
    whole = f"bytes 0-{len(data) - 1}/{len(data)}"
    assert send(served, session, data, whole) == (308, f"bytes=0-{GRANULE - 1}")
    rest = f"bytes {GRANULE}-{len(data) - 1}/{len(data)}"
    assert send(served, session, data[GRANULE:], rest)[0] == 200
    assert object_store(served.state).read("emulator", "big.jsonl") == data


def test_a_cut_upload_is_resumed_where_it_stands(served: Served) -> None:
    data = os.urandom(4 * GRANULE)
    session = start(served)
    parts = urlsplit(session)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as raw:
        raw.sendall(
            f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(data)}\r\n"
            f"Content-Range: bytes 0-{len(data) - 1}/{len(data)}\r\n\r\n".encode()
            + data[: 2 * GRANULE + 100]
        )
    kept = ""
    for _ in range(200):
        status, kept = send(served, session, b"", f"bytes */{len(data)}")
        assert status == 308
        if kept:
            break
    assert kept == f"bytes=0-{2 * GRANULE - 1}"
    rest = f"bytes {2 * GRANULE}-{len(data) - 1}/{len(data)}"
    assert send(served, session, data[2 * GRANULE :], rest)[0] == 200
    assert object_store(served.state).read("emulator", "big.jsonl") == data


def test_the_cores_faults_cut_uploads_and_downloads(served: Served) -> None:
    data = os.urandom(4 * GRANULE)
    session = start(served)
    whole = f"bytes 0-{len(data) - 1}/{len(data)}"
    served.state.add_fault(match={"method": "PUT"}, action="cut_upload", bytes=3 * GRANULE + 9)
    with pytest.raises(requests.ConnectionError):
        send(served, session, data, whole)
    assert send(served, session, b"", f"bytes */{len(data)}") == (308, f"bytes=0-{3 * GRANULE - 1}")
    assert send(served, session, data[3 * GRANULE :], f"bytes {3 * GRANULE}-{len(data) - 1}/{len(data)}")[0] == 200
    served.state.add_fault(match={"query": "alt=media"}, action="cut_response", bytes=1000)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        served.call("GET", OBJECTS + "/big.jsonl", params={"alt": "media"})
    rest = served.call("GET", OBJECTS + "/big.jsonl", params={"alt": "media"}, headers={"Range": "bytes=1000-"})
    assert (rest.status_code, rest.content) == (206, data[1000:])


def test_bytes_sent_twice_count_once(served: Served) -> None:
    data = os.urandom(3 * GRANULE)
    session = start(served)
    send(served, session, data[: 2 * GRANULE], f"bytes 0-{2 * GRANULE - 1}/*")
    assert send(served, session, data[GRANULE:], f"bytes {GRANULE}-{len(data) - 1}/{len(data)}")[0] == 200
    assert object_store(served.state).read("emulator", "big.jsonl") == data


def test_a_cancelled_session_is_499_then_gone(served: Served) -> None:
    session = start(served)
    assert served.http.delete(session, timeout=10).status_code == 499
    assert send(served, session, b"x", "bytes 0-0/1")[0] == 410
    unknown = served.call("PUT", UPLOAD, params={"uploadType": "resumable", "upload_id": "nope"}, data=b"x")
    assert unknown.status_code == 404


def test_bytes_that_do_not_fit_the_announced_hash_are_refused(served: Served) -> None:
    params = {"uploadType": "resumable", "name": "h"}
    announced = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    session = served.call("POST", UPLOAD, params=params, json={"md5Hash": announced}).headers["Location"]
    assert send(served, session, b"x", "bytes 0-0/1")[0] == 400
    assert served.call("GET", OBJECTS + "/h").status_code == 404


def test_create_only_fails_with_412_when_the_object_is_there(served: Served) -> None:
    served.put("in.jsonl", ["{}"])
    for kind in ("media", "resumable"):
        params = {"uploadType": kind, "name": "in.jsonl", "ifGenerationMatch": "0"}
        reply = served.call("POST", UPLOAD, params=params, data=b"")
        assert (reply.status_code, reason(reply)) == (412, "conditionNotMet")
    # The object may also come between start and end of an upload.
    session = start(served, "late.jsonl", ifGenerationMatch="0")
    served.put("late.jsonl", ["{}"])
    assert send(served, session, b"x", "bytes 0-0/1")[0] == 412


def test_generations_pin_reads_and_deletes(served: Served) -> None:
    served.put("o", ["1"])
    old = served.call("GET", OBJECTS + "/o").json()["generation"]
    served.put("o", ["2"])
    new = served.call("GET", OBJECTS + "/o").json()["generation"]
    assert int(new) > int(old)
    assert served.call("GET", OBJECTS + "/o", params={"alt": "media", "generation": old}).status_code == 404
    assert served.call("GET", OBJECTS + "/o", params={"ifGenerationNotMatch": new}).status_code == 304
    assert served.call("DELETE", OBJECTS + "/o", params={"ifGenerationMatch": old}).status_code == 412
    assert served.call("DELETE", OBJECTS + "/o").status_code == 204
    gone = served.call("DELETE", OBJECTS + "/o")
    assert (gone.status_code, reason(gone)) == (404, "notFound")


def test_ranges(served: Served) -> None:
    object_store(served.state).put("emulator", "r", bytes(range(100)))

    def read(header: str) -> tuple[int, bytes, str | None]:
        reply = served.call("GET", OBJECTS + "/r", params={"alt": "media"}, headers={"Range": header})
        return reply.status_code, reply.content, reply.headers.get("Content-Range")

    assert read("bytes=10-19") == (206, bytes(range(10, 20)), "bytes 10-19/100")
    assert read("bytes=90-") == (206, bytes(range(90, 100)), "bytes 90-99/100")
    assert read("bytes=-5") == (206, bytes(range(95, 100)), "bytes 95-99/100")
    assert read("bytes=100-")[0] == 416


def test_gzip_objects_are_unpacked_for_clients_that_do_not_ask_for_gzip(served: Served) -> None:
    data = b"line\n" * 1000
    object_store(served.state).put("emulator", "z", gzip.compress(data), content_encoding="gzip")
    plain = {"Accept-Encoding": "identity", "Range": "bytes=0-9"}
    reply = served.call("GET", OBJECTS + "/z", params={"alt": "media"}, headers=plain)
    assert (reply.status_code, reply.content) == (200, data)
    packed = served.call("GET", OBJECTS + "/z", params={"alt": "media"}, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.content == data


def test_listing_by_prefix_delimiter_glob_and_offset(served: Served) -> None:
    for name in ("a/1.jsonl", "a/2.txt", "a/deep/3.jsonl", "b.jsonl"):
        served.put(name, ["{}"])

    def names(**params: str) -> list[str]:
        return [item["name"] for item in served.call("GET", OBJECTS, params=params).json().get("items", [])]

    assert names() == ["a/1.jsonl", "a/2.txt", "a/deep/3.jsonl", "b.jsonl"]
    assert names(prefix="a/") == ["a/1.jsonl", "a/2.txt", "a/deep/3.jsonl"]
    assert names(matchGlob="a/*.jsonl") == ["a/1.jsonl"]
    assert names(matchGlob="**.jsonl") == ["a/1.jsonl", "a/deep/3.jsonl", "b.jsonl"]
    assert names(startOffset="a/2.txt", endOffset="b") == ["a/2.txt", "a/deep/3.jsonl"]
    folders = served.call("GET", OBJECTS, params={"delimiter": "/"}).json()
    assert folders["prefixes"] == ["a/"]
    assert [item["name"] for item in folders["items"]] == ["b.jsonl"]
    assert "items" not in served.call("GET", OBJECTS, params={"prefix": "nothing"}).json()


def test_listing_pages_give_every_object_once(served: Served) -> None:
    expected = [f"p/{number:03d}" for number in range(25)]
    for name in expected:
        served.put(name, ["{}"])
    seen: list[str] = []
    token = ""
    pages = 0
    while True:
        page = served.call("GET", OBJECTS, params={"prefix": "p/", "maxResults": "10", "pageToken": token}).json()
        seen += [item["name"] for item in page["items"]]
        pages += 1
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert (seen, pages) == (expected, 3)


def test_buckets_are_created_once(served: Served) -> None:
    made = served.call("POST", "/storage/v1/b", params={"project": "p"}, json={"name": "new-one", "location": "EU"})
    assert (made.status_code, made.json()["location"]) == (200, "EU")
    assert served.call("POST", "/storage/v1/b", params={"project": "p"}, json={"name": "new-one"}).status_code == 409
    assert served.call("GET", "/storage/v1/b/new-one").status_code == 200
    missing = served.call("GET", "/storage/v1/b/never/o")
    assert (missing.status_code, reason(missing)) == (404, "notFound")
    assert served.call("DELETE", "/storage/v1/b/new-one").status_code == 204


def test_a_forbidden_bucket_and_a_denied_permission_are_403(served: Served) -> None:
    object_store(served.state).create_bucket("closed")
    served.state.configure(
        {"forbidden_buckets": ["closed"], "extra": {"storage_denied": {"emulator": ["storage.objects.create"]}}}
    )
    refused = served.call("GET", "/storage/v1/b/closed/o")
    assert (refused.status_code, reason(refused)) == (403, "forbidden")
    upload = served.call("POST", UPLOAD, params={"uploadType": "media", "name": "x"}, data=b"")
    assert upload.status_code == 403
    assert "storage.objects.create" in upload.json()["error"]["message"]
    assert served.call("GET", OBJECTS).status_code == 200


def test_a_bad_token_is_401_and_none_only_where_the_knob_says_so(served: Served) -> None:
    del served.http.headers["Authorization"]
    assert served.call("GET", OBJECTS).status_code == 200
    assert served.call("GET", OBJECTS, headers={"Authorization": "Bearer expired-1"}).status_code == 401
    served.state.configure({"accepted_tokens": []})
    assert served.call("GET", OBJECTS).status_code == 401


def test_a_reader_keeps_its_object_while_it_is_replaced(served: Served) -> None:
    data = os.urandom(30 << 20)
    object_store(served.state).put("emulator", "o", data)
    reply = served.call("GET", OBJECTS + "/o", params={"alt": "media"}, stream=True)
    first = reply.raw.read(1000)
    served.put("o", ["short"])
    assert first + reply.raw.read() == data


@pytest.mark.parametrize(
    ("glob", "name", "expected"),
    [
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a*b", "a/b", False),
        ("x.{json,csv}", "x.csv", True),
        ("x.{json,csv}", "x.txt", False),
        ("[!a]1", "b1", True),
        ("a?c", "a.c", True),
        ("a.c", "abc", False),
    ],
)
def test_glob(glob: str, name: str, *, expected: bool) -> None:
    assert (glob_pattern(glob).fullmatch(name) is not None) is expected
