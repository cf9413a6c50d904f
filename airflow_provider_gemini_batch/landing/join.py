# SPDX-License-Identifier: Apache-2.0
"""Results landed: one file of result rows, and a manifest of what came."""

# With the input given, the file holds exactly one row for each of its rows, in the input's order. As long as results
# come in that order they are written straight through. From the first one on that does not, or that is no success (a
# repeated one may be better), they go to a `RowIndex` on local disk, and are picked from there. An example:
#
#     input      a  b  c  d          results    a  b  d  c
#     written    a  b                indexed    d  c          then c and d are picked for the rest of the input
#
# Memory does not grow with the size of answers. Disk: once the output's size beside it, twice if out of order. Files
# appear under their names only when all of this holds, the one with the errors first; else the old ones stay:
#
# * As many answers came as the job counts (`facts.py`).
# * The input is the one that the job was made from, as far as the job tells, and at least one answer belongs to it.

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.cost.totals import CostTotals
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.atomic import AtomicFile, temporary_files
from airflow_provider_gemini_batch.files.paths import local_path
from airflow_provider_gemini_batch.landing.checks import check_all_came, check_belongs, check_paths
from airflow_provider_gemini_batch.landing.echo import EchoKeys
from airflow_provider_gemini_batch.landing.facts import JobFacts
from airflow_provider_gemini_batch.landing.join_input import AskedRow, InputCursor, JoinInput, KeysOnly, RepeatedRows
from airflow_provider_gemini_batch.landing.manifest import KeySample, Manifest, Totals
from airflow_provider_gemini_batch.landing.reading import Result, ResultReading
from airflow_provider_gemini_batch.landing.row_cost import RowCosts
from airflow_provider_gemini_batch.landing.row_index import RowIndex
from airflow_provider_gemini_batch.landing.usages import UsageReader
from airflow_provider_gemini_batch.rows.input_rows import Recheck
from airflow_provider_gemini_batch.rows.key_set import KeySet
from airflow_provider_gemini_batch.rows.keys import KeyRule
from airflow_provider_gemini_batch.rows.normalise import REPEATED
from airflow_provider_gemini_batch.rows.result_row import OutputRow, ResultRow, line_with, output_lines, read_output_row

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.cost.prices import PriceList


