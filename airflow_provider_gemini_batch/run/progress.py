# SPDX-License-Identifier: Apache-2.0
"""How far a run is, as a small record for people: what the worker knows whenever it begins to wait, and at the end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.run.budget import estimate
from airflow_provider_gemini_batch.run.snapshot import counted_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_gemini_batch.run.driver import Run

MAX_JOBS = 50
"""Jobs that are told one by one: those under way first, then the newest."""


def progress_of(run: Run) -> dict[str, Any]:
    """
    Return how far a run is, in plain JSON values; no call is made.

    :return: ``at`` (UTC epoch seconds), ``model``, ``total`` rows, ``counts`` by outcome of the rows whose last job is
        read, ``reused`` rows, ``spent`` and ``reserved`` dollars (None where a price is unknown), ``max_cost``,
        ``max_row_attempts``, ``max_failed_rows``, ``rounds``, ``job_count`` and ``jobs``, each with ``job``, ``round``,
        ``rows``, ``state``, ``created``, ``ended``, ``stats``, ``counts``, ``cost``, ``tokens`` (of its answers: in,
        out) and ``estimate``.
    """
    checkpoint = run.checkpoint
    # Without a look at the folder: this is told before each wait, and a list of object storage takes time and money.
    notes, snapshot, rounds = checkpoint.notes(look=False), checkpoint.snapshot or {}, checkpoint.rounds()
    carried = snapshot.get("carried") or ()
    jobs = [_job(run, header, entry, notes) for header in rounds for entry in header["shards"]]
    known = [job for job in jobs if job["job"] or job["counts"] is not None]
    flying = [job for job in known if job["counts"] is None]
    return {
        "at": run.context.now(),
        "model": run.spec.model,
        "total": int(snapshot.get("rows") or 0),
        "counts": _outcomes(jobs, carried),
        "reused": sum(sum(note["counts"].values()) for note in carried if not note.get("unsent")),
        "spent": _sum([job["cost"] for job in known if job["counts"] is not None]),
        "reserved": _sum([job["estimate"] for job in flying]),
        "max_cost": run.spec.max_cost,
        "max_row_attempts": run.spec.max_row_attempts,
        "max_failed_rows": run.spec.max_failed_rows,
        "rounds": len([header for header in rounds if header["shards"]]),
        "waiting_shards": len(jobs) - len(known),
        "job_count": len(known),
        "jobs": [*flying, *reversed([job for job in known if job["counts"] is not None])][:MAX_JOBS],
    }


def rows_done(run: Run) -> tuple[int, int]:
    """Return how many rows are done, and how many there are."""
    notes = run.checkpoint.notes(look=False)
    snapshot = run.checkpoint.snapshot or {}
    done = sum(sum(note["counts"].values()) for found in notes["collected"].values() for note in found)
    done += sum(sum(note["counts"].values()) for note in snapshot.get("carried") or ())
    for shard, found in notes["job"].items():
        job = run.reader.last_read(found[0]["job"])
        if shard not in notes["collected"] and job is not None:
            done += job.stats.done or 0
    total = int(snapshot.get("rows") or 0)
    return min(done, total), total


def _job(
    run: Run, header: Mapping[str, Any], entry: Mapping[str, Any], notes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what is known of a shard and its job."""
    shard = str(entry["id"])
    submitted = sorted((note["created"] or "", note["job"]) for note in notes["job"].get(shard, ()))
    collected = _collected(notes["collected"].get(shard, ()))
    name = submitted[0][1] if submitted else ""
    job = run.reader.last_read(name)
    unknown_cost = collected is not None and bool(collected.get("cost_unknown"))
    return {
        "job": name,
        "round": int(header["number"]),
        "rows": int(entry["rows"]),
        "state": job.state.value if job is not None else (collected or {}).get("state", ""),
        "created": submitted[0][0] or None if submitted else None,
        "ended": job.end_time if job is not None else None,
        "stats": job.stats.as_dict() if job is not None else None,
        "counts": None if collected is None else dict(collected["counts"]),
        "cost": None if collected is None or unknown_cost else float(collected["cost"]),
        "tokens": (collected or {}).get("tokens"),
        "estimate": _upper(run, entry) if collected is None else None,
        "refused": str((collected or {}).get("refused") or ""),
    }


def _collected(notes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return what came of a shard, None while nothing has: of its first job, or of all calls one by one together."""
    parts = [note for note in notes if not note["job"]]
    if len(parts) < 2 or len(parts) < len(notes):
        return next((note for note in notes if not note.get("open")), None)
    if all(note.get("open") for note in parts):
        return None
    counts: Counter[str] = Counter()
    for note in parts:
        counts.update(note["counts"])
    sums = {name: sum(note[name] for note in parts) for name in ("cost", "cost_unknown")}
    closing = next(note for note in parts if not note.get("open"))
    tokens = [note.get("tokens") for note in parts]  # of an older version's there are none
    told = None if None in tokens else [sum(each) for each in zip(*tokens, strict=True)]
    return {**closing, **sums, "counts": counts, "tokens": told}


def _upper(run: Run, entry: Mapping[str, Any]) -> float | None:
    return estimate(run.spec, run.context.prices, entry, counted_in(run.checkpoint.snapshot))


def _outcomes(jobs: Sequence[Mapping[str, Any]], carried: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """
    Count rows by their outcome so far.

    A row that failed in one round may be asked again in the next: of all rounds but the last, only answers count.
    """
    counts: dict[str, int] = {}
    last = max((job["round"] for job in jobs), default=0)
    for found, final in [(note["counts"], True) for note in carried] + [
        (job["counts"] or {}, job["round"] == last) for job in jobs
    ]:
        for status, count in found.items():
            if final or status == "succeeded":
                counts[status] = counts.get(status, 0) + int(count)
    return counts


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    # A sum with an unknown part is unknown: as a number it would pass for a low price.
    return sum(known) if len(known) == len(values) else None
