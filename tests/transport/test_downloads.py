# SPDX-License-Identifier: Apache-2.0
"""Streamed downloads against a real server on localhost: resumed where they were cut, never put together wrongly."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from airflow_provider_gemini_batch.api.wire import HttpRequest
from airflow_provider_gemini_batch.connection.settings import ConnectionSettings, Secret
from airflow_provider_gemini_batch.errors import (
    AuthError,
    GeminiBatchError,
    NotFoundError,
    ReplyFormatError,
    RequestRejectedError,
    TransportError,
)
from airflow_provider_gemini_batch.transport import downloads
from airflow_provider_gemini_batch.transport.blocking import BlockingTransport
from airflow_provider_gemini_batch.transport.credentials import ApiKeyCredentials
from tests.support import odd_server as serving
from tests.support.frames import frames_of
from tests.support.odd_server import Answer, close, raw, reply

FILE = bytes(range(256)) * 8
CUT = 700
Start = Callable[..., serving.ScriptedServer]


@pytest.fixture
def start() -> Iterator[Start]:
    with serving.servers() as started:
        yield started.start


def head(status: int, headers: Mapping[str, Any]) -> bytes:
    return serving.head(status, {name: str(value) for name, value in headers.items()})


def whole(body: bytes = FILE, **headers: Any) -> Answer:
    return reply(200, body, headers)


def cut(body: bytes = FILE, at: int = CUT, **headers: Any) -> Answer:
    return raw(head(200, {"Content-Length": len(body), **headers}) + body[:at])


def part(first: int, last: int | None = None, body: bytes = FILE, total: Any = None, **headers: Any) -> Answer:
    """Answer with bytes *first* to *last*, both included."""
    end = len(body) - 1 if last is None else last
    span = f"bytes {first}-{end}/{len(body) if total is None else total}"
    return reply(206, body[first : end + 1], {"Content-Range": span, **headers})


def beyond(size: int | None) -> Answer:
    return reply(416, b"", {} if size is None else {"Content-Range": f"bytes */{size}"})


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What breaks off in the middle of a piece is not kept; so that cuts count here, pieces end where they cut."""
    monkeypatch.setattr(downloads, "READ_BYTES", 1)


def download(server: serving.ScriptedServer, credentials: Any = None) -> bytes:
    def request_from(offset: int) -> HttpRequest:
        return HttpRequest("GET", f"{server.url}/file", (), {"Range": f"bytes={offset}-"} if offset else {})

    settings = ConnectionSettings("gemini", server.url, "v1beta", timeout=10, max_retries=3)
    keys = credentials or ApiKeyCredentials(Secret("k"))
    with BlockingTransport(settings, keys, sleep=lambda seconds: None) as transport:
        return b"".join(transport.stream(request_from))


@pytest.mark.parametrize(
    "rest",
    [
        [part(CUT)],
        [reply(206, FILE[CUT:])],
        [whole()],
        [part(CUT, 999), part(1000)],
        [part(CUT, 999, total="*"), part(1000)],
        [part(CUT - 100)],
        [part(0)],
        [cut(at=CUT - 1), part(CUT)],
        [cut(at=CUT + 1), part(CUT + 1)],
        [raw(head(206, {"Content-Range": "bytes 700-2047/2048", "Content-Length": 1348}) + FILE[700:900]), part(900)],
        [raw(b"HTTP/1.1 206 Partial Content\r\nContent-Ra"), part(CUT)],
        [raw(b"HTTP/1.1 200 OK\r\nContent-Ty"), whole()],
        [reply(503, b""), close(), part(CUT)],
        [part(CUT, ETag='"1"')],
    ],
    ids=["part", "part-without-place", "whole", "part-of-the-part", "part-without-size", "part-from-before",
         "part-from-the-start",
         "whole-cut-before", "whole-cut-behind", "part-cut", "head-of-part-cut", "head-of-whole-cut", "trouble",
         "version"],
)  # fmt: skip
def test_a_cut_download_is_put_together_to_identical_bytes(start: Start, rest: list[Answer]) -> None:
    server = start(cut(), *rest)
    assert download(server) == FILE
    assert server.seen[1].headers["range"] == f"bytes={CUT}-"


@pytest.mark.parametrize("packed", [gzip.compress(FILE), gzip.compress(FILE[:9]) + gzip.compress(FILE[9:])])
def test_what_is_packed_all_the_same_is_unpacked(start: Start, packed: bytes) -> None:
    assert download(start(reply(200, packed, {"Content-Encoding": "gzip"}))) == FILE


def test_what_ends_within_its_packed_bytes_is_not_whole(start: Start) -> None:
    half = reply(200, gzip.compress(FILE)[:-20], {"Content-Encoding": "gzip"})
    with pytest.raises(TransportError, match="ended within its packed bytes"):
        download(start(half))
    assert download(start(half, whole())) == FILE


def test_what_is_packed_otherwise_is_no_content(start: Start) -> None:
    with pytest.raises(TransportError, match="packed its reply as 'br'"):
        download(start(reply(200, FILE, {"Content-Encoding": "br"})))


def test_a_head_that_is_cut_is_no_empty_file(start: Start) -> None:
    assert download(start(raw(b"HTTP/1.1 200 OK\r\nContent-Ty"), whole())) == FILE


