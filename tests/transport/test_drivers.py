# SPDX-License-Identifier: Apache-2.0
"""
One list of scenarios for both drivers, against a real server on localhost: they behave alike.

Where a scenario ends in an error, its class, and for a lost call ``sent``, are the same whoever drives.
"""

from __future__ import annotations

import asyncio
import datetime
import gzip
import json
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool

from airflow_provider_gemini_batch.api.flows import exchange
from airflow_provider_gemini_batch.api.replies import expect_success
from airflow_provider_gemini_batch.api.retry import NO_RETRY, RetryPolicy
from airflow_provider_gemini_batch.api.wire import (
    Flow,
    HttpReply,
    HttpRequest,
    Pause,
    RefreshCredentials,
    json_request,
)
from airflow_provider_gemini_batch.connection.settings import ConnectionSettings, Secret
from airflow_provider_gemini_batch.errors import (
    ApiError,
    AuthError,
    ConfigurationError,
    GeminiBatchError,
    NetworkSettingError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ReplyFormatError,
    ReplyTooLargeError,
    RequestRejectedError,
    ServerError,
    TransportError,
)
from airflow_provider_gemini_batch.transport.asynchronous import AsyncTransport
from airflow_provider_gemini_batch.transport.blocking import BlockingTransport
from airflow_provider_gemini_batch.transport.credentials import ApiKeyCredentials, Credentials
from airflow_provider_gemini_batch.transport.sockets import TimedAdapter
from tests.support import odd_server as serving
from tests.support.frames import frames_of, reached_from
from tests.support.odd_server import Answer, Seen, chunked, close, raw, reply, reset, short, slowly

KEY = "AIzaSy-the-key-of-the-drivers-tests-0123"

Drive = Callable[..., Any]
"""``drive(flow, credentials=..., timeout=...)`` carries a flow out and returns its value."""


def _settings(timeout: float) -> ConnectionSettings:
    return ConnectionSettings("gemini", "http://127.0.0.1", "v1beta", api_key=Secret(KEY), timeout=timeout)


def on_a_worker(flow: Flow[Any], credentials: Credentials | None = None, timeout: float = 10.0) -> Any:
    with BlockingTransport(_settings(timeout), credentials or ApiKeyCredentials(Secret(KEY))) as transport:
        return transport.run(flow)


def in_the_triggerer(flow: Flow[Any], credentials: Credentials | None = None, timeout: float = 10.0) -> Any:
    async def drive() -> Any:
        async with AsyncTransport(_settings(timeout), credentials or ApiKeyCredentials(Secret(KEY))) as transport:
            return await transport.arun(flow)

    return asyncio.run(drive())


@pytest.fixture(params=[on_a_worker, in_the_triggerer], ids=["worker", "triggerer"])
def drive(request: pytest.FixtureRequest) -> Drive:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy this machine has, it is not part of these tests."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def start() -> Iterator[Callable[..., serving.ScriptedServer]]:
    with serving.servers() as started:
        yield started.start


Start = Callable[..., serving.ScriptedServer]


def once(request: HttpRequest) -> Flow[HttpReply]:
    """Send one request and return the reply, whatever it is."""
    answer = yield request
    assert answer is not None
    return answer


def asked(request: HttpRequest, retry: RetryPolicy = NO_RETRY) -> Flow[Any]:
    """Ask as every conversation with the service does."""
    return exchange(request, lambda answer: expect_success(answer).json_object(), retry)


def get(server: serving.ScriptedServer, path: str = "/v1beta/batches/a", **members: Any) -> HttpRequest:
    return HttpRequest("GET", server.url + path, **members)


# --- what is sent ---------------------------------------------------------------------------------------------------


def test_json_makes_the_round_trip(drive: Drive, start: Start) -> None:
    payload: dict[str, Any] = {"batch": {"displayName": "nächtlich ✓", "rows": [1, 2.5, None, {"a": []}]}}
    server = start(reply(body=json.dumps({"echo": payload}, ensure_ascii=False).encode()))
    assert drive(asked(json_request("POST", f"{server.url}/v1beta/models/m:batch", payload))) == {"echo": payload}
    [seen] = server.seen
    assert (seen.method, seen.target) == ("POST", "/v1beta/models/m:batch")
    assert json.loads(seen.body) == payload
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["content-length"] == str(len(seen.body))


def test_query_and_headers_arrive_as_they_were_given(drive: Drive, start: Start) -> None:
    params = (
        ("fields", "operations(name,metadata(state)),nextPageToken"),
        ("filter", 'labels.a=b AND create_time>="2026-01-01T00:00:00Z"'),
        ("pageToken", "a+b/c=&d ü%20"),
        ("twice", "1"),
        ("twice", "2"),
    )
    server = start()
    drive(once(get(server, params=params, headers={"Range": "bytes=5-", "X-Goog-Upload-Command": "upload, finalize"})))
    [seen] = server.seen
    assert tuple(parse_qsl(urlsplit(seen.target).query, keep_blank_values=True)) == params
    assert (seen.headers["range"], seen.headers["x-goog-upload-command"]) == ("bytes=5-", "upload, finalize")


