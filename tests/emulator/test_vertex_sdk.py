# SPDX-License-Identifier: Apache-2.0
"""Google's own SDK against the Vertex half of the emulator, with a service account whose token endpoint it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from google import genai
from google.genai import errors, types
from google.oauth2 import service_account

from gemini_batch_emulator.bigquery import table_store
from gemini_batch_emulator.token import token_desk
from tests.support.emulator_serving import LOCATION, PROJECT, Served, generate_row

if TYPE_CHECKING:
    from collections.abc import Iterator

SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]


@pytest.fixture
def client(served: Served) -> Iterator[genai.Client]:
    served.state.configure({"accepted_tokens": ["some-token"]})
    credentials = service_account.Credentials.from_service_account_info(served.service_account(), scopes=SCOPES)
    with genai.Client(
        vertexai=True,
        project=PROJECT,
        location=LOCATION,
        credentials=credentials,
        http_options=types.HttpOptions(base_url=served.url),
    ) as made:
        yield made


def test_the_sdk_creates_gets_lists_cancels_and_deletes_storage_jobs(served: Served, client: genai.Client) -> None:
    uri = served.put("in.jsonl", [generate_row("a"), generate_row("b")])
    made = client.batches.create(
        model="gemini-3.5-flash-lite",
        src=uri,
        config=types.CreateBatchJobConfig(display_name="by sdk", dest="gs://emulator/sdk"),
    )
    assert made.state == types.JobState.JOB_STATE_PENDING
    assert made.name is not None
    served.state.clock.change(advance=60)
    done = client.batches.get(name=made.name)
    assert done.state == types.JobState.JOB_STATE_SUCCEEDED
    assert done.completion_stats is not None
    assert done.completion_stats.successful_count == 2
    assert done.dest is not None
    assert done.dest.gcs_uri == "gs://emulator/sdk"
    assert done.output_info is not None
    other = client.batches.create(model="gemini-3.5-flash-lite", src=uri)
    assert other.name is not None
    client.batches.cancel(name=other.name)
    cancelled = client.batches.get(name=other.name)
    assert cancelled.state == types.JobState.JOB_STATE_CANCELLED
    assert cancelled.error is not None
    assert cancelled.error.code == 1
    config = types.ListBatchJobsConfig(page_size=1)
    assert [job.name for job in client.batches.list(config=config)] == [other.name, made.name]
    filtered = types.ListBatchJobsConfig(filter='display_name="by sdk"')
    assert [job.name for job in client.batches.list(config=filtered)] == [made.name]
    deleted = client.batches.delete(name=made.name)
    assert deleted.done is True
    with pytest.raises(errors.ClientError) as refusal:
        client.batches.get(name=made.name)
    assert refusal.value.code == 404
    assert token_desk(served.state).issued == 1


def test_the_sdk_runs_a_bigquery_job(served: Served, client: genai.Client) -> None:
    rows = [{"id": "a", "request": json.dumps(generate_row("x")["request"])}]
    table_store(served.state).create_table(PROJECT, "emulator", "in", rows=rows)
    made = client.batches.create(model="gemini-3.5-flash-lite", src=f"bq://{PROJECT}.emulator.in")
    assert made.name is not None
    served.state.clock.change(advance=60)
    done = client.batches.get(name=made.name)
    assert done.state == types.JobState.JOB_STATE_SUCCEEDED
    assert done.dest is not None
    assert done.dest.bigquery_uri is not None
    assert table_store(served.state).find(done.dest.bigquery_uri) is not None


def test_the_sdk_sees_importer_failures_and_unknown_models(served: Served, client: genai.Client) -> None:
    made = client.batches.create(
        model="gemini-3.5-flash-lite", src=served.put("in.jsonl", [{"request": {"tools": [{}]}}])
    )
    assert made.name is not None
    served.state.clock.change(advance=60)
    failed = client.batches.get(name=made.name)
    assert failed.state == types.JobState.JOB_STATE_FAILED
    assert failed.error is not None
    assert failed.error.code == 3
    with pytest.raises(errors.ClientError) as refusal:
        client.batches.create(model="palm-0", src="gs://emulator/in.jsonl")
    assert refusal.value.code == 404
