# SPDX-License-Identifier: Apache-2.0
"""What Airflow knows of a task -> what the view of its run shows. Pure: no call, no database."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.cost.spend import parts_of, unpaid
from airflow_provider_gemini_batch.plugins.page.expected_end import durations_in, expect
from airflow_provider_gemini_batch.plugins.page.rendering import dollars
from airflow_provider_gemini_batch.plugins.page.run_history import happened
from airflow_provider_gemini_batch.plugins.page.run_view import UNDER_WAY, JobLine, Money, RunView
from airflow_provider_gemini_batch.plugins.page.run_words import notes_of, waits_of
from airflow_provider_gemini_batch.plugins.page.values import count_of, counts_of, number_of, text_of
from airflow_provider_gemini_batch.plugins.page.words import OUTCOMES, Shown, job_state, task_state
from airflow_provider_gemini_batch.task.xcom_keys import ESTIMATE_KEY
from airflow_provider_gemini_batch.times import epoch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_gemini_batch.plugins.page.task_facts import TaskFacts


def view_of(
    facts: TaskFacts,
    now: float,
    looks: Mapping[str, Mapping[str, Any]] | None = None,
    earlier: Sequence[float] = (),
) -> RunView:
    """
    Return what is shown of a task.

    :param looks: Later looks at its jobs than the task's own, by name: ``at``, ``state``, ``stats``, ``created``,
        ``ended``, ``read``.
    :param earlier: Seconds that earlier jobs of the model took.
    """
    looks = looks or {}
    progress, manifest = facts.progress, facts.manifest
    jobs = _jobs(facts, now, looks)
    outcomes = outcomes_of(manifest, progress)
    total = count_of(manifest.get("total")) or count_of(progress.get("total")) or _rows_of(jobs)
    judged = sum(outcomes.values())
    pending = 0 if manifest.get("counts") or total is None or facts.is_plan else max(0, total - judged)
    reported = min(pending, sum(_done(looks.get(job.name), progress, job.name) for job in jobs if job.under_way))
    told = [number_of(each.get("at")) for each in (progress, *looks.values())]
    moments = [each for each in told if each is not None]
    view = RunView(
        facts,
        task_state(facts.state),
        model=model_of(facts),
        versions=counts_of(manifest.get("model_versions")),
        looked=max(moments) if moments else None,
        total=total,
        outcomes=outcomes,
        pending=pending,
        reported=reported,
        reused=count_of(manifest.get("reused") or progress.get("reused")) or 0,
        duplicates=count_of(manifest.get("duplicates")) or 0,
        jobs=jobs,
        job_count=max(len(jobs), count_of(progress.get("job_count")) or 0, count_of(manifest.get("job_count")) or 0),
        rounds=count_of(manifest.get("rounds") or progress.get("rounds")) or 0,
        money=_money(facts),
        notes=notes_of(facts),
        happened=happened(facts, looks),
        planned=_planned(facts),
        output=str(manifest.get("output_path") or manifest.get("output_table") or manifest.get("output") or ""),
    )
    if not view.is_over:
        took = [*earlier, *durations_in(progress, view.model)]
        view = replace(view, expected=expect([job.age for job in view.under_way], took, now))
    return replace(view, waits=waits_of(view, now))


def model_of(facts: TaskFacts) -> str:
    """Return the model that a task asks, as far as it is known."""
    told = (facts.progress, facts.manifest, facts.arguments, _estimate(facts))
    return next((str(place["model"]) for place in told if place.get("model")), "")


# --- jobs -------------------------------------------------------------------------------------------------------------


def _jobs(facts: TaskFacts, now: float, looks: Mapping[str, Mapping[str, Any]]) -> list[JobLine]:
    told = [job for job in facts.progress.get("jobs") or () if isinstance(job, dict)]
    lines = [_line_of_run(job, now, looks.get(str(job.get("job") or ""), {})) for job in told]
    known = {line.name for line in lines}
    for name in facts.job_names:
        if name not in known:
            lines.append(_line_of_name(facts, name, now, looks.get(name, {})))
    return lines


def _line_of_run(job: Mapping[str, Any], now: float, look: Mapping[str, Any]) -> JobLine:
    """Return a line for a job of a run, as its progress tells of it; a later look wins while it is under way."""
    read = isinstance(job.get("counts"), dict)
    counts = counts_of(job.get("counts"))
    state = str(job.get("state") or "") if read or not look else str(look.get("state") or "")
    stats = job.get("stats") if read or not look else look.get("stats")
    created = epoch(text_of(job.get("created")))
    ended = epoch(text_of(job.get("ended"))) or look.get("ended")
    under_way = not read and state in UNDER_WAY
    text, percent = _rows_text(stats, count_of(job.get("rows")), state)
    if read:
        usable = counts.get("succeeded", 0)
        others = sum(counts.values()) - usable
        text, percent = f"{usable:,} usable" + (f", {others:,} not" if others else ""), None
    if job.get("refused"):
        text = f"not asked: {job['refused']}"
    elif not read and not under_way:
        text = f"{text}, not read yet" if text else "not read yet"
    return JobLine(
        str(job.get("job") or ""),
        Shown("cancelled", "Not asked") if job.get("refused") else job_state(state),
        number=count_of(job.get("round")) or 0,
        rows=count_of(job.get("rows")),
        percent=percent,
        text=text,
        age=None if created is None else (ended or (now if under_way else None) or now) - created,
        cost=number_of(job.get("cost")) if read else number_of(job.get("estimate")),
        estimated=not read,
        under_way=under_way,
        tokens=_pair(job.get("tokens")) if read else None,
    )


def _line_of_name(facts: TaskFacts, name: str, now: float, look: Mapping[str, Any]) -> JobLine:
    """Return a line for a job of which the task has left the name, and at its end the counts."""
    manifest = facts.manifest if facts.manifest.get("job_name") == name else {}
    over = facts.state in ("success", "failed", "skipped")
    state = str(manifest.get("state") or look.get("state") or ("SUCCEEDED" if manifest else ""))
    stats = manifest if manifest else look.get("stats")
    rows = count_of((stats or {}).get("total"))
    text, percent = _rows_text(stats, rows, state)
    began = look.get("created") or (number_of(facts.watched.get("started")) or facts.started)
    ended = look.get("ended") or (facts.ended if over else None)
    shown = job_state(state) if state or not over else Shown("cancelled", "Not known")
    return JobLine(
        name,
        shown,
        rows=rows,
        percent=percent,
        text=text,
        age=None if began is None else (ended or now) - began,
        under_way=state in UNDER_WAY and not over,
    )


def _rows_text(stats: Any, rows: int | None, state: str) -> tuple[str, float | None]:
    """Return what is said of a job's rows, and how many per cent of them are answered."""
    stats = stats if isinstance(stats, dict) else {}
    good, bad = count_of(stats.get("succeeded")), count_of(stats.get("failed"))
    total = count_of(stats.get("total")) or rows
    if good is None and bad is None:
        return ("not begun" if state in ("QUEUED", "PENDING") else ""), (
            0.0 if state in ("QUEUED", "PENDING") else None
        )
    done = (good or 0) + (bad or 0)
    text = f"{done:,} of {total:,}" if total else f"{done:,} rows"
    if bad:
        text += f" · {bad:,} failed"
    return text, (100.0 * done / total if total else None)


