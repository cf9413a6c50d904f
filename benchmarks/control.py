# SPDX-License-Identifier: Apache-2.0
"""The emulator's control routes, and what its journal tells about a client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.processes import KEY
from benchmarks.usage import peak

_ESTABLISHED = "01"


class Control:
    """
    Speaks to an emulator.

    :param url: Its address.
    :param process: Its process on this machine.
    """

    def __init__(self, url: str, process: int | None = None) -> None:
        self._place = urlsplit(url).netloc
        self._process = process

    def peak_memory(self) -> int:
        """Return the most bytes that its process has had in memory."""
        return peak(self._process)

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


class Connections:
    """The most TCP connections to an emulator that were open at once."""

    def __init__(self, port: int) -> None:
        self._port = f"{port:04X}"
        self._is_over = threading.Event()
        self.most = 0

    def count(self) -> None:
        """Look ten times a second, from this process: the one that is measured does not notice."""
        while not self._is_over.wait(0.1):
            lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
            remote = [words[2] for words in map(str.split, lines) if words[3] == _ESTABLISHED]
            self.most = max(self.most, sum(place.endswith(f":{self._port}") for place in remote))

    def stop(self) -> None:
        """Look no longer."""
        self._is_over.set()


@contextmanager
def connections_to(url: str) -> Iterator[Connections]:
    """Count the connections to an emulator meanwhile; our own calls to it wait until then."""
    connections = Connections(urlsplit(url).port or 80)
    counting = threading.Thread(target=connections.count, daemon=True)
    counting.start()
    try:
        yield connections
    finally:
        connections.stop()
        counting.join()


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
