# SPDX-License-Identifier: Apache-2.0
"""
The emulator over HTTP: :func:`create_app` makes the ASGI app, :class:`EmulatorServer` serves it from a thread.

What it does not do
===================

* No model: answers are made from the prompt, embeddings from a hash. Media in prompts is neither fetched nor looked at.
* No list of models: every name that looks like one of Gemini's will do, unless the knob ``models`` lists them.
* No webhooks: ``webhookConfig`` is accepted and stored, nothing is ever delivered, and ``/webhooks`` does not exist.
* No synchronous calls (``generateContent``, ``embedContent``), no cached contents, tuning, or interactions.
* No OpenAI-compatible front door, no ``alt=proto``, no ``files:register``, no files without content.
* No quota over time: 429 comes from the number of active jobs, from enqueued tokens, or from a fault.
* No permissions beyond the knobs, no regions beyond names, no encryption keys, no TLS.
* Priority is stored and changes nothing: every job runs by its own clock.
* BigQuery: tables can be created, filled and read; there are no queries.
* Nothing is kept after the process ends.
"""

from __future__ import annotations

import asyncio
import importlib
import re
import socket
import struct
import threading
from typing import TYPE_CHECKING

import uvicorn
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from gemini_batch_emulator import control
from gemini_batch_emulator.core import (
    MAX_INLINE_BYTES,
    ControlError,
    EmulatorState,
    Fault,
    GoogleError,
    JournalEntry,
    error_reply,
    reply,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

RECEIVE_BYTES = 1 << 22
MODULES = ("developer", "files", "vertex", "storage", "bigquery", "token")
SECRET_PARAMETERS = re.compile(r"((?:^|&)(?:key|access_token|upload_id)=)[^&]*")
JOURNAL_HEADERS = frozenset(
    {"user-agent", "content-type", "content-range", "range", "x-goog-upload-command", "x-goog-upload-offset"}
)


class _ConnectionCut(Exception):
    """Raised into a handler whose connection a fault has ended."""


class _Exchange:
    """One request and its reply: counts bytes, and gives a fault its grip on the connection."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, entry: JournalEntry) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._buffered: list[Message] = []
        self.entry = entry
        self.started = False
        self.is_cut = False
        self.upload_left: int | None = None
        self.response_left: int | None = None
        self.muted = False
        self.is_read = False

    async def drain(self) -> None:
        """Read what the handler left of the request."""
        while not self.is_read:
            await self.receive()

    async def receive(self) -> Message:
        """Hand the request's body on, up to where a fault cuts it."""
        if self.upload_left is not None and self.upload_left <= 0:
            self.is_cut = True
            return {"type": "http.disconnect"}
        message = self._buffered.pop(0) if self._buffered else await self._receive()
        if message["type"] == "http.request":
            body = message.get("body", b"")
            if self.upload_left is not None:
                body = body[: self.upload_left]
                self.upload_left -= len(body)
                message = {**message, "body": body, "more_body": True}
            self.entry.request_bytes += len(body)
        self.is_read = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def buffer_body(self, limit: int = MAX_INLINE_BYTES) -> bytes:
        """Read the body (up to about *limit*) for matching; the handler gets it again."""
        body = bytearray()
        while True:
            message = await self._receive()
            self._buffered.append(message)
            body += message.get("body", b"")
            if message["type"] != "http.request" or not message.get("more_body") or len(body) > limit:
                return bytes(body)

    async def send(self, message: Message) -> None:
        """Pass the reply on, up to where a fault cuts it; swallow it when it is to be lost."""
        if self.muted:
            return
        if message["type"] == "http.response.start":
            self.started = True
            self.entry.status = message["status"]
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            if self.response_left is not None:
                if len(body) >= self.response_left:
                    body = body[: self.response_left]
                    self.entry.response_bytes += len(body)
                    await self._send({"type": "http.response.body", "body": body, "more_body": True})
                    self.is_cut = True
                    raise _ConnectionCut
                self.response_left -= len(body)
            self.entry.response_bytes += len(body)
        await self._send(message)

    async def end_connection(self, *, reset: bool = False, flush: bool = False) -> None:
        """
        End the TCP connection without (the rest of) a reply.

        :param reset: Send a TCP reset instead of an orderly end.
        :param flush: Let what was sent arrive first.
        """
        # uvicorn's send is a method of the object that owns the transport; ASGI itself knows no way to hang up.
        transport = getattr(getattr(self._send, "__self__", None), "transport", None)
        if transport is None:
            raise RuntimeError("Faults that cut connections need the app to be served by uvicorn itself.")
        if reset:
            sock = transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        elif flush:
            transport.close()
        else:
            transport.abort()
        for _ in range(200):
            if getattr(getattr(self._send, "__self__", None), "disconnected", True):
                return
            await asyncio.sleep(0.005)


class EmulatorApp:
    """The ASGI app: routes, faults, journal."""

    def __init__(self, state: EmulatorState, routes: Iterable[BaseRoute]) -> None:
        self.state = state
        self.routes = list(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        if scope["path"].startswith(control.PREFIX):
            await self._answer(scope, receive, send)
            return
        client = scope.get("client") or ("", 0)
        query = scope.get("query_string", b"").decode("latin-1")
        entry = JournalEntry(
            method=scope["method"],
            path=scope["path"],
            query=SECRET_PARAMETERS.sub(r"\1***", query),
            connection=f"{client[0]}:{client[1]}",
            time=self.state.now(),
            headers={
                name.decode("latin-1"): value.decode("latin-1")
                for name, value in scope["headers"]
                if name.decode("latin-1") in JOURNAL_HEADERS
            },
        )
        self.state.record(entry)
        exchange = _Exchange(scope, receive, send, entry)
        if not self.state.faults:
            await self._answer(scope, exchange.receive, exchange.send)
            return
        await self._answer_with_faults(exchange, query)

    async def _answer_with_faults(self, exchange: _Exchange, query: str) -> None:
        scope = exchange.scope
        body = None
        if any(fault.needs_body for fault in list(self.state.faults)):
            body = await exchange.buffer_body()
        fault = self.state.fault_for(scope["method"], scope["path"], query, body)
        if fault is None:
            await self._answer(scope, exchange.receive, exchange.send)
            return
        exchange.entry.fault = fault.action
        if fault.delay:
            await asyncio.sleep(fault.delay)
        await self._carry_out(fault, exchange)

    async def _carry_out(self, fault: Fault, exchange: _Exchange) -> None:
        scope = exchange.scope
        if fault.action in ("cut_response", "cut_upload"):
            if fault.action == "cut_response":
                exchange.response_left = fault.bytes
            else:
                exchange.upload_left = fault.bytes
            # What the handler makes of the cut is its own affair; its reply, if it has one, cannot be sent any more.
            try:
                await self._answer(scope, exchange.receive, exchange.send)
            except Exception:
                if not exchange.is_cut:
                    raise
            if exchange.is_cut:
                await exchange.end_connection(flush=fault.action == "cut_response")
            return
        if fault.action in ("reply", "close", "reset"):
            if fault.when == "after":
                exchange.muted = True
                await self._answer(scope, exchange.receive, exchange.send)
                exchange.muted = False
            # A client still sending would meet a broken pipe instead of what it is to meet.
            await exchange.drain()
        if fault.action in ("close", "reset"):
            await exchange.end_connection(reset=fault.action == "reset")
        elif fault.action == "reply":
            from starlette.responses import Response

            status, headers, body = fault.reply()
            await Response(body, status, headers)(scope, exchange.receive, exchange.send)
        else:
            await self._answer(scope, exchange.receive, exchange.send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the first route that matches; its errors become replies."""
        response: ASGIApp
        try:
            for route in self.routes:
                match, child = route.matches(scope)
                if match is Match.FULL:
                    scope.update(child)
                    await route.handle(scope, receive, send)
                    return
            response = error_reply(GoogleError(404, f"Method not found: {scope['method']} {scope['path']}"))
        except GoogleError as error:
            response = error_reply(error)
        except ControlError as error:
            response = reply(self.state, None, {"error": {"code": 400, "message": str(error)}}, status=400)
        except ClientDisconnect:
            return
        await response(scope, receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


def create_app(state: EmulatorState) -> EmulatorApp:
    """Make the ASGI app that serves *state*."""
    routes: list[BaseRoute] = []
    for name in MODULES:
        module = importlib.import_module(f"gemini_batch_emulator.{name}")
        routes += module.routes(state)
    return EmulatorApp(state, [*routes, *control.routes(state)])


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


def limitations() -> str:
    """Return the list of what the emulator does not do."""
    return (__doc__ or "").partition("What it does not do\n")[2].lstrip("=\n")


def server_for(
    *, host: str, port: int, speed: float, data_dir: str | Path | None = None, seed: int = 0
) -> tuple[EmulatorServer, EmulatorState]:
    """Make a server, not started yet, and its state, which the caller closes."""
    state = EmulatorState(data_dir=data_dir, seed=seed, speed=speed)
    return EmulatorServer(host, port, state), state
