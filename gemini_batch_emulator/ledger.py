# SPDX-License-Identifier: Apache-2.0
"""The ledger: what was created, what ran, what was billed, and which calls came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gemini_batch_emulator.jobs import Job

TOTALS = ("rows", "billed_rows", "input_tokens", "output_tokens")


@dataclass
class Synchronous:
    """
    What ``generateContent`` did.

    :param shed: Calls that were answered with an error in place of an answer.
    """

    answered: int = 0
    shed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


def ledger(
    jobs: list[Job], *, now: float, executed_rows: int, synchronous: Synchronous, calls: Mapping[str, int]
) -> dict[str, Any]:
    """
    Return what was created and what was billed. A row that ran is billed; deleted jobs stay.

    :param jobs: All jobs, advanced to *now*.
    :return: ``{"jobs": [...], "totals": {...}, "synchronous": {...}, "calls": {kind: count}}``; see
        ``docs/emulator.md``.
    """
    entries = [_entry(job, now) for job in jobs]
    return {
        "jobs": entries,
        "totals": {
            "created": len(entries),
            "billed": sum(1 for entry in entries if entry["billed_rows"]),
            "running": sum(1 for job in jobs if not job.is_ended and not job.deleted),
            "executed_rows": executed_rows,
            **{name: sum(int(entry[name]) for entry in entries) for name in TOTALS},
        },
        "synchronous": dict(vars(synchronous)),
        "calls": dict(calls),
    }


def _entry(job: Job, now: float) -> dict[str, Any]:
    total = job.source.count
    # Deleting a job takes nothing back: what it had run stays on the bill.
    ran = job.rows_run if job.is_ended or job.deleted else int(job.progress(now) * total)
    # Asked to cancel and not ended yet: what ran until then is billed, and no row more.
    if not job.is_ended and not job.deleted and job.cancelled is not None:
        ran = job.ran_limit or 0
    return {
        "number": job.number,
        "name": job.name,
        "backend": job.backend,
        "display_name": job.display_name,
        "labels": job.labels,
        "model": job.model,
        "state": job.raw_state,
        "rows": total,
        "rows_run": ran,
        "billed_rows": ran,
        # By share: what each row holds is known, but not kept for each of ten million.
        "input_tokens": round(job.source.tokens * (ran / total if total else 0.0)),
        "output_tokens": job.output_tokens,
        "created": job.created,
        "deleted": job.deleted,
        "rule_matches": [rule.matched for rule in job.script.rows],
    }
