# SPDX-License-Identifier: Apache-2.0
"""What a task waits for, and what a person should know of it, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.plugins.page.rendering import dollars, duration
from airflow_provider_gemini_batch.plugins.page.values import count_of, number_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_gemini_batch.plugins.page.run_view import JobLine, RunView
    from airflow_provider_gemini_batch.plugins.page.task_facts import TaskFacts

Sentence = tuple[str, str, str]

_NOTHING_PAID = "Jobs appear here when they are submitted. Nothing is paid until then."


def waits_of(view: RunView, now: float) -> list[Sentence]:
    """Return what the task waits for: icon, sentence, what follows from it."""
    if view.is_over:
        return []
    return [*_of_airflow(view.facts, now), *_of_jobs(view), *_of_earlier(view), *_of_limits(view.facts, now)]


def _of_airflow(facts: TaskFacts, now: float) -> Iterator[Sentence]:
    if facts.state in ("queued", "scheduled", ""):
        yield "clock", "Airflow has not started the task.", "It waits for a worker, a pool, or an earlier task."
    elif facts.state == "up_for_retry":
        yield "again", "The last attempt failed; Airflow starts another one.", "It finds the same jobs again."
    elif facts.state == "running" and not facts.job_names:
        yield "pulse", "The task reads its rows.", _NOTHING_PAID
    # A deferred task without a job can only wait for quota: every other wait is one for a job.
    elif facts.state == "deferred" and facts.watched and not facts.job_names:
        until = number_of(facts.watched.get("deadline") or facts.watched.get("until"))
        when = f"in {duration(until - now)}" if until is not None and until > now else "soon"
        yield (
            "clock",
            f"Google takes no more jobs at the moment (429). The task tries again {when}.",
            "Nothing is lost.",
        )


def _of_jobs(view: RunView) -> Iterator[Sentence]:
    running = [job for job in view.under_way if job.shown.kind == "running"]
    queued = [job for job in view.under_way if job.shown.word in ("Queued", "Pending")]
    others = len(view.under_way) - len(running) - len(queued)
    if running:
        more = "Rows without an answer are then asked again." if view.facts.progress else ""
        yield "pulse", f"{_jobs(len(running), 'runs', 'run')}{_share(running)}.", more
    if queued:
        oldest = max((job.age for job in queued if job.age is not None), default=None)
        since = f" for {duration(oldest)}" if oldest is not None else ""
        yield "clock", f"{_jobs(len(queued), 'is', 'are')} queued at Google{since}.", "Google tells no position."
    if others:
        yield "clock", f"{_jobs(others, 'was', 'were')} submitted.", "How far it is has not been noted yet."


def _of_earlier(view: RunView) -> Iterator[Sentence]:
    """Tell by what an end is expected."""
    found = view.expected
    if found is None:
        return
    text = f"{found.count:,} earlier jobs of this model took {duration(found.low)} to {duration(found.high)}."
    half = f"Half of them took less than {duration(found.middle)}, from submission to end."
    yield "clock", text, "A job of this run takes longer. The service may take 24 hours." if found.is_late else half


def _of_limits(facts: TaskFacts, now: float) -> Iterator[Sentence]:
    left = count_of(facts.progress.get("waiting_shards"))
    if left:
        yield "info", f"{_jobs(left, 'has', 'have')} still to be submitted.", "max_jobs says how many run at once."
    deadline = number_of(facts.watched.get("deadline"))
    if deadline is not None and deadline > now and facts.job_names:
        yield "info", f"The wait ends in {duration(deadline - now)} in any case.", ""


def _share(jobs: list[JobLine]) -> str:
    """Return how far jobs are together, by their rows."""
    known = [(job.percent, job.rows or 1) for job in jobs if job.percent is not None]
    rows = sum(count for _, count in known)
    return f", {sum(percent * count for percent, count in known) / rows:.0f} % done" if rows else ""


def _jobs(count: int, one: str, many: str) -> str:
    return f"1 job {one}" if count == 1 else f"{count:,} jobs {many}"


# --- notes on top -----------------------------------------------------------------------------------------------------


def notes_of(facts: TaskFacts) -> list[Sentence]:
    """Return what stands on top of the view: kind of the note, title, text."""
    manifest, notes = facts.manifest, []
    if facts.unreadable:
        keys = ", ".join(facts.unreadable)
        notes.append(("bad", "Part of this cannot be read.", f"XComs: {keys}. The log of the API server says why."))
    if facts.is_plan:
        notes += _of_plan(manifest)
    twice = facts.xcoms.get("paid_twice") or manifest.get("paid_twice")
    if twice:
        count = len(twice) if isinstance(twice, list) else count_of(twice)
        notes.append(("warn", "Paid twice.", f"{count} jobs or rows were answered twice; the task's log names them."))
    total = count_of(manifest.get("total"))
    if facts.state == "failed" and total:
        usable = count_of(manifest.get("succeeded")) or 0
        notes.append(
            ("bad", "The task failed.", f"{usable:,} of {total:,} rows have a usable answer.{_first_reason(manifest)}")
        )
    return notes


def _of_plan(manifest: Mapping[str, Any]) -> Iterator[Sentence]:
    """Tell what a dry run has found: what a run would ask, and what its caps forbid."""
    most = number_of(manifest.get("cost_at_most"))
    price = "at an unknown price" if most is None else f"at most {dollars(most)}"
    asked, total, jobs, waves = (
        count_of(manifest.get(name)) or 0 for name in ("rows_to_ask", "total", "jobs", "waves")
    )
    text = f"{asked:,} of {total:,} rows to ask, {jobs:,} job{'' if jobs == 1 else 's'}"
    text += f" in {waves:,} waves, {price}." if waves > 1 else f", {price}."
    others = {
        "rows_reused": "taken from earlier answers", "rows_duplicate": "the same as another row",
        "rows_unsent": "not sent",
    }  # fmt: skip
    parts = [f"{count:,} {word}" for name, word in others.items() if (count := count_of(manifest.get(name)))]
    yield "info", "A plan, no job.", f"{text} The others: {', '.join(parts)}." if parts else text
    for name, kind, title in (
        ("refused", "bad", "The run would be refused."),
        ("over_cap", "warn", "The cap may not allow all rows."),
    ):
        if manifest.get(name):
            yield kind, title, str(manifest[name])


def _first_reason(manifest: Mapping[str, Any]) -> str:
    errors = manifest.get("errors") or manifest.get("first_errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    if not isinstance(first, dict) or not first.get("message"):
        return ""
    return f" Most frequent reason: {str(first['message'])[:300]} ({first.get('count')} rows)."
