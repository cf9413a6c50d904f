# SPDX-License-Identifier: Apache-2.0
"""Triggers."""

from __future__ import annotations

from airflow_provider_gemini_batch.triggers.batch_job import BatchJobTrigger

__all__ = ["BatchJobTrigger"]
