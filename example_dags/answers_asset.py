# SPDX-License-Identifier: Apache-2.0
"""
A DAG that is scheduled by the answers of another: each landing is an event of an asset and carries the run's manifest.

On Airflow 2.11 an asset is called a dataset.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from airflow_provider_gemini_batch.compat import DAG, Asset, task  # on Airflow 3 alone: from airflow.sdk import ...
from airflow_provider_gemini_batch.operators import RunBatchOperator

FOLDER = os.path.join(os.environ.get("AIRFLOW_HOME", os.path.expanduser("~/airflow")), "gemini_batch")
ANSWERS = Asset(f"file://{FOLDER}/gemini_batch_landed_answers/answers.jsonl")

with DAG(
    "gemini_batch_landed_answers",
    description="Land answers, and say so with an asset",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    tags=["gemini-batch", "example"],
):
    RunBatchOperator(
        task_id="answer",
        input_path=str(Path(__file__).parent / "data" / "texts.jsonl"),
        key="key",
        model="gemini-3.5-flash-lite",
        prompt="What is this text about?\n{{ row.text }}",
        output_path=f"{FOLDER}/{{{{ dag.dag_id }}}}/answers.jsonl",
        outlets=[ANSWERS],
        deferrable=True,
    )


@task
def report(**context):  # type: ignore[no-untyped-def]
    """Say what came in; the manifest is in the event, so that nothing has to be read for it."""
    found = context.get("triggering_asset_events") or context.get("triggering_dataset_events") or {}
    manifests = [event.extra["gemini_batch_manifest"] for events in found.values() for event in events]
    return [f"{each['succeeded']} of {each['total']} rows answered: {each['output_path']}" for each in manifests]


with DAG(
    "gemini_batch_read_answers",
    description="Read what another DAG has landed",
    schedule=[ANSWERS],
    start_date=datetime(2026, 1, 1),
    catchup=False,
    tags=["gemini-batch", "example"],
):
    report()
