# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL as source and as output: streamed, typed, upserted in one transaction."""

from __future__ import annotations

import datetime
import decimal
import sqlite3

import pytest

from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError
from airflow_provider_gemini_batch.plugins.page.answers_rows import Wanted
from airflow_provider_gemini_batch.plugins.page.answers_sql import page_of
from airflow_provider_gemini_batch.run.driver import Run, Waiting
from airflow_provider_gemini_batch.run.schema import ResponseSchema
from airflow_provider_gemini_batch.run.sources import CursorSource, QuerySource
from airflow_provider_gemini_batch.run.spec import Outputs, RunSpec
from airflow_provider_gemini_batch.run.sql import SqlTarget
from airflow_provider_gemini_batch.task.sql import only_read
from tests.run.test_run import ANSWER, REVIEW, answering
from tests.run.world import MODEL, rows
from tests.support.databases import real_postgres

psycopg2 = pytest.importorskip("psycopg2")

pytestmark = pytest.mark.xdist_group("SQL")


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with real_postgres(tmp_path_factory) as url:
        yield lambda: psycopg2.connect(url)


@pytest.fixture
def sql(database):
    connection = database()
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    yield cursor
    connection.close()


def run(world, database, source, *, spec=None, occasion="", target=None):
    spec = spec or spec_of()
    context = world.context(source, occasion=occasion, sql=target or SqlTarget(database, "postgresql"))
    attempt = Run(spec, context)
    while isinstance(came := attempt.proceed(), Waiting):
        world.emulator.advance(3600)
    return came


def spec_of(table="answers", **more):
    more = {"prompt": "Say {{ row.word }}", "key": ("id",), "schema": ResponseSchema(REVIEW), **more}
    return RunSpec("generate", MODEL, Outputs(table=table), **more)


def test_table_is_created_with_its_types_and_upserted(world, database, sql):
    world.emulator.script(**answering(ANSWER))
    day = datetime.date(2026, 1, 2)
    run(world, database, rows(3, day=day, price=decimal.Decimal("1.50"), raw=b"\x00\x01", note='a "b", \\N\nc'))
    run(world, database, rows(5, day=day, price=decimal.Decimal("2.50"), raw=b"\x00\x01", note=None), occasion="2")
    sql.execute("SELECT id, day, price, note, raw, mood, stars, tags, status FROM answers ORDER BY id")
    found = sql.fetchall()
    assert len(found) == 5
    assert found[0][:4] == ("k0", day, decimal.Decimal("2.50"), None)
    assert bytes(found[0][4]) == b"\x00\x01"
    assert found[0][5:] == ("good", 4, ["a", "b"], "succeeded")


def test_texts_come_through_copy_as_they_are(world, database, sql):
    world.emulator.script(**answering(ANSWER))
    odd = ["", "\\N", 'a "quoted"\nline', "tab\t\\", "日本 🎉", "'; DROP TABLE answers; --"]
    run(world, database, [{"id": n, "word": "w", "note": text} for n, text in enumerate(odd)])
    sql.execute("SELECT note FROM answers ORDER BY id")
    found = [row[0] for row in sql.fetchall()]
    assert found[2:] == odd[2:]
    assert found[0] == ""


def test_rows_are_streamed_with_their_types(world, database, sql):
    world.emulator.script(**answering(ANSWER))
    sql.execute(
        "CREATE TABLE words AS SELECT n AS id, 'word-' || n || '-' AS word, n * 1.5::numeric(10,2) AS price, "
        "now() AS at, n % 2 = 0 AS even, jsonb_build_object('n', n) AS facts FROM generate_series(1, 2500) n"
    )
    connection = database()
    cursor = connection.cursor("stream")
    cursor.execute("SELECT * FROM words ORDER BY id")
    manifest = run(world, database, CursorSource(cursor))
    connection.close()
    assert manifest["succeeded"] == 2500
    sql.execute(
        "SELECT data_type FROM information_schema.columns WHERE table_name = 'answers' ORDER BY ordinal_position"
    )
    assert [row[0] for row in sql.fetchall()][:5] == [
        "bigint", "numeric", "timestamp with time zone", "boolean", "text",
    ]  # fmt: skip


