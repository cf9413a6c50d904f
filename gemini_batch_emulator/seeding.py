# SPDX-License-Identifier: Apache-2.0
"""Jobs that were there before, and jobs that end now: what tests begin with and go on from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gemini_batch_emulator import models
from gemini_batch_emulator.developer.creation import seed_job as seed_developer_job
from gemini_batch_emulator.errors import ControlError, build
from gemini_batch_emulator.rows import SyntheticRows
from gemini_batch_emulator.scripts import MATCH_FIELDS, Ending, JobScript, job_matches
from gemini_batch_emulator.vertex.outputs import SeededRun

if TYPE_CHECKING:
    from gemini_batch_emulator.jobs import Job
    from gemini_batch_emulator.state import EmulatorState

SEEDED_SPREAD = 1.0
"""Seeded jobs look as if they had been created this many seconds apart."""


def seed_jobs(
    emulated: EmulatorState,
    /,
    *,
    count: int = 1,
    backend: str = "gemini",
    kind: str = "generate",
    state: str = "SUCCEEDED",
    rows: int = 1,
    model: str = "",
    display_name: str = "seeded-{n}",
    labels: dict[str, str] | None = None,
    project: str = "emulated-project",
    location: str = "us-central1",
    script: dict[str, Any] | None = None,
) -> list[str]:
    """
    Make jobs that seem to have been there before.

    :param state: ``PENDING`` or ``RUNNING`` jobs stay so until a script says otherwise; any other word is the end.
    :param display_name: ``{n}`` is replaced by a number from 0.
    :return: Their names, oldest first.
    """
    if backend not in ("gemini", "vertex_ai"):
        raise ControlError(f"There is no backend {backend!r}; there is gemini and vertex_ai.")
    # The end is reached at the first look, without a second passing: thousands of ended jobs cost no time.
    behaviour: dict[str, Any] = {"mode": "at_once"}
    if state in ("PENDING", "RUNNING"):
        behaviour = {"mode": "time", "pending_seconds": 0.0, "stuck": state}
    elif state != "SUCCEEDED":
        behaviour["end"] = {"state": state}
    prepared = JobScript().changed({**behaviour, **(script or {})})
    names = []
    for number in range(count):
        common: dict[str, Any] = {
            "kind": kind,
            "display_name": display_name.replace("{n}", str(number)),
            "source": SyntheticRows(rows),
            "labels": labels,
            "script": prepared,
        }
        if backend == "gemini":
            job = seed_developer_job(emulated, model=model or f"models/{models.DEFAULT}", **common)
        else:
            scope = f"projects/{project}/locations/{location}"
            job = _seed_vertex_job(emulated, number, scope, model, common)
        # A job that is to be ended seems to have been created some time ago: list benchmarks ask by time.
        job.created -= SEEDED_SPREAD * (count - number)
        names.append(job.name)
    return names


def _seed_vertex_job(emulated: EmulatorState, number: int, scope: str, model: str, common: dict[str, Any]) -> Job:
    where = f"gs://emulator/seeded/{number}"
    resource = {
        "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [where + "/in.jsonl"]}},
        "outputConfig": {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": where}},
    }
    return emulated.create_job(
        name=f"{scope}/batchPredictionJobs/{emulated.new_id(19, '123456789')}",
        backend="vertex_ai",
        model=model or f"publishers/google/models/{models.DEFAULT}",
        scope=scope,
        resource=resource,
        handler=SeededRun(emulated),
        **common,
    )


def finish_jobs(
    state: EmulatorState, /, *, match: dict[str, str] | None = None, count: int | None = None, **ending: Any
) -> int:
    """End the matching jobs that have not ended, oldest first and at most *count*; return how many."""
    how = build(Ending, ending)
    match = match or {}
    # For its errors: a pattern that cannot be read is told although no job is there.
    job_matches(match, dict.fromkeys(MATCH_FIELDS, ""))
    finished = 0
    # A copy: a job that ends may start another step of the state.
    for job in list(state.all_jobs):
        if job.is_ended or job.deleted:
            continue
        facts = {name: str(getattr(job, name)) for name in MATCH_FIELDS}
        if not job_matches(match, facts):
            continue
        state.finish_job(job, how)
        finished += 1
        if count is not None and finished >= count:
            break
    return finished
