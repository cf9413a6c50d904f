# SPDX-License-Identifier: Apache-2.0
"""Lines of JSON in blocks of bytes: where they begin, and which of them may fit a filter."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.plugins.page.answers_rows import NO_COLUMNS
from airflow_provider_gemini_batch.plugins.page.errors import PageError
from airflow_provider_gemini_batch.plugins.page.storage_reads import note_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from airflow_provider_gemini_batch.plugins.page.answers_rows import Wanted


def blocks(stream: BinaryIO, offset: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines, about *size* bytes at a time, each piece with the offset at which it begins."""
    rest = b""
    while piece := stream.read(size):
        note_progress()
        end = piece.rfind(b"\n") + 1
        if not end:
            rest += piece
            continue
        block = rest + piece[:end]
        rest = piece[end:]
        yield offset, block
        offset += len(block)
    if rest:
        yield offset, rest


def candidates(block: bytes, finder: Callable[[bytes], Iterator[int]] | None) -> Iterator[tuple[int, bytes]]:
    """Yield the lines in which *finder* has a hit, each with its offset in the block; all of them without one."""
    if finder is None:
        start = 0
        while start < len(block):
            end = block.find(b"\n", start)
            end = len(block) if end < 0 else end
            line = block[start:end]
            if line.strip():
                yield start, line
            start = end + 1
        return
    seen = -1
    for hit in finder(block):
        if hit <= seen:
            continue
        # A hit may be in a line's middle, or be a chance one in another member: the whole line is decoded and judged
        # afterwards.
        start = block.rfind(b"\n", 0, hit) + 1
        end = block.find(b"\n", hit)
        seen = len(block) if end < 0 else end
        yield start, block[start:seen]


def finder_of(wanted: Wanted, prefix: str, sample: bytes) -> Callable[[bytes], Iterator[int]] | None:
    """
    Return what finds, in a block, bytes that each row that fits must hold; None if nothing is sure.

    :param sample: Tells which word of a search is the rarest: others may be names of columns.

    A letter may stand in JSON as itself or as an escape, so only what has one form is searched for as bytes.
    """
    # Without quote, slash and backslash, which JSON may write in two ways, and without what is not ASCII.
    sure = [word for word in wanted.words if re.fullmatch(r"[!#-.0-\[\]-~]+", word)]
    if sure:
        # The rarest first: a search for "status failed" would else stop at each line for the column's name.
        words = sorted((word.encode() for word in sure), key=sample.lower().count)
        return lambda block: _lines_with(block.lower(), words)
    if wanted.words or not prefix.isascii():
        return None
    pattern = ""
    if wanted.status == "failing":
        pattern = _member(prefix + "status") + '"(?!succeeded")'
    elif wanted.status:
        pattern = _member(prefix + "status") + re.escape(json.dumps(wanted.status))
    elif wanted.version and wanted.version.isascii():
        pattern = _member(prefix + "model_version") + re.escape(json.dumps(wanted.version))
    if not pattern:
        return None
    compiled = re.compile(pattern.encode())
    return lambda block: (hit.start() for hit in compiled.finditer(block))


def _lines_with(block: bytes, words: Sequence[bytes]) -> Iterator[int]:
    """Yield a place in each line that holds all words, of which the first one leads."""
    rarest, *others = words
    at = block.find(rarest)
    while at >= 0:
        start, end = block.rfind(b"\n", 0, at) + 1, block.find(b"\n", at)
        end = len(block) if end < 0 else end
        if all(block.find(word, start, end) >= 0 for word in others):
            yield at
        at = block.find(rarest, end)


def _member(name: str) -> str:
    return re.escape(json.dumps(name)) + r"\s*:\s*"


def decoded(line: bytes) -> Mapping[str, Any]:
    """
    Return a line as a row.

    :raises PageError: If it is none.
    """
    try:
        row = json.loads(line)
    except ValueError:
        raise PageError(415, "These are no answers", "The file is not JSON, line by line.") from None
    if not isinstance(row, dict):
        raise PageError(415, "These are no answers", NO_COLUMNS)
    return row
