# SPDX-License-Identifier: Apache-2.0
"""The table's parts -> what the user asked for: a file, a folder of parts, an errors file."""

# A reader sees the old output or the new one. A file is finished locally and published whole, also in object storage. A
# folder is whole through its `_manifest.json`, written last: parts that it does not name are not part of it. The same
# parts written twice change nothing. Who reads all Parquet files of a folder, and not what the manifest names, may see
# old and new ones beside each other while they are replaced: object storage replaces one object at a time.

from __future__ import annotations

import datetime
import math
import os
import shutil
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.atomic import AtomicFile
from airflow_provider_gemini_batch.files.folder import Folder
from airflow_provider_gemini_batch.run import parts
from airflow_provider_gemini_batch.run.checkpoint import digest_of
from airflow_provider_gemini_batch.run.merge import group_size
from airflow_provider_gemini_batch.run.tables import quoted, rows_of, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from duckdb import DuckDBPyConnection

SUFFIXES = (".jsonl", ".csv", ".parquet")

_encode = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode


def form_of(place: str) -> str:
    """
    Return the form of an output: ``jsonl``, ``csv``, ``parquet`` or ``folder``.

    :raises ConfigurationError: If the name has another suffix.
    """
    base = place.rstrip("/").rsplit("/", 1)[-1]
    suffix = os.path.splitext(base)[1].lower()
    if suffix in SUFFIXES:
        return suffix[1:]
    if suffix in ("", ".d") or place.endswith("/"):
        return "folder"
    raise ConfigurationError(
        f"output_path must end in .jsonl, .csv or .parquet, or name a folder, not {base!r}: no other form is written."
    )


def sample_place(place: str) -> str:
    """Return where the answers of a sample go: ``<stem>.sample<suffix>``, of a folder with a slash at its end."""
    stem, suffix = os.path.splitext(place.rstrip("/"))
    # Without the slash a folder's name would have a suffix, of a form that nobody writes.
    return f"{stem}.sample{suffix}{'' if suffix.lower() in SUFFIXES else '/'}"


class Table:
    """
    A finished table on local disk.

    :param parts: Parquet files in order.
    :param columns: Types by name, in order.
    :param json_columns: Columns that hold JSON text.
    :param bytes_a_row: What a row takes uncompressed, if that is known.
    """

    def __init__(
        self,
        engine: DuckDBPyConnection,
        parts: Sequence[str],
        columns: Mapping[str, str],
        json_columns: Iterable[str],
        bytes_a_row: float = 0.0,
    ) -> None:
        self._bytes_a_row = bytes_a_row
        self.engine = engine
        self.parts = list(parts)
        self.columns = dict(columns)
        self.json_columns = frozenset(json_columns)

    @property
    def query(self) -> str:
        """All rows in order, as a query."""
        return f"SELECT * FROM read_parquet([{', '.join(map(text, self.parts))}])"

    @property
    def rows(self) -> int:
        """Number of rows."""
        found = self.engine.execute(f"SELECT count(*) FROM ({self.query})").fetchone()
        return int(found[0]) if found else 0

    def write(self, place: str, folder: str, *, name: str = "part") -> None:
        """
        Write the table to *place* in the form that its name asks for.

        :param folder: Local, for what is not finished.
        :param name: Prefix of a folder's parts; the same for the same writer.
        """
        form = form_of(place)
        if form == "folder":
            self._write_folder(place, name)
        elif form == "jsonl":
            with AtomicFile(place) as out:
                for line in json_lines(self):
                    out.write(line)
        else:
            local = os.path.join(folder, f"finished.{form}")
            self._copy(local, form)
            _publish(local, place)
            os.unlink(local)

    def _copy(self, local: str, form: str) -> None:
        if form == "parquet":
            size = group_size(self.parts, self.rows, self._bytes_a_row)
            options = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {size}"
            self.engine.execute(f"COPY ({self.query}) TO {text(local)} ({options})")
            return
        shown = ", ".join(_flat(name, sql) for name, sql in self.columns.items())
        self.engine.execute(f"COPY (SELECT {shown} FROM ({self.query})) TO {text(local)} (FORMAT csv, HEADER true)")

    def _write_folder(self, place: str, name: str) -> None:
        folder = Folder(place)
        # Named by their content: what an attempt that died has sent is what the next one sends, not a part besides.
        mine = {f"{name}-{number:05d}-{digest_of(part)}.parquet": part for number, part in enumerate(self.parts)}
        # In this order: note what will be written, write it, name it in the manifest, and only then remove what it
        # replaces. A writer that dies leaves a folder whose manifest names parts that are all there.
        former = parts.begin(folder, name, list(mine))
        for target, part in mine.items():
            _publish(part, folder.path(target))
        parts.publish(folder, name, list(mine))
        for part in former:
            folder.discard(part)
        parts.end(folder, name)


def _publish(local: str, place: str) -> None:
    with open(local, "rb") as source, AtomicFile(place) as out:
        shutil.copyfileobj(source, out, 1 << 20)


def _flat(name: str, sql: str) -> str:
    """Return a column as CSV shows it: lists and structs as JSON text, times in ISO 8601."""
    column = quoted(name)
    if sql.endswith("[]") or sql.startswith(("STRUCT", "MAP")):
        return f"to_json({column})::VARCHAR AS {column}"
    if sql in ("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"):
        return f"strftime({column}::TIMESTAMP, '%Y-%m-%dT%H:%M:%S.%fZ') AS {column}"
    return column


def json_lines(table: Table, query: str | None = None) -> Iterator[bytes]:
    """Yield a table's rows as JSON lines: times in ISO 8601, JSON text as the value it says."""
    readers: list[Any] = []
    selected = []
    for name, sql in table.columns.items():
        column = quoted(name)
        if sql == "FLOAT[]":
            # Shortest digits that give the same 32 bits; Python would print those of 64.
            selected.append(f"CAST({column} AS VARCHAR)")
            readers.append(_raw)
        elif sql in ("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"):
            selected.append(f"CAST({column} AS TIMESTAMP)")
            readers.append(_utc)
        else:
            selected.append(column)
            readers.append(_raw if name in table.json_columns else _finite if sql in ("DOUBLE", "FLOAT") else None)
    columns = list(table.columns)
    special = [(columns[place], reader) for place, reader in enumerate(readers) if reader is not None]
    for values in rows_of(table.engine, f"SELECT {', '.join(selected)} FROM ({query or table.query})"):
        row = dict(zip(columns, values, strict=True))
        for name, reader in special:
            if row[name] is not None:
                row[name] = reader(row[name])
        yield _encode(row) + b"\n"


def _raw(value: str) -> msgspec.Raw:
    return msgspec.Raw(value.encode())


def _utc(value: datetime.datetime) -> datetime.datetime:
    return value.replace(tzinfo=datetime.UTC)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
