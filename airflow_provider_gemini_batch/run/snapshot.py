# SPDX-License-Identifier: Apache-2.0
"""The input as it was when a generation began: read once, never again, never changed."""

# `narrow` holds number, digest and size of each row, 40 bytes a row: all that joins over all rows need. Requests lie in
# chunks of consecutive rows, so that a shard reads its own chunks alone. Key and kept columns keep their source types.

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.run.buckets import unpacked_lines

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint

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
    :param asked: Digest of what decides over requests, see :attr:`~.spec.RunSpec.request_fingerprint`.
    :param rows_digest: See :class:`~.spec.RunSpec`.
    :param unsent: Rows that cannot be sent, and land as failed.
    :param json_columns: Key and kept columns that hold JSON text.
    :param counted: Bytes and tokens of the rows whose tokens were counted.
    :param has_media: Whether a request holds media, or names media or a cached content.
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
    asked: str = ""
    unsent: int = 0
    rows_digest: str = ""
    json_columns: tuple[str, ...] = ()
    counted: tuple[tuple[int, int], ...] = ()
    has_media: bool = False

    @classmethod
    def read(cls, header: Mapping[str, Any]) -> Snapshot:
        """Read a header that :meth:`header` made."""
        known = {name: header[name] for name in cls.__dataclass_fields__ if name in header}
        known["chunks"] = tuple((int(first), str(name)) for first, name in header["chunks"])
        # Lists of pairs: the header's objects are sorted, and the order of columns counts.
        known["keys"], known["kept"] = dict(header["keys"]), dict(header["kept"])
        known["carried"] = tuple(header.get("carried") or ())
        known["changing"] = tuple(header.get("changing") or ())
        known["counted"] = counted_in(header)
        known["json_columns"] = tuple(header.get("json_columns") or ())
        return cls(**known)

    @property
    def reused(self) -> int:
        """Rows that take an answer which is there already."""
        return sum(sum(note["counts"].values()) for note in self.carried if not note.get("unsent"))

    def header(self) -> dict[str, Any]:
        """Return the snapshot as plain JSON values."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**plain, "keys": list(self.keys.items()), "kept": list(self.kept.items())}

    def chunks_of(self, first: int, last: int) -> list[str]:
        """Return the names of the chunks with requests of the rows *first* to *last*."""
        # The chunk in which *first* lies begins at it or before it; those that begin within the range follow.
        starts = [start for start, _ in self.chunks]
        begin = max(0, bisect.bisect_right(starts, first) - 1)
        return [name for _, name in self.chunks[begin : bisect.bisect_right(starts, last)]]

    def requests(self, checkpoint: Checkpoint, folder: str, first: int, last: int) -> Iterator[tuple[int, str, bytes]]:
        """Yield number, digest and request of the rows *first* to *last*, in order."""
        for name in self.chunks_of(first, last):
            path = checkpoint.folder.fetch(name, folder)
            for line in unpacked_lines(path):
                number, digest, body = line.split(b" ", 2)
                n = int(number)
                # Chunks are larger than small shards: the rest need not be unpacked.
                if n > last:
                    return
                if n >= first:
                    yield n, digest.decode(), body[:-1]


def counted_in(header: Mapping[str, Any] | None) -> tuple[tuple[int, int], ...]:
    """Return bytes and tokens of the rows that were counted, as a snapshot's header tells; None where there is none."""
    return tuple((int(size), int(tokens)) for size, tokens in (header or {}).get("counted") or ())
