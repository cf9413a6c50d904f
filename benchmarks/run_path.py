# SPDX-License-Identifier: Apache-2.0
"""
A whole run, step by step, and the same files by hand.

Ours reads, checks, submits to the emulator, collects, validates and writes, in one process with Airflow loaded; its
memory is that of the whole process. By hand there is no submission: requests are prepared, and answers written
beforehand are joined. Each script and each run has a process of its own, and one turn: the largest takes minutes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import MEGABYTE, Part, Row, size
from benchmarks.run_by_hand import SCRIPTS
from benchmarks.run_inputs import KINDS

if TYPE_CHECKING:
    from benchmarks.bench import Bench

MEMORY_TARGET = 400 * MEGABYTE
STEPS = {
    "read": "read", "snapshot": "render, digest, snapshot", "split": "split", "submit": "submit", "wait": "wait",
    "collect": "collect, validate", "join": "join", "write": "write Parquet",
}  # fmt: skip
_TIMEOUT = 4 * 3600.0
_ROWS_BY_HAND = 3_000_000
"""Beyond so many rows, scripts that hold all of them in memory want more than a small machine has."""


def parts(bench: Bench) -> Iterator[Part]:
    """Yield the parts of this measure."""
    for kind, rows in (("short", bench.rows), ("long", bench.long_rows), ("vectors", bench.vectors)):
        if not rows:
            continue
        with tempfile.TemporaryDirectory(dir=bench.work, prefix="run-") as folder:
            source = Path(folder) / f"input{KINDS[kind].suffix}"
            KINDS[kind].write_input(source, rows)
            title = f"{rows:,} {KINDS[kind].title}"
            yield Part(title, lambda kind=kind, source=source, title=title: _ours(bench, kind, source, title))  # type: ignore[misc]
            if rows > _ROWS_BY_HAND:
                continue
            answers = Path(folder) / "answers.jsonl"
            KINDS[kind].write_answers(answers, rows)
            for script, name in SCRIPTS.items():
                yield Part(
                    f"{title} by {name}",
                    lambda kind=kind, source=source, answers=answers, script=script, rows=rows: [  # type: ignore[misc]
                        _by_hand(bench, kind, source, answers, script, rows)
                    ],
                )


def _ours(bench: Bench, kind: str, source: Path, title: str) -> list[Row]:
    with tempfile.TemporaryDirectory(dir=bench.work, prefix="run-") as folder, bench.emulator() as (url, control):
        script = {"mode": "at_once", "shuffle": True, "rows": list(KINDS[kind].rules)}
        control.post("jobs/script", {"times": None, "script": script})
        found = bench.call(
            "run_steps:run",
            url=url,
            timeout=_TIMEOUT,
            kind=kind,
            source=str(source),
            output=str(Path(folder) / "output.parquet"),
            folder=folder,
        )
        emulator = control.peak_memory()
    if found["succeeded"] != found["total"]:
        raise RuntimeError(f"{found['succeeded']} of {found['total']} rows have an answer")
    return [*_step_rows(found, title), Row(f"{title}: peak memory of the emulator", "", limit=size(emulator))]


def _step_rows(found: dict[str, Any], title: str) -> list[Row]:
    steps = found["steps"]
    rows = [
        Row(f"{title}: {shown}", _usage(steps[name]), target=size(MEMORY_TARGET), met=_is_small(steps[name]))
        for name, shown in STEPS.items()
        if name in steps
    ]
    own = [usage for name, usage in steps.items() if name not in ("submit", "wait")]
    whole = {
        "seconds": sum(usage["seconds"] for usage in own),
        "cpu": sum(usage["cpu"] for usage in own),
        "memory": max(usage["memory"] for usage in steps.values()),
    }
    name = f"{title}: all but submit and wait ({found['jobs']} jobs, {found['seconds']:,.0f} s from start to end)"
    return [*rows, Row(name, _usage(whole), target=size(MEMORY_TARGET), met=_is_small(whole))]


def _is_small(usage: dict[str, float]) -> bool:
    return usage["memory"] <= MEMORY_TARGET


def _usage(usage: dict[str, float]) -> str:
    return f"{usage['seconds']:.1f} s (CPU {usage['cpu']:.1f} s), peak {size(usage['memory'])}"


def _by_hand(bench: Bench, kind: str, source: Path, answers: Path, script: str, rows: int) -> Row:
    with tempfile.TemporaryDirectory(dir=bench.work, prefix="by-hand-") as folder:
        found = bench.call(
            "run_by_hand:by_hand",
            timeout=_TIMEOUT,
            script=script,
            kind=kind,
            source=str(source),
            answers=str(answers),
            folder=folder,
        )
    if found["rows"] != rows:
        raise RuntimeError(f"{found['rows']} of {rows} rows were written")
    name = f"{rows:,} {KINDS[kind].title} by hand, {SCRIPTS[script]}: prepared, joined, written"
    return Row(name, "", limit=_usage(found))
