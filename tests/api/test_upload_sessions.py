# SPDX-License-Identifier: Apache-2.0
"""Where the pieces of an upload go: to the connection's own host, whatever host the service names; flows by hand."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_gemini_batch.api.developer.jobs import DeveloperBackend
from airflow_provider_gemini_batch.api.vertex.storage import CloudStorage
from airflow_provider_gemini_batch.api.wire import HttpReply, HttpRequest
from airflow_provider_gemini_batch.connection.settings import ConnectionSettings, Secret


class Source:
    size = 3

    def read(self, offset: int, length: int) -> bytes:
        return b"abc"[offset : offset + length]


def second_url(flow: Any, headers: dict[str, str]) -> str:
    """Answer the opening of a session and return where the bytes go."""
    first = next(flow)
    assert isinstance(first, HttpRequest)
    second = flow.send(HttpReply(200, headers))
    assert isinstance(second, HttpRequest)
    return second.url


HOSTS = [
    "https://service.example",
    "http://127.0.0.1:8086",
    "https://gateway.example/gemini",
    "https://gateway.example/a/b",
]


@pytest.mark.parametrize("base", HOSTS)
@pytest.mark.parametrize("named", ["https://upload.googleapis.com", "https://elsewhere.example:444"])
def test_a_session_of_the_files_api_stays_on_our_host(base: str, named: str) -> None:
    backend = DeveloperBackend(ConnectionSettings("gemini", base, "v1beta", api_key=Secret("k")))
    url = f"{named}/upload/v1beta/files?upload_id=x&upload_protocol=resumable"
    flow = backend.upload(Source(), name="", display_name="a", mime_type="text/plain")
    wanted = f"{base}/upload/v1beta/files?upload_id=x&upload_protocol=resumable"
    assert second_url(flow, {"x-goog-upload-url": url}) == wanted


@pytest.mark.parametrize("base", HOSTS)
def test_a_session_of_cloud_storage_stays_on_our_host(base: str) -> None:
    flow = CloudStorage(base).upload(Source(), "gs://bucket/a")
    location = "https://storage.googleapis.com/upload/storage/v1/b/bucket/o?uploadType=resumable&upload_id=x"
    assert second_url(flow, {"location": location}) == location.replace("https://storage.googleapis.com", base)


def test_a_gateway_that_names_itself_is_taken_at_its_word() -> None:
    base = "https://gateway.example/gemini"
    backend = DeveloperBackend(ConnectionSettings("gemini", base, "v1beta", api_key=Secret("k")))
    url = f"{base}/upload/v1beta/files?upload_id=x"
    flow = backend.upload(Source(), name="", display_name="a", mime_type="text/plain")
    assert second_url(flow, {"x-goog-upload-url": url}) == url
