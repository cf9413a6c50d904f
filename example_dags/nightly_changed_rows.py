# SPDX-License-Identifier: Apache-2.0
"""
Only changed rows: each night asks what the output of the night before does not answer.

Needs the extra ``tables``. Every worker has to see the folder: a shared volume, or an object-storage URI in its place.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from airflow_provider_gemini_batch.compat import DAG  # on Airflow 3 alone: from airflow.sdk import DAG
from airflow_provider_gemini_batch.operators import RunBatchOperator

FOLDER = os.path.join(os.environ.get("AIRFLOW_HOME", os.path.expanduser("~/airflow")), "gemini_batch")
OUTPUT = f"{FOLDER}/{{{{ dag.dag_id }}}}/summaries.parquet"

with DAG(
    "gemini_batch_nightly_changed_rows",
    description="Summarise the rows that are new or have changed",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    tags=["gemini-batch", "example"],
):
    RunBatchOperator(
        task_id="summarise",
        input_path=str(Path(__file__).parent / "data" / "texts.jsonl"),
        key="key",
        model="gemini-3.5-flash-lite",
        prompt="Summarise:\n{{ row.text }}",
        output_path=OUTPUT,
        reuse_answers=OUTPUT,
        deferrable=True,
    )
