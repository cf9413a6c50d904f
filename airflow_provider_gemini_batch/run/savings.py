# SPDX-License-Identifier: Apache-2.0
"""
What did a run save? Batch against single calls; answers that were reused, and those that duplicates share.

What single calls would have cost is priced with each answer, from the same reading of its tokens. What was not asked is
priced at the end, by the tokens of the answers that were taken over, as text at today's prices for batch.

Example: 100 rows; 60 are asked for 0.06 dollars, 30 reused and 10 duplicates, each like the others. Single calls would
have cost 0.12, reuse saved 0.03 and deduplication 0.01.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.run.tables import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.run.money import Prices
    from airflow_provider_gemini_batch.run.outputs import Table
    from airflow_provider_gemini_batch.run.spec import RunSpec

LONG_PROMPT = 200_000
"""Tokens above which some models bill a row at other rates; both kinds are summed up apart."""


@dataclass(frozen=True)
class Savings:
    """
    Dollars by the version that answered.

    :param single_calls: What the answers that were paid for would have cost in single calls.
    :param reused, duplicates: What answers that were taken over would have cost again; None where a price is not known.
    """

    single_calls: Mapping[str, float] = field(default_factory=dict)
    reused: Mapping[str, float | None] = field(default_factory=dict)
    duplicates: Mapping[str, float | None] = field(default_factory=dict)

    def members(self) -> dict[str, float | None]:
        """Return the sums as the manifest's ``cost`` tells them."""
        return {
            "single_calls": _sum(self.single_calls),
            "saved_by_reuse": _sum(self.reused),
            "saved_by_deduplication": _sum(self.duplicates),
        }

    def added_to(self, costs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return the manifest's ``costs`` with both; a version whose answers were all taken over has no rows there."""
        nothing = {"rows": 0, "input_tokens": 0, "output_tokens": 0, "thoughts_tokens": 0, "cached_tokens": 0,
                   "cost": 0.0, "unknown": 0}  # fmt: skip
        names = dict.fromkeys((*costs, *self.reused, *self.duplicates))
        return {
            name: {
                **(costs.get(name) or nothing),
                "single_calls": self.single_calls.get(name) if name in costs else 0.0,
                "saved": _sum({"r": self.reused.get(name, 0.0), "d": self.duplicates.get(name, 0.0)}),
            }
            for name in names
        }


def savings(
    table: Table,
    spec: RunSpec,
    engine: DuckDBPyConnection,
    prices: Prices,
    notes: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Savings:
    """
    Sum up what a run saved.

    :param notes: Those that say what was collected, by shard.
    """
    single: dict[str, float] = {}
    for note in (each for found in notes.values() for each in found):
        for version, dollars in (note.get("single_calls") or {}).items():
            single[version] = single.get(version, 0.0) + dollars
    names = ("answer_source", "model_version", "prompt_tokens", "output_tokens", "thoughts_tokens", "cached_tokens")
    source, version, read, written, thoughts, cached = (quoted(spec.meta(name)) for name in names)
    found = engine.execute(
        f"SELECT {source}, coalesce({version}, 'unknown'), count(*), coalesce(sum({read}), 0)::BIGINT, "
        f"(coalesce(sum({written}), 0) + coalesce(sum({thoughts}), 0))::BIGINT, coalesce(sum({cached}), 0)::BIGINT "
        f"FROM ({table.query}) WHERE {source} IN ('reused', 'duplicate') "
        f"GROUP BY 1, 2, coalesce({read}, 0) > {LONG_PROMPT}"
    ).fetchall()
    saved: dict[str, dict[str, float | None]] = {"reused": {}, "duplicate": {}}
    for kind, name, *numbers in found:
        # By the version that answered, as a model that was rerouted has another price than the one that was asked for.
        dollars = prices.of_sums(spec.model if name == "unknown" else name, *numbers)
        before = saved[kind].get(name, 0.0)
        saved[kind][name] = None if dollars is None or before is None else before + dollars
    return Savings(single, saved["reused"], saved["duplicate"])


def _sum(found: Mapping[str, float | None]) -> float | None:
    known = [each for each in found.values() if each is not None]
    return round(sum(known), 9) if len(known) == len(found) else None
