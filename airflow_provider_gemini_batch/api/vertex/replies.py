# SPDX-License-Identifier: Apache-2.0
"""What Vertex AI's description of a batch prediction job means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.models import BatchJob, BatchStats, JobOutput
from airflow_provider_gemini_batch.api.replies import error_info, whole_number
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.api.vertex.advice import explain_job
from airflow_provider_gemini_batch.errors import ReplyFormatError

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.wire import HttpReply

BIGQUERY_SOURCE = re.compile(r"bq://[^./\s]+(?:\.[^./:\s]+:[^./\s]+)?\.[^./\s]+\.[^./\s]+")


def read_batch_job(body: Any, reply: HttpReply) -> BatchJob:
    """
    Read a job.

    :raises ReplyFormatError: If it is none.
    """
    if not isinstance(body, Mapping) or not isinstance(body.get("name"), str):
        raise ReplyFormatError("Vertex AI answered without a job.", excerpt=reply.excerpt())
    state_text = str(body.get("state") or "")
    failures = (error_info(item) for item in body.get("partialFailures") or ())
    job = BatchJob(
        name=body["name"],
        display_name=str(body.get("displayName") or ""),
        model=str(body.get("model") or ""),
        state=JobState.from_wire(state_text),
        stats=_stats(body.get("completionStats")),
        error=error_info(body.get("error")),
        create_time=body.get("createTime") or None,
        start_time=body.get("startTime") or None,
        end_time=body.get("endTime") or None,
        update_time=body.get("updateTime") or None,
        output=_output(body),
        labels={str(key): str(value) for key, value in (body.get("labels") or {}).items()},
        backend="vertex_ai",
        input_place=_input_place(body.get("inputConfig") or {}),
        state_text=state_text,
        partial_failures=tuple(item for item in failures if item is not None),
        answers_every_row=False,
    )
    # The service tells when a job began to run; one without that time ended in the queue.
    if job.state in (JobState.CANCELLED, JobState.EXPIRED) and job.start_time is None:
        job = replace(job, never_ran=True)
    return replace(job, advice=explain_job(job))


def _stats(stats: Any) -> BatchStats:
    """Absent statistics are unknown; in those that are there an absent member is zero, and -1 is unknown."""
    if not isinstance(stats, Mapping) or not stats:
        return BatchStats()

    def count(name: str) -> int | None:
        value = whole_number(stats.get(name, 0))
        return value if value is not None and value >= 0 else None

    succeeded, failed, pending = count("successfulCount"), count("failedCount"), count("incompleteCount")
    total = None if None in (succeeded, failed, pending) else (succeeded or 0) + (failed or 0) + (pending or 0)
    return BatchStats(total, succeeded, failed, pending)


def _output(body: Mapping[str, Any]) -> JobOutput | None:
    """Where the answers really lie; what was asked for is a prefix only, save for a table named in full."""
    info = body.get("outputInfo") or {}
    if info.get("gcsOutputDirectory"):
        return JobOutput("gcs", str(info["gcsOutputDirectory"]).rstrip("/"))
    asked = str(((body.get("outputConfig") or {}).get("bigqueryDestination") or {}).get("outputUri") or "")
    if info.get("bigqueryOutputDataset"):
        dataset = str(info["bigqueryOutputDataset"])
        dataset = dataset if dataset.startswith("bq://") else f"bq://{dataset}"
        table = str(info.get("bigqueryOutputTable") or "").rpartition(".")[2]
        if table:
            return JobOutput("bigquery", f"{dataset}.{table}")
    # The table asked for is the table written only where it was named in full; otherwise the service makes up a name
    # below the dataset.
    if BIGQUERY_SOURCE.fullmatch(asked) and JobState.from_wire(body.get("state")).has_results:
        return JobOutput("bigquery", asked)
    return None


def _input_place(config: Mapping[str, Any]) -> str | None:
    uris = (config.get("gcsSource") or {}).get("uris")
    if uris:
        return str(uris if isinstance(uris, str) else uris[0])
    return (config.get("bigquerySource") or {}).get("inputUri") or None
