# SPDX-License-Identifier: Apache-2.0
"""Operators for Gemini batch jobs."""

from __future__ import annotations

from airflow_provider_gemini_batch.operators.cleanup import (
    CancelBatchOperator,
    CleanUpBatchesOperator,
    DeleteBatchOperator,
    DeleteFileOperator,
)
from airflow_provider_gemini_batch.operators.create import CreateBatchOperator, CreateEmbeddingBatchOperator
from airflow_provider_gemini_batch.operators.download import DownloadResultsOperator
from airflow_provider_gemini_batch.operators.jobs import GetBatchOperator, ListBatchesOperator
from airflow_provider_gemini_batch.operators.run_batch import RunBatchOperator, RunEmbeddingBatchOperator
from airflow_provider_gemini_batch.operators.upload import UploadFileOperator

__all__ = [
    "CancelBatchOperator",
    "CleanUpBatchesOperator",
    "CreateBatchOperator",
    "CreateEmbeddingBatchOperator",
    "DeleteBatchOperator",
    "DeleteFileOperator",
    "DownloadResultsOperator",
    "GetBatchOperator",
    "ListBatchesOperator",
    "RunBatchOperator",
    "RunEmbeddingBatchOperator",
    "UploadFileOperator",
]
