# SPDX-License-Identifier: Apache-2.0
"""
One more person on Airflow's own route: ``python -m benchmarks.own_route URL TOKEN SECONDS``.

A process of its own: asked from the event loop that also sends the clicks of fifty users, a call would be told with the
time that this loop took for the others. It ends after SECONDS, or when its standard input is closed, and prints how
long each call took, in seconds, and how many failed.
"""

from __future__ import annotations

import http.client
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PATH = "/api/v2/dags?limit=50"
PAUSE = 0.1
"""Seconds between two calls: a connection that is used so often is closed by no server."""


@contextmanager
def asked(url: str, token: str, seconds: float = 600.0) -> Iterator[subprocess.Popen[str]]:
    """Ask meanwhile; :func:`ended` tells the outcome."""
    command = [sys.executable, "-m", "benchmarks.own_route", url, token, str(seconds)]
    pipe, root = subprocess.PIPE, Path(__file__).resolve().parent.parent
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=root) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[list[float], int]:
    """Stop asking; return how long each call took, and how many failed."""
    times, faults = json.loads(process.communicate(timeout=120)[0])
    return times, faults


def main(url: str, token: str, seconds: float) -> None:
    """Ask until told to stop."""
    times: list[float] = []
    faults = 0
    host = urlsplit(url)
    connection = http.client.HTTPConnection(str(host.hostname), host.port, timeout=60)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not select.select([sys.stdin], [], [], PAUSE)[0]:
        took, is_fault = _call(connection, token)
        times.append(took)
        faults += is_fault
    print(json.dumps([times, faults]))


def _call(connection: Any, token: str) -> tuple[float, bool]:
    began = time.perf_counter()
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", PATH, headers={"Authorization": f"Bearer {token}"})
        reply = connection.getresponse()
        reply.read()
        return time.perf_counter() - began, reply.status >= 400
    connection.close()
    return time.perf_counter() - began, True


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
