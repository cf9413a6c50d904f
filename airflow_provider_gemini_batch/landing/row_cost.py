# SPDX-License-Identifier: Apache-2.0
"""What each answer of a job cost, set on its row as it passes."""

# Nearly every answer comes in a block and counts text alone. Its few counts are priced in floating point, many times as
# fast as by `Rates.cost`, to which every other one goes.
#
# Prices are kept in units of 1e-10 dollars a token. As a rule they are whole numbers then, and so is a row's sum: it is
# exact, and rounding it to a whole number takes a third of the time that rounding dollars to ten digits does. Example:
# 200 tokens at 0.15 dollars a million, 1,500 units each, and 400 at 1.25, 12,500 each, are 5,300,000 units, 0.00053.

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import repeat
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

_UNITS = 10**_DIGITS
"""Of them makes a dollar. A token costs a whole number of them, as a rule, and to round to one is cheap and exact."""

_decode_usage = msgspec.json.Decoder(dict[str, Any]).decode


class _TextRates(NamedTuple):
    """Units for a token of text; *long_above* is 0 where a prompt's length does not matter."""

    input: float
    cached: float
    output: float
    long_above: int

    @classmethod
    def of(cls, rates: Rates) -> _TextRates:
        cached = rates.input if rates.cached is None else rates.cached
        read, again, written = (float((each or 0) * _UNITS / 1_000_000) for each in (rates.input, cached, rates.output))
        return cls(read, again, written, rates.long_above if rates.long is not None else 0)

    def costs(self, usages: Iterable[Usage | None]) -> list[float]:
        """Return the dollars of counts of text alone; 0 for none, and for what has to be read with more care."""
        most = self.long_above or sys.maxsize
        cheaper = self.cached - self.input
        # One expression, as a call for each row costs more than its sum does.
        return [
            0
            if usage is None or prompt > most
            else round(
                (prompt + usage.toolUsePromptTokenCount) * self.input
                + (usage.candidatesTokenCount + usage.thoughtsTokenCount) * self.output
                + (usage.cachedContentTokenCount and min(usage.cachedContentTokenCount, prompt) * cheaper)
            )
            / _UNITS
            for usage in usages
            for prompt in ((usage and (usage.promptTokenCount or usage.tokenCount)) or 0,)
        ]


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
        costs = self._text_costs(rows, usages.each) if usages is not None and usages.is_text else repeat(0.0)
        for row, cost in zip(rows, costs, strict=False):
            row.cost = cost or self._cost(row.status, row.model_version, bytes(row.usage))

    def _text_costs(self, rows: list[OutputRow], usages: list[Usage | None]) -> list[float]:
        """Price a block whose tokens are all text; 0 stands for what is not known."""
        versions = [row.model_version or self._model for row in rows]
        if versions.count(versions[0]) < len(versions):
            each = zip(versions, usages, strict=True)
            return [rates[1].costs([usage])[0] if (rates := self._rates(one)) else 0 for one, usage in each]
        rates = self._rates(versions[0])
        return [0] * len(rows) if rates is None else rates[1].costs(usages)

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
