# SPDX-License-Identifier: Apache-2.0
"""
What an answer has to look like, in three spellings: columns, a validator, and the schema that the service is sent.

The columns' types come from the schema alone, never from data, so that they are fixed before the first answer arrives:

=====================================  ================================================================================
string, enum                           ``VARCHAR``; format ``date`` ``DATE``, format ``date-time`` ``TIMESTAMPTZ``
integer, number, boolean               ``BIGINT`` (an answer outside of it is invalid), ``DOUBLE``, ``BOOLEAN``
array of scalars                       a list of them
object                                 ``STRUCT``, two levels deep; below that JSON text
anything else                          JSON text: arrays of objects, free objects, several types, any value
=====================================  ================================================================================

A root that is no object becomes one column, ``value``. References are inlined.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError

MAX_STRUCT_LEVELS = 2
MAX_DEPTH = 30

_INT64 = 1 << 63
_SCALARS = {"string": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN"}
_FORMATS = {"date": "DATE", "date-time": "TIMESTAMPTZ"}

# https://ai.google.dev/api/caching#Schema
_GEMINI_MEMBERS = frozenset(
    {
        "type", "format", "description", "nullable", "enum", "items", "properties", "required", "propertyOrdering",
        "minItems", "maxItems", "minimum", "maximum", "minLength", "maxLength", "pattern", "anyOf",
    }
)  # fmt: skip
# What ``responseJsonSchema`` takes besides: https://ai.google.dev/api/generate-content#FIELDS.response_json_schema
_JSON_SCHEMA_MEMBERS = _GEMINI_MEMBERS | {"prefixItems", "additionalProperties", "oneOf", "const", "allOf"}
_ANNOTATIONS = frozenset(
    {"$schema", "$id", "$comment", "$defs", "definitions", "title", "default", "example", "examples", "deprecated",
     "readOnly", "writeOnly", "discriminator"}
)  # fmt: skip

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class SchemaBreach(Exception):
    """An answer is not what the schema asks; the text says where and why."""


@dataclass(frozen=True)
class Type:
    """
    A column's type.

    :param sql: In DuckDB's words, e.g. ``VARCHAR`` or ``STRUCT("a" BIGINT)``.
    :param kind: ``scalar``, ``list``, ``struct`` or ``json`` (any value, as JSON text).
    """

    sql: str
    kind: str = "scalar"
    items: Type | None = None
    members: Mapping[str, Type] = field(default_factory=dict)

    def shape(self, value: Any) -> Any:
        """
        Return a validated value as the engine takes it: members in the schema's order, JSON text where that is due.

        :raises SchemaBreach: If the value does not fit the type, as an integer beyond 64 bits.
        """
        if value is None:
            return None
        if self.kind == "json":
            return _encode(value).decode()
        if self.kind == "list":
            assert self.items is not None
            return [self.items.shape(entry) for entry in value]
        if self.kind == "struct":
            return {name: member.shape(value.get(name)) for name, member in self.members.items()}
        return _scalar(value, self.sql)


JSON_TEXT = Type("VARCHAR", "json")


def _scalar(value: Any, sql: str) -> Any:
    if sql == "BIGINT":
        if isinstance(value, float):
            if not value.is_integer():
                raise SchemaBreach(f"{value} is no whole number")
            value = int(value)
        if not -_INT64 <= value < _INT64:
            raise SchemaBreach(f"{value} does not fit 64 bits")
    elif sql == "DOUBLE":
        if not math.isfinite(float(value)):
            raise SchemaBreach(f"{value} is no finite number")
    elif sql == "DATE":
        return _instant(value, datetime.date.fromisoformat, "date").isoformat()
    elif sql == "TIMESTAMPTZ":
        moment = _instant(value, datetime.datetime.fromisoformat, "time")
        # Models leave the zone out; it is read as UTC.
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)
        return moment.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")
    return value


def _instant(value: str, read: Callable[[str], Any], what: str) -> Any:
    try:
        return read(value)
    except ValueError:
        raise SchemaBreach(f"{value!r} is no {what}") from None


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
        self.schema: dict[str, Any] = _inlined(raw, raw, "response_schema", ())
        _check_members(self.schema, "response_schema")
        self.is_object = _one_type(self.schema)[0] == "object" and bool(self.schema.get("properties"))
        self.columns: dict[str, Type] = self._columns()
        """Types by column name, in the schema's order."""
        self._check: Callable[[Any], str | None] = _validator(self.schema)

    def _columns(self) -> dict[str, Type]:
        if not self.is_object:
            return {"value": _type_of(self.schema, 0)}
        return {name: _type_of(member, 0) for name, member in self.schema["properties"].items()}

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """
        What the service is sent: ``responseSchema``, or ``responseJsonSchema`` for what that cannot say.

        The first is preferred as batch jobs gave degenerate answers with the second
        (https://github.com/crmne/ruby_llm/issues/894).
        """
        try:
            wire = {"responseSchema": _gemini(self.schema, "response_schema")}
        except _NotInGemini:
            wire = {"responseJsonSchema": _without_annotations(self.schema)}
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
            raise SchemaBreach(f"{_path(first['loc'])}{first['msg']}") from None


