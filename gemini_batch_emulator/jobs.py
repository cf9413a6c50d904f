# SPDX-License-Identifier: Apache-2.0
"""A job of either backend, and what a backend does for it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from gemini_batch_emulator.rows import RowSource
    from gemini_batch_emulator.scripts import Ending, JobScript

HEAVY_ROWS = 500


class Handler(Protocol):
    """What a backend does when a job of its begins and ends; called in a worker thread or in the server's."""

    def start(self, job: Job) -> Ending | None:
        """Check what the service checks when the job begins; an :class:`~.scripts.Ending` ends it at once."""
        ...

    def finish(self, job: Job, ending: Ending) -> Ending | None:
        """Write the results of a job that ends with some; another ending replaces the planned one."""
        ...


class QuietHandler:
    """For jobs whose input and output do not matter."""

    def start(self, job: Job) -> Ending | None:
        """Begin."""
        return None

    def finish(self, job: Job, ending: Ending) -> Ending | None:
        """End."""
        return None


@dataclass(eq=False)
class Job:
    """
    One batch job of either backend.

    :param name: The resource name, e.g. ``batches/...`` or ``projects/...``.
    :param backend: ``gemini`` or ``vertex_ai``.
    :param kind: ``generate`` or ``embed``.
    :param model: As the backend writes it.
    :param resource: What the backend wants to echo.
    :param scope: What lists go by, e.g. ``projects/p/locations/l``; empty on the Developer API.
    :param raw_state: The state's word without the backend's prefix.
    :param output: Where the backend keeps what :meth:`Handler.finish` made.
    :param rows_run: Rows that ran; those are billed.
    :param ran_limit: With a cancelled job: rows from this index on did not run.
    """

    number: int
    name: str
    backend: str
    kind: str
    model: str
    display_name: str
    created: float
    script: JobScript
    source: RowSource
    handler: Handler
    labels: dict[str, str] = field(default_factory=dict)
    resource: dict[str, Any] = field(default_factory=dict)
    scope: str = ""
    priority: int = 0
    raw_state: str = "PENDING"
    history: list[tuple[str, float]] = field(default_factory=list)
    updated: float = 0.0
    started: float | None = None
    ended: float | None = None
    reads: int = 0
    hidden_reads: int = 0
    held: float | None = None
    cancelled: float | None = None
    ran_limit: int | None = None
    error: dict[str, Any] | None = None
    output: dict[str, Any] = field(default_factory=dict)
    rows_run: int = 0
    succeeded: int = 0
    failed: int = 0
    output_tokens: int = 0
    deleted: bool = False
    lock: Any = field(default_factory=threading.RLock, repr=False)

    @property
    def is_ended(self) -> bool:
        """Whether the job can never change again."""
        return self.ended is not None

    @property
    def is_heavy(self) -> bool:
        """Whether the next step may take long enough to be done in a worker thread."""
        return not self.is_ended and (self.source.count > HEAVY_ROWS or bool(self.script.result_bytes))

    def progress(self, now: float) -> float:
        """Return the share of the rows that have run by *now*, as counters show it."""
        if self.started is None:
            return 0.0
        if self.is_ended:
            return 1.0
        script = self.script
        # Without a clock: the share is that of the reads so far, so that a client which polls sees counters that move.
        if script.mode == "reads":
            return min(1.0, max(0.0, (self.reads - script.pending_reads) / max(1, script.running_reads + 1)))
        if script.running_seconds <= 0:
            return 1.0
        return min(1.0, max(0.0, (now - self.started) / script.running_seconds))

    def shows_output(self, now: float) -> bool:
        """Whether an ended job shows where its answers are; some show it late."""
        # Reported: a job that has succeeded and names no output yet.
        return self.ended is not None and now >= self.ended + self.script.output_after

    def has_results(self, now: float) -> bool:
        """Whether the files of an ended job can be read; some can be late."""
        return self.ended is not None and now >= self.ended + self.script.results_after
