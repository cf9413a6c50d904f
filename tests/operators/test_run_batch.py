# SPDX-License-Identifier: Apache-2.0
"""The run operators as tasks: what they render, push, refuse, and how they go on after a wait."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from datetime import timedelta
from functools import partial
from typing import ClassVar

import pytest

from airflow_provider_gemini_batch.compat import AirflowFailException, AirflowSkipException, TaskDeferred
from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError, JobTimeoutError
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.operators import RunBatchOperator, RunEmbeddingBatchOperator
from airflow_provider_gemini_batch.operators.base import MANIFEST_KEY, InvalidInputError
from airflow_provider_gemini_batch.run import driver
from airflow_provider_gemini_batch.run.checkpoint import CheckpointLostError
from airflow_provider_gemini_batch.task import installation
from airflow_provider_gemini_batch.task.xcom_keys import PROGRESS_KEY
from tests.run.world import MODEL, read_table, rows
from tests.support.airflow_side import attempt, set_connection
from tests.triggers.test_batch_jobs import first_event


@pytest.fixture
def emulator(gemini_batch_emulator, monkeypatch):
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    return gemini_batch_emulator


@pytest.fixture
def database(tmp_path, monkeypatch):
    path = tmp_path / "warehouse.db"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE words (id TEXT, word TEXT)")
        connection.executemany("INSERT INTO words VALUES (?, ?)", [(row["id"], row["word"]) for row in rows(7)])
    return path


def run_batch(tmp_path, **arguments):
    given = {"rows": rows(5), "output_path": str(tmp_path / "out.parquet"), **arguments}
    defaults = {"task_id": "classify", "model": MODEL, "prompt": "Say {{ row.word }}", "key": "id", "deferrable": False}
    if "sql" in given or "input_path" in given:
        del given["rows"]
    return RunBatchOperator(**{**defaults, **given})


def test_task_returns_and_pushes_its_manifest(emulator, tmp_path):
    emulator.script(mode="at_once")
    context = attempt()
    manifest = run_batch(tmp_path).execute(context)
    assert (manifest["total"], manifest["succeeded"]) == (5, 5)
    assert context["ti"].xcoms[MANIFEST_KEY] == manifest
    assert len(read_table(manifest["output_path"])) == 5


def test_deferred_task_goes_on_after_each_wait(emulator, tmp_path):
    operator = run_batch(tmp_path, deferrable=True, rows_per_job=2, max_jobs=2)
    context = attempt()
    with pytest.raises(TaskDeferred) as first:
        operator.execute(context)
    names = first.value.trigger.serialize()[1]["job_names"]
    assert len(names) == 2
    emulator.advance(7200)
    with pytest.raises(TaskDeferred) as second:
        operator.resume(context, {"ended": names}, **first.value.kwargs)
    assert len(second.value.trigger.serialize()[1]["job_names"]) == 1
    emulator.advance(7200)
    assert operator.resume(context, None, **second.value.kwargs)["succeeded"] == 5
    assert emulator.ledger()["totals"]["created"] == 3


def test_execution_timeout_bounds_a_runs_deferrals_and_leaves_its_jobs(emulator, tmp_path):
    limited = partial(run_batch, tmp_path, deferrable=True, rows_per_job=3, execution_timeout=timedelta(hours=1))
    began = time.time()
    with pytest.raises(TaskDeferred) as deferred:
        limited().execute(attempt())
    ends_at = deferred.value.trigger.serialize()[1]["deadline"]
    assert began + 3500 < ends_at < began + 3600
    assert timedelta(hours=1) < deferred.value.timeout < timedelta(hours=1.5)
    state = deferred.value.kwargs["state"]
    assert state["execution_deadline"] == ends_at
    over = {"state": {**state, "execution_deadline": time.time() - 1}}
    with pytest.raises(JobTimeoutError, match=r"within execution_timeout .* run on, and bill: batches/") as caught:
        limited().resume(attempt(), None, **over)
    assert caught.value.limit == "execution_timeout"
    assert [job.cancelled for job in emulator.state.all_jobs] == [None, None]
    emulator.advance(7200)
    assert limited().execute(attempt(2))["succeeded"] == 5
    assert emulator.ledger()["totals"]["created"] == 2


def test_a_deferred_run_settles_on_one_of_two_jobs_that_its_wait_met(emulator, tmp_path, monkeypatch):
    emulator.configure(listing_lag=1e6)
    emulator.script(pending_seconds=1e5)
    first, second = (partial(run_batch, tmp_path / name, deferrable=True) for name in ("one", "two"))
    with pytest.raises(TaskDeferred) as lost:
        first().execute(attempt())
    emulator.advance(60)
    with pytest.raises(TaskDeferred) as deferred:
        second().execute(attempt())  # on another worker's disk, and the list shows no job
    emulator.configure(listing_lag=0)
    emulator.advance(60)
    older, younger = (one.value.trigger.serialize()[1]["job_names"][0] for one in (lost, deferred))
    trigger = deferred.value.trigger
    monkeypatch.setattr(time, "time", emulator.state.now)
    trigger.poll_interval, trigger.deadline = 0.2, time.time() + 10
    event = asyncio.run(first_event(trigger))
    assert event == {"ended": [], "twins": {older: younger}}
    with pytest.raises(TaskDeferred) as again:
        second().resume(attempt(), event, **deferred.value.kwargs)
    kept = again.value.trigger.serialize()[1]
    assert (kept["job_names"], kept["known"]) == ([older], [younger])
    assert [job.name for job in emulator.state.all_jobs if job.cancelled is None] == [older]


def test_a_deferred_run_that_no_poll_can_help_fails_at_once_with_the_cause(emulator, tmp_path, monkeypatch):
    emulator.script(pending_seconds=1e5)
    with pytest.raises(TaskDeferred) as deferred:
        run_batch(tmp_path, deferrable=True).execute(attempt())
    with monkeypatch.context() as triggerer:
        triggerer.delenv("NO_PROXY", raising=False)
        triggerer.delenv("no_proxy", raising=False)
        triggerer.setenv("HTTP_PROXY", "http://[::1")
        event = asyncio.run(asyncio.wait_for(first_event(deferred.value.trigger), 5))
    assert event["error"] == "ConfigurationError"
    with pytest.raises(GeminiBatchError, match=r"could not be watched any longer: .* HTTP_PROXY"):
        run_batch(tmp_path, deferrable=True).resume(attempt(), event, **deferred.value.kwargs)
    emulator.advance(2e5)
    assert run_batch(tmp_path, deferrable=True).execute(attempt(2))["succeeded"] == 5
    assert emulator.ledger()["totals"]["created"] == 1


def test_a_deferred_run_asks_again_what_a_deleted_job_was_asked(emulator, tmp_path, monkeypatch):
    emulator.script(pending_seconds=1e5)
    with pytest.raises(TaskDeferred) as deferred:
        run_batch(tmp_path, deferrable=True).execute(attempt())
    trigger = deferred.value.trigger
    GeminiBatchHook().delete_batch(trigger.job_names[0])
    trigger.started -= 3600
    event = asyncio.run(asyncio.wait_for(first_event(trigger), 5))
    assert event["unwatched"] == trigger.job_names
    later = time.time() + 3600  # a young job may be one that a read does not find yet
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(TaskDeferred) as again:
        run_batch(tmp_path, deferrable=True).resume(attempt(), event, **deferred.value.kwargs)
    assert again.value.trigger.job_names != trigger.job_names


def test_two_jobs_that_ran_are_in_xcom(emulator, tmp_path):
    emulator.configure(listing_lag=1e6)
    context = attempt()
    first, second = (partial(run_batch, tmp_path / name, deferrable=True) for name in ("one", "two"))
    with pytest.raises(TaskDeferred) as lost:
        first().execute(attempt())
    with pytest.raises(TaskDeferred) as deferred:
        second().execute(context)
    emulator.advance(7200)
    older, younger = (one.value.trigger.serialize()[1]["job_names"][0] for one in (lost, deferred))
    event = {"ended": [younger], "twins": {older: younger}}
    manifest = second().resume(context, event, **deferred.value.kwargs)
    assert (manifest["paid_twice"], set(manifest["paid_twice_jobs"])) == (5, {older, younger})
    assert set(context["ti"].xcoms["paid_twice"]) == {older, younger}


def test_answers_that_are_there_are_taken_though_the_time_is_over(emulator, tmp_path):
    operator = run_batch(tmp_path, deferrable=True, execution_timeout=timedelta(hours=1))
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(attempt())
    emulator.advance(7200)
    over = {"state": {**deferred.value.kwargs["state"], "execution_deadline": time.time() - 1}}
    assert operator.resume(attempt(), None, **over)["succeeded"] == 5


def test_what_a_deferral_carries_does_not_grow_with_rows(emulator, tmp_path):
    sizes = []
    for count in (10, 1000):
        with pytest.raises(TaskDeferred) as deferred:
            run_batch(tmp_path, deferrable=True, rows=rows(count)).execute(attempt(run_id=f"r{count}"))
        sizes.append(len(json.dumps([deferred.value.trigger.serialize(), deferred.value.kwargs])))
    assert abs(sizes[0] - sizes[1]) < 20


def test_second_attempt_submits_nothing_again(emulator, tmp_path):
    with pytest.raises(TaskDeferred):
        run_batch(tmp_path, deferrable=True).execute(attempt())
    emulator.advance(7200)
    # A rival attempt would wait for a twin to show up: the list is read at once here, as this is the same process.
    manifest = run_batch(tmp_path).execute(attempt())
    assert manifest["succeeded"] == 5
    assert emulator.ledger()["totals"]["created"] == 1


@pytest.mark.parametrize("resumed", [True, False], ids=["resumed", "retried"])
def test_run_whose_identity_changed_goes_on_where_it_was(emulator, tmp_path, monkeypatch, caplog, resumed):
    monkeypatch.setattr(installation, "desk_here", Desk)
    monkeypatch.setattr(Desk, "value", None)
    monkeypatch.setattr(installation, "SECOND_LOOK", 0.0)
    with pytest.raises(TaskDeferred) as deferred:
        run_batch(tmp_path, deferrable=True).execute(attempt())
    emulator.advance(7200)
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__NAMESPACE", "production")
    if resumed:
        manifest = run_batch(tmp_path, deferrable=True).resume(attempt(), None, **deferred.value.kwargs)
    else:
        manifest = run_batch(tmp_path).execute(attempt(2))
    assert manifest["succeeded"] == 5
    assert emulator.ledger()["totals"]["created"] == 1
    assert "began under a former identity" in caplog.text


@pytest.mark.parametrize("resumed", [True, False], ids=["resumed", "retried"])
def test_worker_without_the_checkpoint_names_the_host_that_wrote_it(emulator, tmp_path, monkeypatch, resumed):
    monkeypatch.setattr(driver, "UNSEEN_SECONDS", 0.0)
    store: dict = {}
    with pytest.raises(TaskDeferred) as deferred:
        run_batch(tmp_path, deferrable=True).execute(on_host("worker-a", store))
    emptied = tmp_path / "_gemini_batch"
    emptied.rename(tmp_path / "of worker-a")
    task = run_batch(tmp_path, deferrable=True)
    again = partial(task.resume, event=None, **deferred.value.kwargs) if resumed else task.execute
    with pytest.raises(CheckpointLostError, match=r"\(worker-b\) does not see .*, which worker-a wrote"):
        again(on_host("worker-b", store, 2))
    (tmp_path / "of worker-a").rename(emptied)
    emulator.advance(7200)
    assert run_batch(tmp_path).execute(on_host("worker-b", store, 3))["succeeded"] == 5
    assert emulator.ledger()["totals"]["created"] == 1


def test_cleared_task_goes_on_without_a_checkpoint_out_of_sight(emulator, tmp_path):
    store: dict = {}
    with pytest.raises(TaskDeferred):
        run_batch(tmp_path, deferrable=True).execute(on_host("worker-a", store, max_tries=1))
    (tmp_path / "_gemini_batch").rename(tmp_path / "of worker-a")
    emulator.advance(7200)
    cleared = on_host("worker-b", store, max_tries=2)
    assert run_batch(tmp_path).execute(cleared)["succeeded"] == 5
    assert emulator.ledger()["totals"]["created"] == 1
    assert store["gemini_batch_checkpoint"]["host"] == "worker-b"


def on_host(name: str, store: dict | None = None, number: int = 1, max_tries: int = 3) -> dict:
    """Return the context of an attempt on a host, where Airflow keeps a task's state in *store*."""
    context = attempt(number)
    context["ti"].hostname, context["ti"].max_tries = name, max_tries
    return context if store is None else {**context, "task_state_store": Store(store)}


