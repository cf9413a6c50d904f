# SPDX-License-Identifier: Apache-2.0
"""What entries of the emulator's ledger say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_gemini_batch.api.states import JobState


def is_live(job: Mapping[str, Any]) -> bool:
    """Whether a job can still run and bill."""
    return not job["deleted"] and not JobState.from_wire(job["state"]).is_terminal
