# SPDX-License-Identifier: Apache-2.0
"""What does a database's fault mean: does it pass, and what may be told of it?"""

from __future__ import annotations

import re

from airflow_provider_gemini_batch.errors import GeminiBatchError


def is_deadlock(fault: Exception) -> bool:
    code = _code_of(fault)
    return code in ("40P01", "40001") or "database is locked" in str(fault)


_PASSING_CLASSES = ("08", "40", "53", "57", "58")
"""Classes of SQLSTATE: connection, rollback, resources, an operator's intervention, the system."""
_LOCK_NOT_AVAILABLE = "55P03"


def passes(fault: Exception) -> bool:
    """Say whether a database's fault may be gone at the next attempt: a lock, a lost connection, a full server."""
    code = _code_of(fault)
    if code:
        return code[:2] in _PASSING_CLASSES or code == _LOCK_NOT_AVAILABLE
    if type(fault).__module__.startswith("psycopg"):
        return type(fault).__name__ in ("OperationalError", "InterfaceError")  # no code: the link itself
    return "database is locked" in str(fault)


def first_line(fault: Exception) -> str:
    """
    Return what a database says, without values: these are nobody's business in a log.

    PostgreSQL's class 22 quotes the value that does not fit, and names its column in a line of its own.
    """
    said = (str(fault).strip().splitlines() or [type(fault).__name__])[0].rstrip(".")
    if not _code_of(fault).startswith("22"):
        return said
    column = re.search(r"^(?:CONTEXT: +)?COPY \S+, line \d+, column ([^\n]+?)(?:: |$)", str(fault), re.MULTILINE)
    return re.sub('"[^"]*"', '"..."', said) + (f" (column {column[1]})" if column else "")


def _code_of(fault: Exception) -> str:
    return str(getattr(fault, "pgcode", None) or getattr(fault, "sqlstate", None) or "")


def without_values(fault: Exception) -> Exception:
    """Return a database's error without the lines in which it shows values, and with the way out if a type is wrong."""
    if isinstance(fault, GeminiBatchError):
        return fault
    way = ""
    if _code_of(fault).startswith("22"):
        way = " The answers are kept: change the column's type and clear the task, which asks nothing again."
    return GeminiBatchError(f"The database refused; nothing was changed: {first_line(fault)}.{way}")
