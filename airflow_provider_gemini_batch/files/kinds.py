# SPDX-License-Identifier: Apache-2.0
"""Files of lines, and files that are something else: gzip is unwrapped, all others are named with the way out."""

# A file is known by its first bytes, not by its name:
#
#     1f 8b ...            gzip: taken
#     ff fe 7b 00 ...      UTF-16, as Windows PowerShell's > writes it: refused, with the command that makes it UTF-8
#     50 41 52 31 ...      "PAR1", Parquet: refused, with the command that makes it JSONL

from __future__ import annotations

import gzip
import io
import zlib
from typing import TYPE_CHECKING, BinaryIO, cast

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.paths import BUFFER_BYTES, open_read

if TYPE_CHECKING:
    import os

    from _typeshed import WriteableBuffer

HEAD_BYTES = 64

_GZIP = b"\x1f\x8b"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_TO_UTF_8 = (
    "save it as UTF-8 (PowerShell: Get-Content FILE | Set-Content -Encoding utf8 rows.jsonl; elsewhere: "
    "iconv -f UTF-16 -t UTF-8 FILE > rows.jsonl)"
)
_BY_DUCKDB = "duckdb -c \"COPY (FROM '{}') TO 'rows.jsonl' (FORMAT json)\""
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xfe\0\0", "text in UTF-32", "save it as UTF-8: iconv -f UTF-32 -t UTF-8 FILE > rows.jsonl"),
    (b"\0\0\xfe\xff", "text in UTF-32", "save it as UTF-8: iconv -f UTF-32 -t UTF-8 FILE > rows.jsonl"),
    (_UTF_16[0], "text in UTF-16", _TO_UTF_8),
    (_UTF_16[1], "text in UTF-16", _TO_UTF_8),
    (b"\x28\xb5\x2f\xfd", "a file compressed with zstd", "unpack it first: zstd -d FILE -o rows.jsonl, or use gzip"),
    (b"BZh", "a file compressed with bzip2", "unpack it first: bunzip2 -c FILE > rows.jsonl, or use gzip"),
    (b"\xfd7zXZ\0", "a file compressed with xz", "unpack it first: xz -dc FILE > rows.jsonl, or use gzip"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"PAR1", "a Parquet file", "make it JSONL: " + _BY_DUCKDB.format("FILE.parquet")),
    (b"ORC", "an ORC file", "make it JSONL, one JSON object a line"),
    (b"Obj\x01", "an Avro file", "make it JSONL, one JSON object a line"),
    (b"ARROW1", "an Arrow (Feather) file", "make it JSONL, one JSON object a line"),
    (b"PK\x03\x04", "a zip archive, as Excel's xlsx is",
     "save the sheet as CSV and make it JSONL, as docs/csv.md shows; an archive of JSONL has to be unpacked first"),
    (b"\xd0\xcf\x11\xe0", "an Excel file (xls)", "save the sheet as CSV and make it JSONL, as docs/csv.md shows"),
    (b"SQLite format 3\0", "an SQLite database", "export the rows as JSONL, one JSON object a line"),
    (b"%PDF", "a PDF", "the input is JSONL, one JSON object a line"),
)  # fmt: skip


def other_kind(head: bytes) -> tuple[str, str] | None:
    """
    Return what a file is that is not lines of UTF-8, and what to do about it; None if it may be lines.

    :param head: Its first bytes.
    """
    for magic, name, way_out in _KINDS:
        if head.startswith(magic):
            return name, way_out
    # Zeros to the end are no sign of a kind: a crash or a sparse file leaves them. Their line is named.
    if b"\0" in head.rstrip(b"\0"):
        # ASCII in UTF-16 has a zero in every second byte, at even or at odd places by its byte order.
        is_wide = len(head) >= 4 and (head[1::2].count(0) > len(head) // 3 or head[::2].count(0) > len(head) // 3)
        if is_wide:
            return "text in UTF-16 without a byte order mark", _TO_UTF_8
        return "a binary file", "the input is JSONL, one JSON object a line"
    return None


def open_lines(path: str | os.PathLike[str]) -> tuple[BinaryIO, bool]:
    """
    Open a file of lines for reading from its start.

    :return: The stream, and whether it gives the very bytes of the file: those of a gzip file are unpacked.
    :raises ConfigurationError: If the file is of another kind, or cannot be read.
    :raises InputNotFoundError: If a local file is not there.
    """
    stream = open_read(path)
    try:
        head = stream.read(HEAD_BYTES)
        stream.seek(0)
        if not head.startswith(_GZIP):
            _refuse(path, head, "")
            return stream, True
        unpacked = _Unpacked(path, stream)
        _refuse(path, unpacked.peek(HEAD_BYTES)[:HEAD_BYTES], " inside gzip")
        return cast("BinaryIO", unpacked), False
    except BaseException:
        stream.close()
        raise


def _refuse(path: object, head: bytes, inside: str) -> None:
    found = other_kind(head)
    if found is not None:
        raise ConfigurationError(f"{path}: line 1 is no JSON in UTF-8, the file is {found[0]}{inside}: {found[1]}.")


class _Unpacked(io.BufferedReader):
    """What a gzip file holds; closes the file with itself."""

    def __init__(self, path: object, packed: BinaryIO) -> None:
        super().__init__(_Unpacking(path, packed), BUFFER_BYTES)


class _Unpacking(io.RawIOBase):
    def __init__(self, path: object, packed: BinaryIO) -> None:
        self._path = path
        self._packed = packed
        self._file = gzip.GzipFile(fileobj=packed, mode="rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        try:
            data = self._file.read(len(view))
        except (EOFError, zlib.error, gzip.BadGzipFile) as fault:
            raise ConfigurationError(
                f"{self._path}: it is a gzip file that is cut off or damaged ({fault}): write it anew."
            ) from None
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            self._packed.close()
        super().close()
