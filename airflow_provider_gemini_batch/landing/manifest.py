# SPDX-License-Identifier: Apache-2.0
"""What came of a landing: a small record of places, counts and first examples that fits into an XCom."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Self

import msgspec

from airflow_provider_gemini_batch.cost.totals import CostTotals
from airflow_provider_gemini_batch.landing.usages import COUNTS, Usage, UsageReader, Usages
from airflow_provider_gemini_batch.rows.judging import is_cut_off

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.rows.result_row import OutputRow, ResultRow

NAMED_KEYS = 10
"""Keys of one kind (missing, repeated, unknown) that a manifest names."""

MAX_REASONS = 100
"""Different errors that are counted."""

MAX_WORDS = 100
"""Different model versions, and finish reasons, that are counted."""

_MESSAGE = 300
"""Characters of an error's message by which errors are told apart."""


@dataclass(frozen=True)
class Manifest:
    """
    What came of a landing. ``docs/results.md`` explains the members.

    ``succeeded``, ``failed``, ``blocked`` and ``missing`` add up to ``total``, the lines written. ``truncated`` are
    those of the succeeded whose answer was cut off. ``by_number`` are rows that are known by their number alone and
    were joined although the job does not tell from which input it was made.
    """

    job_name: str = ""
    model: str = ""
    output_path: str = ""
    errors_path: str | None = None
    input_sha256: str | None = None
    total: int = 0
    succeeded: int = 0
    failed: int = 0
    blocked: int = 0
    missing: int = 0
    truncated: int = 0
    repeated: int = 0
    unknown: int = 0
    unreadable: int = 0
    missing_keys: list[str] = field(default_factory=list)
    repeated_keys: list[str] = field(default_factory=list)
    unknown_keys: list[str] = field(default_factory=list)
    unreadable_lines: list[int] = field(default_factory=list)
    usage: dict[str, int] = field(default_factory=dict)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)
    model_versions: dict[str, int] = field(default_factory=dict)
    finish_reasons: dict[str, int] = field(default_factory=dict)
    first_errors: list[dict[str, Any]] = field(default_factory=list)
    paid_twice: list[str] = field(default_factory=list)
    by_number: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` gave; members that this version does not know are left out."""
        # A newer version may have written it, and a task of an older one resumes with it during a deployment.
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


_decode_usage = msgspec.json.Decoder(dict[str, Any]).decode


class KeySample:
    """How many keys of a kind there were, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, key: str | None) -> None:
        """Count a key."""
        self.count += 1
        if key is not None and len(self.first) < NAMED_KEYS:
            self.first.append(key)


class Totals:
    """
    Statuses, tokens, costs, errors, finish reasons and model versions of rows, counted as they are written.

    :param costs: Sums up what they cost; None uses our own prices of today.
    :param usages: Decodes what blocks count.
    """

    def __init__(self, costs: CostTotals | None = None, usages: UsageReader | None = None) -> None:
        self.costs = costs or CostTotals()
        self._usages = usages or UsageReader()
        self.statuses: Counter[str] = Counter()
        self.usage: Counter[str] = Counter()
        self.reasons: Counter[tuple[int, str]] = Counter()
        self.finish_reasons: Counter[str] = Counter()
        self.model_versions: Counter[str] = Counter()
        self.truncated = 0

    def add_successes(self, rows: Sequence[OutputRow]) -> None:
        """Count rows that all are successes: what :meth:`add` does, for many at once."""
        # A block is decoded in one call, which is far cheaper than one for each row.
        usages = self._usages.read(rows)
        if usages is None:
            for row in rows:
                self.add(row)
            return
        known = [counts for counts in usages.each if counts is not None]
        self.statuses["succeeded"] += len(rows)
        sums = {name: sum(map(attrgetter(name), known)) for name in COUNTS}
        for name, number in sums.items():
            self.usage[name] += number
        self._add_costs(rows, usages, known, sums)
        self._add_words(self.model_versions, Counter([row.model_version for row in rows]))
        reasons = Counter([row.finish_reason for row in rows])
        self._add_words(self.finish_reasons, reasons)
        self.truncated += sum(count for word, count in reasons.items() if is_cut_off(word))

    def _add_costs(
        self, rows: Sequence[OutputRow], usages: Usages, known: Sequence[Usage], sums: Mapping[str, int]
    ) -> None:
        """Add many usages at once where one price holds for all their tokens, which is the rule; else one by one."""
        versions = {row.model_version for row in rows}
        version = next(iter(versions))
        above = self.costs.long_above(version)
        # Sums can be priced in place of rows where every token has the same price: one version, nothing cached, text
        # alone, and no prompt so long that its row is billed at the higher tier.
        is_plain = (
            len(versions) == 1
            and not sums["cachedContentTokenCount"]
            and not (sums["promptTokenCount"] and sums["tokenCount"])
            and usages.is_text
            and (above is None or max((counts.promptTokenCount for counts in known), default=0) <= above)
        )
        if is_plain:
            read = sums["promptTokenCount"] + sums["tokenCount"] + sums["toolUsePromptTokenCount"]
            thoughts = sums["thoughtsTokenCount"]
            self.costs.add_text(version, len(known), read, sums["candidatesTokenCount"] + thoughts, thoughts)
            return
        for row, counts in zip(rows, usages.each, strict=True):
            if counts is not None:
                self.costs.add(row.model_version, _decode_usage(bytes(row.usage)))

    def add(self, row: OutputRow | ResultRow, sign: int = 1) -> None:
        """
        Count a row.

        :param sign: -1 for one that was counted before and turns out to be none.
        """
        self.statuses[row.status] += sign
        usage = bytes(row.usage or b"null")
        if usage != b"null":
            try:
                counts = _decode_usage(usage)
            except msgspec.MsgspecError:
                counts = {}
            for name, count in counts.items():
                if type(count) is int:
                    self.usage[name] += sign * count
            if counts:
                self.costs.add(row.model_version, counts, sign)
        self._add_words(self.model_versions, {row.model_version: sign})
        self._add_words(self.finish_reasons, {row.finish_reason: sign})
        if row.status == "succeeded" and is_cut_off(row.finish_reason):
            self.truncated += sign
        if row.error is not None and row.status != "missing":
            reason = (row.error.get("code") or 0, str(row.error.get("message"))[:_MESSAGE])
            if reason in self.reasons or len(self.reasons) < MAX_REASONS:
                self.reasons[reason] += sign

    @staticmethod
    def _add_words(words: Counter[str], counts: Mapping[str | None, int]) -> None:
        for word, count in counts.items():
            # What the service invents (a version, a reason) is foreign data: its number is bounded, as the manifest
            # goes to XCom.
            if word and (word in words or len(words) < MAX_WORDS):
                words[word] += count

    def members(self) -> dict[str, Any]:
        """Return the members of a :class:`Manifest` that are counted here."""
        return {
            **{status: self.statuses[status] for status in ("succeeded", "failed", "blocked", "missing")},
            "truncated": self.truncated,
            "usage": _positive(self.usage.items()),
            "costs": self.costs.to_json(),
            "model_versions": _positive(self.model_versions.most_common()),
            "finish_reasons": _positive(self.finish_reasons.most_common()),
            "first_errors": [
                {"code": code, "message": message, "count": count}
                for (code, message), count in self.reasons.most_common(NAMED_KEYS)
                if count > 0
            ],
        }


def _positive(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    return {name: count for name, count in counts if count}


# A version of the model asked for: gemini-3.5-flash-lite-001, gemini-2.5-flash@default, ...-preview-09-2026.
_VERSION = re.compile(r"(?:-\d{3}|-(?:preview|exp)[-\d]*|-\d\d-\d{2,4}|@[\w.-]+)*")


def is_model_asked_for(asked: str, answered: str) -> bool:
    """
    Say whether the model that answered is the one asked for, or a version of it.

    Nothing is said against an answer to an alias (``gemini-flash-latest``) or to a tuned model: names do not tell.
    """
    name = asked.rpartition("/")[2].partition("@")[0]
    is_tuned = "tunedModels/" in asked or (asked.startswith("projects/") and "/publishers/" not in asked)
    # An alias is answered by whatever it points to now, and a tuned model by the name of its base.
    if not name or name.endswith("-latest") or is_tuned:
        return True
    given = answered.rpartition("/")[2]
    return given.startswith(name) and _VERSION.fullmatch(given[len(name) :]) is not None


def oddities(manifest: Manifest) -> list[str]:
    """Return what a person should know of a landing beside rows without a whole answer."""
    found = []
    others = {
        version: count
        for version, count in manifest.model_versions.items()
        if not is_model_asked_for(manifest.model, version)
    }
    if others:
        counts = ", ".join(f"{count} by {version}" for version, count in others.items())
        found.append(
            f"answers came from a model that was not asked for ({manifest.model}): {counts}. Its price and its answers "
            "may differ."
        )
    if manifest.unknown:
        found.append(f"{manifest.unknown} answers belong to no row of the input, e.g. {manifest.unknown_keys[:3]}.")
    if manifest.repeated:
        found.append(f"{manifest.repeated} answers repeat the key of another one, e.g. {manifest.repeated_keys[:3]}.")
    if manifest.by_number:
        found.append(
            f"{manifest.by_number} rows without a key were joined by their number, and the job does not tell whether "
            "input_path holds the rows that it was made from, in that order. Give rows a key."
        )
    return found
