# SPDX-License-Identifier: Apache-2.0
"""What a row's template may see of a task's context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.run.prompts import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping


def template_variables(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables for a row's template; those that a context lacks are left out."""
    found = {}
    for name in VARIABLES:
        value = _get(context, name)
        if value is not None:
            found[name] = value
    return found


def occasion_of(context: Mapping[str, Any]) -> str:
    """
    Tell a clear from a retry: Airflow raises ``max_tries`` when a task is cleared, and leaves it for a retry.

    A run that has ended goes on as it ended on a retry, and is begun anew after a clear.
    """
    ti = context.get("ti") or context.get("task_instance")
    return str(getattr(ti, "max_tries", "") if ti is not None else "")


def _get(context: Mapping[str, Any], name: str) -> Any:
    if name not in context:
        return None
    try:
        return context[name]
    except (KeyError, RuntimeError):  # names that Airflow deprecates, or makes when they are asked for
        return None
