# SPDX-License-Identifier: Apache-2.0
"""
The emulator's core: one :class:`EmulatorState` holds everything, and both backends share the life of a job.

Contract between the modules
============================

Every backend module (``developer``, ``files``, ``vertex``, ``storage``, ``bigquery``, ``token``) exposes ::

    def routes(state: EmulatorState) -> list[starlette.routing.BaseRoute]

and keeps what it needs in ``state.room(name, factory)`` (dropped by a reset, after its ``close()`` if it has one),
never in module globals.
:func:`gemini_batch_emulator.server.create_app` mounts them. Handlers are ``async def``, raise
:class:`GoogleError` for an error reply, and answer with :func:`reply` (partial responses, indentation) or stream a
file with :func:`file_reply`. Bodies arrive through :func:`read_json` or, for uploads, ``request.stream()``: a handler
that stores bytes writes each chunk as it arrives and counts it at once, so that a cut connection leaves a partial
receipt, and lets ``starlette.requests.ClientDisconnect`` through.

A backend creates a job with :meth:`EmulatorState.create_job`, giving a :class:`Handler` (what happens at the start and
at the end of the run) and a :class:`RowSource` (its input). It reads with :meth:`EmulatorState.read_job` (counts as a
poll) or :meth:`EmulatorState.look_at` (does not), and :meth:`EmulatorState.cancel_job`,
:meth:`EmulatorState.delete_job`, :meth:`EmulatorState.page_of_jobs`. :meth:`EmulatorState.answers` yields one
:class:`Answer` a result row, in the order in which they are to be written, with all scripted row outcomes applied;
the backend only puts them into its own words. ``Job.raw_state`` is the state's word without the backend's prefix.
Starting, finishing and reading may be slow for large jobs: call :meth:`EmulatorState.read_job` through
``await asyncio.to_thread(...)`` when ``job.is_heavy``, which :func:`polled` does.

Control routes (JSON, below ``/_emulator/``, no credentials)
=============================================================

====================================  =================================================================================
``GET  health``                       ``{"status": "ok", "now": "..."}``
``POST reset``                        forget everything: jobs, files, faults, scripts, journal, knobs, clock
``GET  config`` / ``PATCH config``    all knobs (:class:`Config`) / change some: ``{"speed": 60}``
``POST clock``                        ``{"advance": seconds}`` and/or ``{"set": epoch}``, ``{"speed": x}`` ->
                                      ``{"now": epoch}``
``POST faults``                       one :class:`Fault` (or a list); see below -> ``{"faults": [...]}``
``GET  faults`` / ``DELETE faults``   the rules with how often each matched and fired / drop them all
``POST jobs/script``                  ``{"match": {"name", "display_name", "model", "backend", "kind"}, "times": 1 or
                                      null, "script": {...}}``: a :class:`JobScript` for the next matching jobs;
                                      ``match.name`` names a job that exists and changes it at once. All but
                                      ``name``, ``backend`` and ``kind`` are regular expressions.
``GET  jobs/script``                  the scripts not used up
``GET  journal?path=&method=``        ``{"requests": [{"method", "path", "query", "status", "request_bytes",
                                      "response_bytes", "connection", "time", "fault"}]}``; regular expressions filter
``DELETE journal``                    empty it
``GET  ledger``                       ``{"jobs": [{"name", "backend", "display_name", "labels", "model", "state",
                                      "rows", "rows_run", "billed_rows", "input_tokens", "output_tokens", "created",
                                      "deleted", "rule_matches"}], "totals": {"created", "billed", "running", "rows",
                                      "billed_rows", "input_tokens", "output_tokens"}}``. A row that ran is billed;
                                      deleted jobs stay. ``rule_matches``: rows decided by each rule of the script.
``POST seed_jobs``                    ``{"count", "backend": "gemini", "state": "SUCCEEDED", "rows": 1, "model",
                                      "display_name": "seeded-{n}", "labels": {}, "project", "location", "script": {}}``
                                      -> ``{"names": [first, last], "count"}``; jobs that exist already, cheaply
``POST finish_jobs``                  ``{"match": {...}, "state": "SUCCEEDED", "code", "message", "count"}``: end the
                                      matching jobs now -> ``{"count"}``
====================================  =================================================================================

Job script
==========

Members of :class:`JobScript`; what is absent is taken from ``Config.script``::

    {"mode": "time" | "reads" | "at_once",
     "pending_seconds": 1, "running_seconds": 2,          # mode time, emulated seconds
     "pending_reads": 1, "running_reads": 1,              # mode reads: reads that still show the state
     "stuck": "PENDING" | "RUNNING",                      # never leaves it (but expires and can be cancelled)
     "hold": {"state": "PAUSED", "seconds": 5},           # after running, before the end; without seconds: for ever;
                                                          # any word is a state, also one nobody knows
     "end": {"state": "FAILED", "code": 13, "message": "...", "share": 0.0},   # share of the rows that ran
     "expire_seconds": 172800, "not_found_polls": 0,
     "shuffle": false, "extra_keys": ["ghost"], "truncate_last_line": false, "seed": 0,
     "rows": [RowRule, ...],                              # the first that matches a row decides
     "result_file": "/path.jsonl", "result_bytes": 1000000000, "result_line_bytes": 2000}

A :class:`RowRule` matches by ``key`` (exact; as sent, or behind a prefix that ends with a colon), ``index``,
``pattern`` (regular expression in the row's text) and/or ``share`` (seeded, 0 to 1), and has an ``outcome``:
``succeed``, ``error`` (with ``code``, ``message``; ``message`` null = only the code), ``blocked_prompt``,
``blocked_output`` (``reason``), ``no_candidates``, ``max_tokens``, ``missing``, ``null`` (a row with neither response
nor error), ``duplicate``, ``thoughts``, or ``text`` (answer with ``text``).

Faults
======

::

    {"match": {"method": "POST", "path": "regex", "query": "regex", "body": "regex"},
     "skip": 0, "times": 1, "share": 1.0, "seed": 0,      # times null = always
     "delay": 0.0,                                        # seconds of real time before anything else
     "action": "reply" | "close" | "reset" | "cut_response" | "cut_upload" | "delay",
     "when": "before" | "after",                          # after: the handler runs, its reply is lost or replaced
     "status": 503, "headers": {}, "retry_after": 37,     # retry_after adds RetryInfo to the error
     "body": "error" | "html" | "garbage" | "array" | "truncated" | "empty" | any other JSON value,
     "message": "...", "reason": "UNAVAILABLE", "bytes": 1000}

``close`` ends the connection without a reply, ``reset`` does so with a TCP reset; ``cut_response`` passes ``bytes``
bytes of the body on and then closes; ``cut_upload`` hands ``bytes`` bytes of the request body to the handler and then
closes. The first rule that matches (in order of arrival) and is neither skipped nor used up fires.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import shutil
import tempfile
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar

import msgspec
from starlette.responses import Response

from gemini_batch_emulator import answering, states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

R = TypeVar("R")

MAX_INLINE_BYTES = 20_971_520
WRITE_BYTES = 256 * 1024
CHUNK_BYTES = 1 << 20
HEAVY_ROWS = 500
JOURNAL_ENTRIES = 200_000

STATUS_WORDS: dict[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    416: "OUT_OF_RANGE",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class GoogleError(Exception):
    """
    An error reply in Google's form.

    :param code: HTTP status.
    :param status: The service's word; derived from *code* when empty.
    :param details: ``error.details``.
    :param errors: ``error.errors``, as only Cloud Storage and BigQuery have them.
    """

    def __init__(
        self,
        code: int,
        message: str,
        status: str = "",
        *,
        details: list[dict[str, Any]] | None = None,
        errors: list[dict[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status or STATUS_WORDS.get(code, "UNKNOWN")
        self.details = details or []
        self.errors = errors
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the reply's JSON."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.errors is not None:
            error["errors"] = self.errors
        else:
            error["status"] = self.status
        if self.details:
            error["details"] = self.details
        return {"error": error}


class ControlError(ValueError):
    """A control request that makes no sense; answered with 400 and this text."""


def build(cls: type[R], values: Mapping[str, Any]) -> R:
    """Make one of our dataclasses from JSON, refusing names it does not have."""
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ControlError(f"{cls.__name__} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
    try:
        return cls(**values)
    except (TypeError, re.error) as error:
        raise ControlError(f"{cls.__name__}: {error}") from error


# --------------------------------------------------------------------------------------------------------------------
# Knobs


@dataclass
class RowRule:
    """What becomes of the rows that match; see the module's docstring."""

    outcome: str = "succeed"
    key: str | None = None
    index: int | None = None
    pattern: str | None = None
    share: float | None = None
    code: int = 3
    message: str | None = "The emulator was told to fail this row."
    reason: str = "SAFETY"
    text: str | None = None
    matched: int = 0

    OUTCOMES = (
        "succeed",
        "error",
        "blocked_prompt",
        "blocked_output",
        "no_candidates",
        "max_tokens",
        "missing",
        "null",
        "duplicate",
        "thoughts",
        "text",
    )

    def __post_init__(self) -> None:
        if self.outcome not in self.OUTCOMES:
            raise ControlError(f"No such row outcome: {self.outcome!r}; there is {', '.join(self.OUTCOMES)}.")
        self._regex = re.compile(self.pattern) if self.pattern is not None else None

    def matches(self, row: InputRow, draw: Callable[[], float]) -> bool:
        """Whether this rule decides *row*; *draw* gives the row's own number between 0 and 1."""
        if self.key is not None and row.key != self.key and not _is_prefixed(row.key, self.key):
            return False
        if self.index is not None and row.index != self.index:
            return False
        if self._regex is not None and not self._regex.search(row.text):
            return False
        return self.share is None or draw() < self.share


