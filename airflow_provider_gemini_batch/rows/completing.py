# SPDX-License-Identifier: Apache-2.0
"""A row's request, completed with what applies to all rows and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.rows.casing import to_wire
from airflow_provider_gemini_batch.rows.contents import (
    check_content,
    check_generation_config,
    read_generation_config,
    read_instruction,
)
from airflow_provider_gemini_batch.rows.forms import other_kind
from airflow_provider_gemini_batch.rows.messages import GENERATION_MEMBERS, camel, snake
from airflow_provider_gemini_batch.rows.problems import RowProblem, kind_of, listed, shown
from airflow_provider_gemini_batch.rows.vertex_import import clean_for_import

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.rows.notes import RowReport
    from airflow_provider_gemini_batch.rows.settings import RowSettings

EMBED_SETTINGS = ("taskType", "title", "outputDimensionality")

_encode = msgspec.json.Encoder().encode


class GenerateRequests:
    """
    Requests of a job that generates.

    :raises RowProblem: If the settings cannot be applied to any row.
    """

    def __init__(self, settings: RowSettings, report: RowReport) -> None:
        # Refused once for all rows, before the first is read: a setting that has no effect would be paid for with every
        # row.
        if embed := _given_embed_settings(settings):
            raise RowProblem(f"{', '.join(map(snake, embed))} belong to embedding jobs, and this one generates")
        self._settings = settings
        self._report = report
        self._rules = settings.rules
        self._config: dict[str, Any] = {}
        self._instruction: dict[str, Any] | None = None
        if settings.generation_config is not None:
            unknown: set[tuple[str, str]] = set()
            self._config = read_generation_config(settings.generation_config, "generation_config", unknown)
            report.note_config(self._config, 0)
            report.note_unknown(unknown, {"generationConfig": self._config}, 0)
            if self._rules.is_imported:
                # Settings of all rows become part of each row, and so meet the importer as well.
                self._config = clean_for_import(self._config)
        if settings.system_instruction is not None:
            self._instruction = read_instruction(settings.system_instruction, "system_instruction")

    def complete(self, given: Mapping[str, Any], line: int) -> dict[str, Any]:
        """Return the request of a row in the service's spelling, with the settings of all rows."""
        unknown: set[tuple[str, str]] = set()
        request = to_wire(given, "GenerateContentRequest", unknown)
        self._refuse(request)
        _take_model(request, self._settings)
        contents = request["contents"]
        if not isinstance(contents, list) or not contents:
            raise RowProblem('\'contents\' must be a list with at least one {"role": "user", "parts": [...]}')
        request["contents"] = [
            check_content(content, f"contents[{place}]", add_role=self._rules.needs_role)
            for place, content in enumerate(contents)
        ]
        self._apply(request)
        if self._rules.is_imported:
            _write_labels_as_text(request)
        own = given.get("generationConfig") or given.get("generation_config")
        if isinstance(own, Mapping):
            self._report.note_config(request["generationConfig"], line)
        if "maxOutputTokens" not in (request.get("generationConfig") or {}):
            # A single such row makes the cost of the job unbounded by its input; caps ask for it.
            self._report.has_unlimited = True
        self._report.note_turns(request["contents"], line)
        if unknown:
            self._report.note_unknown(unknown, request, line)
        return request

    def _refuse(self, request: Mapping[str, Any]) -> None:
        if "contents" not in request:
            if "content" in request:
                raise other_kind("content", "write 'contents'", False)
            raise RowProblem("'request' has no 'contents'")
        # The shape of the SDK's `config`. In a file the service ignores or rejects it
        # (https://github.com/googleapis/python-genai/issues/1608).
        flat = [name for name in request if camel(name) in GENERATION_MEMBERS]
        if flat:
            raise RowProblem(f"{listed(flat)} directly in 'request': must stand inside 'generationConfig'")
        # A tier belongs to single requests; a batch has a price of its own.
        if request.get("serviceTier") is not None:
            raise RowProblem("'serviceTier' cannot be set in a batch")

    def _apply(self, request: dict[str, Any]) -> None:
        """Give a request what applies to all rows, where it has nothing of its own."""
        config = request.get("generationConfig")
        if config is not None:
            check_generation_config(config)
        if config is not None or self._config:
            # Member by member: a row that sets its temperature keeps the schema that is set for all rows.
            request["generationConfig"] = {**self._config, **(config or {})}
        instruction = request.get("systemInstruction")
        if instruction is not None:
            request["systemInstruction"] = read_instruction(instruction, "systemInstruction")
        elif self._instruction is not None:
            request["systemInstruction"] = self._instruction
        if request.get("cachedContent") is not None:
            self._check_cached(request)

    def _check_cached(self, request: Mapping[str, Any]) -> None:
        # https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-gemini lists explicit
        # caching as not supported.
        if not self._rules.takes_cached_content:
            raise RowProblem("'cachedContent' is not supported in batches on Vertex AI", "put the content into the row")
        name = request["cachedContent"]
        if not isinstance(name, str) or not name:
            raise RowProblem("'cachedContent' must be the name of a cached content, as cachedContents/...")
        # The service refuses each such row with a 400 (GenerateContent wants them inside of the cached content).
        clash = [name for name in ("systemInstruction", "tools", "toolConfig") if request.get(name) is not None]
        if clash:
            ours = " (set for all rows)" if "systemInstruction" in clash and self._instruction else ""
            raise RowProblem(
                f"'cachedContent' cannot go with {listed(clash)}{ours}",
                "they must be part of the cached content itself",
            )


