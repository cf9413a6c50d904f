# SPDX-License-Identifier: Apache-2.0
"""May this JSON Schema be sent, and what does it say? References are inlined; what no backend takes is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_gemini_batch.errors import ConfigurationError

MAX_DEPTH = 30


SCALARS = {"string": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN"}

# https://ai.google.dev/api/caching#Schema
_GEMINI_MEMBERS = frozenset(
    {
        "type", "format", "description", "nullable", "enum", "items", "properties", "required", "propertyOrdering",
        "minItems", "maxItems", "minimum", "maximum", "minLength", "maxLength", "pattern", "anyOf",
    }
)  # fmt: skip
# What ``responseJsonSchema`` takes besides: https://ai.google.dev/api/generate-content#FIELDS.response_json_schema
_JSON_SCHEMA_MEMBERS = _GEMINI_MEMBERS | {"prefixItems", "additionalProperties", "oneOf", "const", "allOf"}
CHECKED_ALONE = frozenset({"exclusiveMinimum", "exclusiveMaximum", "multipleOf", "uniqueItems"})
"""What no backend takes, and is checked on return all the same; the service is told in words."""
ANNOTATIONS = frozenset(
    {"$schema", "$id", "$comment", "$defs", "definitions", "title", "default", "example", "examples", "deprecated",
     "readOnly", "writeOnly", "discriminator"}
)  # fmt: skip


def inlined(value: Any, root: Mapping[str, Any], where: str, seen: tuple[str, ...]) -> Any:
    """Return *value* with each ``$ref`` replaced by what it names."""
    if len(seen) > MAX_DEPTH:
        raise ConfigurationError(f"{where}: schemas are nested too deeply.")
    if isinstance(value, list):
        return [inlined(entry, root, f"{where}[{place}]", seen) for place, entry in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    reference = value.get("$ref")
    if not isinstance(reference, str):
        return {
            name: inlined(member, root, f"{where}.{name}", seen)
            for name, member in value.items()
            if name not in ("$defs", "definitions")
        }
    # Only along one branch: a definition that two properties share is no recursion, and is inlined twice.
    if reference in seen or reference == "#":
        raise ConfigurationError(
            f"{where}: {reference} is recursive, which neither backend takes and no column can be."
        )
    target: Any = root
    for part in reference.removeprefix("#/").split("/"):
        target = target.get(part) if isinstance(target, Mapping) else None
    if not reference.startswith("#/") or not isinstance(target, Mapping):
        raise ConfigurationError(f"{where}: there is no {reference} in the schema.")
    found: dict[str, Any] = inlined(target, root, where, (*seen, reference))
    # Members beside a reference count, too, as in JSON Schema since its draft of 2019; Pydantic puts descriptions and
    # defaults there.
    own = {name: member for name, member in value.items() if name != "$ref"}
    return {**found, **inlined(own, root, where, seen)}


def check_members(schema: Any, where: str) -> None:
    """Refuse what neither way of sending a schema takes."""
    if schema is True:
        return
    if not isinstance(schema, Mapping):
        raise ConfigurationError(f"{where} must be a schema (a dict), not {schema!r}.")
    strange = [name for name in schema if name not in _JSON_SCHEMA_MEMBERS | CHECKED_ALONE | ANNOTATIONS]
    if strange:
        raise ConfigurationError(
            f"{where}: neither backend takes {', '.join(map(repr, strange))} in a response schema; leave it out and "
            "check the column afterwards."
        )
    kinds = schema.get("type")
    for kind in [kinds] if isinstance(kinds, str) else kinds or []:
        if kind not in (*SCALARS, "null", "array", "object"):
            raise ConfigurationError(f"{where}.type must be one of JSON Schema's types, in lower case, not {kind!r}.")
    properties = schema.get("properties", {})
    if not isinstance(properties, Mapping):
        raise ConfigurationError(f"{where}.properties must be a dict of schemas, not {properties!r}.")
    if "enum" in schema and not (isinstance(schema["enum"], list) and schema["enum"]):
        raise ConfigurationError(f"{where}.enum must be a list with a value or more, not {schema['enum']!r}.")
    for name, member in properties.items():
        if not isinstance(name, str) or not name.strip():
            raise ConfigurationError(f"{where}.properties: a name must be a text that a column can have, not {name!r}.")
        check_members(member, f"{where}.properties.{name}")
    if absent := [name for name in schema.get("required") or [] if properties and name not in properties]:
        raise ConfigurationError(
            f"{where}.required names {', '.join(map(repr, absent))}, which properties do not have."
        )
    if isinstance(schema.get("items"), Mapping):
        check_members(schema["items"], f"{where}.items")
    if isinstance(schema.get("additionalProperties"), Mapping):
        check_members(schema["additionalProperties"], f"{where}.additionalProperties")
    for name in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for place, member in enumerate(schema.get(name) or []):
            check_members(member, f"{where}.{name}[{place}]")


def one_type(schema: Any) -> tuple[str | None, bool, Any]:
    """Return a schema's one type or None, whether null is allowed too, and the schema without the null."""
    if not isinstance(schema, Mapping):
        return None, True, {}
    kinds = schema.get("type")
    nullable = bool(schema.get("nullable"))
    if isinstance(kinds, str):
        return kinds, nullable, schema
    if isinstance(kinds, list):
        others = [kind for kind in kinds if kind != "null"]
        nullable = nullable or len(others) < len(kinds)
        return (others[0], nullable, {**schema, "type": others[0]}) if len(others) == 1 else (None, nullable, schema)
    for name in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(name), list):
            # What Pydantic makes of `X | None`: one real option and a null.
            options = [option for option in schema[name] if option != {"type": "null"}]
            with_null = nullable or len(options) < len(schema[name])
            if len(options) == 1:
                rest = {own: value for own, value in schema.items() if own != name}
                kind, inner, found = one_type({**options[0], **rest})
                return kind, with_null or inner, found
            return None, with_null, schema
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if values and all(isinstance(value, str) for value in values):
        return "string", nullable, {**schema, "type": "string"}
    return None, nullable, schema
