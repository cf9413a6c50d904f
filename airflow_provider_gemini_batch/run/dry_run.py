# SPDX-License-Identifier: Apache-2.0
"""What would a run ask, and what may that cost at most? Answered without asking."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.files.folder import Folder
from airflow_provider_gemini_batch.run import plan
from airflow_provider_gemini_batch.run.budget import Caps, measure_of
from airflow_provider_gemini_batch.run.driver import Run
from airflow_provider_gemini_batch.run.snapshot import Snapshot
from airflow_provider_gemini_batch.run.tables import require_extra

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.run.context import RunContext
    from airflow_provider_gemini_batch.run.spec import RunSpec

log = logging.getLogger(__name__)


def plan_of(spec: RunSpec, context: RunContext) -> dict[str, Any]:
    """
    Return what would be asked: rows, jobs, and what they may cost at most. Nothing is changed, here or at Google.

    Where a cap lets the run ask nothing, ``refused`` says why; where it may leave some rows out, ``over_cap`` does.

    What is read stays in a folder of its own, so that a run that follows reads the input anew.
    """
    require_extra()
    with tempfile.TemporaryDirectory(prefix="gemini-batch-plan-") as place:
        world = replace(context, checkpoint=Folder(place), history=context.checkpoint, is_trial=True, left=None)
        trial = Run(spec, world)
        # The very steps of a run, so that a plan cannot differ from what a run would ask; only the folder is another
        # one.
        trial.carry_out(plan.TakeSnapshot())
        trial.carry_out(plan.CutRound(1))
        snapshot, (header,) = Snapshot.read(trial.checkpoint.snapshot or {}), trial.checkpoint.rounds()
        shards = header["shards"]
        rows = sum(shard["rows"] for shard in shards)
        size = sum(shard["bytes"] for shard in shards)
        caps = Caps(spec, world, trial.checkpoint, trial.reader.job)
        foreseen = caps.foresee(trial.jobs.listed, rows, size, has_media=snapshot.has_media)
    if foreseen.refused:
        log.warning("The run would be refused: %s", foreseen.refused)
    elif foreseen.over_cap:
        log.warning("The cap may not allow all rows: %s", foreseen.over_cap)
    measure = measure_of(spec, rows, size, snapshot.counted, has_media=snapshot.has_media)
    found = context.prices.before(spec.kind, spec.model, measure)
    dollars = None if found is None else found.dollars
    reused = snapshot.reused
    return {
        "total": snapshot.rows,
        "input_rows": snapshot.total_rows,
        "rows_to_ask": rows,
        "rows_reused": reused,
        "rows_duplicate": snapshot.rows - rows - reused - snapshot.unsent,
        "rows_unsent": snapshot.unsent,
        "jobs": len(shards),
        "waves": -(-len(shards) // spec.max_jobs),
        "input_bytes": size,
        "cost_at_most": None if dollars is None else dollars.high,
        "refused": foreseen.refused,
        "over_cap": foreseen.over_cap,
        "estimate": None if found is None else found.to_json(),
    }