@pytest.mark.parametrize(
    "first",
    [
        raw(head(200, {"Transfer-Encoding": "chunked"}) + b"zz\r\nabcde\r\n0\r\n\r\n"),
        reply(200, b"no gzip", {"Content-Encoding": "gzip"}),
        raw(b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    ],
    ids=["no-chunk", "no-gzip", "interim"],
)
def test_a_reply_that_is_no_file_is_asked_for_again(start: Start, first: Answer) -> None:
    assert download(start(first, whole())) == FILE


@pytest.mark.parametrize("length", [b"\xb2", b"9" * 5000, b"-1"])
def test_a_length_that_is_none_is_left_out(start: Start, length: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: " + length + b"\r\n\r\n" + FILE
    assert download(start(raw(answer))) == FILE


@pytest.mark.parametrize("answer", [cut(), reply(503, b""), close(), reply(302, b"", {"Location": "http://x.invalid"})])
def test_no_frame_of_an_error_holds_the_credentials(start: Start, answer: Answer) -> None:
    key = "AIzaSy-the-key-of-the-download-tests-0123"
    with pytest.raises(GeminiBatchError) as caught:
        download(start(answer), ApiKeyCredentials(Secret(key)))
    frames = frames_of(caught.value)
    assert frames
    assert not [name for name, values in frames if key in values or "urllib3" in name or "/requests/" in name]


def test_an_empty_file_is_empty(start: Start) -> None:
    assert download(start(whole(b""))) == b""


@pytest.mark.parametrize("told", [len(FILE), None])
def test_nothing_beyond_the_end_is_the_end(start: Start, told: int | None) -> None:
    """All bytes came, but the connection broke before it was clear that they were all."""
    everything = b"%x\r\n%b\r\n" % (len(FILE), FILE)
    server = start(raw(head(200, {"Transfer-Encoding": "chunked"}) + everything), beyond(told))
    assert download(server) == FILE


@pytest.mark.parametrize(
    "second",
    [
        whole(FILE + b"more"),
        whole(FILE[: CUT - 1]),
        whole(b""),
        part(CUT, body=FILE + b"more"),
        part(CUT, ETag='"2"'),
        whole(ETag='"2"'),
        part(CUT, **{"x-goog-generation": "2"}),
    ],
    ids=["longer", "shorter", "empty", "part-of-longer",
         "part-of-another", "whole-of-another", "another-generation"],
)  # fmt: skip
def test_a_file_that_changed_meanwhile_is_an_error_and_not_a_mixture(start: Start, second: Answer) -> None:
    server = start(cut(**{"ETag": '"1"', "x-goog-generation": "1"}), second)
    with pytest.raises(GeminiBatchError, match="replaced by another"):
        download(server)
    assert len(server.seen) == 2


@pytest.mark.parametrize("told", [CUT, CUT - 1, 5000, None])
def test_nothing_beyond_is_no_end_while_bytes_are_lacking(start: Start, told: int | None) -> None:
    with pytest.raises(RequestRejectedError):
        download(start(cut(), beyond(told)))


@pytest.mark.parametrize(
    "part_of_it",
    [part(CUT + 1), reply(206, FILE[CUT - 1 :]), part(CUT, **{"Content-Encoding": "gzip"}), reply(206, b"", {})],
    ids=["too-far", "no-place", "compressed", "nothing"],
)
def test_a_part_that_does_not_go_on_where_it_should_is_never_taken(start: Start, part_of_it: Answer) -> None:
    server = start(cut(), part_of_it)
    with pytest.raises(ReplyFormatError, match="Asked for the bytes from 700 on"):
        download(server)
    assert len(server.seen) == 8, "it gives up after eight tries without a new byte"
    server = start(cut(), part_of_it, part(CUT))
    assert download(server) == FILE


def test_nothing_at_the_very_beginning_is_no_end(start: Start) -> None:
    with pytest.raises(GeminiBatchError):
        download(start(beyond(0)))


def test_tries_are_counted_from_the_last_byte_on(start: Start) -> None:
    server = start(cut(at=1), *[part_cut(n) for n in range(1, 40)], part(40))
    assert download(server) == FILE
    assert len(server.seen) == 41


def part_cut(first: int) -> Answer:
    """Answer with one byte of what was asked for, and close."""
    end = len(FILE) - 1
    span = f"bytes {first}-{end}/{len(FILE)}"
    return raw(head(206, {"Content-Range": span, "Content-Length": len(FILE) - first}) + FILE[first : first + 1])


def test_what_does_not_pass_is_told_at_once(start: Start) -> None:
    server = start(cut(), reply(404, b"{}"))
    with pytest.raises(NotFoundError):
        download(server)
    assert len(server.seen) == 2


class Tokens:
    """Tokens 1, 2, 3, ...; each is good until it is refused."""

    def __init__(self) -> None:
        self.number = 1

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.number}"}

    def invalidate(self, refused: Mapping[str, str] | None = None) -> None:
        self.number += 1


def test_a_token_may_run_out_more_than_once_in_a_long_download(start: Start) -> None:
    refused = reply(401, b"{}")
    server = start(refused, cut(), refused, part(CUT, 999), refused, part(1000))
    assert download(server, Tokens()) == FILE
    assert [seen.headers["authorization"][-1] for seen in server.seen] == ["1", "2", "2", "3", "3", "4"]


def test_a_token_refused_twice_in_a_row_is_an_error(start: Start) -> None:
    server = start(cut(), reply(401, b"{}"))
    with pytest.raises(AuthError):
        download(server, Tokens())
    assert len(server.seen) == 3
