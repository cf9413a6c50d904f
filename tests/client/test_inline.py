# SPDX-License-Identifier: Apache-2.0
"""Rows whose answers may be large never travel inline: such a job is billed, and its answers cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.client import GeminiBatchClient

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

MODEL = "gemini-3.5-flash-lite"
IMAGE_MODEL = "gemini-2.5-flash-image"


@pytest.fixture
def client(gemini_batch_emulator: EmulatorHandle) -> GeminiBatchClient:
    gemini_batch_emulator.configure(models=[MODEL, IMAGE_MODEL, "gemini-2.5-flash-preview-tts", "gemini-embedding-001"])
    return GeminiBatchClient.connect("emulator-key", base_url=gemini_batch_emulator.url)


def row(**config: Any) -> dict[str, Any]:
    return {"request": {"contents": [{"parts": [{"text": "a"}]}], "generationConfig": config}}


CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "a short answer": ({"inlined_requests": [row()]}, True),
    "4000 answers of usual length": ({"inlined_requests": [row()] * 4000}, True),
    "4200 answers of usual length": ({"inlined_requests": [row()] * 4200}, False),
    "200 answers of 8192 tokens": ({"inlined_requests": [row(maxOutputTokens=8192)] * 200}, True),
    "600 answers of 8192 tokens": ({"inlined_requests": [row(maxOutputTokens=8192)] * 600}, False),
    "long answers by the settings": (
        {"inlined_requests": [row()] * 600, "generation_config": {"max_output_tokens": 8192}},
        False,
    ),
    "an image in one row": ({"inlined_requests": [row(), row(responseModalities=["TEXT", "IMAGE"])]}, False),
    "sound by the settings": (
        {"inlined_requests": [{"prompt": "a"}], "generation_config": {"response_modalities": ["audio"]}},
        False,
    ),
    "an image by its size": ({"inlined_requests": [row(imageConfig={"aspectRatio": "1:1"})]}, False),
    "sound by its voice": ({"inlined_requests": [row(speechConfig={"languageCode": "de-DE"})]}, False),
    "an image as one text": ({"inlined_requests": [row(responseModalities="IMAGE")]}, False),
    "a film": ({"inlined_requests": [row(responseModalities=["VIDEO"])]}, False),
    "probabilities of each token": ({"inlined_requests": [row(responseLogprobs=True, logprobs=20)]}, False),
    "600 answers of 8192 tokens in a text": ({"inlined_requests": [row(maxOutputTokens="8192")] * 600}, False),
    "an image model": ({"model": IMAGE_MODEL, "inlined_requests": [row()]}, False),
    "a model that speaks": ({"model": "gemini-2.5-flash-preview-tts", "inlined_requests": [row()]}, False),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_travel_inline_only_for_small_answers(client: GeminiBatchClient, case: str) -> None:
    arguments, is_inline = CASES[case]
    job = client.create_batch(**{"model": MODEL, **arguments})
    assert (job.input_place is None) == is_inline


@pytest.mark.parametrize(
    ("count", "dimensions", "is_inline"), [(400, None, True), (500, None, False), (500, 768, True)]
)
def test_vectors_count_by_their_numbers(
    client: GeminiBatchClient, count: int, dimensions: int | None, is_inline: bool
) -> None:
    rows = [{"text": "a"}] * count
    job = client.create_embeddings_batch(
        "gemini-embedding-001", inlined_requests=rows, output_dimensionality=dimensions
    )
    assert (job.input_place is None) == is_inline
