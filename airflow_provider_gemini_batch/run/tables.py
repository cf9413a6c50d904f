# SPDX-License-Identifier: Apache-2.0
"""DuckDB, loaded when a run needs it, kept within 128 MB, on local files only."""

# The engine works on columns and on narrow results; bodies of answers pass through it a bucket at a time. Remote files
# are fetched before and sent after: a `COPY` to object storage that fails half-way would destroy the old file.
#
# It works in the caller's thread alone. The C library gives each thread memory of its own, which it does not get back
# when the thread ends: with two threads for each step, a run of 50 jobs kept 70 MB more than at its start. Nearly all
# of a run's time is Python's, so that a second thread saved little.

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.atomic import disk_full, temporary_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from duckdb import DuckDBPyConnection

FETCH_ROWS = 1000
MEMORY_LIMIT = "128MB"
BUCKET_BYTES = 16_000_000
FEWEST_ROWS = 2048
"""Rows of the smallest row group: the engine works on so many at once."""


def quoted(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def require_extra() -> None:
    """
    Raise ConfigurationError if what the run operators need is not installed, or is too old.

    The message names the extra.
    """
    try:
        import duckdb
        import zstandard  # noqa: F401
    except ImportError as fault:
        raise ConfigurationError(
            f"A run needs DuckDB and zstandard ({fault}): install airflow-provider-gemini-batch[tables]."
        ) from fault
    version = tuple(int(part) for part in duckdb.__version__.split(".")[:2])
    if not (1, 4) <= version < (3, 0):
        raise ConfigurationError(
            f"A run needs DuckDB 1.4 or later, below 3, not {duckdb.__version__}: install "
            "airflow-provider-gemini-batch[tables]."
        )


@contextlib.contextmanager
def engine(folder: str) -> Iterator[DuckDBPyConnection]:
    """
    Yield an in-memory database that spills below *folder* and nowhere else.

    Its time zone is UTC: the host's would change prompts, and so digests.
    """
    require_extra()
    import duckdb

    spill = os.path.join(folder, "spill")
    config: dict[str, Any] = {
        "memory_limit": MEMORY_LIMIT,
        "threads": "1",
        "temp_directory": spill,
        # Half of what is free: what the engine writes is finished beside it on the same disk.
        "max_temp_directory_size": f"{max(_free_bytes(folder) // 2, 1 << 20)}B",
        # A worker may have no way out to the internet, and must not wait for one.
        "autoinstall_known_extensions": "false",
    }
    connection = duckdb.connect(":memory:", config=config)
    try:
        connection.execute("SET TimeZone='UTC'")
        with temporary_files("the run's table", folder):
            yield connection
    except (duckdb.IOException, duckdb.OutOfMemoryException) as fault:
        if "No space left" not in str(fault) and "max_temp_directory_size" not in str(fault):
            if not isinstance(fault, duckdb.OutOfMemoryException):
                raise
            raise ConfigurationError(
                f"The rows do not fit into the {MEMORY_LIMIT} that a run's engine takes: they have very many columns, "
                "or very long values. Leave out what the prompt and the table do not need, by sql= over a connection "
                "or over the file's columns."
            ) from fault
        raise disk_full(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "the run's table", 0, folder) from fault
    finally:
        connection.close()
        shutil.rmtree(spill, ignore_errors=True)


def _free_bytes(folder: str) -> int:
    return shutil.disk_usage(folder).free


def rows_of(connection: DuckDBPyConnection, query: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield a query's rows one by one, fetching a thousand at a time: what is held stays small."""
    cursor = connection.execute(query, list(parameters)) if parameters else connection.execute(query)
    while batch := cursor.fetchmany(FETCH_ROWS):
        yield from batch


def columns_of(connection: DuckDBPyConnection, query: str) -> dict[str, str]:
    """Return names and types of a query's columns, in order."""
    found = connection.execute(f"DESCRIBE {query}").fetchall()
    return {str(row[0]): str(row[1]) for row in found}


def text(value: str) -> str:
    """Return a string as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def names(columns: Sequence[str], prefix: str = "") -> str:
    """Return column names for a select list."""
    return ", ".join(f"{prefix}{quoted(name)}" for name in columns)


def row_group_size(bytes_a_row: float) -> int:
    """Return the rows of a Parquet row group that the engine can hold beside its work, a multiple of its vectors."""
    fitting = int(BUCKET_BYTES / max(bytes_a_row, 1.0))
    return max(FEWEST_ROWS, min(122_880, fitting // FEWEST_ROWS * FEWEST_ROWS))


def copy_to_parquet(connection: DuckDBPyConnection, query: str, path: str, *, bytes_a_row: float = 100.0) -> int:
    """Write a query's rows, in their order, to a local Parquet file, and return their number."""
    size = row_group_size(bytes_a_row)
    done = connection.execute(
        f"COPY ({query}) TO {text(path)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {size})"
    ).fetchone()
    return int(done[0]) if done else 0
