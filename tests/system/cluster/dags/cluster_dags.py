# SPDX-License-Identifier: Apache-2.0
"""Twenty mapped runs: one DAG whose tasks wait in the triggerer, one whose tasks hold their worker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Param, task

from airflow_provider_gemini_batch.operators import RunBatchOperator
from tests.system.cluster.work import ROWS_PER_JOB, SCHEMA

TASK_ID = "classify"


@task
def inputs(**context: Any) -> list[str]:
    """Return the paths of the inputs."""
    return list(context["params"]["inputs"])


def make(name: str, *, deferrable: bool) -> DAG:
    """Make a DAG."""
    with DAG(
        name,
        schedule=None,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        is_paused_upon_creation=False,
        max_active_tasks=64,
        params={name: Param("", type="string") for name in ("folder", "conn_id")} | {"inputs": Param([], type="array")},
    ) as dag:
        RunBatchOperator.partial(
            task_id=TASK_ID,
            gemini_batch_conn_id="{{ params.conn_id }}",
            model="gemini-3.5-flash-lite",
            prompt="Classify this product review:\n{{ row.review }}",
            key="id",
            keep_columns=["review"],
            response_schema=SCHEMA,
            output_path="{{ params.folder }}/answers-{{ ti.map_index }}.parquet",
            deduplicate=True,
            rows_per_job=ROWS_PER_JOB,
            deferrable=deferrable,
            poll_interval=3,
            retries=5,
            retry_delay=timedelta(seconds=2),
        ).expand(input_path=inputs())
    return dag


deferred = make("cluster_deferred", deferrable=True)
held = make("cluster_held", deferrable=False)
