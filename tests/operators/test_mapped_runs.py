# SPDX-License-Identifier: Apache-2.0
"""A mapped run whose list has changed and was cleared: each row is answered where it stands now, and asked once."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.compat import TaskDeferred
from airflow_provider_gemini_batch.operators import RunBatchOperator
from tests.run.world import MODEL, read_table
from tests.support.airflow_side import attempt, set_connection

if TYPE_CHECKING:
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

LISTS = {"swapped": ("ba", 2), "grown": ("nab", 3), "shrunk": ("b", 2), "equal": ("ab", 2)}
"""What became of the list ``ab``, and how many jobs there are in all."""


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    return gemini_batch_emulator


class Index:
    """An index of a mapped task, over its deferrals."""

    def __init__(self, folder: Path, name: str, number: int, clears: int, mapped: str = "rows") -> None:
        path = str(folder / f"out-{number}.parquet")
        said, word = (f"Say {name}-", "") if mapped == "prompt" else ("Say ", f"{name}-")
        self._operator = partial(
            RunBatchOperator, task_id="classify", model=MODEL, prompt=said + "{{ row.word }}", key="id",
            output_path=path, rows=[{"id": n, "word": f"{word}{n}-"} for n in range(3)], deferrable=True,
        )  # fmt: skip
        self._context = attempt(1 + clears, map_index=number)
        self._context["ti"].max_tries = clears
        self._context["dag_run"] = SimpleNamespace(clear_number=clears)
        self._kept: dict[str, Any] | None = None
        self.path = path
        self.manifest: dict[str, Any] | None = None

    def go_on(self) -> None:
        """Run until it defers or ends."""
        operator = self._operator()
        try:
            if self._kept is None:
                self.manifest = operator.execute(self._context)
            else:
                self.manifest = operator.resume(self._context, None, **self._kept)
        except TaskDeferred as deferred:
            self._kept = deferred.kwargs

    def words(self) -> list[str]:
        """Return what the answers are about."""
        return [row["text"] for row in read_table(self.path)]


def play(emulator: EmulatorHandle, indexes: list[Index]) -> None:
    """Let all indexes run to their end."""
    for _ in range(12):
        for index in indexes:
            if index.manifest is None:
                index.go_on()
        emulator.advance(3600)
    assert all(index.manifest for index in indexes)


@pytest.mark.parametrize(("mapped", "when"), [("rows", "ended"), ("rows", "in flight"), ("prompt", "in flight")])
@pytest.mark.parametrize("change", LISTS)
@pytest.mark.usefixtures("stepped")
def test_a_mapped_list_that_changed_asks_its_new_rows_alone(
    emulator: EmulatorHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, when: str, mapped: str
) -> None:
    now, jobs = LISTS[change]
    first = [Index(tmp_path, name, number, 0, mapped) for number, name in enumerate("ab")]
    if when == "ended":
        play(emulator, first)
    else:
        for index in first:
            index.go_on()
    monkeypatch.setattr("time.time", emulator.state.now)
    again = [Index(tmp_path, name, number, 1, mapped) for number, name in enumerate(now)]
    play(emulator, again)
    assert emulator.ledger()["totals"]["created"] == jobs
    for name, index in zip(now, again, strict=True):
        assert all(f"{name}-" in word for word in index.words())
        assert index.manifest is not None
        assert index.manifest["succeeded"] == 3
