# SPDX-License-Identifier: Apache-2.0
"""A Redis of our own: nothing on disk, a free port of the loopback address, gone with the suite."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path

from demo.processes import Processes, free_ports

READY_TIMEOUT = 15.0


class NoRedisError(Exception):
    """Redis's server cannot be found."""


def find_program() -> str:
    """
    Return the path of ``redis-server``, or of ``valkey-server``, which is the same to its clients.

    :raises NoRedisError: Saying what to install.
    """
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        raise NoRedisError(
            "Redis's server program is needed (redis-server): not on PATH. Install the package redis-server (Debian, "
            "Ubuntu), valkey (Fedora) or redis (Homebrew); no server has to run."
        )
    return found


def start(processes: Processes, program: str, home: Path) -> str:
    """Start a server among *processes*, which stop it; return its URL once it answers."""
    (port,) = free_ports(1)
    options = ["--bind", "127.0.0.1", "--port", f"{port}", "--save", "", "--appendonly", "no", "--dir", f"{home}"]
    env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    processes.start("redis", [program, *options], env=env, cwd=home)
    deadline = time.monotonic() + READY_TIMEOUT
    while not _answers(port):
        processes.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"Redis was not ready after {READY_TIMEOUT:.0f} seconds")
        time.sleep(0.1)
    return f"redis://127.0.0.1:{port}/0"


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
