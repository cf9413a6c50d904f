# SPDX-License-Identifier: Apache-2.0
"""
Rows in, vectors out: a function yields rows, and a folder of Parquet parts gets a vector for each.

Needs the extra ``tables``. Every worker has to see the folder: a shared volume, or an object-storage URI in its place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow_provider_gemini_batch.compat import DAG, task  # on Airflow 3 alone: from airflow.sdk import DAG, task

TEXTS = Path(__file__).parent / "data" / "texts.jsonl"
FOLDER = os.path.join(os.environ.get("AIRFLOW_HOME", os.path.expanduser("~/airflow")), "gemini_batch")

with DAG(
    "gemini_batch_embed_table",
    description="Embed what a function yields",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    tags=["gemini-batch", "example"],
):

    @task.gemini_embedding_batch(
        model="gemini-embedding-001",
        text="{{ row.text }}",
        key="key",
        output_dimensionality=64,
        output_path=f"{FOLDER}/{{{{ dag.dag_id }}}}/{{{{ run_id }}}}/vectors",
        deferrable=True,
    )
    def embed() -> Iterator[dict[str, Any]]:
        """Yield the rows; runs once, when the input is read."""
        with TEXTS.open(encoding="utf-8") as texts:
            yield from map(json.loads, texts)

    embed()