def _is_prefixed(sent: str | None, key: str) -> bool:
    """
    Whether a row's key is *key* behind a prefix that ends with a colon.

    The importer of Vertex AI turns keys that look like numbers into numbers, so clients put a prefix before theirs; a
    script names a row as the client's user does.
    """
    return sent is not None and sent.partition(":")[2] == key


@dataclass
class JobScript:
    """How a job behaves; see the module's docstring."""

    mode: str = "time"
    pending_seconds: float = 1.0
    running_seconds: float = 2.0
    pending_reads: int = 1
    running_reads: int = 1
    stuck: str | None = None
    hold: dict[str, Any] | None = None
    end: dict[str, Any] | None = None
    expire_seconds: float | None = None
    not_found_polls: int | None = None
    shuffle: bool | None = None
    extra_keys: list[str] = field(default_factory=list)
    truncate_last_line: bool = False
    seed: int = 0
    rows: list[Any] = field(default_factory=list)
    result_file: str | None = None
    result_bytes: int | None = None
    result_line_bytes: int = 2000

    def __post_init__(self) -> None:
        if self.mode not in ("time", "reads", "at_once"):
            raise ControlError(f"No such mode: {self.mode!r}; there is time, reads, at_once.")
        if self.stuck not in (None, "PENDING", "RUNNING"):
            raise ControlError(f"A job can be stuck in PENDING or RUNNING, not in {self.stuck!r}.")
        self.rows = [rule if isinstance(rule, RowRule) else build(RowRule, rule) for rule in self.rows]
        if self.end is not None:
            build(Ending, self.end)

    def changed(self, values: Mapping[str, Any]) -> JobScript:
        """Return a copy with *values* set."""
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        return build(JobScript, {**known, **values})


@dataclass
class Ending:
    """
    How a job ends.

    :param state: Without a prefix, e.g. ``SUCCEEDED``.
    :param code: gRPC number of the job's error; 0 is none.
    :param share: Share of the rows that ran (and are billed); None is all of them for an end with results, else 0.
    """

    state: str = "SUCCEEDED"
    code: int = 0
    message: str = ""
    share: float | None = None