def _done(look: Mapping[str, Any] | None, progress: Mapping[str, Any], name: str) -> int:
    """Return how many rows of a job Google says are answered."""
    stats = (look or {}).get("stats")
    if not isinstance(stats, dict):
        told = [job for job in progress.get("jobs") or () if isinstance(job, dict) and job.get("job") == name]
        stats = told[0].get("stats") if told else None
    stats = stats if isinstance(stats, dict) else {}
    return (count_of(stats.get("succeeded")) or 0) + (count_of(stats.get("failed")) or 0)


# --- rows and money ---------------------------------------------------------------------------------------------------


def outcomes_of(manifest: Mapping[str, Any], progress: Mapping[str, Any]) -> dict[str, int]:
    """Return how many rows came to which end, as far as a manifest or a progress record tells."""
    found = counts_of(manifest.get("counts")) or counts_of(progress.get("counts"))
    if not found:
        found = {name: count_of(manifest.get(name)) or 0 for name in OUTCOMES if count_of(manifest.get(name))}
    return {name: found.get(name, 0) for name in OUTCOMES} if found else {}


def _rows_of(jobs: Sequence[JobLine]) -> int | None:
    known = [job.rows for job in jobs if job.rows is not None]
    return sum(known) if known and len(known) == len(jobs) else None


def _pair(told: Any) -> tuple[int, int] | None:
    if not isinstance(told, list) or len(told) != 2:
        return None
    read, written = map(count_of, told)
    return None if read is None or written is None else (read, written)


def _estimate(facts: TaskFacts) -> Mapping[str, Any]:
    found = facts.xcoms.get(ESTIMATE_KEY)
    return found if isinstance(found, dict) else {}


def _planned(facts: TaskFacts) -> str:
    """Return what the rows were to cost, in words."""
    estimate = _estimate(facts)
    if not estimate:
        return ""
    told = estimate.get("dollars")
    told = told if isinstance(told, dict) else {}
    low, high = number_of(told.get("low")), number_of(told.get("high"))
    if low is None:
        return dollars(None)
    if high is None:
        return f"at least {dollars(low)}"
    return dollars(high) if dollars(low) == dollars(high) else f"{dollars(low)} to {dollars(high)}"


def _money(facts: TaskFacts) -> Money:
    progress, manifest = facts.progress, facts.manifest
    cap = number_of(progress.get("max_cost"))
    if "cost" in manifest or "costs" in manifest:
        parts = parts_of({"manifest": manifest})
        spent = sum(part["cost"] for part in parts)
        tokens = (int(sum(part["input_tokens"] for part in parts)), int(sum(part["output_tokens"] for part in parts)))
        unknown = int(sum(part["unknown"] for part in parts))
        every = unknown and unknown >= sum(part["rows"] for part in parts)
        counted = tokens if any(tokens) else None
        return Money(None if every else spent, 0.0, cap, True, counted, unknown, tuple(unpaid(parts)))
    if progress:
        return Money(number_of(progress.get("spent")), number_of(progress.get("reserved")), cap, True)
    return Money()
