# SPDX-License-Identifier: Apache-2.0
"""The wished-for ten lines in a real Airflow: from CSV, Parquet and PostgreSQL to Parquet and PostgreSQL."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.dags.test_example_dags import DagRunner
from tests.run.world import read_table
from tests.support.databases import real_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

psycopg2 = pytest.importorskip("psycopg2")
duckdb = pytest.importorskip("duckdb")
pytest.importorskip("airflow.providers.postgres")

pytestmark = pytest.mark.xdist_group("run in Airflow")

SOURCES = ("csv", "parquet", "postgres")

DAG = """
import os
from datetime import datetime

from airflow_provider_gemini_batch.compat import DAG
from airflow_provider_gemini_batch.operators import RunBatchOperator

os.environ["AIRFLOW_CONN_WAREHOUSE"] = {connection!r}
SOURCES = {{
    "csv": {{"input_path": "{home}/reviews.csv"}},
    "parquet": {{"input_path": "{home}/reviews.parquet"}},
    "postgres": {{
        "sql": "SELECT id, review FROM reviews WHERE day < '{{{{ macros.ds_add(ds, 1000) }}}}'",
        "sql_conn_id": "warehouse",
    }},
}}

with DAG("ten_lines", schedule=None, start_date=datetime(2026, 1, 1)):
    for name, source in SOURCES.items():
        RunBatchOperator(
            task_id=name,
            **source,
            key="id",
            model="gemini-3.5-flash-lite",
            prompt="Classify this product review:\\n{{{{ row.review }}}}",
            response_schema={{
                "type": "object",
                "properties": {{
                    "sentiment": {{"enum": ["good", "bad", "mixed"], "type": "string"}},
                    "topics": {{"type": "array", "items": {{"type": "string"}}}},
                }},
                "required": ["sentiment", "topics"],
            }},
            output_path="{home}/" + name + "-{{{{ run_id | replace(':', '') }}}}.parquet",
            output_table="answers_" + name,
            output_conn_id="warehouse",
            max_cost=5.00,
            max_failed_rows=0.01,
            deferrable=True,
        )
"""


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database with reviews; its URL."""
    with real_postgres(tmp_path_factory) as url:
        connection = psycopg2.connect(url)
        connection.cursor().execute(
            "CREATE TABLE reviews AS SELECT n AS id, 'Review ' || n AS review, DATE '2026-01-02' AS day "
            "FROM generate_series(1, 25) n"
        )
        connection.commit()
        connection.close()
        yield url


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path, warehouse: str) -> Iterator[DagRunner]:
    home = tmp_path_factory.mktemp("airflow")
    for form in ("csv, HEADER", "parquet"):
        query = "SELECT n AS id, 'Review ' || n AS review FROM range(1, 26) t(n)"
        duckdb.sql(f"COPY ({query}) TO '{home}/reviews.{form.split(',')[0]}' (FORMAT {form})")
    (home / "dags").mkdir()
    text = DAG.format(connection=warehouse.replace("postgresql:", "postgres:"), home=home)
    (home / "dags" / "ten_lines.py").write_text(text, encoding="utf-8")
    started = DagRunner(home, migrated_database, home / "dags")
    yield started
    started.close()


@pytest.mark.parametrize(("backend", "deferrable"), [("gemini", True), ("vertex_ai", False)])
def test_ten_lines_leave_typed_tables(
    runner: DagRunner, warehouse: str, gemini_batch_emulator: EmulatorHandle, backend: str, deferrable: bool
) -> None:
    gemini_batch_emulator.script(mode="time", pending_seconds=0.1, running_seconds=0.3)
    connection = gemini_batch_emulator.connection(backend)
    done = runner.run(dag_id="ten_lines", connection=connection, deferrable=deferrable, conf={})
    assert done["tasks"] == dict.fromkeys(SOURCES, "success"), runner.log()[-6000:]
    for source in SOURCES:
        path = runner.home / f"{source}-{done['run_id'].replace(':', '')}.parquet"
        table = read_table(str(path))
        assert [str(row["id"]) for row in table] == [str(n) for n in range(1, 26)]
        assert all(row["status"] == "succeeded" and row["cost"] > 0 for row in table)
        assert all(row["sentiment"] in ("good", "bad", "mixed") and isinstance(row["topics"], list) for row in table)
        assert landed(warehouse, f"answers_{source}") == [
            (str(row["id"]), row["sentiment"], row["topics"]) for row in table
        ]
    assert gemini_batch_emulator.ledger()["totals"]["billed_rows"] == 75


def landed(warehouse: str, table: str) -> list[tuple[Any, ...]]:
    """Return key and answer of a table's rows, in the keys' order."""
    connection = psycopg2.connect(warehouse)
    cursor = connection.cursor()
    cursor.execute(f"SELECT id::text, sentiment, topics FROM {table} ORDER BY id::integer")
    found = [(key, mood, json.loads(topics) if isinstance(topics, str) else topics) for key, mood, topics in cursor]
    connection.close()
    return found
