# SPDX-License-Identifier: Apache-2.0
"""What counts as the same request, and what does not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.run.digest import (
    RequestDigester,
    encode_request,
    read_wire_key,
    request_digest,
    wire_key,
)

GOLDEN = [json.loads(line) for line in (Path(__file__).parent / "golden_digests.jsonl").read_text().splitlines()]
REQUEST = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_golden_digest_is_kept(case):
    # A digest that changes makes every user pay again: a change here is a new version and a changelog entry.
    assert request_digest(case["kind"], case["model"], case["request"]) == case["digest"]


def test_golden_digests_are_fifty_and_differ():
    assert len(GOLDEN) == 50
    assert len({case["digest"] for case in GOLDEN}) == 50


def test_digest_is_sha256_of_sorted_json():
    text = json.dumps(
        {"v": 1, "kind": "generate", "model": "m", "request": REQUEST}, sort_keys=True, separators=(",", ":")
    )
    assert request_digest("generate", "m", REQUEST) == hashlib.sha256(text.encode()).hexdigest()[:32]


def test_order_of_members_does_not_count():
    other = {"contents": [{"parts": [{"text": "hi"}], "role": "user"}]}
    assert request_digest("generate", "m", REQUEST) == request_digest("generate", "m", other)


@pytest.mark.parametrize("model", ["models/m", "publishers/google/models/m"])
def test_model_counts_in_its_canonical_spelling(model):
    assert request_digest("generate", model, REQUEST) == request_digest("generate", "m", REQUEST)


def test_kind_and_model_count():
    found = {request_digest(kind, model, REQUEST) for kind in ("generate", "embed") for model in ("m", "n")}
    assert len(found) == 4


def test_digester_agrees_with_single_digest():
    body = encode_request(REQUEST)
    assert RequestDigester("generate", "models/m").digest(body) == request_digest("generate", "m", REQUEST)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [1, float("-inf")]}])
def test_number_that_json_lacks_is_refused(value):
    with pytest.raises(ConfigurationError, match="number of JSON"):
        encode_request({"x": value})


def test_half_a_character_is_refused():
    with pytest.raises(ConfigurationError, match="cannot be written as JSON"):
        encode_request({"x": "\ud800"})


@pytest.mark.parametrize("n", [0, 1, 15, 16, 10_000_000, (1 << 60)])
def test_wire_key_comes_back(n):
    assert read_wire_key(wire_key(n, "ab" * 16)) == (n, "ab" * 16)


@pytest.mark.parametrize("key", ["", "1", "1.ab", "x." + "ab" * 16, "1." + "AB" * 16, "1." + "ab" * 16 + " "])
def test_foreign_key_is_no_wire_key(key):
    assert read_wire_key(key) is None
