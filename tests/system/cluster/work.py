# SPDX-License-Identifier: Apache-2.0
"""
The rows of one DAG run, where its outputs lie, and what is wrong with them.

Nothing heavy at module level: the DAG file reads it, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.services.ledger import is_live

RUNS = 20
"""Mapped runs of one DAG run."""

ROWS = 60
DISTINCT = 45
"""So many rows of a mapped run have a text of their own; the others repeat one."""

ROWS_PER_JOB = 25
SCHEMA = {
    "type": "object",
    "properties": {"sentiment": {"type": "string", "enum": ["good", "bad", "mixed"]}, "score": {"type": "integer"}},
    "required": ["sentiment", "score"],
}


@dataclass(frozen=True)
class Work:
    """
    What one DAG run is given.

    :param folder: Shared by all workers.
    :param name: In each text, so that no two DAG runs ask the same.
    :param runs: Mapped runs.
    """

    folder: Path
    name: str
    runs: int = RUNS

    def rows(self, run: int) -> list[dict[str, str]]:
        """Return the rows of a mapped run."""
        texts = [f"{self.name}, run {run}: the review with number {number % DISTINCT}" for number in range(ROWS)]
        return [{"id": f"{run:02d}-{number:04d}", "review": text} for number, text in enumerate(texts)]

    def write(self) -> list[str]:
        """Write the inputs, and return their paths."""
        inputs = self.folder / "inputs"
        inputs.mkdir(parents=True)
        paths = []
        for run in range(self.runs):
            path = inputs / f"{run:02d}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in self.rows(run)))
            paths.append(str(path))
        return paths

    def output(self, run: int) -> Path:
        """Return where a mapped run writes."""
        return self.folder / f"answers-{run}.parquet"

    @property
    def outputs(self) -> int:
        """How many outputs there are now."""
        return sum(self.output(run).exists() for run in range(self.runs))

    @property
    def distinct(self) -> int:
        """How many requests the service has to carry out."""
        return self.runs * DISTINCT


def read_output(path: Path) -> list[dict[str, Any]]:
    """Return the rows of an output, as they stand there."""
    import duckdb

    with duckdb.connect() as engine:
        found = engine.execute(f"SELECT * FROM read_parquet('{path}')")
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def faults_of_outputs(work: Work) -> list[str]:
    """Return what is wrong with the outputs: each row once, in order, with an answer of its own text."""
    faults = []
    for run in range(work.runs):
        if not work.output(run).exists():
            faults.append(f"run {run} has no output")
        else:
            faults += [f"run {run}: {fault}" for fault in faults_of_rows(work.rows(run), read_output(work.output(run)))]
    return faults


def faults_of_rows(given: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with one output."""
    if [row["id"] for row in found] != [row["id"] for row in given]:
        return [f"{len(found)} rows instead of {len(given)}, or in another order"]
    faults = []
    bad = [row["id"] for row in found if row["status"] != "succeeded" or row["sentiment"] is None]
    if bad:
        faults.append(f"no answer for {', '.join(bad[:5])}")
    by_text: dict[str, set[tuple[Any, ...]]] = {}
    by_digest: dict[str, set[str]] = {}
    for before, after in zip(given, found, strict=True):
        answer = after["request_digest"], after["sentiment"], after["score"]
        by_text.setdefault(before["review"], set()).add(answer)
        by_digest.setdefault(after["request_digest"], set()).add(before["review"])
    if any(len(answers) != 1 for answers in by_text.values()):
        faults.append("rows with the same text have different answers")
    if any(len(texts) != 1 for texts in by_digest.values()):
        faults.append("rows with different texts have the same request")
    asked_again = [row["id"] for row in found if row["attempts"] != 1 and row["answer_source"] == "batch"]
    if asked_again:
        faults.append(f"asked more than once: {', '.join(asked_again[:5])}")
    return faults


def faults_of_bill(executions: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]], wanted: int) -> list[str]:
    """
    Return what is wrong with what the service did.

    :param executions: The emulator's count of requests, over everything so far.
    :param jobs: The emulator's ledger.
    :param wanted: How many different requests there were.
    """
    faults = []
    if executions["repeated_rows"]:
        faults.append(f"{executions['repeated_rows']} requests were carried out again")
    if executions["rows"] - executions["repeated_rows"] != wanted:
        faults.append(f"{executions['rows']} requests were carried out, {wanted} were wanted")
    live = [job["name"] for job in jobs if is_live(job)]
    if live:
        faults.append(f"still running: {', '.join(live[:5])}")
    return faults
