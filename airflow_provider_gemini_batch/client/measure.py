# SPDX-License-Identifier: Apache-2.0
"""Rows read without being sent: what is wrong with each, and how much there is to pay for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.cost.estimate import InputMeasure
from airflow_provider_gemini_batch.rows.normalise import Normaliser, WireRow
from airflow_provider_gemini_batch.rows.notes import RowReport
from airflow_provider_gemini_batch.rows.problems import RowFault

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.rows.settings import RowSettings

MAX_FAULTS = 1_000
"""Faults that are kept; all are counted."""

_MEDIA = (b'"fileData"', b'"inlineData"')


@dataclass
class Measured:
    """
    What was read.

    :param report: What is worth a word about the rows.
    :param size: Bytes of all requests that can be sent.
    :param faults: The first rows that cannot be sent.
    :param refused: How many cannot.
    :param has_media: Whether a row holds media or names some.
    """

    report: RowReport
    size: int = 0
    faults: list[RowFault] = field(default_factory=list)
    refused: int = 0
    has_media: bool = False

    @property
    def rows(self) -> int:
        """Rows that can be sent."""
        return self.report.sent

    def input(self) -> InputMeasure:
        """Return what an estimate needs to know."""
        longest = self.report.max_output_tokens or None
        return InputMeasure(self.rows, self.size, longest, has_media=self.has_media)


def measure(rows: Iterable[Any], settings: RowSettings) -> Measured:
    """
    Read all rows, in memory that does not grow with them.

    :raises ConfigurationError: If *settings* cannot be applied to any row.
    """
    found = Measured(RowReport())
    for each in Normaliser(settings, found.report).outcomes(rows):
        if isinstance(each, RowFault):
            found.refused += 1
            if len(found.faults) < MAX_FAULTS:
                found.faults.append(each)
            if each.is_other_kind and found.refused == 1 and not found.rows:
                break
            continue
        line = each.line() if isinstance(each, WireRow) else each.lines()
        found.size += len(line)
        found.has_media = found.has_media or any(name in line for name in _MEDIA)
    return found
