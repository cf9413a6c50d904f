# SPDX-License-Identifier: Apache-2.0
"""How are requests kept? In compressed chunks of consecutive rows; number, digest and size of each in a narrow file."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.client.measure import RowWatch
from airflow_provider_gemini_batch.run.tables import copy_to_parquet, text

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.digest import RequestDigester

CHUNK_BYTES = 64_000_000
CHUNK_ROWS = 50_000


class RequestChunks:
    """Writes requests into chunks, and number, digest and size of each into the narrow file."""

    def __init__(self, checkpoint: Checkpoint, folder: str, digester: RequestDigester) -> None:
        self.watch = RowWatch()
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
        # The number stands in front, so that a reader picks rows without decoding their requests.
        line = b"%d %b %b\n" % (n, digest, body)
        self._lines.append(line)
        self._size += len(line)
        self._rows += 1
        self._narrow.write(b"%d,%b,%d\n" % (n, digest, len(body)))
        if len(self._lines) >= 1000 or self._size >= CHUNK_BYTES:
            self._flush()
        # Chunks are bounded both ways: who needs one row, for a job or for the errors file, unpacks one chunk.
        if self._rows >= CHUNK_ROWS or self._size >= CHUNK_BYTES:
            self._close()

    def add_unsent(self, n: int) -> None:
        """Number a row that has no request."""
        self._narrow.write(b"%d,,0\n" % n)

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
        lines = b"".join(self._lines)
        self._packed.write(lines)
        self.watch.see(lines)
        self._lines.clear()

    def _close(self) -> None:
        self._flush()
        self._packed.close()
        self._raw.close()
        self._packed = None
        self.chunks.append((self._first, self._checkpoint.put("requests", ".jsonl.zst", self._path)))
        os.unlink(self._path)
        self._size = self._rows = 0

    @property
    def sample(self) -> list[bytes]:
        """Some of the requests, to count their tokens."""
        return [line.split(b" ", 2)[2].rstrip(b"\n") for line in self.watch.sample]

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
            "nullstr='', columns={'n': 'BIGINT', 'd': 'VARCHAR', 'size': 'BIGINT'})"
        )
        if sample is not None:
            read = f"SELECT * FROM (SELECT * FROM ({read}) ORDER BY d, n LIMIT {sample}) ORDER BY n"
        copy_to_parquet(engine, read, path, bytes_a_row=40)
        os.unlink(self._csv)
        found = engine.execute(f"SELECT count(*), sum(size) FROM read_parquet({text(path)})").fetchone()
        assert found is not None
        return path, int(found[0]), int(found[1])
