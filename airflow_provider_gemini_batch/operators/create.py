# SPDX-License-Identifier: Apache-2.0
"""Submit a job that generates answers, or one that embeds texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_gemini_batch.operators.base import TaskTypeArgument
from airflow_provider_gemini_batch.operators.submit import SubmitOperator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_gemini_batch.lifecycle.request import JobRequest


class CreateBatchOperator(SubmitOperator):
    """
    Submit rows of prompts as one batch job, once: a retry, a clear or a restart finds the job again.

    Returns the job's name. All arguments but the two below are explained at
    :class:`~airflow_provider_gemini_batch.operators.submit_arguments.SubmitArguments`.

    :param generation_config: For every row that does not set the same member itself.
    :param system_instruction: Text or Content, for every row that has none.
    """

    template_fields: Sequence[str] = (*SubmitOperator.template_fields, "generation_config", "system_instruction")
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **SubmitOperator.template_fields_renderers,
        "generation_config": "json",
    }

    def __init__(
        self,
        *,
        generation_config: Mapping[str, Any] | None = None,
        system_instruction: str | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.generation_config = generation_config
        self.system_instruction = system_instruction

    def request(self) -> JobRequest:
        """Return what is to be computed, from rendered arguments."""
        from airflow_provider_gemini_batch.lifecycle.request import JobRequest

        return JobRequest(
            "generate",
            generation_config=self.generation_config,
            system_instruction=self.system_instruction or None,
            **self._common(),
        )


class CreateEmbeddingBatchOperator(TaskTypeArgument, SubmitOperator):
    """
    Submit rows of texts to embed as one batch job, once: a retry, a clear or a restart finds the job again.

    Returns the job's name. All arguments but the three below are explained at
    :class:`~airflow_provider_gemini_batch.operators.submit_arguments.SubmitArguments`.

    :param task_type: E.g. ``RETRIEVAL_DOCUMENT``; gemini-embedding-2 ignores it.
    :param title: Of the texts, for ``RETRIEVAL_DOCUMENT``.
    :param output_dimensionality: Numbers in each vector.
    """

    template_fields: Sequence[str] = (*SubmitOperator.template_fields, "embed_task_type", "title")

    def __init__(
        self,
        *,
        task_type: str | None = None,
        title: str | None = None,
        output_dimensionality: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # BaseOperator has a property of the name task_type.
        self.embed_task_type = task_type
        self.title = title
        self.output_dimensionality = output_dimensionality

    def request(self) -> JobRequest:
        """Return what is to be computed, from rendered arguments."""
        from airflow_provider_gemini_batch.lifecycle.request import JobRequest

        return JobRequest(
            "embed",
            task_type=self.embed_task_type or None,
            title=self.title or None,
            output_dimensionality=self.output_dimensionality,
            **self._common(),
        )