class Store:
    """Airflow's task state store."""

    def __init__(self, kept: dict) -> None:
        self.get, self.set = kept.get, kept.__setitem__


class Desk:
    """One Airflow's Variables."""

    value: ClassVar[str | None] = None

    def read(self):
        return self.value

    def write(self, value):
        type(self).value = value


def test_template_of_rows_is_not_rendered_by_airflow(tmp_path):
    operator = run_batch(tmp_path, prompt="{{ row.word }} {{ ds }}", output_path=str(tmp_path / "{{ ds }}.parquet"))
    operator.render_template_fields({"ds": "2026-01-02"})
    assert operator.prompt == "{{ row.word }} {{ ds }}"
    assert operator.output_path.endswith("2026-01-02.parquet")


def test_rows_are_not_rendered(tmp_path):
    operator = run_batch(tmp_path, rows=[{"id": 1, "word": "{{ ds }}"}])
    operator.render_template_fields({"ds": "2026-01-02"})
    assert operator.rows == [{"id": 1, "word": "{{ ds }}"}]


def test_rows_come_from_an_sql_connection(emulator, tmp_path, database):
    emulator.script(mode="at_once")
    operator = run_batch(
        tmp_path, sql="SELECT * FROM words WHERE id <> ?", sql_parameters=("k3",), sql_conn_id="warehouse"
    )
    manifest = operator.execute(attempt())
    assert [row["id"] for row in read_table(manifest["output_path"])] == ["k0", "k1", "k2", "k4", "k5", "k6"]


