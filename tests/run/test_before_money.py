# SPDX-License-Identifier: Apache-2.0
"""What is checked before a run spends money is checked at each attempt; a dry run changes nothing at all."""

from __future__ import annotations

import sqlite3

import pytest

from airflow_provider_gemini_batch.compat import AirflowSkipException, TaskDeferred
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.operators import RunBatchOperator
from airflow_provider_gemini_batch.operators.base import MANIFEST_KEY
from airflow_provider_gemini_batch.run.spec import Outputs, RunSpec
from airflow_provider_gemini_batch.run.sql import SqlTarget
from tests.run.world import MODEL, rows
from tests.support.airflow_side import attempt, set_connection


@pytest.fixture
def emulator(gemini_batch_emulator, monkeypatch, tmp_path):
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    set_connection(monkeypatch, {"conn_type": "sqlite", "host": str(tmp_path / "w.db")}, "db")
    return gemini_batch_emulator


def operator(tmp_path, **arguments):
    defaults = {"rows": rows(5), "output_path": str(tmp_path / "out.parquet"), "model": MODEL, "key": "id"}
    return RunBatchOperator(
        **{"task_id": "run", "prompt": "Say {{ row.word }}", "deferrable": False, **defaults, **arguments}
    )


def created(emulator) -> int:
    return int(emulator.ledger()["totals"]["created"])


def test_table_that_cannot_take_the_rows_is_refused_at_each_attempt(world):
    path = world.path("w.db")
    sqlite3.connect(path).execute("CREATE TABLE answers (id TEXT PRIMARY KEY, mood TEXT)")
    spec = RunSpec("generate", MODEL, Outputs(table="answers"), prompt="Say {{ row.word }}", key=("id",))
    target = SqlTarget(lambda: sqlite3.connect(path), "sqlite")
    for occasion in ("first", "first", "cleared"):
        with pytest.raises(ConfigurationError, match="has no column text, status"):
            world.attempt(spec, rows(3), sql=target, occasion=occasion)
    assert created(world.emulator) == 0


def test_dry_run_makes_no_table_no_folder_and_no_checkpoint(emulator, tmp_path):
    places = {"output_path": str(tmp_path / "new" / "out.parquet"), "checkpoint_path": str(tmp_path / "checkpoint")}
    with pytest.raises(AirflowSkipException):
        operator(tmp_path, dry_run=True, output_table="t", output_conn_id="db", **places).execute(attempt())
    assert sqlite3.connect(tmp_path / "w.db").execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    assert [path.name for path in tmp_path.iterdir()] == ["w.db"]


def test_dry_run_of_another_prompt_leaves_the_jobs_alone(emulator, tmp_path):
    with pytest.raises(TaskDeferred):
        operator(tmp_path, deferrable=True).execute(attempt())
    with pytest.raises(AirflowSkipException):
        operator(tmp_path, dry_run=True, prompt="Shout {{ row.word }}").execute(attempt(2))
    (job,) = emulator.ledger()["jobs"]
    assert "CANCEL" not in job["state"]


def test_dry_run_before_a_clear_counts_what_has_an_answer(emulator, tmp_path):
    emulator.script(mode="at_once")
    operator(tmp_path).execute(attempt())
    context = attempt()
    with pytest.raises(AirflowSkipException):
        operator(tmp_path, rows=rows(7), dry_run=True).execute(context)
    plan = context["ti"].xcoms[MANIFEST_KEY]
    assert (plan["rows_to_ask"], plan["rows_reused"]) == (2, 5)