def test_the_key_travels_in_a_header_and_nowhere_else(drive: Drive, start: Start) -> None:
    server = start()
    drive(once(get(server, params=(("pageSize", "5"),))))
    [seen] = server.seen
    assert seen.headers["x-goog-api-key"] == KEY
    assert KEY not in seen.target
    assert "authorization" not in seen.headers
    assert "cookie" not in seen.headers


def test_a_request_that_authorises_itself_carries_no_credentials(drive: Drive, start: Start) -> None:
    server = start()
    drive(once(get(server, authorize=False)))
    assert KEY not in str(server.seen)


@pytest.mark.parametrize(
    "target",
    [
        "/upload/v1beta/files?upload_id=ABC-_123&upload_protocol=resumable",
        "/storage/v1/b/bucket/o/a%2Fb%20c%3Fd%23e%25f?alt=media",
        "/upload/x?upload_id=a%2Bb%2F%3D%3D&name=p%2Fq",
        "/v1/projects/p/locations/l/batchPredictionJobs/1:cancel",
    ],
)
def test_a_url_is_sent_as_it_was_given(drive: Drive, start: Start, target: str) -> None:
    server = start()
    drive(once(HttpRequest("POST", server.url + target, body=b"x")))
    assert server.seen[0].target == target


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "GET"])
@pytest.mark.parametrize("body", [None, b""], ids=["none", "empty"])
def test_an_empty_body_is_told_as_empty(drive: Drive, start: Start, method: str, body: bytes | None) -> None:
    server = start()
    drive(once(HttpRequest(method, f"{server.url}/x", body=body)))
    [seen] = server.seen
    assert (seen.method, seen.body) == (method, b"")
    assert seen.headers.get("content-length", "0") == "0"
    assert "transfer-encoding" not in seen.headers
    if method in ("POST", "PUT"):
        assert seen.headers["content-length"] == "0", "Google's front ends answer 411 without it"


@pytest.mark.parametrize("form", [bytes, memoryview])
def test_a_big_body_arrives_whole(drive: Drive, start: Start, form: Callable[[bytes], Any]) -> None:
    body = bytes(range(256)) * 4096 * 24
    server = start()
    drive(once(HttpRequest("PUT", f"{server.url}/x", body=form(body))))
    assert server.seen[0].body == body
    assert server.seen[0].headers["content-length"] == str(len(body))


# --- what comes back ------------------------------------------------------------------------------------------------


def test_a_big_reply_comes_whole(drive: Drive, start: Start) -> None:
    body = zlib.compress(bytes(range(256)), 0) * 100_000
    server = start(reply(body=body))
    assert drive(once(get(server))).body == body


def test_headers_come_in_lower_case_with_repeated_ones_joined(drive: Drive, start: Start) -> None:
    head = b"HTTP/1.1 200 OK\r\nX-Goog-Upload-Status: active\r\nX-Two: 1\r\nX-Two: 2\r\nContent-Length: 0\r\n\r\n"
    answer = drive(once(get(start(raw(head)))))
    assert answer.headers["x-goog-upload-status"] == "active"
    assert answer.headers["x-two"] == "1, 2"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_reply_is_unpacked(drive: Drive, start: Start, coding: str) -> None:
    plain = json.dumps({"text": "x" * 5000}).encode()
    packed = gzip.compress(plain) if coding == "gzip" else zlib.compress(plain)
    server = start(reply(body=packed, headers={"Content-Encoding": coding}))
    assert drive(once(get(server))).body == plain
    assert coding in server.seen[0].headers["accept-encoding"]


def test_a_proxys_own_kind_of_connection_stays_what_it_is() -> None:
    """That of a SOCKS proxy takes arguments of its own."""

    class Connection(HTTPSConnection):
        pass

    class Pool(HTTPSConnectionPool):
        ConnectionCls = Connection

    class Adapter(HTTPAdapter):
        def proxy_manager_for(self, *args: Any, **more: Any) -> Any:
            manager = super().proxy_manager_for(*args, **more)
            manager.pool_classes_by_scheme = {"https": Pool}
            return manager

    class Both(TimedAdapter, Adapter):
        pass

    pool = Both().proxy_manager_for("http://proxy:1").connection_from_url("https://service")
    assert issubclass(pool.ConnectionCls, Connection)
    assert pool.ConnectionCls.response_class is not Connection.response_class
    again = Both().proxy_manager_for("http://proxy:1").connection_from_url("https://service")
    assert issubclass(again.ConnectionCls, Connection)


