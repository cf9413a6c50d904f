# SPDX-License-Identifier: Apache-2.0
"""A task's rows for a person's disk: streamed a piece at a time, never held."""

# A path comes from an XCom, so the columns are looked at before anything is sent: a file that is none of ours is
# refused there. All rows are the file itself; a folder and a filter are JSON lines. A download may last for minutes, so
# each piece of it takes a thread of its storage's downloads (`storage_reads.py`), and between two pieces none. If a
# piece does not come, the connection is cut: no browser takes what it has for the whole.

from __future__ import annotations

import logging
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.files.paths import base_name, local_path, open_read
from airflow_provider_gemini_batch.plugins.page import answers_file, storage_reads
from airflow_provider_gemini_batch.plugins.page.answers_pass import pieces_of
from airflow_provider_gemini_batch.plugins.page.answers_rows import Wanted
from airflow_provider_gemini_batch.plugins.page.answers_tables import fetched

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

PIECE = 1 << 18

log = logging.getLogger(__name__)


def open_rows(place: str, status: str) -> tuple[str, Generator[bytes, None, None]]:
    """
    Return a file's name and its content, some pieces of which may be empty.

    :param status: As in :class:`~.answers_rows.Wanted`; empty for all rows.
    :raises PageError: If there is nothing, or nothing of ours.
    """
    files = answers_file.files_of(place)
    kind = answers_file.kind_of(files[0])
    name = base_name(place)
    is_whole = not status and len(files) == 1 and base_name(files[0]) == name
    pieces = _whole(files[0], kind) if is_whole else pieces_of(files, kind, Wanted(status))
    answers_file.touch()
    next(pieces, None)
    stem = name.partition(".")[0]
    return name if is_whole else (f"{stem}-{status}.jsonl" if status else f"{stem}.jsonl"), pieces


async def sent(storage: str, pieces: Generator[bytes, None, None]) -> AsyncGenerator[bytes, None]:
    """
    Yield the pieces that hold something, each read in a thread of the storage's downloads; close them in any case.

    :param storage: As :func:`~.storage_reads.storage_of` names it.
    :raises StalledError: If the storage sends nothing any more.
    """
    import anyio

    try:
        while (piece := await storage_reads.run("downloads", storage, next, pieces, None)) is not None:
            if piece:
                yield piece
    except storage_reads.StalledError as error:
        log.warning("A download of answers was cut off. %s", str(error))
        raise
    finally:
        # Python closes what a thread still reads from (ValueError) in that thread, which is the last to have it.
        with anyio.CancelScope(shield=True), suppress(ValueError, storage_reads.StalledError):
            await storage_reads.run("downloads", storage, pieces.close)


def _whole(path: str, kind: str) -> Generator[bytes, None, None]:
    """Yield an empty piece once the columns are known to be ours, then the bytes of the file."""
    if kind == ".parquet" and local_path(path) is None:  # its columns stand at its end: it is fetched once for both
        with fetched([path], kind) as (copy,):
            yield from _whole(copy, kind)
        return
    with closing(pieces_of([path], kind, Wanted())) as looked:
        next(looked, None)
    yield b""
    with open_read(path) as stream:
        while piece := stream.read(PIECE):
            yield piece
