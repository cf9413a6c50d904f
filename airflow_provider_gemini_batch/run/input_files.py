# SPDX-License-Identifier: Apache-2.0
"""How is a file of rows opened? Its format by its name, unpacked, as a local path, its header and lines read."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, cast

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.paths import local_path, open_read

Format = str
FORMATS: Mapping[str, Format] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
}  # fmt: skip
_COMPRESSED = (".gz", ".zst")

_decode = msgspec.json.Decoder().decode


def format_of(file: str) -> str:
    """
    Return a file's format by its name: ``jsonl``, ``csv``, ``tsv`` or ``parquet``.

    :raises ConfigurationError: If it does not show there.
    """
    name = file.lower()
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    found = FORMATS.get(os.path.splitext(name)[1])
    if found is None:
        raise ConfigurationError(
            f"The format of {file!r} does not show in its name: give input_format (jsonl, csv, tsv or parquet). "
            "Archives and other formats have to be converted first."
        )
    return found


def header_of(local: str, file: str, delimiter: str) -> list[str]:
    """
    Return the column names of a CSV file.

    :param file: How the file is called in errors.
    """
    with unpacked(local) as stream:
        # Spreadsheets write a byte order mark, which would be part of the first column's name.
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        try:
            header = next(csv.reader(lines, delimiter=delimiter, strict=True), [])
        except UnicodeDecodeError as fault:
            raise ConfigurationError(f"{file!r} is not UTF-8 ({fault.reason}): convert it first.") from None
        except csv.Error as fault:
            raise ConfigurationError(f"{file!r}: the header cannot be read: {fault}.") from None
        finally:
            with contextlib.suppress(ValueError):
                lines.detach()
    if not header:
        raise ConfigurationError(f"{file!r} is empty: a CSV file begins with a line of column names.")
    return header


def object_of(body: bytes, file: str, number: int) -> dict[str, Any]:
    """Return the JSON object of a line; *number* counts from 1."""
    try:
        row = _decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as fault:
        raise ConfigurationError(f"{file}: line {number} is no JSON ({fault}).") from None
    if not isinstance(row, dict):
        raise ConfigurationError(f"{file}: line {number} must be a JSON object, not {type(row).__name__}.")
    return row


@contextlib.contextmanager
def unpacked(file: str) -> Iterator[BinaryIO]:
    """Open a file of lines, uncompressed by its suffix."""
    with open_read(file) as raw:
        suffix = os.path.splitext(file)[1].lower()
        try:
            if suffix == ".gz":
                with gzip.GzipFile(fileobj=raw) as unzipped:
                    yield cast("BinaryIO", io.BufferedReader(cast("Any", unzipped), 1 << 20))
            elif suffix == ".zst":
                import zstandard

                # Files that were appended to, or packed in parallel, have several frames; without the option the rest
                # would be lost without an error.
                with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as unpacked:
                    yield cast("BinaryIO", io.BufferedReader(cast("Any", unpacked), 1 << 20))
            else:
                yield raw
        except (gzip.BadGzipFile, EOFError) as fault:
            raise ConfigurationError(f"{file!r} cannot be unpacked: {fault}.") from None


@contextlib.contextmanager
def fetched(file: str, folder: str) -> Iterator[str]:
    """Yield a local path of a file; what was fetched for that is removed."""
    local = local_path(file)
    if local is not None:
        with open_read(local):
            pass  # says what is wrong with it better than the engine does
        yield local
        return
    copy = os.path.join(folder, "fetched-" + file.rstrip("/").rsplit("/", 1)[-1])
    try:
        with open_read(file) as source, open(copy, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        yield copy
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy)
