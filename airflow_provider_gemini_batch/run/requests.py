# SPDX-License-Identifier: Apache-2.0
"""Rows of an input -> requests in the backend-neutral form, which is what a digest is made of."""

# Two ways: a template renders each row into the one text of a request that is otherwise the same for all rows; or the
# rows are requests already, in one of the forms that the create operators take.

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.rows.normalise import normalise_rows
from airflow_provider_gemini_batch.rows.settings import RowSettings
from airflow_provider_gemini_batch.run.digest import encode_request
from airflow_provider_gemini_batch.run.prompts import BadRowError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from airflow_provider_gemini_batch.api.models import BackendName
    from airflow_provider_gemini_batch.run.prompts import Template
    from airflow_provider_gemini_batch.run.spec import RunSpec

FORM_COLUMNS = frozenset(
    {
        "request", "prompt", "text", "contents", "content", "systemInstruction", "system_instruction",
        "generationConfig", "generation_config", "safetySettings", "safety_settings", "tools", "toolConfig",
        "tool_config", "cachedContent", "cached_content", "taskType", "task_type", "title", "outputDimensionality",
        "output_dimensionality", "embedContentConfig",
    }
)  # fmt: skip
"""Columns that are part of a request where no template is given."""

_BLOCK = 10_000
_MARK = "\x00gemini-text\x00"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def settings_for(spec: RunSpec, backend: BackendName) -> RowSettings:
    """Return what the rows' normaliser needs to know."""
    return RowSettings(kind=spec.kind, backend=backend, model=spec.model, **spec.settings)


def check_on(spec: RunSpec, backend: BackendName) -> None:
    """
    Raise ConfigurationError if the settings cannot be applied on *backend*: a row with them is tried.

    The schema and the instruction are the same in each row, so what Vertex AI's importer refuses shows in one.
    """
    list(normalise_rows([{"key": "0.0", spec.argument: "text"}], settings_for(spec, backend)))


class TextRequests:
    """Requests that differ in one text."""

    def __init__(self, spec: RunSpec, template: Template) -> None:
        self._template = template
        # A row is normalised once, and cut where its text stands; each row after that is three pieces of bytes.
        # Settings and schema are the same in all of them, so that nothing else can differ.
        row = next(iter(normalise_rows([{"key": "k", spec.argument: _MARK}], settings_for(spec, "gemini"))))
        body = encode_request(neutral(_decode(row.body())))
        self._before, self._after = body.split(_encode(_MARK))

    def body(self, values: Sequence[Any], n: int, key: object) -> bytes:
        """Return the request of a row."""
        self._template.check_filled(values, n, key)
        text = self._template.render(values, n, key)
        try:
            return self._before + _encode(text) + self._after
        except UnicodeEncodeError as fault:
            raise BadRowError(f"row {n + 1} (key {key!r}): the prompt is no Unicode ({fault.reason}).") from None


def row_requests(
    spec: RunSpec, rows: Iterable[tuple[int, object, Mapping[str, Any]]]
) -> Iterator[tuple[int, bytes | BadRowError]]:
    """
    Yield the requests of rows that are written in one of the row forms.

    :param rows: Number, key and the columns of :data:`FORM_COLUMNS` of each row.
    :return: Number and request of each, or why it has none, with ``on_bad_row="land"``.
    :raises ConfigurationError: Naming up to ten rows that cannot be sent.
    """
    iterator = iter(rows)
    while block := list(islice(iterator, _BLOCK)):
        order: deque[int] = deque()
        keys: dict[int, object] = {}

        def forms(block: list[Any] = block, order: deque[int] = order, keys: dict[int, Any] = keys) -> Iterator[Any]:
            for n, key, columns in block:
                order.append(n)
                keys[n] = key
                yield {"key": f"row-{n + 1}", **columns}

        if spec.on_bad_row == "land":
            yield from (_one_request(spec, row) for row in block)
            continue
        try:
            for row in normalise_rows(forms(), settings_for(spec, "gemini")):
                yield order.popleft(), encode_request(neutral(_decode(row.body())))
        except ConfigurationError as fault:
            raise ConfigurationError(f"Without prompt, rows must be requests. {fault}") from None


def _one_request(spec: RunSpec, row: tuple[int, object, Mapping[str, Any]]) -> tuple[int, bytes | BadRowError]:
    """Return a row's request, or why it has none: a row that is refused with others cannot be told from them."""
    n, _, columns = row
    try:
        (found,) = normalise_rows([{"key": f"row-{n + 1}", **columns}], settings_for(spec, "gemini"))
        return n, encode_request(neutral(_decode(found.body())))
    except ConfigurationError as fault:
        return n, BadRowError(f"row {n + 1}: {fault}")


def neutral(request: dict[str, Any]) -> dict[str, Any]:
    """Return a request of the Developer API's form with what Vertex AI would add: a role for each content."""
    contents = request.get("contents")
    if isinstance(contents, list):
        request["contents"] = [
            {"role": "user", **content} if isinstance(content, dict) and not content.get("role") else content
            for content in contents
        ]
    return request
