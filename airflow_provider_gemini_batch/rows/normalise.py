# SPDX-License-Identifier: Apache-2.0
"""Input rows: every form a user may write, checked and brought to the one form a backend wants."""

# The rules:
#
# * Rows stream. Memory grows only by the keys seen, up to 16 MB for a million rows (`KeySet`).
# * What can be known before a job is submitted is said before: all that is wrong with the first ten bad rows, in one
#   `ConfigurationError` that names line, key and the way out.
# * Common rows take the fast path, a block at a time; all others are decoded, and go through `forms.py` (which form is
#   it?), `completing.py` (is it complete?) and, for Vertex AI, `vertex_import.py`.

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError, EmptyInputError
from airflow_provider_gemini_batch.rows.completing import EmbedRequests, GenerateRequests
from airflow_provider_gemini_batch.rows.fast_path import FastBlock, FastPath
from airflow_provider_gemini_batch.rows.forms import read_form
from airflow_provider_gemini_batch.rows.key_set import KeySet
from airflow_provider_gemini_batch.rows.keys import KEY_PREFIX, KeyRule
from airflow_provider_gemini_batch.rows.line_batches import read_in_blocks
from airflow_provider_gemini_batch.rows.lines import as_object, trimmed
from airflow_provider_gemini_batch.rows.notes import RowReport
from airflow_provider_gemini_batch.rows.problems import TOO_DEEP, OtherKind, RowFault, RowProblem, kind_of
from airflow_provider_gemini_batch.rows.vertex_import import VertexImportCheck, clean_for_import, own_columns

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.rows.settings import RowSettings

T = TypeVar("T")
InputRow = bytes | str | Mapping[str, Any]
"""A line of a file, with or without its newline, or a dict."""

MAX_BAD_ROWS = 10
"""Bad rows that one error names."""

REPEATED = RowProblem("this key was there before", "keys tell answers apart and must be unique")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class _RequestHolder(msgspec.Struct):
    request: msgspec.Raw


_request_of = msgspec.json.Decoder(_RequestHolder).decode


class WireRow:
    """One row as the backend wants it. ``number`` is the line it came from, counted from 1."""

    __slots__ = ("_own", "_request", "_wire", "key", "number")

    def __init__(
        self, key: str, number: int, wire: bytes, own: Mapping[str, Any] | None = None, request: bytes | None = None
    ) -> None:
        self.key = key
        self.number = number
        self._wire = wire
        self._own = own
        self._request = request

    def line(self) -> bytes:
        """Return one line of an input file, newline included."""
        return self._wire

    def body(self) -> bytes:
        """Return the request alone."""
        return self._request if self._request is not None else bytes(_request_of(self._wire).request)

    def inline(self) -> dict[str, Any]:
        """
        Return ``{"request": ..., "metadata": {"key": ...}}``, as the Developer API takes rows in a create call.

        The metadata comes back with the answer, and so it holds what the caller's row has beside its request.
        """
        return {"request": _decode(self.body()), "metadata": {**(self._own or {}), "key": self.key}}


