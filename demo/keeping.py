# SPDX-License-Identifier: Apache-2.0
"""
What ``make ui`` keeps from one start to the next: ports, so that a bookmark holds, and secrets, so that stored
connections can be read and whoever is signed in stays so.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from demo import secrets
from demo.processes import free_ports

FIRST_PORT = 28080
"""Where a port that is kept is looked for first: below those that the system hands out to whoever calls out."""


@dataclass(frozen=True)
class Ports:
    """Ports of the loopback address."""

    api: int
    emulator: int
    worker_logs: int
    trigger_logs: int

    @classmethod
    def choose(cls) -> Ports:
        """Return ports that are free now, for a demo that nobody comes back to."""
        return cls(*free_ports(len(fields(cls))))


def kept_ports(place: Path, say: Callable[[str], None] = lambda text: None) -> Ports:
    """
    Return the ports of the last start.

    :param place: File that holds them; written where they are new.
    :param say: Told of each port that another program has taken since, and of the one that stands in for it.
    """
    known: dict[str, int] = {}
    with suppress(OSError, ValueError, AttributeError):  # there is none yet, or it is spoilt
        known = {name: int(port) for name, port in json.loads(place.read_text()).items()}
    chosen: dict[str, int] = {}
    for name in (each.name for each in fields(Ports)):
        port = known.get(name, 0)
        if not is_free(port):
            taken, port = port, _free_port({*chosen.values(), *known.values()})
            if taken:
                say(f"port {taken} of the last start is taken by another program: {port} stands in for it from now on")
        chosen[name] = port
    ports = Ports(**chosen)
    place.write_text(json.dumps(asdict(ports)))
    return ports


def is_free(port: int) -> bool:
    """Whether a server can listen there; some numbers are no port."""
    if not 0 < port < 2**16:
        return False
    with socket.socket() as probe:
        # As servers do: a connection of the last start that is not quite over does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def _free_port(taken: set[int]) -> int:
    return next(port for port in range(FIRST_PORT, 2**16) if port not in taken and is_free(port))


def kept_secrets(place: Path) -> dict[str, str]:
    """Return the secrets of the first start; they are made there, readable by their owner alone."""
    with suppress(OSError, ValueError, AttributeError):
        return {str(name): str(value) for name, value in json.loads(place.read_text()).items()}
    fresh = secrets.fresh()
    place.unlink(missing_ok=True)
    with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump(fresh, out)
    return fresh