def test_a_compressed_reply_that_was_cut_before_it_was_sent_is_no_reply(drive: Drive, start: Start) -> None:
    packed = gzip.compress(json.dumps({"text": "x" * 9999}).encode())[:40]
    with pytest.raises(TransportError, match="ended within its packed bytes"):
        drive(asked(get(start(reply(body=packed, headers={"Content-Encoding": "gzip"})))))


def test_a_reply_whose_end_is_that_of_the_connection_is_read(drive: Drive, start: Start) -> None:
    for head in (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"):
        assert drive(asked(get(start(raw(head + b'{"a": 1}'))))) == {"a": 1}


def test_a_reply_of_an_old_proxy_is_read(drive: Drive, start: Start) -> None:
    assert drive(asked(get(start(raw(b'HTTP/1.0 200 OK\r\n\r\n{"a": 1}'))))) == {"a": 1}


def test_a_chunked_reply_is_put_together(drive: Drive, start: Start) -> None:
    server = start(chunked(b'{"a": ', b"1", b"}"))
    assert drive(asked(get(server))) == {"a": 1}


def test_an_empty_reply_is_an_empty_object(drive: Drive, start: Start) -> None:
    assert drive(asked(get(start(reply(204, b""))))) == {}


@pytest.mark.parametrize("body", [b"<html>Sign in to the network</html>", b"\x00\xff}{", b"[1, 2]", b'{"a": '])
def test_what_is_no_json_object_is_a_reply_we_do_not_understand(drive: Drive, start: Start, body: bytes) -> None:
    with pytest.raises(ReplyFormatError) as caught:
        drive(asked(get(start(reply(200, body)))))
    assert caught.value.excerpt.encode("utf-8", "replace")[:5] == body.decode("utf-8", "replace").encode()[:5]
    assert caught.value.may_have_taken_effect


_JOB = b'{"name": "batches/a"}'
_LENGTH = b"Content-Length: %d\r\n" % len(_JOB)
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (reply(body=_JOB, headers={"Content-Type": "text/html; charset=nonsense"}), "read"),
        (reply(body=_JOB, headers={"Set-Cookie": 'a=b; Expires=never; Domain="; Path=\x80'}), "read"),
        (reply(206, _JOB), "read"),
        (reply(body=b'{"name": "x", "name": "batches/a"}'), "read"),
        (reply(body=gzip.compress(_JOB), headers={"Content-Encoding": "X-GZIP"}), "read"),
        (reply(body=_JOB, headers={"Content-Encoding": "identity"}), "read"),
        (raw(b"HTTP/1.1 200\r\n" + _LENGTH + b"\r\n" + _JOB), "read"),
        (raw(b"HTTP/1.1 200 OK\n" + _LENGTH + b"\n" + _JOB), "read"),
        (raw(b"HTTP/1.1 200 OK\r\nX-\xc3\xbc: \xff\r\n" + _LENGTH + b"\r\n" + _JOB), None),
        (raw(b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\n" + _LENGTH + b"\r\n" + _JOB), "read"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\nConnection: close\r\n\r\n" + _JOB), None),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n" + _LENGTH + b"\r\n" + _JOB), TransportError),
        (raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + _LENGTH + b"\r\n" + _JOB), None),
        (raw(b"HTTP/1.1 103 Early Hints\r\n\r\n"), TransportError),
        (raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n\0"), TransportError),
        (raw(b"HTTP/1.1 000 x\r\n\r\n"), TransportError),
        (raw(_CHUNKED + b"-5\r\nabcde\r\n0\r\n\r\n"), TransportError),
        (raw(_CHUNKED + b"zz\r\nabcde\r\n0\r\n\r\n"), TransportError),
        (raw(_CHUNKED + b"fffffffffffffff\r\nabcde\r\n"), TransportError),
        (reply(body=b"x", headers={"Content-Encoding": "br"}), TransportError),
        (reply(body=gzip.compress(gzip.compress(_JOB)), headers={"Content-Encoding": "gzip, gzip"}), TransportError),
        (reply(body=b"\xef\xbb\xbf" + _JOB), ReplyFormatError),
        (reply(body=_JOB.decode().encode("utf-16")), ReplyFormatError),
        (reply(body=b'{"a": NaN}'), ReplyFormatError),
        (reply(body=b'{"a": 1e999}'), ReplyFormatError),
        (reply(body=b'{"a": %b}' % (b"9" * 5000)), ReplyFormatError),
        (reply(body=b'{"a": "\\ud800"}'), ReplyFormatError),
        (reply(body=b'{"a": %b%b}' % (b"[" * 99_999, b"]" * 99_999)), ReplyFormatError),
        (reply(400, b"[" * 99_999), RequestRejectedError),
        (reply(body=_JOB * 2), ReplyFormatError),
        (reply(300, b""), RequestRejectedError),
        (reply(308, b"", {"Location": "/v1beta/elsewhere"}), RequestRejectedError),
        (reply(999, b""), ServerError),
        (reply(429, b"{}", {"Retry-After": "9" * 400}), RateLimitedError),
    ],
)
def test_an_odd_reply_is_a_value_or_one_clear_error(
    drive: Drive, start: Start, answer: Answer, outcome: str | type[GeminiBatchError] | None
) -> None:
    server = start(answer)
    try:
        found: Any = drive(asked(get(server)), timeout=2)
    except GeminiBatchError as error:
        found = error
    assert outcome in (None, "read" if found == {"name": "batches/a"} else type(found))
    assert len(server.seen) == 1


