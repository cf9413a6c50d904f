# SPDX-License-Identifier: Apache-2.0
"""The hand-worked costs of ``cases.md``: the arithmetic gives the dollars, and so does the code."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_gemini_batch.cost.prices import PriceList

CASES = Path(__file__).with_name("cases.md")


@dataclass(frozen=True)
class Case:
    number: str
    model: str
    day: date
    tier: Any
    usage: dict[str, Any]
    arithmetic: str
    dollars: Decimal | None


def cases() -> list[Case]:
    found = []
    for line in CASES.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if re.fullmatch(r"\d+", cells[0].strip("| ")):
            number, _, model, day, tier, usage, arithmetic, dollars, *_ = cells
            worth = None if dollars == "unknown" else Decimal(dollars)
            counts = json.loads(usage.strip("`"))
            when = date.fromisoformat(day)
            found.append(Case(number.strip("| "), model.strip("`"), when, tier, counts, arithmetic.strip("`"), worth))
    return found


def worked(arithmetic: str) -> Decimal:
    """Work a sum of products out, exactly."""
    assert re.fullmatch(r"[\d.+*() ]+", arithmetic)
    exact: Decimal = eval(re.sub(r"[\d.]+", lambda number: f"Decimal('{number[0]}')", arithmetic))
    return exact / 1_000_000


def test_there_are_fifty_cases_and_more() -> None:
    assert len(cases()) >= 50


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.number}-{case.model}")
def test_the_arithmetic_and_the_code_give_the_dollars(case: Case) -> None:
    cost = PriceList().cost_of(case.usage, case.model, case.day, case.tier)
    if case.dollars is None:
        assert cost is None
    else:
        assert worked(case.arithmetic) == case.dollars
        assert cost == case.dollars
