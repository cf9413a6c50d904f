# SPDX-License-Identifier: Apache-2.0
"""Keys for answers that come without: those of the text embedding models before Gemini's."""

# Such a model's result line repeats the text of its row (`{"instance": {"content": "..."}, "predictions": [...]}`), and
# nothing promises that other members of the row come back. The rows come in any order, so the text is what an answer
# can be recognised by. Source:
# https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/embeddings/batch-prediction-genai-embeddings

from __future__ import annotations

import hashlib
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class _Instance(msgspec.Struct, gc=False):
    content: Any = None
    key: Any = None


class _Answer(msgspec.Struct, gc=False):
    key: Any = None
    instance: _Instance | None = None


class _Row(msgspec.Struct, gc=False):
    content: Any = None
    key: Any = None


_read_answer = msgspec.json.Decoder(_Answer).decode
_read_row = msgspec.json.Decoder(_Row).decode
_encode = msgspec.json.Encoder().encode


def with_keys(answers: Iterable[bytes], rows: Callable[[], Iterable[bytes]]) -> Iterator[bytes]:
    """
    Yield result lines, those that tell no key with the key of the row of their text.

    Rows of the same text have the same vector, and each gets one of the answers. An answer to no known text stays as it
    is, and so does a line that cannot be read.

    :param rows: Gives the lines of the job's input; asked once, and only if an answer without a key comes. A row
        without a key counts as ``row-<number>``, from 1.
    """
    keys: dict[bytes, deque[str]] | None = None
    for line in answers:
        text = _unkeyed_text(line)
        if text is None:
            yield line
            continue
        if keys is None:
            keys = _keys_by_text(rows())
        waiting = keys.get(_digest(text))
        # Put in front of what is there, without decoding the vector behind it.
        yield b'{"key":%b,%b' % (_encode(waiting.popleft()), line.lstrip()[1:]) if waiting else line


def _unkeyed_text(line: bytes) -> str | None:
    try:
        answer = _read_answer(line)
    except (msgspec.MsgspecError, UnicodeError):
        return None
    found = answer.instance
    if answer.key is not None or found is None or found.key is not None or not isinstance(found.content, str):
        return None
    return found.content


def _keys_by_text(rows: Iterable[bytes]) -> dict[bytes, deque[str]]:
    keys: dict[bytes, deque[str]] = {}
    number = 0
    for line in rows:
        if not line.strip():
            continue
        number += 1
        try:
            row = _read_row(line)
        except (msgspec.MsgspecError, UnicodeError):
            continue
        if isinstance(row.content, str):
            key = row.key if isinstance(row.key, str) else f"row-{number}"
            keys.setdefault(_digest(row.content), deque()).append(key)
    return keys


def _digest(text: str) -> bytes:
    # Texts may be long; there are at most 30,000 rows, and their digests always fit.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