def twice(request: HttpRequest) -> Flow[list[bytes]]:
    """Send a request two times, and return the bodies of the answers."""
    answers = []
    for _ in range(2):
        came = yield request
        assert came is not None
        answers.append(came.body)
    return answers


def test_what_follows_an_interim_reply_is_not_taken_for_the_next_calls(drive: Drive, start: Start) -> None:
    server = start(
        raw(b"HTTP/1.1 103 Early Hints\r\n\r\n" + serving.head(200, {"Content-Length": "1"}) + b"1", stays_open=True),
        reply(body=b"2"),
    )

    assert drive(twice(get(server))) == [b"1", b"2"]


# --- the service's errors -------------------------------------------------------------------------------------------


def google(status: int, word: str = "", message: str = "Not so.", **details: Any) -> bytes:
    error = {"code": status, "message": message, "status": word, **({"details": [details]} if details else {})}
    return json.dumps({"error": error}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, google(400, "INVALID_ARGUMENT"), RequestRejectedError),
        (400, google(400, "INVALID_ARGUMENT", reason="API_KEY_INVALID"), AuthError),
        (400, google(400, "FAILED_PRECONDITION"), RequestRejectedError),
        (401, google(401, "UNAUTHENTICATED"), AuthError),
        (403, google(403, "PERMISSION_DENIED"), PermissionDeniedError),
        (404, google(404, "NOT_FOUND"), NotFoundError),
        (404, b"<html>not here</html>", NotFoundError),
        (408, b"", ServerError),
        (409, google(409, "ABORTED"), RequestRejectedError),
        (411, b"<html>length</html>", RequestRejectedError),
        (412, google(412, ""), RequestRejectedError),
        (413, b"too large", RequestRejectedError),
        (416, b"", RequestRejectedError),
        (429, google(429, "RESOURCE_EXHAUSTED"), RateLimitedError),
        (429, b"slow down", RateLimitedError),
        (499, google(499, "CANCELLED"), RequestRejectedError),
        (500, google(500, "INTERNAL"), ServerError),
        (501, google(501, "UNIMPLEMENTED"), ServerError),
        (502, b"<html><title>502</title>", ServerError),
        (503, google(503, "UNAVAILABLE"), ServerError),
        (504, b"", ServerError),
        (304, b"", RequestRejectedError),
    ],
)
def test_each_status_is_its_own_error(
    drive: Drive, start: Start, status: int, body: bytes, kind: type[ApiError]
) -> None:
    # A refused token is tried once more, with a new one.
    server = start(reply(status, b"" if status == 304 else body))
    with pytest.raises(ApiError) as caught:
        drive(asked(get(server)))
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert str(status) in str(caught.value)
    assert caught.value.may_have_taken_effect is (kind is ServerError)
    assert len(server.seen) == (2 if status == 401 else 1)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (json.dumps([json.loads(google(503, "UNAVAILABLE", "in an array"))]).encode(), "in an array"),
        (b"<!DOCTYPE html><html><title>Error 503</title><p>from a front end</p></html>", "Error 503 from a front end"),
        (b'"only a string"', "only a string"),
        (b'{"error": "a string"}', "a string"),
        (b'{"error": {"message": ["x"], "details": null}}', "x"),
        (b"\xff\xfe", "503"),
        (b"[]", "503"),
        (b"null", "503"),
    ],
)
def test_an_error_in_any_form_is_told_readably(drive: Drive, start: Start, body: bytes, word: str) -> None:
    with pytest.raises(ServerError) as caught:
        drive(asked(get(start(reply(503, body)))))
    assert word in str(caught.value)
    assert "<" not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "details", "seconds"),
    [
        ({"Retry-After": "7"}, {}, 7.0),
        ({}, {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37.5s"}, 37.5),
        ({"Retry-After": "7"}, {"retryDelay": "3s"}, 3.0),
        ({"Retry-After": "soon"}, {"retryDelay": "later"}, None),
        ({}, {}, None),
    ],
)
def test_a_429_tells_how_long_to_wait(
    drive: Drive, start: Start, headers: Mapping[str, str], details: Mapping[str, str], seconds: float | None
) -> None:
    server = start(reply(429, google(429, "RESOURCE_EXHAUSTED", **details), headers))
    with pytest.raises(RateLimitedError) as caught:
        drive(asked(get(server)))
    assert caught.value.retry_after == seconds


def test_a_429_names_its_quota(drive: Drive, start: Start) -> None:
    violation = {"quotaMetric": "tokens", "quotaId": "EnqueuedTokensPerProject"}
    with pytest.raises(RateLimitedError) as caught:
        drive(asked(get(start(reply(429, google(429, "RESOURCE_EXHAUSTED", violations=[violation]))))))
    assert caught.value.quota == "EnqueuedTokensPerProject"


def test_a_reply_that_repeats_the_key_does_not_show_it(drive: Drive, start: Start) -> None:
    with pytest.raises(ApiError) as caught:
        drive(asked(get(start(reply(400, google(400, "INVALID_ARGUMENT", f"API key {KEY} is not good"))))))
    assert KEY not in str(caught.value)
    assert "***" in str(caught.value)


# --- calls that are lost --------------------------------------------------------------------------------------------


def lost(drive: Drive, url: str, timeout: float = 10.0, body: bytes | None = b"{}") -> TransportError:
    with pytest.raises(TransportError) as caught:
        drive(once(HttpRequest("POST", url, body=body)), timeout=timeout)
    assert caught.value.is_transient
    assert caught.value.may_have_taken_effect is caught.value.sent
    assert KEY not in str(caught.value)
    return caught.value


def test_a_refused_connection_sent_nothing(drive: Drive) -> None:
    port = serving.unused_port()
    fault = lost(drive, f"http://me:secret@127.0.0.1:{port}/v1?upload_id=secret")
    assert fault.sent is False
    assert str(fault) == f"No connection to 127.0.0.1:{port}: it refused the connection."


def test_an_unknown_host_sent_nothing(drive: Drive) -> None:
    fault = lost(drive, "http://no-such-host.invalid/v1")
    assert fault.sent is False
    assert str(fault) == "No connection to no-such-host.invalid:80: its name is not known here."


def test_a_certificate_that_nobody_vouches_for_sent_nothing(drive: Drive, start: Start, tmp_path: Path) -> None:
    server = start(tls=_self_signed(tmp_path))
    fault = lost(drive, f"{server.url}/v1")
    assert fault.sent is False
    assert f"127.0.0.1:{server.port}: its certificate is not trusted (self-signed certificate" in str(fault)
    assert isinstance(fault, NetworkSettingError)
    assert server.seen == []


def _self_signed(folder: Path) -> ssl.SSLContext:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, begin + datetime.timedelta(days=3))
    certificate = builder.sign(key, hashes.SHA256())
    place = folder / "server.pem"
    place.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place)
    return context


