# SPDX-License-Identifier: Apache-2.0
"""The input of a job on Vertex AI: objects or a table, imported when the job starts, by the importer's rules."""

# A bucket that is missing or cannot be read fails the job with code 9, a missing table with 5, input against the rules
# with 3, all before any row ran.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from gemini_batch_emulator.bigquery.store import table_store
from gemini_batch_emulator.rows import FileRows, InputRow, make_row
from gemini_batch_emulator.scripts import Ending
from gemini_batch_emulator.storage.names import glob_pattern, split_uri
from gemini_batch_emulator.storage.store import StorageError, object_store
from gemini_batch_emulator.vertex.importer import Columns, ImportProblem
from gemini_batch_emulator.vertex.models import is_legacy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gemini_batch_emulator.jobs import Job
    from gemini_batch_emulator.rows import RowSource
    from gemini_batch_emulator.state import EmulatorState
    from gemini_batch_emulator.storage.store import StoredObject

AGENT = "service-123456789012@gcp-sa-aiplatform.iam.gserviceaccount.com"
"""Who reads input and writes output on behalf of a job."""

_IMPORT = (
    "Failed to import data. Please check 'Prepare input' section in "
    "https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-gemini for the input format. "
)


class ImportedRows:
    """
    Rows of a job, known once it has started; before, *count* is an estimate that only says how long a step may take.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.tokens = 0
        self.columns = Columns()
        self._rows: RowSource | None = None

    def become(self, rows: RowSource, columns: Columns) -> None:
        """Take the input that was read."""
        self._rows, self.columns = rows, columns
        self.count, self.tokens = rows.count, rows.tokens

    def rows(self, order: list[int] | None = None) -> Iterator[InputRow]:
        """Yield the rows, in *order* (indices) if one is given."""
        return iter(()) if self._rows is None else self._rows.rows(order)


class TableRows:
    """Rows of a table as it was when the job started."""

    def __init__(self, rows: list[dict[str, Any]], tokens: int) -> None:
        self._rows = rows
        self.count = len(rows)
        self.tokens = tokens

    def rows(self, order: list[int] | None = None) -> Iterator[InputRow]:
        """Yield the rows, in *order* (indices) if one is given."""
        for index in range(self.count) if order is None else order:
            yield read_row(index, self._rows[index])


class JobFailure(Exception):
    """The job fails, with a gRPC code and a message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.ending = Ending("FAILED", code, message)


def read_row(index: int, raw: dict[str, Any]) -> InputRow:
    """Make an input row of a line or of a table's row; a row without a readable request fails on its own later."""
    request = raw.get("request")
    # A table's column may be STRING as well as JSON:
    # https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-from-bigquery
    if isinstance(request, str):
        try:
            request = msgspec.json.decode(request)
        except msgspec.DecodeError:
            request = None
    if request is None and isinstance(raw.get("content"), str):
        request = {"content": {"parts": [{"text": raw["content"]}]}}
    if not isinstance(request, dict):
        request = {}
    # Settings of an embedding stand in an object of their own here, and directly in the request on the Developer API.
    config = request.get("embed_content_config") or request.get("embedContentConfig")
    if isinstance(config, dict):
        request = {**request, **config}
    key = raw.get("key")
    return make_row(index, key, request, raw)


