# SPDX-License-Identifier: Apache-2.0
"""Sums over many answers cost what the answers cost one by one, and an unknown price is never zero."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_gemini_batch.cost.prices import PriceList
from airflow_provider_gemini_batch.cost.spend import summed
from airflow_provider_gemini_batch.cost.totals import CostTotals
from airflow_provider_gemini_batch.landing.facts import JobFacts
from airflow_provider_gemini_batch.landing.join import land
from tests.cost.test_cases import Case, cases

DAY = date(2026, 11, 20)


@pytest.mark.parametrize("tier", ["batch", "flex"])
def test_the_sum_of_the_hand_worked_cases_is_the_sum_of_their_costs(tier: Any) -> None:
    by_day: dict[date, list[Case]] = {}
    for case in cases():
        by_day.setdefault(case.day, []).append(case)
    prices = PriceList()
    for day, found in by_day.items():
        totals = CostTotals(ended=day, tier=tier)
        for case in found * 3:
            totals.add(case.model, case.usage)
        parts = totals.to_json()
        for model in {case.model for case in found}:
            costs = [prices.cost_of(case.usage, model, day, tier) for case in found if case.model == model]
            known = [cost for cost in costs if cost is not None]
            if len(known) < len(costs):
                assert (parts[model]["cost"], parts[model]["unknown"]) == (None, 3 * len(costs))
            else:
                assert parts[model]["cost"] == pytest.approx(3 * float(sum(known, Decimal(0))), abs=1e-9)
                assert parts[model]["unknown"] == 0


def answer(number: int, version: str, usage: dict[str, Any]) -> bytes:
    candidate = {"content": {"parts": [{"text": "ok"}]}, "finishReason": "STOP"}
    response = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": version}
    return json.dumps({"key": f"k{number}", "response": response}).encode() + b"\n"


TEXT = {"promptTokenCount": 120, "candidatesTokenCount": 40, "thoughtsTokenCount": 9, "totalTokenCount": 169}
DETAILED = {**TEXT, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 120}]}
HEARD = {**TEXT, "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 100}]}
READ = {**TEXT, "promptTokensDetails": [{"modality": "DOCUMENT", "tokenCount": 100}]}
CACHED = {**TEXT, "cachedContentTokenCount": 60}
LONG = {"promptTokenCount": 300_000, "candidatesTokenCount": 5}
EMBEDDED = {"promptTokenCount": 12}


@pytest.mark.parametrize(
    "usages", [[TEXT], [DETAILED], [TEXT, HEARD], [TEXT, READ], [TEXT, CACHED], [TEXT, LONG], [EMBEDDED, LONG]]
)
@pytest.mark.parametrize("version", ["gemini-3.5-flash-lite", "gemini-2.5-pro", "nobody-knows-it"])
def test_a_manifest_tells_what_its_rows_cost(tmp_path: Path, usages: list[dict[str, Any]], version: str) -> None:
    rows = [answer(number, version, usages[number % len(usages)]) for number in range(300)]
    rows.append(json.dumps({"key": "refused", "error": {"code": 3, "message": "no"}}).encode() + b"\n")
    facts = JobFacts("batches/1", version, ended="2026-11-20T23:30:00Z")
    part = land(rows, tmp_path / "out.jsonl", job=facts).costs[version]
    prices = PriceList()
    each = [prices.cost_of(usages[number % len(usages)], version, DAY) for number in range(300)]
    assert part["rows"] == 300
    assert part["input_tokens"] == sum(usages[number % len(usages)]["promptTokenCount"] for number in range(300))
    if version == "nobody-knows-it":
        assert (part["cost"], part["single_calls"], part["unknown"]) == (None, None, 300)
        return
    assert part["cost"] == pytest.approx(float(sum(filter(None, each), Decimal(0))), rel=1e-9)
    assert part["single_calls"] == pytest.approx(2 * part["cost"], rel=0.2)


@pytest.mark.parametrize("usage", [TEXT, HEARD, CACHED, LONG, EMBEDDED])
def test_an_answer_that_is_taken_back_costs_nothing(usage: dict[str, Any]) -> None:
    once, again = CostTotals(ended=DAY), CostTotals(ended=DAY)
    for totals, signs in ((once, (1,)), (again, (1, 1, -1))):
        for sign in signs:
            totals.add("gemini-2.5-pro", usage, sign)
    assert again.to_json() == once.to_json()


def test_spend_reads_what_a_manifest_tells(tmp_path: Path) -> None:
    rows = [answer(number, "gemini-3.5-flash-lite" if number % 3 else "nobody-knows-it", TEXT) for number in range(9)]
    manifest = land(rows, tmp_path / "out.jsonl", job=JobFacts("batches/1", "gemini-3.5-flash-lite")).to_json()
    entry = {"dag_id": "d", "task_id": "t", "ended_at": "2026-11-20T10:00:00", "manifest": manifest}
    (known, unknown) = summed([entry], ["model"])
    assert (known["model"], known["rows"], known["unknown"]) == ("gemini-3.5-flash-lite", 6, 0)
    assert known["cost"] > 0
    assert (unknown["rows"], unknown["unknown"], unknown["cost"]) == (3, 3, 0)
