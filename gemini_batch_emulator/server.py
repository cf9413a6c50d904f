# SPDX-License-Identifier: Apache-2.0
"""The emulator over HTTP, served from a thread: :class:`EmulatorServer`."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from gemini_batch_emulator.app import create_app
from gemini_batch_emulator.state import EmulatorState

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

RECEIVE_BYTES = 1 << 22


class _Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Takes uploads in larger pieces than asyncio's 256 KiB."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        transport.max_size = RECEIVE_BYTES  # type: ignore[attr-defined]
        super().connection_made(transport)


class _Server(uvicorn.Server):
    """Tells when it listens, and stops without waiting for idle connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class EmulatorServer:
    """
    The emulator in a thread of this process.

    :param port: 0 picks a free one.
    :param state: What to serve; a new state, closed with the server, unless given.

    ::

        with EmulatorServer() as emulator:
            requests.get(emulator.url + "/v1beta/batches", headers={"x-goog-api-key": "any"})
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, state: EmulatorState | None = None) -> None:
        self._owns_state = state is None
        self.state = state or EmulatorState()
        self._host = host
        self._port = port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self.url = ""

    def start(self) -> EmulatorServer:
        """
        Start serving; returns when connections are accepted.

        :raises OSError: If the address cannot be had.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # asyncio switches delayed sending off only for sockets that say they are TCP.
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # Bound here and not by uvicorn, so that the port is known before the server's thread begins.
            self._socket.bind((self._host, self._port))
        except OSError:
            self._socket.close()
            raise
        port = self._socket.getsockname()[1]
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self._host, self._host)
        self.url = self.state.base_url = f"http://{shown}:{port}"
        config = uvicorn.Config(
            create_app(self.state),
            # uvloop hides the socket that a TCP reset needs.
            loop="asyncio",
            http=_Protocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="critical",
            server_header=False,
            date_header=False,  # the app tells its own time
            timeout_keep_alive=75,
            backlog=2048,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="gemini-batch-emulator", daemon=True
        )
        self._thread.start()
        while not self._server.ready.wait(0.2):
            if not self._thread.is_alive():
                raise RuntimeError("The emulator's server thread ended before it was ready.")
        return self

    def stop(self) -> None:
        """Stop at once; open connections are dropped."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            # Clients keep connections open between calls; to wait for them would cost each test seconds.
            self._server.force_exit = True
            self._thread.join(timeout=10)
        if self._socket is not None:
            self._socket.close()
        if self._owns_state:
            self.state.close()
        self._server = self._thread = self._socket = None

    def __enter__(self) -> EmulatorServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def server_for(
    *, host: str, port: int, speed: float, data_dir: str | Path | None = None, seed: int = 0
) -> tuple[EmulatorServer, EmulatorState]:
    """Make a server, not started yet, and its state, which the caller closes."""
    state = EmulatorState(data_dir=data_dir, seed=seed, speed=speed)
    return EmulatorServer(host, port, state), state
