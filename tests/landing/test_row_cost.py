# SPDX-License-Identifier: Apache-2.0
"""What each answer cost, row by row."""

from __future__ import annotations

import json
import random
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.cost.prices import PriceList, read_price_file
from airflow_provider_gemini_batch.landing.facts import JobFacts
from airflow_provider_gemini_batch.landing.join import land

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "gemini-4-argon"
DAY = date(2026, 11, 30)
"""The last day before its price doubles: in batch 1.00 dollar a million in, 0.05 cached, 5.00 out."""


def answer(key: str, version: str | None = MODEL, **usage: Any) -> bytes:
    response: dict[str, Any] = {"candidates": [{"content": {"parts": [{"text": "yes"}]}, "finishReason": "STOP"}]}
    if usage:
        response["usageMetadata"] = usage
    if version is not None:
        response["modelVersion"] = version
    return json.dumps({"key": key, "response": response}).encode() + b"\n"


def landed(folder: Path, lines: list[bytes], day: date = DAY, **arguments: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the rows that are landed, and the manifest."""
    arguments.setdefault("prices", PriceList())
    manifest = land(lines, folder / "out.jsonl", job=JobFacts(model=MODEL, ended=f"{day}T12:00:00Z"), **arguments)
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()], manifest.to_json()


def test_each_row_tells_its_cost_and_the_manifest_their_sum(tmp_path: Path) -> None:
    usage = {"promptTokenCount": 1000, "candidatesTokenCount": 100, "thoughtsTokenCount": 300}
    rows, manifest = landed(tmp_path, [answer("a", **usage), answer("b", **usage, cachedContentTokenCount=400)])
    # a: 1,000 x 1.00 + 400 x 5.00 = 0.003; b: 600 x 1.00 + 400 x 0.05 + 400 x 5.00 = 0.00262
    assert [row["cost"] for row in rows] == [0.003, 0.00262]
    assert manifest["costs"][MODEL]["cost"] == 0.00562


def test_answers_of_two_versions_are_priced_and_summed_apart(tmp_path: Path) -> None:
    lines = [answer("a", promptTokenCount=1000), answer("b", "gemini-3.5-flash-lite", promptTokenCount=1000)]
    rows, manifest = landed(tmp_path, lines)
    assert rows[0]["cost"] != rows[1]["cost"]
    assert {name: one["cost"] for name, one in manifest["costs"].items()} == {
        MODEL: rows[0]["cost"],
        "gemini-3.5-flash-lite": rows[1]["cost"],
    }


def test_the_day_on_which_the_job_ended_decides(tmp_path: Path) -> None:
    before, _ = landed(tmp_path, [answer("a", promptTokenCount=1000)])
    after, _ = landed(tmp_path, [answer("a", promptTokenCount=1000)], date(2026, 12, 1))
    assert after[0]["cost"] == 2 * before[0]["cost"]


def test_an_unknown_price_is_null_in_row_and_manifest_and_never_zero(tmp_path: Path) -> None:
    rows, manifest = landed(tmp_path, [answer("a", "gemini-99-nothing", promptTokenCount=1000)])
    assert rows[0]["cost"] is None
    assert manifest["costs"]["gemini-99-nothing"]["unknown"] == 1
    assert manifest["costs"]["gemini-99-nothing"]["cost"] is None


def test_an_answer_without_counts_is_of_unknown_cost_and_an_error_is_free(tmp_path: Path) -> None:
    error = json.dumps({"key": "b", "error": {"code": 3, "message": "no"}}).encode()
    rows, _ = landed(tmp_path, [answer("a"), error])
    assert [row["cost"] for row in rows] == [None, 0.0]


@pytest.mark.parametrize(
    "usage",
    [
        {"promptTokens": 1000, "completionTokens": 10, "totalTokens": 1100},
        {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
        {"promptTokens": 1000, "completionTokens": 100, "promptTokensDetails": {"cachedTokens": 0}},
    ],
)
def test_counts_in_openais_words_are_priced_as_googles(tmp_path: Path, usage: dict[str, Any]) -> None:
    rows, manifest = landed(tmp_path, [answer("a", **usage)])
    assert rows[0]["cost"] == pytest.approx(1000e-6 + 100 * 5e-6)
    assert manifest["costs"][MODEL]["cost"] == pytest.approx(rows[0]["cost"])


def test_an_answer_whose_counts_are_empty_is_of_unknown_cost(tmp_path: Path) -> None:
    empty = answer("a", promptTokenCount=1).replace(b'{"promptTokenCount": 1}', b"{}")
    rows, _ = landed(tmp_path, [empty, answer("b", promptTokenCount=1000)])
    assert [row["cost"] for row in rows] == [None, 0.001]


def test_counts_that_nobody_knows_are_of_unknown_cost(tmp_path: Path) -> None:
    rows, _ = landed(tmp_path, [answer("a", words=7)])
    assert rows[0]["cost"] is None


def test_a_missing_row_is_of_unknown_cost_and_answers_keep_theirs_out_of_order(tmp_path: Path) -> None:
    lines = [answer(key, promptTokenCount=1000) for key in ("c", "a")]
    keys = iter
    rows, manifest = landed(tmp_path, lines, input_keys=lambda: keys(("a", "b", "c")))
    assert [(row["key"], row["cost"]) for row in rows] == [("a", 0.001), ("b", None), ("c", 0.001)]
    assert manifest["costs"][MODEL]["cost"] == 0.002


@pytest.mark.parametrize("count", [2**53, 2**63, 10**308])
def test_a_count_beyond_sense_holds_up_no_other_answer(tmp_path: Path, count: int) -> None:
    rows, _ = landed(tmp_path, [answer("a", candidatesTokenCount=count), answer("b", promptTokenCount=1000)])
    assert [row["cost"] for row in rows] == [pytest.approx(count * 5e-6), 0.001]


def test_prices_of_ones_own_come_first(tmp_path: Path) -> None:
    own = PriceList(read_price_file(json.dumps([{"model": MODEL, "input": 7, "output": 9}])))
    rows, _ = landed(tmp_path, [answer("a", promptTokenCount=1_000_000)], prices=own)
    assert rows[0]["cost"] == 7


@pytest.mark.parametrize("seed", range(3))
def test_a_row_costs_what_the_price_list_says(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    usages: list[dict[str, Any]] = []
    for _ in range(200):
        usage: dict[str, Any] = {
            "promptTokenCount": draw.choice([0, 1, 500, 199_999, 200_001, 900_000]),
            "candidatesTokenCount": draw.choice([0, 7, 8000]),
            "thoughtsTokenCount": draw.choice([0, 3000]),
            "cachedContentTokenCount": draw.choice([0, 400, 1_000_000]),
            "toolUsePromptTokenCount": draw.choice([0, 20]),
        }
        if draw.random() < 0.3:
            details = [{"modality": draw.choice(["AUDIO", "IMAGE", "TEXT", "DOCUMENT"]), "tokenCount": 300}]
            usage["promptTokensDetails"] = details
        usages.append(usage)
    model = draw.choice(["gemini-2.5-pro", "gemini-3.5-flash-lite", "gemini-2.5-flash"])
    rows, _ = landed(tmp_path, [answer(f"k{n}", model, **usage) for n, usage in enumerate(usages)])
    prices = PriceList()
    moment = datetime(2026, 11, 30, tzinfo=UTC)
    assert [row["cost"] for row in rows] == [
        pytest.approx(float(prices.cost_of(usage, model, moment) or 0), abs=2e-10) for usage in usages
    ]