def test_rows_come_from_a_query_over_files(emulator, tmp_path):
    emulator.script(mode="at_once")
    (tmp_path / "in.csv").write_text("id,word\nb,two\na,one\n")
    manifest = run_batch(tmp_path, sql=f"SELECT * FROM '{tmp_path}/in.csv' ORDER BY id").execute(attempt())
    assert [row["id"] for row in read_table(manifest["output_path"])] == ["a", "b"]


def test_query_over_files_takes_nothing_from_params(tmp_path):
    operator = run_batch(tmp_path, sql="SELECT * FROM '{{ params.path }}'")
    with pytest.raises(Exception, match="may not be made from 'params'"):
        operator.render_template_fields({"params": {"path": "/etc/passwd"}})


def test_table_in_sqlite_is_created_and_upserted(emulator, tmp_path, database):
    emulator.script(mode="at_once")
    for count in (5, 7):
        run_batch(
            tmp_path, rows=rows(count), output_path=None, output_table="answers", output_conn_id="warehouse",
            checkpoint_path=str(tmp_path / "checkpoint"),
        ).execute(attempt(run_id=f"r{count}"))  # fmt: skip
    with sqlite3.connect(database) as connection:
        found = connection.execute("SELECT id, text, status FROM answers ORDER BY id").fetchall()
    assert [row[0] for row in found] == [f"k{n}" for n in range(7)]
    assert all(row[1] and row[2] == "succeeded" for row in found)


