# SPDX-License-Identifier: Apache-2.0
"""Downloads that go on after a cut hold every byte once, whatever the service makes of a range."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from airflow_provider_gemini_batch.api.retry import RetryPolicy
from airflow_provider_gemini_batch.api.wire import HttpRequest
from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
from airflow_provider_gemini_batch.errors import GeminiBatchError, RequestRejectedError
from airflow_provider_gemini_batch.transport.blocking import BlockingTransport
from airflow_provider_gemini_batch.transport.credentials import FixedCredentials
from tests.support import odd_server as serving
from tests.support.odd_server import chunked, raw, reply, short

WHOLE = bytes(range(256)) * 40
HALF = len(WHOLE) // 2
Start = Callable[..., serving.ScriptedServer]


@pytest.fixture
def start() -> Iterator[Start]:
    with serving.servers() as started:
        yield started.start


def download(server: serving.ScriptedServer) -> bytes:
    def request(offset: int) -> HttpRequest:
        return HttpRequest("GET", f"{server.url}/file", (), {"Range": f"bytes={offset}-"} if offset else {})

    settings = ConnectionSettings("gemini", server.url, "v1beta", timeout=5)
    with BlockingTransport(settings, FixedCredentials({}), sleep=lambda _: None) as transport:
        return b"".join(transport.stream(request, retry=RetryPolicy(max_attempts=3)))


def cut(**headers: str) -> serving.Answer:
    """Send the first half of the file and close."""
    return raw(serving.head(200, {"Content-Length": str(len(WHOLE)), **headers}) + WHOLE[:HALF])


def part(first: int, **headers: str) -> serving.Answer:
    """Send the rest from *first* on, and say so."""
    span = {"Content-Range": f"bytes {first}-{len(WHOLE) - 1}/{len(WHOLE)}", **headers}
    return reply(206, WHOLE[first:], span)


@pytest.mark.parametrize(
    "rest",
    [part(HALF), reply(200, WHOLE), part(HALF - 100), part(0), reply(206, WHOLE[HALF:])],
    ids=["what was asked", "everything", "a bit more", "all as a part", "without Content-Range"],
)
def test_a_cut_download_goes_on_with_the_byte_it_lacks(
    start: Start, rest: serving.Answer, caplog: pytest.LogCaptureFixture
) -> None:
    server = start(cut(), rest)
    assert download(server) == WHOLE
    assert server.seen[1].headers["range"] == f"bytes={HALF}-"
    assert "Trying again in " in caplog.text


def test_a_part_that_begins_too_late_is_never_joined(start: Start) -> None:
    with pytest.raises(GeminiBatchError, match="Asked for the bytes from"):
        download(start(cut(), part(HALF + 1)))


def test_halves_of_two_files_are_never_joined(start: Start) -> None:
    with pytest.raises(GeminiBatchError, match="replaced by another"):
        download(start(cut(ETag='"one"'), part(HALF, ETag='"two"')))


@pytest.mark.parametrize("known", [True, False])
def test_a_range_beyond_the_end_ends_a_download_that_lacks_nothing(start: Start, known: bool) -> None:
    headers = {"Content-Range": f"bytes */{len(WHOLE)}"} if known else {}
    server = start(chunked(WHOLE, is_complete=False), reply(416, b"{}", headers))
    assert download(server) == WHOLE


def test_a_range_beyond_the_end_of_a_shorter_file_is_an_error(start: Start) -> None:
    shorter = {"Content-Range": f"bytes */{HALF - 1}"}
    with pytest.raises(RequestRejectedError):
        download(start(cut(), reply(416, b"{}", shorter)))


def test_a_download_that_gets_no_further_ends(start: Start) -> None:
    server = start(short(WHOLE[:HALF], HALF), reply(503, b"{}"))
    with pytest.raises(GeminiBatchError):
        download(server)
    assert len(server.seen) == 3
