# SPDX-License-Identifier: Apache-2.0
"""What a person sees while a run goes on: one line that moves in a terminal, one line a change elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

SIGNS = {
    "success": "✓",
    "failed": "✗",
    "upstream_failed": "✗",
    "skipped": "-",
    "running": "▶",
    "deferred": "⏳",
    "up_for_retry": "↻",
    "up_for_reschedule": "⏳",
}
QUIET_INTERVAL = 3.0
"""Seconds between two lines that differ in the job's count alone, where lines cannot be overwritten."""


def task_words(tasks: Mapping[str, str | None]) -> str:
    """Return the tasks with a sign for each state; the state in words where somebody waits for it."""
    words = []
    for name, state in tasks.items():
        sign = SIGNS.get(state or "", "·")
        words.append(f"{sign} {name}" + (f" ({state})" if state in ("deferred", "up_for_retry") else ""))
    return "  ".join(words)


def job_words(jobs: Sequence[Mapping[str, Any]]) -> str:
    """Return state and progress of the newest job, as the emulator's ledger shows it."""
    if not jobs:
        return ""
    job = jobs[-1]
    done, total = job["rows_run"], job["rows"]
    percent = f" {100 * done // total} %" if total else ""
    return f"job {job['state']} {done}/{total}{percent}"


class Display:
    """
    Prints progress.

    :param stream: Where to; standard output if not given.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stdout
        self._began = time.monotonic()
        self._moves = self._stream.isatty()
        self._shown: tuple[str, str] | None = None
        self._shown_at = 0.0

    def say(self, text: str = "") -> None:
        """Print a line that stays."""
        self._clear()
        print(text, file=self._stream, flush=True)

    def step(self, text: str) -> None:
        """Print a line that stays, with the time since the beginning."""
        self.say(f"{self._clock()}  {text}")

    def update(self, steady: str, lively: str = "") -> None:
        """Show the present state: *steady* changes seldom, *lively* all the time."""
        now = time.monotonic()
        if self._moves:
            line = f"{self._clock()}  {steady}  {lively}".rstrip()
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{line[:width]}")
            self._stream.flush()
            self._shown = (steady, lively)
        elif (
            self._shown is None
            or steady != self._shown[0]
            or (lively != self._shown[1] and now - self._shown_at >= QUIET_INTERVAL)
        ):
            self.step(f"{steady}  {lively}".rstrip())
            self._shown, self._shown_at = (steady, lively), now

    def _clear(self) -> None:
        if self._moves and self._shown is not None:
            self._stream.write("\r\x1b[K")
            self._shown = None

    def _clock(self) -> str:
        elapsed = int(time.monotonic() - self._began)
        return f"{elapsed // 60:02d}:{elapsed % 60:02d}"
