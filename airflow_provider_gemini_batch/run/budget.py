# SPDX-License-Identifier: Apache-2.0
"""What may a shard cost at most, and does the run's cap allow it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.cost.budget import Budget, CostLimitError
from airflow_provider_gemini_batch.cost.estimate import InputMeasure
from airflow_provider_gemini_batch.run.plan import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_gemini_batch.run import plan
    from airflow_provider_gemini_batch.run.money import Prices
    from airflow_provider_gemini_batch.run.spec import RunSpec
    from airflow_provider_gemini_batch.run.workspace import Workspace


PIECES = 10
"""A cap that all rows may pass is spent in so many pieces, or more."""


class WaitForCostError(CostLimitError):
    """What is next fits once jobs in flight have shown what they really cost."""


def estimate(spec: RunSpec, prices: Prices, entry: Mapping[str, Any]) -> float | None:
    """
    Return the dollars that a shard may cost at most, or None where the price is not known.

    Each row counts with the longest answer, whatever the answers so far have cost: a cap is kept, not likely kept.

    :param entry: The shard's entry in its round.
    """
    # Rows without a template may set a limit of their own, above the run's.
    config = (spec.generation_config or {}) if spec.prompt is not None else {}
    limit = config.get("maxOutputTokens", config.get("max_output_tokens"))
    return prices.at_most(
        spec.kind,
        spec.model,
        rows=int(entry["rows"]),
        input_bytes=int(entry["bytes"]),
        max_output_tokens=limit if isinstance(limit, int) else None,
        tier="batch",
    )


def check_caps(work: Workspace, shard: plan.Shard) -> None:
    """
    Refuse a shard that may cost more, or send more tokens, than is left.

    What is spent is the cost of the answers collected; a job that is not collected counts with its estimate.

    :raises CostLimitError: Naming the cap and what the run may come to.
    """
    spec, prices = work.spec, work.context.prices
    if spec.max_cost is None and spec.max_input_tokens is None:
        return
    _, entry = work.entry(shard.id)
    notes = work.checkpoint.notes()
    if spec.max_input_tokens is not None:
        sent = [work.entry(name)[1] for name in notes["job"]]
        tokens = sum(InputMeasure(int(one["rows"]), int(one["bytes"])).tokens.high or 0 for one in (*sent, entry))
        if tokens > spec.max_input_tokens:
            raise CostLimitError(
                f"max_input_tokens={spec.max_input_tokens}: with what is next, the run may send {tokens:.0f} "
                "tokens. Raise it, or ask fewer rows (sample=)."
            )
    spent = _spent(work, notes["collected"])
    flying = [name for name in notes["job"] if name not in notes["collected"]]
    reserved = sum(estimate(spec, prices, work.entry(name)[1]) or 0.0 for name in flying)
    wanted = estimate(spec, prices, entry)
    try:
        Budget(spec.max_cost, spent, reserved).check(wanted, spec.model)
    except CostLimitError as error:
        if reserved and spent + (wanted or 0.0) <= (spec.max_cost or 0.0):
            raise WaitForCostError(str(error)) from None
        raise


def _spent(work: Workspace, collected: Mapping[str, Sequence[Mapping[str, Any]]]) -> float:
    """
    Return the dollars that all answers so far have cost.

    Answers of unknown cost count as the longest ones. Lost ones do not: most jobs that expire have never run.
    """
    total = sum(float(note.get("cost") or 0) for note in _earlier(work))
    for shard, found in collected.items():
        for note in found:
            total += float(note.get("cost") or 0)
            if unknown := int(note.get("cost_unknown") or 0):
                _, entry = work.entry(shard)
                total += (estimate(work.spec, work.context.prices, entry) or 0.0) * unknown / int(entry["rows"])
    return total


def _earlier(work: Workspace) -> list[dict[str, Any]]:
    """Return what notes say of the answers that this task instance paid for before it was cleared."""
    if not work.context.run_claim:
        return []  # outside of a task each call has its own cap
    return [note for older in work.checkpoint.older() for note in older.collected()]


def small_shards(work: Workspace, rows: int, size: int, limits: Limits) -> Limits | None:
    """
    Return limits of a round's first shards where the cap may not allow all of its rows; None where it does.

    A shard counts with the longest answers, of which few are so long: small ones show soon what a row really costs, and
    leave less of the cap unused than one large shard that is refused.

    :param rows, size: Of the round, and the bytes of its requests.
    """
    cap = work.spec.max_cost
    if cap is None or not rows:
        return None
    left = cap - _spent(work, work.checkpoint.notes()["collected"])
    wanted = estimate(work.spec, work.context.prices, {"rows": rows, "bytes": size})
    if wanted is None or wanted <= left or left <= 0:
        return None
    share = left / wanted / PIECES
    return Limits(max(1, min(limits.rows, int(rows * share))), max(1, min(limits.input_bytes, int(size * share))))
