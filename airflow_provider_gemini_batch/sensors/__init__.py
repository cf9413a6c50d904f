# SPDX-License-Identifier: Apache-2.0
"""Sensors for Gemini batch jobs."""

from __future__ import annotations

from airflow_provider_gemini_batch.sensors.batch_job import BatchJobSensor

__all__ = ["BatchJobSensor"]
