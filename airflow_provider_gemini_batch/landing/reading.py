# SPDX-License-Identifier: Apache-2.0
"""Which results came? Lines become rows with a key each, and are counted as what they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.landing.manifest import NAMED_KEYS
from airflow_provider_gemini_batch.rows.line_batches import Lines, read_in_blocks
from airflow_provider_gemini_batch.rows.quick_results import quick_rows
from airflow_provider_gemini_batch.rows.results import is_foreign, read_row

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.landing.echo import EchoKeys
    from airflow_provider_gemini_batch.rows.result_row import OutputRow, ResultRow

Result = bytes | str | Mapping[str, Any] | Lines
"""One result, or several lines of them."""


class ResultReading:
    """
    Results as they come in, counted.

    :param key_names: The caller's own members by which a row is known; empty for the service's ``key``.
    :param echo: Finds the input row that an answer without a key repeats.
    """

    def __init__(self, include_response: bool, key_names: Sequence[str] = (), echo: EchoKeys | None = None) -> None:
        self.echo = echo
        self._certain = 0
        self._nameless_errors = 0
        self.lines = 0
        self.joins_by_position = False
        """Whether a row without a key is taken for the input row at its place: where input rows have but numbers."""
        self.by_position = 0
        """Rows that got a key by their position."""
        self.by_echo = 0
        """Rows that got a key by the request that they repeat."""
        self._foreign = 0
        self._is_keyed = False
        self.unreadable: list[int] = []
        self.unreadable_count = 0
        self._quick = partial(quick_rows, include_response=include_response)
        self._key_names = tuple(key_names)

    @property
    def answers(self) -> int:
        """
        Lines that are an answer or an error, or tell at least whose they were.

        One error that belongs to nobody, and nothing else, is what a proxy says in place of the answers.
        """
        if not self._certain and self._nameless_errors == 1:
            return 0
        return self._certain + self._nameless_errors

    @property
    def foreign(self) -> int:
        """Lines that the service cannot have written, or errors of nobody among answers that tell whose they are."""
        return self._foreign + (self._nameless_errors if self._is_keyed else 0)

    def rows(self, results: Iterable[Result]) -> Iterator[list[OutputRow] | ResultRow]:
        """
        Yield results: blocks of common ones, which all have a key and are successes, and others one by one.

        Rows without a key get one by position only where they are joined so, and no row has a key.
        """
        number = 0
        for block, quick in read_in_blocks(results, self._quick):
            self.lines += len(block)
            if quick is not None:
                number += len(block)
                self._certain += len(block)
                # Once a row has shown a key, one without is an oddity: by its position it would pass for another row.
                self._is_keyed = True
                yield quick
                continue
            line = block[0]
            if not isinstance(line, Mapping) and not line.strip():
                continue
            number += 1
            # Never raises: a line that cannot be read is counted and named, since the other answers are paid for.
            row = read_row(line, self._key_names)
            self._foreign += is_foreign(line)
            self._count(row, line)
            if row.key is None and self.echo is not None and "request" in row.own:
                row.key = self.echo.key_of(row.own["request"])
                self.by_echo += row.key is not None
            if row.key is not None:
                self._is_keyed = True
            elif self.joins_by_position and row.is_readable and row.is_ordered and not self._is_keyed:
                row.key = f"row-{number}"
                self.by_position += 1
            if row.key is None:
                self.unreadable_count += 1
                if len(self.unreadable) < NAMED_KEYS:
                    self.unreadable.append(self.lines)
            yield row

    def _count(self, row: ResultRow, line: bytes | str | Mapping[str, Any]) -> None:
        if row.is_nobodys:
            self._nameless_errors += 1
        # A last line that breaks off is where the transfer was cut, whatever it still tells.
        elif row.is_readable or (row.key is not None and (isinstance(line, Mapping) or line[-1:] in (b"\n", "\n"))):
            self._certain += 1
