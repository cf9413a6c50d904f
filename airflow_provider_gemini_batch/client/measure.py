# SPDX-License-Identifier: Apache-2.0
"""Rows read without being sent: what is wrong with each, and how much there is to pay for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.cost.input_measure import InputMeasure
from airflow_provider_gemini_batch.cost.row_sample import RowSample
from airflow_provider_gemini_batch.rows.fast_path import FastBlock
from airflow_provider_gemini_batch.rows.normalise import Normaliser
from airflow_provider_gemini_batch.rows.notes import RowReport
from airflow_provider_gemini_batch.rows.validate import Validation, validate

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.rows.normalise import WireRow
    from airflow_provider_gemini_batch.rows.settings import RowSettings

_MEDIA = (b'"fileData"', b'"inlineData"', b'"cachedContent"')
"""Members whose tokens the bytes of a row do not show; a cached content may be a book, or a film."""


@dataclass(frozen=True)
class Measured:
    """
    What was read.

    :param checked: What is wrong with the input, and what is worth a word.
    :param has_media: Whether a row holds media, or names media or a cached content.
    :param sample: Some of the rows as they are sent, to count their tokens.
    """

    checked: Validation
    has_media: bool = False
    sample: tuple[bytes, ...] = ()

    @property
    def rows(self) -> int:
        """Rows that can be sent."""
        return self.checked.report.sent

    @property
    def refused(self) -> int:
        """Rows that cannot be sent."""
        return self.checked.report.refused

    def input(self) -> InputMeasure:
        """Return what an estimate needs to know."""
        longest = self.checked.report.longest_answer
        return InputMeasure(self.rows, self.checked.wire_bytes, longest, has_media=self.has_media)


class MediaWatch:
    """Says whether any of the rows it was shown holds media, or names media or a cached content."""

    def __init__(self) -> None:
        self.found = False

    def see(self, lines: bytes) -> None:
        """Take a row's line, or what stands around the texts of common rows, in which no media can be."""
        self.found = self.found or any(name in lines for name in _MEDIA)

    def see_rows(self, rows: FastBlock | WireRow) -> None:
        """Take one row, or several common ones."""
        if not self.found:  # a row's line is made anew at each call
            self.see(rows.around if isinstance(rows, FastBlock) else rows.line())


class RowWatch:
    """Notes of rows that pass what an estimate needs: whether there are media, and a few that stand for all."""

    def __init__(self) -> None:
        self._media = MediaWatch()
        self._sample = RowSample()

    @property
    def has_media(self) -> bool:
        """Whether a row holds media or names some."""
        return self._media.found

    @property
    def sample(self) -> tuple[bytes, ...]:
        """Some of the rows."""
        return self._sample.rows

    def see(self, lines: bytes) -> None:
        """Take one row, or the lines of several."""
        self._media.see(lines)
        self._sample.see(lines)

    def see_rows(self, rows: FastBlock | WireRow) -> None:
        """Take one row, or several common ones."""
        if isinstance(rows, FastBlock):
            self._media.see(rows.around)
            self._sample.pass_by(rows.size, rows.lines)
        else:
            self.see(rows.line())


def measure(rows: Iterable[Any], settings: RowSettings) -> Measured:
    """
    Read all rows, in memory that does not grow with them.

    :raises ConfigurationError: If *settings* cannot be applied to any row.
    """
    Normaliser(settings, RowReport())  # validate() would tell it among the problems of the file
    watch = RowWatch()
    checked = validate(rows, settings, watch.see_rows)
    return Measured(checked, watch.has_media, watch.sample)
