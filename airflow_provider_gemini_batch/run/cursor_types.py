# SPDX-License-Identifier: Apache-2.0
"""Which type does a query's column have, as its database says, whatever values it holds tonight?"""

# A type found from values changes from night to night: a numeric(12,2) column that holds 1.10 would be DECIMAL(3,2),
# and one that is null in all rows text, so that the parts of one folder differ, and a table made on such a night takes
# no number ever after. PostgreSQL tells the type with each result, by a number that never changes. Drivers of other
# databases tell none, or numbers of their own, so that values decide there.

from __future__ import annotations

from typing import Any

# real and smallint come as Python's float and int: a narrower type would change what a template shows (1.1 as REAL is
# 1.100000023841858).
_POSTGRES = {
    16: "BOOLEAN", 17: "BLOB", 20: "BIGINT", 21: "BIGINT", 23: "BIGINT", 25: "VARCHAR", 114: "JSON", 700: "DOUBLE",
    701: "DOUBLE", 1042: "VARCHAR", 1043: "VARCHAR", 1082: "DATE", 1083: "TIME", 1114: "TIMESTAMP",
    1184: "TIMESTAMPTZ", 1186: "INTERVAL", 2950: "UUID", 3802: "JSON",
}  # fmt: skip
_NUMERIC = 1700
_MOST_DIGITS = 38


def declared_types(cursor: Any) -> dict[str, str]:
    """
    Return the types of a query's columns by name, in DuckDB's words; columns of which nothing is known are left out.

    :param cursor: A DB-API cursor that has rows.
    """
    if not type(cursor).__module__.startswith("psycopg"):
        return {}
    found = {str(column[0]): _type_of(*column[1:6]) for column in cursor.description}
    return {name: sql for name, sql in found.items() if sql}


def _type_of(oid: int, _display: Any, _size: Any, precision: int | None, scale: int | None) -> str | None:
    if oid != _NUMERIC:
        return _POSTGRES.get(oid)
    if precision is None or scale is None or not 0 <= scale <= precision <= _MOST_DIGITS:
        return None  # without a precision, or with one that no engine has
    return f"DECIMAL({precision},{scale})"
