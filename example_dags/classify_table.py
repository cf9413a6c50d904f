# SPDX-License-Identifier: Apache-2.0
"""
Rows in, table out: classify each text, and write a Parquet file with a typed row for each, in the input's order.

Needs the extra ``tables``. Every worker has to see the folder: a shared volume, or an object-storage URI in its place.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from airflow_provider_gemini_batch.compat import DAG  # on Airflow 3 alone: from airflow.sdk import DAG
from airflow_provider_gemini_batch.operators import RunBatchOperator

FOLDER = os.path.join(os.environ.get("AIRFLOW_HOME", os.path.expanduser("~/airflow")), "gemini_batch")

with DAG(
    "gemini_batch_classify_table",
    description="Classify texts into a typed table",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    tags=["gemini-batch", "example"],
):
    RunBatchOperator(
        task_id="classify",
        input_path=str(Path(__file__).parent / "data" / "texts.jsonl"),
        key="key",
        model="gemini-3.5-flash-lite",
        prompt="What is this text about, and is it friendly?\n{{ row.text }}",
        response_schema={
            "type": "object",
            "properties": {"topic": {"type": "string"}, "friendly": {"type": "boolean"}},
            "required": ["topic", "friendly"],
        },
        output_path=f"{FOLDER}/{{{{ dag.dag_id }}}}/{{{{ run_id }}}}/texts.parquet",
        deferrable=True,
    )
