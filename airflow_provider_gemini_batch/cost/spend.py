# SPDX-License-Identifier: Apache-2.0
"""What finished tasks cost, summed up from the manifests that they left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

COLUMNS = ("day", "dag", "task", "model")
"""What spend can be summed up by."""


def parts_of(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """
    Split a history entry into a part for each model version that answered.

    :param entry: ``{"dag_id", "task_id", "run_id", "ended_at", "manifest": {...}}``. The manifest's ``costs`` are
        ``{version: {"rows", "input_tokens", "output_tokens", "cost", "unknown", "single_calls", "saved"}}``; without
        them the whole is one part.
    """
    manifest = entry.get("manifest")
    manifest = manifest if isinstance(manifest, Mapping) else {}
    common = {
        "day": str(entry.get("ended_at") or "")[:10],
        "dag": str(entry.get("dag_id") or ""),
        "task": str(entry.get("task_id") or ""),
    }
    costs = manifest.get("costs")
    if not isinstance(costs, Mapping) or not costs:
        return [{**common, **_whole(manifest)}, *_replaced(common, manifest)]
    return [
        *_replaced(common, manifest),
        *(
            {
                **common,
                "model": str(version),
                "rows": _number(part.get("rows")),
                "input_tokens": _number(part.get("input_tokens")),
                "output_tokens": _number(part.get("output_tokens")),
                "cost": _number(part.get("cost")),
                "unknown": _number(part.get("unknown")),
                "single_calls": _number(part.get("single_calls")),
                "saved": _number(part.get("saved")),
            }
            for version, part in costs.items()
            if isinstance(part, Mapping)
        ),
    ]


def _replaced(common: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a part for what a run had paid when it was begun anew, if that is anything; its rows count there."""
    cost = manifest.get("cost")
    paid = _number(cost.get("replaced")) if isinstance(cost, Mapping) else 0
    return [{**common, "model": _versions(manifest), "cost": paid}] if paid else []


def _versions(manifest: Mapping[str, Any]) -> str:
    versions = manifest.get("model_versions")
    return ", ".join(sorted(versions) if isinstance(versions, Mapping) else []) or str(manifest.get("model") or "")


def _whole(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Read a run's manifest, which tells tokens and cost of all versions together."""
    tokens, cost = manifest.get("tokens"), manifest.get("cost")
    tokens = tokens if isinstance(tokens, Mapping) else {}
    cost = cost if isinstance(cost, Mapping) else {}
    return {
        "model": _versions(manifest),
        "rows": _number(manifest.get("total")),
        "input_tokens": _number(tokens.get("prompt")),
        "output_tokens": _number(tokens.get("output")) + _number(tokens.get("thoughts")),
        "cost": _number(cost.get("actual")),
        "unknown": _number(cost.get("rows_of_unknown_cost")),
        "single_calls": _number(cost.get("single_calls")),
        "saved": _number(cost.get("saved_by_reuse")) + _number(cost.get("saved_by_deduplication")),
    }


def _number(value: Any) -> float:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0


def summed(entries: Iterable[Mapping[str, Any]], by: Sequence[str]) -> list[dict[str, Any]]:
    """
    Sum entries up.

    :param by: Some of :data:`COLUMNS`.
    :return: As :func:`sum_parts`.
    """
    return sum_parts((part for entry in entries for part in parts_of(entry)), by)


def sum_parts(parts: Iterable[Mapping[str, Any]], by: Sequence[str]) -> list[dict[str, Any]]:
    """
    Sum parts of entries up.

    :param parts: As :func:`parts_of` returns them.
    :param by: Some of :data:`COLUMNS`.
    :return: A dict for each combination: the columns of *by*, ``rows``, ``input_tokens``, ``output_tokens``, ``cost``
        in dollars, ``unknown``, the rows whose price is not known and which are not in ``cost``, ``single_calls``, what
        the same answers would have cost in single calls, and ``saved``, what reuse and deduplication saved (both in
        dollars, 0 for what a manifest does not tell).
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for part in parts:
        key = tuple(part[name] for name in by)
        row = found.setdefault(
            key,
            {**dict(zip(by, key, strict=True)), "rows": 0, "input_tokens": 0, "output_tokens": 0, "cost": 0.0,
             "unknown": 0, "single_calls": 0.0, "saved": 0.0},
        )  # fmt: skip
        for name in ("rows", "input_tokens", "output_tokens", "cost", "unknown", "single_calls", "saved"):
            row[name] += part.get(name, 0)
    return [found[key] for key in sorted(found)]


def unpaid(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """
    Return what was not paid, and why, in dollars; empty where no manifest tells.

    A row of unknown cost is in no ``cost``, but what an earlier attempt at it would have cost in a single call may be
    known, and is in ``single_calls``. How many rows that is true of, nobody has noted: the share of all such rows is
    left out, so that the sum is rather too low than too high.

    :param found: Parts: ``single_calls``, what their answers would have cost in single calls, ``cost``, ``rows``,
        ``unknown``, those of unknown cost, and ``saved``, what reuse and deduplication saved. Manifests of former
        versions have none of these.
    """
    told = [part for part in found if part.get("single_calls")]
    reasons = {
        "Batch instead of single calls": sum(part["single_calls"] * _share_known(part) - part["cost"] for part in told),
        "Earlier answers taken, same request asked once": sum(part.get("saved") or 0.0 for part in found),
    }
    return [(name, dollars) for name, dollars in reasons.items() if dollars > 0]


def _share_known(part: Mapping[str, Any]) -> float:
    rows = _number(part.get("rows"))
    return 1.0 - min(1.0, _number(part.get("unknown")) / rows) if rows else 1.0
