# SPDX-License-Identifier: Apache-2.0
"""Is this the input that the job was made from?"""

# Rows without a key are known by their number, so an answer belongs to a row only while the input stays as it was. Rows
# with a key may change their order, and nothing else. A job therefore carries two small digests of its input's lines:
#
# * ordered: another one as soon as a line changes or moves;
# * content: another one as soon as a line changes; lines may move.
#
# Both come from one CRC-32 a line, which costs 0.3 s for a gigabyte. They guard against mistakes, not against forgery.
#
# Rows of a list have no lines. Where one of them has no key, they are digested as lines that say the same: the members
# of each object in order of their names.
#
# A file whose lines do not fit may hold the same rows in another spelling: somebody's editor or script wrote them anew.
# It is read a second time then, and its rows are digested as each of the usual writers would write them (`_WAYS`). One
# that fits proves that the rows are equal, whatever the file looks like now.
#
# An example: the lines `a`, `b` give `1f2e3d4c.aabbccdd`; `b`, `a` give another first half and the same second.

from __future__ import annotations

import hashlib
import json
from array import array
from operator import methodcaller
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from airflow_provider_gemini_batch.rows.line_batches import Lines

_BOM = b"\xef\xbb\xbf"
_ends_in_crlf = methodcaller("endswith", b"\r\n")
_encode = msgspec.json.Encoder(order="sorted").encode
HALF = 8
"""Hex digits of each of the two digests."""


def _writer(**options: Any) -> Callable[[Any], bytes]:
    encode = json.JSONEncoder(**options).encode
    return lambda row: encode(row).encode("utf-8", "surrogatepass")


_TIGHT = (",", ":")
_write_tightly = _writer(separators=_TIGHT)
_WAYS: tuple[Callable[[Any], bytes], ...] = (
    _encode,  # our own, of a list
    msgspec.json.Encoder().encode,
    _writer(),
    _writer(sort_keys=True),
    _writer(ensure_ascii=False),
    _writer(ensure_ascii=False, sort_keys=True),
    _write_tightly,
    _writer(separators=_TIGHT, sort_keys=True),
    lambda row: _write_tightly(row).replace(b"/", rb"\/"),  # pandas
)
"""How a row may have been written: Python's ``json`` with its common options, jq, pandas, polars."""


class InputDigest:
    """
    The two digests of lines, as they are read.

    :param exact: Whether line ends and a byte order mark count, as they did in an earlier version.
    """

    def __init__(self, *, exact: bool = False) -> None:
        self._exact = exact
        self._ordered = hashlib.sha256()
        self._sum = 0
        self._has_begun = False

    def watch(self, blocks: Iterable[Lines]) -> Iterator[Lines]:
        """Yield blocks of lines unchanged, and take them in."""
        for block in blocks:
            self.add(block)
            yield block

    def add(self, lines: list[bytes]) -> None:
        """Take lines in; a byte order mark, CRLF and whether the last one has its newline make no difference."""
        if lines and not self._has_begun and not self._exact:
            self._has_begun = True
            if lines[0].startswith(_BOM):
                lines = [lines[0].removeprefix(_BOM), *lines[1:]]
        # Each line is asked, not the first alone: a file may hold both ends, and its blocks may begin anywhere.
        if not self._exact and any(map(_ends_in_crlf, lines)):
            lines = [line[:-2] + b"\n" if line.endswith(b"\r\n") else line for line in lines]
        if lines and lines[-1][-1:] != b"\n":
            lines = [*lines[:-1], lines[-1] + b"\n"]
        # Blank lines are no rows.
        # CRC-32 in C over each line, and one SHA-256 over the sums: a hash object for each line would cost more than
        # reading it.
        sums = list(map(crc32, [line for line in lines if line != b"\n"] if b"\n" in lines else lines))
        self._ordered.update(array("I", sums))
        # A sum does not depend on the order. Unlike XOR it does not cancel out two equal lines.
        self._sum += sum(sums)

    def mark(self) -> str:
        """Return both digests as 16 hex digits, the ordered one first."""
        return self._ordered.hexdigest()[:HALF] + f"{self._sum % 2**32:0{HALF}x}"


def digest_of_rows(rows: Iterable[Mapping[str, Any] | bytes | str]) -> str:
    """Return the mark of rows by what they say; empty if one of them is no JSON object."""
    digest = InputDigest()
    try:
        for row in rows:
            line = row.encode() if isinstance(row, str) else row
            if isinstance(line, bytes) and not (line := line.removeprefix(_BOM).strip()):
                continue
            digest.add([_encode(msgspec.json.decode(line) if isinstance(line, bytes) else line) + b"\n"])
    except (msgspec.MsgspecError, UnicodeError, TypeError, ValueError, RecursionError):
        return ""
    return digest.mark()


def other_marks(lines: Iterable[bytes]) -> list[str]:
    """Return the other marks that a job may carry for these lines: of an earlier version, and of equal rows."""
    exact, ways = InputDigest(exact=True), [(way, InputDigest()) for way in _WAYS]
    for line in lines:
        exact.add([line])
        text = line.removeprefix(_BOM).strip()
        if not text:
            continue
        try:
            row = msgspec.json.decode(text)
            written = [way(row) for way, _ in ways]
        except (msgspec.MsgspecError, UnicodeError, TypeError, ValueError, RecursionError):
            written = [text] * len(ways)  # a row that was left out of the job
        for (_, digest), one in zip(ways, written, strict=True):
            digest.add([one + b"\n"])
    return [exact.mark(), *(digest.mark() for _, digest in ways)]


def same_order(one: str, other: str) -> bool:
    """Say whether two marks are of the same lines in the same order."""
    return one == other


def same_content(one: str, other: str) -> bool:
    """Say whether two marks are of the same lines in any order."""
    return one[HALF:] == other[HALF:]
