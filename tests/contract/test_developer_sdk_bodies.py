# SPDX-License-Identifier: Apache-2.0
"""For the same job, Google's own SDK and we send the Developer API the same body: compared as it goes over HTTP."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

import httpx  # noqa: TC002 - read at run time by a subclass
import pytest
from google import genai
from google.genai import types

from airflow_provider_gemini_batch.api.developer.jobs import DeveloperBackend
from airflow_provider_gemini_batch.api.models import JobSpec
from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from airflow_provider_gemini_batch.rows.normalise import normalise_rows
from airflow_provider_gemini_batch.rows.settings import RowSettings

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

pytestmark = pytest.mark.filterwarnings("ignore::google.genai._common.ExperimentalWarning")
MODEL = "gemini-3.5-flash-lite"
EMBED = "gemini-embedding-001"
SCHEMA = {"type": "OBJECT", "properties": {"first_name": {"type": "STRING"}}, "required": ["first_name"]}
FUNCTION = {"name": "look_up", "description": "d", "parameters": SCHEMA}
FILE_PART = {"fileData": {"fileUri": "https://example.com/files/a", "mimeType": "image/png"}}
CONFIGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"maxOutputTokens": 64},
    {"topP": 0.5, "topK": 3},
    {"candidateCount": 1, "seed": 7},
    {"stopSequences": ["END", "STOP"]},
    {"presencePenalty": 0.5, "frequencyPenalty": 0.25},
    {"responseMimeType": "application/json", "responseSchema": SCHEMA},
    {"thinkingConfig": {"thinkingBudget": 0, "includeThoughts": False}},
    {"responseModalities": ["TEXT"]},
]
BESIDE: list[dict[str, Any]] = [
    {"systemInstruction": {"role": "user", "parts": [{"text": "be brief"}]}},
    {"tools": [{"functionDeclarations": [FUNCTION]}]},
    {"tools": [{"googleSearch": {}}]},
    {"toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look_up"]}}},
    {"safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]},
    {"cachedContent": "cachedContents/abc"},
]
EMBEDDINGS: list[dict[str, Any]] = [
    {},
    {"task_type": "RETRIEVAL_DOCUMENT"},
    {"title": "t"},
    {"output_dimensionality": 256},
    {"task_type": "RETRIEVAL_DOCUMENT", "title": "t", "output_dimensionality": 8},
]


def camel(value: Any) -> Any:
    """The SDK leaves values it has no converter for (parts, thinking) in snake_case; protobuf's JSON takes both."""
    if isinstance(value, list):
        return [camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        re.sub("_([a-z])", lambda match: match[1].upper(), name): member if name == "properties" else camel(member)
        for name, member in value.items()
    }


class Both:
    def __init__(self, url: str) -> None:
        self.sent: list[tuple[str, Any]] = []

        def note(request: httpx.Request) -> None:
            self.sent.append((request.url.path, json.loads(request.read())))

        options = types.HttpOptions(
            base_url=url, api_version="v1beta", client_args={"event_hooks": {"request": [note]}}
        )
        self.sdk = genai.Client(vertexai=False, api_key="k", http_options=options)
        self.backend = DeveloperBackend(settings_from_connection(host=url, password="k", extra={"backend": "gemini"}))
        self.url = url

    def theirs(self) -> tuple[str, Any]:
        path, body = self.sent[-1]
        return path.partition("/models/")[2], body

    def ours(self, kind: Any, model: str, rows: list[Any] | None = None, **more: Any) -> tuple[str, Any]:
        name = more.pop("file_name", None)
        settings = RowSettings(kind=kind, model=model, **more)
        inline = tuple(row.inline() for row in normalise_rows(rows, settings)) if rows else None
        request = self.backend.create_job(JobSpec(model, kind, "nightly", requests=inline, file_name=name))
        return request.url.partition("/models/")[2], json.loads(bytes(request.body or b""))


@pytest.fixture
def both(gemini_batch_emulator: EmulatorHandle) -> Both:
    return Both(gemini_batch_emulator.url)


def attempt(call: Any) -> None:
    # The answer is of no interest here: a file or a cache that does not exist is refused after the body was sent.
    with contextlib.suppress(genai.errors.ClientError):
        call()


@pytest.mark.parametrize("parts", [[{"text": "hi"}], [{"text": "what is it?"}, FILE_PART]], ids=["text", "file"])
@pytest.mark.parametrize("config", [*CONFIGS, *BESIDE], ids=lambda config: "+".join(config) or "none")
def test_an_inline_generation_equals_the_sdks(both: Both, config: dict[str, Any], parts: list[Any]) -> None:
    contents = [{"role": "user", "parts": parts}]
    row = {"contents": contents, "metadata": {"key": "a", "team": "x"}, "config": config}
    attempt(lambda: both.sdk.batches.create(model=MODEL, src=[row], config={"display_name": "nightly"}))  # type: ignore[list-item]
    # The SDK's flat config is its own form; on the wire these members stand beside generationConfig.
    request = {"contents": contents, **(config if config in BESIDE else {"generationConfig": config} if config else {})}
    ours = both.ours("generate", MODEL, [{"key": "a", "metadata": {"team": "x"}, "request": request}])
    path, theirs = both.theirs()
    sent = theirs["batch"]["inputConfig"]["requests"]["requests"][0]["request"]
    if sent.get("generationConfig") == {}:
        del sent["generationConfig"]  # the SDK adds an empty one to every row that has a config
    assert ours == (path, camel(theirs))


@pytest.mark.parametrize("options", EMBEDDINGS, ids=lambda options: "+".join(options) or "none")
def test_inline_embeddings_equal_the_sdks(both: Both, options: dict[str, Any]) -> None:
    source = {"inlined_requests": {"contents": ["one", "two"], "config": options}}
    attempt(
        lambda: both.sdk.batches.create_embeddings(model=EMBED, src=source, config={"display_name": "nightly"})  # type: ignore[arg-type]
    )
    path, ours = both.ours("embed", EMBED, [{"text": "one"}, {"text": "two"}], **options)
    for row in ours["batch"]["inputConfig"]["requests"]["requests"]:
        # The SDK cannot name rows, names no model in them (REST requires it), and gives every content a role.
        assert row.pop("metadata")["key"]
        assert row["request"].pop("model") == f"models/{EMBED}"
        row["request"]["content"]["role"] = "user"
    assert (path, ours) == both.theirs()


@pytest.mark.parametrize("kind", ["generate", "embed"])
def test_a_job_from_a_file_equals_the_sdks(both: Both, kind: str) -> None:
    config: Any = {"display_name": "nightly"}
    if kind == "generate":
        attempt(lambda: both.sdk.batches.create(model=MODEL, src="files/abc", config=config))
    else:
        attempt(lambda: both.sdk.batches.create_embeddings(model=EMBED, src={"file_name": "files/abc"}, config=config))
    path, theirs = both.theirs()
    source = theirs["batch"]["inputConfig"]
    if kind == "embed":
        source["fileName"] = source.pop("file_name")  # the SDK's spelling in this one call; REST documents fileName
    assert both.ours(kind, MODEL if kind == "generate" else EMBED, file_name="files/abc") == (path, theirs)
