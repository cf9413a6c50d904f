# SPDX-License-Identifier: Apache-2.0
"""
The input as it was when a generation began: read once, never again, never changed.

``narrow`` holds number, digest and size of each row, 40 bytes a row: all that joins over all rows need. Requests lie in
chunks of consecutive rows, so that a shard reads its own chunks alone. Key and kept columns keep their source types.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import ConfigurationError, EmptyInputError
from airflow_provider_gemini_batch.run.digest import RequestDigester
from airflow_provider_gemini_batch.run.prompts import compile_template
from airflow_provider_gemini_batch.run.requests import FORM_COLUMNS, TextRequests, row_requests
from airflow_provider_gemini_batch.run.schema import quoted
from airflow_provider_gemini_batch.run.sources import ROW, Source, Table
from airflow_provider_gemini_batch.run.tables import copy_to_parquet, names, rows_of, text

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.spec import RunSpec

CHUNK_BYTES = 64_000_000
CHUNK_ROWS = 50_000

NUMBERED_KEY = "key"
"""Name of the key column where rows are known by their number."""


@dataclass(frozen=True)
class Snapshot:
    """
    An input at rest, as its header tells.

    :param rows: Rows that get a row in the output: all, or those of a sample.
    :param total_rows: Rows of the whole input.
    :param data, narrow: Names of files in the checkpoint.
    :param chunks: Number of the first row and name of each chunk of requests, in order.
    :param keys, kept: Types by column.
    :param carried: Names of files with answers that are taken instead of asked for; see :mod:`.answers`.
    :param input_bytes: Of all requests that get a row.
    :param changing: Variables of the template whose value differs in the next DAG run.
    """

    rows: int
    total_rows: int
    data: str
    narrow: str
    chunks: tuple[tuple[int, str], ...]
    keys: Mapping[str, str]
    kept: Mapping[str, str]
    fingerprint: str
    input_bytes: int
    data_bytes: int
    created: float
    host: str
    carried: tuple[Mapping[str, Any], ...] = ()
    changing: tuple[str, ...] = ()
    reuse: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, header: Mapping[str, Any]) -> Snapshot:
        """Read a header that :meth:`header` made."""
        known = {name: header[name] for name in cls.__dataclass_fields__ if name in header}
        known["chunks"] = tuple((int(first), str(name)) for first, name in header["chunks"])
        # Lists of pairs: the header's objects are sorted, and the order of columns counts.
        known["keys"], known["kept"] = dict(header["keys"]), dict(header["kept"])
        known["carried"] = tuple(header.get("carried") or ())
        known["changing"] = tuple(header.get("changing") or ())
        return cls(**known)

    def header(self) -> dict[str, Any]:
        """Return the snapshot as plain JSON values."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**plain, "keys": list(self.keys.items()), "kept": list(self.kept.items())}

    def chunks_of(self, first: int, last: int) -> list[str]:
        """Return the names of the chunks with requests of the rows *first* to *last*."""
        starts = [start for start, _ in self.chunks]
        begin = max(0, bisect.bisect_right(starts, first) - 1)
        return [name for _, name in self.chunks[begin : bisect.bisect_right(starts, last)]]

    def requests(self, checkpoint: Checkpoint, folder: str, first: int, last: int) -> Iterator[tuple[int, str, bytes]]:
        """Yield number, digest and request of the rows *first* to *last*, in order."""
        import zstandard

        for name in self.chunks_of(first, last):
            path = checkpoint.folder.fetch(name, folder)
            with open(path, "rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as stream:
                for line in _lines(stream):
                    number, digest, body = line.split(b" ", 2)
                    n = int(number)
                    if n > last:
                        return
                    if n >= first:
                        yield n, digest.decode(), body


def _lines(stream: Any) -> Iterator[bytes]:
    """Yield lines without their newlines."""
    rest = b""
    while piece := stream.read(1 << 20):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest


Carry = Callable[["DuckDBPyConnection", str], Sequence[Mapping[str, Any]]]
"""Given the engine and the narrow file's path, brings in answers that are there already; returns their files."""


def take(
    source: Source,
    spec: RunSpec,
    checkpoint: Checkpoint,
    engine: DuckDBPyConnection,
    folder: str,
    variables: Mapping[str, Any],
    carry: Carry = lambda engine, narrow: (),
    warn: Callable[[str], None] = lambda text: None,
    host: str = "",
) -> Snapshot:
    """
    Read the input and publish it as the generation's snapshot; what another worker has published first wins.

    :param folder: Local, for what is being written.
    :param variables: For the template, see :data:`~.prompts.VARIABLES`.
    :param host: Who writes it.
    :raises EmptyInputError: If there are no rows.
    :raises ConfigurationError: Naming column, row and key.
    """
    table = source.read(engine, folder)
    if not table.rows:
        raise EmptyInputError("The input has no rows.")
    columns = _Columns.choose(spec, table)
    _check_keys(engine, table, columns.keys)
    if columns.changing:
        warn(
            f"{spec.argument} uses {', '.join(columns.changing)}, whose value differs in the next DAG run: "
            "reuse_answers will find nothing there."
        )
    data = os.path.join(folder, "data.parquet")
    data_bytes = _write_data(engine, table, columns, data)
    with contextlib.closing(_Requests(checkpoint, folder, RequestDigester(spec.kind, spec.model))) as writer:
        for n, body in columns.bodies(engine, table, spec, variables):
            writer.add(n, body)
        narrow, rows, input_bytes = writer.finish(engine, spec.sample)
    carried = carry(engine, narrow)
    snapshot = Snapshot(
        rows=rows,
        total_rows=table.rows,
        data=checkpoint.put("data", ".parquet", data),
        narrow=checkpoint.put("narrow", ".parquet", narrow),
        chunks=tuple(writer.chunks),
        keys=columns.keys or {NUMBERED_KEY: "VARCHAR"},
        kept=columns.kept,
        fingerprint=spec.fingerprint,
        input_bytes=input_bytes,
        data_bytes=data_bytes,
        created=time.time(),
        host=host,
        carried=tuple(carried),
        changing=columns.changing,
    )
    return Snapshot.read(checkpoint.create("snapshot.json", snapshot.header()))


@dataclass(frozen=True)
class _Columns:
    """Which columns of an input are what."""

    keys: dict[str, str]
    kept: dict[str, str]
    used: tuple[str, ...]
    changing: tuple[str, ...] = ()

    @classmethod
    def choose(cls, spec: RunSpec, table: Table) -> _Columns:
        """Sort the columns by what the spec asks, and refuse what cannot be."""
        present = list(table.columns)
        key = spec.key
        changing: tuple[str, ...] = ()
        if spec.prompt is not None:
            # Values for the variables do not matter yet: this finds the columns.
            template = compile_template(spec.prompt, present, _ANY, argument=spec.argument)
            used = tuple(present) if template.uses_whole_row else template.used
            asked, changing = template.used, template.changing
        else:
            used = asked = tuple(name for name in present if name in FORM_COLUMNS)
            if not used:
                raise ConfigurationError(
                    f"Give {spec.argument}, a template for each row, or rows with a column 'request', "
                    f"{spec.argument!r} or another of the row forms; the input has {', '.join(present[:20])}."
                )
            if not key and "key" in present:
                key = ("key",)
        kept = spec.keep_columns
        if kept is None:
            kept = tuple(name for name in present if name not in asked and name not in key)
        for argument, wanted in (("key", key), ("keep_columns", kept)):
            if absent := [name for name in wanted if name not in table.columns]:
                raise ConfigurationError(
                    f"{argument} names {', '.join(map(repr, absent))}, which the input does not have; it has "
                    f"{', '.join(present[:20])}."
                )
        kept = tuple(name for name in kept if name not in key)
        for name in dict.fromkeys((*key, *kept, *used)):
            if name in table.mixed:
                raise ConfigurationError(
                    f"The column {name!r} holds values of several types: {table.mixed[name]}. Convert them to one, or "
                    "leave the column out by keep_columns."
                )
        keys = {name: table.columns[name] for name in key}
        columns = {name: table.columns[name] for name in kept}
        spec.output_columns(keys or {NUMBERED_KEY: "VARCHAR"}, columns)
        return cls(keys, columns, used, changing)

    def bodies(
        self, engine: DuckDBPyConnection, table: Table, spec: RunSpec, variables: Mapping[str, Any]
    ) -> Iterator[tuple[int, bytes]]:
        """Yield number and request of each row, in order."""
        rows = self._rows(engine, table)
        if spec.prompt is not None:
            template = compile_template(spec.prompt, self.used, variables, argument=spec.argument)
            requests = TextRequests(spec, template)
            for n, key, values in rows:
                yield n, requests.body(values, n, key)
            return
        yield from row_requests(
            spec,
            (
                (n, key, {name: value for name, value in zip(self.used, values, strict=True) if value is not None})
                for n, key, values in rows
            ),
        )

    def _rows(self, engine: DuckDBPyConnection, table: Table) -> Iterator[tuple[int, object, list[Any]]]:
        """Yield number, key and used values of each row, as a template sees them."""
        readers = [_reader(name, table) for name in self.used]
        special = [(place, reader) for place, reader in enumerate(readers) if reader is not None]
        key = ", ".join(f"CAST({quoted(name)} AS VARCHAR)" for name in self.keys)
        shown = f"concat_ws(', ', {key})" if key else "NULL"
        values = ", ".join(
            f"CAST({quoted(name)} AS TIMESTAMP)" if table.columns[name].startswith("TIMESTAMP WITH") else quoted(name)
            for name in self.used
        )
        query = f"SELECT {ROW}, {shown}, {values or 'NULL'} FROM ({table.query})"
        for expected, (n, shown_key, *found) in enumerate(rows_of(engine, query)):
            if n != expected:  # all that follows counts on it
                raise AssertionError(f"row {n} was read where {expected} was due")
            for place, reader in special:
                if found[place] is not None:
                    found[place] = reader(found[place])
            yield n, shown_key, found


class _AnyValue(dict[str, Any]):
    """Stands for the variables of a template while its columns are looked for."""

    def items(self) -> Any:
        from airflow_provider_gemini_batch.run.prompts import VARIABLES

        return dict.fromkeys(VARIABLES).items()


_ANY = _AnyValue({"row": None})


def _reader(name: str, table: Table) -> Callable[[Any], Any] | None:
    if name in table.json_columns:
        import msgspec

        return msgspec.json.Decoder().decode
    if table.columns[name].startswith("TIMESTAMP WITH"):
        return _with_zone
    return None


def _with_zone(value: datetime) -> datetime:
    # Read without a zone, in UTC: DuckDB 1.x needs pytz for the zone.
    return value.replace(tzinfo=UTC)


def _check_keys(engine: DuckDBPyConnection, table: Table, keys: Mapping[str, str]) -> None:
    """Refuse null and repeated keys; keys are compared as text, over all parts."""
    if not keys:
        return
    for name in keys:
        found = engine.execute(f"SELECT {ROW} FROM ({table.query}) WHERE {quoted(name)} IS NULL LIMIT 1").fetchone()
        if found is not None:
            raise ConfigurationError(f"row {found[0] + 1}: the key column {name!r} is null; every row needs its key.")
    as_text = ", ".join(f"CAST({quoted(name)} AS VARCHAR)" for name in keys)
    hashed = f"SELECT hash({as_text}) AS h FROM ({table.query})"
    suspects = engine.execute(f"SELECT h FROM ({hashed}) GROUP BY h HAVING count(*) > 1 LIMIT 100").fetchall()
    if not suspects:
        return
    wanted = ", ".join(str(row[0]) for row in suspects)
    repeated = engine.execute(
        f"SELECT list({ROW} + 1 ORDER BY {ROW})[:3], {as_text} FROM ({table.query}) "
        f"WHERE hash({as_text}) IN ({wanted}) GROUP BY {as_text} HAVING count(*) > 1 ORDER BY min({ROW}) LIMIT 3"
    ).fetchall()
    if repeated:
        shown = "; ".join(f"{', '.join(map(repr, key))} in rows {', '.join(map(str, rows))}" for rows, *key in repeated)
        raise ConfigurationError(f"The key ({', '.join(keys)}) must be unique, and is not: {shown}.")


def _write_data(engine: DuckDBPyConnection, table: Table, columns: _Columns, path: str) -> int:
    keys = names(list(columns.keys)) if columns.keys else f"'row-' || ({ROW} + 1) AS {quoted(NUMBERED_KEY)}"
    kept = f", {names(list(columns.kept))}" if columns.kept else ""
    size = sum(map(os.path.getsize, table.parts))
    query = f"SELECT {ROW}, {keys}{kept} FROM ({table.query})"
    copy_to_parquet(engine, query, path, bytes_a_row=4.0 * size / table.rows)
    return 4 * os.path.getsize(path)


class _Requests:
    """Writes requests into chunks, and number, digest and size of each into the narrow file."""

    def __init__(self, checkpoint: Checkpoint, folder: str, digester: RequestDigester) -> None:
        self.chunks: list[tuple[int, str]] = []
        self._checkpoint = checkpoint
        self._folder = folder
        self._digest = digester.digest
        self._csv = os.path.join(folder, "narrow.csv")
        self._narrow = open(self._csv, "wb", buffering=1 << 20)  # noqa: SIM115 - closed by finish
        self._lines: list[bytes] = []
        self._packed: Any = None
        self._size = self._rows = self._first = 0

    def add(self, n: int, body: bytes) -> None:
        """Take a request in."""
        digest = self._digest(body).encode()
        if self._packed is None:
            self._open(n)
        line = b"%d %b %b\n" % (n, digest, body)
        self._lines.append(line)
        self._size += len(line)
        self._rows += 1
        self._narrow.write(b"%d,%b,%d\n" % (n, digest, len(body)))
        if len(self._lines) >= 1000 or self._size >= CHUNK_BYTES:
            self._flush()
        if self._rows >= CHUNK_ROWS or self._size >= CHUNK_BYTES:
            self._close()

    def close(self) -> None:
        """Close what is open."""
        self._narrow.close()
        if self._packed is not None:
            with contextlib.suppress(OSError):  # a full disk, say, which is why this ends
                self._packed.close()
            self._raw.close()

    def _open(self, n: int) -> None:
        import zstandard

        self._first = n
        self._path = os.path.join(self._folder, "requests.jsonl.zst")
        self._raw = open(self._path, "wb")  # noqa: SIM115 - closed with the chunk
        self._packed = zstandard.ZstdCompressor(level=3).stream_writer(self._raw)

    def _flush(self) -> None:
        self._packed.write(b"".join(self._lines))
        self._lines.clear()

    def _close(self) -> None:
        self._flush()
        self._packed.close()
        self._raw.close()
        self._packed = None
        self.chunks.append((self._first, self._checkpoint.put("requests", ".jsonl.zst", self._path)))
        os.unlink(self._path)
        self._size = self._rows = 0

    def finish(self, engine: DuckDBPyConnection, sample: int | None) -> tuple[str, int, int]:
        """
        Write the narrow file.

        :param sample: Keep only so many rows, those with the smallest digests.
        :return: Its path, its rows, and the bytes of their requests.
        """
        if self._packed is not None:
            self._close()
        self._narrow.close()
        path = os.path.join(self._folder, "narrow.parquet")
        read = (
            f"SELECT n, unhex(d) AS d, size FROM read_csv({text(self._csv)}, auto_detect=false, header=false, "
            "columns={'n': 'BIGINT', 'd': 'VARCHAR', 'size': 'BIGINT'})"
        )
        if sample is not None:
            read = f"SELECT * FROM (SELECT * FROM ({read}) ORDER BY d, n LIMIT {sample}) ORDER BY n"
        copy_to_parquet(engine, read, path, bytes_a_row=40)
        os.unlink(self._csv)
        found = engine.execute(f"SELECT count(*), sum(size) FROM read_parquet({text(path)})").fetchone()
        assert found is not None
        return path, int(found[0]), int(found[1])
