# SPDX-License-Identifier: Apache-2.0
"""A server on localhost that answers with the bytes it is told to, and writes down what it was sent."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

Answer = Callable[[socket.socket], bool]
"""Answers one request on a connection; returns whether the connection stays open."""


@dataclass(frozen=True)
class Seen:
    """
    One request as it came.

    :param target: Path and query, not decoded.
    :param headers: Names in lower case.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class ScriptedServer:
    """
    Serves until it is closed: the first request gets the first answer, and the last answer is given again and again.

    :param answers: See the functions below.
    :param tls: Makes it an HTTPS server.
    """

    def __init__(self, *answers: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.answers = list(answers) or [reply()]
        self.seen: list[Seen] = []
        self.connections = 0
        self._tls = tls
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}"

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop, and end every connection."""
        # Closing alone does not wake a thread that is in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            left = list(self._open)
        for connection in left:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        plain = connection
        # A client that has gone is no trouble of the server's.
        with contextlib.suppress(OSError):
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection.makefile("rb") as stream:
                while (request := _read(stream)) is not None:
                    with self._lock:
                        self.seen.append(request)
                        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                    if not answer(connection):
                        break
        with self._lock:
            self._open.discard(plain)
        connection.close()


def _read(stream: object) -> Seen | None:
    line = stream.readline()  # type: ignore[attr-defined]
    words = line.decode("latin-1").split(" ", 2)
    if len(words) < 3:
        return None  # the end, or no HTTP
    method, target, _ = words
    headers: dict[str, str] = {}
    while header := stream.readline().decode("latin-1").strip():  # type: ignore[attr-defined]
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    length = int(headers.get("content-length", 0))
    return Seen(method, target, headers, stream.read(length))  # type: ignore[attr-defined]


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """Return the head of an answer."""
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def reply(status: int = 200, body: bytes = b"{}", headers: Mapping[str, str] | None = None) -> Answer:
    """Answer in full, and keep the connection."""
    return raw(head(status, {"Content-Length": str(len(body)), **(headers or {})}) + body, stays_open=True)


def chunked(*pieces: bytes, is_complete: bool = True) -> Answer:
    """Answer in chunks; an incomplete answer lacks the last, empty chunk."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    end = b"0\r\n\r\n" if is_complete else b""
    return raw(head(200, {"Transfer-Encoding": "chunked"}) + body + end, stays_open=is_complete)


def short(body: bytes, missing: int) -> Answer:
    """Announce *missing* bytes more than are sent, and close."""
    return raw(head(200, {"Content-Length": str(len(body) + missing)}) + body)


def raw(data: bytes, *, stays_open: bool = False) -> Answer:
    """Send bytes as they are."""

    def answer(connection: socket.socket) -> bool:
        connection.sendall(data)
        return stays_open

    return answer


def close() -> Answer:
    """Close without a word."""
    return raw(b"")


def reset() -> Answer:
    """End the connection with a TCP reset."""

    def answer(connection: socket.socket) -> bool:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    return answer


def slowly(seconds: float, then: Answer) -> Answer:
    """Wait before answering."""

    def answer(connection: socket.socket) -> bool:
        time.sleep(seconds)
        return then(connection)

    return answer


def after(first: bytes, seconds: float, rest: bytes) -> Answer:
    """Send the first part of an answer, and the rest after a while."""

    def answer(connection: socket.socket) -> bool:
        connection.sendall(first)
        time.sleep(seconds)
        connection.sendall(rest)
        return True

    return answer


def trickle(data: bytes, seconds: float) -> Answer:
    """Send an answer byte by byte, with a pause after each."""

    def answer(connection: socket.socket) -> bool:
        for place in range(len(data)):
            connection.sendall(data[place : place + 1])
            time.sleep(seconds)
        return True

    return answer


@dataclass
class Servers:
    """Starts servers for a test; all are closed at its end."""

    running: list[ScriptedServer] = field(default_factory=list)

    def start(self, *answers: Answer, tls: ssl.SSLContext | None = None) -> ScriptedServer:
        """Start one."""
        server = ScriptedServer(*answers, tls=tls)
        self.running.append(server)
        return server


@contextlib.contextmanager
def servers() -> Iterator[Servers]:
    """Close what was started, whatever happens."""
    started = Servers()
    try:
        yield started
    finally:
        for server in started.running:
            server.close()


def unused_port() -> int:
    """Return a port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
