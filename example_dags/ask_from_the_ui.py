# SPDX-License-Identifier: Apache-2.0
"""
For the Trigger form in Airflow's UI: type a few questions, choose a model, read the answers in the last task's log.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import datetime
from typing import Any

from airflow_provider_gemini_batch.compat import DAG, Param, task  # on Airflow 3 alone: from airflow.sdk import ...
from airflow_provider_gemini_batch.operators import CreateBatchOperator, DownloadResultsOperator

# Every worker has to see this folder: a shared volume, or an object-storage URI.
FOLDER = os.path.join(os.environ.get("AIRFLOW_HOME", os.path.expanduser("~/airflow")), "gemini_batch")

with DAG(
    "gemini_batch_ask_from_the_ui",
    description="Answer questions typed into the Trigger form as one batch job",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    tags=["gemini-batch", "example"],
    # Lists and numbers of the form stay lists and numbers in the operators' arguments.
    render_template_as_native_obj=True,
    params={
        "model": Param(
            "gemini-3.5-flash-lite",
            type="string",
            pattern=r"^\S+$",
            title="Model",
            examples=["gemini-3.5-flash-lite", "gemini-3.8-flash", "gemini-4-argon"],
        ),
        "rows": Param(
            ["Why is the sky blue?", "Pourquoi le ciel est-il bleu ?"],
            type="array",
            items={"type": "string"},
            minItems=1,
            contains={"pattern": r"\S"},
            title="Questions",
            description_md="One question a line.",
        ),
        "max_output_tokens": Param(
            1024,
            type="integer",
            minimum=1,
            maximum=65536,
            title="Longest answer, in tokens",
            description_md="A thousand answers of 1,024 tokens cost at most about 1.30 USD with Gemini 3.5 Flash-Lite.",
        ),
        "system_instruction": Param(
            "Answer in one short paragraph.", type=["null", "string"], format="multiline", title="System instruction"
        ),
    },
):

    @task
    def questions(params: dict[str, Any] | None = None) -> list[dict[str, str]]:
        """Make a row of each question."""
        return [{"prompt": text} for text in (params or {}).get("rows", []) if text.strip()]

    ask = CreateBatchOperator(
        task_id="ask",
        model="{{ params.model }}",
        inlined_requests=questions(),
        generation_config={"maxOutputTokens": "{{ params.max_output_tokens }}"},
        system_instruction="{{ params.system_instruction }}",
        wait_for_completion=True,
        deferrable=True,
    )

    answers = DownloadResultsOperator(
        task_id="answers",
        job_name=ask.output,
        output_path=f"{FOLDER}/{{{{ dag.dag_id }}}}/{{{{ run_id }}}}/answers.jsonl",
    )

    @task
    def read_out(manifest: dict[str, Any]) -> None:
        """Put the answers into the log."""
        with open(manifest["output_path"], encoding="utf-8") as file:
            for line in file:
                answer = json.loads(line)
                logging.getLogger(__name__).info("%s: %s", answer["key"], answer["text"] or answer["error"])

    read_out(answers.output)
