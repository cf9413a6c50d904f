# SPDX-License-Identifier: Apache-2.0
"""
What an answer has to look like, in three spellings: columns, a validator, and the schema that the service is sent.
"""

# The columns' types come from the schema alone, never from data, so that they are fixed before the first answer
# arrives:
#
#   string, enum              `VARCHAR`; format `date` `DATE`, format `date-time` `TIMESTAMPTZ`
#   integer, number, boolean  `BIGINT` (an answer outside of it is invalid), `DOUBLE`, `BOOLEAN`
#   array of scalars          a list of them
#   object                    `STRUCT`, two levels deep; below that JSON text
#   anything else             JSON text: arrays of objects, free objects, several types, any value
#
# A root that is no object becomes one column, `value`. References are inlined.

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.run.column_types import SchemaBreach, Type, type_of
from airflow_provider_gemini_batch.run.schema_checking import path_of, validator_of
from airflow_provider_gemini_batch.run.schema_reading import check_members, inlined, one_type
from airflow_provider_gemini_batch.run.schema_sending import NotInGemini, gemini_schema, without_annotations

_decode = msgspec.json.Decoder().decode


class ResponseSchema:
    """
    A response schema.

    :param value: JSON Schema as a dict, or a Pydantic class.
    :raises ConfigurationError: Naming the place of what cannot be sent, or cannot be a column.
    """

    def __init__(self, value: Any) -> None:
        self._model = value if _is_pydantic(value) else None
        raw = value.model_json_schema() if self._model is not None else value
        if not isinstance(raw, Mapping) or not raw:
            raise ConfigurationError(
                f"response_schema must be a JSON Schema as a dict or a Pydantic class, not {raw!r}."
            )
        self.schema: dict[str, Any] = inlined(raw, raw, "response_schema", ())
        check_members(self.schema, "response_schema")
        self.is_object = one_type(self.schema)[0] == "object" and bool(self.schema.get("properties"))
        self.columns: dict[str, Type] = self._columns()
        """Types by column name, in the schema's order."""
        self._check: Callable[[Any], str | None] = validator_of(self.schema)

    def _columns(self) -> dict[str, Type]:
        if not self.is_object:
            return {"value": type_of(self.schema, 0)}
        return {name: type_of(member, 0) for name, member in self.schema["properties"].items()}

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """
        What the service is sent: ``responseSchema``, or ``responseJsonSchema`` for what that cannot say.
        """
        try:
            wire = {"responseSchema": gemini_schema(self.schema, "response_schema")}
        except NotInGemini:
            wire = {"responseJsonSchema": without_annotations(self.schema)}
        return {"responseMimeType": "application/json", **wire}

    def read(self, text: str | bytes) -> list[Any]:
        """
        Return an answer's values, one for each column.

        :raises SchemaBreach: If the text is no JSON, or not what the schema asks.
        """
        value = _parse(text)
        if self._model is not None:
            value = self._by_model(value)
        elif (problem := self._check(value)) is not None:
            raise SchemaBreach(problem)
        if not self.is_object:
            return [self.columns["value"].shape(value)]
        try:
            return [kind.shape(value.get(name)) for name, kind in self.columns.items()]
        except (TypeError, AttributeError, ValueError, OverflowError) as fault:
            raise SchemaBreach(f"a value does not fit its column: {fault}") from None

    def _by_model(self, value: Any) -> Any:
        from pydantic import ValidationError

        assert self._model is not None
        try:
            return self._model.model_validate(value).model_dump(mode="json", by_alias=True)
        except ValidationError as fault:
            first = fault.errors(include_url=False, include_context=False, include_input=False)[0]
            raise SchemaBreach(f"{path_of(first['loc'])}{first['msg']}") from None


def _is_pydantic(value: Any) -> bool:
    return isinstance(value, type) and hasattr(value, "model_json_schema") and hasattr(value, "model_validate")


def _parse(text: str | bytes) -> Any:
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as fault:
        reason = str(fault).removeprefix("JSON is malformed: ")
        raise SchemaBreach(f"the answer is no JSON: {reason}") from None
