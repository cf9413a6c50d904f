# SPDX-License-Identifier: Apache-2.0
"""What came back: the manifest a run left in XCom, what it cost, and the first rows of the file it names."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow_provider_gemini_batch.cost.prices import PriceList

FIRST_ANSWERS = 5
OUTCOMES = ("succeeded", "failed", "blocked", "invalid", "missing")
TOKENS = {
    "prompt": "promptTokenCount",
    "output": "candidatesTokenCount",
    "thoughts": "thoughtsTokenCount",
    "cached": "cachedContentTokenCount",
}
"""What a run's manifest calls them: what the service does."""


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
    """Read the first *count* rows of a result file: JSONL, or a table in Parquet."""
    if path.suffix == ".parquet":
        import duckdb

        with duckdb.connect() as connection:
            found = connection.execute("SELECT * FROM read_parquet(?) LIMIT ?", [str(path), count])
            names = [column[0] for column in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
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


def counts_of(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Return rows by outcome; those that occur."""
    counts = manifest.get("counts") or manifest
    return {name: counts[name] for name in OUTCOMES if counts.get(name)}


def cost_words(manifest: Mapping[str, Any], today: date) -> str:
    """
    Return what the answers cost in batch at Google's prices, and what single calls would have cost.

    :return: Empty where the manifest has no tokens or the model's price is not known.
    """
    tokens, versions = manifest.get("tokens"), list(manifest.get("model_versions") or ())
    if not tokens or len(versions) != 1:
        return ""
    usage = {name: tokens[kind] for kind, name in TOKENS.items()}
    batch, single = (PriceList().cost_of(usage, versions[0], today, tier) for tier in ("batch", "standard"))
    if batch is None or single is None:
        return ""
    return f"{batch:.6f} USD in batch; single calls would have cost {single:.6f} USD ({versions[0]}, prices of {today})"


def table_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a table's first columns, those before its status, as aligned text."""
    names = list(rows[0])
    names = names[: names.index("status") + 1] if "status" in names else names
    cells = [names, *([textwrap.shorten(str(row[name]), 44, placeholder=" ...") for name in names] for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(names))]
    for line in cells:
        yield "    " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def lines_of_report(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield the report, line by line."""
    yield "What came back"
    yield f"  rows     {manifest['total']}: {', '.join(f'{n} {name}' for name, n in counts_of(manifest).items())}"
    for reason in manifest.get("first_errors") or ():
        yield f"           {reason['count']} x {reason['message']} (code {reason['code']})"
    for reason in manifest.get("errors") or ():
        yield f"           {reason['count']} x {reason['message']} (code {reason['code']})"
    usage = manifest.get("usage") or manifest.get("tokens") or {}
    if usage:
        yield "  tokens   " + ", ".join(f"{name} {number}" for name, number in usage.items())
    if cost := cost_words(manifest, datetime.now(UTC).date()):
        yield f"  cost     nothing here; at Google {cost}"
    yield f"  results  {manifest['output_path']}"
    if manifest.get("errors_path"):
        yield f"  errors   {manifest['errors_path']}"
    path = local_path(str(manifest["output_path"]))
    if path is None:
        return
    rows = first_rows(path, FIRST_ANSWERS)
    yield f"  the first {len(rows)} answers, made up by the emulator"
    if path.suffix == ".parquet":
        yield from table_lines(rows)
        return
    for row in rows:
        key = textwrap.shorten(row["key"], 24, placeholder="...")
        yield f"    {key:24} {textwrap.shorten(answer_words(row), 88, placeholder=' ...')}"
