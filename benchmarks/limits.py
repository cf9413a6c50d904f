# SPDX-License-Identifier: Apache-2.0
"""
What the machine allows: the same bytes moved by nothing but system calls.

The copy through a socket is what a perfect client would do beside a perfect server: another process sends a file with
``sendfile``, this one receives it into a buffer, writes it, and makes sure that the disk has it. The emulator is
measured with the same bare client, since no download can be faster than what it sends, and no upload faster than it
takes in.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from benchmarks.processes import KEY

BUFFER = 1 << 20

_SENDER = """
import os, socket, sys
with socket.create_server(("127.0.0.1", 0)) as server, open(sys.argv[1], "rb") as file:
    print(server.getsockname()[1], flush=True)
    with server.accept()[0] as client:
        client.sendfile(file)
"""


def socket_copy(source: str, target: str) -> float:
    """Receive a file from another process into a file; return the seconds until the disk has it."""
    with subprocess.Popen([sys.executable, "-c", _SENDER, source], stdout=subprocess.PIPE, text=True) as sender:
        try:
            assert sender.stdout is not None
            port = int(sender.stdout.readline())

            def copy() -> None:
                with socket.create_connection(("127.0.0.1", port)) as connection, open(target, "wb", 0) as file:
                    _pass_on(connection.recv_into, file.write)
                    os.fsync(file.fileno())

            return _seconds(copy)
        finally:
            sender.kill()


def file_copy(source: str, target: str) -> float:
    """Copy a file by reading and writing; return the seconds until the disk has it."""

    def copy() -> None:
        with open(source, "rb", 0) as read, open(target, "wb", 0) as write:
            _pass_on(read.readinto, write.write)
            os.fsync(write.fileno())

    return _seconds(copy)


def file_read(path: str) -> float:
    """Read a file; return the seconds."""

    def read() -> None:
        with open(path, "rb", 0) as file:
            _pass_on(file.readinto, lambda piece: None)

    return _seconds(read)


def emulator_sends(url: str, path: str) -> float:
    """Receive a download of the emulator and forget it; return the seconds."""

    def download() -> None:
        with _request(url, f"GET {path} HTTP/1.1", {"Connection": "close"}) as connection:
            _pass_on(connection.recv_into, lambda piece: None)

    return _seconds(download)


def emulator_takes(url: str, source: str) -> float:
    """Upload a file to the emulator with ``sendfile``, in one piece; return the seconds."""
    size = os.path.getsize(source)
    with _request(url, "POST /upload/v1beta/files HTTP/1.1", {
        "X-Goog-Upload-Protocol": "resumable",
        "X-Goog-Upload-Command": "start",
        "X-Goog-Upload-Header-Content-Length": str(size),
        "Content-Length": "2",
        "Connection": "close",
    }, b"{}") as connection:  # fmt: skip
        head = b"".join(iter(lambda: connection.recv(BUFFER), b"")).decode()
    place = next(
        line.split(": ", 1)[1] for line in head.split("\r\n") if line.lower().startswith("x-goog-upload-url: ")
    )
    target = urlsplit(place)

    def upload() -> None:
        headers = {
            "X-Goog-Upload-Command": "upload, finalize",
            "X-Goog-Upload-Offset": "0",
            "Content-Length": str(size),
            "Connection": "close",
        }
        line = f"POST {target.path}?{target.query} HTTP/1.1"
        with _request(url, line, headers) as connection, open(source, "rb") as file:
            connection.sendfile(file)
            reply = b"".join(iter(lambda: connection.recv(BUFFER), b""))
        if b" 200 " not in reply[:20]:
            raise RuntimeError(f"the emulator refused an upload: {reply[:200]!r}")

    return _seconds(upload)


@contextmanager
def _request(url: str, line: str, headers: dict[str, str], body: bytes = b"") -> Iterator[socket.socket]:
    place = urlsplit(url)
    assert place.hostname is not None
    lines = [line, f"Host: {place.netloc}", f"X-Goog-Api-Key: {KEY}", *(f"{k}: {v}" for k, v in headers.items())]
    with socket.create_connection((place.hostname, place.port or 80)) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        yield connection


def _pass_on(read: Callable[[memoryview], int | None], take: Callable[[memoryview], object]) -> None:
    buffer = memoryview(bytearray(BUFFER))
    while count := read(buffer):
        take(buffer[:count])


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
