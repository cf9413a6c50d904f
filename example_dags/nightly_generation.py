# SPDX-License-Identifier: Apache-2.0
"""
Nightly generation: rows to a file, uploaded, run as one batch job, waited for, landed in order, cleaned up.

Runs as it stands on both backends: which one is the connection's affair. The rows come from a file beside this one; put
your own query in their place.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow_provider_gemini_batch.compat import DAG, Param, task  # on Airflow 3 alone: from airflow.sdk import ...
from airflow_provider_gemini_batch.operators import (
    CreateBatchOperator,
    DeleteBatchOperator,
    DeleteFileOperator,
    DownloadResultsOperator,
    UploadFileOperator,
)
from airflow_provider_gemini_batch.sensors import BatchJobSensor

TEXTS = Path(__file__).parent / "data" / "texts.jsonl"
# Every worker has to see this folder: a shared volume, or an object-storage URI.
FOLDER = os.path.join(os.environ.get("AIRFLOW_HOME", os.path.expanduser("~/airflow")), "gemini_batch")
RUN = f"{FOLDER}/{{{{ dag.dag_id }}}}/{{{{ run_id }}}}"

with DAG(
    "gemini_batch_nightly_generation",
    description="Ask the same thing of many texts, at half the price, once a night",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    tags=["gemini-batch", "example"],
    params={
        "rows": Param(1000, type="integer", minimum=1, title="Rows"),
        "model": Param("gemini-3.5-flash-lite", type="string", pattern=r"^\S+$", title="Model"),
    },
):

    @task
    def rows_to_file(path: str, params: dict[str, Any] | None = None) -> str:
        """Write one JSON object a row: its key, and the prompt."""
        wanted = (params or {}).get("rows", 1000)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with TEXTS.open(encoding="utf-8") as texts, open(path, "w", encoding="utf-8") as file:
            for _, line in zip(range(wanted), texts, strict=False):
                row = json.loads(line)
                file.write(json.dumps({"key": row["key"], "prompt": f"Summarise:\n{row['text']}"}) + "\n")
        return path

    rows = rows_to_file(f"{RUN}/rows.jsonl")

    upload = UploadFileOperator(
        task_id="upload",
        input_path=rows,
        system_instruction="Answer in one sentence, in the language of the text.",
        generation_config={"maxOutputTokens": 200},
    )

    submit = CreateBatchOperator(task_id="submit", model="{{ params.model }}", file_name=upload.output)

    # Waits in the triggerer, for up to four days, without holding a worker.
    wait = BatchJobSensor(task_id="wait", job_name=submit.output, deferrable=True)

    results = DownloadResultsOperator(
        task_id="results",
        job_name=submit.output,
        input_path=rows,
        output_path=f"{RUN}/results.jsonl",
        errors_path=f"{RUN}/errors.jsonl",
        max_failed_rows=0.1,
    )

    delete_job = DeleteBatchOperator(task_id="delete_job", job_name=submit.output)
    delete_file = DeleteFileOperator(task_id="delete_file", file_name=upload.output)

    submit >> wait >> results >> [delete_job, delete_file]
