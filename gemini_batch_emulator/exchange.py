# SPDX-License-Identifier: Apache-2.0
"""One request and its reply, with the grip that faults need on the connection."""

from __future__ import annotations

import asyncio
import socket
import struct
from email.utils import formatdate
from typing import TYPE_CHECKING

from gemini_batch_emulator.replies import MAX_INLINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message, Receive, Scope, Send

    from gemini_batch_emulator.faults import JournalEntry


class ConnectionCut(Exception):
    """Raised into a handler whose connection a fault has ended."""


class Exchange:
    """
    One request and its reply: counts bytes, and gives a fault its grip on the connection.

    :param now: The service's own time, which each reply tells: by it a job is as old as its times say.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, entry: JournalEntry, now: Callable[[], float]
    ) -> None:
        self._now = now
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
        # To its last byte: a connection that is closed over unread bytes ends in a reset, which would swallow the
        # reply.
        while not self.is_read:
            await self.receive()

    async def receive(self) -> Message:
        """Hand the request's body on, up to where a fault cuts it."""
        # The handler sees what a server sees of a dead client: the body ends in the middle, and nobody is there.
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
        # The handler has run and its reply is lost, as when a proxy dies on the way back.
        if self.muted:
            return
        if message["type"] == "http.response.start":
            self.started = True
            self.entry.status = message["status"]
            # Clients reckon a job's age by this header. The server's own would tell real time, and the emulated clock
            # may run a thousand times as fast.
            date = formatdate(self._now(), usegmt=True).encode("ascii")
            message = {**message, "headers": [(b"date", date), *message.get("headers", ())]}
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            if self.response_left is not None:
                if len(body) >= self.response_left:
                    body = body[: self.response_left]
                    self.entry.response_bytes += len(body)
                    await self._send({"type": "http.response.body", "body": body, "more_body": True})
                    self.is_cut = True
                    raise ConnectionCut
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
                # Linger of zero: closing then sends a reset and drops what was not read, as a crashed proxy does.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        elif flush:
            transport.close()
        else:
            transport.abort()
        # Until the transport has noticed: the next request of the test must not meet a connection that is about to end.
        for _ in range(200):
            if getattr(getattr(self._send, "__self__", None), "disconnected", True):
                return
            await asyncio.sleep(0.005)
