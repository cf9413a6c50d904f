# SPDX-License-Identifier: Apache-2.0
"""The XCom keys that the page reads."""

from __future__ import annotations

from airflow_provider_gemini_batch.operators.base import MANIFEST_KEY, PROGRESS_KEY

OUR_KEYS = (MANIFEST_KEY, PROGRESS_KEY, "job_name", "submission_token", "paid_twice")
"""What tasks of ours leave."""

__all__ = ["MANIFEST_KEY", "OUR_KEYS", "PROGRESS_KEY"]
