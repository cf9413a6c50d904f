# SPDX-License-Identifier: Apache-2.0
"""
Everything that is wrong with an input, and everything worth a word, without sending anything.

A submission stops at the tenth bad row; here every row is read to the end, each fault with its line, its reason and its
fix::

    found = validate([b'{"key": "a", "prompt": " "}', b'{"key": "b", "prompt": "x"}'], RowSettings())
    [str(fault) for fault in found.faults]    ["line 1 (key 'a'): 'prompt' is empty"]
    found.report.sent                         1
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.rows.fast_path import FastBlock
from airflow_provider_gemini_batch.rows.normalise import InputRow, Normaliser
from airflow_provider_gemini_batch.rows.notes import RowReport
from airflow_provider_gemini_batch.rows.problems import RowFault

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.rows.normalise import WireRow
    from airflow_provider_gemini_batch.rows.settings import RowSettings

MAX_FAULTS = 1000
"""Faults that are kept, so that a file which is wrong in every line takes no more memory than that; all are counted."""


@dataclass
class Validation:
    """
    What was found in an input.

    :param report: Counts of rows, and what is worth a word (``client.advice`` words it).
    :param faults: Of rows, in order, up to :data:`MAX_FAULTS`; ``report.refused`` counts all.
    :param problems: Of the whole input: settings that cannot work, no rows, too many rows or bytes, a line without end.
    :param wire_bytes: Size of the rows as they would be sent.
    """

    report: RowReport = field(default_factory=RowReport)
    faults: list[RowFault] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    wire_bytes: int = 0

    @property
    def is_fine(self) -> bool:
        """Whether all rows can be sent as one job."""
        return not self.report.refused and not self.problems


def validate(
    rows: Iterable[InputRow], settings: RowSettings, see: Callable[[FastBlock | WireRow], None] | None = None
) -> Validation:
    """
    Check all rows of an input for a job with *settings*. Memory grows by the keys alone.

    :param rows: Lines of a file, or dicts.
    :param see: Shown what can be sent: a row, or several common ones.
    """
    found = Validation()
    try:
        # Skipping is what keeps a refused row from binding keys and columns of those behind it.
        normaliser = Normaliser(replace(settings, skip_bad_rows=True), found.report)
        for outcome in normaliser.outcomes(rows):
            if not isinstance(outcome, RowFault):
                found.wire_bytes += outcome.size if isinstance(outcome, FastBlock) else len(outcome.line())
                if see is not None:
                    see(outcome)
                continue
            found.report.refused += 1
            if len(found.faults) < MAX_FAULTS:
                found.faults.append(outcome)
            if outcome.is_other_kind and found.report.refused == 1 and not found.report.sent:
                break  # what follows is no row either
    except ConfigurationError as error:
        found.problems.append(str(error))
    found.problems += _of_the_whole(found, settings)
    return found


def _of_the_whole(found: Validation, settings: RowSettings) -> Iterable[str]:
    if not found.report.sent and not found.report.refused and not found.problems:
        yield "there are no input rows: the input is empty or holds blank lines alone"
    limit = settings.max_rows
    if limit is not None and found.report.sent > limit:
        yield (
            f"{found.report.sent:,} rows, and {settings.rules.label} takes up to {limit:,} in one such job; split "
            "them over several jobs, e.g. with dynamic task mapping"
        )
    most = settings.rules.max_file_bytes
    if found.wire_bytes > most:
        yield f"{found.wire_bytes:,} bytes as they are sent, and one job takes up to {most:,}; split the rows"
