# SPDX-License-Identifier: Apache-2.0
"""Serve an emulator state on a free port for the length of a test."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import requests

from gemini_batch_emulator.server import EmulatorServer
from gemini_batch_emulator.storage import object_store
from gemini_batch_emulator.token import create_service_account

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gemini_batch_emulator.state import EmulatorState

PROJECT = "emulated-project"
LOCATION = "us-central1"
SCOPE = f"projects/{PROJECT}/locations/{LOCATION}"
FLASH = "publishers/google/models/gemini-3.5-flash-lite"


@dataclass
class Served:
    """An emulator that answers on *url*, and a caller with a token."""

    state: EmulatorState
    url: str
    http: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        self.http.headers["Authorization"] = "Bearer some-token"

    def call(self, method: str, path: str, **more: Any) -> requests.Response:
        """Send a request to *path*."""
        return self.http.request(method, self.url + path, timeout=30, **more)

    def put(self, name: str, rows: list[Any], bucket: str = "emulator") -> str:
        """Store rows (or lines of text) as JSONL; return the URI."""
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        object_store(self.state).put(bucket, name, ("\n".join(lines) + "\n").encode())
        return f"gs://{bucket}/{name}"

    def create(self, uri: str, *, expect: int = 200, scope: str = SCOPE, **members: Any) -> dict[str, Any]:
        """Create a job over HTTP that reads *uri* and writes below ``gs://emulator/out``."""
        body = {
            "displayName": "nightly",
            "model": FLASH,
            "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [uri]}},
            "outputConfig": {
                "predictionsFormat": "jsonl",
                "gcsDestination": {"outputUriPrefix": "gs://emulator/out"},
            },
            **members,
        }
        reply = self.call("POST", f"/v1/{scope}/batchPredictionJobs", json=body)
        assert reply.status_code == expect, reply.text
        return dict(reply.json())

    def get(self, name: str) -> dict[str, Any]:
        """Read a job."""
        reply = self.call("GET", f"/v1/{name}")
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def ended(self, name: str) -> dict[str, Any]:
        """Let an hour pass and read the job."""
        self.state.clock.change(advance=3600)
        return self.get(name)

    def output(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        """Every result row of a job, from all its objects, as an HTTP client reads them."""
        directory = job["outputInfo"]["gcsOutputDirectory"].removeprefix("gs://emulator/")
        listing = self.call("GET", "/storage/v1/b/emulator/o", params={"prefix": directory}).json()
        rows = []
        for item in listing["items"]:
            path = f"/storage/v1/b/emulator/o/{item['name'].replace('/', '%2F')}"
            text = self.call("GET", path, params={"alt": "media"}).text
            rows += [json.loads(line) for line in text.splitlines()]
        return rows

    def service_account(self, **more: Any) -> dict[str, Any]:
        """A key file's content."""
        return create_service_account(self.state, token_uri=f"{self.url}/token", **more)


@contextlib.contextmanager
def serve() -> Iterator[Served]:
    """Start an emulator and end it."""
    with EmulatorServer() as server:
        served = Served(server.state, server.url)
        try:
            yield served
        finally:
            served.http.close()


def generate_row(key: str, text: str = "hi", **request: Any) -> dict[str, Any]:
    """An input row."""
    return {"key": key, "request": {"contents": [{"role": "user", "parts": [{"text": text}]}], **request}}