def test_types_of_a_query_are_those_of_its_columns_not_of_tonights_values(world, database, sql):
    world.emulator.script(**answering(ANSWER))
    sql.execute(
        "CREATE TABLE words (id int, word text, price numeric(12,2), score float8, rate real, day date, "
        "at timestamptz, good boolean, code uuid, raw bytea, facts jsonb)"
    )
    types = []
    full = "1.1, 2, 2.5, '2026-01-02', now(), true, gen_random_uuid(), 'x', '3'"
    for night, values in enumerate((", ".join(["NULL"] * 9), full)):
        sql.execute(f"DELETE FROM words; INSERT INTO words VALUES (1, 'word-1-', {values})")
        connection = database()
        cursor = connection.cursor(f"stream_{night}")
        cursor.execute("SELECT * FROM words ORDER BY id")
        run(world, database, CursorSource(cursor), spec=spec_of(f"night_{night}"), occasion=str(night))
        connection.close()
        sql.execute(
            "SELECT column_name, data_type, numeric_precision, numeric_scale FROM information_schema.columns "
            f"WHERE table_name = 'night_{night}' ORDER BY ordinal_position LIMIT 10"
        )
        types.append(sql.fetchall())
    assert types[0] == types[1]
    assert [kind for _, kind, *_ in types[0]] == [
        "bigint", "numeric", "double precision", "double precision", "date", "timestamp with time zone", "boolean",
        "uuid", "bytea", "text",
    ]  # fmt: skip
    assert types[0][1][2:] == (12, 2)


def refused(world, database, why, source=None, **more):
    with pytest.raises(ConfigurationError, match=why):
        run(world, database, source or rows(2), **more)
    assert world.emulator.ledger()["totals"]["created"] == 0


def test_table_without_a_unique_index_is_refused_before_money(world, database, sql):
    world.emulator.script(**answering(ANSWER))
    run(world, database, rows(1))
    sql.execute("ALTER TABLE answers DROP CONSTRAINT answers_pkey")
    world.emulator.reset()
    refused(world, database, r"needs a unique index on \(id\)", occasion="2")


def test_table_without_a_column_is_refused_before_money(world, database, sql):
    sql.execute("CREATE TABLE answers (id text PRIMARY KEY, mood text)")
    refused(world, database, "has no column stars, tags, status")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("ALTER stars TYPE boolean USING NULL", "stars is of type boolean, and .* which is bigint"),
        ("ALTER tags TYPE text[] USING NULL", r"tags is of type text\[\], and .* which is jsonb"),
        ("ALTER mood TYPE varchar(3)", r"mood is of type character varying\(3\), and .* which is text"),
        ("ALTER answered_at TYPE date", ""),
        ("ALTER error_message TYPE varchar(20)", r"error_message is of type character varying\(20\)"),
        ("ALTER id TYPE integer USING 1", "id is of type integer, and .* which is text"),
        ("ALTER stars SET NOT NULL", "stars is NOT NULL, and a row without an answer has none"),
        ("ADD extra text NOT NULL", "extra is NOT NULL without a default, and the run does not write it"),
        ("ADD extra text NOT NULL DEFAULT ''", ""),
        ("ALTER mood TYPE varchar(4)", ""),
        ("ALTER stars TYPE smallint", ""),
        ("ALTER cost TYPE numeric(12,6)", ""),
        ("ALTER note TYPE varchar(8)", ""),
        ("ALTER note TYPE varchar(7)", r"note is of type character varying\(7\)"),
    ],
)
def test_table_of_other_types_is_refused_before_money_or_fits(world, database, sql, changes, said):
    world.emulator.script(**answering(ANSWER))
    run(world, database, rows(1, note="a note"))
    sql.execute(f"DELETE FROM answers; ALTER TABLE answers {changes}")
    world.emulator.reset()
    world.emulator.script(**answering(ANSWER))
    source = rows(3, note="12345678")
    if said:
        refused(world, database, said, occasion="2", source=source)
    else:
        assert run(world, database, source, occasion="2")["succeeded"] == 3


