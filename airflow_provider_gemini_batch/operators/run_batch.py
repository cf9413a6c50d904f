# SPDX-License-Identifier: Apache-2.0
"""Rows in, table out: the operator that asks, and the one that embeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.operators.base import TaskTypeArgument
from airflow_provider_gemini_batch.operators.run import RunOperator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class RunBatchOperator(RunOperator):
    """
    Ask each row of an input, and write a table with a row for each: typed columns, failed rows asked again.

    Each request is paid for once, whatever attempts, clears and restarts there are.

    :param prompt: Jinja template for each row, with ``row`` and the names of
        :data:`~airflow_provider_gemini_batch.run.prompts.VARIABLES`; without it, rows must be requests.
    :param system_instruction: Text, or a ``Content`` dict.
    :param generation_config: Members for every request, e.g. ``{"max_output_tokens": 500}``.
    :param response_schema: JSON Schema as a dict, or a Pydantic class: what each answer must be, and the columns.
    :param retry_tier: ``batch``, or ``flex`` to ask the rows that are left after a round one by one (Developer API).
    """

    kind = "generate"
    template_argument = "prompt"
    own_arguments = ("prompt", "system_instruction", "generation_config", "response_schema", "retry_tier")
    template_fields: Sequence[str] = (*RunOperator.template_fields, "prompt", "system_instruction", "generation_config")

    def __init__(
        self,
        *,
        prompt: str | None = None,
        system_instruction: str | Mapping[str, Any] | None = None,
        generation_config: Mapping[str, Any] | None = None,
        response_schema: Any = None,
        retry_tier: str = "batch",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.prompt = prompt
        self.system_instruction = system_instruction
        self.generation_config = generation_config
        self.response_schema = response_schema
        self.retry_tier = retry_tier


class RunEmbeddingBatchOperator(TaskTypeArgument, RunOperator):
    """
    Embed each row of an input, and write a table with a vector for each.

    :param text: Jinja template for each row; see ``prompt`` of :class:`RunBatchOperator`.
    :param task_type: E.g. ``RETRIEVAL_DOCUMENT``.
    :param title: Of each text.
    :param output_dimensionality: Length of the vectors.
    """

    kind = "embed"
    template_argument = "text"
    own_arguments = ("text", "title", "output_dimensionality")
    template_fields: Sequence[str] = (*RunOperator.template_fields, "text", "embed_task_type", "title")

    def __init__(
        self,
        *,
        text: str | None = None,
        task_type: str | None = None,
        title: str | None = None,
        output_dimensionality: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.text = text
        self.embed_task_type = task_type  # BaseOperator has a property of the argument's name
        self.title = title
        self.output_dimensionality = output_dimensionality

    def _arguments(self) -> dict[str, Any]:
        return {**super()._arguments(), "task_type": self.embed_task_type}