FILM_PART = {"fileData": {"fileUri": "https://example.com/film.mp4", "mimeType": "video/mp4"}}
FILM = {"contents": [{"role": "user", "parts": [FILM_PART]}]}
REFUSED = {
    "price": ({"model": "gemini-9-argon", "max_cost": 5.0}, "the price of gemini-9-argon is not known"),
    "one row": ({"max_cost": 1e-6}, "max_cost=1e-06: 0 spent"),
    "tokens": ({"max_input_tokens": 1}, "max_input_tokens=1"),
    "media": ({"prompt": None, "max_cost": 5.0, "rows": [{"id": "a", "request": FILM}]}, "rows with media have no"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_dry_run_of_a_run_that_a_cap_refuses_says_so_and_why(emulator, tmp_path, caplog, case):
    arguments, said = REFUSED[case]
    context = attempt()
    with pytest.raises(AirflowSkipException, match=f"would be refused: .*{said}"):
        operator(tmp_path, dry_run=True, **arguments).execute(context)
    assert "The run would be refused" in caplog.text
    assert said in context["ti"].xcoms[MANIFEST_KEY]["refused"]
    assert created(emulator) == 0


def test_dry_run_says_that_a_cap_may_leave_rows_out(emulator, tmp_path, caplog):
    context = attempt()
    with pytest.raises(AirflowSkipException):
        operator(tmp_path, dry_run=True, max_cost=0.1).execute(context)
    plan = context["ti"].xcoms[MANIFEST_KEY]
    assert (plan["refused"], plan["over_cap"][:12]) == (None, "max_cost=0.1")
    assert "The cap may not allow all rows: max_cost=0.1" in caplog.text


def test_dry_run_counts_what_the_task_has_spent(emulator, tmp_path):
    emulator.script(mode="at_once", output_tokens=1000)
    limits = {"generation_config": {"maxOutputTokens": 1000}, "max_cost": 0.008}
    operator(tmp_path, **limits).execute(attempt())
    context = attempt()
    with pytest.raises(AirflowSkipException, match="spent"):
        operator(tmp_path, rows=rows(7), dry_run=True, **{**limits, "max_cost": 0.0065}).execute(context)
    assert "max_cost=0.0065: 0.006" in context["ti"].xcoms[MANIFEST_KEY]["refused"]


def in_notebook(tmp_path, **arguments):
    places = {"checkpoint_path": str(tmp_path / "c"), "output_path": str(tmp_path / "out.parquet")}
    return GeminiBatchHook().run_batch(
        run_key="a", rows=rows(3), model=MODEL, prompt="{{ row.word }}", progress=False, **places, **arguments
    )


def test_dry_run_in_a_notebook_returns_the_plan_and_asks_nothing(emulator, tmp_path):
    plan = in_notebook(tmp_path, dry_run=True)
    assert (plan["rows_to_ask"], plan["jobs"], created(emulator)) == (3, 1, 0)


@pytest.mark.parametrize(
    ("argument", "said"),
    [("max_cots", "no argument 'max_cots'. Is 'max_cost' meant"), ("output_table", "is for the run operators")],
)
def test_argument_that_a_notebook_does_not_know_is_an_error(emulator, tmp_path, argument, said):
    with pytest.raises(ConfigurationError, match=said):
        in_notebook(tmp_path, **{argument: 1})
    assert created(emulator) == 0


def test_output_and_errors_are_not_one_file(world):
    with pytest.raises(ConfigurationError, match="output_path and errors_path are both"):
        world.attempt(world.spec(errors_path=world.path("out.parquet")), rows(3))


def test_column_called_as_one_of_the_errors_file_is_refused(world):
    with pytest.raises(ConfigurationError, match="leave it out by keep_columns"):
        world.attempt(world.spec(errors_path=world.path("e.jsonl")), rows(3, Prompt="x"))


def test_table_to_reuse_has_to_be_written_too(world):
    with pytest.raises(ConfigurationError, match="needs output_table"):
        world.attempt(world.spec(reuse=("output_table",)), rows(3))


def test_table_is_reused_under_the_very_name_it_was_written_by(emulator, tmp_path):
    emulator.script(mode="at_once")
    named = {"output_table": "My Answers", "output_conn_id": "db", "reuse_answers": "output_table"}
    found = [operator(tmp_path, **named).execute(attempt(run_id=night))["reused"] for night in "12"]
    assert found == [0, 5]
