# SPDX-License-Identifier: Apache-2.0
"""Rows without a usable answer, with what they were asked, in a file of their own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.run.outputs import Table
from airflow_provider_gemini_batch.run.schema import quoted
from airflow_provider_gemini_batch.run.sources import RowsSource
from airflow_provider_gemini_batch.run.tables import copy_to_parquet, names, rows_of, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.snapshot import Snapshot
    from airflow_provider_gemini_batch.run.spec import RunSpec

_SHOWN = ("status", "error_code", "error_message", "finish_reason", "attempts", "request_digest", "job_name")


def write_errors(
    table: Table, spec: RunSpec, checkpoint: Checkpoint, snapshot: Snapshot, place: str, folder: str
) -> None:
    """
    Write the errors file: key, kept columns, prompt, and why there is no answer, in the input's order.

    The prompt is the text that was asked, or the request where that is more than one text.
    """
    own = os.path.join(folder, "errors")
    os.makedirs(own, exist_ok=True)
    engine = table.engine
    narrow = checkpoint.folder.fetch(snapshot.narrow, folder)
    numbered = f"SELECT n, row_number() OVER (ORDER BY n) - 1 AS place FROM read_parquet({text(narrow)})"
    status = quoted(spec.meta("status"))
    failed = os.path.join(own, "failed.parquet")
    rows = copy_to_parquet(
        engine,
        f"SELECT x.n AS gemini_n, t.* FROM (SELECT *, row_number() OVER () - 1 AS gemini_place FROM ({table.query})) t "
        f"JOIN ({numbered}) x ON x.place = t.gemini_place WHERE {status} <> 'succeeded' ORDER BY x.n",
        failed,
    )
    shown = [*snapshot.keys, *snapshot.kept]
    meta = [spec.meta(name) for name in _SHOWN]
    columns = {name: table.columns[name] for name in shown}
    columns["prompt"] = "VARCHAR"
    columns |= {name: table.columns[name] for name in meta}
    part = os.path.join(own, "errors.parquet")
    prompts = os.path.join(own, "prompts.parquet")
    _write_prompts(engine, _prompts(engine, failed, rows, checkpoint, snapshot, folder), prompts, own)
    query = (
        f"SELECT {names(shown, 'f.')}, p.prompt, {names(meta, 'f.')} FROM read_parquet({text(failed)}) f "
        f"LEFT JOIN read_parquet({text(prompts)}) p ON p.n = f.gemini_n ORDER BY f.gemini_n"
    )
    copy_to_parquet(engine, query, part, bytes_a_row=1000)
    Table(engine, [part], columns, ()).write(place, own)


def _prompts(
    engine: Any, failed: str, rows: int, checkpoint: Checkpoint, snapshot: Snapshot, folder: str
) -> Iterator[dict[str, Any]]:
    """Yield number and prompt of the failed rows, reading only the chunks that hold one."""
    if not rows:
        return
    wanted = [int(row[0]) for row in rows_of(engine, f"SELECT gemini_n FROM read_parquet({text(failed)}) ORDER BY 1")]
    left = set(wanted)
    for chunk in dict.fromkeys(name for n in wanted for name in snapshot.chunks_of(n, n)):
        numbers = [n for n in wanted if snapshot.chunks_of(n, n) == [chunk]]
        for n, _, body in snapshot.requests(checkpoint, folder, numbers[0], numbers[-1]):
            if n in left:
                yield {"n": n, "prompt": prompt_of(body)}


def prompt_of(body: bytes) -> str:
    """Return the one text of a request, or the request as JSON text where it is more than that."""
    request = msgspec.json.decode(body)
    contents = request.get("contents") or [request.get("content")]
    try:
        (content,) = contents
        (part,) = content["parts"]
        if set(part) == {"text"}:
            return str(part["text"])
    except (TypeError, ValueError, KeyError):
        pass
    return body.decode()


def _write_prompts(engine: Any, prompts: Iterator[dict[str, Any]], path: str, folder: str) -> None:
    staged = RowsSource(prompts).read(engine, folder)
    source = staged.query if staged.rows else "SELECT NULL::BIGINT AS n, NULL::VARCHAR AS prompt LIMIT 0"
    copy_to_parquet(engine, f"SELECT n, prompt FROM ({source})", path, bytes_a_row=1000)