def test_output_table_is_reused(emulator, tmp_path, database):
    emulator.script(mode="at_once")
    arguments = {"output_path": None, "output_table": "answers", "output_conn_id": "warehouse",
                 "checkpoint_path": str(tmp_path / "checkpoint"), "reuse_answers": "output_table"}  # fmt: skip
    run_batch(tmp_path, rows=rows(5), **arguments).execute(attempt(run_id="first"))
    manifest = run_batch(tmp_path, rows=rows(7), **arguments).execute(attempt(run_id="second"))
    assert (manifest["reused"], manifest["attempts"]) == (5, 2)


def test_run_whose_rows_failed_fails_without_retry(emulator, tmp_path):
    emulator.script(mode="at_once", rows=[{"outcome": "error", "code": 3, "message": "no"}])
    context = attempt()
    with pytest.raises(AirflowFailException, match="5 of 5 rows have no usable answer"):
        run_batch(tmp_path).execute(context)
    assert context["ti"].xcoms[MANIFEST_KEY]["counts"] == {"failed": 5}


def test_empty_input_skips_if_asked_to(emulator, tmp_path):
    with pytest.raises(AirflowSkipException):
        run_batch(tmp_path, rows=[], on_empty_input="skip").execute(attempt())
    with pytest.raises(InvalidInputError, match="no rows"):
        run_batch(tmp_path, rows=[]).execute(attempt())


