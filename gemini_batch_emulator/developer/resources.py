# SPDX-License-Identifier: Apache-2.0
"""Jobs of the Developer API as the wire shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gemini_batch_emulator import states
from gemini_batch_emulator.clock import timestamp

if TYPE_CHECKING:
    from pathlib import Path

    from gemini_batch_emulator.jobs import Job
    from gemini_batch_emulator.state import EmulatorState

TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main."


def batch_stats(state: EmulatorState, job: Job, *, stale: bool = False) -> dict[str, str]:
    """Return the counters as the service writes them: strings, no zeros."""
    total = job.source.count
    if stale:
        # Captured: a list that still counts rows of a job that has ended as pending.
        counts = {"requestCount": total, "pendingRequestCount": total}
    elif job.is_ended:
        cancelled = job.raw_state == "CANCELLED"
        counts = {
            "requestCount": total,
            "successfulRequestCount": job.succeeded,
            "failedRequestCount": job.failed,
            "pendingRequestCount": max(0, total - job.succeeded - job.failed) if cancelled else 0,
        }
    else:
        done = job.ran_limit if job.ran_limit is not None else int(job.progress(state.now()) * total)
        counts = {"requestCount": total, "successfulRequestCount": done, "pendingRequestCount": total - done}
    # 64-bit numbers are strings in proto JSON, and zeros are left out.
    return {name: str(count) for name, count in counts.items() if count}


def batch_resource(state: EmulatorState, job: Job, *, stale: bool = False) -> dict[str, Any]:
    """Return the batch without its output."""
    kind = "GenerateContentBatch" if job.kind == "generate" else "EmbedContentBatch"
    resource: dict[str, Any] = {"@type": TYPE + kind, "model": job.model}
    if job.display_name:
        resource["displayName"] = job.display_name
    if job.resource.get("fileName"):
        resource["inputConfig"] = {"fileName": job.resource["fileName"]}
    resource["createTime"] = timestamp(job.created)
    if job.is_ended and job.ended is not None:
        resource["endTime"] = timestamp(job.ended)
    resource["updateTime"] = timestamp(job.updated)
    resource["batchStats"] = batch_stats(state, job, stale=stale)
    resource["state"] = states.prefixed(job.raw_state, "BATCH_STATE_")
    resource["name"] = job.name
    if job.priority:
        resource["priority"] = str(job.priority)
    return resource


def job_output(job: Job, *, raw: bool = True) -> dict[str, Any] | None:
    """
    Return the output union of an ended job, None without output.

    :param raw: Leave inline rows as the JSON text that was written.
    """
    if "responsesFile" in job.output:
        return {"responsesFile": job.output["responsesFile"]}
    path: Path | None = job.output.get("path")
    if path is None:
        return None
    text = b"[" + b",".join(path.read_bytes().splitlines()) + b"]"
    return {"inlinedResponses": {"inlinedResponses": msgspec.Raw(text) if raw else msgspec.json.decode(text)}}


def operation(state: EmulatorState, job: Job, *, with_output: bool = True, raw: bool = True) -> dict[str, Any]:
    """Return the job as a long-running operation."""
    metadata = batch_resource(state, job, stale=not with_output and state.config.stale_list_stats)
    answer: dict[str, Any] = {"name": job.name, "metadata": metadata}
    # `done` is absent until the end, never false.
    if not job.is_ended:
        return answer
    answer["done"] = True
    output = job_output(job, raw=raw) if with_output and job.shows_output(state.now()) else None
    if output is not None:
        # The answers stand twice, here and in `response`. A cancelled job may have them here alone.
        metadata["output"] = output
    if job.error is not None:
        answer["error"] = job.error
    elif output is not None:
        kind = "GenerateContentBatchOutput" if job.kind == "generate" else "EmbedContentBatchOutput"
        answer["response"] = {"@type": TYPE + kind, **output}
    return answer
