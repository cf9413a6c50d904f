# SPDX-License-Identifier: Apache-2.0
"""
Rows in, table out: classify each review of a CSV, and write a Parquet file with a typed row for each.

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
    description="Classify product reviews into a typed table",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    tags=["gemini-batch", "example"],
):
    RunBatchOperator(
        task_id="classify",
        input_path=str(Path(__file__).parent / "data" / "reviews.csv"),
        key="id",
        model="gemini-3.5-flash-lite",
        prompt="Classify this review of a {{ row.product }}:\n{{ row.review }}",
        generation_config={"max_output_tokens": 200},  # an answer's longest, which a cap or an estimate counts with
        keep_columns=["product", "review"],
        response_schema={
            "type": "object",
            "properties": {
                "sentiment": {"type": "string", "enum": ["good", "bad", "mixed"]},
                "topic": {"type": "string", "enum": ["quality", "comfort", "price", "delivery", "service", "other"]},
                "is_defect": {"type": "boolean"},
            },
            "required": ["sentiment", "topic", "is_defect"],
        },
        output_path=f"{FOLDER}/{{{{ dag.dag_id }}}}/{{{{ run_id }}}}/reviews.parquet",
        deferrable=True,
    )