class Normaliser:
    """
    Brings rows to wire form: settings prepared once, and what has been seen so far.

    :param report: Takes in what is worth a word.
    :raises ConfigurationError: If the settings cannot be applied to any row.
    """

    def __init__(self, settings: RowSettings, report: RowReport) -> None:
        self.settings = settings
        self.report = report
        self.keys = KeySet()
        self.key_rule = KeyRule(settings.key)
        self._is_embedding = settings.kind == "embed"
        self._importer = VertexImportCheck() if settings.rules.is_imported else None
        self._requests: EmbedRequests | GenerateRequests
        try:
            self._requests = (EmbedRequests if self._is_embedding else GenerateRequests)(settings, report)
        except RowProblem as problem:
            raise ConfigurationError(f"These settings cannot be applied to the rows: {problem}.") from None
        except RecursionError:
            raise ConfigurationError(f"These settings cannot be applied to the rows: {TOO_DEEP}.") from None
        # Keys by other names than `key` need the row decoded; the fast path reads the one member alone.
        self._fast = FastPath(settings, self._sample, report) if self.key_rule.is_default else None

    def outcomes(self, rows: Iterable[InputRow]) -> Iterator[FastBlock | WireRow | RowFault]:
        """
        Yield what becomes of each row, in order; blank lines are left out.

        A row without a key gets ``row-<number>``, counted from 1 over the rows that are not blank.
        """
        number = line = 0

        def read(lines: list[bytes]) -> FastBlock | None:
            return self._fast.read(lines, line + 1) if self._fast is not None else None

        for block, fast in read_in_blocks(rows, read):
            line += len(block)
            if fast is not None:
                number += len(block)
                yield from self._in_block(fast)
                continue
            row = block[0]
            unit = "row"
            if isinstance(row, (bytes, str)):
                unit, row = "line", trimmed(row, line)
                if not row:
                    continue
            number += 1
            yield self.read(row, line, number, unit)

    def read(self, row: InputRow, line: int, number: int, unit: str = "line") -> WireRow | RowFault:
        """Return one row in wire form, or what is wrong with it."""
        key: str | None = None
        try:
            value = as_object(row)
            if (metadata := value.get("metadata")) is not None and not isinstance(metadata, Mapping):
                raise RowProblem(f"'metadata' must be an object, not {kind_of(metadata)}")
            key = self.key_rule.read(value, number)
            # It would be taken off the answer again, and the row that asked would never be found.
            if key.startswith(KEY_PREFIX):
                raise RowProblem(
                    f"'key' begins with {KEY_PREFIX!r}, which is our own mark and not given back", "rename it"
                )
            found = self._wire(value, key, line)
            self._take_key(key)
            return found
        except RowProblem as problem:
            fault = RowFault(unit, line, key, problem.reason, problem.fix, isinstance(problem, OtherKind))
        except (UnicodeError, TypeError, ValueError) as error:
            # What JSON cannot hold: a lone surrogate in a string, an object of some class in a dict.
            fault = RowFault(unit, line, key, f"cannot be written as JSON ({error})")
        except RecursionError:
            fault = RowFault(unit, line, key, TOO_DEEP)
        # A refused row has its key all the same: the answer to a later one would land beside this row's prompt.
        self.keys.add(f"row-{number}" if key is None else key)
        return fault

    def _in_block(self, block: FastBlock) -> Iterator[FastBlock | WireRow | RowFault]:
        """Yield a block whole, or its rows one by one where a key was there before."""
        # All keys in one call, and the rows themselves only where one of them repeats.
        repeated = set(self.keys.add_all(block.keys))
        if not repeated:
            self.report.sent += len(block.keys)
            yield block
            return
        for place, (key, number, wire) in enumerate(block.rows()):
            if place in repeated:
                yield RowFault("line", number, key, REPEATED.reason, REPEATED.fix)
            else:
                self.report.sent += 1
                yield WireRow(key, number, wire)

    def _take_key(self, key: str) -> None:
        if not self.keys.add(key):
            if self._importer is not None:
                # The row was taken in by the importer's check and will not be sent: its columns must not bind those
                # that come.
                self._importer.undo()
            raise REPEATED
        self.report.sent += 1

    def _wire(self, row: Mapping[str, Any], key: str, line: int) -> WireRow:
        given, own = read_form(row, self.key_rule, is_embedding=self._is_embedding)
        request = self._requests.complete(given, line)
        if self._importer is None:
            if own:
                self.report.note_own(own, (), line)
            return WireRow(key, line, _line(key, _encode(request)), own)
        if self.settings.is_legacy_embedding:
            row = {"key": KEY_PREFIX + key, **request}
            self._importer.add(row, line)
            return WireRow(key, line, _encode(row) + b"\n", own, _encode(request))
        # Before the importer's check, not after: what is cleaned away is not sent and must not be complained of.
        request = clean_for_import(request)
        sent = own_columns(own) if own else {}
        if own:
            self.report.note_own(own, sent, line)
        self._importer.add({"key": key, **sent, "request": request}, line)
        if sent:
            wire = _encode({"key": KEY_PREFIX + key, **sent, "request": request}) + b"\n"
            return WireRow(key, line, wire, own)
        return WireRow(key, line, _line(KEY_PREFIX + key, _encode(request)), own)

    def _sample(self, row: Mapping[str, Any], line: int) -> tuple[dict[str, Any], bytes] | None:
        """Return a row's request as the slow path makes it, and its bytes; None if it is refused."""
        try:
            request = self._requests.complete(
                read_form(row, self.key_rule, is_embedding=self._is_embedding).request, line
            )
            return request, self._wire(row, "", line).body()
        except RowProblem:
            return None


