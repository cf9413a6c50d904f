# SPDX-License-Identifier: Apache-2.0
"""What happened in a task's run, newest first: its attempts, its rounds, its jobs. Pure: no call, no database."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.plugins.page.rendering import dollars, duration, number, short_name
from airflow_provider_gemini_batch.plugins.page.values import count_of, counts_of, number_of, text_of
from airflow_provider_gemini_batch.plugins.page.words import job_state, task_state
from airflow_provider_gemini_batch.times import epoch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_provider_gemini_batch.plugins.page.task_facts import TaskFacts

Event = tuple[float, str, str]
"""When, as UTC epoch seconds; a sentence; what follows from it."""

MOST = 60
"""Events that are shown."""


def happened(facts: TaskFacts, looks: Mapping[str, Mapping[str, Any]]) -> list[Event]:
    """
    Return what is known to have happened.

    :param looks: Later looks at its jobs, by name, see :func:`~.run_model.view_of`.
    """
    jobs = [_with_look(job, looks.get(str(job.get("job") or ""), {})) for job in _told(facts)]
    known = {job["job"] for job in jobs}
    jobs += [_with_look({"job": name}, looks.get(name, {})) for name in facts.job_names if name not in known]
    events = [*_of_attempts(facts), *_of_rounds(facts, jobs), *_of_jobs(jobs)]
    # What came later in the list follows from what came before it, where both are of the same second.
    in_order = sorted(enumerate(events), key=lambda each: (each[1][0], each[0]), reverse=True)
    return [event for _, event in in_order][:MOST]


def _told(facts: TaskFacts) -> list[Mapping[str, Any]]:
    return [job for job in facts.progress.get("jobs") or () if isinstance(job, dict) and job.get("job")]


def _with_look(job: Mapping[str, Any], look: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job with its moments as epoch seconds, from a later look where the task has told none."""
    return {
        **job,
        "job": str(job.get("job") or ""),
        "read": look.get("read") is True,
        "state": str(job.get("state") or look.get("state") or ""),
        "created": epoch(text_of(job.get("created"))) or number_of(look.get("created")),
        "ended": epoch(text_of(job.get("ended"))) or number_of(look.get("ended")),
    }


def _of_attempts(facts: TaskFacts) -> Iterator[Event]:
    for attempt in facts.attempts:
        name = f"Attempt {attempt.number}"
        if attempt.started is not None:
            yield attempt.started, f"{name} began.", ""
        if attempt.ended is not None and attempt.state:
            took = "" if attempt.started is None else f"After {duration(attempt.ended - attempt.started)}."
            last = attempt is facts.attempts[-1]
            yield (
                attempt.ended,
                f"{name} ended: {task_state(attempt.state).word.lower()}.",
                _rows(facts) if last else took,
            )


def _rows(facts: TaskFacts) -> str:
    total, usable = count_of(facts.manifest.get("total")), count_of(facts.manifest.get("succeeded"))
    if not total or usable is None:
        return ""
    return f"{number(usable)} of {number(total)} rows have a usable answer."


def _of_rounds(facts: TaskFacts, jobs: list[dict[str, Any]]) -> Iterator[Event]:
    """Tell of each round that asked rows again, unless some of its jobs are not told."""
    rounds: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for job in jobs:
        rounds[count_of(job.get("round")) or 0].append(job)
    # A round of which some jobs are left out would be told with too few rows, or at a wrong time.
    if (count_of(facts.progress.get("job_count")) or 0) > len(jobs):
        return
    for round_number, members in rounds.items():
        began = [job["created"] for job in members if job["created"] is not None]
        if round_number > 1 and began:
            rows = sum(count_of(job.get("rows")) or 0 for job in members)
            text = f"Round {round_number}: {number(rows)} row{'' if rows == 1 else 's'} asked again."
            yield min(began), text, "They had failed for a reason that passes."


def _of_jobs(jobs: list[dict[str, Any]]) -> Iterator[Event]:
    for job in jobs:
        name = short_name(job["job"])
        rows = count_of(job.get("rows"))
        if job["created"] is not None:
            yield job["created"], f"Job {name} was submitted{'' if rows is None else f' with {number(rows)} rows'}.", ""
        if job["ended"] is not None:
            yield job["ended"], f"Job {name} ended: {job_state(job['state']).word.lower()}.", _came_of(job)


def _came_of(job: Mapping[str, Any]) -> str:
    """Return what a job that is read came to."""
    if not isinstance(job.get("counts"), dict):
        # Of a run's job the run itself has told so; another task reads those of a create operator.
        return (
            "Its answers are not read yet." if "round" in job else "A task has read its answers." if job["read"] else ""
        )
    counts = counts_of(job["counts"])
    usable = counts.get("succeeded", 0)
    others = [f"{number(count)} {name}" for name, count in counts.items() if name != "succeeded" and count]
    cost = number_of(job.get("cost"))
    price = "" if cost is None else f" It cost {dollars(cost)}."
    return f"{number(usable)} usable{''.join(f', {other}' for other in others)}.{price}"