@dataclass
class Config:
    """
    The knobs, shared by both backends.

    :param speed: Emulated seconds a real second.
    :param script: Members of :class:`JobScript` for jobs without a script of their own.
    :param accepted_keys: API keys that are accepted; None is every key that does not start with ``bad``.
    :param accepted_tokens: Bearer tokens that are accepted beside those the token endpoint gave out; None is every
        token that does not start with ``bad`` or ``expired``. While neither this nor *accepted_keys* is set, calls
        without key and token are accepted, too.
    :param models: Models that exist; None is every name that looks like a Gemini or embedding model.
    :param max_active_jobs: More jobs that have not ended are refused with 429.
    :param enqueued_tokens: Most input tokens of all active jobs of one model; None is no limit.
    :param cancel_outcome: ``succeeded_with_errors``, as the Developer API was seen to do, or ``cancelled_partial``.
    :param cancel_settle_seconds: Emulated seconds until a cancelled running job has ended.
    :param cancel_ended: ``ignore`` or ``reject`` (400) for cancelling an ended job on the Developer API.
    :param developer_expire_seconds: Developer API jobs expire after so long.
    :param vertex_queue_seconds: Vertex AI jobs that did not start by then expire.
    :param file_lifetime_seconds: Uploaded files vanish after so long.
    :param upload_granularity: What the upload's start asks chunks to be a multiple of; 0 leaves the header out.
    :param file_processing_polls: An uploaded file is PROCESSING for so many reads.
    :param file_state: ``ACTIVE``, or ``FAILED`` for files that end so.
    :param upload_final_without_file: The upload's last answer is 200 without ``file``.
    :param reject_mime_types: MIME types answered with an error in the upload's last answer.
    :param bare_rows: Accept input lines without the ``request`` wrapper.
    :param list_filter: ``reject`` (501), ``ignore``, for a filter on the Developer API's job list.
    :param list_default_page_size: Page size when none is asked for.
    :param list_max_page_size: Larger pages are cut to this.
    :param list_empty_without_page_size: A list call without page size is empty, as was reported once.
    :param listing_lag: Jobs younger than this many emulated seconds are not listed.
    :param stale_list_stats: Job lists show the counters of the time of creation.
    :param not_found_polls: The first so many reads of a job answer 404.
    :param fields: ``honour``, ``ignore`` or ``reject`` the ``fields`` parameter.
    :param download_ranges: Whether the Developer API's download honours ``Range``.
    :param pretty: Indent replies, as the service does unless told otherwise.
    :param free_tier: The key has no billing: creating answers 400 FAILED_PRECONDITION.
    :param max_file_bytes: Largest upload on the Developer API.
    :param vertex_shuffle: Vertex AI writes its rows in another order than they came.
    :param shards: Number of output objects a Vertex AI job writes.
    :param coerce_numeric_keys: Vertex AI's importer turns keys that look like numbers into numbers.
    :param projects: Vertex AI projects that exist; None is all.
    :param locations: Vertex AI locations that exist; None is all.
    :param forbidden_buckets: Buckets that the caller may not touch (403).
    :param unwritable_buckets: Buckets that the service agent cannot write to (job fails with code 7).
    :param create_missing_buckets: Whether a bucket comes to be when it is first written to.
    :param several_uris: ``accept`` or ``reject`` several input URIs.
    :param token_lifetime_seconds: Access tokens of the token endpoint last so many emulated seconds.
    :param extra: Knobs of single modules that have no name here.
    """

    speed: float = 1.0
    script: dict[str, Any] = field(default_factory=dict)
    accepted_keys: list[str] | None = None
    accepted_tokens: list[str] | None = None
    models: list[str] | None = None
    max_active_jobs: int = 100
    enqueued_tokens: int | None = None
    cancel_outcome: str = "succeeded_with_errors"
    cancel_settle_seconds: float = 1.0
    cancel_ended: str = "ignore"
    developer_expire_seconds: float = 48 * 3600.0
    vertex_queue_seconds: float = 72 * 3600.0
    file_lifetime_seconds: float = 48 * 3600.0
    upload_granularity: int = 8 << 20
    file_processing_polls: int = 0
    file_state: str = "ACTIVE"
    upload_final_without_file: bool = False
    reject_mime_types: list[str] = field(default_factory=list)
    bare_rows: bool = False
    list_filter: str = "reject"
    list_default_page_size: int = 50
    list_max_page_size: int = 100
    list_empty_without_page_size: bool = False
    listing_lag: float = 0.0
    stale_list_stats: bool = False
    not_found_polls: int = 0
    fields: str = "honour"
    download_ranges: bool = False
    pretty: bool = False
    free_tier: bool = False
    max_file_bytes: int = 2 << 30
    vertex_shuffle: bool = True
    shards: int = 1
    coerce_numeric_keys: bool = False
    projects: list[str] | None = None
    locations: list[str] | None = None
    forbidden_buckets: list[str] = field(default_factory=list)
    unwritable_buckets: list[str] = field(default_factory=list)
    create_missing_buckets: bool = False
    several_uris: str = "accept"
    token_lifetime_seconds: float = 3600.0
    extra: dict[str, Any] = field(default_factory=dict)


class Clock:
    """Emulated time: real time, times a speed, plus what was skipped. Epoch seconds."""

    def __init__(self, speed: float = 1.0) -> None:
        self._lock = threading.Lock()
        self._speed = speed
        self._real = time.monotonic()
        self._emulated = time.time()

    def now(self) -> float:
        """Return the emulated time."""
        with self._lock:
            return self._emulated + (time.monotonic() - self._real) * self._speed

    @property
    def speed(self) -> float:
        """Emulated seconds a real second."""
        return self._speed

    def change(self, *, advance: float = 0.0, to: float | None = None, speed: float | None = None) -> float:
        """Skip *advance* seconds or set the time or the speed; return the new time."""
        now = self.now()
        with self._lock:
            self._emulated = (now if to is None else to) + advance
            self._real = time.monotonic()
            if speed is not None:
                self._speed = speed
            return self._emulated


def timestamp(epoch: float, digits: int = 9) -> str:
    """Write a time as Google does: RFC 3339, UTC, *digits* fractional digits and ``Z``."""
    nanoseconds = int(epoch * 1_000_000_000)
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{fraction:09d}"[: 20 + digits].rstrip(".") + "Z"


# --------------------------------------------------------------------------------------------------------------------
# Rows


@dataclass
class InputRow:
    """
    One input row.

    :param index: Position in the input, from 0.
    :param key: The row's key as a string, or None.
    :param request: The GenerateContentRequest or EmbedContentRequest.
    :param raw: The whole row as it came.
    """

    index: int
    key: str | None
    request: dict[str, Any]
    raw: dict[str, Any]

    @property
    def text(self) -> str:
        """All text of the row's prompt."""
        return answering.prompt_text(self.request)


class RowSource(Protocol):
    """The input of a job."""

    count: int
    tokens: int

    def rows(self, order: list[int] | None = None) -> Iterator[InputRow]:
        """Yield the rows, in *order* (indices) if one is given."""
        ...


def _read_row(index: int, raw: dict[str, Any]) -> InputRow:
    request = raw.get("request")
    if not isinstance(request, dict):
        request = raw
    key = raw.get("key")
    if key is None and isinstance(raw.get("metadata"), dict):
        key = raw["metadata"].get("key")
    return InputRow(index, None if key is None else str(key), request, raw)


class FileRows:
    """
    Rows of a JSONL file on disk, never in memory at once; blank lines are skipped.

    :param path: The file; it must stay as it is while the job lives.
    :param read: Makes an :class:`InputRow` of a line's number (from 0) and object; understands ``{"key", "request"}``
        and ``{"metadata": {"key"}, "request"}`` unless given.
    """

    def __init__(
        self, path: Path, *, count: int, tokens: int, read: Callable[[int, dict[str, Any]], InputRow] = _read_row
    ) -> None:
        self.path = path
        self.count = count
        self.tokens = tokens
        self._read = read

    def rows(self, order: list[int] | None = None) -> Iterator[InputRow]:
        decode = msgspec.json.Decoder(dict).decode
        with self.path.open("rb") as file:
            if order is None:
                index = 0
                for line in file:
                    if line.strip():
                        yield self._read(index, decode(line))
                        index += 1
                return
            offsets = []
            position = 0
            for line in file:
                if line.strip():
                    offsets.append(position)
                position += len(line)
            for index in order:
                file.seek(offsets[index])
                yield self._read(index, decode(file.readline()))


