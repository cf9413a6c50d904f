# SPDX-License-Identifier: Apache-2.0
"""
Results brought home: one file of result rows, and a manifest of what came.

With the input's keys known, the file holds exactly one row for each of them, in the input's order. As long as results
come in that order they are written straight through. From the first one on that does not, or that is no success (a
repeated one may be better), they go to a spool on local disk with an index, and are picked from there.

Memory does not grow with the size of answers. While joining out of order it holds 6 to 12 bytes a row; the index (24
bytes a row) is a mapped file, which the system may write out. Disk: once the output's size beside it, twice if out of
order. Files appear under their names only when complete, the one with the errors first.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain, islice
from operator import attrgetter
from typing import Any

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError, ReplyFormatError
from airflow_provider_gemini_batch.files.atomic import AtomicFile
from airflow_provider_gemini_batch.files.paths import BUFFER_BYTES, local_path, open_read
from airflow_provider_gemini_batch.rows.input_rows import row_keys
from airflow_provider_gemini_batch.rows.key_set import KeySet
from airflow_provider_gemini_batch.rows.line_batches import Lines, read_in_blocks
from airflow_provider_gemini_batch.rows.normalise import naming
from airflow_provider_gemini_batch.rows.results import OutputRow, ResultRow, Status, output_lines, quick_rows, read_row

NAMED_KEYS = 10
"""Keys of one kind (missing, repeated, unknown) that a manifest names."""

Result = bytes | str | Mapping[str, Any] | Lines
"""One result, or several lines of them."""

_MAX_REASONS = 100
_STATUSES: tuple[Status, ...] = ("succeeded", "failed", "blocked", "missing")
_encode = msgspec.json.Encoder().encode
_decode_usage = msgspec.json.Decoder(dict[str, Any]).decode


class _Usage(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The counts that are known by name; a usage with others is read as a dict."""

    promptTokenCount: int = 0
    candidatesTokenCount: int = 0
    totalTokenCount: int = 0
    thoughtsTokenCount: int = 0
    cachedContentTokenCount: int = 0
    toolUsePromptTokenCount: int = 0
    tokenCount: int = 0
    trafficType: msgspec.Raw = msgspec.Raw(b"null")
    promptTokensDetails: msgspec.Raw = msgspec.Raw(b"null")
    candidatesTokensDetails: msgspec.Raw = msgspec.Raw(b"null")
    cacheTokensDetails: msgspec.Raw = msgspec.Raw(b"null")
    toolUsePromptTokensDetails: msgspec.Raw = msgspec.Raw(b"null")


_COUNTS = tuple(name for name in _Usage.__struct_fields__ if name.endswith("Count"))
_decode_known_usages = msgspec.json.Decoder(list[_Usage | None]).decode


class _Landed(msgspec.Struct):
    """What counting needs of a row that was written before."""

    key: str | None
    status: Status
    error: dict[str, Any] | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")


_decode_landed = msgspec.json.Decoder(_Landed).decode


class _Tally:
    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.usage: Counter[str] = Counter()
        self.reasons: Counter[tuple[int, str]] = Counter()

    def add_successes(self, rows: Sequence[OutputRow]) -> None:
        """Count rows that all are successes: what :meth:`add` does, for many at once."""
        try:
            found = _decode_known_usages(b"[%b]" % b",".join([row.usage for row in rows]))
        except msgspec.MsgspecError:
            for row in rows:
                self.add("succeeded", None, bytes(row.usage))
            return
        known = [counts for counts in found if counts is not None]
        self.statuses["succeeded"] += len(rows)
        for name in _COUNTS:
            self.usage[name] += sum(map(attrgetter(name), known))

    def add(self, status: str, error: Mapping[str, Any] | None, usage: bytes | None, sign: int = 1) -> None:
        self.statuses[status] += sign
        if usage is not None and usage != b"null":
            try:
                counts = _decode_usage(usage)
            except msgspec.MsgspecError:
                counts = {}
            totals = self.usage
            for name, count in counts.items():
                if type(count) is int:
                    totals[name] += sign * count
        if error is not None and status != "missing":
            reason = (error.get("code") or 0, str(error.get("message"))[:300])
            if reason in self.reasons or len(self.reasons) < _MAX_REASONS:
                self.reasons[reason] += sign


