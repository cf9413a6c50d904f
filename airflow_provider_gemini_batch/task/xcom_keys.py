# SPDX-License-Identifier: Apache-2.0
"""The XCom keys under which our tasks leave things for people and for the page."""

from __future__ import annotations

MANIFEST_KEY = "gemini_batch_manifest"
"""XCom key under which every operator with a manifest leaves it."""

PROGRESS_KEY = "gemini_batch_progress"
"""XCom key under which a run leaves how far it is (:mod:`~airflow_provider_gemini_batch.run.progress`)."""

ESTIMATE_KEY = "gemini_batch_estimate"
"""XCom key under which a create operator, or a run, leaves what its jobs may cost."""

OUR_KEYS = (MANIFEST_KEY, PROGRESS_KEY, ESTIMATE_KEY, "job_name", "submission_token", "paid_twice")
"""What the page reads of a task."""
