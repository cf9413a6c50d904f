# SPDX-License-Identifier: Apache-2.0
"""One line of an input: its blanks, its byte order mark, and the JSON in it."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from airflow_provider_gemini_batch.rows.problems import TOO_DEEP, RowProblem

_BOM = b"\xef\xbb\xbf"
_decode = msgspec.json.Decoder().decode


def trimmed(text: bytes | str, line: int) -> bytes | str:
    """
    Return a line without the white space around it, the first one without its byte order mark.

    :param line: Its number, from 1.
    """
    text = text.strip()
    if line == 1:
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
        byte = re.search(r"\s*\(byte (\d+)\)", text)
        if byte is None:
            where = f"column {len(raw) + 1}, the line's end" if "truncated" in text else "somewhere in the line"
        else:
            place = int(byte[1])
            where = f"column {len(raw[:place].decode('utf-8', 'replace')) + 1}"
            text = text.replace(byte[0], "")
        raise RowProblem(f"not JSON at {where}: {text}", _other_kind(raw)) from None


def _other_kind(raw: bytes) -> str:
    """Return what to do about a line that belongs to a file of another kind, or an empty string."""
    head = raw[:200]
    if head in (b"[", b"{") or (head[:1] in b"[{" and raw[-1:] in b"{[,"):
        return "it looks like JSON over several lines, and JSONL has one row a line: " + (
            "jq -c '.[]' FILE > rows.jsonl" if head[:1] == b"[" else "jq -c . FILE > rows.jsonl"
        )
    if head[:1] == b"<":
        return "it looks like HTML or XML, as a login page or a proxy sends it: fetch the file anew"
    separator = next(
        (name for sign, name in ((b",", "commas"), (b"\t", "tabs"), (b";", "semicolons")) if sign in head), ""
    )
    if (separator and head[:1] not in b'{["') or (separator and re.match(rb'"[^"]*"\s*[,;\t]', head)):
        return (
            f"it looks like CSV with {separator}, and the input is JSONL, one JSON object a line: "
            "docs/csv.md shows how a CSV file becomes rows"
        )
    return ""


def list_problem(raw: bytes) -> str:
    """Return what to do about a whole JSON list in one line."""
    return "JSONL has one object a line: jq -c '.[]' FILE > rows.jsonl" if raw.lstrip()[:1] == b"[" else ""
