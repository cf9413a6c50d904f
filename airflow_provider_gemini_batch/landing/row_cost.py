# SPDX-License-Identifier: Apache-2.0
"""
What each answer of a job cost, set on its row as it passes.

Nearly every answer counts text alone. Its few counts are priced in floating point, many times as fast as by
:meth:`~airflow_provider_gemini_batch.cost.prices.Rates.cost`, to which every other one goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_provider_gemini_batch.cost.tokens import read_tokens

if TYPE_CHECKING:
    from datetime import date

    from airflow_provider_gemini_batch.cost.prices import PriceList, Rates
    from airflow_provider_gemini_batch.rows.result_row import OutputRow, ResultRow

_MEDIA = (b"AUDIO", b"IMAGE", b"VIDEO", b"DOCUMENT")
_DIGITS = 10
"""After the point of a dollar: a hundredth of the cheapest token and less."""


class _TextUsage(msgspec.Struct, gc=False):
    promptTokenCount: int = 0
    candidatesTokenCount: int = 0
    thoughtsTokenCount: int = 0
    cachedContentTokenCount: int = 0
    toolUsePromptTokenCount: int = 0
    tokenCount: int = 0


_decode_text_usage = msgspec.json.Decoder(_TextUsage).decode
_decode_usage = msgspec.json.Decoder(dict[str, Any]).decode


class _TextRates(NamedTuple):
    """Dollars for a token of text; *long_above* is 0 where a prompt's length does not matter."""

    input: float
    cached: float
    output: float
    long_above: int

    @classmethod
    def of(cls, rates: Rates) -> _TextRates:
        cached = rates.input if rates.cached is None else rates.cached
        read, again, written = (float(each or 0) / 1e6 for each in (rates.input, cached, rates.output))
        return cls(read, again, written, rates.long_above if rates.long is not None else 0)


class RowCosts:
    """
    Prices rows. An answer whose price is not known costs null, never zero.

    :param model: The job's, for answers that do not tell their version.
    :param day: On which the job ended.
    """

    def __init__(self, prices: PriceList, model: str, day: date) -> None:
        self._prices = prices
        self._model = model
        self._day = day
        self._known: dict[str, tuple[Rates, _TextRates] | None] = {}

    def priced(self, rows: Iterable[list[OutputRow] | ResultRow]) -> Iterator[list[OutputRow] | ResultRow]:
        """Yield *rows* as they come, each with its ``cost``."""
        for found in rows:
            if isinstance(found, list):
                for row in found:
                    row.cost = self._cost(row.status, row.model_version, bytes(row.usage))
            elif found.is_readable:
                found.cost = self._cost(found.status, found.model_version, found.usage)
            else:
                found.cost = None
            yield found

    def _cost(self, status: str, version: str | None, usage: bytes | None) -> float | None:
        if usage is None or usage == b"null":
            return None if status == "succeeded" else 0.0  # what ended in an error before it ran is not billed
        rates = self._rates(version or self._model)
        if rates is None:
            return None
        dollars = _of_text(rates[1], usage)
        if dollars is None:
            try:
                dollars = float(rates[0].cost(read_tokens(_decode_usage(usage))))
            except (msgspec.MsgspecError, UnicodeError):
                return None
        return round(dollars, _DIGITS)

    def _rates(self, version: str) -> tuple[Rates, _TextRates] | None:
        if version not in self._known:
            rates = self._prices.rates(version, self._day)
            found = None if rates is None else (rates, _TextRates.of(rates))
            if len(self._known) >= 1000:
                return found  # a service that names another version each time
            self._known[version] = found
        return self._known[version]


def _of_text(rates: _TextRates, usage: bytes) -> float | None:
    """Price counts of text alone; None for what has to be read with more care."""
    if any(kind in usage for kind in _MEDIA):
        return None
    try:
        found = _decode_text_usage(usage)
    except (msgspec.MsgspecError, UnicodeError):
        return None
    counts = (found.candidatesTokenCount, found.thoughtsTokenCount, found.toolUsePromptTokenCount)
    prompt = found.promptTokenCount or found.tokenCount
    if min(*counts, prompt, found.cachedContentTokenCount) < 0 or (rates.long_above and prompt > rates.long_above):
        return None
    cached = min(found.cachedContentTokenCount, prompt)
    read = prompt - cached + found.toolUsePromptTokenCount
    written = found.candidatesTokenCount + found.thoughtsTokenCount
    return read * rates.input + cached * rates.cached + written * rates.output
