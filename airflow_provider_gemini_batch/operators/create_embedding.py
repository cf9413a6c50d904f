# SPDX-License-Identifier: Apache-2.0
"""Submit a job that embeds texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.operators.submit import SubmitOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_gemini_batch.lifecycle.request import JobRequest


class CreateEmbeddingBatchOperator(SubmitOperator):
    """
    Submit rows of texts to embed as one batch job, once: a retry, a clear or a restart finds the job again.

    Returns the job's name. All arguments but the three below are explained at
    :class:`~airflow_provider_gemini_batch.operators.submit.SubmitOperator`.

    :param task_type: E.g. ``RETRIEVAL_DOCUMENT``; gemini-embedding-2 ignores it.
    :param title: Of the texts, for ``RETRIEVAL_DOCUMENT``.
    :param output_dimensionality: Numbers in each vector.
    """

    kind = "embed"
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
        from airflow_provider_gemini_batch.lifecycle.request import JobRequest

        return JobRequest(
            "embed",
            task_type=self.embed_task_type or None,
            title=self.title or None,
            output_dimensionality=self.output_dimensionality,
            **self._common(),
        )
