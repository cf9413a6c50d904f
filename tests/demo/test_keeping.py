# SPDX-License-Identifier: Apache-2.0
"""What ``make ui`` finds again at its next start: ports, secrets, the connection, runs."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from demo.connecting import CONNECTION, connect
from demo.keeping import FIRST_PORT, kept_ports, kept_secrets

if TYPE_CHECKING:
    from pathlib import Path


def test_ports_are_the_same_at_the_next_start(tmp_path: Path) -> None:
    first = kept_ports(tmp_path / "ports.json")
    assert kept_ports(tmp_path / "ports.json") == first
    chosen = json.loads((tmp_path / "ports.json").read_text()).values()
    assert len(set(chosen)) == 4
    assert min(chosen) >= FIRST_PORT


def test_port_that_another_program_has_taken_is_replaced_and_named(tmp_path: Path) -> None:
    place = tmp_path / "ports.json"
    said: list[str] = []
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        before = kept_ports(place)
        place.write_text(json.dumps({**json.loads(place.read_text()), "emulator": taken}))
        ports = kept_ports(place, said.append)
    assert (ports.api, ports.emulator != taken) == (before.api, True)
    assert f"port {taken} of the last start is taken" in said[0]
    assert str(ports.emulator) in said[0]


@pytest.mark.parametrize("content", ["", "[1]", '{"api": "x"}', '{"api": 70000}'])
def test_spoilt_list_of_ports_is_written_anew(tmp_path: Path, content: str) -> None:
    place = tmp_path / "ports.json"
    place.write_text(content)
    assert kept_ports(place) == kept_ports(place)


def test_secrets_are_kept_for_their_owner_alone(tmp_path: Path) -> None:
    place = tmp_path / "secrets.json"
    assert kept_secrets(place) == kept_secrets(place)
    assert place.stat().st_mode & 0o077 == 0


class Stored:
    """Connections as Airflow's API tells them: without secrets."""

    def __init__(self, host: str | None = None) -> None:
        self.known: dict[str, Any] = {} if host is None else {CONNECTION: {"conn_type": "gemini_batch", "host": host}}

    def connection(self, conn_id: str) -> dict[str, Any] | None:
        return self.known.get(conn_id)

    def add_connection(self, conn_id: str, connection: dict[str, Any]) -> None:
        self.known[conn_id] = connection

    def move_connection(self, conn_id: str, host: str) -> None:
        self.known[conn_id]["host"] = host


@pytest.mark.parametrize(
    ("host", "leads", "after"),
    [
        (None, True, "http://127.0.0.1:2"),
        ("http://127.0.0.1:2", True, "http://127.0.0.1:2"),
        ("http://127.0.0.1:1", True, "http://127.0.0.1:2"),
        ("", False, ""),
        ("https://gateway.example", False, "https://gateway.example"),
    ],
)
def test_connection_that_a_person_made_their_own_stays_theirs(host: str | None, leads: bool, after: str) -> None:
    airflow: Any = Stored(host)
    assert connect(airflow, "http://127.0.0.1:2") == leads
    assert airflow.known[CONNECTION]["host"] == after


# --- for real ---------------------------------------------------------------------------------------------------------


def look(state: Path, until: str) -> str:
    """Start ``make ui``, read what it says until *until*, and press Ctrl-C."""
    command = [sys.executable, "-m", "demo", "ui", "--state", str(state)]
    said = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                if until in line:
                    break
            process.send_signal(signal.SIGINT)
            said.append(process.stdout.read())
            assert process.wait(60) == 0, "".join(said)
        finally:
            process.terminate()
    return "".join(said)


@pytest.mark.newest_airflow
@pytest.mark.slow
@pytest.mark.xdist_group("real_airflow")
def test_second_start_shows_the_runs_of_the_first_at_the_same_address(tmp_path: Path) -> None:
    first = look(tmp_path, "  run manual")
    [address] = [line for line in first.splitlines() if "Log in" in line]
    assert "no password" in address
    assert "earlier run" not in first
    second = look(tmp_path, "emulator   ")
    assert address in second
    assert "(1 earlier run)" in second
    assert f"{CONNECTION}; Test works" in second
