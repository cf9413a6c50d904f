# SPDX-License-Identifier: Apache-2.0
"""Batch prediction jobs as the wire shows them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gemini_batch_emulator import states
from gemini_batch_emulator.clock import timestamp
from gemini_batch_emulator.rows import SyntheticRows
from gemini_batch_emulator.vertex.creation import ECHOED, camel

if TYPE_CHECKING:
    from gemini_batch_emulator.jobs import Job
    from gemini_batch_emulator.state import EmulatorState


def job_resource(state: EmulatorState, job: Job) -> dict[str, Any]:
    """The job as the service shows it now."""
    config = state.config
    word = job.raw_state
    # Captured on polls of a young job; no create call answers with it.
    if word in ("PENDING",) and 0 < job.reads <= config.vertex_queued_reads:
        word = "QUEUED"
    resource: dict[str, Any] = {"name": job.name, "displayName": job.display_name, "model": job.model}
    resource |= {name: job.resource[name] for name in ECHOED if job.resource.get(name)}
    # Also on some jobs that failed, as documented: a directory says nothing of what is in it.
    if job.output.get("outputInfo") and job.shows_output(state.now()):
        resource["outputInfo"] = job.output["outputInfo"]
    resource["state"] = states.prefixed(word, "JOB_STATE_")
    if job.error is not None and job.raw_state in ("FAILED", "CANCELLED"):
        resource["error"] = job.error
    failures = config.vertex_partial_failures
    if failures is None and job.raw_state == "PARTIALLY_SUCCEEDED":
        failures = [{"code": 13, "message": "Some results could not be exported."}]
    if failures and job.is_ended:
        # At most 20 by the resource's description.
        resource["partialFailures"] = failures[:20]
    stats = completion_stats(state, job)
    if stats is not None:
        resource["completionStats"] = stats
    resource["createTime"] = timestamp(job.created, 6)
    if job.started is not None:
        resource["startTime"] = timestamp(job.started, 6)
    if job.ended is not None:
        resource["endTime"] = timestamp(job.ended, 6)
    resource["updateTime"] = timestamp(job.updated, 6)
    if job.labels:
        resource["labels"] = job.labels
    resource["modelVersionId"] = "1"
    return resource


def completion_stats(state: EmulatorState, job: Job) -> dict[str, str] | None:
    """``completionStats``: int64 strings, zero members omitted, None until the job has run."""
    total = job.source.count
    if job.is_ended:
        if job.started is None or not (job.rows_run or job.succeeded or job.failed):
            return None
        succeeded, failed = job.succeeded, job.failed
        if _is_made_whole(job) and job.raw_state in ("SUCCEEDED", "PARTIALLY_SUCCEEDED"):
            succeeded = job.rows_run
        incomplete = max(0, total - job.rows_run)
    elif job.started is not None and state.config.vertex_running_stats:
        succeeded, failed = int(job.progress(state.now()) * total), 0
        incomplete = total - succeeded
    else:
        return None
    counts = {"successfulCount": succeeded, "failedCount": failed, "incompleteCount": incomplete}
    return {name: str(count) for name, count in counts.items() if count}


def _is_made_whole(job: Job) -> bool:
    """Whether no rows were written one by one, so that none was counted: a seeded job, or one of a scripted result."""
    scripted = job.script.result_file or job.script.result_bytes
    return bool(scripted) or (isinstance(job.source, SyntheticRows) and not (job.succeeded or job.failed))


def masked(resource: dict[str, Any], mask: str) -> dict[str, Any]:
    """Keep what a ``readMask`` names; either spelling, paths too."""
    paths = [[camel(part) for part in path.strip().split(".")] for path in mask.split(",") if path.strip()]
    if not paths or ["*"] in paths:
        return resource
    out: dict[str, Any] = {}
    for path in paths:
        source: Any = resource
        target = out
        for part in path[:-1]:
            source = source.get(part) if isinstance(source, dict) else None
            if isinstance(source, dict):
                target = target.setdefault(part, {})
        if isinstance(source, dict) and path[-1] in source:
            target[path[-1]] = source[path[-1]]
    return out


def facts(job: Job) -> dict[str, Any]:
    """What a list filter can see of a job; times as precise as they are shown."""
    created = datetime.fromtimestamp(job.created, tz=UTC)
    return {
        "display_name": job.display_name,
        "model_display_name": job.model.rpartition("/")[2],
        "state": f"JOB_STATE_{job.raw_state}",
        "create_time": created.timestamp(),
        "labels": job.labels,
    }
