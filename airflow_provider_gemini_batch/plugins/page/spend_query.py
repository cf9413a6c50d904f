# SPDX-License-Identifier: Apache-2.0
"""What tasks cost, from the manifests in Airflow's database: one query over one XCom key and a range of time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.cost.spend import parts_of, sum_parts
from airflow_provider_gemini_batch.plugins.page.task_facts import stored
from airflow_provider_gemini_batch.task.xcom_keys import MANIFEST_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sqlalchemy.orm import Session

MAX_MANIFESTS = 200_000


def entries(session: Session, days: int) -> Iterator[dict[str, Any]]:
    """
    Yield what tasks left in the last *days*, as the history does: ``dag_id``, ``ended_at``, ``manifest`` and so on.

    Manifests without a cost (a job that was only submitted, a plan) are passed over.
    """
    since = datetime.now(UTC) - timedelta(days=days)
    for row, manifest in stored(session, [MANIFEST_KEY], since, limit=MAX_MANIFESTS):
        # Each landing tells its cost once. A job that was only submitted has cost nothing that anybody has seen yet.
        if isinstance(manifest, dict) and ("cost" in manifest or "costs" in manifest):
            yield {
                "dag_id": row.dag_id,
                "task_id": row.task_id,
                "run_id": row.run_id,
                "ended_at": row.timestamp.isoformat(timespec="seconds"),
                "manifest": manifest,
            }


def parts(
    found: Iterable[Mapping[str, Any]], readable: Callable[[Iterable[str]], set[str]]
) -> tuple[list[dict[str, Any]], int]:
    """
    Split entries by model version, and leave out those of DAGs that may not be read.

    :return: Parts with ``day``, ``dag``, ``task``, ``model``, ``rows``, tokens, ``cost`` and ``unknown``; and how many
        entries were left out.
    """
    # Figures alone are kept: a manifest is some kilobytes.
    flat = [(str(entry["dag_id"]), parts_of(entry)) for entry in found]
    allowed = readable({dag_id for dag_id, _ in flat})
    kept = [part for dag_id, pieces in flat if dag_id in allowed for part in pieces]
    return kept, sum(dag_id not in allowed for dag_id, _ in flat)


def summed(found: Iterable[Mapping[str, Any]], by: str) -> list[dict[str, Any]]:
    """Sum parts up by one of ``day``, ``dag``, ``task`` and ``model``, which is their ``name`` then."""
    return [{**row, "name": row[by]} for row in sum_parts(found, [by])]
