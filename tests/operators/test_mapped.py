# SPDX-License-Identifier: Apache-2.0
"""Arguments that come from other tasks: whoever is told of them waits for these tasks."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from airflow_provider_gemini_batch.compat import DAG, task
from airflow_provider_gemini_batch.operators import CreateEmbeddingBatchOperator, UploadFileOperator


class OwnOperator(CreateEmbeddingBatchOperator):
    template_fields = (*CreateEmbeddingBatchOperator.template_fields, "own")
    own = ""


EMBED = {"model": "gemini-embedding-001", "inlined_requests": [{"text": "a"}]}
OPERATORS = [
    (CreateEmbeddingBatchOperator, EMBED, "display_name"),
    (OwnOperator, EMBED, "display_name"),
    (UploadFileOperator, {"input_path": "in.jsonl", "kind": "embed"}, "title"),
]


@pytest.mark.parametrize("how", ["plain", "partial", "expand", "set"])
@pytest.mark.parametrize(("operator", "arguments", "other"), OPERATORS)
def test_a_task_type_from_another_task_is_waited_for(
    operator: Any, arguments: dict[str, Any], other: str, how: str
) -> None:
    with DAG("given", schedule=None, start_date=datetime(2026, 1, 1)):

        @task
        def say() -> str:
            return "RETRIEVAL_DOCUMENT"

        if how == "plain":
            found = operator(task_id="t", task_type=say(), **arguments)
        elif how == "partial":
            found = operator.partial(task_id="t", task_type=say(), **arguments).expand(**{other: ["a", "b"]})
        elif how == "expand":
            found = operator.partial(task_id="t", **arguments).expand(task_type=say())
        else:
            found = operator(task_id="t", **arguments)
            found.embed_task_type = say()
    assert found.upstream_task_ids == {"say"}
    assert "task_type" not in list(found.template_fields)
    assert found.task_type == operator.__name__
