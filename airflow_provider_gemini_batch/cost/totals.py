# SPDX-License-Identifier: Apache-2.0
"""What many answers cost together, by the model version that answered."""

# Prices are linear in tokens but for one thing: a prompt above a model's threshold is billed at other rates, whole. So
# token counts are summed up in two heaps a version, short prompts and long ones, and priced once at the end. Millions
# of answers take no more room than one.

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.cost.prices import PriceList, utc_day
from airflow_provider_gemini_batch.cost.tokens import Tokens, read_tokens

if TYPE_CHECKING:
    from decimal import Decimal

    from airflow_provider_gemini_batch.cost.prices import Rates, Tier

UNKNOWN = "unknown"
"""Stands for the version of answers that do not tell theirs."""

MAX_VERSIONS = 100
"""Different model versions that are told apart; further ones count as unknown."""

_PLAIN = ("text_in", "cached", "cached_audio", "text_out", "thoughts")


class CostTotals:
    """
    Sums up usages.

    :param model: The model asked for: what an answer without a version is priced by.
    :param ended: When the job ended, RFC 3339 or a day; now by default.
    :param prices: None uses our own list.
    """

    def __init__(
        self, model: str = "", ended: str | date | None = None, prices: PriceList | None = None, tier: Tier = "batch"
    ) -> None:
        self._model = model
        self.day = _day_of(ended)
        self._prices = prices or PriceList()
        self._tier = tier
        self._rows: Counter[str] = Counter()
        self._sums: dict[tuple[str, bool], Counter[str]] = {}

    def long_above(self, version: str | None) -> int | None:
        """Return the tokens of a prompt above which a row is billed at other rates, or None if there are none."""
        rates = self._rates(version or UNKNOWN, self._tier)
        return rates.long_above if rates is not None and rates.long is not None else None

    def add(self, version: str | None, usage: Mapping[str, Any], sign: int = 1) -> None:
        """
        Take one answer.

        :param version: The model version that answered.
        :param usage: Google's ``usageMetadata``.
        :param sign: -1 for one that was counted before and turns out to be none.
        """
        tokens = read_tokens(usage)
        self._rows[self._name(version)] += sign
        # A long prompt reprices its whole row, so that long and short rows are summed apart.
        sums = self._heap(version, is_long=self._is_long(version, tokens.prompt))
        for name in _PLAIN:
            sums[name] += sign * getattr(tokens, name)
        for side, media in (("in", tokens.media_in), ("out", tokens.media_out)):
            for kind, number in media.items():
                sums[f"{side} {kind}"] += sign * number

    def add_text(self, version: str | None, rows: int, read: int, written: int, thoughts: int) -> None:
        """
        Take many answers with short prompts, text alone and nothing cached.

        :param read: Input tokens, those of tool results among them.
        :param written: Output tokens with thoughts.
        """
        self._rows[self._name(version)] += rows
        sums = self._heap(version, is_long=False)
        sums["text_in"] += read
        sums["text_out"] += written
        sums["thoughts"] += thoughts

    def to_json(self) -> dict[str, dict[str, Any]]:
        """
        Return, for each version: ``rows``, ``input_tokens``, ``output_tokens``, of which ``thoughts_tokens``,
        ``cached_tokens``, ``cost`` and ``single_calls`` (dollars here, and in single calls; None if not known) and
        ``unknown``, the rows whose price is not known.
        """
        return {version: self._part(version) for version, rows in self._rows.most_common() if rows > 0}

    # --- within -------------------------------------------------------------------------------------------------------

    def _part(self, version: str) -> dict[str, Any]:
        found = [(is_long, sums) for (name, is_long), sums in self._sums.items() if name == version]
        whole = sum((sums for _, sums in found), Counter[str]())
        cost, single = (self._dollars(version, found, tier) for tier in (self._tier, "standard"))
        return {
            "rows": self._rows[version],
            "input_tokens": sum(whole[name] for name in whole if name.startswith("in ") or name == "text_in")
            + whole["cached"] + whole["cached_audio"],
            "output_tokens": sum(whole[name] for name in whole if name.startswith("out ") or name == "text_out"),
            "thoughts_tokens": whole["thoughts"],
            "cached_tokens": whole["cached"] + whole["cached_audio"],
            "cost": None if cost is None else round(float(cost), 9),
            "single_calls": None if single is None else round(float(single), 9),
            "unknown": self._rows[version] if cost is None else 0,
        }  # fmt: skip

    def _dollars(self, version: str, found: list[tuple[bool, Counter[str]]], tier: Any) -> Decimal | None:
        rates = self._rates(version, tier)
        if rates is None:
            return None
        parts = [(rates.long or rates if is_long else rates, sums) for is_long, sums in found]
        return sum((each.cost(_tokens(sums)) for each, sums in parts), start=0 * rates.input)

    def _rates(self, version: str, tier: Any) -> Rates | None:
        return self._prices.rates(self._model if version == UNKNOWN else version, self.day, tier)

    def _is_long(self, version: str | None, prompt: int) -> bool:
        above = self.long_above(version)
        return above is not None and prompt > above

    def _name(self, version: str | None) -> str:
        # The version comes out of the answers, which are foreign data: their number is bounded.
        if version and (version in self._rows or len(self._rows) < MAX_VERSIONS):
            return version
        return UNKNOWN

    def _heap(self, version: str | None, *, is_long: bool) -> Counter[str]:
        return self._sums.setdefault((self._name(version), is_long), Counter())


def _tokens(sums: Counter[str]) -> Tokens:
    """Return sums as counts; their prompt is 0, as the rates are chosen already."""

    def media(side: str) -> dict[str, int]:
        return {name.removeprefix(side): number for name, number in sums.items() if name.startswith(side)}

    return Tokens(
        text_in=sums["text_in"],
        cached=sums["cached"],
        cached_audio=sums["cached_audio"],
        media_in=media("in "),
        text_out=sums["text_out"],
        media_out=media("out "),
        thoughts=sums["thoughts"],
    )


def _day_of(moment: str | date | None) -> date:
    if isinstance(moment, str):
        try:
            return utc_day(datetime.fromisoformat(moment))
        except ValueError:
            return datetime.now(UTC).date()
    return moment or datetime.now(UTC).date()
