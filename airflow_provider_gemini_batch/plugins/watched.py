# SPDX-License-Identifier: Apache-2.0
"""What a stored trigger of ours watches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

TRIGGERS = "airflow_provider_gemini_batch.triggers."
"""How the class paths of our triggers begin."""


def job_names_in(arguments: Mapping[str, Any]) -> list[str]:
    """Return the jobs that a stored trigger watches: one, or those of a run; none for a trigger that only pauses."""
    given = arguments.get("job_names") or [arguments.get("job_name")]
    return [name for name in given if isinstance(name, str) and name]