class SyntheticRows:
    """Rows that were never sent, for seeded jobs: keys ``row-0``, ``row-1``, ..."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.tokens = count * 4

    def rows(self, order: list[int] | None = None) -> Iterator[InputRow]:
        for index in range(self.count) if order is None else order:
            request = {"contents": [{"role": "user", "parts": [{"text": f"Seeded row {index}"}]}]}
            yield InputRow(index, f"row-{index}", request, {"key": f"row-{index}", "request": request})


@dataclass
class Answer:
    """
    One result row.

    :param key: The key to show; None if the row had none.
    :param row: The input row, or None for a row that nobody sent (a scripted extra key).
    :param response: What the model said; None together with *error* None is a row with neither.
    :param error: ``{"code": <gRPC number>, "message": ...}``; the message may be absent.
    """

    key: str | None
    row: InputRow | None
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


# --------------------------------------------------------------------------------------------------------------------
# Jobs


class Handler(Protocol):
    """What a backend does when a job of its begins and ends; called in a worker thread or in the server's."""

    def start(self, state: EmulatorState, job: Job) -> Ending | None:
        """Check what the service checks when the job begins; an :class:`Ending` ends it at once."""
        ...

    def finish(self, state: EmulatorState, job: Job, ending: Ending) -> Ending | None:
        """Write the results of a job that ends with some; another :class:`Ending` replaces the planned one."""
        ...


class QuietHandler:
    """For jobs whose input and output do not matter."""

    def start(self, state: EmulatorState, job: Job) -> Ending | None:
        return None

    def finish(self, state: EmulatorState, job: Job, ending: Ending) -> Ending | None:
        return None


@dataclass(eq=False)
class Job:
    """
    One batch job of either backend.

    :param name: The resource name, e.g. ``batches/...`` or ``projects/...``.
    :param backend: ``gemini`` or ``vertex_ai``.
    :param kind: ``generate`` or ``embed``.
    :param model: As the backend writes it.
    :param resource: What the backend wants to echo.
    :param output: Where the backend keeps what :meth:`Handler.finish` made.
    :param rows_run: Rows that ran; those are billed.
    :param ran_limit: With a cancelled job: rows from this index on did not run.
    """

    number: int
    name: str
    backend: str
    kind: str
    model: str
    display_name: str
    created: float
    script: JobScript
    source: RowSource
    handler: Handler
    labels: dict[str, str] = field(default_factory=dict)
    resource: dict[str, Any] = field(default_factory=dict)
    scope: str = ""
    priority: int = 0
    raw_state: str = "PENDING"
    history: list[tuple[str, float]] = field(default_factory=list)
    updated: float = 0.0
    started: float | None = None
    ended: float | None = None
    reads: int = 0
    hidden_reads: int = 0
    held: float | None = None
    cancelled: float | None = None
    ran_limit: int | None = None
    error: dict[str, Any] | None = None
    output: dict[str, Any] = field(default_factory=dict)
    rows_run: int = 0
    succeeded: int = 0
    failed: int = 0
    output_tokens: int = 0
    deleted: bool = False
    forced: Ending | None = None
    lock: Any = field(default_factory=threading.RLock, repr=False)

    @property
    def is_ended(self) -> bool:
        """Whether the job can never change again."""
        return self.ended is not None

    @property
    def is_heavy(self) -> bool:
        """Whether the next step may take long enough to be done in a worker thread."""
        return not self.is_ended and (self.source.count > HEAVY_ROWS or bool(self.script.result_bytes))

    def progress(self, now: float) -> float:
        """Return the share of the rows that have run by *now*, as counters show it."""
        if self.started is None:
            return 0.0
        if self.is_ended:
            return 1.0
        script = self.script
        if script.mode == "reads":
            return min(1.0, max(0.0, (self.reads - script.pending_reads) / max(1, script.running_reads + 1)))
        if script.running_seconds <= 0:
            return 1.0
        return min(1.0, max(0.0, (now - self.started) / script.running_seconds))


# --------------------------------------------------------------------------------------------------------------------
# Faults and the journal


# A fault has a member "bytes"; within its class the type needs other names.
Body = bytes | None
Content = bytes


