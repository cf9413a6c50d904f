# SPDX-License-Identifier: Apache-2.0
"""What version 0.1.0 called the rows of an input file, so that a job which it submitted is found after the upgrade."""

# It always sent a copy in which each row was written anew, but for the contents of a request, which it took over as
# they stood if they were plain texts. Today a file whose lines stay as they are is sent itself. Example, a line of a
# file:
#
#     {"key": "k0", "request": {"contents": [{"parts": [{"text": "Hi"}]}]}}      sent today
#     {"key":"k0","request":{"contents":[{"parts": [{"text": "Hi"}]}]}}          sent by 0.1.0

from __future__ import annotations

import hashlib
from itertools import tee
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.api.identity import digest_of
from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.files.input_file import open_original
from airflow_provider_gemini_batch.files.paths import normalise_path
from airflow_provider_gemini_batch.rows.line_batches import file_blocks, lines_of
from airflow_provider_gemini_batch.rows.normalise import normalise_rows

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.lifecycle.request import JobRequest
    from airflow_provider_gemini_batch.rows.settings import RowSettings


class _Part(msgspec.Struct, forbid_unknown_fields=True):
    text: str


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    parts: list[_Part]
    role: str = ""


class _Request(msgspec.Struct):
    contents: msgspec.Raw


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    request: _Request


_decode_row = msgspec.json.Decoder(_Row).decode
_decode_contents = msgspec.json.Decoder(list[_Content]).decode
_decode: Any = msgspec.json.Decoder().decode


def digest_of_0_1_0(request: JobRequest, settings: RowSettings) -> str | None:
    """Return the digest half of the token that version 0.1.0 gave a job of this input file; None if it had none."""
    if request.input_path is None:
        return None
    rows = hashlib.sha256()
    try:
        stream, _ = open_original(normalise_path(request.input_path, "input_path"))
        with stream:
            ours, theirs = tee(line for block in file_blocks(stream) for line in lines_of(block))
            for line, row in zip(ours, normalise_rows(map(_decode, theirs), settings), strict=True):
                rows.update(_line(line, row.line()))
    except (GeminiBatchError, ValueError, msgspec.MsgspecError, RecursionError):
        return None  # rows that 0.1.0 would not have sent either, or not in this way
    return digest_of(request.identity(rows.hexdigest()))


def _line(given: bytes, anew: bytes) -> bytes:
    """Return a row as it is written anew, with the contents of plain text that a keyed request was given."""
    try:
        contents = bytes(_decode_row(given).request.contents)
        texts = [part.text for content in _decode_contents(contents) for part in content.parts]
    except msgspec.MsgspecError:
        return anew
    if not texts or any(not text.strip() for text in texts):
        return anew
    return anew.replace(msgspec.json.encode(_decode(contents)), contents, 1)
