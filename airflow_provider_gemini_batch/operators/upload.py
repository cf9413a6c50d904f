# SPDX-License-Identifier: Apache-2.0
"""Check rows and bring them to where the backend reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.links import InputLink, is_at_google, place_url
from airflow_provider_gemini_batch.operators.base import GeminiBatchOperator, TaskTypeArgument

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

_ANY_MODEL = {"generate": "gemini-3.5-flash-lite", "embed": "gemini-embedding-001"}


class UploadFileOperator(TaskTypeArgument, GeminiBatchOperator):
    """
    Check the rows of a file, bring them to the wire form and upload them; returns the remote name.

    A file with the same rows that is already there, and lives long enough, is used instead of being sent again.

    :param input_path: Local path or object-storage URI of a JSONL file, rows in any of the forms that the README lists.
    :param display_name: Shown at Google; default the file's name.
    :param kind: ``generate`` or ``embed``: what the rows are for.
    :param model: Only needed where rows depend on it (the older text-embedding models on Vertex AI).
    :param generation_config: For every row that does not set the same member itself.
    :param system_instruction: Text or Content, for every row that has none.
    :param task_type: For ``embed``, e.g. ``RETRIEVAL_DOCUMENT``.
    :param title: For ``embed``.
    :param output_dimensionality: For ``embed``.
    :param key: The member by which a row is known, or a list of members.
    :param on_empty_input: ``fail``, or ``skip`` the task, if there are no rows.
    :param on_bad_row: ``fail``, or ``land``: leave a row out that cannot be sent.
    :return: ``files/...``, or ``gs://...`` on Vertex AI.
    """

    template_fields: Sequence[str] = (
        *GeminiBatchOperator.template_fields,
        "input_path",
        "display_name",
        "kind",
        "model",
        "generation_config",
        "system_instruction",
        "embed_task_type",
        "title",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"generation_config": "json"}

    def __init__(
        self,
        *,
        input_path: str | PathLike[str],
        display_name: str | None = None,
        kind: str = "generate",
        model: str | None = None,
        generation_config: Mapping[str, Any] | None = None,
        system_instruction: str | Mapping[str, Any] | None = None,
        task_type: str | None = None,
        title: str | None = None,
        output_dimensionality: int | None = None,
        key: str | Sequence[str] = "key",
        on_empty_input: str = "fail",
        on_bad_row: str = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_path = input_path
        self.display_name = display_name
        self.kind = kind
        self.model = model
        self.generation_config = generation_config
        self.system_instruction = system_instruction
        # BaseOperator has a property of the name task_type.
        self.embed_task_type = task_type
        self.title = title
        self.output_dimensionality = output_dimensionality
        self.key = key
        self.on_empty_input = on_empty_input
        self.on_bad_row = on_bad_row

    def run_task(self, context: Any) -> str:
        """Check and upload the rows; return the remote name."""
        from airflow_provider_gemini_batch.api.identity import with_input_digest
        from airflow_provider_gemini_batch.client.prepare import prepared
        from airflow_provider_gemini_batch.files.paths import base_name, normalise_path
        from airflow_provider_gemini_batch.lifecycle.request import JobRequest

        if self.kind not in tuple(_ANY_MODEL):
            raise ConfigurationError(f"kind must be 'generate' or 'embed', not {self.kind!r}.")
        path = normalise_path(self.input_path, "input_path")
        request = JobRequest(
            self.kind,  # type: ignore[arg-type]
            self.model or _ANY_MODEL[self.kind],
            input_path=path,
            display_name=self.display_name,
            generation_config=self.generation_config,
            system_instruction=self.system_instruction or None,
            task_type=self.embed_task_type or None,
            title=self.title or None,
            output_dimensionality=self.output_dimensionality,
            key=self.key,
            on_empty_input=self.on_empty_input,
            on_bad_row=self.on_bad_row,
        )
        hook = self.hook
        name = self.display_name or base_name(path)
        with prepared(
            request, hook.client.backend, lambda _: None, is_own_host=True, knows_model=bool(self.model)
        ) as source:
            # The file's name carries the digest to the task that creates the job, so that the download can tell whether
            # its input is the one the job was made from.
            name = with_input_digest(name, source.input_digest)
            placed = hook.run(source.place(hook.client.backend, hook.retry, name))
            self.log.info("%s: %s rows from %s", placed.uploaded, source.rows, path)
        if placed.uploaded is None:
            raise ConfigurationError(f"{path} was not uploaded.")
        if is_at_google(hook.settings):
            self.show_links(context.get("ti"), {InputLink: place_url(placed.uploaded)})
        return placed.uploaded
