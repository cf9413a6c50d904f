# SPDX-License-Identifier: Apache-2.0
"""A caller of the Developer API who speaks plain HTTP."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.support.emulator_serving import Served, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle


def generate_line(key: str, text: str = "hi", **request: Any) -> dict[str, Any]:
    """A line of an input file."""
    return {"key": key, "request": {"contents": [{"role": "user", "parts": [{"text": text}]}], **request}}


@dataclass
class Caller:
    """Plain HTTP against the emulator; *version* is part of every path."""

    emulator: EmulatorHandle
    version: str = "v1beta"
    http: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        self.http.headers["x-goog-api-key"] = "some-key"

    def call(self, method: str, path: str, *, expect: int | None = 200, **more: Any) -> requests.Response:
        """Send a request below the version's path."""
        reply = self.http.request(method, f"{self.emulator.url}/{self.version}/{path}", **{"timeout": 30, **more})
        assert expect is None or reply.status_code == expect, reply.text
        return reply

    def start(self, size: int | None = None, *, expect: int = 200, **described: Any) -> requests.Response:
        """Begin a resumable upload."""
        headers = {
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Type": described.pop("mime", "application/jsonl"),
        }
        if size is not None:
            headers["X-Goog-Upload-Header-Content-Length"] = str(size)
        url = f"{self.emulator.url}/upload/{self.version}/files"
        reply = self.http.post(url, headers=headers, json={"file": described}, timeout=30)
        assert reply.status_code == expect, reply.text
        return reply

    def push(self, url: str, command: str, offset: int | None = None, data: bytes = b"") -> requests.Response:
        """Send one command to an upload session."""
        headers = {"X-Goog-Upload-Command": command}
        if offset is not None:
            headers["X-Goog-Upload-Offset"] = str(offset)
        return self.http.post(url, headers=headers, data=data, timeout=30)

    def upload(self, lines: list[Any] | bytes, **described: Any) -> dict[str, Any]:
        """Upload lines (or bytes) in one piece; return the file."""
        if isinstance(lines, list):
            lines = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines).encode()
        url = self.start(len(lines), **described).headers["x-goog-upload-url"]
        return dict(self.push(url, "upload, finalize", 0, lines).json()["file"])

    def create(
        self,
        source: Any,
        *,
        model: str = "gemini-3.5-flash-lite",
        kind: str = "generate",
        expect: int = 200,
        **members: Any,
    ) -> dict[str, Any]:
        """Create a job from inline rows (a list) or a file's name."""
        config = {"fileName": source} if isinstance(source, str) else {"requests": {"requests": source}}
        method = "batchGenerateContent" if kind == "generate" else "asyncBatchEmbedContent"
        body = {"batch": {"displayName": "nightly", "inputConfig": config, **members}}
        return dict(self.call("POST", f"models/{model}:{method}", json=body, expect=expect).json())

    def inline(self, *texts: str, **more: Any) -> dict[str, Any]:
        """Create a job of inline rows with keys ``row-0``, ..."""
        rows = [
            {"request": {"contents": [{"parts": [{"text": text}]}]}, "metadata": {"key": f"row-{number}"}}
            for number, text in enumerate(texts)
        ]
        return self.create(rows, **more)

    def get(self, job: dict[str, Any]) -> dict[str, Any]:
        """Read a job."""
        return dict(self.call("GET", job["name"]).json())

    def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        """Let a minute pass and read a job."""
        self.emulator.advance(60)
        return self.get(job)

    def output(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        """Read the result lines of an ended file job."""
        name = job["response"]["responsesFile"]
        return [json.loads(line) for line in self.call("GET", f"{name}:download?alt=media").iter_lines()]


def inlined(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The inline results of a job."""
    return list(job["response"]["inlinedResponses"]["inlinedResponses"])


@pytest.fixture(params=["v1beta", "v1"])
def caller(request: pytest.FixtureRequest, gemini_batch_emulator: EmulatorHandle) -> Iterator[Caller]:
    """A caller, once for each version of the API."""
    made = Caller(gemini_batch_emulator, request.param)
    with made.http:
        yield made


@pytest.fixture
def one(gemini_batch_emulator: EmulatorHandle) -> Iterator[Caller]:
    """A caller of one version, where the version makes no difference."""
    made = Caller(gemini_batch_emulator)
    with made.http:
        yield made


@pytest.fixture
def served() -> Iterator[Served]:
    """An emulator of its own, and a caller with a token."""
    with serve() as made:
        yield made
