# SPDX-License-Identifier: Apache-2.0
"""Rows read without being sent: what is wrong with each, and how much there is to pay for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.cost.estimate import InputMeasure
from airflow_provider_gemini_batch.rows.normalise import Normaliser
from airflow_provider_gemini_batch.rows.notes import RowReport
from airflow_provider_gemini_batch.rows.validate import validate

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.rows.problems import RowFault
    from airflow_provider_gemini_batch.rows.settings import RowSettings

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
    :param problems: Of the whole input: no rows, too many rows or bytes, a line without end.
    """

    report: RowReport
    size: int = 0
    faults: list[RowFault] = field(default_factory=list)
    refused: int = 0
    has_media: bool = False
    problems: list[str] = field(default_factory=list)

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
    Normaliser(settings, RowReport())
    found = Measured(RowReport())

    def see(lines: bytes) -> None:
        found.has_media = found.has_media or any(name in lines for name in _MEDIA)

    checked = validate(rows, settings, see)
    found.report, found.size, found.refused = checked.report, checked.wire_bytes, checked.report.refused
    found.faults, found.problems = checked.faults, checked.problems
    return found
