# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL of our own: a fresh folder, a free port of the loopback address, gone with the suite."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo import secrets
from demo.processes import Processes, free_ports

USER = "airflow"
ACCOUNT = "postgres"
"""Whom PostgreSQL runs as where we are root, which it refuses to be."""

READY_TIMEOUT = 30.0
DEBIAN = Path("/usr/lib/postgresql")
"""Where Debian's packages keep each version's programs; they are not on PATH there."""


class NoPostgresError(Exception):
    """PostgreSQL's programs cannot be found."""


def find_programs() -> Path:
    """
    Return the folder with ``initdb`` and ``postgres``: that of ``PATH``, else the newest of Debian's.

    :raises NoPostgresError: Saying what to install.
    """
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = [each for each in DEBIAN.glob("*/bin") if (each / "initdb").exists()]
    if not versions:
        raise NoPostgresError(
            "PostgreSQL's server programs are needed (initdb, postgres): neither on PATH nor in "
            f"{DEBIAN}/*/bin. Install the package postgresql (Debian, Ubuntu), postgresql-server (Fedora) or "
            "postgresql (Homebrew); no server has to run."
        )
    return max(versions, key=lambda each: [int(part) for part in each.parent.name.split(".") if part.isdigit()])


def _as_owner(command: list[str]) -> list[str]:
    """Return *command* so that it does not run as root."""
    if os.geteuid() != 0:
        return command
    return ["setpriv", "--reuid", ACCOUNT, "--regid", ACCOUNT, "--clear-groups", *command]


@contextmanager
def folder() -> Iterator[Path]:
    """Make a folder that the server may own, and remove it at the end."""
    made = Path(tempfile.mkdtemp(prefix="postgres-of-a-suite-"))
    try:
        if os.geteuid() == 0:
            account = pwd.getpwnam(ACCOUNT)
            os.chown(made, account.pw_uid, account.pw_gid)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def start(processes: Processes, programs: Path, home: Path) -> str:
    """
    Start a server among *processes*, which stop it; return its URL once it answers.

    :param programs: See :func:`find_programs`.
    :param home: From :func:`folder`.
    """
    env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    password = secrets.fresh()["POSTGRES_PASSWORD"]
    password_file = home / "password"
    password_file.write_text(password)
    password_file.chmod(0o644)  # the folder is closed to others
    data = home / "data"
    initdb = [f"{programs}/initdb", "-D", f"{data}", "-U", USER, "-A", "scram-sha-256", "-N", "-E", "UTF8"]
    command = _as_owner([*initdb, "--no-locale", f"--pwfile={password_file}"])
    processes.run("initdb", command, env=env, cwd=home, timeout=60)
    password_file.unlink()
    (port,) = free_ports(1)
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "max_connections": 200,
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    processes.start("postgres", _as_owner([f"{programs}/postgres", "-D", f"{data}", *options]), env=env, cwd=home)
    _wait_until_ready(programs, port, processes)
    return f"postgresql+psycopg2://{USER}:{password}@127.0.0.1:{port}/postgres"


def _wait_until_ready(programs: Path, port: int, processes: Processes) -> None:
    deadline = time.monotonic() + READY_TIMEOUT
    question = [f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(question, check=False, timeout=READY_TIMEOUT).returncode != 0:
        processes.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"PostgreSQL was not ready after {READY_TIMEOUT:.0f} seconds")
        time.sleep(0.1)
