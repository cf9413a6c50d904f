# SPDX-License-Identifier: Apache-2.0
"""Keys for answers that come without, from the request that Vertex AI repeats in each of them."""

# The repeated request is not what was sent, byte for byte: absent members come back as null. So both sides are brought
# to one form, by the very code that brings rows to wire form, and the contents of both are compared by digest. Equal
# rows get one of the answers each; rows that share their contents but differ elsewhere get none.

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from airflow_provider_gemini_batch.rows.answer_types import decode_or_none
from airflow_provider_gemini_batch.rows.input_rows import KnownBlock, KnownRow
from airflow_provider_gemini_batch.rows.normalise import Normaliser, WireRow
from airflow_provider_gemini_batch.rows.notes import RowReport
from airflow_provider_gemini_batch.rows.settings import RowSettings

_encode = msgspec.json.Encoder().encode


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

    def key_of(self, request: Any) -> str | None:
        """Return the key of a row that asks what *request* repeats, each row once; None if there is none left."""
        if self._keys is None:
            self._keys = self._read()
        value = _without_nulls(decode_or_none(_encode(request)))
        waiting = self._keys.get(self._digest({"request": value}))
        return waiting.popleft() if waiting else None  # an empty queue: rows that the contents do not tell apart

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

    def _digest(self, row: Mapping[str, Any]) -> bytes:
        # A reader of its own for each row: one that has seen a key would refuse it the next time.
        found = Normaliser(self._settings, RowReport()).read(row, 1, 1)
        request = decode_or_none(found.body()) if isinstance(found, WireRow) else row.get("request")
        asked = request.get("contents", request.get("content")) if isinstance(request, Mapping) else row
        text = json.dumps(_without_nulls(asked), sort_keys=True, default=str)
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(member) for name, member in value.items() if member is not None}
    if isinstance(value, list):
        return [_without_nulls(member) for member in value]
    return value