def _line(key: str, request: bytes) -> bytes:
    return b'{"key":%b,"request":%b}\n' % (_encode(key), request)


def normalise_rows(
    rows: Iterable[InputRow], settings: RowSettings, report: RowReport | None = None
) -> Iterator[WireRow]:
    """Do what :func:`normalise_blocks` does, one row at a time."""
    for found in normalise_blocks(rows, settings, report):
        if isinstance(found, WireRow):
            yield found
        else:
            for key, number, line in found.rows():
                yield WireRow(key, number, line)


def normalise_blocks(
    rows: Iterable[InputRow], settings: RowSettings, report: RowReport | None = None
) -> Iterator[FastBlock | WireRow]:
    """
    Check rows and bring them to the form of *settings*' backend; settings that cannot work are told at once.

    Blank lines, CRLF and a byte order mark are tolerated and never passed on.

    :param report: Takes in what was found.
    :return: Rows in input order, common ones in blocks. After the first bad row nothing more is yielded: the rest is
        read to name up to ten bad rows at once. With ``skip_bad_rows`` they are left out, and *report* names them.
    :raises ConfigurationError: If rows cannot work, or are too many for one job.
    :raises EmptyInputError: If there are none.
    """
    report = report if report is not None else RowReport()
    return _sendable(Normaliser(settings, report), rows)


def _sendable(normaliser: Normaliser, rows: Iterable[InputRow]) -> Iterator[FastBlock | WireRow]:
    report, settings = normaliser.report, normaliser.settings
    limit = settings.max_rows
    for found in normaliser.outcomes(rows):
        if isinstance(found, RowFault):
            report.refused += 1
            if len(report.faults) < MAX_BAD_ROWS:
                report.faults.append(found)
            # The first row already shows a file of another kind. Each further line would say the same in other words.
            if found.is_other_kind and report.refused == 1 and not report.sent:
                break
            if report.refused >= MAX_BAD_ROWS and not settings.skip_bad_rows:
                break
        elif limit is not None and report.sent > limit:
            raise ConfigurationError(
                f"{settings.rules.label} takes up to {limit:,} rows in one such job, and there are more; split them "
                "over several jobs, e.g. with dynamic task mapping."
            )
        # Once a row was refused nothing more is yielded: the job is not going to be, and its copy need not be written.
        elif settings.skip_bad_rows or not report.refused:
            yield found
    if report.refused and not (settings.skip_bad_rows and report.sent):
        raise ConfigurationError(told(report))
    if not report.sent:
        raise EmptyInputError("There are no input rows: the input is empty or holds blank lines alone.")


def told(report: RowReport) -> str:
    """Return the words for rows that cannot be sent."""
    more = "; more may follow" if report.refused >= MAX_BAD_ROWS else ""
    shown = report.faults[:MAX_BAD_ROWS]
    head = f"{len(shown)} input rows cannot be submitted{more}:\n" if len(shown) > 1 else ""
    return head + "\n".join(map(str, shown))


def naming(source: object, items: Iterable[T]) -> Iterator[T]:
    """Yield what is read from *source*, and put its name before what is said of its rows."""
    try:
        yield from items
    except ConfigurationError as error:
        # The subclass stays: an empty input may skip a task, and a bad one fails it.
        raise type(error)(f"{source}: {error}") from None
