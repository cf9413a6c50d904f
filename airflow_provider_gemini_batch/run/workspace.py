# SPDX-License-Identifier: Apache-2.0
"""Which rows does a shard ask? What a step of a run reads of the snapshot, with an engine and a folder to work in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.run.checkpoint import CheckpointLostError
from airflow_provider_gemini_batch.run.row_numbers import AskedRows
from airflow_provider_gemini_batch.run.snapshot import Snapshot
from airflow_provider_gemini_batch.run.tables import rows_of, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.api.models import BackendName
    from airflow_provider_gemini_batch.run import plan
    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.context import RunContext
    from airflow_provider_gemini_batch.run.spec import RunSpec


class Workspace:
    """
    What one step works with.

    :param database: An engine of its own.
    :param folder: Local; removed after the step.
    """

    def __init__(
        self, spec: RunSpec, context: RunContext, checkpoint: Checkpoint, database: DuckDBPyConnection, folder: str
    ) -> None:
        self.spec = spec
        self.context = context
        self.checkpoint = checkpoint
        self.database = database
        self.folder = folder

    @property
    def backend(self) -> BackendName:
        """Where the requests go."""
        return self.context.client.backend.name

    @property
    def snapshot(self) -> Snapshot:
        """The generation's snapshot."""
        header = self.checkpoint.snapshot
        if header is None:
            raise CheckpointLostError(f"The snapshot of {self.checkpoint.folder.place} cannot be read any more.")
        return Snapshot.read(header)

    def entry(self, shard_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the round of a shard, and the shard's entry there."""
        for header in self.checkpoint.rounds():
            for entry in header["shards"]:
                if entry["id"] == shard_id:
                    return header, entry
        raise CheckpointLostError(f"The shard {shard_id} is in no round of {self.checkpoint.folder.place}.")

    def expected(self, shard: plan.Shard) -> AskedRows:
        """Return the rows of a shard."""
        header, entry = self.entry(shard.id)
        narrow = self.checkpoint.folder.fetch(self.snapshot.narrow, self.folder)
        within = f"n BETWEEN {int(entry['first'])} AND {int(entry['last'])}"
        # From the snapshot and the round alone, so that every worker comes to the same rows, and the same token.
        query = f"SELECT n, d FROM read_parquet({text(narrow)}) WHERE {within} ORDER BY n"
        if header.get("rows"):
            asked = self.checkpoint.folder.fetch(header["rows"], self.folder)
            query = (
                f"SELECT n, d FROM (SELECT n, d FROM read_parquet({text(narrow)}) WHERE {within}) "
                f"JOIN (SELECT n FROM read_parquet({text(asked)}) WHERE {within}) USING (n) ORDER BY n"
            )
        return AskedRows(rows_of(self.database, query))

    def requests(self, shard: plan.Shard, expected: AskedRows) -> Iterator[tuple[int, str, bytes]]:
        """Yield number, digest and request (JSON) of a shard's rows, in order."""
        _, entry = self.entry(shard.id)
        found = self.snapshot.requests(self.checkpoint, self.folder, int(entry["first"]), int(entry["last"]))
        return ((n, digest, body) for n, digest, body in found if n in expected)