def test_value_that_no_check_foresees_names_its_column_and_not_itself(world, database, sql):
    world.emulator.script(**answering(ANSWER))
    run(world, database, rows(1))
    sql.execute("DELETE FROM answers; ALTER TABLE answers ALTER stars TYPE smallint")
    world.emulator.reset()
    world.emulator.script(**answering(ANSWER.replace("4", "123456")))
    with pytest.raises(GeminiBatchError, match=r"\(column stars\).* The answers are kept") as caught:
        run(world, database, [{"id": "other", "word": "another"}], occasion="2")
    assert "123456" not in str(caught.value)
    sql.execute("ALTER TABLE answers ALTER stars TYPE bigint")
    ran = world.rows_run()
    assert run(world, database, [{"id": "other", "word": "another"}], occasion="2")["succeeded"] == 1
    assert world.rows_run() == ran


def test_texts_that_a_table_reads_as_its_own_types_fit(world, database, sql):
    world.emulator.script(**answering(ANSWER))
    run(world, database, rows(1, day="2026-01-31"))
    sql.execute(
        "DELETE FROM answers; ALTER TABLE answers ALTER id TYPE integer USING 1, ALTER day TYPE date USING NULL"
    )
    source = [{"id": str(n), "word": f"word-{n}-", "day": "2026-01-31"} for n in range(3)]
    assert run(world, database, source, occasion="2")["succeeded"] == 3
    world.emulator.reset()
    refused(world, database, "day is of type date", occasion="3", source=[{**source[0], "day": "soon"}])


def test_strict_table_of_sqlite_is_refused_before_money(world):
    path = world.path("w.db")
    target = SqlTarget(lambda: sqlite3.connect(path), "sqlite")
    world.emulator.script(**answering(ANSWER))
    run(world, None, rows(1), target=target)
    with sqlite3.connect(path) as connection:
        [(made,)] = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'answers'")
        connection.execute("DROP TABLE answers")
        connection.execute(made.replace('"mood" TEXT', '"mood" INTEGER') + " STRICT")
    world.emulator.reset()
    refused(world, None, "mood is of type INTEGER, and .* which is TEXT", occasion="2", target=target)


def as_role(database, role):
    """Return a function that connects and takes a role."""

    def connect():
        connection = database()
        connection.cursor().execute(f"SET ROLE {role}")
        connection.commit()
        return connection

    return connect


def test_table_without_the_right_to_write_is_refused_before_money(world, database, sql):
    world.emulator.script(**answering(ANSWER))
    run(world, database, rows(1))
    world.emulator.reset()
    sql.execute(
        "DROP ROLE IF EXISTS reader; CREATE ROLE reader; GRANT USAGE ON SCHEMA public TO reader; "
        "GRANT SELECT ON answers TO reader"
    )

    target = SqlTarget(as_role(database, "reader"), "postgresql")
    refused(world, database, "cannot be written: permission denied", occasion="2", target=target)


def test_table_that_is_locked_is_no_error_for_good(world, database, sql):
    world.emulator.script(**answering(ANSWER))
    run(world, database, rows(1))

    def impatient():
        connection = database()
        connection.cursor().execute("SET lock_timeout = 100")
        connection.commit()
        return connection

    holder = database()
    holder.cursor().execute("LOCK TABLE answers")
    try:
        with pytest.raises(GeminiBatchError, match="lock timeout") as caught:
            run(world, database, rows(1), occasion="2", target=SqlTarget(impatient, "postgresql"))
    finally:
        holder.close()
    assert not isinstance(caught.value, ConfigurationError)
    assert world.rows_run() == 1


