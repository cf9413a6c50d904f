# SPDX-License-Identifier: Apache-2.0
"""Names of our operators, as Airflow shows and stores them."""

from __future__ import annotations

OPERATORS = (
    "CreateBatchOperator",
    "CreateEmbeddingBatchOperator",
    "DownloadResultsOperator",
    "RunBatchOperator",
    "RunEmbeddingBatchOperator",
    "BatchJobSensor",
    "@task.gemini_batch",
    "@task.gemini_embedding_batch",
)
"""Names, as Airflow shows them, of the operators whose tasks get the tab."""

CLASSES = (*OPERATORS, "_DecoratedRunBatch", "_DecoratedRunEmbeddingBatch")
"""The same and the classes behind the decorators."""
