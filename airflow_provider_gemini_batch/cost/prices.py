# SPDX-License-Identifier: Apache-2.0
"""What tokens cost: by model that answered, day, tier of service, prompt length and modality."""

# Four sources are asked in this order, and the first that knows a model decides:
#
# 1. the user's file (`[gemini_batch] prices_path`);
# 2. `cost/price_table.py`, for what the next one lacks;
# 3. `genai-prices`, with its rates for batch where it lists them; for a model of which it knows single calls alone,
#    half of these, the discount that Google documents for all batch and flex calls;
# 4. nobody: the price is unknown (None), never zero.
#
# Example: 1,000,000 prompt tokens, 400,000 of them cached, and 100,000 of output, answered by `gemini-4-argon` on 30
# November 2026 in batch: 600,000 x 1.00 + 400,000 x 0.05 + 100,000 x 5.00 = 1.12 dollars; a day later twice as much.

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal

from airflow_provider_gemini_batch.cost.model_table import answering_model, canonical, known_models, model_facts
from airflow_provider_gemini_batch.cost.price_table import ENTRIES, Entry
from airflow_provider_gemini_batch.cost.tokens import Tokens, read_tokens
from airflow_provider_gemini_batch.errors import ConfigurationError

Tier = Literal["batch", "flex", "standard"]
TIERS = ("batch", "flex", "standard")

_MILLION = Decimal(1_000_000)
_HALF = Decimal("0.5")
_DEAREST = 1_000_000
"""Dollars for a million tokens: what is above is a slip of the pen."""


@dataclass(frozen=True)
class Rates:
    """
    Dollars for a million tokens.

    :param output: None for a model without output, e.g. one that embeds.
    :param cached: None where no rate is listed: cached input then costs what input costs.
    :param media_in: Rates of modalities that differ from *input*.
    :param media_out: Rates of modalities that differ from *output*.
    :param long: Rates of a row whose prompt has more tokens than *long_above*, for the whole row.
    :param source: Where the rates come from.
    """

    input: Decimal
    output: Decimal | None = None
    cached: Decimal | None = None
    cached_audio: Decimal | None = None
    media_in: Mapping[str, Decimal] = field(default_factory=dict)
    media_out: Mapping[str, Decimal] = field(default_factory=dict)
    long: Rates | None = None
    long_above: int = 0
    source: str = ""

    def cost(self, tokens: Tokens) -> Decimal:
        """Return the dollars of one answer."""
        if self.long is not None and tokens.prompt > self.long_above:
            return self.long.cost(tokens)
        cached = self.input if self.cached is None else self.cached
        audio = self.cached_audio if self.cached_audio is not None else cached
        output = self.output or Decimal(0)
        parts = [
            tokens.text_in * self.input,
            tokens.cached * cached,
            tokens.cached_audio * audio,
            *(number * self.media_in.get(kind, self.input) for kind, number in tokens.media_in.items()),
            tokens.text_out * output,
            *(number * self.media_out.get(kind, output) for kind, number in tokens.media_out.items()),
        ]
        return sum(parts, Decimal(0)) / _MILLION

    def times(self, factor: Decimal) -> Rates:
        """Return the same rates for a dearer or cheaper tier of service."""

        def scaled(rate: Decimal | None) -> Decimal | None:
            return None if rate is None else rate * factor

        return replace(
            self,
            input=self.input * factor,
            output=scaled(self.output),
            cached=scaled(self.cached),
            cached_audio=scaled(self.cached_audio),
            media_in={kind: rate * factor for kind, rate in self.media_in.items()},
            media_out={kind: rate * factor for kind, rate in self.media_out.items()},
            long=None if self.long is None else self.long.times(factor),
        )