def test_a_handshake_that_never_ends_sent_nothing(drive: Drive) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        fault = lost(drive, f"https://127.0.0.1:{silent.getsockname()[1]}/v1", timeout=0.4)
    assert fault.sent is False
    assert "it did not answer within 0.4 s" in str(fault)


def test_a_server_that_speaks_no_tls_is_told_as_such(drive: Drive) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer() -> None:
            with plain.accept()[0] as connection:
                connection.recv(9999)
                connection.sendall(b"220 mail ready\r\n")

        threading.Thread(target=answer, daemon=True).start()
        assert "TLS failed (" in str(lost(drive, f"https://127.0.0.1:{plain.getsockname()[1]}/v1"))


def test_a_proxy_that_hangs_up_on_a_request_may_have_passed_it_on(
    drive: Drive, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = start(close())
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, proxy.url)
    assert lost(drive, "http://service.invalid/v1").sent is True


_HALF = b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"a"'


@pytest.mark.parametrize(
    "answer",
    [
        close(),
        reset(),
        short(b'{"a": 1', 1),
        short(b"", 100),
        chunked(b'{"a": 1', is_complete=False),
        raw(b"HTTP/1.1 20"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Le"),
        raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
        reply(body=b"not gzip at all", headers={"Content-Encoding": "gzip"}),
    ],
    ids=["closed", "reset", "short", "no-body", "chunks-cut", "status-cut", "headers-cut", "no-http", "no-gzip"],
)  # fmt: skip
def test_a_reply_that_breaks_off_leaves_open_whether_the_call_counted(
    drive: Drive, start: Start, answer: Answer
) -> None:
    server = start(answer)
    fault = lost(drive, f"{server.url}/v1")
    assert fault.sent is True
    place = f"No complete reply from 127.0.0.1:{server.port}: "
    assert str(fault).startswith((place, "The service's reply cannot be unpacked"))
    assert len(server.seen) == 1, "a driver never repeats by itself: a call may be billed"


@pytest.mark.parametrize("where", ["before", "within"])
def test_a_reply_slower_than_the_timeout_leaves_open_whether_the_call_counted(
    drive: Drive, start: Start, where: str
) -> None:
    slow = slowly(1.5, reply()) if where == "before" else serving.after(_HALF, 1.5, b": 1234}")
    server = start(slow)
    begin = time.monotonic()
    assert lost(drive, f"{server.url}/v1", timeout=0.3).sent is True
    assert time.monotonic() - begin < 1.2
    assert len(server.seen) == 1


_OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 O" + b"K" * 200,
        _OK + b"X-A: " + b"a" * 200,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
        _OK + b"Content-Length: 200\r\n\r\n" + b" " * 200,
        _OK + b"Transfer-Encoding: chunked\r\n\r\n1" + b";" * 200,
        _OK + b"Content-Encoding: gzip\r\nContent-Length: 900\r\n\r\n" + gzip.compress(bytes(200))[:10] + b"\0" * 200,
    ],
    ids=["status", "header", "interim", "body", "chunk-size", "packed"],
)
def test_a_reply_that_trickles_is_lost_after_a_few_timeouts(drive: Drive, start: Start, answer: bytes) -> None:
    server = start(serving.trickle(answer, 0.15))
    begin = time.monotonic()
    fault = lost(drive, f"{server.url}/v1", timeout=0.3)
    assert fault.sent is True
    assert "the whole reply took longer than 1.5 s" in str(fault)
    assert 1.4 < time.monotonic() - begin < 2.5
    assert len(server.seen) == 1


