# SPDX-License-Identifier: Apache-2.0
"""Google's own SDK against the Developer API half of the emulator, with both versions of the API."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest
from google import genai
from google.genai import errors, types

from .conftest import generate_line

pytestmark = pytest.mark.filterwarnings("ignore:batches.create_embeddings.. is experimental")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle


@pytest.fixture(params=["v1beta", "v1"])
def client(request: pytest.FixtureRequest, gemini_batch_emulator: EmulatorHandle) -> Iterator[genai.Client]:
    options = types.HttpOptions(base_url=gemini_batch_emulator.url, api_version=request.param)
    with genai.Client(api_key="some-key", http_options=options) as made:
        yield made


def name_of(job: types.BatchJob) -> str:
    assert job.name is not None
    return job.name


def test_inline_generation(client: genai.Client, gemini_batch_emulator: EmulatorHandle) -> None:
    gemini_batch_emulator.script(rows=[{"index": 1, "outcome": "error", "code": 3, "message": "no"}])
    requests = [
        types.InlinedRequest(
            contents=[types.Content(role="user", parts=[types.Part(text=text)])],
            metadata={"key": text},
            config=types.GenerateContentConfig(system_instruction="be brief", temperature=0.1, max_output_tokens=99),
        )
        for text in ("one", "two")
    ]
    job = client.batches.create(
        model="gemini-3.5-flash-lite", src=requests, config=types.CreateBatchJobConfig(display_name="by sdk")
    )
    assert job.state == types.JobState.JOB_STATE_PENDING
    gemini_batch_emulator.advance(60)
    job = client.batches.get(name=name_of(job))
    assert job.state == types.JobState.JOB_STATE_SUCCEEDED
    assert job.done
    assert job.display_name == "by sdk"
    assert job.dest is not None
    rows = job.dest.inlined_responses
    assert rows is not None
    assert rows[0].response is not None
    assert "one" in str(rows[0].response.text)
    assert "be brief" in str(rows[0].response.text)
    assert rows[1].error is not None
    assert rows[1].error.message == "no"
    assert [row.metadata for row in rows] == [{"key": "one"}, {"key": "two"}]


def test_file_generation_with_upload_and_download(
    client: genai.Client, gemini_batch_emulator: EmulatorHandle, tmp_path: Path
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(generate_line(f"k{n}", f"text {n}")) + "\n" for n in range(20)))
    file = client.files.upload(file=path, config=types.UploadFileConfig(mime_type="application/jsonl"))
    assert file.state == types.FileState.ACTIVE
    assert file.name is not None
    job = client.batches.create(model="gemini-3.5-flash-lite", src=file.name)
    gemini_batch_emulator.advance(60)
    job = client.batches.get(name=name_of(job))
    assert job.dest is not None
    assert job.dest.file_name is not None
    lines = client.files.download(file=job.dest.file_name).decode().splitlines()
    assert [json.loads(line)["key"] for line in lines] == [f"k{n}" for n in range(20)]


def test_an_upload_of_20_mb_goes_in_chunks_and_arrives_whole(
    client: genai.Client, gemini_batch_emulator: EmulatorHandle, tmp_path: Path
) -> None:
    from gemini_batch_emulator.developer.store import file_store

    data = random.Random(1).randbytes(20_000_000)
    path = tmp_path / "big.bin"
    path.write_bytes(data)
    file = client.files.upload(file=path, config=types.UploadFileConfig(mime_type="application/jsonl"))
    assert file.size_bytes == len(data)
    assert file.name is not None
    assert file_store(gemini_batch_emulator.state).files[file.name].path.read_bytes() == data
    commands = [entry["headers"]["x-goog-upload-command"] for entry in gemini_batch_emulator.journal(path="^/upload/")]
    assert commands == ["start", "upload", "upload", "upload, finalize"]


@pytest.mark.parametrize("model", ["gemini-embedding-001", "gemini-embedding-2"])
def test_inline_embeddings(client: genai.Client, gemini_batch_emulator: EmulatorHandle, model: str) -> None:
    source = types.EmbeddingsBatchJobSource(
        inlined_requests=types.EmbedContentBatch(
            contents=["one", "two"], config=types.EmbedContentConfig(output_dimensionality=16)
        )
    )
    job = client.batches.create_embeddings(model=model, src=source)
    gemini_batch_emulator.advance(60)
    job = client.batches.get(name=name_of(job))
    assert job.dest is not None
    rows = job.dest.inlined_embed_content_responses
    assert rows is not None
    sizes = [len(row.response.embedding.values or []) if row.response and row.response.embedding else 0 for row in rows]
    assert sizes == [16, 16]


def test_file_embeddings(client: genai.Client, gemini_batch_emulator: EmulatorHandle, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    line = {"key": "a", "request": {"content": {"parts": [{"text": "hello"}]}, "output_dimensionality": 8}}
    path.write_text(json.dumps(line) + "\n")
    file = client.files.upload(file=path, config=types.UploadFileConfig(mime_type="application/jsonl"))
    job = client.batches.create_embeddings(
        model="gemini-embedding-001", src=types.EmbeddingsBatchJobSource(file_name=file.name)
    )
    gemini_batch_emulator.advance(60)
    job = client.batches.get(name=name_of(job))
    assert job.dest is not None
    assert job.dest.file_name is not None
    row = json.loads(client.files.download(file=job.dest.file_name))
    assert len(row["response"]["embedding"]["values"]) == 8


def test_list_over_several_pages(client: genai.Client, gemini_batch_emulator: EmulatorHandle) -> None:
    names = gemini_batch_emulator.seed_jobs(count=25)
    found = [job.name for job in client.batches.list(config=types.ListBatchJobsConfig(page_size=10))]
    assert found == names[::-1]


def test_cancel_and_delete(client: genai.Client, gemini_batch_emulator: EmulatorHandle) -> None:
    job = client.batches.create(
        model="gemini-3.5-flash-lite",
        src=[types.InlinedRequest(contents=[types.Content(parts=[types.Part(text="a")])])],
    )
    client.batches.cancel(name=name_of(job))
    assert client.batches.get(name=name_of(job)).state == types.JobState.JOB_STATE_CANCELLED
    client.batches.delete(name=name_of(job))
    with pytest.raises(errors.ClientError, match="404"):
        client.batches.get(name=name_of(job))


def test_files_get_list_delete(client: genai.Client, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n")
    names = []
    for _ in range(3):
        file = client.files.upload(file=path, config=types.UploadFileConfig(mime_type="application/jsonl"))
        assert file.name is not None
        names.append(file.name)
    assert [file.name for file in client.files.list(config=types.ListFilesConfig(page_size=2))] == names[::-1]
    assert client.files.get(name=names[0]).size_bytes == 3
    client.files.delete(name=names[0])
    with pytest.raises(errors.ClientError, match="403"):
        client.files.get(name=names[0])


def test_refusals_reach_the_sdk_as_its_own_errors(client: genai.Client, gemini_batch_emulator: EmulatorHandle) -> None:
    rows = [types.InlinedRequest(contents=[types.Content(parts=[types.Part(text="a")])])]
    with pytest.raises(errors.ClientError, match="404"):
        client.batches.create(model="palm-nothing", src=rows)
    gemini_batch_emulator.fault(status=503, when="after")
    with pytest.raises(errors.ServerError, match="503"):
        client.batches.create(model="gemini-3.5-flash-lite", src=rows)
    assert gemini_batch_emulator.ledger()["totals"]["created"] == 1
