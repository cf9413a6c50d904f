# SPDX-License-Identifier: Apache-2.0
"""Metrics ``gemini_batch.*``, sent where Airflow sends its own."""

#   name                                    kind     counts
#   --------------------------------------  -------  -----------------------------------------------------
#   `gemini_batch.jobs.<state>`             counter  jobs whose end a task has seen, e.g. `jobs.succeeded`
#   `gemini_batch.wait`                     timer    from a job's creation to its end
#   `gemini_batch.rows.<outcome>`           counter  landed rows: `succeeded`, `failed`, `blocked`, ...
#   `gemini_batch.tokens.input`, `.output`  counter  tokens of landed answers; thinking is output
#   `gemini_batch.cost_microdollars`        counter  millionths of a dollar, as far as the price is known
#
# Outcomes are part of the names, as plain StatsD drops tags; `dag_id`, `task_id` and `model` are tags.

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob

_OUTCOMES = ("succeeded", "failed", "blocked", "missing", "invalid")


def count_job(job: BatchJob, tags: Mapping[str, str]) -> None:
    """Count a job that has ended, and how long it took."""
    from airflow_provider_gemini_batch.compat import Stats
    from airflow_provider_gemini_batch.times import epoch

    told = {**tags, "model": job.model.rpartition("/")[2]}
    Stats.incr(f"gemini_batch.jobs.{job.state.value.lower()}", tags=told)
    begin, end = epoch(job.create_time), epoch(job.end_time or job.update_time)
    if begin is not None and end is not None and end >= begin:
        Stats.timing("gemini_batch.wait", timedelta(seconds=end - begin), tags=told)


def count_landed(manifest: Mapping[str, Any], tags: Mapping[str, str]) -> None:
    """
    Count the rows, tokens and dollars of a landing.

    :param manifest: Of a download or a run.
    """
    from airflow_provider_gemini_batch.compat import Stats
    from airflow_provider_gemini_batch.cost.spend import parts_of

    counts = manifest.get("counts")
    counts = counts if isinstance(counts, Mapping) else manifest
    for outcome in _OUTCOMES:
        if count := int(counts.get(outcome) or 0):
            Stats.incr(f"gemini_batch.rows.{outcome}", count, tags=dict(tags))
    for part in parts_of({"manifest": manifest}):
        told = {**tags, "model": str(part["model"])}
        for name, count in (
            ("tokens.input", part["input_tokens"]),
            ("tokens.output", part["output_tokens"]),
            ("cost_microdollars", part["cost"] * 1e6),
        ):
            if round(count):
                Stats.incr(f"gemini_batch.{name}", round(count), tags=told)


def tags_of(ti: Any) -> dict[str, str]:
    """Return the tags by which a task's metrics are told apart."""
    return {"dag_id": str(getattr(ti, "dag_id", "")), "task_id": str(getattr(ti, "task_id", ""))}
