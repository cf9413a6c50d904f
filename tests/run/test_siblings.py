# SPDX-License-Identifier: Apache-2.0
"""How often a run looks at a job that answers its rows for another index."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow_provider_gemini_batch.api.models import BatchJob
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.lifecycle.polling import COSTLY_SHORTEST
from airflow_provider_gemini_batch.run.siblings import next_look

BORN = 1_795_000_000.0


def job() -> BatchJob:
    created = datetime.fromtimestamp(BORN, UTC).isoformat()
    return BatchJob(name="batches/a", state=JobState.RUNNING, backend="gemini", create_time=created)


def test_a_days_job_of_another_index_is_looked_at_some_fifty_times() -> None:
    now, looks = BORN + 1.0, 0
    while now < BORN + 86400:
        now, looks = next_look([job()], now), looks + 1
    assert 40 < looks < 60


def test_a_job_that_is_gone_or_new_is_looked_for_in_two_minutes() -> None:
    assert next_look([None], BORN) == BORN + COSTLY_SHORTEST
    assert next_look([job()], BORN + 5.0) == BORN + 5.0 + COSTLY_SHORTEST
