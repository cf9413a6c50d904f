# SPDX-License-Identifier: Apache-2.0
"""Which type does a column of Python values have? All of its values decide, unless its database has said it."""

# Rows are written to a JSONL file as they come, and for each column it is noted what kinds of values it has held, and
# where each was seen first. Only then are types chosen and the file is made a Parquet part. Example: 1, 2.5 and None
# make a DOUBLE; 1 and "one" make an error that names the two rows, once somebody uses the column.

from __future__ import annotations

import contextlib
import datetime
import decimal
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.run.input_table import ROW, Table, check_reserved
from airflow_provider_gemini_batch.run.tables import copy_to_parquet, quoted, text

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MAX_ROW_BYTES = 32_000_000
_LONG_LINE = 2_000_000
_INT64 = 1 << 63

_encode = msgspec.json.Encoder(decimal_format="string", uuid_format="canonical").encode


class _Facts:
    """What the values of one column have been."""

    __slots__ = ("digits", "kinds", "scale")

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        """Kind of value -> where it was first seen."""
        self.digits = 0
        self.scale = 0


class Stager:
    """
    Rows of Python values -> one Parquet part, through a JSONL file and types found from all values.

    Used as a context; the JSONL file is removed with it.

    :param as_json: Columns whose values become JSON text, whatever they are.
    :param declared: Types by column, in DuckDB's words: such a column has it unless a value does not fit.
    """

    def __init__(
        self,
        folder: str,
        columns: Sequence[str] = (),
        as_json: frozenset[str] = frozenset(),
        declared: Mapping[str, str] | None = None,
    ) -> None:
        self._as_json = as_json
        self._declared = declared or {}
        self._folder = folder
        self._path = os.path.join(folder, "staged.jsonl")
        self._out = open(self._path, "wb", buffering=1 << 20)  # noqa: SIM115 - closed by the context
        self._columns: dict[str, _Facts] = {name: _Facts() for name in columns}
        self._lowered = {name.lower(): name for name in columns}
        self._rows = 0
        self._longest = 0

    def __enter__(self) -> Stager:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def add(self, row: Mapping[str, Any], where: str) -> None:
        """Take a row in."""
        values = {}
        for name, value in row.items():
            facts = self._columns.get(name)
            if facts is None:
                facts = self._new_column(name, where)
            if value is None:
                continue
            if name in self._as_json:
                value = _encode(value).decode()
            kind = _KINDS.get(type(value)) or _kind_of(value, name, where)
            if kind == "integer":
                # Larger than any integer column: kept as text, to the last digit, where a float would round it.
                if not -_INT64 <= value < _INT64:
                    kind, value = "big integer", str(value)
            elif kind != "text":
                value = _storable(value, kind, facts, name, where)
            # The first place of each kind is all that an error needs, and all that is kept of ten million values.
            if kind not in facts.kinds:
                facts.kinds[kind] = where
            values[name] = value
        try:
            line = _encode(values)
        except (TypeError, ValueError, RecursionError) as fault:
            raise ConfigurationError(f"{where}: cannot be written as JSON ({fault}).") from None
        if b"null" in line:  # which the encoder also makes of NaN and the infinities
            for name, value in values.items():
                _check_within(value, name, where)
        if len(line) > MAX_ROW_BYTES:
            raise ConfigurationError(f"{where}: has more than {MAX_ROW_BYTES:,} bytes.")
        self._longest = max(self._longest, len(line))
        self._out.write(line)
        self._out.write(b"\n")
        self._rows += 1

    def _new_column(self, name: Any, where: str) -> _Facts:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"{where}: a column's name must be a text that is not empty, not {name!r}.")
        check_reserved(name, where)
        other = self._lowered.setdefault(name.lower(), name)
        if other != name:
            raise ConfigurationError(f"{where}: the columns {name!r} and {other!r} differ in case alone; rename one.")
        facts = self._columns[name] = _Facts()
        return facts

    def table(self, engine: DuckDBPyConnection) -> Table:
        """Write the part, and return the table."""
        self._out.flush()
        if not self._rows:
            return Table()
        types = {name: _type_of(facts, self._declared.get(name)) for name, facts in self._columns.items()}
        stored = ", ".join(f"{text(name)}: {text(_STORED.get(sql, sql))}" for name, (sql, _) in types.items())
        values = ", ".join(_loaded(name, sql) for name, (sql, _) in types.items())
        size = max(_LONG_LINE, self._longest + 1024)
        source = (
            f"read_json({text(self._path)}, format='newline_delimited', columns={{{stored}}}, "
            f"maximum_object_size={size}, auto_detect=false)"
        )
        # One part, in the order of the lines: the engine numbers rows as it reads them.
        part = os.path.join(self._folder, "part-00000.parquet")
        average = self._out.tell() / self._rows
        query = f"SELECT row_number() OVER () - 1 AS {ROW}, {values} FROM {source}"
        copy_to_parquet(engine, query, part, bytes_a_row=average)
        return Table(
            [part],
            self._rows,
            {name: "VARCHAR" if sql == "JSON" else sql for name, (sql, _) in types.items()},
            frozenset(name for name, (sql, _) in types.items() if sql == "JSON"),
            {name: why for name, (_, why) in types.items() if why},
        )