class PriceList:
    """
    Prices of models by date.

    :param own: What :func:`read_price_file` returned; its models come first.
    """

    def __init__(self, own: Iterable[Entry] = ()) -> None:
        self._own = tuple(own)
        self._known: dict[tuple[str, date, Tier], Rates | None] = {}

    def rates(self, model: str, day: date, tier: Tier = "batch") -> Rates | None:
        """
        Return a model's rates on a day, or None if no source knows them.

        :param model: The version that answered, or the model asked for; with or without ``models/`` before it.
        :param day: UTC.
        """
        if not model.strip():
            return None
        key = (model, day, tier)
        if key not in self._known:
            self._known[key] = self._find(bare_name(model), day, tier)
        return self._known[key]

    def cost_of(
        self, usage: Mapping[str, Any] | None, model: str | None, at: datetime | date, tier: Tier = "batch"
    ) -> Decimal | None:
        """
        Return the dollars that one answer cost, or None if its price is not known.

        :param usage: Google's ``usageMetadata``; None costs nothing: the service counted nothing.
        :param model: The version that answered (``modelVersion``).
        :param at: When the job ran.
        """
        if usage is None:
            return Decimal(0)
        rates = self.rates(model, utc_day(at), tier) if model else None
        return None if rates is None else rates.cost(read_tokens(usage))

    def changes(self, model: str, start: date, days: int, tier: Tier = "batch") -> date | None:
        """Return the first day within *days* after *start* on which a model's rates change, or None."""
        before = self.rates(model, start, tier)
        for number in range(1, days + 1):
            day = start + timedelta(days=number)
            after = self.rates(model, day, tier)
            if (after is None) != (before is None) or (after and before and _differ(after, before)):
                return day
        return None

    def _find(self, name: str, day: date, tier: Tier) -> Rates | None:
        found = _from_table(self._own, name, day, tier)
        if found is not None:
            return found
        if not name.startswith(("projects/", "tunedModels/")):
            name = answering_model(name, "gemini", day)  # rerouted, at the price of the model that answers
        return _from_table(ENTRIES, name, day, tier) or _from_library(name, day, tier)


def bare_name(model: str) -> str:
    """Return a model's short name: ``models/gemini-x`` and ``publishers/google/models/gemini-x`` are ``gemini-x``."""
    if model.startswith("tunedModels/") or (model.startswith("projects/") and "/publishers/google/" not in model):
        return model  # tuned: its name says nothing of its price
    return canonical(model)


def utc_day(at: datetime | date) -> date:
    """Return the day of a moment in UTC; a moment without a zone is UTC."""
    if isinstance(at, datetime):
        return (at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)).date()
    return at


def model_meant(model: str) -> str | None:
    """Return a model of today whose name is nearly *model*; None if *model* is known, or no name is near."""
    name = bare_name(model)
    if (
        name.startswith(("projects/", "tunedModels/"))
        or model_facts(name) is not None
        or PriceList().rates(name, datetime.now(UTC).date())
    ):
        return None
    # A name that is nearly a dead model's finds the model that Google names in its place.
    meant = {each.name: each.replacement if each.shut_down else each.name for each in known_models()}
    meant.update({each.model: each.model for each in ENTRIES if each.model not in meant})
    near = get_close_matches(name, meant, 1, 0.8)
    return meant[near[0]] if near else None


def _differ(one: Rates, other: Rates) -> bool:
    return replace(one, source="") != replace(other, source="")


def _from_table(entries: Iterable[Entry], name: str, day: date, tier: Tier) -> Rates | None:
    """Take the latest entry of a model, by its exact name or with a version behind it (``-001``, ``-preview-...``)."""
    fitting = [
        each for each in entries if _is_version_of(name, each.model) and (each.since is None or each.since <= day)
    ]
    if not fitting:
        return None
    entry = max(fitting, key=lambda each: (len(each.model), each.since or date.min))
    rates = Rates(
        input=Decimal(entry.input),
        output=None if entry.output is None else Decimal(entry.output),
        cached=None if entry.cached is None else Decimal(entry.cached),
        source=entry.source,
    )
    return rates.times(Decimal(2)) if tier == "standard" else rates


def _is_version_of(name: str, model: str) -> bool:
    rest = name.removeprefix(model)
    return name == model or (name.startswith(model) and rest.startswith("-") and rest[1:].isdecimal())


@lru_cache(maxsize=512)
def _from_library(name: str, day: date, tier: Tier) -> Rates | None:
    """Ask ``genai-prices``; it takes 0.4 s to load, so it is loaded when a price is first wanted."""
    import genai_prices

    moment = datetime(day.year, day.month, day.day, tzinfo=UTC)

    def ask(context: dict[str, str] | None) -> Any:
        found = genai_prices.calc_price(
            genai_prices.Usage(input_tokens=1),
            name,
            provider_id="google",
            genai_request_timestamp=moment,
            price_context=context,
        )
        return found.model_price

    try:
        single = _read_library(ask(None))
        if single is None or tier == "standard":
            return single
        batch = _read_library(ask({"processing": "batch"}))
    except LookupError:
        return None
    # A model without rates for batch is answered with those of single calls.
    return batch if batch is not None and _differ(batch, single) else _half(single)


