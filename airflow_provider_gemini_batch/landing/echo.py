# SPDX-License-Identifier: Apache-2.0
"""What the request tells that Vertex AI repeats in each answer: the key of one without, and whether the input is it."""

# The repeated request is not what was sent, byte for byte: absent members come back as null. So both sides are brought
# to one form, by the very code that brings rows to wire form, and the contents of both are compared by digest. Equal
# rows get one of the answers each; rows that share their contents but differ elsewhere get none.
#
# Answers with a key are joined by it. A job that was not made here does not tell its input, and two inputs may have the
# same keys, for instance 1, 2, 3. So the texts of the first answers are compared with those of the rows they would go
# to. Texts alone: an importer gives numbers and empty lists back as something else.

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from airflow_provider_gemini_batch.rows.answer_types import decode_or_none
from airflow_provider_gemini_batch.rows.input_rows import KnownBlock, KnownRow
from airflow_provider_gemini_batch.rows.keys import KeyRule
from airflow_provider_gemini_batch.rows.normalise import Normaliser, WireRow
from airflow_provider_gemini_batch.rows.notes import RowReport
from airflow_provider_gemini_batch.rows.results import read_row
from airflow_provider_gemini_batch.rows.settings import RowSettings

_PROBED = 20
"""Answers with a key whose texts are compared."""

_PASSING = re.compile(r"[\0\ufeff\ufffd\ud800-\udfff]")
"""What a text may lose, or be given in place of it, on its way through a table or a file."""

_encode = msgspec.json.Encoder().encode
_read_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class EchoKeys:
    """
    Finds the input row that an answer repeats.

    :param rows: Gives the input's rows; asked once, and only if an answer without a key comes.
    :param settings: Of the job's rows.
    """

    def __init__(self, rows: Callable[[], Iterable[KnownBlock | KnownRow]], settings: RowSettings) -> None:
        self._rows = rows
        # The Developer API has no rules over several rows, which would tell one row from another by what came before.
        self._settings = RowSettings(settings.kind, "gemini", settings.model)
        self._keys: dict[bytes, deque[str]] | None = None
        self._key_names = () if (rule := KeyRule(settings.key)).is_default else rule.names
        self._looked = 0
        self._repeated: dict[str, str] = {}

    def key_of(self, request: Any) -> str | None:
        """Return the key of a row that asks what *request* repeats, each row once; None if there is none left."""
        if self._keys is None:
            self._keys = self._read()
        value = _without_nulls(decode_or_none(_encode(request)))
        waiting = self._keys.get(self._digest({"request": value}))
        return waiting.popleft() if waiting else None  # an empty queue: rows that the contents do not tell apart

    def watch(self, results: Iterable[Any]) -> Iterator[Any]:
        """Yield results unchanged, and remember what the first ones with a key repeat."""
        for block in results:
            for line in block if isinstance(block, list) else [block]:
                if self._looked >= _PROBED:
                    break
                self._looked += 1
                self._note(line)
            yield block

    def _note(self, line: bytes | str | Mapping[str, Any]) -> None:
        try:
            raw = _encode(line) if isinstance(line, Mapping) else line
            request = decode_or_none(bytes(_read_members(raw).get("request", b"null")))
        except (msgspec.MsgspecError, UnicodeError, TypeError, ValueError, RecursionError):
            return  # told where it is read
        key = read_row(line, self._key_names).key
        if isinstance(request, Mapping) and key is not None:
            self._repeated[key] = _texts(self._asked({"request": _without_nulls(request)}))

    def another(self) -> str:
        """Return the key of an answer that repeats another text than its row has, or an empty string."""
        waiting = {key: texts for key, texts in self._repeated.items() if texts}
        for key, row in self._keyed() if waiting else ():
            repeated = waiting.pop(key, None)
            texts = _texts(self._asked(row)) if repeated else None
            if texts and repeated != texts:
                return key
            if not waiting:
                break
        return ""

    def _read(self) -> dict[bytes, deque[str]]:
        keys: dict[bytes, deque[str]] = {}
        whole: dict[bytes, str] = {}
        unlike: set[bytes] = set()
        for key, row in self._keyed():
            asked = self._digest(row)
            keys.setdefault(asked, deque()).append(key)
            # Rows may ask the same contents with other instructions or settings, which the job's own may have
            # completed: none of their answers can be told from another's.
            rest = json.dumps({**row, "key": None}, sort_keys=True, default=str)
            if whole.setdefault(asked, rest) != rest:
                unlike.add(asked)
        for asked in unlike:
            keys[asked].clear()
        return keys

    def _keyed(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield each row of the input with its key; what is no object is left out."""
        for found in self._rows():
            pairs = (
                zip(found.keys, found.lines, strict=True) if isinstance(found, KnownBlock) else [(found.key, found.raw)]
            )
            for key, raw in pairs:
                value = raw if isinstance(raw, Mapping) else decode_or_none(raw if isinstance(raw, bytes) else b"")
                if isinstance(value, Mapping):
                    yield key, value

    def _asked(self, row: Mapping[str, Any]) -> Any:
        """Return the contents of a row, in wire form where it can be sent."""
        # A reader of its own for each row: one that has seen a key would refuse it the next time.
        found = Normaliser(self._settings, RowReport()).read(row, 1, 1)
        request = decode_or_none(found.body()) if isinstance(found, WireRow) else row.get("request")
        asked = request.get("contents", request.get("content")) if isinstance(request, Mapping) else row
        return _without_nulls(asked)

    def _digest(self, row: Mapping[str, Any]) -> bytes:
        text = json.dumps(self._asked(row), sort_keys=True, default=str)
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(member) for name, member in value.items() if member is not None}
    if isinstance(value, list):
        return [_without_nulls(member) for member in value]
    return value


def _texts(contents: Any) -> str:
    """Return the texts of contents as one, without what may differ in the same prompt: blanks, and half characters."""
    texts = []
    for content in contents if isinstance(contents, list) else [contents]:
        parts = content.get("parts") if isinstance(content, Mapping) else None
        for part in parts if isinstance(parts, list) else [parts]:
            text = part.get("text") if isinstance(part, Mapping) else None
            if isinstance(text, str):
                texts.append(text)
    return "".join(unicodedata.normalize("NFC", _PASSING.sub("", "".join(texts))).split())