@dataclass
class Fault:
    """One rule; see the module's docstring."""

    match: dict[str, Any] = field(default_factory=dict)
    action: str = "reply"
    when: str = "before"
    skip: int = 0
    times: int | None = 1
    share: float = 1.0
    seed: int = 0
    delay: float = 0.0
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    retry_after: float | None = None
    body: Any = "error"
    message: str = "The emulator was told to fail this call."
    reason: str = ""
    bytes: int = 0
    matched: int = 0
    fired: int = 0

    ACTIONS = ("reply", "close", "reset", "cut_response", "cut_upload", "delay")
    MATCHES = ("method", "path", "query", "body")

    def __post_init__(self) -> None:
        if self.action not in self.ACTIONS:
            raise ControlError(f"No such fault action: {self.action!r}; there is {', '.join(self.ACTIONS)}.")
        if self.when not in ("before", "after"):
            raise ControlError("A fault happens when: before or after.")
        unknown = sorted(set(self.match) - set(self.MATCHES))
        if unknown:
            raise ControlError(f"A fault matches by {', '.join(self.MATCHES)}, not by {', '.join(unknown)}.")
        self._regex = {name: re.compile(str(text)) for name, text in self.match.items() if name != "method"}
        self._random = random.Random(self.seed)

    @property
    def needs_body(self) -> bool:
        """Whether matching needs the request's body."""
        return "body" in self._regex

    def applies(self, method: str, path: str, query: str, body: Body) -> bool:
        """Whether the request is one this rule speaks of; counts nothing."""
        wanted = self.match.get("method")
        if wanted and wanted.upper() != method:
            return False
        subject = {"path": path, "query": query, "body": (body or b"").decode("utf-8", "replace")}
        return all(regex.search(subject[name]) for name, regex in self._regex.items())

    def take(self) -> bool:
        """Count a match and say whether the rule fires for it."""
        if self.times is not None and self.fired >= self.times:
            return False
        self.matched += 1
        if self.matched <= self.skip:
            return False
        if self.share < 1.0 and self._random.random() >= self.share:
            return False
        self.fired += 1
        return True

    def reply(self) -> tuple[int, dict[str, str], Content]:
        """Return status, headers and body of the scripted reply."""
        details: list[dict[str, Any]] = []
        headers = dict(self.headers)
        if self.retry_after is not None:
            delay = f"{self.retry_after:g}s"
            details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
        error = GoogleError(self.status, self.message, self.reason, details=details).body()
        kind = "application/json; charset=UTF-8"
        text = json.dumps(error, indent=2).encode()
        if self.body == "html":
            kind = "text/html; charset=UTF-8"
            text = f"<!DOCTYPE html><html><title>Error {self.status}</title><p>{self.message}</p></html>".encode()
        elif self.body == "garbage":
            text = b"\x00\xff}{not json at all"
        elif self.body == "array":
            text = b"[" + text + b"]"
        elif self.body == "truncated":
            text = text[: len(text) // 2]
        elif self.body == "empty":
            text = b""
        elif self.body != "error":
            text = json.dumps(self.body).encode()
        headers.setdefault("content-type", kind)
        return self.status, headers, text

    def to_json(self) -> dict[str, Any]:
        """Return the rule as the control route shows it."""
        return asdict(self)


@dataclass
class JournalEntry:
    """One request as it was seen; key values are masked."""

    method: str
    path: str
    query: str
    connection: str
    time: float
    status: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    fault: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class PendingScript:
    """A script that waits for the jobs it is meant for."""

    script: dict[str, Any]
    match: dict[str, str] = field(default_factory=dict)
    times: int | None = 1


MATCH_FIELDS = ("name", "display_name", "model", "backend", "kind")


def job_matches(match: Mapping[str, str], facts: Mapping[str, str]) -> bool:
    """Whether a job with *facts* is one that *match* speaks of."""
    unknown = sorted(set(match) - set(MATCH_FIELDS))
    if unknown:
        raise ControlError(f"A job is matched by {', '.join(MATCH_FIELDS)}, not by {', '.join(unknown)}.")
    for name, wanted in match.items():
        exact = name in ("name", "backend", "kind")
        if (facts[name] != wanted) if exact else (re.search(wanted, facts[name]) is None):
            return False
    return True


# --------------------------------------------------------------------------------------------------------------------
# The state


class EmulatorState:
    """
    Everything the emulator knows; passed to every part of it.

    :param data_dir: Where uploads and results lie; a temporary directory, removed by :meth:`close`, unless given.
    :param seed: Of all ids and draws.
    :param speed: Emulated seconds a real second.
    """

    def __init__(self, *, data_dir: Path | str | None = None, seed: int = 0, speed: float = 1.0) -> None:
        self.lock = threading.RLock()
        self._owns_directory = data_dir is None
        self.data_dir = Path(data_dir or tempfile.mkdtemp(prefix="gemini-batch-emulator-"))
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._seed = seed
        self._speed = speed
        self._rooms: dict[str, Any] = {}
        self.base_url = ""
        self._clear()

    def _clear(self) -> None:
        self.config = Config(speed=self._speed)
        self.clock = Clock(self._speed)
        self.random = random.Random(self._seed)
        self.jobs: dict[str, Job] = {}
        self.order: dict[str, list[Job]] = {}
        self.all_jobs: list[Job] = []
        self._active: dict[str, set[Job]] = {}
        self._heavy: set[Job] = set()
        self.faults: list[Fault] = []
        self.scripts: list[PendingScript] = []
        self.journal: deque[JournalEntry] = deque(maxlen=JOURNAL_ENTRIES)
        self._close_rooms()
        self._rooms = {}
        self._paths = 0
        self._numbers = 0

    def _close_rooms(self) -> None:
        for room in self._rooms.values():
            if hasattr(room, "close"):
                room.close()

    def reset(self) -> None:
        """Forget everything, files included."""
        with self.lock:
            self._clear()
            directory = self.data_dir / "files"
            if directory.exists():
                shutil.rmtree(directory, ignore_errors=True)

    def close(self) -> None:
        """Close what is open and remove the temporary directory; ledger and journal can still be read."""
        with self.lock:
            self._close_rooms()
        if self._owns_directory:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def room(self, name: str, factory: Callable[[], R]) -> R:
        """Return the named module's own store, made by *factory* when it is first asked for after a reset."""
        with self.lock:
            if name not in self._rooms:
                self._rooms[name] = factory()
            store: R = self._rooms[name]
            return store

    def new_path(self, suffix: str = "") -> Path:
        """Return a path below the data directory that nothing uses."""
        with self.lock:
            self._paths += 1
            directory = self.data_dir / "files"
            directory.mkdir(parents=True, exist_ok=True)
            # The random part keeps a reset from handing out the path of a file that a download still reads.
            return directory / f"{self._paths:08d}-{random.getrandbits(48):012x}{suffix}"

    def new_id(self, length: int = 36, alphabet: str = "abcdefghijklmnopqrstuvwxyz0123456789") -> str:
        """Return *length* random characters, the same sequence after each reset."""
        with self.lock:
            return "".join(self.random.choices(alphabet, k=length))

    def now(self) -> float:
        """Return the emulated time."""
        return self.clock.now()

    def configure(self, values: Mapping[str, Any]) -> None:
        """Change knobs; ``script`` is merged member by member."""
        with self.lock:
            known = {f.name for f in fields(Config)}
            unknown = sorted(set(values) - known)
            if unknown:
                raise ControlError(f"No such knob: {', '.join(unknown)}; there is {', '.join(sorted(known))}.")
            script = {**self.config.script, **(values.get("script") or {})}
            JobScript().changed(script)
            self.config = replace(self.config, **{**values, "script": script})
            if "speed" in values:
                self.clock.change(speed=float(values["speed"]))

    # Jobs ---------------------------------------------------------------------------------------------------------

    def add_script(
        self, script: Mapping[str, Any], *, match: Mapping[str, str] | None = None, times: int | None = 1
    ) -> None:
        """Give the next *times* matching jobs (None: all that follow) a script, or change the job that is named."""
        match = dict(match or {})
        job_matches(match, dict.fromkeys(MATCH_FIELDS, ""))
        JobScript().changed(script)
        with self.lock:
            if "name" in match:
                job = self.jobs.get(match["name"])
            else:
                self.scripts.append(PendingScript(dict(script), match, times))
                return
        if job is None:
            raise ControlError(f"There is no job {match['name']!r}.")
        # Always the job's lock before the state's, never the other way round.
        with job.lock:
            job.script = job.script.changed(script)

    def script_for(self, *, backend: str, kind: str, model: str, display_name: str) -> JobScript:
        """Return the script of a job about to be made; uses up what was meant for it."""
        facts = {"name": "", "backend": backend, "kind": kind, "model": model, "display_name": display_name}
        with self.lock:
            merged = JobScript().changed(self.config.script)
            for pending in self.scripts:
                if job_matches(pending.match, facts):
                    if pending.times is not None:
                        pending.times -= 1
                    merged = merged.changed(pending.script)
                    break
            self.scripts = [pending for pending in self.scripts if pending.times is None or pending.times > 0]
            return merged

    def create_job(
        self,
        *,
        name: str,
        backend: str,
        kind: str,
        model: str,
        display_name: str,
        source: RowSource,
        handler: Handler | None = None,
        labels: Mapping[str, str] | None = None,
        resource: dict[str, Any] | None = None,
        scope: str = "",
        priority: int = 0,
        script: JobScript | None = None,
    ) -> Job:
        """
        Make a job, PENDING, and take a script for it.

        :param scope: What lists go by, e.g. ``projects/p/locations/l``; empty on the Developer API.
        """
        script = script or self.script_for(backend=backend, kind=kind, model=model, display_name=display_name)
        with self.lock:
            self._numbers += 1
            now = self.now()
            job = Job(
                number=self._numbers,
                name=name,
                backend=backend,
                kind=kind,
                model=model,
                display_name=display_name,
                created=now,
                script=script,
                source=source,
                handler=handler or QuietHandler(),
                labels=dict(labels or {}),
                resource=dict(resource or {}),
                scope=scope,
                priority=priority,
                updated=now,
                history=[("PENDING", now)],
            )
            job.hidden_reads = (
                script.not_found_polls if script.not_found_polls is not None else self.config.not_found_polls
            )
            self.jobs[name] = job
            self.all_jobs.append(job)
            self.order.setdefault(backend + "|" + scope, []).append(job)
            self._active.setdefault(backend, set()).add(job)
            if job.is_heavy:
                self._heavy.add(job)
            return job

    def read_job(self, name: str) -> Job | None:
        """Poll a job: advance it, count the read. None if there is none, or if it hides for its first reads."""
        with self.lock:
            job = self.jobs.get(name)
        if job is None:
            return None
        with job.lock:
            if job.hidden_reads > 0:
                job.hidden_reads -= 1
                return None
            self._advance(job)
            job.reads += 1
            return job

    def look_at(self, job: Job) -> Job:
        """Advance a job to now without counting a read."""
        with job.lock:
            self._advance(job)
            return job

    @property
    def has_heavy_jobs(self) -> bool:
        """Whether a job that has not ended may take long to advance."""
        return bool(self._heavy)

    def active_jobs(self, backend: str) -> list[Job]:
        """Return the jobs of *backend* that have not ended, after advancing them."""
        with self.lock:
            candidates = list(self._active.get(backend, ()))
        for job in candidates:
            self.look_at(job)
        return [job for job in candidates if not job.is_ended and not job.deleted]

    def page_of_jobs(
        self,
        backend: str,
        *,
        scope: str = "",
        page_size: int,
        page_token: str = "",
        keep: Callable[[Job], bool] | None = None,
    ) -> tuple[list[Job], str]:
        """
        Return one page of jobs, newest first, and the token of the next page (empty at the end).

        :param keep: Filter; jobs are advanced before it sees them.
        :raises GoogleError: If the token is not one of ours.
        """
        try:
            below = int(page_token.removeprefix("p"), 36) if page_token else None
        except ValueError:
            raise GoogleError(400, "Invalid page token.") from None
        newest = self.now() - self.config.listing_lag
        with self.lock:
            jobs = list(self.order.get(backend + "|" + scope, ()))
        page: list[Job] = []
        for job in reversed(jobs):
            if job.deleted or (below is not None and job.number >= below):
                continue
            if self.config.listing_lag and job.created > newest:
                continue
            self.look_at(job)
            if keep is not None and not keep(job):
                continue
            if len(page) == page_size:
                return page, "p" + _base36(page[-1].number)
            page.append(job)
        return page, ""

    def cancel_job(self, job: Job) -> None:
        """Ask a job to stop; an ended one stays as it is. The caller decides whether that is an error."""
        with job.lock:
            self._advance(job)
            if job.is_ended or job.cancelled is not None:
                return
            now = self.now()
            job.cancelled = now
            if job.started is None:
                self._end(job, self._cancel_ending(job, unstarted=True), now)
                return
            job.ran_limit = int(job.progress(now) * job.source.count)
            if job.backend == "vertex_ai":
                self._move(job, "CANCELLING", now)

    def delete_job(self, job: Job) -> None:
        """Forget a job; the ledger keeps it, and what had run by then stays billed."""
        with job.lock:
            self._advance(job)
            if not job.is_ended:
                job.rows_run = int(job.progress(self.now()) * job.source.count)
            job.deleted = True
            with self.lock:
                self.jobs.pop(job.name, None)
                self._active.get(job.backend, set()).discard(job)
                self._heavy.discard(job)
                key = job.backend + "|" + job.scope
                self.order[key] = [other for other in self.order.get(key, ()) if other is not job]

    def finish_job(self, job: Job, ending: Ending) -> None:
        """End a job now, whatever its script says."""
        with job.lock:
            if job.is_ended:
                return
            now = self.now()
            if job.started is None and states.has_results(ending.state):
                self._start(job, now)
            if not job.is_ended:
                self._end(job, ending, now)

    # The life of a job ----------------------------------------------------------------------------------------------

    def _advance(self, job: Job) -> None:
        """Do every step that is due. The caller holds the job's lock."""
        now = self.now()
        while not job.is_ended and not job.deleted and self._step(job, now):
            pass

    def _step(self, job: Job, now: float) -> bool:
        if job.started is None:
            due = self._start_time(job, now)
            expiry = job.created + self._expiry(job)
            if expiry <= now and (due is None or expiry <= due):
                self._end(job, Ending("EXPIRED", share=0.0), expiry)
                return True
            if due is None:
                return False
            self._start(job, due)
            return True
        if job.cancelled is not None:
            settled = job.cancelled + self.config.cancel_settle_seconds
            if now < settled and job.script.mode == "time":
                return False
            self._end(job, self._cancel_ending(job, unstarted=False), min(settled, now))
            return True
        due = self._end_time(job, now)
        expiry = job.created + self._expiry(job)
        if job.backend == "gemini" and expiry <= now and (due is None or expiry <= due):
            self._end(job, Ending("EXPIRED"), expiry)
            return True
        if due is None:
            return False
        hold = job.script.hold
        if hold is not None:
            if job.held is None:
                job.held = due
                self._move(job, str(hold.get("state", "PAUSED")), due)
            seconds = hold.get("seconds")
            if seconds is None or now < job.held + float(seconds):
                return False
            due = job.held + float(seconds)
            if job.raw_state != "RUNNING":
                self._move(job, "RUNNING", due)
        self._end(job, build(Ending, job.script.end or {}), due)
        return True

    def _expiry(self, job: Job) -> float:
        if job.script.expire_seconds is not None:
            return job.script.expire_seconds
        return self.config.developer_expire_seconds if job.backend == "gemini" else self.config.vertex_queue_seconds

    def _start_time(self, job: Job, now: float) -> float | None:
        script = job.script
        if script.stuck == "PENDING":
            return None
        if script.mode == "at_once":
            return job.created
        if script.mode == "reads":
            return now if job.reads >= script.pending_reads else None
        due = job.created + script.pending_seconds
        return due if due <= now else None

    def _end_time(self, job: Job, now: float) -> float | None:
        script = job.script
        if script.stuck == "RUNNING" or job.started is None:
            return None
        if script.mode == "at_once":
            return job.started
        if script.mode == "reads":
            return now if job.reads >= script.pending_reads + script.running_reads else None
        due = job.started + script.running_seconds
        return due if due <= now else None

    def _start(self, job: Job, when: float) -> None:
        job.started = when
        failed = job.handler.start(self, job)
        if failed is not None:
            self._end(job, replace(failed, share=failed.share or 0.0), when)
            return
        self._move(job, "RUNNING", when)

    def _cancel_ending(self, job: Job, *, unstarted: bool) -> Ending:
        total = max(1, job.source.count)
        share = 0.0 if unstarted else (job.ran_limit or 0) / total
        if job.backend == "vertex_ai":
            return Ending("CANCELLED", 1, "CANCELED", share)
        if unstarted:
            return Ending("CANCELLED", 13, f"Batch {job.name} was cancelled.", share)
        if self.config.cancel_outcome == "cancelled_partial":
            return Ending("CANCELLED", 13, f"Batch {job.name} was cancelled.", share)
        return Ending("SUCCEEDED", 0, "", share)

    def _end(self, job: Job, ending: Ending, when: float) -> None:
        """Write results where the ending has some, then make it so."""
        has_results = states.has_results(ending.state)
        share = ending.share if ending.share is not None else (1.0 if has_results else 0.0)
        if ending.state == "EXPIRED" and ending.share is None:
            share = job.progress(when)
        total = job.source.count
        job.rows_run = total if share >= 1.0 else round(share * total)
        if share < 1.0:
            job.ran_limit = job.rows_run if job.ran_limit is None else job.ran_limit
            job.rows_run = job.ran_limit
        if job.started is not None and (has_results or (share > 0.0 and ending.state != "EXPIRED")):
            job.succeeded = job.failed = 0
            ending = job.handler.finish(self, job, ending) or ending
        if ending.code or ending.message:
            job.error = {"code": ending.code or 13}
            if ending.message:
                job.error["message"] = ending.message
        elif ending.state == "FAILED":
            job.error = {"code": 13, "message": "Internal error encountered."}
        self._move(job, ending.state, when)
        job.ended = when
        with self.lock:
            self._active.get(job.backend, set()).discard(job)
            self._heavy.discard(job)

    def _move(self, job: Job, word: str, when: float) -> None:
        """Set the state; a step between known states that the service never takes is a mistake of ours."""
        # A cancelled job of the Developer API and a scripted end may leave PAUSED and the like directly.
        if not (states.may_follow(job.raw_state, word) or job.script.hold or job.forced):
            raise AssertionError(f"{job.name} cannot go from {job.raw_state} to {word}")
        job.raw_state = word
        job.updated = when
        job.history.append((word, when))

    # Answers --------------------------------------------------------------------------------------------------------

    def answers(self, job: Job, *, shuffle: bool = False) -> Iterator[Answer]:
        """
        Yield the result rows of a job as they are to be written, counting successes, failures and tokens.

        :param shuffle: Whether this backend shuffles unless the script says otherwise.
        """
        script = job.script
        generator = random.Random(f"{script.seed}|{job.display_name}|{job.source.count}")
        order = None
        if script.shuffle if script.shuffle is not None else shuffle:
            order = list(range(job.source.count))
            generator.shuffle(order)
        for row in job.source.rows(order):
            for answer in self._answers_to(job, row):
                if answer.response is not None and answer.error is None:
                    job.succeeded += 1
                    job.output_tokens += answering.output_tokens(answer.response)
                else:
                    job.failed += 1
                yield answer
        for key in script.extra_keys:
            request = {"contents": [{"parts": [{"text": f"Nobody asked for {key}"}]}]}
            yield Answer(key, None, answering.respond(job.kind, job.model, request, key))

    def _answers_to(self, job: Job, row: InputRow) -> Iterator[Answer]:
        if job.ran_limit is not None and row.index >= job.ran_limit:
            if job.raw_state == "CANCELLING" or (job.cancelled is None):
                return
            yield Answer(row.key, row, error={"code": 1, "message": "The operation was cancelled."})
            return
        rule = self._rule_for(job.script, row)
        outcome = rule.outcome if rule else "succeed"
        if rule is None:
            problem = answering.problem_of(job.kind, row.request)
            if problem:
                yield Answer(row.key, row, error={"code": 3, "message": problem})
                return
        if outcome == "missing":
            return
        if outcome == "null":
            yield Answer(row.key, row)
            return
        if outcome == "error" and rule is not None:
            error: dict[str, Any] = {"code": rule.code}
            if rule.message is not None:
                error["message"] = rule.message
            yield Answer(row.key, row, error=error)
            return
        seed = f"{row.key}|{row.index}"
        response = answering.respond(
            job.kind,
            job.model,
            row.request,
            seed,
            outcome=outcome,
            reason=rule.reason if rule else "SAFETY",
            text=rule.text if rule else None,
        )
        yield Answer(row.key, row, response)
        if outcome == "duplicate":
            yield Answer(row.key, row, response)

    @staticmethod
    def _rule_for(script: JobScript, row: InputRow) -> RowRule | None:
        for number, rule in enumerate(script.rows):

            def draw(number: int = number) -> float:
                digest = hashlib.blake2b(f"{script.seed}|{number}|{row.index}|{row.key}".encode(), digest_size=8)
                return int.from_bytes(digest.digest(), "big") / 2**64

            if rule.matches(row, draw):
                found: RowRule = rule
                found.matched += 1
                return found
        return None

    # Faults, ledger -------------------------------------------------------------------------------------------------

    def add_fault(self, **values: Any) -> Fault:
        """Add a rule; the members are those of :class:`Fault`."""
        fault = build(Fault, values)
        with self.lock:
            self.faults.append(fault)
        return fault

    def record(self, entry: JournalEntry) -> None:
        """Note a request in the journal."""
        with self.lock:
            self.journal.append(entry)

    def fault_for(self, method: str, path: str, query: str, body: bytes | None) -> Fault | None:
        """Return the rule that fires for a request, or None; counts the matches."""
        with self.lock:
            for fault in self.faults:
                if fault.applies(method, path, query, body) and fault.take():
                    return fault
        return None

    def ledger(self) -> dict[str, Any]:
        """Return what was created and what was billed; see the module's docstring."""
        with self.lock:
            jobs = list(self.all_jobs)
        now = self.now()
        entries = []
        for job in jobs:
            if not job.deleted:
                self.look_at(job)
            total = job.source.count
            ran = job.rows_run if job.is_ended or job.deleted else int(job.progress(now) * total)
            if not job.is_ended and not job.deleted and job.cancelled is not None:
                ran = job.ran_limit or 0
            share = ran / total if total else 0.0
            entries.append(
                {
                    "name": job.name,
                    "backend": job.backend,
                    "display_name": job.display_name,
                    "labels": job.labels,
                    "model": job.model,
                    "state": job.raw_state,
                    "rows": total,
                    "rows_run": ran,
                    "billed_rows": ran,
                    "input_tokens": round(job.source.tokens * share),
                    "output_tokens": job.output_tokens,
                    "created": job.created,
                    "deleted": job.deleted,
                    "rule_matches": [rule.matched for rule in job.script.rows],
                }
            )
        return {
            "jobs": entries,
            "totals": {
                "created": len(entries),
                "billed": sum(1 for entry in entries if entry["billed_rows"]),
                "running": sum(1 for job in jobs if not job.is_ended and not job.deleted),
                **{
                    name: sum(int(str(entry[name])) for entry in entries)
                    for name in ("rows", "billed_rows", "input_tokens", "output_tokens")
                },
            },
        }


def _base36(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    text = ""
    while number:
        number, rest = divmod(number, 36)
        text = digits[rest] + text
    return text or "0"


# --------------------------------------------------------------------------------------------------------------------
# Replies


async def polled(state: EmulatorState, name: str) -> Job | None:
    """Read a job as :meth:`EmulatorState.read_job` does, in a worker thread when that may take long."""
    job = state.jobs.get(name)
    if job is not None and job.is_heavy:
        return await asyncio.to_thread(state.read_job, name)
    return state.read_job(name)


async def unhurried(state: EmulatorState, call: Callable[..., R], *arguments: Any, **named: Any) -> R:
    """Make a call that looks at many jobs; in a worker thread while one of them may take long to advance."""
    if state.has_heavy_jobs:
        return await asyncio.to_thread(call, *arguments, **named)
    return call(*arguments, **named)


async def read_json(request: Request, *, limit: int = MAX_INLINE_BYTES) -> dict[str, Any]:
    """
    Read a request body as a JSON object; an empty body is an empty object.

    :raises GoogleError: 400 if it is too large or no JSON object.
    """
    body = bytearray()
    too_large = False
    async for chunk in request.stream():
        if not too_large:
            body += chunk
            too_large = len(body) > limit
            if too_large:
                # The rest is read and dropped: an answer before the end would reach the client as a broken pipe.
                body.clear()
    if too_large:
        raise GoogleError(400, f"Request payload size exceeds the limit: {limit} bytes.")
    if not bytes(body).strip():
        return {}
    try:
        value = msgspec.json.decode(bytes(body))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GoogleError(400, f"Invalid JSON payload received. {error}") from error
    if not isinstance(value, dict):
        raise GoogleError(400, 'Invalid JSON payload received. Unknown name "": Root element must be a message.')
    return value


def reply(state: EmulatorState, request: Request | None, payload: Any, *, status: int = 200) -> Response:
    """Answer with JSON; honours ``fields`` and indents as the knobs say."""
    if request is not None:
        wanted = request.query_params.get("fields") or request.query_params.get("$fields")
        if wanted and state.config.fields != "ignore":
            if state.config.fields == "reject":
                raise GoogleError(400, f"Invalid field selection {wanted}")
            try:
                payload = answering.select_fields(payload, wanted)
            except answering.FieldSelectionError as error:
                raise GoogleError(400, str(error)) from error
    body = msgspec.json.encode(payload)
    if state.config.pretty:
        body = msgspec.json.format(body, indent=2)
    return Response(body, status, media_type="application/json; charset=UTF-8")


def error_reply(error: GoogleError) -> Response:
    """Answer with an error."""
    body = msgspec.json.format(msgspec.json.encode(error.body()), indent=2)
    return Response(body, error.code, dict(error.headers), media_type="application/json; charset=UTF-8")


class FileReply(Response):
    """Sends a part of a file in large pieces; closes the file at once when the connection ends."""

    def __init__(
        self, path: Path, first: int, length: int, status: int, headers: dict[str, str], media_type: str
    ) -> None:
        super().__init__(None, status, {**headers, "Content-Length": str(length)}, media_type)
        self._path = path
        self._first = first
        self._length = length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head, then the bytes."""
        with self._path.open("rb") as file:
            file.seek(self._first)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            left = self._length
            while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                # The sending may never have had to wait; others want to be answered, too.
                await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def file_reply(
    path: Path,
    *,
    media_type: str = "application/octet-stream",
    headers: Mapping[str, str] | None = None,
    byte_range: tuple[int, int] | None = None,
) -> Response:
    """
    Stream a file in large pieces.

    :param byte_range: First and last byte, inclusive, for a 206; None sends everything.
    """
    size = path.stat().st_size
    sent = dict(headers or {})
    if byte_range is None:
        first, length, status = 0, size, 200
    else:
        first, length, status = byte_range[0], byte_range[1] - byte_range[0] + 1, 206
        sent["Content-Range"] = f"bytes {byte_range[0]}-{byte_range[1]}/{size}"
    return FileReply(path, first, length, status, sent, media_type)


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """
    Read a ``Range`` header with one range.

    :return: First and last byte, inclusive, or None when there is no (readable) range.
    :raises GoogleError: 416 if nothing of it exists.
    """
    match = re.fullmatch(r"\s*bytes=(\d*)-(\d*)\s*", header or "")
    if match is None or match.group(0).strip() == "bytes=-":
        return None
    first, last = match.groups()
    if first:
        low, high = int(first), min(int(last), size - 1) if last else size - 1
    else:
        low, high = max(0, size - int(last)), size - 1
    if low >= size or high < low:
        raise GoogleError(416, "Requested range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return low, high


def write_pieces(file: BinaryIO, data: bytes | bytearray | memoryview) -> None:
    """Write bytes to an unbuffered file, or past a file's buffer, in pieces: for large ones memory may be dear."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest[:WRITE_BYTES]) :]