class _Names:
    """How many keys of a kind there were, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, key: str | None) -> None:
        self.count += 1
        if key is not None and len(self.first) < NAMED_KEYS:
            self.first.append(key)


def _head(line: bytes) -> bytes:
    """Return a row's beginning up to its status: its key. Inside the key's text these bytes cannot be."""
    return line[: line.index(b',"status":"')]


class _Spool:
    """Rows on disk, to be found by key. Entries are three numbers: hash of the key, offset and flags, length."""

    USED = 1
    USABLE = 2

    def __init__(self, workdir: str | None) -> None:
        self._data = tempfile.TemporaryFile(dir=workdir, prefix="gemini-batch-", buffering=BUFFER_BYTES)  # noqa: SIM115
        self._index = tempfile.TemporaryFile(dir=workdir, prefix="gemini-batch-", buffering=BUFFER_BYTES)  # noqa: SIM115
        self._pending = array("Q")
        self._offset = 0
        self._count = 0
        self._words: memoryview = memoryview(b"").cast("Q")
        self._map: mmap.mmap | None = None
        self._table = array("I")
        self._mask = 0

    def add(self, key: str, line: bytes, usable: bool) -> None:
        self._data.write(line)
        length = len(line)
        self._pending.extend((hash(key) & 0xFFFFFFFFFFFFFFFF, self._offset << 2 | (usable and self.USABLE), length))
        self._offset += length
        self._count += 1
        if len(self._pending) >= 30_000:
            self._index.write(self._pending)
            self._pending = array("Q")

    def build(self) -> Iterator[bytes]:
        """Make rows findable; yield the lines that lost against another one with their key."""
        self._data.flush()
        self._index.write(self._pending)
        self._pending = array("Q")
        self._index.flush()
        if not self._count:
            return
        self._map = mmap.mmap(self._index.fileno(), self._count * 24)
        words = self._words = memoryview(self._map).cast("Q")
        mask = (1 << max(4, (self._count * 3 // 2).bit_length())) - 1
        self._mask = mask
        table = self._table = array("I", [0]) * (mask + 1)
        for entry in range(self._count):
            value = words[entry * 3]
            place = value & mask
            while other := table[place]:
                if words[other * 3 - 3] == value and _head(self.line(other - 1)) == _head(self.line(entry)):
                    loser = entry
                    if words[entry * 3 + 1] & self.USABLE and not words[other * 3 - 2] & self.USABLE:
                        table[place] = entry + 1
                        loser = other - 1
                    words[loser * 3 + 1] |= self.USED
                    yield self.line(loser)
                    break
                place = (place + 1) & mask
            else:
                table[place] = entry + 1

    def find(self, key: str) -> tuple[bytes, bool, bool] | None:
        """Return the row of *key*, whether it is a success and whether it was taken before, and mark it as taken."""
        if not self._count:
            return None
        value = hash(key) & 0xFFFFFFFFFFFFFFFF
        table, words, mask = self._table, self._words, self._mask
        place = value & mask
        head = None
        while entry := table[place]:
            if words[entry * 3 - 3] == value:
                line = self.line(entry - 1)
                head = head or b'{"key":%b,' % _encode(key)
                if line.startswith(head):
                    flags = words[entry * 3 - 2]
                    words[entry * 3 - 2] = flags | self.USED
                    return line, bool(flags & self.USABLE), bool(flags & self.USED)
            place = (place + 1) & mask
        return None

    def unused(self) -> Iterator[bytes]:
        """Yield the rows that no key asked for."""
        for entry in range(self._count):
            if not self._words[entry * 3 + 1] & self.USED:
                yield self.line(entry)

    def line(self, entry: int) -> bytes:
        offset, length = self._words[entry * 3 + 1] >> 2, self._words[entry * 3 + 2]
        return os.pread(self._data.fileno(), length, offset)

    def close(self) -> None:
        self._words.release()
        if self._map is not None:
            self._map.close()
        self._data.close()
        self._index.close()


class _Landing:
    def __init__(self, out: AtomicFile, errors: AtomicFile | None, include_response: bool) -> None:
        self.write = out.write
        self.errors = errors.write if errors is not None else None
        self.include_response = include_response
        self.tally = _Tally()
        self.total = 0
        self.missing, self.repeated, self.unknown = _Names(), _Names(), _Names()
        self.unreadable: list[int] = []
        self.unreadable_count = 0
        self.has_answers = False

    def rows(self, results: Iterable[Result]) -> Iterator[list[OutputRow] | ResultRow]:
        """
        Read results: blocks of common ones, which all have a key and are successes, and others one by one.

        Rows without a key get one by position only where no row has a key and order can be trusted.
        """
        keyed = False
        number = line_number = 0
        for block, quick in read_in_blocks(results, partial(quick_rows, include_response=self.include_response)):
            line_number += len(block)
            if quick is not None:
                number += len(block)
                keyed = self.has_answers = True
                yield quick
                continue
            line = block[0]
            if not isinstance(line, Mapping) and not line.strip():
                continue
            number += 1
            row = read_row(line)
            if row.key is not None or row.status == "succeeded":
                self.has_answers = True
            if row.key is not None:
                keyed = True
            elif row.is_ordered and not keyed:
                row.key = f"row-{number}"
            if row.key is None:
                self.unreadable_count += 1
                if len(self.unreadable) < NAMED_KEYS:
                    self.unreadable.append(line_number)
                if row.error is None:
                    row.status = "failed"
                    row.error = {"code": 0, "message": "the service's result line has no key"}
            yield row

    def plain(self, results: Iterable[Result]) -> None:
        """Land every result as it comes."""
        seen = KeySet()
        for found in self.rows(results):
            if isinstance(found, list):
                self.total += len(found)
                self._write_block(found)
                keys = _keys(found)
            else:
                self.total += 1
                line = found.line(include_response=self.include_response)
                self.write(line)
                self.tally.add(found.status, found.error, found.usage)
                if found.status != "succeeded" and self.errors is not None:
                    self.errors(line)
                keys = [found.key] if found.key is not None else []
            for place in seen.add_all(keys):
                self.repeated.add(keys[place])

    def joined(
        self,
        results: Iterable[Result],
        keys: Callable[[], Iterable[str]],
        workdir: str | None,
    ) -> None:
        """Land one row for every key, in the keys' order."""
        # Looked at before the first result is asked for: a broken input must not cost a download.
        wanted = _looked_at(keys())
        rows = self.rows(results)
        straight = 0
        waiting: list[OutputRow] | ResultRow | None = None
        for found in rows:
            if isinstance(found, list):
                expected = list(islice(wanted, len(found)))
                given = _keys(found)
                fits = len(found) if given == expected else _common_start(given, expected)
                self._write_block(found[:fits])
                straight += fits
                if fits < len(found):
                    wanted = chain(expected[fits:], wanted)
                    waiting = found[fits:]
                    break
            else:
                expected = list(islice(wanted, 1))
                if expected != [found.key] or found.status != "succeeded":
                    wanted = chain(expected, wanted)
                    waiting = found
                    break
                self.write(found.line(include_response=self.include_response))
                self.tally.add(found.status, None, found.usage)
                straight += 1
        self.total = straight
        with ExitStack() as stack:
            spool = _Spool(workdir)
            stack.callback(spool.close)
            while waiting is not None:
                self._keep(waiting, spool)
                waiting = next(rows, None)
            for line in spool.build():
                self._drop(line, self.repeated)
            for key in wanted:
                self.total += 1
                self._take(key, spool)
            self._settle_unused(spool, keys, straight)

    def _write_block(self, rows: list[OutputRow]) -> None:
        if rows:
            self.write(output_lines(rows))
            self.tally.add_successes(rows)

    def _keep(self, found: list[OutputRow] | ResultRow, spool: _Spool) -> None:
        if isinstance(found, list):
            for key, row in zip(_keys(found), found, strict=True):
                spool.add(key, row.line(), True)
            self.tally.add_successes(found)
            return
        line = found.line(include_response=self.include_response)
        if found.key is None:
            # It belongs to a row that will be missing, and is counted there.
            if self.errors is not None:
                self.errors(line)
            return
        spool.add(found.key, line, found.status == "succeeded")
        self.tally.add(found.status, found.error, found.usage)

    def _take(self, key: str, spool: _Spool) -> None:
        found = spool.find(key)
        if found is None:
            row = ResultRow.missing(key)
            line = row.line(include_response=self.include_response)
            self.missing.add(key)
            self.tally.add("missing", None, None)
            usable = False
        else:
            line, usable, taken = found
            if taken:
                # An input with the key twice: both its rows get the answer.
                self._count(line, 1)
        self.write(line)
        if not usable and self.errors is not None:
            self.errors(line)

    def _settle_unused(self, spool: _Spool, keys: Callable[[], Iterable[str]], straight: int) -> None:
        unused = KeySet()
        for line in spool.unused():
            unused.add(str(_decode_landed(line).key))
        if not len(unused):
            return
        known = KeySet()
        for key, _ in zip(keys(), range(straight), strict=False):
            if key in unused:
                known.add(key)
        for line in spool.unused():
            key = str(_decode_landed(line).key)
            if key in known:
                self._drop(line, self.repeated)
            else:
                self._drop(line, self.unknown)
                if self.errors is not None:
                    self.errors(line)

    def _drop(self, line: bytes, names: _Names) -> None:
        names.add(self._count(line, -1))

    def _count(self, line: bytes, sign: int) -> str | None:
        row = _decode_landed(line)
        self.tally.add(row.status, row.error, bytes(row.usage), sign)
        return row.key


