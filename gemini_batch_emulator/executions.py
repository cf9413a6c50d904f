# SPDX-License-Identifier: Apache-2.0
"""Which requests ran how often, over all jobs, whatever keys and jobs they came in."""

# A request is known by a 64-bit hash of what it asks. Sixteen bytes a row that ran go to a file, so that ten million
# rows cost 160 MB of disk and no memory; counting reads the file again, in as many passes as keep a count small.

from __future__ import annotations

import threading
from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gemini_batch_emulator.jobs import Job
    from gemini_batch_emulator.scripts import RowRule

ROWS_A_PASS = 2_000_000
_BUFFERED = 8192
# A job's number and a row's index in one word of 64 bits: sixteen million jobs with a trillion rows each.
_INDEX_BITS = 40


class Record:
    """Takes the rows of one job, or of calls without a job (number 0)."""

    def __init__(self, executions: Executions, number: int) -> None:
        self._executions = executions
        self._place = number << _INDEX_BITS
        self._buffer = array("Q")

    def add(self, index: int, content: int) -> None:
        """Note a row that ran."""
        self._buffer.append(content)
        self._buffer.append(self._place | index)
        if len(self._buffer) >= _BUFFERED:
            self.close()

    def close(self) -> None:
        """Write what is buffered."""
        self._executions.write(self._buffer)
        self._buffer = array("Q")


class Executions:
    """
    Every row that ran.

    :param path: Where to keep it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.rows = 0

    def record(self, job: Job | None) -> Record:
        """Begin to note the rows of a job, or of a call without one."""
        return Record(self, job.number if job is not None else 0)

    def add_unanswered(self, job: Job) -> None:
        """Note the rows of a job that ran although nobody will see an answer."""
        record = self.record(job)
        for row in job.source.rows():
            if row.index >= job.rows_run:
                break
            record.add(row.index, row.content)
        record.close()

    def write(self, entries: array[int]) -> None:
        """Append entries, hash and place by turns."""
        # Appended under a lock, in one call: rows of several jobs do not mix within an entry.
        if entries:
            with self._lock, self._path.open("ab") as file:
                file.write(entries.tobytes())
                self.rows += len(entries) // 2

    def _read(self) -> Iterator[array[int]]:
        if not self.rows:
            return
        with self._path.open("rb") as file:
            while block := file.read(1 << 22):
                entries = array("Q")
                entries.frombytes(block)
                yield entries

    def count(self, content: int) -> int:
        """Return how often a request ran."""
        return sum(entries[::2].count(content) for entries in self._read())

    def summary(self, most: int = 100) -> dict[str, Any]:
        """
        Return how many rows ran, and which requests ran more than once.

        :param most: At most so many repeated requests are listed.
        :return: ``{"rows", "requests", "repeated_rows", "repeated": [{"count", "places": [[job, index], ...]}]}``: jobs
            by their number in the ledger; *requests* are different ones, *repeated_rows* ran beyond the first time.
        """
        passes = self.rows // ROWS_A_PASS + 1
        requests = 0
        repeated: dict[int, int] = {}
        for number in range(passes):
            counts: Counter[int] = Counter()
            for entries in self._read():
                contents = entries[::2]
                # Each pass takes the hashes of one remainder, so that no count has more than about ROWS_A_PASS members.
                counts.update(contents if passes == 1 else [one for one in contents if one % passes == number])
            requests += len(counts)
            repeated.update((content, count) for content, count in counts.items() if count > 1)
        # The worst first: what was paid for most often is what a test wants to see.
        listed = sorted(repeated, key=lambda content: -repeated[content])[:most]
        places = self._places(frozenset(listed))
        return {
            "rows": self.rows,
            "requests": requests,
            "repeated_rows": self.rows - requests,
            "repeated": [{"count": repeated[content], "places": places[content]} for content in listed],
        }

    def _places(self, contents: frozenset[int]) -> dict[int, list[list[int]]]:
        found: dict[int, list[list[int]]] = {content: [] for content in contents}
        if contents:
            for entries in self._read():
                for position in range(0, len(entries), 2):
                    if entries[position] in contents:
                        place = entries[position + 1]
                        found[entries[position]].append([place >> _INDEX_BITS, place & ((1 << _INDEX_BITS) - 1)])
        return found


class RuleHistory:
    """Remembers what rules with ``first`` and ``requests`` have decided, over all jobs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[int, int]] = {}

    def allows(self, rule: RowRule, content: int) -> bool:
        """Whether a rule that matches a row may decide it; counts it if so."""
        if rule.first is None and rule.requests is None:
            return True
        with self._lock:
            counts = self._counts.setdefault(rule.identity, {})
            seen = counts.get(content, 0)
            if rule.first is not None and seen >= rule.first:
                return False
            # A request that was met before stays under the rule, also when the number is full.
            if rule.requests is not None and not seen and len(counts) >= rule.requests:
                return False
            counts[content] = seen + 1
            return True