class EmbedRequests:
    """
    Requests of a job that embeds.

    :raises RowProblem: If the settings cannot be applied to any row.
    """

    def __init__(self, settings: RowSettings, report: RowReport) -> None:
        if settings.generation_config or settings.system_instruction:
            raise RowProblem("generation_config and system_instruction belong to generation jobs, and this one embeds")
        self._settings = settings
        self._report = report
        self._embed = _given_embed_settings(settings)
        _check_embed_settings(self._embed)
        if settings.is_legacy_embedding and self._embed:
            raise RowProblem(
                f"{', '.join(map(snake, self._embed))} cannot be set in batches of {settings.model}, whose rows are "
                "text alone",
                "use a gemini-embedding model",
            )

    def complete(self, given: Mapping[str, Any], line: int) -> dict[str, Any]:
        """Return the request of a row in the backend's spelling, with the settings of all rows."""
        unknown: set[tuple[str, str]] = set()
        request = to_wire(given, "EmbedContentRequest", unknown)
        if unknown:
            self._report.note_unknown(unknown, request, line)
        if "content" not in request:
            if "contents" in request:
                raise other_kind("contents", "write 'content'", True)
            raise RowProblem("'request' has no 'content'")
        _take_model(request, self._settings)
        content = request["content"]
        if isinstance(content, str):
            if not content.strip():
                raise RowProblem("'content' is empty")
            content = {"parts": [{"text": content}]}
        content = check_content(content, "content", add_role=False)
        own = _take_embed_settings(request)
        if self._settings.is_legacy_embedding:
            return self._legacy(content, own)
        settings = {**self._embed, **own}
        rest = {name: value for name, value in request.items() if name not in ("content", *EMBED_SETTINGS)}
        if self._settings.rules.nests_embed_settings:
            # Spelt as Google's page on embedding batches spells it; the other names have no second spelling there.
            config = {snake(name): value for name, value in settings.items()}
            return {"content": content, **rest, **({"embed_content_config": config} if config else {})}
        # The three old settings stand beside the content; newer ones are known only inside their own object.
        flat = {name: value for name, value in settings.items() if name in EMBED_SETTINGS}
        further = {name: value for name, value in settings.items() if name not in EMBED_SETTINGS}
        return {"content": content, **rest, **flat, **({"embedContentConfig": further} if further else {})}

    def _legacy(self, content: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
        parts = content["parts"]
        # A line of these models is `{"content": "text"}`, which has no place for a second part.
        if len(parts) != 1 or set(parts[0]) != {"text"}:
            raise RowProblem(f"{self._settings.model} takes one text a row, nothing else")
        if own:
            raise RowProblem(
                f"{listed(own)} cannot be set in batches of {self._settings.model}, whose rows are text alone"
            )
        return {"content": parts[0]["text"]}


def _given_embed_settings(settings: RowSettings) -> dict[str, Any]:
    given = (settings.task_type, settings.title, settings.output_dimensionality)
    return {name: value for name, value in zip(EMBED_SETTINGS, given, strict=True) if value is not None}


def _take_embed_settings(request: dict[str, Any]) -> dict[str, Any]:
    """Take a row's own settings out of its request."""
    config = request.pop("embedContentConfig", None)
    if config is not None and not isinstance(config, Mapping):
        raise RowProblem(f"'embedContentConfig' must be an object, not {kind_of(config)}")
    own = {name: value for name, value in (config or {}).items() if value is not None}
    own |= {name: request.pop(name) for name in EMBED_SETTINGS if request.get(name) is not None}
    _check_embed_settings(own)
    return own


def _check_embed_settings(settings: Mapping[str, Any]) -> None:
    size = settings.get("outputDimensionality")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise RowProblem(f"outputDimensionality must be a whole number above 0, not {shown(size)}")
    for name in ("taskType", "title"):
        value = settings.get(name)
        if value is not None and (not isinstance(value, str) or not value):
            raise RowProblem(f"{name} must be a text that is not empty, not {shown(value)}")


def _take_model(request: dict[str, Any], settings: RowSettings) -> None:
    """Check that a row asks for its job's model, and leave it out where the backend does not take it."""
    model = request.get("model")
    if model is None:
        request.pop("model", None)
        return
    if not isinstance(model, str):
        raise RowProblem(f"'model' must be a string, not {kind_of(model)}")
    own = model.rpartition("/")[2]
    job = settings.model.rpartition("/")[2]
    # What happens where a row's model and the job's differ is documented nowhere.
    if job and own != job:
        raise RowProblem(f"asks for model {own!r}, but all rows of a job share one, and this job's is {job!r}")
    if not settings.rules.takes_model:
        del request["model"]


def _write_labels_as_text(request: dict[str, Any]) -> None:
    """Labels are a map of strings on the wire; a number beside a string is a mix of types to Vertex AI's importer."""
    labels = request.get("labels")
    if isinstance(labels, Mapping):
        request["labels"] = {
            name: value if isinstance(value, str) or value is None else _encode(value).decode()
            for name, value in labels.items()
        }
