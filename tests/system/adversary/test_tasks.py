# SPDX-License-Identifier: Apache-2.0
"""A few pairs as real tasks over real sockets; ``python -m tests.system.adversary`` plays more of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_gemini_batch.operators import CreateEmbeddingBatchOperator
from tests.system.adversary.pairs import Plan
from tests.system.adversary.tasks import TaskPair, tasks_and_service


@pytest.fixture(scope="module", autouse=True)
def world() -> Iterator[None]:
    with tasks_and_service():
        yield


@pytest.mark.parametrize(
    ("way", "kind", "backend", "store"),
    [
        ("blocking", "killed", "gemini", True),
        ("deferred", "simultaneous", "vertex_ai", False),
        ("deferred", "zombie", "gemini", True),
        ("sensor", "lost", "gemini", False),
    ],
)
def test_real_tasks_pay_for_one_job(way: str, kind: str, backend: str, store: bool) -> None:
    bill = TaskPair(Plan(kind, backend, 120.0, store, True, 0), way).play()
    assert len(bill.created) == 2, bill
    assert bill.is_right, bill


@pytest.mark.parametrize(
    ("way", "kind", "backend"),
    [("sensor", "zombie", "gemini"), ("deferred", "lost", "gemini"), ("blocking", "killed", "vertex_ai")],
)
def test_real_tasks_name_both_jobs_where_two_have_run(way: str, kind: str, backend: str) -> None:
    bill = TaskPair(Plan(kind, backend, 120.0, True, False, 0), way).play()
    assert len(bill.alive) == 2, bill
    assert bill.is_right, bill


def test_an_embedding_job_is_paid_for_once_too() -> None:
    bill = TaskPair(Plan("killed", "gemini", 60.0, True, True, 0), "blocking", CreateEmbeddingBatchOperator).play()
    assert bill.is_right, bill