def _looked_at(keys: Iterable[str]) -> Iterator[str]:
    """Return an iterator of the same keys whose first one has been asked for."""
    rest = iter(keys)
    return chain(list(islice(rest, 1)), rest)


def _keys(rows: list[OutputRow]) -> list[str]:
    """Return the keys of common rows, which all have one."""
    return [row.key for row in rows]  # type: ignore[misc]


def _common_start(some: Sequence[str], others: Sequence[str]) -> int:
    """Return in how many places, from the first on, two lists are the same."""
    for place, (one, other) in enumerate(zip(some, others, strict=False)):
        if one != other:
            return place
    return min(len(some), len(others))


def land(
    results: Iterable[Result],
    output_path: str | os.PathLike[str],
    *,
    input_path: str | os.PathLike[str] | None = None,
    input_keys: Callable[[], Iterable[str]] | None = None,
    errors_path: str | os.PathLike[str] | None = None,
    include_response: bool = True,
    workdir: str | None = None,
    expects_answers: bool = False,
) -> dict[str, Any]:
    """
    Write results as result rows, joined to the input by key if it is known.

    :param results: Lines of output files, several as ``Lines``, or entries of inline results, in any order. What this
        iterator raises passes through, and no file appears then.
    :param output_path: Local path or object-storage URI.
    :param input_path: The file the job was made from, for order and completeness.
    :param input_keys: In its place, a function that gives the keys in order each time it is called.
    :param errors_path: Where failed, blocked and missing rows go a second time; unknown ones go there only.
    :param workdir: Local directory for temporary files; None for the output's own, or the system's.
    :param expects_answers: Whether the service counts answers: then results without one that can be read are a fault of
        the transfer (a proxy's page, say), and no file appears.
    :return: The manifest: ``output_path``, ``errors_path``; the counts ``total``, ``succeeded``, ``failed``,
        ``blocked``, ``missing`` (these add up to ``total``), ``repeated``, ``unknown``, ``unreadable``; the first
        ``missing_keys``, ``repeated_keys``, ``unknown_keys``, ``unreadable_lines``; ``usage`` (summed token counts) and
        ``first_errors`` (``code``, ``message``, ``count``; the most frequent first).
    :raises ConfigurationError: If a path cannot be used or the input has no readable keys.
    :raises ReplyFormatError: With *expects_answers*, if nothing that came is an answer.
    """
    places = [os.fspath(place) for place in (output_path, errors_path, input_path) if place is not None]
    real = [place if (local := local_path(place)) is None else os.path.realpath(local) for place in places]
    if len(set(real)) < len(real):
        raise ConfigurationError("output_path, errors_path and input_path must be different files.")
    keys = input_keys
    if input_path is not None:
        if input_keys is not None:
            raise ConfigurationError("input_path and input_keys exclude each other.")

        def keys() -> Iterator[str]:
            with open_read(input_path) as stream:
                yield from naming(input_path, row_keys(stream))

    local = local_path(output_path)
    if workdir is None and local is not None:
        workdir = os.path.dirname(os.path.abspath(local))
    with ExitStack() as stack:
        out = stack.enter_context(AtomicFile(output_path, workdir=workdir))
        # Left first, so that whoever sees the results finds the errors too.
        errors = stack.enter_context(AtomicFile(errors_path, workdir=workdir)) if errors_path is not None else None
        landing = _Landing(out, errors, include_response)
        if keys is None:
            landing.plain(results)
        else:
            landing.joined(results, keys, workdir)
        if expects_answers and not landing.has_answers:
            raise ReplyFormatError(
                "The service counts answers for this job, but what it sent holds none that can be read. Nothing was "
                "written; try again."
            )
    tally = landing.tally
    return {
        "output_path": os.fspath(output_path),
        "errors_path": os.fspath(errors_path) if errors_path is not None else None,
        "total": landing.total,
        **{status: tally.statuses[status] for status in _STATUSES},
        "repeated": landing.repeated.count,
        "unknown": landing.unknown.count,
        "unreadable": landing.unreadable_count,
        "missing_keys": landing.missing.first,
        "repeated_keys": landing.repeated.first,
        "unknown_keys": landing.unknown.first,
        "unreadable_lines": landing.unreadable,
        "usage": {name: count for name, count in tally.usage.items() if count},
        "first_errors": [
            {"code": code, "message": message, "count": count}
            for (code, message), count in tally.reasons.most_common(NAMED_KEYS)
            if count > 0
        ],
    }
