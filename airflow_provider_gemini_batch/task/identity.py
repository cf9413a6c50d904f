# SPDX-License-Identifier: Apache-2.0
"""Which piece of work a task instance stands for: the same on every attempt at it, on every Airflow version."""

from __future__ import annotations

import logging
import re
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.identity import FormerTask, TaskIdentity, make_task_id
from airflow_provider_gemini_batch.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_gemini_batch.lifecycle.submission import SubmitPolicy

log = logging.getLogger(__name__)

MAPPED = 1024
"""So many indexes of a mapped task are known by name; Airflow's own limit, unless it is configured otherwise."""

LOOKBACK = 14 * 24 * 3600.0
"""Seconds before now beyond which a job of an old run is no longer looked for."""

SETTLE_SECONDS = 45.0
LEAST_SETTLE_SECONDS = 15.0


def task_identity(context: Mapping[str, Any], salt: str = "", noted: Mapping[str, Any] | None = None) -> TaskIdentity:
    """
    Name the piece of work a context stands for.

    Without a task instance (an operator called by hand) each call is its own piece of work. A change of identity is
    logged here, before anything is submitted.

    :param noted: What earlier attempts noted, from the task state store.
    :raises SubmitError: If it cannot be told which Airflow this is.
    """
    now = time.time()
    ti = context.get("ti") or context.get("task_instance")
    if ti is None:
        return TaskIdentity(uuid.uuid4().hex[:16], now - 60)
    from airflow_provider_gemini_batch.compat import conf
    from airflow_provider_gemini_batch.task.installation import database_address, desk_here, installation

    namespace = str(conf.get("gemini_batch", "namespace", fallback="") or "")
    here = installation(namespace, desk_here(), fallback=database_address(conf))
    if here.change:
        log.warning("%s", here.change)
    map_index = getattr(ti, "map_index", -1)
    map_index = map_index if isinstance(map_index, int) else -1

    def name(installation_name: str, index: int) -> str:
        where = (str(ti.dag_id), str(ti.run_id), str(ti.task_id), index)
        return make_task_id(installation_name, *where, str(salt or ""), loop_index(context))

    # Not the try number: a retry is the same piece of work, and has to find the job of the attempt before it.
    task = name(here.name, map_index)
    earlier = getattr(ti, "try_number", 1)
    earlier = earlier - 1 if isinstance(earlier, int) else 0
    former = [FormerTask(name(former_name, map_index), until) for former_name, until in here.former]
    former += _noted_task(noted or {}, task)
    if earlier and former:
        log.info("Jobs of earlier attempts are looked for under this task's former identity, too.")
    indexes: frozenset[str] = frozenset()
    # A mapped list changes only where somebody cleared what makes it; an index is new then, though its rows are not.
    was_cleared = map_index >= 0 and _was_cleared(context)
    if map_index >= 0 and (earlier or was_cleared):
        # Hashes cannot be read backwards, so that the names of all indexes are made in advance to recognise a job of
        # one.
        indexes = frozenset(name(here.name, index) for index in range(max(MAPPED, 2 * map_index))) - {task}
    return TaskIdentity(
        task,
        _since(context, now),
        may_have_rivals=earlier > 0,
        former=tuple(former),
        indexes=indexes,
        earlier_attempts=earlier,
        may_be_reordered=was_cleared,
    )


def _noted_task(noted: Mapping[str, Any], task: str) -> list[FormerTask]:
    """Return the identity under which an earlier attempt noted an intent, if it is another one."""
    before = str(noted.get("intent") or "").partition(".")[0]
    if not re.fullmatch("[0-9a-f]{16}", before) or before == task:
        return []
    log.warning(
        "This task's identity has changed since its last attempt (from %s to %s): its job is looked for under both.",
        before,
        task,
    )
    return [FormerTask(before)]


def loop_index(context: Mapping[str, Any]) -> int | None:
    """Return which pass of a task loop this is (Airflow 3.4); its passes share all other names."""
    index = getattr(context.get("loop"), "index", None)
    return index if isinstance(index, int) and not isinstance(index, bool) else None


def _was_cleared(context: Mapping[str, Any]) -> bool:
    """Whether any task of this DAG run was cleared; Airflow counts it in the run."""
    number = getattr(context.get("dag_run"), "clear_number", None)
    return isinstance(number, int) and number > 0


def _since(context: Mapping[str, Any], now: float) -> float:
    run = context.get("dag_run")
    moments = [getattr(run, name, None) for name in ("run_after", "logical_date", "execution_date", "start_date")]
    times = [moment.timestamp() for moment in moments if moment is not None and hasattr(moment, "timestamp")]
    # The earliest of them: a run's jobs cannot be older, and a list is read no further back.
    known = [moment for moment in times if isinstance(moment, float)]
    return max(min(known), now - LOOKBACK) if known else now - LOOKBACK


def submit_policy() -> SubmitPolicy:
    """Return how patiently a submission is settled, stretched as ``[gemini_batch] settle_seconds`` says."""
    from airflow_provider_gemini_batch.compat import conf
    from airflow_provider_gemini_batch.lifecycle.submission import SubmitPolicy

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
