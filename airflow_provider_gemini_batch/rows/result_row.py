# SPDX-License-Identifier: Apache-2.0
"""Result rows: judged, with their large members still as JSON text, and as users get them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from airflow_provider_gemini_batch.api.models import BatchResult
from airflow_provider_gemini_batch.rows.answer_types import decode_or_none
from airflow_provider_gemini_batch.rows.row_errors import problem

Status = Literal["succeeded", "failed", "blocked", "missing"]

OWN_PREFIX = "input_"
"""Before a member of the caller's own that is called like one of ours."""

_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
_read_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class OutputRow(msgspec.Struct, gc=False):
    """
    A result row as users get it, in the order of its members; what is already JSON text stays so.

    :param cost: Dollars, None if they are not known; left out where nobody priced the row.
    """

    key: str | None
    status: Status
    text: msgspec.Raw
    embedding: msgspec.Raw
    finish_reason: str | None
    model_version: str | None
    error: dict[str, Any] | None
    usage: msgspec.Raw
    response: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    cost: float | msgspec.UnsetType | None = msgspec.UNSET

    def line(self) -> bytes:
        """Return the row as one JSON line, newline included. It begins with the key."""
        return _encode(self) + b"\n"


OUR_MEMBERS = frozenset({*OutputRow.__struct_fields__, "texts", "embeddings"})
read_output_row = msgspec.json.Decoder(OutputRow).decode
"""Reads a line that was written before."""


def output_lines(rows: Sequence[OutputRow]) -> bytes:
    """Return what :meth:`OutputRow.line` gives for each row, in one."""
    return _encode_lines(rows)


def carried(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return members of the caller's own under names that none of ours has."""
    named = {}
    for name, value in own.items():
        # A user's column `status` must not overwrite what became of the row.
        while name in OUR_MEMBERS or name in named:
            name = OWN_PREFIX + name
        named[name] = value
    return named


def line_with(line: bytes, own: Mapping[str, Any]) -> bytes:
    """
    Return a result line with members of the caller's own, which replace those of the same names that it carries.

    :param line: As :meth:`OutputRow.line` gives it, perhaps with members of the caller's own already.
    """
    # Members stay JSON text: an answer's numbers and texts come out as the service wrote them, to the last digit.
    members: dict[str, Any] = dict(_read_members(line))
    members.update(carried(own))
    return _encode(members) + b"\n"


class ResultRow:
    """
    One result, judged, with its large members still as JSON text.

    :param key: None where the line tells none.
    :param status: What the answer is worth; see :mod:`airflow_provider_gemini_batch.rows.judging`.

    ``text``, ``embedding``, ``usage`` and ``response`` are JSON text as bytes, or None. ``own`` holds members of the
    caller's own, by name, ``several`` all texts or vectors where there is more than one. ``is_readable`` is False for a
    line that is no JSON object, ``is_ordered`` True where the backend keeps the input's order and nothing in the line
    names its row.
    """

    # Millions pass through, and a dict for each costs time and memory.
    __slots__ = (
        "cost",
        "embedding",
        "error",
        "finish_reason",
        "is_ordered",
        "is_readable",
        "key",
        "model_version",
        "own",
        "response",
        "several",
        "status",
        "text",
        "usage",
    )

    def __init__(self, key: str | None, status: Status = "failed") -> None:
        self.key = key
        self.status: Status = status
        self.text: bytes | None = None
        self.embedding: bytes | None = None
        self.finish_reason: str | None = None
        self.model_version: str | None = None
        self.error: dict[str, Any] | None = None
        self.usage: bytes | None = None
        self.response: bytes | None = None
        self.own: dict[str, Any] = {}
        self.several: dict[str, Any] = {}
        self.cost: float | msgspec.UnsetType | None = msgspec.UNSET
        self.is_readable = True
        self.is_ordered = False

    @property
    def is_nobodys(self) -> bool:
        """Whether it is an error that tells in no way whose it is: the service wrote it by its order, or a proxy."""
        return self.is_readable and self.key is None and self.is_ordered and self.status != "succeeded"

    @classmethod
    def missing(cls, key: str) -> ResultRow:
        """Return the row that stands for an input row without an answer."""
        row = cls(key, "missing")
        row.error = problem("the service returned no result for this row")
        return row

    @classmethod
    def not_sent(cls, key: str, reason: str) -> ResultRow:
        """Return the row that stands for an input row that could not be sent."""
        row = cls(key)
        row.error = {"code": 3, "message": f"not sent: {reason}"}
        return row

    def line(self, *, include_response: bool = True) -> bytes:
        """Return the result row as users get it; see :class:`OutputRow`."""
        row = OutputRow(
            self.key,
            self.status,
            msgspec.Raw(self.text or b"null"),
            msgspec.Raw(self.embedding or b"null"),
            self.finish_reason,
            self.model_version,
            self.error,
            msgspec.Raw(self.usage or b"null"),
            msgspec.Raw(self.response or b"null") if include_response else msgspec.UNSET,
            self.cost,
        )
        if not self.own and not self.several:
            return row.line()
        return b"%b,%b\n" % (_encode(row)[:-1], _encode(carried(self.own) | self.several)[1:])

    def result(self) -> BatchResult:
        """Return the result as a value, fully decoded."""
        return BatchResult(
            key=self.key or "",
            status=self.status,
            text=decode_or_none(self.text),
            embedding=decode_or_none(self.embedding),
            finish_reason=self.finish_reason,
            error=self.error,
            usage=decode_or_none(self.usage),
            response=decode_or_none(self.response),
            model_version=self.model_version,
            own=decode_or_none(_encode(self.several | self.own)) or {},
        )
