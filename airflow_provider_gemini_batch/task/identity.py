# SPDX-License-Identifier: Apache-2.0
"""Which piece of work a task instance stands for: the same on every attempt at it, on every Airflow version."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_gemini_batch.lifecycle.submit import SubmitPolicy

LOOKBACK = 14 * 24 * 3600.0
"""Seconds before now beyond which a job of an old run is no longer looked for."""

SETTLE_SECONDS = 45.0
LEAST_SETTLE_SECONDS = 15.0


@dataclass(frozen=True)
class TaskIdentity:
    """
    The task instance as a piece of work that is paid for once.

    :param task: 16 hex digits, the same on every attempt.
    :param since: UTC epoch seconds before which no job of it can have been made.
    :param may_have_rivals: Whether another attempt may exist or have existed.
    """

    task: str
    since: float
    may_have_rivals: bool


def task_identity(context: Mapping[str, Any], salt: str = "") -> TaskIdentity:
    """
    Name the piece of work a context stands for.

    Without a task instance (an operator called by hand) each call is its own piece of work.
    """
    now = time.time()
    ti = context.get("ti") or context.get("task_instance")
    if ti is None:
        return TaskIdentity(uuid.uuid4().hex[:16], now - 60, may_have_rivals=False)
    from airflow_provider_gemini_batch.api.identity import make_task_id
    from airflow_provider_gemini_batch.compat import conf

    namespace = conf.get("gemini_batch", "namespace", fallback="") or ""
    map_index = getattr(ti, "map_index", -1)
    task = make_task_id(
        str(namespace),
        str(ti.dag_id),
        str(ti.run_id),
        str(ti.task_id),
        map_index if isinstance(map_index, int) else -1,
        str(salt or ""),
    )
    run = context.get("dag_run")
    moments = [getattr(run, name, None) for name in ("run_after", "logical_date", "execution_date", "start_date")]
    times = [moment.timestamp() for moment in moments if moment is not None and hasattr(moment, "timestamp")]
    known = [moment for moment in times if isinstance(moment, float)]
    since = max(min(known), now - LOOKBACK) if known else now - LOOKBACK
    try_number = getattr(ti, "try_number", 1)
    return TaskIdentity(task, since, may_have_rivals=isinstance(try_number, int) and try_number > 1)


def submit_policy() -> SubmitPolicy:
    """Return how patiently a submission is settled, stretched as ``[gemini_batch] settle_seconds`` says."""
    from airflow_provider_gemini_batch.compat import conf
    from airflow_provider_gemini_batch.lifecycle.submit import SubmitPolicy

    usual = SubmitPolicy()
    factor = _settle_seconds(conf) / SETTLE_SECONDS
    return replace(
        usual,
        reconcile=tuple(pause * factor for pause in usual.reconcile),
        rivals=tuple(pause * factor for pause in usual.rivals),
        in_flight=usual.in_flight * factor,
    )


def _settle_seconds(conf: Any) -> float:
    text = conf.get("gemini_batch", "settle_seconds", fallback=None)
    try:
        number = SETTLE_SECONDS if text is None else float(text)
    except ValueError:
        number = 0.0
    if not LEAST_SETTLE_SECONDS <= number <= 3600:
        raise ConfigurationError(
            f"[gemini_batch] settle_seconds must be {LEAST_SETTLE_SECONDS:g} to 3600 seconds, not {text!r}: a job "
            "whose answer was lost shows up in the list some seconds later, and would be paid for twice."
        )
    return number
