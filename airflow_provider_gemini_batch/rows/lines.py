# SPDX-License-Identifier: Apache-2.0
"""One line of an input: its blanks, its byte order mark, and the JSON in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from airflow_provider_gemini_batch.rows.problems import TOO_DEEP, OtherKind, RowProblem, kind_of

_BOM = b"\xef\xbb\xbf"
_CSV_START = re.compile(rb"""("[^"]*"|[^\[{",;\t]*)\s*[,;\t]""")
_decode = msgspec.json.Decoder().decode


def trimmed(text: bytes | str, line: int) -> bytes | str:
    """
    Return a line without the white space around it, the first one without its byte order mark.

    :param line: Its number, from 1.
    """
    text = text.strip()
    if line == 1:
        # Windows editors put a byte order mark in front of UTF-8, and JSON has no place for one.
        text = text.removeprefix(_BOM).strip() if isinstance(text, bytes) else text.removeprefix("\ufeff").strip()
    return text


def parse(raw: bytes) -> Any:
    """
    Return what stands in a line.

    :raises RowProblem: If it is not JSON; says where, and what kind of file it looks like.
    """
    try:
        return _decode(raw)
    except RecursionError:
        raise RowProblem(TOO_DEEP) from None
    except (msgspec.MsgspecError, UnicodeError) as fault:
        text = str(fault).removeprefix("JSON is malformed: ")
        # The decoder counts bytes; a person counts characters, and sees columns in an editor.
        byte = re.search(r"\s*\(byte (\d+)\)", text)
        if byte is None:
            where = f"column {len(raw) + 1}, the line's end" if "truncated" in text else "somewhere in the line"
        else:
            place = int(byte[1])
            where = f"column {len(raw[:place].decode('utf-8', 'replace')) + 1}"
            text = text.replace(byte[0], "")
        reason = f"not JSON at {where}: {text}"
        fix = _other_kind(raw)
        # A file of another kind is wrong in each line: one error says so, instead of ten that name commas.
        raise (OtherKind(reason, fix) if fix else RowProblem(reason)) from None


def as_object(row: bytes | str | Mapping[str, Any]) -> Mapping[str, Any]:
    """
    Return the JSON object in a line; one that is decoded already is itself.

    :raises RowProblem: If there is none.
    """
    value = row if not isinstance(row, (bytes, str)) else parse(row.encode() if isinstance(row, str) else row)
    if isinstance(value, Mapping):
        return value
    reason = f"a row must be a JSON object, not {kind_of(value)}"
    if isinstance(value, list) and isinstance(row, (bytes, str)):
        raise OtherKind(reason, "JSONL has one object a line: jq -c '.[]' FILE > rows.jsonl")
    raise RowProblem(reason)


def _other_kind(raw: bytes) -> str:
    """Return what to do about a line that belongs to a file of another kind, or an empty string."""
    if raw in (b"[", b"{") or (raw[:1] in b"[{" and raw[-1:] in b"{[,"):
        unpacked = "jq -c '.[]' FILE > rows.jsonl" if raw[:1] == b"[" else "jq -c . FILE > rows.jsonl"
        return f"it looks like JSON over several lines, and JSONL has one row a line: {unpacked}"
    if raw[:1] == b"<":
        return "it looks like HTML or XML, as a login page or a proxy sends it: fetch the file anew"
    if _CSV_START.match(raw[:500]):
        return (
            "it looks like CSV, and the input is JSONL, one JSON object a line: RunBatchOperator reads CSV as it is; "
            "docs/csv.md shows how CSV becomes rows"
        )
    return ""
