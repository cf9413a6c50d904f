# SPDX-License-Identifier: Apache-2.0
"""For the same job, Google's own SDK and we send Vertex AI the same call: compared as it goes over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from google import genai
from google.genai import types
from google.oauth2 import service_account

from airflow_provider_gemini_batch.api.models import JobSpec
from airflow_provider_gemini_batch.api.vertex.jobs import VertexBackend
from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from tests.support.emulator_serving import LOCATION, PROJECT, Served, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
IN = "gs://emulator/in.jsonl"
OUT = "gs://emulator/out"
TABLE = f"bq://{PROJECT}.emulator.in"
TUNED = f"projects/{PROJECT}/locations/{LOCATION}/models/1234567"
Sent = tuple[str, str, Any]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve() as server:
        yield server


@pytest.fixture
def sent_by_sdk(served: Served) -> list[Sent]:
    """What the SDK sends: method, path, body."""
    return []


@pytest.fixture
def client(served: Served, sent_by_sdk: list[Sent]) -> Iterator[genai.Client]:
    def note(request: httpx.Request) -> None:
        body = request.read()
        sent_by_sdk.append((request.method, request.url.path, json.loads(body) if body else None))

    credentials = service_account.Credentials.from_service_account_info(served.service_account(), scopes=SCOPES)
    options = types.HttpOptions(base_url=served.url, api_version="v1", client_args={"event_hooks": {"request": [note]}})
    with genai.Client(
        vertexai=True, project=PROJECT, location=LOCATION, credentials=credentials, http_options=options
    ) as made:
        yield made


@pytest.fixture
def ours(served: Served) -> VertexBackend:
    extra = {"backend": "vertex_ai", "project": PROJECT, "location": LOCATION}
    return VertexBackend(settings_from_connection(host=served.url, extra=extra))


CASES: list[tuple[str, Any, dict[str, Any], Any, dict[str, Any]]] = [
    # model, the SDK's source, our source, the SDK's destination, ours
    ("gemini-3.5-flash-lite", IN, {"gcs_uri": IN}, OUT, {"destination": OUT}),
    ("gemini-3.5-flash-lite", IN, {"file_name": IN}, OUT, {"destination": OUT}),
    ("publishers/google/models/gemini-3.8-flash", IN, {"gcs_uri": IN}, OUT + "/", {"destination": OUT + "/"}),
    (TUNED, IN, {"gcs_uri": IN}, OUT, {"destination": OUT}),
    ("gemini-embedding-001", IN, {"gcs_uri": IN}, OUT, {"destination": OUT}),
    ("text-embedding-005", TABLE, {"bigquery_uri": TABLE}, OUT, {"destination": OUT}),
    ("gemini-3.5-flash-lite", TABLE, {"bigquery_uri": TABLE}, TABLE + "-out", {"destination": TABLE + "-out"}),
    ("gemini-3.5-flash-lite", TABLE, {"bigquery_uri": TABLE}, OUT, {"destination": OUT}),
    (
        "gemini-3.5-flash-lite",
        IN,
        {"gcs_uri": IN},
        f"bq://{PROJECT}.emulator",
        {"destination": f"bq://{PROJECT}.emulator"},
    ),
    ("gemini-3.5-flash-lite", IN, {"gcs_uri": IN}, f"bq://{PROJECT}", {"destination": f"bq://{PROJECT}"}),
    (
        "gemini-3.5-flash-lite",
        types.BatchJobSource(format="jsonl", gcs_uri=[IN]),
        {"gcs_uri": IN},
        types.BatchJobDestination(format="bigquery", bigquery_uri=TABLE + "-2"),
        {"destination": TABLE + "-2"},
    ),
    (
        "gemini-3.5-flash-lite",
        types.BatchJobSource(format="bigquery", bigquery_uri=TABLE),
        {"bigquery_uri": TABLE},
        types.BatchJobDestination(format="jsonl", gcs_uri="gs://emulator"),
        {"destination": "gs://emulator"},
    ),
]


@pytest.mark.parametrize(("model", "sdk_source", "source", "sdk_target", "target"), CASES)
def test_our_create_call_equals_the_sdks(
    served: Served,
    client: genai.Client,
    sent_by_sdk: list[Sent],
    ours: VertexBackend,
    model: str,
    sdk_source: Any,
    source: dict[str, Any],
    sdk_target: Any,
    target: dict[str, Any],
) -> None:
    config = types.CreateBatchJobConfig(display_name="nightly", dest=sdk_target)
    client.batches.create(model=model, src=sdk_source, config=config)
    request = ours.create_job(JobSpec(model=model, kind="generate", display_name="nightly", **source, **target))
    path = request.url.removeprefix(served.url)
    assert [(request.method, path, json.loads(bytes(request.body or b"")))] == sent_by_sdk
    # And the same bytes are taken by who took the SDK's.
    reply = served.call("POST", path, data=bytes(request.body or b""), headers=dict(request.headers))
    assert reply.status_code == 200, reply.text


def test_our_other_calls_equal_the_sdks(
    served: Served, client: genai.Client, sent_by_sdk: list[Sent], ours: VertexBackend
) -> None:
    config = types.CreateBatchJobConfig(display_name="nightly", dest=OUT)
    # Enough for the page that is asked for below.
    names = [client.batches.create(model="gemini-3.5-flash-lite", src=IN, config=config).name for _ in range(6)]
    name = names[-1]
    assert name is not None
    sent_by_sdk.clear()
    client.batches.get(name=name)
    client.batches.cancel(name=name)
    client.batches.delete(name=name)
    assert len(client.batches.list(config=types.ListBatchJobsConfig(page_size=5)).page) == 5
    requests = [ours.get_job(name), ours.cancel_job(name), ours.delete_job(name), ours.list_jobs(5)]
    mine = [(request.method, request.url.removeprefix(served.url)) for request in requests]
    theirs = [(method, path) for method, path, _ in sent_by_sdk]
    assert mine == theirs
