# SPDX-License-Identifier: Apache-2.0
"""A run in a test: an emulator behind a client, a checkpoint on disk, and attempts that go on where others died."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from airflow_provider_gemini_batch.api.identity import TaskIdentity
from airflow_provider_gemini_batch.client.client import GeminiBatchClient
from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from airflow_provider_gemini_batch.files.folder import Folder
from airflow_provider_gemini_batch.lifecycle.submission import SubmitPolicy
from airflow_provider_gemini_batch.run.context import RunContext
from airflow_provider_gemini_batch.run.driver import Run, Waiting
from airflow_provider_gemini_batch.run.sources import FileSource, RowsSource
from airflow_provider_gemini_batch.run.spec import Outputs, RunSpec

MODEL = "gemini-3.5-flash-lite"
TASK = "0123456789abcdef"
QUICK = SubmitPolicy(reconcile=(0.0, 0.0), rivals=(0.0,), in_flight=0.0)


def client_of(emulator: Any, backend: str = "gemini") -> GeminiBatchClient:
    """Return a client of the emulator."""
    connection = emulator.connection(backend)
    settings = settings_from_connection(
        host=connection["host"], password=connection.get("password"), extra=connection["extra"]
    )
    return GeminiBatchClient(settings)


@dataclass
class World:
    """What the attempts of one run share."""

    emulator: Any
    folder: Path
    backend: str = "gemini"
    task: str = TASK

    def path(self, name: str) -> str:
        """Return a path in the test's folder."""
        return str(self.folder / name)

    def spec(self, output: str = "out.parquet", **members: Any) -> RunSpec:
        """Return a run's spec; *output* names a file in the test's folder."""
        outputs = Outputs(self.path(output), errors_path=members.pop("errors_path", None))
        defaults: dict[str, Any] = {"prompt": "Say {{ row.word }}", "key": ("id",), "max_failed_rows": None}
        return RunSpec(members.pop("kind", "generate"), members.pop("model", MODEL), outputs, **{**defaults, **members})

    def context(self, source: Any, **members: Any) -> RunContext:
        """Return what an attempt needs; *source* is rows or a path."""
        made = FileSource(source) if isinstance(source, str) else source
        if isinstance(source, list):
            made = RowsSource(source)
        defaults: dict[str, Any] = {
            "checkpoint": Folder(self.path("checkpoint"), settle=0.0),
            "identity": TaskIdentity(self.task, time.time() - 3600),
            "submit_policy": QUICK,
            "sleep": lambda seconds: None,
            "now": lambda: self.emulator.state.clock.now(),
        }
        client = client_of(self.emulator, self.backend)
        return RunContext(client, source=lambda: made, **{**defaults, **members})

    def attempt(self, spec: RunSpec, source: Any, **members: Any) -> dict[str, Any]:
        """Run to the end, letting time pass while jobs are waited for."""
        run = Run(spec, self.context(source, **members))
        while True:
            came = run.proceed()
            if not isinstance(came, Waiting):
                return came
            self.emulator.advance(3600)

    def table(self, name: str = "out.parquet") -> list[dict[str, Any]]:
        """Return an output's rows."""
        return read_table(self.path(name))

    def rows_run(self) -> int:
        """Return how many rows the service has executed."""
        return int(self.emulator.ledger()["totals"]["billed_rows"])


def read_table(path: str) -> list[dict[str, Any]]:
    """Read a Parquet or JSONL file."""
    if path.endswith(".jsonl"):
        return [json.loads(line) for line in Path(path).read_text().splitlines()]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone='UTC'")
        found = connection.execute(f"SELECT * EXCLUDE answered_at FROM read_parquet('{path}')")
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, values, strict=True)) for values in found.fetchall()]


def rows(count: int, **more: Any) -> list[dict[str, Any]]:
    """Return rows with a key and a word."""
    return [{"id": f"k{n}", "word": f"word-{n}-", **more} for n in range(count)]
