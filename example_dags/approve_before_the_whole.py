# SPDX-License-Identifier: Apache-2.0
"""
A sample first: a person sees its answers and what all rows will cost, and the whole run pays for the rest alone.

Needs the extra ``tables`` and Airflow 3.1 or later with its standard provider; elsewhere this file holds no DAG. The
person answers under *Required actions*. A rejection skips the whole run.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow_provider_gemini_batch.compat import DAG, AirflowException, task
from airflow_provider_gemini_batch.operators import RunBatchOperator

try:
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    has_approval = True
except (ImportError, AirflowException):  # before Airflow 3.1 the provider has none, or refuses to load it
    has_approval = False

FOLDER = os.path.join(os.environ.get("AIRFLOW_HOME", os.path.expanduser("~/airflow")), "gemini_batch")
PLACE = f"{FOLDER}/{{{{ dag.dag_id }}}}/{{{{ run_id }}}}"

ASKED: dict[str, Any] = {
    "input_path": str(Path(__file__).parent / "data" / "reviews.csv"),
    "key": "id",
    "model": "gemini-3.5-flash-lite",
    "prompt": "Classify this review of a {{ row.product }}:\n{{ row.review }}",
    "generation_config": {"max_output_tokens": 200},
    "response_schema": {
        "type": "object",
        "properties": {"sentiment": {"type": "string", "enum": ["good", "bad", "mixed"]}},
        "required": ["sentiment"],
    },
    "output_path": f"{PLACE}/reviews.jsonl",
    "max_cost": 5.00,
    "deferrable": True,
}
"""The same for both runs: an answer is taken over if its request is the very same."""


@task  # type: ignore[untyped-decorator]
def show(manifest: dict[str, Any], count: int = 10) -> str:
    """Return the first answers of the sample, and what the whole will cost, in Markdown."""
    import json

    with open(manifest["output_path"], encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(count), file, strict=False)]
    cost = (manifest["projection"] or {}).get("cost")
    price = f"about {cost['likely']:.4f} USD" if cost else "an unknown sum"
    if cost and cost["high"] is not None:
        price += f", at most {cost['high']:.4f} USD"
    lines = [f"All {manifest['input_rows']} rows will cost {price}, those of the sample included.", ""]
    lines += ["| review | status | sentiment |", "|---|---|---|"]
    lines += [f"| {row['id']} | {row['status']} | {row['sentiment'] or ''} |" for row in rows]
    return "\n".join(lines)


if has_approval:
    with DAG(
        "gemini_batch_approve_before_the_whole",
        description="Ask a sample, show it to a person, then ask the rest",
        schedule=None,
        start_date=datetime(2026, 1, 1),
        tags=["gemini-batch", "example"],
    ):
        sample = RunBatchOperator(task_id="sample", sample=30, **ASKED)
        approve = ApprovalOperator(
            task_id="approve",
            subject="Classify all reviews?",
            body="{{ ti.xcom_pull(task_ids='show') }}",
        )
        whole = RunBatchOperator(task_id="whole", reuse_answers=f"{PLACE}/reviews.sample.jsonl", **ASKED)
        show(sample.output) >> approve >> whole