class Importer:
    """Imports the input of one job."""

    def __init__(self, state: EmulatorState, job: Job) -> None:
        self._state = state
        self._job = job

    def run(self) -> None:
        """
        Read the input into the job's source.

        :raises JobFailure: If the service would fail the job for it.
        """
        source = self._job.resource["inputConfig"]
        if "gcsSource" in source:
            self._import_objects(source["gcsSource"]["uris"])
        else:
            self._import_table(source["bigquerySource"]["inputUri"])

    def _import_objects(self, uris: list[str]) -> None:
        state, _job = self._state, self._job
        found: list[StoredObject] = []
        for uri in uris:
            # Only now: a create call with a bucket that does not exist is accepted, and the job fails minutes later
            # with code 9, as captures show.
            check_bucket(state, split_uri(uri)[0], is_input=True)
            objects = objects_at(state, uri)
            if not objects:
                raise JobFailure(9, f"Failed to read {uri}: the object does not exist, or {AGENT} may not read it.")
            found += objects
        limit = state.config.vertex_max_input_bytes
        if sum(stored.size for stored in found) > limit:
            raise JobFailure(3, f"{_IMPORT}The input is larger than {limit} bytes.")
        path = self._snapshot(found)
        # One type a key over the whole file, as a BigQuery load infers it: one odd row fails the job before any row has
        # run.
        columns = Columns(frozenset(state.config.vertex_null_names))
        count, tokens = self._import_lines(path, columns)
        self._check(columns, count)
        self._become(FileRows(path, count=count, tokens=tokens, read=read_row), columns)

    @staticmethod
    def _import_lines(path: Path, columns: Columns) -> tuple[int, int]:
        """Read every line into the columns; return their number and a guess of their tokens."""
        count = tokens = position = 0
        decode = msgspec.json.Decoder(dict).decode
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    try:
                        columns.add(decode(line))
                    except (msgspec.DecodeError, UnicodeDecodeError, ImportProblem) as problem:
                        raise JobFailure(
                            3,
                            f"{_IMPORT}Error while reading data, error message: JSON parsing error in row starting at "
                            f"position {position}: {problem}",
                        ) from problem
                    count += 1
                    tokens += len(line) // 4
                position += len(line)
        return count, tokens

    def _snapshot(self, found: list[StoredObject]) -> Path:
        """The input under a name of its own, so that the caller may delete or replace the object while the job runs."""
        path = self._state.new_path(".input")
        if len(found) == 1:
            # A second name for the same bytes: nothing is copied, and the object may go.
            os.link(found[0].path, path)
            return path
        with path.open("wb") as whole:
            for stored in found:
                with stored.path.open("rb") as part:
                    last = b"\n"
                    while block := part.read(1 << 20):
                        whole.write(block)
                        last = block[-1:]
                if last != b"\n":
                    whole.write(b"\n")
        return path

    def _import_table(self, uri: str) -> None:
        job = self._job
        table = table_store(self._state).find(uri)
        if table is None:
            raise JobFailure(5, f"Not found: Table {uri.removeprefix('bq://')}")
        needed = "content" if is_legacy(job.model) else "request"
        names = {column["name"]: column for column in table.schema}
        if needed not in names:
            raise JobFailure(3, f"{_IMPORT}Column '{needed}' not found in {uri}.")
        for name, column in names.items():
            if name in ("response", "status"):
                raise JobFailure(3, f"{_IMPORT}Column name '{name}' is reserved.")
            if column["mode"] == "REPEATED" or column["type"] in ("STRUCT", "RECORD", "RANGE", "DATETIME", "GEOGRAPHY"):
                raise JobFailure(3, f"{_IMPORT}Column '{name}' has an unsupported type.")
        rows = [dict(row) for row in table.rows]
        columns = Columns()
        self._check(columns, len(rows), is_table=True)
        tokens = sum(len(str(row.get(needed) or "")) // 4 for row in rows)
        self._become(TableRows(rows, tokens), columns)
        job.output["inputSchema"] = [dict(column) for column in table.schema]

    def _become(self, rows: RowSource, columns: Columns) -> None:
        source = self._job.source
        if not isinstance(source, ImportedRows):
            raise TypeError(f"{self._job.name} has another kind of input")
        source.become(rows, columns)

    def _check(self, columns: Columns, count: int, *, is_table: bool = False) -> None:
        job = self._job
        needed = "content" if is_legacy(job.model) else "request"
        if count == 0:
            raise JobFailure(3, f"{_IMPORT}The input has no rows.")
        if not is_table and not columns.has(needed):
            raise JobFailure(3, f"{_IMPORT}No such field: {needed}.")
        limit = self._state.config.vertex_max_rows
        if limit is None:
            limit = 30_000 if is_legacy(job.model) else 1_000_000 if job.kind == "embed" else 200_000
        if count > limit:
            raise JobFailure(3, f"{_IMPORT}The input has {count} rows; at most {limit} are allowed.")


def bucket_exists(state: EmulatorState, bucket: str) -> bool:
    """Whether a bucket is there, or comes to be by being asked for."""
    try:
        object_store(state).bucket(bucket)
    except StorageError:
        return False
    return True


def check_bucket(state: EmulatorState, bucket: str, *, is_input: bool = False) -> None:
    """
    Check that a bucket is there, and for input that the service agent may read it.

    :raises JobFailure: Code 9.
    """
    is_hidden = is_input and bucket in state.config.unreadable_buckets
    if is_hidden or not bucket_exists(state, bucket):
        raise JobFailure(9, f"Failed to get GCS bucket location for {bucket}.")


def objects_at(state: EmulatorState, uri: str) -> list[StoredObject]:
    """Objects that an input URI speaks of, in order of their names; a name may hold ``*``."""
    store = object_store(state)
    bucket, name = split_uri(uri)
    try:
        if "*" not in name:
            return [store.get(bucket, name)]
        pattern = glob_pattern(name)
        return [store.get(bucket, found) for found in store.names(bucket) if pattern.fullmatch(found)]
    except StorageError:
        return []
