# SPDX-License-Identifier: Apache-2.0
"""
A task's rows for a person's disk: streamed a piece at a time, never held.

A path comes from an XCom, so the first page is read before anything is sent: a file that is none of ours is refused
there (:func:`~.answers_file.read_page`). All rows are the file itself; a folder and a filter are JSON lines.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.files.paths import open_read
from airflow_provider_gemini_batch.plugins.page import answers_file
from airflow_provider_gemini_batch.plugins.page.answers_rows import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 1 << 18


def open_rows(place: str, status: str) -> tuple[str, Iterator[bytes]]:
    """
    Return a file's name and its content.

    :param status: As in :class:`~.answers_rows.Wanted`; empty for all rows.
    :raises PageError: If there is nothing, or nothing of ours.
    """
    answers_file.read_page(place, Wanted(status))
    files = answers_file.files_of(place)
    name = place.rstrip("/").rsplit("/", 1)[-1]
    if not status and files[0].rstrip("/").endswith(f"/{name}"):
        return name, _content(files[0])
    stem = name.partition(".")[0]
    return f"{stem}-{status}.jsonl" if status else f"{stem}.jsonl", _rows(place, status)


def _content(path: str) -> Iterator[bytes]:
    with open_read(path) as stream:
        while piece := stream.read(PIECE):
            yield piece


def _rows(place: str, status: str) -> Iterator[bytes]:
    page, more = 1, True
    while more:
        found = answers_file.read_page(place, Wanted(status, page=page))
        if found.stopped and not found.more:  # it goes on from where it stopped
            continue
        yield b"".join(json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n" for row in found.rows)
        page, more = page + 1, found.more
