# SPDX-License-Identifier: Apache-2.0
"""How is a schema spelt for the service? In its own language where that can say it, else as JSON Schema."""

# The first is preferred as batch jobs gave degenerate answers with the second
# (https://github.com/crmne/ruby_llm/issues/894).

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_gemini_batch.run.schema_reading import ANNOTATIONS, CHECKED_ALONE, one_type


class NotInGemini(Exception):
    """The service's own schema language cannot say this."""


def gemini_schema(schema: Any, where: str) -> dict[str, Any]:
    """Return a schema in the service's language: one type each, ``nullable``, no ``additionalProperties``."""
    kind, nullable, schema = one_type(schema)
    if schema.get("additionalProperties") or "prefixItems" in schema:
        raise NotInGemini
    out: dict[str, Any] = {}
    if kind is None:
        options = [option for option in schema.get("anyOf") or schema.get("oneOf") or [] if option != {"type": "null"}]
        if not options:
            raise NotInGemini
        out["anyOf"] = [gemini_schema(option, where) for option in options]
    else:
        out["type"] = kind.upper()
    if nullable:
        out["nullable"] = True
    for name in ("description", "minItems", "maxItems", "minimum", "maximum", "minLength", "maxLength", "pattern"):
        if schema.get(name) is not None:
            out[name] = schema[name]
    if kind == "string" and schema.get("format") == "date-time":
        out["format"] = "date-time"
    elif kind == "string" and schema.get("format") == "date":
        # The service's language knows no dates; unsaid, the model may write another form, which would be no answer.
        out["description"] = " ".join(filter(None, (out.get("description"), "A date as YYYY-MM-DD.")))
    out |= _in_words(schema, out.get("description"))
    if kind in ("string", "integer") and ("enum" in schema or "const" in schema):
        values = schema.get("enum") or [schema["const"]]
        if kind != "string":
            raise NotInGemini
        out["enum"] = [value for value in values if value is not None]
        out["format"] = "enum"
    if kind == "array":
        out["items"] = gemini_schema(schema.get("items", {}), where)
    if kind == "object":
        properties = schema.get("properties")
        if not properties:
            raise NotInGemini
        out["properties"] = {name: gemini_schema(member, where) for name, member in properties.items()}
        out["propertyOrdering"] = list(properties)
        if schema.get("required"):
            out["required"] = list(schema["required"])
    return out


def without_annotations(value: Any, *, named: bool = False) -> Any:
    """Return a JSON Schema without what only people read; *named*: whether its members are names of columns."""
    if isinstance(value, Mapping):
        sent = {
            name: without_annotations(member, named=not named and name == "properties")
            for name, member in value.items()
            if named or name not in ANNOTATIONS | CHECKED_ALONE
        }
        return sent if named else sent | _in_words(value, value.get("description"))
    return [without_annotations(entry) for entry in value] if isinstance(value, list) else value


def _in_words(schema: Mapping[str, Any], description: Any) -> dict[str, Any]:
    """Return the description that also says what is checked on return alone; nothing where there is no such limit."""
    limits = {"exclusiveMinimum": "Greater than", "exclusiveMaximum": "Less than", "multipleOf": "A multiple of"}
    said = [f"{words} {schema[name]}." for name, words in limits.items() if name in schema]
    said += ["No item twice."] if schema.get("uniqueItems") is True else []
    return {"description": " ".join(filter(None, (description, *said)))} if said else {}
