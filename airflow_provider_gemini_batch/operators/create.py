# SPDX-License-Identifier: Apache-2.0
"""Submit a job that generates answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_gemini_batch.operators.submit import SubmitOperator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_gemini_batch.lifecycle.request import JobRequest


class CreateBatchOperator(SubmitOperator):
    """
    Submit rows of prompts as one batch job, once: a retry, a clear or a restart finds the job again.

    Returns the job's name. All arguments but the two below are explained at
    :class:`~airflow_provider_gemini_batch.operators.submit.SubmitOperator`.

    :param generation_config: For every row that does not set the same member itself.
    :param system_instruction: Text or Content, for every row that has none.
    """

    kind = "generate"
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
        from airflow_provider_gemini_batch.lifecycle.request import JobRequest

        return JobRequest(
            "generate",
            generation_config=self.generation_config,
            system_instruction=self.system_instruction or None,
            **self._common(),
        )
