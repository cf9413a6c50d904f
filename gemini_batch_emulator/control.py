# SPDX-License-Identifier: Apache-2.0
"""The control routes below ``/_emulator/``; what they take and answer stands at the top of :mod:`.core`."""

from __future__ import annotations

import re
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.routing import Route

from gemini_batch_emulator.core import (
    MATCH_FIELDS,
    ControlError,
    Ending,
    JobScript,
    SyntheticRows,
    build,
    job_matches,
    reply,
    timestamp,
    unhurried,
)

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gemini_batch_emulator.core import EmulatorState

PREFIX = "/_emulator/"
SEEDED_SPREAD = 1.0
"""Seeded jobs look as if they had been created this many seconds apart."""


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


def seed_jobs(
    emulated: EmulatorState,
    /,
    *,
    count: int = 1,
    backend: str = "gemini",
    kind: str = "generate",
    state: str = "SUCCEEDED",
    rows: int = 1,
    model: str = "",
    display_name: str = "seeded-{n}",
    labels: dict[str, str] | None = None,
    project: str = "emulated-project",
    location: str = "us-central1",
    script: dict[str, Any] | None = None,
) -> list[str]:
    """
    Make jobs that seem to have been there before.

    :param state: ``PENDING`` or ``RUNNING`` jobs stay so until a script says otherwise; any other word is the end.
    :param display_name: ``{n}`` is replaced by a number from 0.
    :return: Their names, oldest first.
    """
    # The backends know their own names, models and handlers; the imports are here because they import the core, too.
    from gemini_batch_emulator import developer, vertex

    behaviour: dict[str, Any] = {"mode": "at_once"}
    if state in ("PENDING", "RUNNING"):
        behaviour = {"mode": "time", "pending_seconds": 0.0, "stuck": state}
    elif state != "SUCCEEDED":
        behaviour["end"] = {"state": state}
    prepared = JobScript().changed({**behaviour, **(script or {})})
    scope = f"projects/{project}/locations/{location}"
    names = []
    for number in range(count):
        title = display_name.replace("{n}", str(number))
        common: dict[str, Any] = {
            "kind": kind,
            "display_name": title,
            "source": SyntheticRows(rows),
            "labels": labels,
            "script": prepared,
        }
        if backend == "gemini":
            job = developer.seed_job(emulated, model=model or "models/gemini-3.5-flash-lite", **common)
        elif backend == "vertex_ai":
            path = model or "publishers/google/models/gemini-3.5-flash-lite"
            where = f"gs://emulator/seeded/{number}"
            resource = {
                "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [where + "/in.jsonl"]}},
                "outputConfig": {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": where}},
            }
            name = f"{scope}/batchPredictionJobs/{emulated.new_id(19, '123456789')}"
            job = emulated.create_job(
                name=name,
                backend=backend,
                model=path,
                scope=scope,
                resource=resource,
                handler=_SeededVertexRun(vertex.VertexRun()),
                **common,
            )
        else:
            raise ControlError(f"There is no backend {backend!r}; there is gemini and vertex_ai.")
        # A job that is to be ended seems to have been created some time ago: list benchmarks ask by time.
        job.created -= SEEDED_SPREAD * (count - number)
        names.append(job.name)
    return names


class _SeededVertexRun:
    """A seeded job has no input to import, but writes its output as any other."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def start(self, state: EmulatorState, job: Any) -> Ending | None:
        return None

    def finish(self, state: EmulatorState, job: Any, ending: Ending) -> Ending | None:
        ended: Ending | None = self._run.finish(state, job, ending)
        return ended


def finish_jobs(
    state: EmulatorState, /, *, match: dict[str, str] | None = None, count: int | None = None, **ending: Any
) -> int:
    """End the matching jobs that have not ended, oldest first and at most *count*; return how many."""
    how = build(Ending, ending)
    match = match or {}
    job_matches(match, dict.fromkeys(MATCH_FIELDS, ""))
    finished = 0
    for job in list(state.all_jobs):
        if job.is_ended or job.deleted:
            continue
        facts = {name: str(getattr(job, name)) for name in MATCH_FIELDS}
        if not job_matches(match, facts):
            continue
        state.finish_job(job, how)
        finished += 1
        if count is not None and finished >= count:
            break
    return finished


def journal(state: EmulatorState, *, path: str = "", method: str = "") -> list[dict[str, Any]]:
    """Return the requests seen, oldest first, whose path and method match the regular expressions."""
    try:
        by_path, by_method = re.compile(path), re.compile(method, re.IGNORECASE)
    except re.error as error:
        raise ControlError(f"Not a regular expression: {error}") from error
    with state.lock:
        entries = list(state.journal)
    return [asdict(entry) for entry in entries if by_path.search(entry.path) and by_method.match(entry.method)]


def routes(state: EmulatorState) -> list[Route]:
    """The control routes."""

    async def health(request: Request) -> Response:
        return reply(state, None, {"status": "ok", "now": timestamp(state.now(), 3)})

    async def reset(request: Request) -> Response:
        state.reset()
        return reply(state, None, {})

    async def config(request: Request) -> Response:
        if request.method == "PATCH":
            state.configure(await _body(request))
        return reply(state, None, asdict(state.config))

    async def clock(request: Request) -> Response:
        wanted = _numbers(await _body(request), "advance", "set", "speed")
        now = state.clock.change(advance=wanted.get("advance", 0.0), to=wanted.get("set"), speed=wanted.get("speed"))
        return reply(state, None, {"now": now, "speed": state.clock.speed})

    async def faults(request: Request) -> Response:
        if request.method == "DELETE":
            with state.lock:
                state.faults.clear()
        elif request.method == "POST":
            body = await _body(request)
            for rule in body if isinstance(body, list) else [body]:
                state.add_fault(**rule)
        return reply(state, None, {"faults": [fault.to_json() for fault in state.faults]})

    async def script(request: Request) -> Response:
        if request.method == "POST":
            body = await _body(request)
            unknown = sorted(set(body) - {"script", "match", "times"})
            if unknown or "script" not in body:
                raise ControlError('Send {"script": {...}, "match": {...}, "times": 1}.')
            state.add_script(body["script"], match=body.get("match"), times=body.get("times", 1))
        return reply(state, None, {"scripts": [asdict(pending) for pending in state.scripts]})

    async def requests_seen(request: Request) -> Response:
        if request.method == "DELETE":
            state.journal.clear()
            return reply(state, None, {})
        wanted = {name: request.query_params.get(name, "") for name in ("path", "method")}
        return reply(state, None, {"requests": journal(state, **wanted)})

    async def ledger(request: Request) -> Response:
        return reply(state, None, await unhurried(state, state.ledger))

    async def seed(request: Request) -> Response:
        body = await _body(request)
        try:
            names = seed_jobs(state, **body)
        except TypeError as error:
            raise ControlError(str(error)) from error
        return reply(state, None, {"names": [*names[:1], *names[-1:]], "count": len(names)})

    async def finish(request: Request) -> Response:
        try:
            finished = await unhurried(state, partial(finish_jobs, state, **await _body(request)))
        except TypeError as error:
            raise ControlError(str(error)) from error
        return reply(state, None, {"count": finished})

    return [
        Route(PREFIX + "health", health, methods=["GET"]),
        Route(PREFIX + "reset", reset, methods=["POST"]),
        Route(PREFIX + "config", config, methods=["GET", "PATCH"]),
        Route(PREFIX + "clock", clock, methods=["POST"]),
        Route(PREFIX + "faults", faults, methods=["GET", "POST", "DELETE"]),
        Route(PREFIX + "jobs/script", script, methods=["GET", "POST"]),
        Route(PREFIX + "journal", requests_seen, methods=["GET", "DELETE"]),
        Route(PREFIX + "ledger", ledger, methods=["GET"]),
        Route(PREFIX + "seed_jobs", seed, methods=["POST"]),
        Route(PREFIX + "finish_jobs", finish, methods=["POST"]),
    ]