def test_unknown_database_is_refused_by_name(database):
    with pytest.raises(ConfigurationError, match="cannot be in a mysql database"):
        SqlTarget(database, "mysql")


def test_write_that_fails_leaves_the_table_as_it_was(world, database, sql):
    world.emulator.script(**answering(ANSWER))
    run(world, database, rows(3))
    sql.execute("ALTER TABLE answers ADD CONSTRAINT small CHECK (id <> 'k7')")
    sql.execute("UPDATE answers SET mood = 'bad'")
    with pytest.raises(GeminiBatchError, match="nothing was changed") as failure:
        run(world, database, rows(9), occasion="2")
    assert "word-7-" not in str(failure.value)
    sql.execute("SELECT count(*), min(mood) FROM answers")
    assert sql.fetchone() == (3, "bad")
    sql.execute("ALTER TABLE answers DROP CONSTRAINT small")
    assert run(world, database, rows(9), occasion="2")["succeeded"] == 9


KINDS = {
    "ubigint": "18446744073709551615::UBIGINT", "kind": "'a'::ENUM('a','b')", "uid": "uuid()", "at": "TIME '10:11:12'",
    "zoned": "'10:11:12+02'::TIMETZ", "seconds": "'2026-01-02 03:04:05'::TIMESTAMP_S", "pause": "INTERVAL 3 DAY",
    "moment": "TIMESTAMPTZ '2026-01-02 03:04:05+02'", "raw": "'\\x00\\x01'::BLOB", "price": "1.50::DECIMAL(10,2)",
    "exact": "12345678901234567890.12::DECIMAL(38,2)", "fixed": "[1,2]::INTEGER[2]", "either": "union_value(num := 2)",
    "lookup": "MAP {'a': 1}", "facts": "{'a': [TIMESTAMPTZ '2026-01-02 03:04:05+02']}", "bits": "'101'::BIT",
    "nothing": "NULL", "many": "(SELECT sum(x) FROM range(4) t(x))", "document": "'{\"a\": 1}'::JSON",
}  # fmt: skip


def all_kinds() -> QuerySource:
    shown = ", ".join(f"{value} AS {name}" for name, value in KINDS.items())
    return QuerySource(f"SELECT 'k' AS id, 'w' AS word, {shown}")


def test_value_of_each_type_comes_into_postgresql(world, database, sql):
    world.emulator.script(**answering(ANSWER))
    run(world, database, all_kinds())
    sql.execute(
        "SELECT ubigint, kind, zoned::text, exact::text, fixed, either->>'num', facts->'a', bits, many FROM answers"
    )
    assert sql.fetchone() == (
        decimal.Decimal("18446744073709551615"), "a", "08:11:12+00", "12345678901234567890.12", [1, 2], "2",
        ["2026-01-02 01:04:05+00"], "101", 6,
    )  # fmt: skip


def test_value_of_each_type_comes_into_sqlite(world):
    world.emulator.script(**answering(ANSWER))
    path = world.path("w.db")
    run(world, None, all_kinds(), target=SqlTarget(lambda: sqlite3.connect(path), "sqlite"))
    names = "ubigint, kind, zoned, exact, fixed, either, facts, bits, price, raw, many"
    assert sqlite3.connect(path).execute(f"SELECT {names} FROM answers").fetchone() == (
        "18446744073709551615", "a", "08:11:12+00", "12345678901234567890.12", "[1,2]", '{"element1":0,"num":2}',
        '{"a":["2026-01-02 01:04:05+00"]}', "101", 1.5, b"\x00\x01", 6,
    )  # fmt: skip


def test_table_that_may_be_written_and_not_read_is_refused_before_money(world, database, sql):
    world.emulator.script(**answering(ANSWER))
    run(world, database, rows(1))
    world.emulator.reset()
    sql.execute(
        "DROP ROLE IF EXISTS writer; CREATE ROLE writer; GRANT ALL ON SCHEMA public TO writer; "
        "GRANT INSERT, UPDATE ON answers TO writer"
    )
    target = SqlTarget(as_role(database, "writer"), "postgresql")
    refused(world, database, "is there and cannot be read", occasion="2", target=target)


