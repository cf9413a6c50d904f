# SPDX-License-Identifier: Apache-2.0
"""
A whole run in this process, with Airflow loaded as on a worker, and a stopwatch around each of its steps.

A step within another one (reading the source while the snapshot is taken) counts for itself: the outer one's time goes
on without it, and both have their own peak.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.usage import forget_peak, peak

MODELS = {"generate": "gemini-3.5-flash-lite", "embed": "gemini-embedding-001"}
NAMES = {
    "TakeSnapshot": "snapshot", "CutRound": "split", "Submit": "submit", "Collect": "collect", "WriteOutputs": "join",
}  # fmt: skip
"""Names of the plan's steps in the table."""


@dataclass
class _Usage:
    seconds: float = 0.0
    cpu: float = 0.0
    memory: int = 0


class Steps:
    """Seconds, CPU seconds and the process's peak memory by step."""

    def __init__(self) -> None:
        self.found: dict[str, _Usage] = {}
        self._open = ["before"]
        self._since = (time.perf_counter(), time.process_time())
        forget_peak()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count what is done within this for *name*."""
        self._close()
        self._open.append(name)
        try:
            yield
        finally:
            self._close()
            self._open.pop()

    def _close(self) -> None:
        now = (time.perf_counter(), time.process_time())
        usage = self.found.setdefault(self._open[-1], _Usage())
        usage.seconds += now[0] - self._since[0]
        usage.cpu += now[1] - self._since[1]
        usage.memory = max(usage.memory, peak())
        self._since = now
        forget_peak()

    def around(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return *work*, counted for *name*."""

        def counted(*arguments: Any, **named: Any) -> Any:
            with self.step(name):
                return work(*arguments, **named)

        return counted


def run(kind: str, source: str, output: str, folder: str) -> dict[str, Any]:
    """
    Run from an input file to a Parquet file.

    :param kind: Of :data:`~benchmarks.run_inputs.KINDS`.
    :return: Steps with their usage, the manifest's counts, and the seconds until the end.
    """
    from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
    from airflow_provider_gemini_batch.run import driver, merge, outputs, sources, waiting
    from benchmarks.run_inputs import KINDS

    steps = Steps()

    class Counted(driver.Run):
        def carry_out(self, step: Any) -> Any:
            with steps.step(NAMES[type(step).__name__]):
                return super().carry_out(step)

    patches: list[tuple[Any, str, Any]] = [
        (waiting, "Run", Counted),
        (sources.FileSource, "read", steps.around("read", sources.FileSource.read)),
        (merge.Merge, "parts", steps.around("join", merge.Merge.parts)),
        (outputs.Table, "write", steps.around("write", outputs.Table.write)),
    ]
    for owner, name, value in patches:
        setattr(owner, name, value)
    arguments = dict(KINDS[kind].arguments)
    model_kind = arguments.pop("kind")
    start = time.perf_counter()
    with steps.step("wait"):
        manifest = waiting.run_batch(
            GeminiBatchHook().client, model_kind, run_key="bench", checkpoint_path=str(Path(folder) / "checkpoint"),
            progress=False, input_path=source, key="id", model=MODELS[model_kind], output_path=output,
            poll_interval=0.5, **arguments,
        )  # fmt: skip
    steps.found.pop("before", None)
    return {
        "steps": {name: vars(usage) for name, usage in steps.found.items()},
        "seconds": time.perf_counter() - start,
        "total": manifest["total"],
        "succeeded": manifest["succeeded"],
        "jobs": manifest["job_count"],
    }
