# SPDX-License-Identifier: Apache-2.0
"""The ASGI app: finds the route, lets faults have their way with the connection, keeps the journal."""

# A fault acts on the connection, not on the handler. `before` keeps the handler from running; `after` lets it run and
# swallows its reply, so that the job exists although the caller never hears of it; a cut lets so many bytes through in
# one direction. What a handler receives and sends goes through an `Exchange`, which counts the bytes for the journal,
# too.

from __future__ import annotations

import asyncio
import importlib
import re
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match, Route

from gemini_batch_emulator import control
from gemini_batch_emulator.errors import ControlError, GoogleError
from gemini_batch_emulator.exchange import Exchange
from gemini_batch_emulator.faults import Fault, JournalEntry
from gemini_batch_emulator.replies import error_reply, reply

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from gemini_batch_emulator.state import EmulatorState

SERVICES = (
    "developer.jobs",
    "developer.models",
    "developer.files",
    "vertex.jobs",
    "vertex.models",
    "storage.routes",
    "bigquery.routes",
    "token.routes",
)
SECRET_PARAMETERS = re.compile(r"((?:^|&)(?:key|access_token|upload_id)=)[^&]*")
JOURNAL_HEADERS = frozenset(
    {"user-agent", "content-type", "content-range", "range", "x-goog-upload-command", "x-goog-upload-offset"}
)


class EmulatorApp:
    """The ASGI app: routes, faults, journal."""

    def __init__(self, state: EmulatorState, routes: Iterable[Route]) -> None:
        self.state = state
        self.routes = list(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        route = self._find(scope)
        # Control calls are neither counted nor spoilt: a test that sets a fault can always take it away.
        if scope["path"].startswith(control.PREFIX):
            await self._answer(route, scope, receive, send)
            return
        client = scope.get("client") or ("", 0)
        query = scope.get("query_string", b"").decode("latin-1")
        entry = JournalEntry(
            method=scope["method"],
            path=scope["path"],
            # Keys stand in URLs as well as in headers, and a journal is printed by tests that fail.
            query=SECRET_PARAMETERS.sub(r"\1***", query),
            connection=f"{client[0]}:{client[1]}",
            time=self.state.now(),
            call=route.name if route is not None else "",
            headers={
                name.decode("latin-1"): value.decode("latin-1")
                for name, value in scope["headers"]
                if name.decode("latin-1") in JOURNAL_HEADERS
            },
        )
        self.state.record(entry)
        exchange = Exchange(scope, receive, send, entry, self.state.now)
        # The usual way has no body buffered and no rule matched: benchmarks run on it.
        if not self.state.faults:
            await self._answer(route, scope, exchange.receive, exchange.send)
            return
        await self._answer_with_faults(route, exchange, query)

    async def _answer_with_faults(self, route: Route | None, exchange: Exchange, query: str) -> None:
        scope = exchange.scope
        body = None
        if any(fault.needs_body for fault in list(self.state.faults)):
            body = await exchange.buffer_body()
        fault = self.state.fault_for(scope["method"], scope["path"], query, body)
        if fault is None:
            await self._answer(route, scope, exchange.receive, exchange.send)
            return
        exchange.entry.fault = fault.action
        if fault.delay and not fault.holds_reply:
            await asyncio.sleep(fault.delay)
        await self._carry_out(fault, route, exchange)

    async def _carry_out(self, fault: Fault, route: Route | None, exchange: Exchange) -> None:
        scope = exchange.scope
        if fault.action in ("cut_response", "cut_upload"):
            if fault.action == "cut_response":
                exchange.response_left = fault.bytes
            else:
                exchange.upload_left = fault.bytes
            # What the handler makes of the cut is its own affair; its reply, if it has one, cannot be sent any more.
            try:
                await self._answer(route, scope, exchange.receive, exchange.send)
            except Exception:
                if not exchange.is_cut:
                    raise
            if exchange.is_cut:
                await exchange.end_connection(flush=fault.action == "cut_response")
            return
        if fault.action in ("reply", "close", "reset"):
            if fault.when == "after":
                exchange.muted = True
                await self._answer(route, scope, exchange.receive, exchange.send)
                exchange.muted = False
            # A client still sending would meet a broken pipe instead of what it is to meet.
            await exchange.drain()
        if fault.action in ("close", "reset"):
            await exchange.end_connection(reset=fault.action == "reset")
        elif fault.action == "reply":
            status, headers, body = fault.reply()
            await Response(body, status, headers)(scope, exchange.receive, exchange.send)
        elif fault.holds_reply:
            await self._answer(route, scope, exchange.receive, _held(exchange.send, fault.delay))
        else:
            await self._answer(route, scope, exchange.receive, exchange.send)

    def _find(self, scope: Scope) -> Route | None:
        """Return the first route that matches, None if no service has the path."""
        for route in self.routes:
            match, child = route.matches(scope)
            if match is Match.FULL:
                scope.update(child)
                return route
        return None

    async def _answer(self, route: Route | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the route's handler; its errors become replies."""
        response: ASGIApp
        try:
            if route is not None:
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
    routes: list[Route] = []
    for name in SERVICES:
        routes += importlib.import_module(f"gemini_batch_emulator.{name}").routes(state)
    return EmulatorApp(state, [*routes, *control.routes(state)])


def _held(send: Send, seconds: float) -> Send:
    """Return *send* so that the reply begins *seconds* after the handler has given it."""

    async def later(message: Message) -> None:
        if message["type"] == "http.response.start":
            await asyncio.sleep(seconds)
        await send(message)

    return later
