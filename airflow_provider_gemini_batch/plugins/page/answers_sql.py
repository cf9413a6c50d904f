# SPDX-License-Identifier: Apache-2.0
"""One page of answers in a table of PostgreSQL or SQLite."""

# Table and connection are taken from the task's rendered arguments, which no person can write, never from an XCom. The
# database is asked in a transaction that can only read, for five seconds at most. The table is ordered by its first
# column, which is the key and has an index.

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.plugins.page.answers_rows import PAGE, AnswerPage, condition, prefix_in
from airflow_provider_gemini_batch.plugins.page.errors import PageError
from airflow_provider_gemini_batch.run.sql import qualified

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_gemini_batch.plugins.page.answers_rows import Wanted

SECONDS = 5

_MARK = "\0"
"""Stands for a parameter until the driver is known: no name holds it."""


def table_of(manifest: Mapping[str, Any], arguments: Mapping[str, Any]) -> tuple[str, str] | None:
    """
    Return the connection and the table of a task's answers; None if its arguments and its manifest do not agree.

    :param arguments: Rendered template fields.
    """
    conn_id, table, landed = (
        arguments.get("output_conn_id"),
        arguments.get("output_table"),
        manifest.get("output_table"),
    )
    if not (isinstance(conn_id, str) and isinstance(table, str) and conn_id and table):
        return None
    return (conn_id, str(landed)) if landed in (table, f"{table}_sample") else None


def read_table(conn_id: str, table: str, wanted: Wanted) -> AnswerPage:
    """
    Read a page.

    :raises PageError: If the table cannot be read, or is none of ours.
    """
    from airflow_provider_gemini_batch.task.sql import connect_to_read

    began = time.monotonic()
    try:
        with closing(connect_to_read(conn_id, SECONDS)) as connection, closing(connection.cursor()) as cursor:
            found = page_of(cursor, table, wanted)
    except PageError:
        raise
    except Exception as error:  # each driver has errors of its own; a message may quote the connection
        raise PageError(
            502, "The table cannot be read", f"{table} over {conn_id}: {type(error).__name__}. A search may take "
            f"{SECONDS} seconds; the log of the API server says more.",
        ) from error  # fmt: skip
    return replace(found, took=time.monotonic() - began)


def page_of(cursor: Any, table: str, wanted: Wanted) -> AnswerPage:
    """
    Read a page over a DB-API cursor.

    :raises PageError: If the table is none of ours.
    """
    name = qualified(table)
    cursor.execute(f"SELECT * FROM {name} LIMIT 0")
    columns = [str(each[0]) for each in cursor.description]
    prefix = prefix_in(columns)
    where, values = condition(
        columns, prefix, wanted, _MARK, f"lower(CAST({{}} AS TEXT)) LIKE {_MARK} ESCAPE '!'", _pattern
    )
    where = where and f" WHERE {where}"
    first = (wanted.page - 1) * PAGE
    query = f"SELECT * FROM {name}{where} ORDER BY 1 LIMIT {PAGE + 1} OFFSET {first}"
    if type(cursor).__module__.startswith("sqlite3"):
        query = query.replace(_MARK, "?")
    elif values:  # a column may be called "share %"
        query = query.replace("%", "%%").replace(_MARK, "%s")
    cursor.execute(query, values) if values else cursor.execute(query)
    rows = cursor.fetchall()
    named = [dict(zip(columns, row, strict=True)) for row in rows[:PAGE]]
    return AnswerPage(named, prefix, len(rows) > PAGE, columns=columns)


def _pattern(word: str) -> str:
    """Return what LIKE finds a word by."""
    return "%" + word.replace("!", "!!").replace("%", "!%").replace("_", "!_") + "%"