def _is_pydantic(value: Any) -> bool:
    return isinstance(value, type) and hasattr(value, "model_json_schema") and hasattr(value, "model_validate")


def _parse(text: str | bytes) -> Any:
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as fault:
        reason = str(fault).removeprefix("JSON is malformed: ")
        raise SchemaBreach(f"the answer is no JSON: {reason}") from None


def _path(parts: Iterable[Any]) -> str:
    path = ".".join(str(part) for part in parts)
    return f"{path}: " if path else ""


# --- reading a schema -----------------------------------------------------------------------------------------------


def _inlined(value: Any, root: Mapping[str, Any], where: str, seen: tuple[str, ...]) -> Any:
    """Return *value* with each ``$ref`` replaced by what it names."""
    if len(seen) > MAX_DEPTH:
        raise ConfigurationError(f"{where}: schemas are nested too deeply.")
    if isinstance(value, list):
        return [_inlined(entry, root, f"{where}[{place}]", seen) for place, entry in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    reference = value.get("$ref")
    if not isinstance(reference, str):
        return {
            name: _inlined(member, root, f"{where}.{name}", seen)
            for name, member in value.items()
            if name not in ("$defs", "definitions")
        }
    if reference in seen or reference == "#":
        raise ConfigurationError(
            f"{where}: {reference} is recursive, which neither backend takes and no column can be."
        )
    target: Any = root
    for part in reference.removeprefix("#/").split("/"):
        target = target.get(part) if isinstance(target, Mapping) else None
    if not reference.startswith("#/") or not isinstance(target, Mapping):
        raise ConfigurationError(f"{where}: there is no {reference} in the schema.")
    found: dict[str, Any] = _inlined(target, root, where, (*seen, reference))
    own = {name: member for name, member in value.items() if name != "$ref"}
    return {**found, **_inlined(own, root, where, seen)}


def _check_members(schema: Any, where: str) -> None:
    """Refuse what neither way of sending a schema takes."""
    if schema is True:
        return
    if not isinstance(schema, Mapping):
        raise ConfigurationError(f"{where} must be a schema (a dict), not {schema!r}.")
    strange = [name for name in schema if name not in _JSON_SCHEMA_MEMBERS | _ANNOTATIONS]
    if strange:
        raise ConfigurationError(
            f"{where}: neither backend takes {', '.join(map(repr, strange))} in a response schema; leave it out and "
            "check the column afterwards."
        )
    kinds = schema.get("type")
    for kind in [kinds] if isinstance(kinds, str) else kinds or []:
        if kind not in (*_SCALARS, "null", "array", "object"):
            raise ConfigurationError(f"{where}.type must be one of JSON Schema's types, in lower case, not {kind!r}.")
    properties = schema.get("properties", {})
    if not isinstance(properties, Mapping):
        raise ConfigurationError(f"{where}.properties must be a dict of schemas, not {properties!r}.")
    for name, member in properties.items():
        _check_members(member, f"{where}.properties.{name}")
    if absent := [name for name in schema.get("required") or [] if properties and name not in properties]:
        raise ConfigurationError(
            f"{where}.required names {', '.join(map(repr, absent))}, which properties do not have."
        )
    if isinstance(schema.get("items"), Mapping):
        _check_members(schema["items"], f"{where}.items")
    if isinstance(schema.get("additionalProperties"), Mapping):
        _check_members(schema["additionalProperties"], f"{where}.additionalProperties")
    for name in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for place, member in enumerate(schema.get(name) or []):
            _check_members(member, f"{where}.{name}[{place}]")


def _one_type(schema: Any) -> tuple[str | None, bool, Any]:
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
            options = [option for option in schema[name] if option != {"type": "null"}]
            with_null = nullable or len(options) < len(schema[name])
            if len(options) == 1:
                rest = {own: value for own, value in schema.items() if own != name}
                kind, inner, found = _one_type({**options[0], **rest})
                return kind, with_null or inner, found
            return None, with_null, schema
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if values and all(isinstance(value, str) for value in values):
        return "string", nullable, {**schema, "type": "string"}
    return None, nullable, schema


def _type_of(schema: Any, level: int) -> Type:
    kind, _, schema = _one_type(schema)
    if kind == "string":
        return Type(_FORMATS.get(schema.get("format", ""), "VARCHAR"))
    if kind in _SCALARS:
        return Type(_SCALARS[kind])
    if kind == "array":
        items = _type_of(schema.get("items"), level)
        return Type(f"{items.sql}[]", "list", items) if items.kind == "scalar" else JSON_TEXT
    properties = schema.get("properties") if kind == "object" else None
    if not properties or schema.get("additionalProperties") or level >= MAX_STRUCT_LEVELS:
        return JSON_TEXT
    if len({name.lower() for name in properties}) < len(properties):
        return JSON_TEXT  # members of a struct know no case
    members = {name: _type_of(member, level + 1) for name, member in properties.items()}
    inner = ", ".join(f"{quoted(name)} {member.sql}" for name, member in members.items())
    return Type(f"STRUCT({inner})", "struct", None, members)


def quoted(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


# --- sending a schema -----------------------------------------------------------------------------------------------


class _NotInGemini(Exception):
    """The service's own schema language cannot say this."""


def _gemini(schema: Any, where: str) -> dict[str, Any]:
    """Return a schema in the service's language: one type each, ``nullable``, no ``additionalProperties``."""
    kind, nullable, schema = _one_type(schema)
    if schema.get("additionalProperties") or "prefixItems" in schema:
        raise _NotInGemini
    out: dict[str, Any] = {}
    if kind is None:
        options = [option for option in schema.get("anyOf") or schema.get("oneOf") or [] if option != {"type": "null"}]
        if not options:
            raise _NotInGemini
        out["anyOf"] = [_gemini(option, where) for option in options]
    else:
        out["type"] = kind.upper()
    if nullable:
        out["nullable"] = True
    for name in ("description", "minItems", "maxItems", "minimum", "maximum", "minLength", "maxLength", "pattern"):
        if schema.get(name) is not None:
            out[name] = schema[name]
    if kind == "string" and schema.get("format") == "date-time":
        out["format"] = "date-time"
    if kind in ("string", "integer") and ("enum" in schema or "const" in schema):
        values = schema.get("enum") or [schema["const"]]
        if kind != "string":
            raise _NotInGemini
        out["enum"] = [value for value in values if value is not None]
        out["format"] = "enum"
    if kind == "array":
        out["items"] = _gemini(schema.get("items", {}), where)
    if kind == "object":
        properties = schema.get("properties")
        if not properties:
            raise _NotInGemini
        out["properties"] = {name: _gemini(member, where) for name, member in properties.items()}
        out["propertyOrdering"] = list(properties)
        if schema.get("required"):
            out["required"] = list(schema["required"])
    return out


def _without_annotations(value: Any, *, named: bool = False) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _without_annotations(member, named=not named and name == "properties")
            for name, member in value.items()
            if named or name not in _ANNOTATIONS
        }
    return [_without_annotations(entry) for entry in value] if isinstance(value, list) else value


# --- validating -----------------------------------------------------------------------------------------------------


def _validator(schema: Mapping[str, Any]) -> Callable[[Any], str | None]:
    """
    Return a function that says what is wrong with a value, or None.

    The common schemas are checked by small closures; whatever these refuse or do not know, jsonschema judges and words.
    """
    import jsonschema

    validator = jsonschema.Draft202012Validator(_standard(schema))
    try:
        validator.check_schema(_standard(schema))
    except jsonschema.SchemaError as fault:
        raise ConfigurationError(f"response_schema.{_path(fault.absolute_path)}{fault.message}") from None
    quick = _quick(schema)

    def check(value: Any) -> str | None:
        if quick is not None and quick(value):
            return None
        error = jsonschema.exceptions.best_match(validator.iter_errors(value))
        if error is None:
            return None
        text = f"{_path(error.absolute_path)}{error.message}"
        return text if len(text) <= 300 else text[:297] + "..."

    return check


def _standard(schema: Any) -> Any:
    """Return a schema without OpenAPI's ``nullable``, which JSON Schema writes as a type."""
    if isinstance(schema, list):
        return [_standard(entry) for entry in schema]
    if not isinstance(schema, Mapping):
        return schema
    out = {name: _standard(member) for name, member in schema.items() if name != "nullable"}
    if schema.get("nullable") is True and isinstance(out.get("type"), str):
        out["type"] = [out["type"], "null"]
    return out


_QUICK_MEMBERS = frozenset({"type", "properties", "required", "items", "enum", "additionalProperties", "format"})
_PYTHON: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def _quick(schema: Any) -> Callable[[Any], bool] | None:
    """Return a function that is true for values that certainly fit, or None for schemas it does not know."""
    if not isinstance(schema, Mapping) or set(schema) - _QUICK_MEMBERS - _ANNOTATIONS - {"description"}:
        return None
    kind = schema.get("type")
    if not isinstance(kind, str):
        return None
    if kind in _PYTHON:
        return _quick_scalar(_PYTHON[kind], schema.get("enum"))
    if kind == "array":
        items = _quick(schema.get("items"))
        return None if items is None else lambda value: type(value) is list and all(map(items, value))
    if kind != "object" or schema.get("additionalProperties"):
        return None
    members = {name: _quick(member) for name, member in (schema.get("properties") or {}).items()}
    if None in members.values():
        return None
    required: Sequence[str] = schema.get("required") or ()

    def fits(value: Any) -> bool:
        if type(value) is not dict or not all(name in value for name in required):
            return False
        for name, member in value.items():
            check = members.get(name)
            if check is None or not check(member):
                return False
        return True

    return fits


def _quick_scalar(types: tuple[type, ...], values: Any) -> Callable[[Any], bool]:
    if values is None:
        return lambda value: type(value) in types
    return lambda value: type(value) in types and value in values
