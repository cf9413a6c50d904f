# SPDX-License-Identifier: Apache-2.0
"""The control routes below ``/_emulator/``: JSON, no credentials; ``docs/emulator.md`` tells what they take."""

from __future__ import annotations

import re
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.routing import Route

from gemini_batch_emulator.clock import timestamp
from gemini_batch_emulator.errors import ControlError
from gemini_batch_emulator.replies import reply, unhurried
from gemini_batch_emulator.rows import prompt_of
from gemini_batch_emulator.seeding import finish_jobs, seed_jobs

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gemini_batch_emulator.state import EmulatorState

PREFIX = "/_emulator/"


async def _body(request: Request) -> Any:
    raw = await request.body()
    try:
        return msgspec.json.decode(raw) if raw.strip() else {}
    except msgspec.DecodeError as error:
        raise ControlError(f"The body is not JSON: {error}") from error


def _numbers(value: Any, *names: str) -> dict[str, float]:
    unknown = sorted(set(value) - set(names))
    if unknown:
        raise ControlError(f"Unknown: {', '.join(unknown)}; there is {', '.join(names)}.")
    try:
        return {name: float(number) for name, number in value.items()}
    except (TypeError, ValueError) as error:
        raise ControlError(str(error)) from error


def journal(state: EmulatorState, *, path: str = "", method: str = "") -> list[dict[str, Any]]:
    """Return the requests seen, oldest first, whose path and method match the regular expressions."""
    try:
        by_path, by_method = re.compile(path), re.compile(method, re.IGNORECASE)
    except re.error as error:
        raise ControlError(f"Not a regular expression: {error}") from error
    with state.lock:
        entries = list(state.journal)
    return [asdict(entry) for entry in entries if by_path.search(entry.path) and by_method.match(entry.method)]


class Control:
    """Handlers."""

    def __init__(self, state: EmulatorState) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        """The routes."""
        return [
            Route(PREFIX + "health", self.health, methods=["GET"]),
            Route(PREFIX + "reset", self.reset, methods=["POST"]),
            Route(PREFIX + "config", self.config, methods=["GET", "PATCH"]),
            Route(PREFIX + "clock", self.clock, methods=["POST"]),
            Route(PREFIX + "faults", self.faults, methods=["GET", "POST", "DELETE"]),
            Route(PREFIX + "jobs/script", self.script, methods=["GET", "POST"]),
            Route(PREFIX + "journal", self.journal, methods=["GET", "DELETE"]),
            Route(PREFIX + "ledger", self.ledger, methods=["GET"]),
            Route(PREFIX + "executions", self.executions, methods=["GET", "POST"]),
            Route(PREFIX + "seed_jobs", self.seed, methods=["POST"]),
            Route(PREFIX + "finish_jobs", self.finish, methods=["POST"]),
        ]

    async def health(self, request: Request) -> Response:
        """Whether it runs, and its time."""
        return reply(self._state, None, {"status": "ok", "now": timestamp(self._state.now(), 3)})

    async def reset(self, request: Request) -> Response:
        """Forget everything."""
        # Files go, too: a test that follows begins with an empty disk.
        self._state.reset()
        return reply(self._state, None, {})

    async def config(self, request: Request) -> Response:
        """Show all knobs, or change some."""
        if request.method == "PATCH":
            self._state.configure(await _body(request))
        return reply(self._state, None, asdict(self._state.config))

    async def clock(self, request: Request) -> Response:
        """Let time jump, or run at another speed."""
        clock = self._state.clock
        # Names that are unknown are refused in every control call: a test with a misspelt knob would pass for the wrong
        # reason.
        wanted = _numbers(await _body(request), "advance", "set", "speed")
        now = clock.change(advance=wanted.get("advance", 0.0), to=wanted.get("set"), speed=wanted.get("speed"))
        return reply(self._state, None, {"now": now, "speed": clock.speed})

    async def faults(self, request: Request) -> Response:
        """Show, add or drop rules."""
        state = self._state
        if request.method == "DELETE":
            with state.lock:
                state.faults.clear()
        elif request.method == "POST":
            body = await _body(request)
            # In their order: the first rule that matches a call decides.
            for rule in body if isinstance(body, list) else [body]:
                state.add_fault(**rule)
        return reply(state, None, {"faults": [fault.to_json() for fault in state.faults]})

    async def script(self, request: Request) -> Response:
        """Show the scripts that wait for their jobs, or add one."""
        state = self._state
        if request.method == "POST":
            body = await _body(request)
            unknown = sorted(set(body) - {"script", "match", "times"})
            if unknown or "script" not in body:
                raise ControlError('Send {"script": {...}, "match": {...}, "times": 1}.')
            state.add_script(body["script"], match=body.get("match"), times=body.get("times", 1))
        return reply(state, None, {"scripts": [asdict(pending) for pending in state.scripts]})

    async def journal(self, request: Request) -> Response:
        """Show or empty the journal."""
        if request.method == "DELETE":
            self._state.journal.clear()
            return reply(self._state, None, {})
        wanted = {name: request.query_params.get(name, "") for name in ("path", "method")}
        return reply(self._state, None, {"requests": journal(self._state, **wanted)})

    async def ledger(self, request: Request) -> Response:
        """What was created, what ran and what was billed."""
        return reply(self._state, None, await unhurried(self._state, self._state.ledger))

    async def executions(self, request: Request) -> Response:
        """How many rows ran and which requests more than once; for a posted request, how often that one ran."""
        state = self._state
        if request.method == "POST":
            body = await _body(request)
            if not isinstance(body, dict) or not isinstance(body.get("request"), dict):
                raise ControlError('Send {"request": {...}}, a request as a row holds it.')
            return reply(state, None, {"count": state.executions.count(prompt_of(body["request"])[1])})
        return reply(state, None, await unhurried(state, state.executions.summary))

    async def seed(self, request: Request) -> Response:
        """Make jobs that seem to have been there before."""
        body = await _body(request)
        try:
            names = seed_jobs(self._state, **body)
        except TypeError as error:
            raise ControlError(str(error)) from error
        # The first and the last of perhaps a million.
        return reply(self._state, None, {"names": [*names[:1], *names[-1:]], "count": len(names)})

    async def finish(self, request: Request) -> Response:
        """End jobs now."""
        state = self._state
        try:
            finished = await unhurried(state, partial(finish_jobs, state, **await _body(request)))
        except TypeError as error:
            raise ControlError(str(error)) from error
        return reply(state, None, {"count": finished})


def routes(state: EmulatorState) -> list[Route]:
    """The control routes."""
    return Control(state).routes()
