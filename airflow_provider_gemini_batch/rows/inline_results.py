# SPDX-License-Identifier: Apache-2.0
"""Results inside a job resource, read entry by entry: one window of it is in memory at a time."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from airflow_provider_gemini_batch.errors import ReplyFormatError
from airflow_provider_gemini_batch.rows.line_batches import MAX_LINE_BYTES, LineTooLongError

# In camelCase or snake_case, and by the name that Google's SDK gives to embeddings.
_ARRAY = re.compile(r'"inlined_?(?:EmbedContent)?[rR]esponses"\s*:\s*\[')
_WINDOW = 1 << 20
_KEPT = 256
"""Characters kept when the next window is read: the name of the array may be cut by a window's end."""


class _Window:
    """The text of a stream, of which a piece is held."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        # Bytes that are not UTF-8 become what no JSON text can hold, so that the entry they are in is not readable.
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.text = ""
        self.ended = False

    def extend(self, start: int, size: int) -> None:
        """Drop what is before *start*, and read about *size* bytes more."""
        data = self._stream.read(size)
        self.ended = not data
        self.text = self.text[start:] + self._decoder.decode(data, final=self.ended)


def iter_inline_results(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    """
    Yield the entries of ``inlinedResponses`` from a job resource; none if it holds no such array.

    Where the resource carries its results twice, in ``metadata.output`` and in ``response``, the first copy is read.

    :param stream: The operation, or a part of it, as JSON text.
    :raises ReplyFormatError: If the text ends within the results, or an entry is no JSON.
    :raises LineTooLongError: If an entry is longer than a line may be.
    """
    window = _Window(stream)
    while (match := _ARRAY.search(window.text)) is None:
        if window.ended:
            return
        window.extend(max(0, len(window.text) - _KEPT), _WINDOW)
    # msgspec decodes whole texts only. raw_decode says where an entry ends, which is what a window needs.
    decoder = json.JSONDecoder()
    index = match.end()
    number = 0
    while True:
        text = window.text
        while index < len(text) and text[index] in " \t\r\n,":
            index += 1
        if index < len(text):
            if text[index] == "]":
                return
            try:
                entry, index = decoder.raw_decode(text, index)
            except (json.JSONDecodeError, RecursionError) as fault:
                if window.ended:
                    raise ReplyFormatError(
                        "The results inside the job resource end in the middle or are no JSON; fetch the job again.",
                        excerpt=text[index : index + 200],
                    ) from fault
            else:
                number += 1
                yield entry if isinstance(entry, dict) else {}
                continue
        elif window.ended:
            raise ReplyFormatError("The results inside the job resource end in the middle; fetch the job again.")
        pending = len(text) - index
        if pending > MAX_LINE_BYTES:
            raise LineTooLongError(f"result {number + 1} inside the job: it is longer than {MAX_LINE_BYTES:,} bytes.")
        # Twice what did not suffice, so that an entry of many megabytes is not parsed again for every piece.
        window.extend(index, max(_WINDOW, pending))
        index = 0
