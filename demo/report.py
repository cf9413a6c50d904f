# SPDX-License-Identifier: Apache-2.0
"""What came back: the manifest a run left in XCom, and the first rows of the file it names."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

FIRST_ANSWERS = 5


class NoManifestError(Exception):
    """The run succeeded but no task returned a manifest."""


def find_manifest(returned: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    Return the manifest among what the tasks returned: the mapping that names an output file and counts its rows.

    :raises NoManifestError: If there is none.
    """
    for value in returned.values():
        if isinstance(value, dict) and "output_path" in value and "total" in value:
            return value
    raise NoManifestError(f"no task of {', '.join(returned) or 'the run'} returned output_path and total")


def local_path(place: str) -> Path | None:
    """Return *place*, a path or ``file://`` URI, as a path; None if it lies elsewhere."""
    parts = urlsplit(place)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(place) if not parts.scheme else None


def first_rows(path: Path, count: int) -> list[dict[str, Any]]:
    """Read the first *count* result rows."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]


def answer_words(row: Mapping[str, Any]) -> str:
    """Return what a result row says, in words: its text, the head of its vector, or why there is none."""
    if row.get("text"):
        return " ".join(row["text"].split())
    if row.get("embedding"):
        head = ", ".join(f"{number:.3f}" for number in row["embedding"][:4])
        return f"[{head}, ...] ({len(row['embedding'])} numbers)"
    return f"({row['status']}: {json.dumps(row.get('error') or row.get('finish_reason'), ensure_ascii=False)})"


def lines_of_report(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield the report, line by line."""
    counts = [
        f"{manifest[name]} {name}" for name in ("succeeded", "failed", "blocked", "missing") if manifest.get(name)
    ]
    yield "What came back"
    yield f"  rows     {manifest['total']}: {', '.join(counts)}"
    for reason in manifest.get("first_errors") or ():
        yield f"           {reason['count']} x {reason['message']} (code {reason['code']})"
    usage = manifest.get("usage") or {}
    if usage:
        yield "  tokens   " + ", ".join(f"{name} {number}" for name, number in usage.items())
    yield f"  results  {manifest['output_path']}"
    if manifest.get("errors_path"):
        yield f"  errors   {manifest['errors_path']}"
    path = local_path(str(manifest["output_path"]))
    if path is None:
        return
    rows = first_rows(path, FIRST_ANSWERS)
    yield f"  the first {len(rows)} answers, made up by the emulator"
    for row in rows:
        key = textwrap.shorten(row["key"], 24, placeholder="...")
        yield f"    {key:24} {textwrap.shorten(answer_words(row), 88, placeholder=' ...')}"
