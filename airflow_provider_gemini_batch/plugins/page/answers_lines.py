# SPDX-License-Identifier: Apache-2.0
"""Pages of a file of JSON lines, found without reading the lines before them twice."""

# Theory of operation. A million lines are some hundred megabytes. Decoding each takes seconds; looking for bytes takes
# a tenth of that. So a block is searched for what a row that fits must hold, as bytes (`"status":"blocked"`, a word of
# the search), and only lines with a hit are decoded and judged. What is kept of it, a `LineIndex` for each filter of
# each file, are places: where each page begins, and where each of its rows is if they are far apart.
#
# Worked example: 600 of a million rows are failing, every 650 kB one. Page 1 is asked for. The search ends at the 51st,
# after 33 MB; kept are the places of 50 rows. Page 2 reads on from there. Somebody else who asks for page 1 has 50
# reads.
#
# A search ends after `SECONDS`. The next request goes on where it ended.

from __future__ import annotations

import time
from array import array
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.files.kinds import open_lines
from airflow_provider_gemini_batch.plugins.page.answers_rows import PAGE, AnswerPage, is_wanted, prefix_in
from airflow_provider_gemini_batch.plugins.page.answers_search import blocks, candidates, decoded, finder_of
from airflow_provider_gemini_batch.plugins.page.storage_reads import ReadLock, note_progress
from airflow_provider_gemini_batch.plugins.page.threads import CpuThrottle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from airflow_provider_gemini_batch.plugins.page.answers_rows import Wanted

SECONDS = 5.0
"""For how long lines are read for one page."""

BLOCK = 1 << 20
FAR_APART = 1 << 18
"""Bytes that a page may span before the place of each of its rows is kept."""

_FILE = 44
"""A place is the number of its file above this bit, and the offset below."""


class LineIndex:
    """
    What is known of where the rows of one filter are.

    :param files: Paths or URIs, in order.
    """

    def __init__(self, files: Sequence[str], wanted: Wanted) -> None:
        self.files = files
        self.wanted = wanted
        self.lock = ReadLock()
        self.count = 0
        self.lines = 0
        self.done = False
        self.prefix: str | None = None
        self.columns: list[str] = []
        self._finder: Callable[[bytes], Iterator[int]] | None = None
        self._next = 0
        self._begins = array("Q")
        self._apart: dict[int, array[int]] = {}
        self._last = array("Q")

    @property
    def size(self) -> int:
        """Bytes that this holds, roughly."""
        return 2000 + 8 * len(self._begins) + len(self._apart) * (8 * PAGE + 150)

    def read(self, page: int, seconds: float) -> AnswerPage:
        """
        Read a page; what is not known yet is searched for, by one thread, the others wait.

        :raises PageError: If these are no answers of ours.
        """
        with self.lock:
            until = time.monotonic() + seconds
            stopped = self._search(page * PAGE + 1, until)
            count = max(0, min(PAGE, self.count - (page - 1) * PAGE))
            begin = self._begins[page - 1] if count else 0
            places = self._places(page - 1)
        rows = self._at(places[:count]) if places is not None else self._from(begin, count)
        return AnswerPage(
            rows,
            self.prefix or "",
            self.count > page * PAGE,
            self.lines if stopped else 0,
            columns=self.columns,
            found=self.count if self.done else None,
        )

    def _places(self, number: int) -> array[int] | None:
        """Return the places of a page's rows, None if they stand together."""
        if number == len(self._begins) - 1:
            return self._last[:]
        return self._apart.get(number)

    # --- searching ----------------------------------------------------------------------------------------------------

    def _search(self, enough: int, until: float) -> bool:
        """Find rows until there are *enough*; return whether the time was over before."""
        words, throttle = self.wanted.words, CpuThrottle(16)
        while self.count < enough and not self.done:
            file, offset = self._next >> _FILE, self._next & ((1 << _FILE) - 1)
            if file >= len(self.files):
                self.done = True
                break
            with _opened(self.files[file], offset) as stream:
                for begin, block in blocks(stream, offset, BLOCK):
                    self._look_at_first(block)
                    if self._is_all:
                        self._add_all(block, (file << _FILE) + begin)
                    else:
                        for start, line in candidates(block, self._finder):
                            if is_wanted(decoded(line), self.prefix or "", self.wanted, words):
                                self._add((file << _FILE) + begin + start)
                            throttle.pause_if_due()
                    self._next = (file << _FILE) + begin + len(block)
                    self.lines += block.count(b"\n")
                    throttle.pause_if_due()
                    if self.count >= enough:
                        return False
                    if time.monotonic() > until:
                        return True
            self._next = (file + 1) << _FILE
        return False

    @property
    def _is_all(self) -> bool:
        return not any(self.wanted.filters)

    def _look_at_first(self, block: bytes) -> None:
        """Take the columns from the first row; refuse a file that is none of ours."""
        if self.prefix is None and (first := next(candidates(block, None), None)) is not None:
            self.columns = list(decoded(first[1]))
            self.prefix = prefix_in(self.columns)
            self._finder = finder_of(self.wanted, self.prefix, block)

    def _add_all(self, block: bytes, place: int) -> None:
        """Add each line that is not blank; a million of them in a third of a second."""
        start, find, add, length = 0, block.find, self._add, len(block)
        while start < length:
            end = find(b"\n", start)
            if end < 0:
                end = length
            if end - start > 1 and not block[start : end if end - start < 9 else start + 9].isspace():
                add(place + start)
            start = end + 1

    def _add(self, place: int) -> None:
        if self.count % PAGE == 0:
            if self._last and not self._last[-1] - self._last[0] < FAR_APART:
                self._apart[len(self._begins) - 1] = self._last
            self._begins.append(place)
            self._last = array("Q")
        self._last.append(place)
        self.count += 1

    # --- reading what was found ---------------------------------------------------------------------------------------

    def _at(self, places: Sequence[int]) -> list[Mapping[str, Any]]:
        rows: list[Mapping[str, Any]] = []
        for file in dict.fromkeys(place >> _FILE for place in places):
            offsets = [place & ((1 << _FILE) - 1) for place in places if place >> _FILE == file]
            with _opened(self.files[file], offsets[0]) as stream:
                at = offsets[0]
                for offset in offsets:
                    _skip(stream, at, offset)
                    line = stream.readline()
                    note_progress()
                    at = offset + len(line)
                    rows.append(decoded(line))
        return rows

    def _from(self, place: int, count: int) -> list[Mapping[str, Any]]:
        rows: list[Mapping[str, Any]] = []
        if not count:
            return rows
        file, offset = place >> _FILE, place & ((1 << _FILE) - 1)
        words = self.wanted.words
        while file < len(self.files):
            with _opened(self.files[file], offset) as stream:
                for _, block in blocks(stream, offset, FAR_APART):
                    for _, line in candidates(block, self._finder):
                        row = decoded(line)
                        if is_wanted(row, self.prefix or "", self.wanted, words):
                            rows.append(row)
                        if len(rows) == count:
                            return rows
            file, offset = file + 1, 0
        return rows


# --- files ------------------------------------------------------------------------------------------------------------


def _opened(path: str, offset: int) -> BinaryIO:
    stream, _ = open_lines(path)
    try:
        _skip(stream, 0, offset)
    except BaseException:
        stream.close()
        raise
    return stream


def _skip(stream: BinaryIO, at: int, offset: int) -> None:
    if at == offset:
        return
    if stream.seekable():
        stream.seek(offset)
        return
    while at < offset:  # gzip is read on
        piece = stream.read(min(BLOCK, offset - at))
        note_progress()
        if not piece:
            return
        at += len(piece)
