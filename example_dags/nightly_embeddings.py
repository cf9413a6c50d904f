# SPDX-License-Identifier: Apache-2.0
"""
Nightly embeddings: texts to vectors as one batch job, landed by key.

The create operator checks and uploads the rows itself, and waits for the job, so that three tasks are enough.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow_provider_gemini_batch.compat import DAG, Param, task  # on Airflow 3 alone: from airflow.sdk import ...
from airflow_provider_gemini_batch.operators import (
    CleanUpBatchesOperator,
    CreateEmbeddingBatchOperator,
    DownloadResultsOperator,
)

TEXTS = Path(__file__).parent / "data" / "texts.jsonl"
# Every worker has to see this folder: a shared volume, or an object-storage URI.
FOLDER = os.path.join(os.environ.get("AIRFLOW_HOME", os.path.expanduser("~/airflow")), "gemini_batch")
RUN = f"{FOLDER}/{{{{ dag.dag_id }}}}/{{{{ run_id }}}}"

with DAG(
    "gemini_batch_nightly_embeddings",
    description="Embed many texts, at half the price, once a night",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    tags=["gemini-batch", "example"],
    params={
        "rows": Param(1000, type="integer", minimum=1, title="Rows"),
        "model": Param("gemini-embedding-001", type="string", pattern=r"^\S+$", title="Model"),
    },
):

    @task
    def texts_to_file(path: str, params: dict[str, Any] | None = None) -> str:
        """Write one JSON object a row: its key, and the text to embed."""
        wanted = (params or {}).get("rows", 1000)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with TEXTS.open(encoding="utf-8") as texts, open(path, "w", encoding="utf-8") as file:
            for _, line in zip(range(wanted), texts, strict=False):
                row = json.loads(line)
                file.write(json.dumps({"key": row["key"], "text": row["text"][:8000]}) + "\n")
        return path

    texts = texts_to_file(f"{RUN}/texts.jsonl")

    embed = CreateEmbeddingBatchOperator(
        task_id="embed",
        model="{{ params.model }}",
        input_path=texts,
        display_name="nightly-embeddings",
        task_type="RETRIEVAL_DOCUMENT",
        output_dimensionality=256,
        wait_for_completion=True,
        deferrable=True,
    )

    vectors = DownloadResultsOperator(
        task_id="vectors",
        job_name=embed.output,
        input_path=texts,
        output_path=f"{RUN}/vectors.jsonl",
        max_failed_rows=0.1,
        include_response=False,
    )

    # Of this DAG's jobs, those older than a week go, with the rows they were made from.
    clean_up = CleanUpBatchesOperator(
        task_id="clean_up",
        older_than=timedelta(days=7),
        display_name_prefix="nightly-embeddings",
        delete_files=True,
    )

    embed >> vectors >> clean_up