_KINDS: Mapping[type, str] = {
    str: "text", int: "integer", float: "number", bool: "true or false", dict: "an object", list: "a list",
    decimal.Decimal: "decimal", datetime.date: "date", datetime.time: "time", uuid.UUID: "uuid", bytes: "binary",
}  # fmt: skip


def _kind_of(value: Any, name: str, where: str) -> str:
    if isinstance(value, datetime.datetime):
        return "time without zone" if value.tzinfo is None else "time with zone"
    if isinstance(value, (memoryview, bytearray)):
        return "binary"
    if isinstance(value, tuple):
        return "a list"
    if isinstance(value, datetime.timedelta):
        return "duration"
    for kind, word in _KINDS.items():
        if isinstance(value, kind):
            return word
    raise ConfigurationError(f"{where}: column {name!r} holds {type(value).__name__}, which no table can; convert it.")


def _storable(value: Any, kind: str, facts: _Facts, name: str, where: str) -> Any:
    """Return a value as the JSONL file holds it."""
    if kind == "number":
        # True of NaN and of both infinities alone.
        if value - value != 0:
            raise ConfigurationError(f"{where}: column {name!r} holds {value}, which is no number of JSON.")
    elif kind == "decimal":
        if not value.is_finite():
            raise ConfigurationError(f"{where}: column {name!r} holds {value}, which is no number.")
        _, digits, exponent = value.as_tuple()
        scale = max(0, -int(exponent))
        facts.scale = max(facts.scale, scale)
        facts.digits = max(facts.digits, len(digits) + max(0, int(exponent)) - scale)
        return format(value, "f")
    elif kind == "time with zone":
        return value.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")
    elif kind == "time without zone":
        return value.strftime("%Y-%m-%d %H:%M:%S.%f")
    elif kind == "binary":
        return bytes(value).hex()
    elif kind == "duration":
        return f"{value.total_seconds():.6f} seconds"
    return value


def _check_within(value: Any, name: str, where: str) -> None:
    """Refuse a number that JSON has not, deep inside a list or an object: it would silently become null."""
    if isinstance(value, float) and value - value != 0:
        raise ConfigurationError(f"{where}: column {name!r} holds {value}, which is no number of JSON.")
    if isinstance(value, (list, tuple)):
        for entry in value:
            _check_within(entry, name, where)
    elif isinstance(value, Mapping):
        for entry in value.values():
            _check_within(entry, name, where)


# Types that JSON has no word for are stored as text and cast.
_STORED = {
    "BLOB": "VARCHAR", "UUID": "VARCHAR", "DATE": "VARCHAR", "TIME": "VARCHAR", "TIMESTAMP": "VARCHAR",
    "TIMESTAMPTZ": "VARCHAR", "INTERVAL": "VARCHAR",
}  # fmt: skip
_SQL = {
    "text": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE", "true or false": "BOOLEAN", "an object": "JSON",
    "a list": "JSON", "date": "DATE", "time": "TIME", "uuid": "UUID", "binary": "BLOB", "big integer": "VARCHAR",
    "time without zone": "TIMESTAMP", "time with zone": "TIMESTAMPTZ", "duration": "INTERVAL",
}  # fmt: skip
_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")
# Values that a column of another type takes: a driver may give a UUID as text.
_WIDENED = frozenset({("integer", "DOUBLE"), ("text", "UUID")})
# Kinds that one column may hold together.
_TOGETHER: Mapping[frozenset[str], str] = {
    frozenset({"integer", "number"}): "DOUBLE",
    frozenset({"integer", "big integer"}): "VARCHAR",
    frozenset({"an object", "a list"}): "JSON",
}


def _fits(facts: _Facts, declared: str) -> bool:
    if declared == "JSON":
        return True
    if decimal_type := _DECIMAL.fullmatch(declared):
        digits, scale = map(int, decimal_type.groups())
        return facts.kinds.keys() <= {"decimal"} and facts.scale <= scale and facts.digits <= digits - scale
    return all(_SQL[kind] == declared or (kind, declared) in _WIDENED for kind in facts.kinds)


def _type_of(facts: _Facts, declared: str | None = None) -> tuple[str, str]:
    """Return a column's type, and what is wrong with it."""
    if declared and _fits(facts, declared):
        return declared, ""
    kinds = frozenset(facts.kinds)
    if not kinds:
        return "VARCHAR", ""
    if kinds <= {"decimal", "integer"} and "decimal" in kinds:
        # An integer beside decimals may have 19 digits (64 bits), and all of them stand before the point.
        digits = max(facts.digits, 19 if "integer" in kinds else 1) + facts.scale
        return (f"DECIMAL({digits},{facts.scale})" if digits <= 38 else "VARCHAR"), ""
    if len(kinds) == 1:
        return _SQL[next(iter(kinds))], ""
    if kinds in _TOGETHER:
        return _TOGETHER[kinds], ""
    (one, first), (other, second) = list(facts.kinds.items())[:2]
    return "VARCHAR", f"{one} ({first}) and {other} ({second})"


def _loaded(name: str, sql: str) -> str:
    column = quoted(name)
    if sql == "BLOB":
        return f"unhex({column}) AS {column}"
    if sql == "JSON":
        return f"CAST({column} AS VARCHAR) AS {column}"
    return f"CAST({column} AS {sql}) AS {column}" if sql in _STORED or sql.startswith("DECIMAL") else column
