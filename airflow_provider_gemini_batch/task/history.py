# SPDX-License-Identifier: Apache-2.0
"""What finished tasks leave for the ``spend`` command and the page: one small file each below ``history_path``."""

# Airflow's XCom holds the same manifests until `airflow db clean`; files outlive it. They hold counts, places and cost,
# but no rows. A file is named by its task instance, pass of a loop and try, so that writing it twice changes nothing.

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.task.identity import loop_index

log = logging.getLogger(__name__)

LANDED_AGAIN_WITHIN = 31
"""Days within which a task may land answers again; the Developer API keeps them for two."""


def history_path() -> str:
    """Return ``[gemini_batch] history_path``; empty if none is set."""
    from airflow_provider_gemini_batch.compat import conf

    return str(conf.get("gemini_batch", "history_path", fallback="") or "")


def leave_in_history(context: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """
    Write a task's manifest below ``history_path``, if one is set; a failure is logged and nothing more.

    :param context: Airflow's task context.
    """
    place = history_path()
    ti = context.get("ti") or context.get("task_instance")
    if not place or ti is None:
        return
    ended = datetime.now(UTC)
    entry = {
        "dag_id": ti.dag_id,
        "task_id": ti.task_id,
        "run_id": ti.run_id,
        "map_index": getattr(ti, "map_index", -1),
        "try_number": getattr(ti, "try_number", 1),
        "ended_at": ended.isoformat(timespec="seconds"),
        "manifest": dict(manifest),
    }
    known = [str(entry[name]) for name in ("dag_id", "task_id", "run_id", "map_index", "try_number")]
    if (index := loop_index(context)) is not None:
        entry["loop_index"] = index
        known.append(f"pass {index}")
    name = hashlib.sha256("\0".join(known).encode()).hexdigest()[:24]
    try:
        from airflow_provider_gemini_batch.files.folder import Folder

        # A folder for each day, so that a query over a month lists thirty folders and not all that ever ran.
        Folder(f"{place.rstrip('/')}/{ended:%Y-%m-%d}").create(f"{name}.json", json.dumps(entry).encode())
    except Exception as error:  # the task's work is done, whatever becomes of its history
        log.warning("The manifest could not be written below history_path: %s: %s", type(error).__name__, error)


def read_history(place: str = "", *, since: str = "") -> Iterator[dict[str, Any]]:
    """
    Yield what finished tasks left, day by day; of a task that landed the answers of one job again, the first time.

    :param place: Folder; default ``history_path``.
    :param since: First day, like ``2026-11-01``. Answers that landed in the month before it count there.
    :raises ConfigurationError: If no folder is known.
    """
    from airflow_provider_gemini_batch.files.folder import Folder

    place = place or history_path()
    if not place:
        raise ConfigurationError("No history is kept: set [gemini_batch] history_path, or name a folder.")
    top, landings = Folder(place), set[tuple[str, ...]]()
    begins = _days_before(since, LANDED_AGAIN_WITHIN) if since else ""
    for day in sorted(top.folders()):
        if day < begins:
            continue
        below = top.below(day)
        for name in sorted(below.names()):
            content = below.read(name)
            try:
                entry = json.loads(content or b"")
            except ValueError:
                log.warning("%s is no manifest; it is left out.", below.path(name))
                continue
            if isinstance(entry, dict) and (landing := _landing_of(entry, name)) not in landings:
                landings.add(landing)
                if day >= since:
                    yield entry


def _days_before(day: str, days: int) -> str:
    try:
        return (date.fromisoformat(day) - timedelta(days=days)).isoformat()
    except ValueError:  # part of a date, such as a month, sorts like one
        return ""


def _landing_of(entry: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """
    Return what an entry is of.

    A retry or a clear of a download reads the same job once more and pays nothing. So does a retry of a run that has
    ended, which returns the same generation's manifest; a clear begins the next generation.
    """
    manifest = entry.get("manifest")
    manifest = manifest if isinstance(manifest, Mapping) else {}
    parts = [str(entry.get(part)) for part in ("dag_id", "task_id", "run_id", "map_index", "loop_index")]
    if job_name := manifest.get("job_name"):
        return (*parts, str(job_name))
    if generation := manifest.get("generation"):
        # Where the checkpoint is gone, a clear counts from 1 again, and its jobs are others.
        return (*parts, f"generation {generation}", json.dumps(manifest.get("jobs")))
    return (name,)
