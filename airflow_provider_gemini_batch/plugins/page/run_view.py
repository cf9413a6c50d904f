# SPDX-License-Identifier: Apache-2.0
"""What the view of a run shows."""

# Each number says how it is known. Judged rows are those whose job was read by the task. Reported rows are what Google
# said at the last look, striped in the bar. Estimates begin with ≈.

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_gemini_batch.plugins.page.expected_end import Expected
    from airflow_provider_gemini_batch.plugins.page.task_facts import TaskFacts
    from airflow_provider_gemini_batch.plugins.page.words import Shown

UNDER_WAY = ("", "QUEUED", "PENDING", "RUNNING", "PAUSED", "UPDATING", "CANCELLING", "UNKNOWN")


@dataclass(frozen=True)
class JobLine:
    """
    A job in the table.

    :param number: Its round; 0 where there are none.
    :param percent: Rows answered, 0 to 100; None while unknown.
    :param age: Seconds from its creation to its end, or to now.
    :param estimated: Whether *cost* is an upper end, not a sum.
    :param tokens: Of its answers: in, out.
    """

    name: str
    shown: Shown
    number: int = 0
    rows: int | None = None
    percent: float | None = None
    text: str = ""
    age: float | None = None
    cost: float | None = None
    estimated: bool = False
    under_way: bool = False
    tokens: tuple[int, int] | None = None


@dataclass(frozen=True)
class Money:
    """
    Dollars of a task; None where a price is unknown.

    :param reserved: What the jobs under way may cost at most.
    :param tokens: Of input and of output, where they are counted.
    :param unpaid: What was not paid, by reason, as far as the manifest tells.
    """

    spent: float | None = None
    reserved: float | None = None
    cap: float | None = None
    known: bool = False
    tokens: tuple[int, int] | None = None
    unknown_rows: int = 0
    unpaid: tuple[tuple[str, float], ...] = ()

    @property
    def expected(self) -> float | None:
        """What it may come to at most."""
        return None if self.spent is None or self.reserved is None else self.spent + self.reserved

    def share(self, amount: float | None) -> float:
        """Return an amount in per cent of the meter's width."""
        whole = self.cap or self.expected or 0.0
        return min(100.0, 100.0 * (amount or 0.0) / whole) if whole else 0.0


@dataclass(frozen=True)
class RunView:
    """
    All that the view shows.

    :param looked: When a worker or the trigger last saw the jobs, UTC epoch seconds.
    :param outcomes: Rows by outcome, in the order of :data:`~.words.OUTCOMES`.
    :param reported: Pending rows that Google says are answered.
    :param waits: Sentences on what it waits for: icon, sentence, what follows from it.
    :param notes: Notes on top: kind, title, text.
    :param planned: What the rows were to cost before they were sent, in words; empty where nobody said.
    :param expected: When the jobs under way may have ended.
    :param happened: Moments, newest first: when, a sentence, what follows from it.
    """

    facts: TaskFacts
    state: Shown
    model: str = ""
    versions: Mapping[str, int] = field(default_factory=dict)
    looked: float | None = None
    total: int | None = None
    outcomes: Mapping[str, int] = field(default_factory=dict)
    pending: int = 0
    reported: int = 0
    reused: int = 0
    duplicates: int = 0
    jobs: Sequence[JobLine] = ()
    job_count: int = 0
    rounds: int = 0
    waits: Sequence[tuple[str, str, str]] = ()
    money: Money = Money()
    notes: Sequence[tuple[str, str, str]] = ()
    output: str = ""
    planned: str = ""
    expected: Expected | None = None
    happened: Sequence[tuple[float, str, str]] = ()

    @property
    def under_way(self) -> list[JobLine]:
        """The jobs that have not ended, as far as is known."""
        return [job for job in self.jobs if job.under_way]

    @property
    def rows_asked(self) -> int | None:
        """Rows of all jobs, each as often as it was asked; None while one job's are unknown."""
        known = [job.rows for job in self.jobs if job.rows is not None]
        return sum(known) if len(known) == len(self.jobs) else None

    @property
    def has_tokens(self) -> bool:
        """Whether the tokens of a job are known."""
        return any(job.tokens is not None for job in self.jobs)

    @property
    def needed_no_job(self) -> bool:
        """Whether the task has ended well and says that it made no job."""
        return self.facts.state == "success" and self.facts.manifest.get("job_count") == 0

    @property
    def tokens_asked(self) -> tuple[int, int] | None:
        """Tokens of all jobs that are read, in and out; None where one job's are unknown."""
        known = [job.tokens for job in self.jobs if job.tokens is not None]
        whole = known and len(known) == len([job for job in self.jobs if not job.under_way])
        return (sum(each[0] for each in known), sum(each[1] for each in known)) if whole else None

    @property
    def expected_label(self) -> str:
        """What *expected* is the end of: a run that has jobs to submit goes on after those under way."""
        return "End of the jobs under way" if self.facts.progress.get("waiting_shards") else "Expected end"

    @property
    def unsent(self) -> str:
        """How many rows were not sent, and why; empty where none is known."""
        why = {"taken from earlier answers": self.reused, "the same as another row": self.duplicates}
        parts = [f"{count:,} {word}" for word, count in why.items() if count]
        return f"{self.reused + self.duplicates:,} were not sent: {', '.join(parts)}" if parts else ""

    @property
    def is_over(self) -> bool:
        """Whether Airflow is done with the task."""
        return self.facts.state in ("success", "failed", "skipped", "upstream_failed", "removed")
