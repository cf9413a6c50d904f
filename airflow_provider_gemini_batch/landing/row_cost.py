# SPDX-License-Identifier: Apache-2.0
"""What each answer of a job cost, set on its row as it passes."""

# Nearly every answer comes in a block and counts text alone. Its few counts are priced in floating point, many times as
# fast as by `Rates.cost`, to which every other one goes.

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_provider_gemini_batch.cost.tokens import Tokens, read_tokens

if TYPE_CHECKING:
    from datetime import date

    from airflow_provider_gemini_batch.cost.prices import PriceList, Rates
    from airflow_provider_gemini_batch.landing.usages import Usage, UsageReader
    from airflow_provider_gemini_batch.rows.result_row import OutputRow, ResultRow

_DIGITS = 10
"""After the point of a dollar: a hundredth of the cheapest token and less."""

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

    def cost(self, counts: Usage) -> float | None:
        """Price counts of text alone; None for what has to be read with more care."""
        written = counts.candidatesTokenCount + counts.thoughtsTokenCount
        prompt = counts.promptTokenCount or counts.tokenCount
        asked = counts.cachedContentTokenCount
        least = min(
            counts.candidatesTokenCount, counts.thoughtsTokenCount, counts.toolUsePromptTokenCount, prompt, asked
        )
        if least < 0 or (self.long_above and prompt > self.long_above):
            return None
        cached = min(asked, prompt)
        read = prompt - cached + counts.toolUsePromptTokenCount
        return read * self.input + cached * self.cached + written * self.output


class RowCosts:
    """
    Prices rows. An answer whose price is not known costs null, never zero.

    :param model: The job's, for answers that do not tell their version.
    :param day: On which the job ended.
    :param usages: Decodes what blocks count.
    """

    def __init__(self, prices: PriceList, model: str, day: date, usages: UsageReader) -> None:
        self._prices = prices
        self._model = model
        self._day = day
        self._usages = usages
        self._known: dict[str, tuple[Rates, _TextRates] | None] = {}

    def priced(self, rows: Iterable[list[OutputRow] | ResultRow]) -> Iterator[list[OutputRow] | ResultRow]:
        """Yield *rows* as they come, each with its ``cost``."""
        for found in rows:
            if isinstance(found, list):
                self._price_block(found)
            elif found.is_readable:
                found.cost = self._cost(found.status, found.model_version, found.usage)
            else:
                found.cost = None
            yield found

    def _price_block(self, rows: list[OutputRow]) -> None:
        usages = self._usages.read(rows)
        for index, row in enumerate(rows):
            counts = usages.each[index] if usages is not None and usages.is_text else None
            rates = self._rates(row.model_version or self._model) if counts is not None else None
            dollars = rates[1].cost(counts) if rates is not None and counts is not None else None
            if dollars is None:
                row.cost = self._cost(row.status, row.model_version, bytes(row.usage))
            else:
                row.cost = round(dollars, _DIGITS)

    def _cost(self, status: str, version: str | None, usage: bytes | None) -> float | None:
        if usage is None or usage == b"null":
            return None if status == "succeeded" else 0.0  # what ended in an error before it ran is not billed
        rates = self._rates(version or self._model)
        if rates is None:
            return None
        try:
            tokens = read_tokens(_decode_usage(usage))
        except (msgspec.MsgspecError, UnicodeError):
            return None
        if tokens == Tokens() and not _is_counted(usage):
            return None
        return round(float(rates[0].cost(tokens)), _DIGITS)

    def _rates(self, version: str) -> tuple[Rates, _TextRates] | None:
        if version not in self._known:
            rates = self._prices.rates(version, self._day)
            found = None if rates is None else (rates, _TextRates.of(rates))
            if len(self._known) >= 1000:
                return found  # a service that names another version each time
            self._known[version] = found
        return self._known[version]


def _is_counted(usage: bytes) -> bool:
    """Say whether a usage names a count that we know: others are not nothing, but unknown."""
    return b'TokenCount"' in usage or b'"tokenCount"' in usage
