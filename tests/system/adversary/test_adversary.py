# SPDX-License-Identifier: Apache-2.0
"""A few pairs of each kind, for every run of the suite; ``python -m tests.system.adversary`` plays them all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.system.adversary.pairs import BACKENDS, KINDS, LAGS, Pair, Plan

SEEDS = range(3)


@pytest.mark.parametrize("lag", LAGS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_job_is_paid_for_where_money_can_be_saved(kind: str, backend: str, lag: float) -> None:
    for store in (True, False):
        for seed in SEEDS:
            bill = Pair(Plan(kind, backend, lag, store, True, seed)).play()
            assert len(bill.alive) == 1, bill
            assert bill.is_right, bill


@pytest.mark.parametrize("lag", LAGS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_task_names_both_jobs_where_two_have_run(kind: str, backend: str, lag: float) -> None:
    for store in (True, False):
        for seed in SEEDS:
            bill = Pair(Plan(kind, backend, lag, store, False, seed)).play()
            assert bill.is_right, bill


@pytest.mark.parametrize("skew", [-540.0, 540.0])
@pytest.mark.parametrize("long", [True, False])
def test_clocks_minutes_apart_change_no_bill(long: bool, skew: float) -> None:
    for kind in KINDS:
        for backend in BACKENDS:
            bill = Pair(Plan(kind, backend, 120.0, True, long, 1, skew)).play()
            assert bill.is_right, bill


def test_the_pairs_do_make_twins() -> None:
    created = [len(Pair(Plan(kind, "gemini", 120.0, False, True, 0)).play().created) for kind in KINDS]
    assert created == [2, 2, 2, 2]


def test_the_service_shares_no_code_with_what_it_tests() -> None:
    imported = set()
    for name in ("service.py", "serving.py"):
        for node in ast.walk(ast.parse(Path(__file__).with_name(name).read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
    ours = {name for name in imported if name.startswith(("airflow", "gemini", "tests"))}
    assert ours <= {"tests.system.adversary.service"}
