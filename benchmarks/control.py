# SPDX-License-Identifier: Apache-2.0
"""The emulator's control routes, and what its journal tells about a client."""

from __future__ import annotations

import json
from datetime import datetime
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from benchmarks.processes import KEY


class Control:
    """
    Speaks to an emulator.

    :param url: Its address.
    """

    def __init__(self, url: str) -> None:
        self._place = urlsplit(url).netloc

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Make one call and return the decoded reply."""
        headers = {"Content-Type": "application/json", "x-goog-api-key": KEY}
        # A connection of its own for each call: minutes lie between some, and the emulator closes what is idle.
        connection = HTTPConnection(self._place)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            reply = connection.getresponse()
            text = reply.read()
        finally:
            connection.close()
        if reply.status != 200:
            raise RuntimeError(f"{method} {path}: HTTP {reply.status} {text[:200]!r}")
        return json.loads(text)

    def post(self, route: str, body: Any) -> Any:
        """Call a control route."""
        return self.ask("POST", f"/_emulator/{route}", body)

    def job_names(self) -> list[str]:
        """Return the names of all jobs, oldest first."""
        return [job["name"] for job in self.ask("GET", "/_emulator/ledger")["jobs"]]

    def end_times(self) -> dict[str, float]:
        """Return when each ended job ended, in UTC epoch seconds."""
        found, token = {}, ""
        while True:
            page = self.ask("GET", f"/v1beta/batches?pageSize=100&pageToken={token}")
            for job in page.get("operations", []):
                ended = job["metadata"].get("endTime")
                if ended is not None:
                    found[job["name"]] = datetime.fromisoformat(ended).timestamp()
            token = page.get("nextPageToken", "")
            if not token:
                return found

    def journal(self) -> list[dict[str, Any]]:
        """Return the requests seen, oldest first."""
        entries: list[dict[str, Any]] = self.ask("GET", "/_emulator/journal")["requests"]
        return entries


def between(entries: list[dict[str, Any]], window: tuple[float, float]) -> list[dict[str, Any]]:
    """Return the requests of a span of time."""
    return [entry for entry in entries if window[0] <= entry["time"] < window[1]]


def rounds_of(entries: list[dict[str, Any]]) -> list[int]:
    """
    Return how many requests each round of looks took, the last one left out as it may be cut.

    A round begins with a first page, or with a single look after a pause.
    """
    rounds: list[int] = []
    for entry in entries:
        is_first_page = entry["path"].endswith("/batches") and "pageToken" not in entry["query"]
        if is_first_page:
            rounds.append(0)
        if rounds:
            rounds[-1] += 1
    return rounds[:-1]