def test_a_slow_reply_that_is_complete_in_time_is_one(drive: Drive, start: Start) -> None:
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}'
    server = start(serving.trickle(answer, 0.02), reply())

    assert drive(twice(get(server)), timeout=0.4) == [b'{"a": 1}', b"{}"]
    assert server.connections == 1


def test_a_reply_that_unpacks_to_more_than_memory_should_hold_is_lost(drive: Drive, start: Start) -> None:
    block = zlib.compressobj(wbits=31)
    packed = b"".join(block.compress(bytes(1 << 20)) for _ in range(300)) + block.flush()
    server = start(reply(body=packed, headers={"Content-Encoding": "gzip"}))
    with pytest.raises(ReplyTooLargeError, match=r"more than \d+ MiB") as caught:
        drive(once(get(server)))
    assert caught.value.may_have_taken_effect
    assert not caught.value.is_transient, "what cannot be held the next time either"


def test_a_calls_own_timeout_wins_over_the_connections(drive: Drive, start: Start) -> None:
    server = start(slowly(0.6, reply()))
    with pytest.raises(TransportError):
        drive(once(get(server, timeout=0.2)), timeout=10.0)
    assert drive(once(get(server, timeout=5.0)), timeout=0.2).status == 200


def test_a_connection_that_died_while_idle_is_not_used_again(drive: Drive, start: Start) -> None:
    # The server says nothing of closing, as a load balancer that times out.
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    server = start(raw(head), reply())

    def twice() -> Flow[int]:
        yield get(server)
        yield Pause(0.2)
        answer = yield get(server)
        assert answer is not None
        return answer.status

    assert drive(twice()) == 200
    assert server.connections == 2


def test_connections_are_kept_between_calls(drive: Drive, start: Start) -> None:
    server = start()

    def often() -> Flow[None]:
        for _ in range(5):
            yield get(server)

    drive(often())
    assert (len(server.seen), server.connections) == (5, 1)


def test_a_lost_call_is_thrown_into_the_flow_which_may_go_on(drive: Drive, start: Start) -> None:
    server = start(close(), reply(503, b""), reply(body=b'{"a": 1}'))
    retry = RetryPolicy(max_attempts=3, base=0.01)
    assert drive(asked(get(server), retry)) == {"a": 1}
    assert len(server.seen) == 3


