# SPDX-License-Identifier: Apache-2.0
"""Rules that let calls go wrong, and the journal of the calls seen. ``docs/emulator.md`` shows rules with examples."""

# The first rule that matches, in order of arrival, and is neither skipped nor used up fires.

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from gemini_batch_emulator.errors import ControlError, GoogleError

# A fault has a member "bytes"; within its class the type needs other names.
Body = bytes | None
Content = bytes


@dataclass
class Fault:
    """
    One rule.

    :param match: ``{"method": "POST", "path": ..., "query": ..., "body": ...}``; all but the method are patterns.
    :param action: ``reply``, ``close`` (end the connection without a reply), ``reset`` (with a TCP reset),
        ``cut_response`` and ``cut_upload`` (pass *bytes* on, then close) or ``delay``.
    :param when: ``before`` the handler runs, or ``after``: it ran, its reply is lost, replaced or held back.
    :param skip: Matching calls let through before the first that fails.
    :param times: Calls that fail; None is always.
    :param share: So much of the matching calls (0 to 1), drawn by *seed*.
    :param seed: Of *share*.
    :param delay: Seconds of real time before anything else; of a ``delay`` *after* the handler, before the reply.
    :param status: Of a ``reply``.
    :param headers: Of a ``reply``.
    :param retry_after: Seconds in a ``RetryInfo`` of the error.
    :param body: ``error``, ``html``, ``garbage``, ``array``, ``truncated``, ``empty``, or any other JSON value.
    :param message: The error's message.
    :param reason: The error's status word; derived from *status* when empty.
    :param bytes: How much a cut lets through.
    :param matched: Calls that matched so far.
    :param fired: Calls that failed so far.
    """

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
        # Each rule has its own draws, so that another rule beside it does not change which calls fail.
        self._random = random.Random(self.seed)

    @property
    def holds_reply(self) -> bool:
        """Whether the call takes effect at once and its reply comes late."""
        return self.action == "delay" and self.when == "after"

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
        # Used up before it counts: `skip` and `times` of rules that follow each other then add up as one reads them.
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
        # What proxies and front ends answer in place of an API: no JSON, cut JSON, JSON in a list.
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
    """
    One request as it was seen; key values are masked.

    :param call: Its kind, e.g. ``developer.jobs.create``; empty for what no service has.
    """

    method: str
    path: str
    query: str
    connection: str
    time: float
    status: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    fault: str = ""
    call: str = ""
    headers: dict[str, str] = field(default_factory=dict)
