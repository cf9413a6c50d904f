# SPDX-License-Identifier: Apache-2.0
"""What may a shard cost at most, and does the run's cap allow it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.cost.budget import Budget, CostLimitError
from airflow_provider_gemini_batch.cost.estimate import InputMeasure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_gemini_batch.run import plan
    from airflow_provider_gemini_batch.run.money import Prices
    from airflow_provider_gemini_batch.run.spec import RunSpec
    from airflow_provider_gemini_batch.run.workspace import Workspace


def estimate(spec: RunSpec, prices: Prices, entry: Mapping[str, Any]) -> float | None:
    """
    Return the dollars that a shard may cost at most, or None where the price is not known.

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
    spent = sum(float(note.get("cost") or 0) for found in notes["collected"].values() for note in found)
    flying = [name for name in notes["job"] if name not in notes["collected"]]
    reserved = sum(estimate(spec, prices, work.entry(name)[1]) or 0.0 for name in flying)
    Budget(spec.max_cost, spent, reserved).check(estimate(spec, prices, entry), spec.model)