def test_whoever_reads_the_log_knows_why_a_call_is_made_again(
    drive: Drive, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    busy = json.dumps({"error": {"code": 503, "status": "UNAVAILABLE", "message": "The model is overloaded."}})
    server = start(reply(503, busy.encode()), reply(body=b"{}"))
    drive(asked(get(server), RetryPolicy(max_attempts=2, base=0.1, rng=lambda: 1.0)))
    [told] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith("Trying again in 0.1 s. ")
    assert "The model is overloaded." in told
    assert KEY not in caplog.text


# --- what an error carries ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", ["key", "token"])
@pytest.mark.parametrize(
    "answer",
    [
        None,
        slowly(1, reply()),
        close(),
        short(b'{"a": 1', 1),
        serving.after(_HALF, 1, b""),
        raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
        reply(body=b"no gzip", headers={"Content-Encoding": "gzip"}),
        reply(302, b"", {"Location": "http://elsewhere.invalid/"}),
        reply(body=b"<html>"),
        reply(503, b""),
    ],
    ids=["refused", "silent", "closed", "short", "stalled", "no-http", "no-gzip", "redirect", "html", "503"],
)
def test_no_frame_of_an_error_holds_the_credentials(
    drive: Drive, start: Start, answer: Answer | None, secret: str
) -> None:
    """Tools that report errors send the local variables of every frame along."""
    url = start(answer).url if answer is not None else f"http://127.0.0.1:{serving.unused_port()}"
    credentials = ApiKeyCredentials(Secret(KEY)) if secret == "key" else Tokens("ya29.token-of-ours")
    with pytest.raises(GeminiBatchError) as caught:
        drive(asked(HttpRequest("GET", f"{url}/v1")), credentials, timeout=0.4)
    frames = frames_of(caught.value)
    assert frames
    assert not [name for name, values in frames if KEY in values or "ya29." in values]
    assert not [place for place, text in reached_from(caught.value) if _is_secret(text)]
    libraries = ("/requests/", "urllib3", "httpx", "httpcore", "/http/")
    assert not [name for name, _ in frames if any(part in name for part in libraries)]


def _is_secret(text: str) -> bool:
    return KEY in text or "ya29." in text


# --- elsewhere ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_error_and_takes_the_key_nowhere(drive: Drive, start: Start, status: int) -> None:
    elsewhere = start()
    server = start(reply(status, b"", {"Location": f"http://localhost:{elsewhere.port}/v1"}))
    with pytest.raises(RequestRejectedError, match="redirect"):
        drive(asked(get(server)))
    assert len(server.seen) == 1
    assert elsewhere.seen == []


@pytest.mark.parametrize("location", ["http://[::bad/", "http://host:99999999/", "", "//", "data:,x", "http://\x80/"])
def test_a_redirect_to_nowhere_is_the_same_error(drive: Drive, start: Start, location: str) -> None:
    with pytest.raises(RequestRejectedError, match="redirect"):
        drive(asked(get(start(reply(302, b"", {"Location": location})))))


@pytest.mark.parametrize("scheme", ["Bearer token-of-ours", ""])
def test_an_entry_of_netrc_does_not_replace_the_credentials(
    drive: Drive, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1\nlogin somebody\npassword else\ndefault login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_bytes(netrc.read_bytes())
    (tmp_path / ".netrc").chmod(0o600)
    server = start()
    if scheme:
        drive(once(get(server)), Tokens("token-of-ours"))
    else:
        drive(once(get(server)))
    assert server.seen[0].headers.get("authorization", "") == scheme


def test_a_proxy_of_the_environment_is_used_and_passes_the_credentials_on(
    drive: Drive, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = start()
    monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{proxy.port}")
    monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{proxy.port}")
    drive(once(HttpRequest("GET", "http://service.invalid/v1/x")), Tokens("token-of-ours"))
    [seen] = proxy.seen
    assert seen.target == "http://service.invalid/v1/x"
    assert seen.headers["authorization"] == "Bearer token-of-ours"
    assert seen.headers["proxy-authorization"].startswith("Basic ")


def test_a_host_that_needs_no_proxy_is_called_directly(
    drive: Drive, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = start(), start()
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    drive(once(get(server)))
    assert (len(server.seen), len(proxy.seen)) == (1, 0)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_out_of_reach_sent_nothing(drive: Drive, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    port = serving.unused_port()
    for name in (f"{scheme.upper()}_PROXY", f"{scheme}_proxy"):
        monkeypatch.setenv(name, f"http://me:secret@127.0.0.1:{port}")
    fault = lost(drive, f"{scheme}://service.invalid/v1")
    assert fault.sent is False
    assert str(fault) == (
        f"No connection to service.invalid:{443 if scheme == 'https' else 80} (through the proxy 127.0.0.1:{port}): "
        "it refused the connection."
    )


@pytest.mark.parametrize("status", [407, 502])
def test_a_proxy_that_opens_no_tunnel_sent_nothing(
    drive: Drive, start: Start, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    proxy = start(reply(status, b"no"))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    fault = lost(drive, "https://service.invalid/v1")
    assert fault.sent is False
    assert f"the proxy opened no tunnel ({status}" in str(fault)
    assert isinstance(fault, NetworkSettingError) is (status == 407)
    assert [seen.method for seen in proxy.seen] == ["CONNECT"]
    assert KEY not in str(proxy.seen)


# --- credentials ----------------------------------------------------------------------------------------------------


class Tokens:
    """Access tokens that are got one after another; counts what drivers ask for."""

    def __init__(self, *tokens: str, fault: Exception | None = None, slow: float = 0.0) -> None:
        self._left = [Secret(token) for token in tokens]
        self._current: Secret | None = None
        self._fault = fault
        self._slow = slow
        self.fetched = 0
        self.refused: list[dict[str, str]] = []
        self.fetched_by: list[int] = []

    def headers(self) -> dict[str, str]:
        if self._fault is not None:
            raise self._fault
        if self._current is None:
            time.sleep(self._slow)
            self.fetched += 1
            self.fetched_by.append(threading.get_ident())
            self._current = self._left.pop(0)
        return {"Authorization": f"Bearer {self._current.reveal()}"}

    def invalidate(self, refused: Mapping[str, str] | None = None) -> None:
        self.refused.append(dict(refused or {}))
        self._current = None


REFUSED = reply(401, google(401, "UNAUTHENTICATED"))


def tokens_of(seen: list[Seen]) -> list[str]:
    return [request.headers["authorization"].removeprefix("Bearer ") for request in seen]


def test_a_token_that_is_refused_once_is_replaced_once(drive: Drive, start: Start) -> None:
    server = start(REFUSED, reply(body=b'{"a": 1}'))
    tokens = Tokens("old", "new", "never")
    assert drive(asked(get(server)), tokens) == {"a": 1}
    assert tokens_of(server.seen) == ["old", "new"]
    assert tokens.fetched == 2


def test_a_driver_says_which_token_was_refused(drive: Drive, start: Start) -> None:
    """Two calls in one loop that are refused with one token must not cost two new ones."""
    server = start(REFUSED, reply())
    tokens = Tokens("old", "new")
    drive(asked(get(server)), tokens)
    [refused] = tokens.refused
    assert refused["Authorization"] == "Bearer old"


def test_a_token_that_is_refused_again_is_an_error(drive: Drive, start: Start) -> None:
    server = start(REFUSED)
    with pytest.raises(AuthError):
        drive(asked(get(server)), Tokens("old", "new", "never"))
    assert tokens_of(server.seen) == ["old", "new"]


@pytest.mark.parametrize(
    "fault",
    [
        AuthError("no token to be had", status=401),
        ConfigurationError("no such key file"),
        TransportError("token endpoint out of reach", sent=False),
    ],
)
def test_credentials_that_are_not_to_be_had_are_told_and_nothing_is_sent(
    drive: Drive, start: Start, fault: GeminiBatchError
) -> None:
    server = start()
    with pytest.raises(type(fault)) as caught:
        drive(asked(get(server)), Tokens(fault=fault))
    assert caught.value is fault
    assert server.seen == []


def test_a_slow_token_does_not_hold_up_the_event_loop(start: Start) -> None:
    server = start()
    tokens = Tokens("a", slow=0.5)

    async def drive() -> int:
        ticks = 0
        async with AsyncTransport(_settings(10), tokens) as transport:
            call = asyncio.create_task(transport.arun(once(get(server))))
            while not call.done():
                await asyncio.sleep(0.02)
                ticks += 1
            await call
        return ticks

    assert asyncio.run(drive()) >= 10
    assert tokens.fetched_by != [threading.get_ident()]


# --- flows ----------------------------------------------------------------------------------------------------------


def test_a_pause_really_sleeps(drive: Drive) -> None:
    def flow() -> Flow[str]:
        yield Pause(0.3)
        return "slept"

    begin = time.monotonic()
    assert drive(flow()) == "slept"
    assert 0.3 <= time.monotonic() - begin < 2


class Closing:
    """A flow that says whether it was brought to its end."""

    def __init__(self, *steps: Any) -> None:
        self._steps = steps
        self.is_closed = False

    def flow(self) -> Flow[None]:
        try:
            yield from self._steps
        finally:
            self.is_closed = True


def test_a_flow_is_closed_when_the_driver_fails(drive: Drive, start: Start) -> None:
    closing = Closing(get(start()), get(start()))
    with pytest.raises(ConfigurationError):
        drive(closing.flow(), Tokens(fault=ConfigurationError("no key")))
    assert closing.is_closed


def test_a_flow_is_closed_by_what_it_does_not_catch(drive: Drive) -> None:
    closing = Closing(HttpRequest("GET", f"http://127.0.0.1:{serving.unused_port()}/"))
    with pytest.raises(TransportError):
        drive(closing.flow())
    assert closing.is_closed


def test_a_flow_is_closed_when_its_task_is_cancelled() -> None:
    closing = Closing(Pause(60))

    async def cancel() -> None:
        async with AsyncTransport(_settings(10), ApiKeyCredentials(Secret(KEY))) as transport:
            task = asyncio.create_task(transport.arun(closing.flow()))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel())
    assert closing.is_closed


def test_a_flow_without_a_step_returns_at_once(drive: Drive) -> None:
    def flow() -> Flow[int]:
        yield from ()
        return 7

    assert drive(flow()) == 7


def test_a_refresh_without_a_token_in_use_does_no_harm(drive: Drive) -> None:
    def flow() -> Flow[str]:
        yield RefreshCredentials()
        return "went on"

    assert drive(flow()) == "went on"


@pytest.mark.parametrize("url", ["http://", "ftp://127.0.0.1/x", "http://[::1/x"])
def test_a_url_that_cannot_be_is_our_own_error_and_no_try_is_worth_it(drive: Drive, url: str) -> None:
    with pytest.raises(ConfigurationError):
        drive(once(HttpRequest("GET", url)))
