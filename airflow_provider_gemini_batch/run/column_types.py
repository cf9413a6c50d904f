# SPDX-License-Identifier: Apache-2.0
"""Which type has the column of an answer's member, and how is a value put in? By the schema alone, not by data."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from airflow_provider_gemini_batch.run.schema_reading import SCALARS, one_type
from airflow_provider_gemini_batch.run.tables import quoted

MAX_STRUCT_LEVELS = 2

_INT64 = 1 << 63
_FORMATS = {"date": "DATE", "date-time": "TIMESTAMPTZ"}


_encode = msgspec.json.Encoder().encode


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
        # Models write 3.0 for a whole number, and JSON Schema counts it as one.
        if isinstance(value, float):
            if not value.is_integer():
                raise SchemaBreach(f"{value} is no whole number")
            value = int(value)
        if not -_INT64 <= value < _INT64:
            raise SchemaBreach(f"{value} does not fit 64 bits")
    elif sql == "DOUBLE":
        # Infinity comes of numbers like 1e999, which JSON allows; a column of doubles would hold it, a JSON output
        # could not.
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


def type_of(schema: Any, level: int) -> Type:
    """Return the type of a column that holds what *schema* asks; *level* counts the structs around it."""
    kind, _, schema = one_type(schema)
    if kind == "string":
        return Type(_FORMATS.get(schema.get("format", ""), "VARCHAR"))
    if kind in SCALARS:
        return Type(SCALARS[kind])
    if kind == "array":
        items = type_of(schema.get("items"), level)
        return Type(f"{items.sql}[]", "list", items) if items.kind == "scalar" else JSON_TEXT
    properties = schema.get("properties") if kind == "object" else None
    # Members that nobody can name in advance, and deep nests, are kept as JSON text: a column's type has to be known
    # before the first answer.
    if not properties or schema.get("additionalProperties") or level >= MAX_STRUCT_LEVELS:
        return JSON_TEXT
    if len({name.lower() for name in properties}) < len(properties):
        return JSON_TEXT  # members of a struct know no case
    members = {name: type_of(member, level + 1) for name, member in properties.items()}
    inner = ", ".join(f"{quoted(name)} {member.sql}" for name, member in members.items())
    return Type(f"STRUCT({inner})", "struct", None, members)