def test_role_that_may_make_no_temporary_table_is_refused_before_money(world, database, sql):
    world.emulator.script(**answering(ANSWER))
    run(world, database, rows(1))
    world.emulator.reset()
    sql.execute(
        "DROP ROLE IF EXISTS bare; CREATE ROLE bare; GRANT USAGE ON SCHEMA public TO bare; "
        "GRANT SELECT, INSERT, UPDATE ON answers TO bare"
    )
    sql.execute("REVOKE TEMPORARY ON DATABASE postgres FROM PUBLIC")
    try:
        target = SqlTarget(as_role(database, "bare"), "postgresql")
        refused(
            world, database, "cannot be written: permission denied to create temporary", occasion="2", target=target
        )
    finally:
        sql.execute("GRANT TEMPORARY ON DATABASE postgres TO PUBLIC")


def test_unique_index_that_carries_other_columns_along_does(world, database, sql):
    world.emulator.script(**answering(ANSWER))
    run(world, database, rows(1))
    sql.execute(
        "ALTER TABLE answers DROP CONSTRAINT answers_pkey; CREATE UNIQUE INDEX own ON answers (id) INCLUDE (mood)"
    )
    assert run(world, database, rows(2), occasion="2")["succeeded"] == 2


def test_either_driver_of_postgresql_will_do(world, database, sql):
    psycopg = pytest.importorskip("psycopg")
    world.emulator.script(**answering(ANSWER))
    connection = database()
    told = connection.get_dsn_parameters() | {"password": connection.info.password}
    connection.close()

    def connect():
        names = ("host", "port", "user", "password", "dbname")
        return psycopg.connect(**{name: told[name] for name in names})

    odd = rows(3, note='a "b", \\N\nc', nothing=None, raw=b"\x00\x01")
    for occasion in ("1", "2"):
        manifest = run(world, database, odd, occasion=occasion, target=SqlTarget(connect, "postgresql"))
    assert manifest["counts"] == {"succeeded": 3}
    sql.execute("SELECT id, note, nothing, raw, tags FROM answers ORDER BY id LIMIT 1")
    key, note, nothing, raw, tags = sql.fetchone()
    assert (key, note, nothing, bytes(raw), tags) == ("k0", 'a "b", \\N\nc', None, b"\x00\x01", ["a", "b"])
    with connect() as other, other.cursor("stream") as cursor:
        cursor.execute("SELECT id, note AS word FROM answers ORDER BY id")
        manifest = run(
            world,
            database,
            CursorSource(cursor),
            spec=spec_of("others"),
            target=SqlTarget(connect, "postgresql"),
            occasion="3",
        )
    assert manifest["total"] == 3


def test_page_reads_a_table_and_cannot_write_to_it(sql, database):
    sql.execute(
        "CREATE TABLE answers (id int PRIMARY KEY, said jsonb, status text, error_message text, finish_reason text, "
        'model_version text, answered_at timestamptz DEFAULT now(), "share % s" int)'
    )
    sql.execute(
        """INSERT INTO answers SELECT n, '{"mood": "100% Glad"}',
        CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'succeeded' END, NULL, 'STOP', 'flash-001'
        FROM generate_series(1, 700) n"""
    )
    connection = database()
    only_read(connection, "postgresql", 5)
    with connection.cursor() as cursor:
        found = page_of(cursor, "public.answers", Wanted("failing", "100% glad", page=2))
        assert [row["id"] for row in found.rows] == list(range(510, 701, 10))
        assert not found.more
        assert len(page_of(cursor, "answers", Wanted(version="flash-001")).rows) == 50
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            cursor.execute("DELETE FROM answers")
    connection.rollback()
    only_read(connection, "postgresql", 1)
    with connection.cursor() as cursor, pytest.raises(psycopg2.errors.QueryCanceled):
        cursor.execute("SELECT pg_sleep(30)")
    connection.close()