def _half(single: Rates) -> Rates:
    """Halve input and output; no source says that a cache is read at half the price where it lists none for batch."""
    halved = single.times(_HALF)
    if single.long is not None and halved.long is not None:
        halved = replace(halved, long=replace(halved.long, cached=single.long.cached))
    return replace(halved, cached=single.cached, cached_audio=single.cached_audio)


def _read_library(price: Any) -> Rates | None:
    """Read the library's price of a model into rates; None for one that lists no price of input."""

    def rate(name: str, *, high: bool) -> Decimal | None:
        value = getattr(price, name, None)
        if value is None or isinstance(value, Decimal):
            return value
        return Decimal(value.tiers[-1].price if high else value.base)

    def rates(*, high: bool) -> Rates | None:
        base = rate("input_mtok", high=high)
        if base is None:
            return None
        media_in = {kind: rate(f"input_{kind.lower()}_mtok", high=high) for kind in ("AUDIO", "IMAGE", "VIDEO")}
        media_out = {kind: rate(f"output_{kind.lower()}_mtok", high=high) for kind in ("AUDIO", "IMAGE", "VIDEO")}
        return Rates(
            input=base,
            output=rate("output_mtok", high=high),
            cached=rate("cache_read_mtok", high=high),
            cached_audio=rate("cache_audio_read_mtok", high=high),
            media_in={kind: each for kind, each in media_in.items() if each is not None},
            media_out={kind: each for kind, each in media_out.items() if each is not None},
            source="genai-prices",
        )

    low = rates(high=False)
    tiers = getattr(getattr(price, "input_mtok", None), "tiers", None)
    if low is None or not tiers:
        return low
    return replace(low, long=rates(high=True), long_above=int(tiers[-1].start))


def read_price_file(text: str, place: str = "prices_path") -> list[Entry]:
    """
    Read a user's prices.

    Example: ``[{"model": "gemini-3.8-flash", "since": "2026-11-01", "input": 0.3, "output": 1.5, "cached": 0.03}]``, in
    dollars for a million tokens in batch; ``since``, ``output`` and ``cached`` may be left out.

    :param text: JSON.
    :param place: Named in errors.
    :raises ConfigurationError: Naming the entry and the member.
    """
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise ConfigurationError(f"{place} is not JSON: {fault}. Write a list of prices.") from fault
    if not isinstance(given, list):
        raise ConfigurationError(f"{place} must hold a list of prices, not {type(given).__name__}.")
    return [_read_entry(each, f"{place}, price {number}") for number, each in enumerate(given, 1)]


def _read_entry(given: Any, where: str) -> Entry:
    if not isinstance(given, dict) or not isinstance(given.get("model"), str) or not bare_name(given["model"]):
        raise ConfigurationError(f"{where}: it must be an object with a model, e.g. {{'model': 'gemini-3.8-flash'}}.")
    unknown = set(given) - {"model", "since", "input", "output", "cached", "source"}
    if unknown:
        raise ConfigurationError(f"{where} ({given['model']}): unknown member {', '.join(sorted(unknown))}.")
    rates = {
        name: _read_rate(given.get(name), f"{where} ({given['model']}), {name}")
        for name in ("input", "output", "cached")
    }
    if rates["input"] is None:
        raise ConfigurationError(
            f"{where} ({given['model']}): input is missing; dollars for a million tokens in batch."
        )
    try:
        since = date.fromisoformat(given["since"]) if given.get("since") is not None else None
    except (TypeError, ValueError) as fault:
        raise ConfigurationError(f"{where}: since must be a day like 2026-12-01, not {given['since']!r}.") from fault
    source = str(given.get("source") or where)
    return Entry(bare_name(given["model"]), since, rates["input"], rates["output"], rates["cached"], source)


def _read_rate(value: Any, where: str) -> str | None:
    if value is None:
        return None
    try:
        rate = Decimal(str(value)) if not isinstance(value, bool) else Decimal("NaN")
    except InvalidOperation:
        rate = Decimal("NaN")
    if not rate.is_finite() or not 0 <= rate <= _DEAREST:
        raise ConfigurationError(f"{where} must be dollars, 0 or more, not {value!r}.")
    return str(rate)