def test_dry_run_pushes_the_plan_and_skips(emulator, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__HISTORY_PATH", str(tmp_path / "history"))
    context = attempt()
    with pytest.raises(AirflowSkipException):
        run_batch(tmp_path, dry_run=True, rows_per_job=2).execute(context)
    plan = context["ti"].xcoms[MANIFEST_KEY]
    assert (plan["rows_to_ask"], plan["jobs"]) == (5, 3)
    assert emulator.ledger()["totals"]["created"] == 0
    assert not (tmp_path / "_gemini_batch").exists()
    assert not (tmp_path / "history").exists()  # a plan is no row of the `spend` command


def test_two_map_indices_may_not_write_one_file(emulator, tmp_path):
    emulator.script(mode="at_once")
    run_batch(tmp_path).execute(attempt(map_index=0))
    with pytest.raises(InvalidInputError, match="written by another task of this DAG run"):
        run_batch(tmp_path).execute(attempt(map_index=1))


def test_checkpoint_of_an_old_run_is_removed_by_the_next(emulator, tmp_path):
    emulator.script(mode="at_once")
    run_batch(tmp_path).execute(attempt(run_id="first"))
    task_folder = tmp_path / "_gemini_batch" / "nightly" / "classify"
    (first,) = [path.name for path in task_folder.iterdir() if path.name != "_targets"]
    run_batch(tmp_path, checkpoint_retention=3600).execute(attempt(run_id="second"))
    assert (task_folder / first).exists()
    run_batch(tmp_path, checkpoint_retention=0.001).execute(attempt(run_id="third"))
    assert not (task_folder / first).exists()


def test_embedding_operator_writes_vectors(emulator, tmp_path):
    emulator.script(mode="at_once")
    operator = RunEmbeddingBatchOperator(
        task_id="embed", model="gemini-embedding-2", rows=rows(3), text="{{ row.word }}", key="id",
        output_path=str(tmp_path / "out.parquet"), output_dimensionality=8, task_type="RETRIEVAL_DOCUMENT",
        deferrable=False,
    )  # fmt: skip
    manifest = operator.execute(attempt())
    assert [len(row["embedding"]) for row in read_table(manifest["output_path"])] == [8, 8, 8]


def test_marked_task_cancels_all_its_jobs(emulator, tmp_path):
    operator = run_batch(tmp_path, deferrable=True, rows_per_job=2)
    with pytest.raises(TaskDeferred):
        operator.execute(attempt())
    operator._run.cancel()
    states = {job["state"] for job in emulator.ledger()["jobs"]}
    assert states <= {"CANCELLED", "CANCELLING"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"output_path": None}, "give output_path or output_table"),
        ({"rows": rows(1), "sql": "SELECT 1"}, "exactly one of rows, input_path and sql"),
        ({"output_path": "out.xlsx"}, "must end in .jsonl, .csv or .parquet"),
        ({"output_table": "t"}, "output_table needs output_conn_id"),
        ({"key": ["id", "id"]}, "names a column twice"),
        ({"key": "nr"}, "key names 'nr', which the input does not have"),
        ({"keep_columns": ["nr"]}, "keep_columns names 'nr'"),
        ({"prompt": "{{ row.nr }}"}, "uses the column nr"),
        ({"prompt": 7}, "must be a Jinja template"),
        ({"max_row_attempts": 0}, "max_row_attempts must be a whole number above 0"),
        ({"retry_tier": "fast"}, "retry_tier must be batch or flex"),
        ({"max_failed_rows": -1}, "max_failed_rows"),
        ({"max_cost": 1.0, "model": "gemini-99"}, "price of gemini-99 is not known"),
        ({"rows": [{"id": 1, "word": "a"}, {"id": 1, "word": "b"}]}, "must be unique, and is not: '1' in rows 1, 2"),
        ({"rows": [{"id": None, "word": "a"}]}, "row 1: the key column 'id' is null"),
        ({"rows": [{"id": 1, "word": "a"}, {"id": 2, "word": 3}]}, "values of several types"),
        ({"rows": [{"id": 1, "word": "a", "Status": "x"}]}, "'status' .*meta_prefix|meta_prefix"),
        ({"rows": [{"id": 1, "word": "a", "WORD": "x"}]}, "differ in case alone"),
        ({"rows": [{"id": 1, "word": object()}]}, "no table can"),
        ({"rows": "words"}, "must be a list of dicts"),
        ({"rows": [1]}, "row 1 must be a dict"),
        ({"response_schema": {"type": "object", "properties": {"x": {"not": {}}}}}, "neither backend takes 'not'"),
        ({"response_schema": {"type": "object", "properties": {"ID": {"type": "string"}}}}, "'ID'"),
        ({"sql": "SELECT nothing FROM nowhere"}, "sql: "),
    ],
)
def test_bad_argument_is_one_clear_error_before_money(emulator, tmp_path, arguments, why):
    operator = run_batch(tmp_path, **arguments)
    operator.rows = arguments.get("rows", operator.rows)
    with pytest.raises(InvalidInputError, match=why):
        operator.execute(attempt())
    assert emulator.ledger()["totals"]["created"] == 0