class ResultJoiner:
    """
    Writes results as rows.

    :param out: Takes the rows.
    :param errors: Takes those without a usable answer once more, or is None.
    :param include_response: Whether rows keep the raw response.
    :param recheck: Says of an input row why it could not be sent.
    :param costs: Sums up what rows cost.
    :param usages: Decodes what blocks of answers count.
    :param is_priced: Whether each row tells its cost.
    """

    def __init__(
        self,
        out: Callable[[bytes], Any],
        errors: Callable[[bytes], Any] | None,
        include_response: bool,
        recheck: Recheck | None = None,
        costs: CostTotals | None = None,
        usages: UsageReader | None = None,
        *,
        is_priced: bool = False,
    ) -> None:
        self._write = out
        self._errors = errors
        self._include_response = include_response
        self._recheck = recheck
        self._is_priced = is_priced
        self.totals = Totals(costs, usages)
        self.total = 0
        self.matched = 0
        """Input rows that an answer was found for."""
        self.missing, self.repeated, self.unknown = KeySample(), KeySample(), KeySample()

    def members(self) -> dict[str, Any]:
        """Return what a manifest tells of the rows that were written."""
        return {
            "total": self.total,
            "repeated": self.repeated.count,
            "unknown": self.unknown.count,
            "missing_keys": self.missing.first,
            "repeated_keys": self.repeated.first,
            "unknown_keys": self.unknown.first,
            **self.totals.members(),
        }

    def write_all(self, rows: Iterable[list[OutputRow] | ResultRow]) -> None:
        """Write every row as it comes."""
        # Repeated answers cannot be told from each other without an input: all are written, and counted.
        seen = KeySet()
        for found in rows:
            if isinstance(found, list):
                self.total += len(found)
                self._write_block(found, None)
                keys = _keys(found)
            else:
                self.total += 1
                line = found.line(include_response=self._include_response)
                self._write(line)
                self.totals.add(found)
                if found.status != "succeeded" and self._errors is not None:
                    self._errors(line)
                keys = [found.key] if found.key is not None else []
            for index in seen.add_all(keys):
                self.repeated.add(keys[index])

    def join(
        self,
        rows: Iterator[list[OutputRow] | ResultRow],
        cursor: InputCursor,
        again: Callable[[], Iterable[str]],
        workdir: str | None,
        *,
        sent_once: bool = False,
    ) -> None:
        """
        Write one row for every row of the input, in its order.

        :param again: Gives the input's keys once more.
        :param sent_once: Whether each key was sent once, so that a row whose key was there before was left out.
        """
        repeats = RepeatedRows(again) if sent_once else None
        waiting = self._write_straight(rows, cursor)
        straight = self.total
        with ExitStack() as stack:
            index = RowIndex(workdir)
            stack.callback(index.close)
            while waiting is not None:
                self._keep(waiting, index)
                waiting = next(rows, None)
            # Of two answers with one key the usable one counts, else the first; the others come back here, to be
            # counted as repeated.
            for line in index.build():
                self._drop(line, self.repeated)
            for number, asked in enumerate(cursor.rest(), straight):
                self.total += 1
                self._take(asked, number, index, repeats)
            self._settle_unused(index, again, straight)

    def _write_straight(
        self, rows: Iterator[list[OutputRow] | ResultRow], cursor: InputCursor
    ) -> list[OutputRow] | ResultRow | None:
        """Write rows as long as they come in the input's order; return the first one that does not."""
        for found in rows:
            if isinstance(found, list):
                given, expected = _keys(found), cursor.peek(len(found))
                # Two lists of keys compared at once: as a rule a whole block fits, and no row of it is looked at.
                fits = len(found) if given == expected else _common_start(given, expected)
                # A whole block stays the same list: what it counts is decoded already.
                self._write_block(found if fits == len(found) else found[:fits], cursor.take(fits))
                self.total += fits
                self.matched += fits
                if fits < len(found):
                    return found[fits:]
                continue
            # A failed row may be followed by a better answer to the same key, so from here on rows are collected first.
            if found.status != "succeeded" or cursor.peek(1) != [found.key]:
                return found
            own = cursor.take(1)
            found.own.update(own[0] or {} if own else {})
            self._write(found.line(include_response=self._include_response))
            self.totals.add(found)
            self.total += 1
            self.matched += 1
        return None

    def _write_block(self, rows: list[OutputRow], own: list[Mapping[str, Any] | None] | None) -> None:
        if not rows:
            return
        if own is None:
            self._write(output_lines(rows))
        else:
            for row, members in zip(rows, own, strict=True):
                self._write(line_with(row.line(), members) if members else row.line())
        self.totals.add_successes(rows)

    def _keep(self, found: list[OutputRow] | ResultRow, index: RowIndex) -> None:
        if isinstance(found, list):
            for row in found:
                index.add(str(row.key), row.line(), True)
            self.totals.add_successes(found)
            return
        line = found.line(include_response=self._include_response)
        if found.key is None:
            # It belongs to a row that will be missing, and is counted there.
            if self._errors is not None:
                self._errors(line)
            return
        index.add(found.key, line, found.status == "succeeded")
        self.totals.add(found)

    def _take(self, asked: AskedRow, number: int, index: RowIndex, repeats: RepeatedRows | None) -> None:
        key, own, raw = asked
        found = index.find(key)
        if found is None or (found[2] and repeats is not None):
            usable = False
            # The key's answer, if there is one, is that of the row before.
            is_repeat = repeats is not None and number in repeats
            line = self._unanswered(key, raw, f"{REPEATED.reason}; {REPEATED.fix}" if is_repeat else None)
        else:
            line, usable, taken = found
            self.matched += 1
            if taken:
                # An input with the key twice: both its rows get the answer.
                self.totals.add(read_output_row(line))
        if own:
            line = line_with(line, own)
        self._write(line)
        if not usable and self._errors is not None:
            self._errors(line)

    def _unanswered(self, key: str, raw: Any, reason: str | None = None) -> bytes:
        """
        Return the row for an input row that no answer came to: it was not sent, or its answer is missing.

        :param reason: Why it was not sent, if that is known.
        """
        if reason is None and self._recheck is not None and raw is not None:
            reason = self._recheck.reason(raw)
        if reason is None:
            row = ResultRow.missing(key)
            self.missing.add(key)
        else:
            row = ResultRow.not_sent(key, reason)
        if self._is_priced:
            row.cost = None if reason is None else 0.0  # what became of a missing row is not known
        self.totals.add(row)
        return row.line(include_response=self._include_response)

    def _settle_unused(self, index: RowIndex, again: Callable[[], Iterable[str]], straight: int) -> None:
        """Count the answers that no input row took: repeated ones, and ones that nobody asked for."""
        unused = KeySet()
        for line in index.unused():
            unused.add(str(read_output_row(line).key))
        if not len(unused):
            return
        known = KeySet()
        # Only the rows that were written straight through: the others were looked up in the index, and would have been
        # found.
        for key, _ in zip(again(), range(straight), strict=False):
            if key in unused:
                known.add(key)
        for line in index.unused():
            key = str(read_output_row(line).key)
            if key in known:
                self._drop(line, self.repeated)
            else:
                self._drop(line, self.unknown)
                if self._errors is not None:
                    self._errors(line)

    def _drop(self, line: bytes, names: KeySample) -> None:
        row = read_output_row(line)
        self.totals.add(row, -1)
        names.add(row.key)


