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
    ("way", "kind", "backend", "store", "long"),
    [
        ("blocking", "killed", "gemini", True, True),
        ("deferred", "simultaneous", "vertex_ai", False, True),
        ("deferred", "zombie", "gemini", True, True),
        ("blocking", "killed", "vertex_ai", True, False),
        ("sensor", "zombie", "gemini", True, False),
    ],
)
def test_real_tasks_pay_for_one_job_or_name_both(way: str, kind: str, backend: str, store: bool, long: bool) -> None:
    bill = TaskPair(Plan(kind, backend, 120.0, store, long, 0), way).play()
    assert bill.is_right, bill


@pytest.mark.parametrize("way", ["deferred", "sensor"])
def test_a_short_job_whose_answer_was_lost_is_paid_for_twice_and_both_are_named(way: str) -> None:
    bill = TaskPair(Plan("lost", "gemini", 120.0, True, False, 0), way).play()
    assert len(bill.alive) == 2, bill
    assert bill.is_right, bill


def test_an_embedding_job_is_paid_for_once_too() -> None:
    bill = TaskPair(Plan("killed", "gemini", 60.0, True, True, 0), "blocking", CreateEmbeddingBatchOperator).play()
    assert bill.is_right, bill