def test_hook_runs_in_a_notebook_and_resumes_by_its_key(emulator, tmp_path, capsys):
    from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook

    emulator.script(mode="at_once")
    arguments = {
        "rows": rows(5),
        "model": MODEL,
        "prompt": "Say {{ row.word }}",
        "key": "id",
        "output_path": str(tmp_path / "out.parquet"),
        "checkpoint_path": str(tmp_path / "checkpoint"),
    }
    first = GeminiBatchHook().run_batch(run_key="words", **arguments)
    assert "5 of 5 rows have an answer" in capsys.readouterr().out
    again = GeminiBatchHook().run_batch(run_key="words", progress=False, **arguments)
    assert (first["succeeded"], again["reused"]) == (5, 5)
    assert emulator.ledger()["totals"]["created"] == 1
    with pytest.raises(Exception, match="run_key and checkpoint_path are needed"):
        GeminiBatchHook().run_batch(run_key="", **arguments)


def test_run_pushes_how_far_it_is_before_each_wait_and_at_its_end(emulator, tmp_path):
    operator = run_batch(tmp_path, deferrable=True, rows_per_job=3, max_jobs=1)
    context = attempt()
    with pytest.raises(TaskDeferred) as first:
        operator.execute(context)
    began = context["ti"].xcoms[PROGRESS_KEY]
    assert (began["total"], began["counts"], [job["rows"] for job in began["jobs"]]) == (5, {}, [3])
    assert (began["waiting_shards"], began["max_failed_rows"]) == (1, operator.max_failed_rows)
    emulator.advance(7200)
    with pytest.raises(TaskDeferred) as second:
        operator.resume(context, None, **first.value.kwargs)
    later = context["ti"].xcoms[PROGRESS_KEY]
    assert (later["counts"], [job["rows"] for job in later["jobs"]]) == ({"succeeded": 3}, [2, 3])
    emulator.advance(7200)
    operator.resume(context, None, **second.value.kwargs)
    ended = context["ti"].xcoms[PROGRESS_KEY]
    assert (ended["counts"], ended["reserved"], {job["state"] for job in ended["jobs"]}) == (
        {"succeeded": 5}, 0, {"SUCCEEDED"},
    )  # fmt: skip
    tokens = context["ti"].xcoms[MANIFEST_KEY]["tokens"]
    told = [sum(job["tokens"][place] for job in ended["jobs"]) for place in (0, 1)]
    assert told == [tokens["prompt"], tokens["output"] + tokens["thoughts"]]
    assert all(told)


def test_progress_that_cannot_be_pushed_costs_the_run_nothing(emulator, tmp_path, mocker):
    emulator.script(mode="at_once")
    context = attempt()
    push = context["ti"].xcom_push

    def refuse(key, value):
        if key == PROGRESS_KEY:
            raise ConnectionError("the API server is away")
        push(key, value)

    mocker.patch.object(context["ti"], "xcom_push", refuse)
    assert run_batch(tmp_path).execute(context)["succeeded"] == 5


def test_locked_database_is_an_error_that_a_retry_ends(emulator, tmp_path, database):
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(GeminiBatchError, match="sql over warehouse: database is locked") as caught:
            run_batch(tmp_path, sql="SELECT * FROM words", sql_conn_id="warehouse").execute(attempt())
    finally:
        holder.close()
    assert not isinstance(caught.value, (ConfigurationError, AirflowFailException))