def _keys(rows: list[OutputRow]) -> list[str]:
    """Return the keys of common rows, which all have one."""
    return [row.key for row in rows]  # type: ignore[misc]


def _common_start(some: Sequence[str], others: Sequence[str]) -> int:
    """Return at how many indexes, from the first on, two lists are the same."""
    for index, (one, other) in enumerate(zip(some, others, strict=False)):
        if one != other:
            return index
    return min(len(some), len(others))


def _folder_of(output_path: str | os.PathLike[str]) -> str | None:
    """Return the local folder that an output appears in; None for one in object storage."""
    local = local_path(output_path)
    return None if local is None else os.path.dirname(os.path.abspath(local))


def land(
    results: Iterable[Result],
    output_path: str | os.PathLike[str],
    *,
    job: JobFacts | None = None,
    input_path: str | os.PathLike[str] | None = None,
    input_keys: Callable[[], Iterable[str]] | None = None,
    key: str | Sequence[str] = "key",
    errors_path: str | os.PathLike[str] | None = None,
    include_response: bool = True,
    workdir: str | None = None,
    check_counts: bool = True,
    check_input: bool = True,
    prices: PriceList | None = None,
) -> Manifest:
    """
    Write results as result rows, joined to the input by key if it is known.

    :param results: Lines of output files, several as ``Lines``, or entries of inline results, in any order. What this
        iterator raises passes through, and no file appears then.
    :param output_path: Local path or object-storage URI.
    :param job: What the job tells of its answers.
    :param input_path: The file the job was made from, for order, completeness and the members that each row has beside
        its request.
    :param input_keys: In its place, a function that gives the keys in order each time it is called.
    :param key: The member, or list of members, by which a row is known.
    :param errors_path: Where failed, blocked and missing rows go a second time; unknown ones go there only.
    :param workdir: Local directory for temporary files; None for the output's own, or the system's.
    :param check_counts: Whether fewer answers than the job counts are an error.
    :param check_input: Whether an input that is not the job's own is an error.
    :param prices: By which rows and manifest say what answers cost; None uses our own list, in the manifest alone.
    :raises ConfigurationError: If a path cannot be used or the input has no readable keys.
    :raises InputMismatchError: If the input is not the one that the job was made from.
    :raises ResultsIncompleteError: If fewer answers came than the job counts, or none that can be read.
    """
    check_paths(output_path, errors_path, input_path)
    job = job or JobFacts()
    source = _source_of(job, input_path, input_keys, key)
    reading = _reading_of(job, source, key, include_response=include_response)
    workdir = workdir or _folder_of(output_path)
    cursor = None if source is None else InputCursor(source.rows())
    with ExitStack() as stack:
        out = stack.enter_context(AtomicFile(output_path, workdir=workdir))
        # Left first, so that whoever sees the results finds the errors too.
        errors = stack.enter_context(AtomicFile(errors_path, workdir=workdir)) if errors_path is not None else None
        stack.enter_context(temporary_files(os.fspath(output_path), workdir))
        recheck = Recheck(replace(job.row_settings, key=key)) if job.row_settings is not None else None
        costs, usages = CostTotals(job.model, job.ended, prices), UsageReader()
        write_error = errors.write if errors is not None else None
        joiner = ResultJoiner(
            out.write, write_error, include_response, recheck, costs, usages, is_priced=prices is not None
        )
        if reading.echo is not None and not job.input_digest:
            results = reading.echo.watch(results)
        rows: Iterator[list[OutputRow] | ResultRow] = reading.rows(results)
        if prices is not None:
            rows = RowCosts(prices, job.model, costs.day, usages).priced(rows)
        if source is None or cursor is None:
            joiner.write_all(rows)
        else:
            cursor.peek(1)  # a broken input must not cost a download
            reading.joins_by_position = bool(cursor.numbered)
            joiner.join(rows, cursor, source.keys, workdir, sent_once=bool(job.input_digest))
        if check_counts:
            check_all_came(job, reading, joiner.repeated.count)
        if source is not None and cursor is not None and check_input and job.name:
            joined = {"total": joiner.total, "matched": joiner.matched, "unknown": joiner.unknown.count}
            check_belongs(job, reading, cursor, source, **joined)
    is_checked = check_input and bool(job.input_digest)
    is_joined = isinstance(source, JoinInput) and cursor is not None and joiner.matched > 0 and not is_checked
    return Manifest(
        job_name=job.name,
        model=job.model,
        output_path=os.fspath(output_path),
        errors_path=os.fspath(errors_path) if errors_path is not None else None,
        input_sha256=source.sha256 if source is not None else None,
        unreadable=reading.unreadable_count,
        unreadable_lines=reading.unreadable,
        by_number=max(0, cursor.numbered - reading.by_echo) if is_joined and cursor else reading.by_position,
        **joiner.members(),
    )


def _source_of(
    job: JobFacts,
    input_path: str | os.PathLike[str] | None,
    input_keys: Callable[[], Iterable[str]] | None,
    key: str | Sequence[str],
) -> JoinInput | KeysOnly | None:
    """Return where the input's rows come from, or None where it is not given."""
    if input_path is None:
        return None if input_keys is None else KeysOnly(input_keys)
    if input_keys is not None:
        raise ConfigurationError("input_path and input_keys exclude each other.")
    return JoinInput(input_path, key, tolerant=bool(job.input_digest))


def _reading_of(
    job: JobFacts, source: JoinInput | KeysOnly | None, key: str | Sequence[str], *, include_response: bool
) -> ResultReading:
    """Return a reader of results that knows how a row of this job may tell its key."""
    rule = KeyRule(key)
    echo = None
    if isinstance(source, JoinInput) and job.row_settings is not None:
        echo = EchoKeys(source.again, replace(job.row_settings, key=key))
    return ResultReading(include_response, () if rule.is_default else rule.names, echo)
