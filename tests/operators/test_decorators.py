# SPDX-License-Identifier: Apache-2.0
"""``@task.gemini_batch`` and ``@task.gemini_embedding_batch``: a function's rows, as a run."""

from __future__ import annotations

import pytest

from airflow_provider_gemini_batch.compat import DAG, TaskDeferred
from airflow_provider_gemini_batch.decorators.gemini_batch import gemini_batch_task, gemini_embedding_batch_task
from airflow_provider_gemini_batch.errors import ConfigurationError
from tests.run.world import MODEL, read_table, rows
from tests.support.airflow_side import attempt, set_connection


@pytest.fixture
def emulator(gemini_batch_emulator, monkeypatch):
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    gemini_batch_emulator.script(mode="at_once")
    return gemini_batch_emulator


def operator_of(tmp_path, function, *given, make=gemini_batch_task, **arguments):
    """Return the operator that a decorated function becomes."""
    defaults = {"model": MODEL, "key": "id", "output_path": str(tmp_path / "out.parquet"), "deferrable": False}
    asked = {"prompt": "Say {{ row.word }}"} if make is gemini_batch_task else {"text": "{{ row.word }}"}
    with DAG("decorated", schedule=None):
        return make(**{**defaults, **asked, **arguments})(function)(*given).operator


@pytest.mark.parametrize("is_generator", [True, False])
def test_rows_that_a_function_gives_are_asked(emulator, tmp_path, is_generator):
    def words(count):
        return rows(count)

    def yielded(count):
        yield from rows(count)

    manifest = operator_of(tmp_path, yielded if is_generator else words, 3).execute(attempt())
    assert manifest["counts"] == {"succeeded": 3}
    assert [row["id"] for row in read_table(manifest["output_path"])] == ["k0", "k1", "k2"]


def test_texts_that_a_function_gives_are_embedded(emulator, tmp_path):
    def texts():
        return rows(2)

    operator = operator_of(
        tmp_path, texts, make=gemini_embedding_batch_task, model="gemini-embedding-001",
        output_dimensionality=64,
    )  # fmt: skip
    manifest = operator.execute(attempt())
    assert [len(row["embedding"]) for row in read_table(manifest["output_path"])] == [64, 64]


def test_function_gets_what_it_asks_of_the_context(emulator, tmp_path):
    def words(ds):
        return [{"id": ds, "word": "w"}]

    operator = operator_of(tmp_path, words)
    manifest = operator.execute({**attempt(), "ds": "2026-01-02"})
    assert read_table(manifest["output_path"])[0]["id"] == "2026-01-02"


def test_function_runs_once_for_a_run_however_often_it_waits(emulator, tmp_path):
    emulator.reset()
    called = []

    def words():
        called.append(1)
        return rows(4)

    operator = operator_of(tmp_path, words, deferrable=True, rows_per_job=2, max_jobs=1)
    context = attempt()
    with pytest.raises(TaskDeferred) as first:
        operator.execute(context)
    emulator.advance(7200)
    with pytest.raises(TaskDeferred) as second:
        operator.resume(context, None, **first.value.kwargs)
    emulator.advance(7200)
    assert operator.resume(context, None, **second.value.kwargs)["succeeded"] == 4
    assert called == [1]


@pytest.mark.parametrize(
    ("given", "said"),
    [(None, "must return or yield rows, not NoneType"), ("text", "must return or yield rows, not str"),
     ({"id": 1}, "must return or yield rows, not dict"), ([1], "row 1 must be a dict, not 1")],
)  # fmt: skip
def test_function_that_gives_no_rows_is_told_before_money(emulator, tmp_path, given, said):
    def words():
        return given

    with pytest.raises(ConfigurationError, match=said):
        operator_of(tmp_path, words).execute(attempt())
    assert emulator.ledger()["totals"]["created"] == 0


def test_function_that_fails_in_the_middle_asks_nothing(emulator, tmp_path):
    def words():
        yield from rows(2)
        raise LookupError("the source is gone")

    with pytest.raises(LookupError, match="the source is gone"):
        operator_of(tmp_path, words).execute(attempt())
    assert emulator.ledger()["totals"]["created"] == 0
