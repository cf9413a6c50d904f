# SPDX-License-Identifier: Apache-2.0
"""What one run of the benchmarks is asked to do, and the figures that several measures share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.control import Control, between, connections_to
from benchmarks.processes import MeasureFailedError, call, emulator


@dataclass
class Bench:
    """
    One run.

    :param work: Folder on the disk that is measured.
    :param google_python: Interpreter of an environment with the official provider; None leaves its column empty.
    :param size: Megabytes of input and of results.
    :param official_size: Megabytes of a result that the official provider fetches: it holds several copies in memory.
    :param jobs: Watched jobs.
    :param many: A lot of watched jobs.
    :param official_jobs: Jobs that the official provider watches: 200 are beyond it.
    :param minute: Seconds within which all jobs end.
    :param repeats: How often noisy measures are taken.
    :param rows, long_rows, vectors: Rows of whole runs: short ones, ones of 4 kB, embeddings; 0 leaves one out.
    """

    work: Path
    google_python: str | None = None
    size: int = 1000
    official_size: int = 512
    jobs: int = 1000
    many: int = 10_000
    official_jobs: int = 50
    minute: float = 60.0
    interval: float = 5.0
    repeats: int = 2
    rows: int = 1_000_000
    long_rows: int = 300_000
    vectors: int = 150_000
    official_failures: list[str] = field(default_factory=list)
    """What went wrong with the official provider: a cell stays empty then, and ours is told all the same."""

    def call(self, function: str, **arguments: Any) -> Any:
        """Call a function in a process of its own; see :func:`~benchmarks.processes.call`."""
        return call(function, work=self.work, **arguments)

    def official(self, function: str, **arguments: Any) -> Any:
        """The same in the official provider's environment; None if there is none, or if it fails."""
        if self.google_python is None:
            return None
        try:
            return self.call(function, python=self.google_python, **arguments)
        except MeasureFailedError as error:
            self.official_failures.append(str(error))
            return None

    @contextmanager
    def emulator(self) -> Iterator[tuple[str, Control]]:
        """Run an emulator; yields its URL and its control."""
        with emulator(self.work) as (url, process):
            control = Control(url, process)
            control.ask("PATCH", "/_emulator/config", {"max_active_jobs": 1_000_000})
            yield url, control

    @contextmanager
    def names(self, control: Control) -> Iterator[str]:
        """Write the names of the emulator's jobs to a file, one a line."""
        with tempfile.NamedTemporaryFile("w", dir=self.work, suffix=".txt") as file:
            file.write("\n".join(control.job_names()))
            file.flush()
            yield file.name

    @cached_property
    def collection(self) -> float:
        """Seconds of one full garbage collection in a process that has loaded Airflow and our trigger, and no more."""
        seconds: float = self.call("watching:collection")
        return seconds

    @cached_property
    def official_waits(self) -> dict[str, Any] | None:
        """Watch jobs with the official provider's trigger: first while they run, then while they end."""
        quiet = 5 * self.interval + 0.3 * self.official_jobs
        with self.emulator() as (url, control):
            for number in range(self.official_jobs):
                seconds = quiet + self.minute * number / self.official_jobs
                script = {"mode": "time", "pending_seconds": 0, "running_seconds": seconds}
                control.post("jobs/script", {"times": 1, "script": script})
            with connections_to(url) as connections:
                found: dict[str, Any] | None = self.official(
                    "official:watch",
                    url=url,
                    jobs=self.official_jobs,
                    interval=self.interval,
                    timeout=2 * (quiet + self.minute) + 60,
                )
            if found is None:
                return None
            window = between(control.journal(), found["window"])
            polls = [entry for entry in window if entry["method"] == "GET"]
            if not polls or len(polls) < len(window) or not found["events"]:
                self.official_failures.append("polls were measured while jobs were still created, or all were lost")
                return None
            ends = control.end_times()
        return {
            **found,
            "polls": len(polls),
            "cpu": found["cpu"] / len(polls),
            "connections": connections.most,
            "opened": len({entry["connection"] for entry in polls}) / len(polls),
            "memory": found["memory"] / self.official_jobs,
            "latencies": latencies(found["events"], ends),
            "lost": self.official_jobs - len(found["events"]),
        }


def latencies(events: dict[str, float], ends: dict[str, float]) -> list[float]:
    """Return the seconds from each job's end to its event, shortest first."""
    return sorted(events[name] - ends[name] for name in events if name in ends)
