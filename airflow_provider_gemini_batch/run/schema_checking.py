# SPDX-License-Identifier: Apache-2.0
"""Is an answer what its schema asks? Fast for those that fit, exact for the others."""

# Most answers fit, and most schemas are small: closures over a few types check these. What they refuse or do not know,
# jsonschema judges and words, so that the closures need not be complete. They must never accept what jsonschema
# refuses.

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.run.schema_reading import ANNOTATIONS


def path_of(parts: Iterable[Any]) -> str:
    """Return where in an answer something is, with a colon; empty for the whole."""
    path = ".".join(str(part) for part in parts)
    return f"{path}: " if path else ""


def validator_of(schema: Mapping[str, Any]) -> Callable[[Any], str | None]:
    """
    Return a function that says what is wrong with a value, or None.

    :raises ConfigurationError: If *schema* is none.
    """
    import jsonschema

    validator = jsonschema.Draft202012Validator(_standard(schema))
    try:
        validator.check_schema(_standard(schema))
    except jsonschema.SchemaError as fault:
        raise ConfigurationError(f"response_schema.{path_of(fault.absolute_path)}{fault.message}") from None
    quick = _quick(schema)

    def check(value: Any) -> str | None:
        if quick is not None and quick(value):
            return None
        error = jsonschema.exceptions.best_match(validator.iter_errors(value))
        if error is None:
            return None
        text = f"{path_of(error.absolute_path)}{error.message}"
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
    if not isinstance(schema, Mapping) or set(schema) - _QUICK_MEMBERS - ANNOTATIONS - {"description"}:
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
