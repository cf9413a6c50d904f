# SPDX-License-Identifier: Apache-2.0
"""
A hundred inputs and arguments that cannot work: one clear error each, before a job is created.

Each case is a run's arguments, and what its error has to say: the argument, column, row or line, and what is wrong.
"""

from __future__ import annotations

import datetime
import gzip
import json
import math
import os
import sqlite3
from typing import TYPE_CHECKING, Any

import polars
import pytest

from airflow_provider_gemini_batch.compat import AirflowNotFoundException
from airflow_provider_gemini_batch.errors import ConfigurationError, InputNotFoundError, RequestRejectedError
from airflow_provider_gemini_batch.operators import RunBatchOperator, RunEmbeddingBatchOperator
from airflow_provider_gemini_batch.operators.base import InvalidInputError
from airflow_provider_gemini_batch.rows import line_batches
from airflow_provider_gemini_batch.run.spec import META
from tests.run.world import MODEL, rows
from tests.support.airflow_side import attempt, set_connection

if TYPE_CHECKING:
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

GOOD = rows(3)
SCHEMA = {"type": "object", "properties": {"grade": {"type": "integer"}}, "required": ["grade"]}


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def row(**members: Any) -> list[dict[str, Any]]:
    """Return rows of which the last is not like the others."""
    return [*GOOD, {"id": "last", "word": "w", **members}]


def text(name: str, content: str | bytes) -> dict[str, Any]:
    """Return arguments for an input file of this name and content."""
    return {"file": (name, content.encode() if isinstance(content, str) else content)}


LINES = "".join(json.dumps(each) + "\n" for each in GOOD)
TABLE = "id,word\nk0,a\nk1,b\n"
CLASSES: dict[str, type[Any]] = {"generate": RunBatchOperator, "embed": RunEmbeddingBatchOperator}

ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"model": ""}, r"model must name a Gemini model, not ''"),
    "a model that is a number": ({"model": 5}, r"model must name a Gemini model, not 5"),
    "nowhere to write": ({"output_path": None}, r"give output_path or output_table"),
    "a table without a connection": ({"output_table": "t"}, r"output_table needs output_conn_id"),
    "a table without a key": ({"output_table": "t", "output_conn_id": "db", "key": None}, r"output_table needs key"),
    "no source": ({"rows": None}, r"exactly one of rows, input_path and sql, not none of them"),
    "two sources": ({"input_path": "in.csv"}, r"exactly one of rows, input_path and sql, not rows and input_path"),
    "three sources": ({"input_path": "a", "sql": "SELECT 1"}, r"not rows and input_path and sql"),
    "a prompt that is no text": ({"prompt": 5}, r"prompt must be a Jinja template, not 5"),
    "a prompt that breaks off": ({"prompt": "Say\n{{ row.word"}, r"prompt: line 2"),
    "an unknown filter": ({"prompt": "{{ row.word | shout }}"}, r"prompt: line 1: No filter named 'shout'"),
    "a column that is not there": ({"prompt": "{{ row.wrod }}"}, r"prompt uses the column wrod, .* it has id, word"),
    "a variable that differs between attempts": ({"prompt": "{{ ti.try_number }}"}, r"prompt uses 'ti'"),
    "a column without its row": ({"prompt": "{{ word }}"}, r"write \{\{ row.word \}\}"),
    "a key that is not there": ({"key": "nr"}, r"key names 'nr', which the input does not have; it has id, word"),
    "one key of two that is not there": ({"key": ["id", "nr"]}, r"key names 'nr'"),
    "a key twice": ({"key": ["id", "id"]}, r"key names a column twice"),
    "a key without a name": ({"key": ["id", ""]}, r"key must name columns, not ''"),
    "a key that is a number": ({"key": 5}, r"key must be a column's name or a list of names, not 5"),
    "a kept column that is not there": ({"keep_columns": ["wrod"]}, r"keep_columns names 'wrod'"),
    "a kept column twice": ({"keep_columns": ["word", "word"]}, r"keep_columns names a column twice"),
    "kept columns that are a number": ({"keep_columns": 1}, r"keep_columns must be a column's name or a list"),
    "a prefix that is no text": ({"meta_prefix": 5}, r"meta_prefix must be a text, not 5"),
    "no attempts": ({"max_row_attempts": 0}, r"max_row_attempts must be a whole number above 0, not 0"),
    "half a job": ({"max_jobs": 0.5}, r"max_jobs must be a whole number above 0, not 0.5"),
    "jobs without rows": ({"rows_per_job": 0}, r"rows_per_job must be a whole number above 0, not 0"),
    "a sample that is true": ({"sample": True}, r"sample must be a whole number above 0, not True"),
    "tokens below none": ({"max_input_tokens": -1}, r"max_input_tokens must be a whole number above 0, not -1"),
    "cost below none": ({"max_cost": -0.5}, r"max_cost must be a number, 0 or more, not -0.5"),
    "cost as a text": ({"max_cost": "5 $"}, r"max_cost must be a number, 0 or more, not '5 \$'"),
    "a tier that is none": ({"retry_tier": "fast"}, r"retry_tier must be batch or flex, not 'fast'"),
    "vectors without a text": ({"class": "embed", "text": None}, r"Give text, a template for each row"),
    "failed rows below none": ({"max_failed_rows": -1}, r"max_failed_rows"),
    "failed rows as a share above one": ({"max_failed_rows": 1.5}, r"max_failed_rows"),
    "a reuse that is a number": ({"reuse_answers": 5}, r"reuse_answers must be a path or a list of paths, not 5"),
    "an age below none": ({"reuse_max_age": -5}, r"reuse_max_age"),
    "an age as a text": ({"reuse_max_age": "a week"}, r"reuse_max_age"),
    "a time limit below none": ({"timeout": -1}, r"timeout"),
    "a pause that is a text": ({"poll_interval": "often"}, r"poll_interval"),
    "an empty input that may be what": ({"on_empty_input": "pass"}, r"on_empty_input must be fail or skip, not 'pass'"),
    "errors in a folder": ({"errors_path": "errors"}, r"errors_path must end in \.jsonl, \.csv or \.parquet"),
    "settings that are a text": ({"generation_config": "hot"}, r"generation_config must be a dict"),
    "a setting that is none": ({"generation_config": {"temprature": 1}}, r"temprature"),
    "labels that are a list": ({"labels": ["a"]}, r"labels"),
    "a priority that is a text": ({"priority": "high"}, r"priority"),
    "rows that are a text": ({"rows": "in.csv"}, r"rows must be a list of dicts, not str; for a file: input_path"),
    "rows that are a dict": ({"rows": {"id": 1}}, r"rows must be a list of dicts, not dict"),
    "rows that are a number": ({"rows": 5}, r"rows must be a list of dicts, not int"),
    "no rows": ({"rows": []}, r"no rows"),
    "an unknown format": ({**text("in.csv", TABLE), "input_format": "xml"}, r"input_format must be .* not 'xml'"),
}

SCHEMAS: dict[str, tuple[dict[str, Any], str]] = {
    "a schema that is a text": ({"response_schema": "{}"}, r"response_schema must be a JSON Schema as a dict"),
    "a type that is none": ({"response_schema": schema(a={"type": "int"})}, r"response_schema.properties.a.type"),
    "a type in capitals": ({"response_schema": schema(a={"type": "STRING"})}, r"in lower case, not 'STRING'"),
    "a member that neither backend takes": (
        {"response_schema": schema(a={"type": "string", "x-check": 1})},
        r"properties.a: neither backend takes 'x-check'",
    ),
    "properties that are a list": ({"response_schema": {"type": "object", "properties": ["a"]}}, r"must be a dict of"),
    "a property that is a type": ({"response_schema": schema(a="string")}, r"properties.a must be a schema \(a dict\)"),
    "a required name that is none": (
        {"response_schema": {**SCHEMA, "required": ["grade", "why"]}},
        r"required names 'why', which properties",
    ),
    "an enum without values": (
        {"response_schema": schema(a={"type": "string", "enum": []})},
        r"a\.enum must be a list",
    ),
    "a property without a name": ({"response_schema": schema(**{"": {"type": "string"}})}, r"properties: a name must"),
    "a reference to nothing": ({"response_schema": schema(a={"$ref": "#/$defs/A"})}, r"there is no #/\$defs/A"),
    "a schema within itself": (
        {"response_schema": {"$defs": {"A": schema(a={"$ref": "#/$defs/A"})}, **schema(a={"$ref": "#/$defs/A"})}},
        r"recursive",
    ),
    "two schemas": (
        {"response_schema": SCHEMA, "generation_config": {"responseSchema": SCHEMA}},
        r"response_schema or responseSchema",
    ),
    "a member called as an input column": (
        {"response_schema": schema(word={"type": "string"}), "keep_columns": ["word"]},
        r"'word' \(response_schema\) and 'word' \(keep_columns\)",
    ),
    "a member called as one of ours": ({"response_schema": schema(status={"type": "string"})}, r"set meta_prefix"),
    "a column called as one of ours": ({"rows": row(status="x")}, r"'status' .* leave one out by keep_columns"),
    "columns that differ in case": ({"rows": row(WORD="x")}, r"'WORD' and 'word' differ in case alone"),
}

ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "a row that is no dict": ({"rows": [*GOOD, "k3"]}, r"rows: row 4 must be a dict, not 'k3'"),
    "a frame of Polars": ({"rows": polars.DataFrame(GOOD)}, r"not a DataFrame: give rows=frame\.to_dicts\(\)"),
    "a row that is null": ({"rows": [*GOOD, None]}, r"rows: row 4 must be a dict, not None"),
    "a column without a name": ({"rows": row(**{"": 1})}, r"row 4: a column's name must be a text"),
    "a column named by a number": ({"rows": [*GOOD, {1: 2}]}, r"row 4: a column's name must be a text .* not 1"),
    "the same key twice": ({"rows": [*GOOD, GOOD[0]]}, r"The key \(id\) must be unique, and is not: .*k0"),
    "the same keys twice": (
        {"rows": [*row(n=1), {"id": "last", "word": "v", "n": 1}], "key": ["id", "n"]},
        r"must be unique|is null",
    ),
    "a key that is null": ({"rows": row(id=None)}, r"row 4: the key column 'id' is null"),
    "a row without its key": ({"rows": [*GOOD, {"word": "w"}]}, r"row 4: the key column 'id' is null"),
    "a number that is none": ({"rows": row(n=math.nan)}, r"row 4: column 'n' holds nan"),
    "a number that is none within a list": ({"rows": row(n=[1.0, {"m": (math.nan,)}])}, r"row 4: column 'n' holds nan"),
    "an endless number": ({"rows": row(n=math.inf)}, r"row 4: column 'n' holds inf"),
    "a set": ({"rows": row(n={1, 2})}, r"row 4: column 'n' holds set"),
    "an object": ({"rows": row(n=object())}, r"row 4: column 'n' holds object"),
    "a nested object": ({"rows": row(n={"a": [object()]})}, r"row 4"),
    "half a character": ({"rows": row(word="\ud800")}, r"row 4.*(Unicode|JSON)"),
    "values of several types": (
        {"rows": [*row(n=1), {"id": "z", "word": "w", "n": "one"}], "prompt": "{{ row.n }}"},
        r"column 'n' holds values of several types",
    ),
    "a time among numbers": (
        {"rows": [*row(n=1), {"id": "z", "word": "w", "n": datetime.date(2026, 1, 1)}]},
        r"several types",
    ),
    "a template that fails in one row": (
        {
            "rows": [*({**each, "n": 1} for each in GOOD), {"id": "last", "word": "w", "n": 0}],
            "prompt": "{{ 10 // row.n }}",
        },
        r"row 4 \(key 'last'\): the prompt's template fails",
    ),
    "a prompt that is empty in one row": ({"rows": row(word="  "), "prompt": "{{ row.word }}"}, r"row 4 .* is empty"),
    "no prompt and no requests": ({"prompt": None}, r"Give prompt, a template for each row, or rows with"),
    "a request that is none": (
        {"prompt": None, "rows": [{"id": "a", "request": {"contnts": []}}]},
        r"contnts|contents",
    ),
    "a request that is a text": ({"prompt": None, "rows": [{"id": "a", "request": "say"}]}, r"row 1|request"),
}

FILES: dict[str, tuple[dict[str, Any], str]] = {
    "a key that is no number": (
        {"rows": None, "sql": "SELECT 'nan'::DOUBLE AS id, 'w' AS word"},
        r"row 1: .* 'id' is nan",
    ),
    "a CSV file with semicolons": (text("in.csv", "id;word\nk0;a\n"), r"it has 'id;word' alone: .* delim=';'"),
    "a CSV file with tabs": (text("in.csv", "id\tword\nk0\ta\n"), r"alone: .* give input_format='tsv'"),
    "a CSV file with blanks around names": (text("in.csv", "id, word\nk0, a\n"), r"it has id, ' word'\."),
    "an archive": (text("in.zip", b"PK"), r"in\.zip.* have to be converted first"),
    "a query of blanks": ({"rows": None, "sql": " ;"}, r"sql must be a query, .* not ' ;'"),
    "a file that is not there": ({"input_path": "{folder}/none.csv"}, r"There is no file .*none\.csv"),
    "lines that are not there": ({"input_path": "{folder}/none.jsonl"}, r"There is no file .*none\.jsonl"),
    "a folder without files": ({"input_path": "{folder}/empty"}, r"There is no file .*empty"),
    "a pattern that fits nothing": ({"input_path": "{folder}/*.tsv"}, r"There is no file .*\*\.tsv"),
    "a file of another kind": (text("in.docx", TABLE), r"in\.docx"),
    "files of two kinds": ({"files": {"a.csv": TABLE, "b.jsonl": LINES}}, r"files of several formats: csv, jsonl"),
    "an empty CSV file": (text("in.csv", ""), r"in\.csv.* is empty: a CSV file begins with a line of column names"),
    "a CSV file with a header alone": (text("in.csv", "id,word\n"), r"no rows"),
    "a CSV file with a column twice": (text("in.csv", "id,word,word\nk0,a,b\n"), r"word"),
    "a CSV file with a column without a name": (text("in.csv", "id,word,\nk0,a,b\n"), r"in\.csv"),
    "a CSV line that is too long": (text("in.csv", TABLE + "k2,c,d,e\n"), r"(?s)in\.csv.*(line|row)\D*4|k2,c,d,e"),
    "a CSV line that is too short": (text("in.csv", TABLE + "k2\n"), r"(?s)in\.csv.*(line|row)\D*4|k2"),
    "a CSV file that is not UTF-8": (text("in.csv", b"id,word\nk0,caf\xe9\n"), r"(?i)in\.csv.*(utf|unicode|encod)"),
    "a CSV file in UTF-16": (text("in.csv", TABLE.encode("utf-16")), r"in\.csv"),
    "a CSV quote that does not end": (text("in.csv", TABLE + 'k2,"c\n'), r"in\.csv"),
    "a line that is no JSON": (text("in.jsonl", LINES + "{word}\n"), r"in\.jsonl: line 4 is no JSON"),
    "a line that is a list": (text("in.jsonl", LINES + "[1]\n"), r"in\.jsonl: line 4 must be a JSON object, not list"),
    "a line that breaks off": (text("in.jsonl", LINES + '{"id": "x'), r"in\.jsonl: line 4 is no JSON"),
    "a JSON list": (text("in.jsonl", json.dumps(GOOD, indent=1)), r"in\.jsonl: line 1"),
    "JSON lines with a null key": (text("in.jsonl", LINES + '{"word": "w"}\n'), r"row 4: the key column 'id' is null"),
    "keys twice over parts": ({"files": {"a.jsonl": LINES, "b.jsonl": LINES}}, r"The key \(id\) must be unique.*k0"),
    "parts with other columns": ({"files": {"a.csv": TABLE, "b.csv": "nr,word\nk5,a\n"}}, r"b\.csv|nr|null"),
    "a Parquet file that is none": (text("in.parquet", b"PAR1 or not"), r"in\.parquet"),
    "a gzip that breaks off": (text("in.jsonl.gz", gzip.compress(LINES.encode())[:-9]), r"in\.jsonl\.gz"),
    "a gzip that is none": (text("in.csv.gz", TABLE), r"in\.csv\.gz"),
    "a query that is none": ({"rows": None, "sql": "SELEC 1"}, r"sql: .*SELEC"),
    "a query over nothing": ({"rows": None, "sql": "SELECT * FROM read_csv('none.csv')"}, r"sql: .*none\.csv"),
    "a query that returns nothing": ({"rows": None, "sql": "SELECT 'a' AS id, 'b' AS word WHERE false"}, r"no rows"),
    "a connection that is not there": ({"rows": None, "sql": "SELECT 1", "sql_conn_id": "none"}, r"none"),
    "a table of the database that is not there": (
        {"rows": None, "sql": "SELECT * FROM no_table", "sql_conn_id": "db"},
        r"sql over db: no such table: no_table",
    ),
}

TARGETS: dict[str, tuple[dict[str, Any], str]] = {
    "a folder that is a file": ({"output_path": "{folder}/plain/out.parquet"}, r"plain.* is a file, no folder|plain"),
    "errors in the output by another name": (
        {"output_path": "{folder}/out.csv", "errors_path": "{folder}/empty/../out.csv"},
        r"output_path and errors_path are both .*out\.csv",
    ),
    "an output that is a directory": ({"output_path": "{folder}/empty.csv"}, r"empty\.csv"),
    "a target table without a unique index": (
        {"output_table": "plain", "output_conn_id": "db", "output_path": None},
        r"plain.*(unique|UNIQUE)",
    ),
    "a target table without our columns": (
        {"output_table": "narrow", "output_conn_id": "db", "output_path": None},
        r"The table narrow has no column text, status",
    ),
    "a target connection that is not there": (
        {"output_table": "t", "output_conn_id": "none", "output_path": None},
        r"none",
    ),
    "a target of another database": (
        {"output_table": "t", "output_conn_id": "other", "output_path": None},
        r"http|mysql|database",
    ),
}

SAYS: dict[str, str] = {
    "a prompt that breaks off": r"prompt: line 2: unexpected end of template, .*'\.$",
    "a variable that differs between attempts": r"prompt uses 'ti': it differs between attempts or is a secret",
    "one key of two that is not there": r"key names 'nr', which the input does not have; it has id, word",
    "failed rows below none": r"max_failed_rows must be a count \(int\) or a share below 1 \(float\), not -1",
    "failed rows as a share above one": r"max_failed_rows=1\.5 is neither a share below 1 nor a whole number",
    "an age below none": r"reuse_max_age must be seconds above 0 .* or a timedelta, not -5",
    "an age as a text": r"reuse_max_age must be seconds above 0 .* not 'a week'",
    "a time limit below none": r"^timeout must be seconds above 0 .* not -1",
    "a pause that is a text": r"poll_interval must be seconds above 0 .* not 'often'",
    "a setting that is none": r"INVALID_ARGUMENT.*no such field: 'temprature'",
    "labels that are a list": r"labels must be a dict, not list",
    "a priority that is a text": r"priority must be a whole number, not 'high'",
    "no rows": r"The input has no rows.*on_empty_input",
    "a schema within itself": r"properties\.a\.properties\.a: #/\$defs/A is recursive",
    "a member called as one of ours": r"'status' \(our own\) and 'status' \(response_schema\).*set meta_prefix",
    "a nested object": r"rows: row 4: cannot be written as JSON \(Encoding objects of type object",
    "half a character": r"rows: row 4: cannot be written as JSON .*surrogates not allowed",
    "a time among numbers": r"'n' holds .* integer \(rows: row 4\) and date \(rows: row 5\)\. Convert them",
    "a prompt that is empty in one row": r"row 4 \(key 'last'\): the prompt is empty; leave such rows out",
    "a request that is none": r"row 1 \(key 'row-1'\): 'request' has no 'contents'",
    "a request that is a text": r"row 1 \(key 'row-1'\): 'request' must be an object, not a string",
    "a file that is not there": r"on host .* Every worker has to see this path: .* A retry looks again",
    "lines that are not there": r"on host .* Every worker has to see this path: .* A retry looks again",
    "a folder without files": r"on host .* Every worker has to see this path: .* A retry looks again",
    "a pattern that fits nothing": r"on host .* Every worker has to see this path: .* A retry looks again",
    "a file of another kind": r"format of .*in\.docx.* give input_format \(jsonl, csv, tsv or parquet\)",
    "a CSV file with a header alone": r"The input has no rows.*on_empty_input",
    "a CSV file with a column twice": r"in\.csv: the column 'word' is there twice; rename one",
    "a CSV file with a column without a name": r"in\.csv: a column has no name",
    "a CSV line that is too long": r"in\.csv: .*Line: 4 .*k2,c,d,e .*Columns: 2 Found: 3",
    "a CSV line that is too short": r"in\.csv: .*Line: 4 .*k2 .*Columns: 2 Found: 1",
    "a CSV file that is not UTF-8": r"in\.csv.* is not UTF-8 .*: convert it first",
    "a CSV file in UTF-16": r"in\.csv.* is not UTF-8 .*: convert it first",
    "a CSV quote that does not end": r"in\.csv: .*Line: 4 .*unterminated quote",
    "a JSON list": r"in\.jsonl: line 1 is no JSON",
    "parts with other columns": r"b\.csv.* has the columns nr, word, and .*a\.csv.* has id, word",
    "a Parquet file that is none": r"in\.parquet: [^\n]*too small to be a Parquet file$",
    "a gzip that breaks off": r"in\.jsonl\.gz.* cannot be unpacked: .*ended before",
    "a gzip that is none": r"in\.csv\.gz.* cannot be unpacked: Not a gzipped file",
    "a query that is none": r"sql: Parser Error: .*SELEC 1",
    "a query over nothing": r"sql: IO Error: No files found .*none\.csv",
    "a query that returns nothing": r"The input has no rows.*on_empty_input",
    "a connection that is not there": r"conn_id .none. isn't defined",
    "an output that is a directory": r"empty\.csv.* cannot be written: it is a directory or a device",
    "a target table without a unique index": r"The table plain needs a unique index on \(id\) and nothing else",
    "a target connection that is not there": r"conn_id .none. isn't defined",
    "a target of another database": r"cannot be in a http database.*Write Parquet by output_path",
}
"""Cases -> the whole of what their error says: where it is, what is wrong, and the way out."""

CLASS_OF: dict[str, type[Exception]] = {
    "a file that is not there": InputNotFoundError,
    "lines that are not there": InputNotFoundError,
    "a folder without files": InputNotFoundError,
    "a pattern that fits nothing": InputNotFoundError,
    "a setting that is none": RequestRejectedError,
    "a connection that is not there": AirflowNotFoundException,
    "a target connection that is not there": AirflowNotFoundException,
}
"""Cases whose error is not of the input: the service or Airflow says it, or a retry may find it."""

CASES = {**ARGUMENTS, **SCHEMAS, **ROWS, **FILES, **TARGETS}


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    path = tmp_path / "warehouse.db"
    with sqlite3.connect(path) as database:
        database.execute(f"CREATE TABLE plain (id TEXT, word TEXT, text TEXT, {', '.join(META)})")
        database.execute("CREATE TABLE narrow (id TEXT PRIMARY KEY)")
    set_connection(monkeypatch, {"conn_type": "sqlite", "host": str(path)}, "db")
    set_connection(monkeypatch, {"conn_type": "http", "host": "h.example"}, "other")
    gemini_batch_emulator.script(mode="at_once")
    return gemini_batch_emulator


def operator(given: dict[str, Any], folder: Path) -> Any:
    """Make the operator of a case; good arguments stand for those that the case leaves out."""
    (folder / "empty").mkdir()
    (folder / "empty.csv").mkdir()
    (folder / "plain").write_text("")
    arguments = {"rows": GOOD, "output_path": str(folder / "out.parquet"), "key": "id", "deferrable": False, **given}
    if arguments["output_path"] is None:
        arguments["checkpoint_path"] = str(folder / "checkpoint")
    kind = arguments.pop("class", "generate")
    arguments = {"model": MODEL, "prompt" if kind == "generate" else "text": "Say {{ row.word }}", **arguments}
    if "file" in arguments:
        name, content = arguments.pop("file")
        (folder / name).write_bytes(content)
        arguments |= {"rows": None, "input_path": str(folder / name)}
    if "files" in arguments:
        (folder / "in").mkdir()
        for name, content in arguments.pop("files").items():
            (folder / "in" / name).write_text(content)
        arguments |= {"rows": None, "input_path": str(folder / "in")}
    for name in ("input_path", "output_path", "errors_path"):
        if isinstance(path := arguments.get(name), str) and "{folder}" in path:
            arguments[name] = path.replace("{folder}", str(folder))
            arguments["rows"] = None if name == "input_path" else arguments["rows"]
    return CLASSES[kind](task_id="run", **arguments)


def test_there_are_a_hundred_cases() -> None:
    assert len(CASES) >= 100


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_told_before_a_job_is_created(emulator: EmulatorHandle, tmp_path: Path, case: str) -> None:
    given, said = CASES[case]
    with pytest.raises(CLASS_OF.get(case, InvalidInputError), match=f"(?s){SAYS.get(case, said)}"):
        operator(given, tmp_path).execute(attempt())
    assert emulator.ledger()["totals"]["created"] == 0


def test_rows_of_ten_thousand_columns_are_told_to_be_fewer(world):
    names = ",".join(f"c{n}" for n in range(10_000))
    values = ",".join(map(str, range(10_000)))
    (world.folder / "wide.csv").write_text(f"id,word,{names}\n1,one,{values}\n")
    with pytest.raises(ConfigurationError, match=r"very many columns.* Leave out what the prompt"):
        world.attempt(world.spec(), world.path("wide.csv"))
    assert world.emulator.ledger()["totals"]["created"] == 0


@pytest.mark.parametrize("start", [b'{"id": 1, "word": "', b""])
def test_a_line_without_an_end_is_refused_while_it_is_read(world, monkeypatch, start):
    monkeypatch.setattr(line_batches, "MAX_LINE_BYTES", 1 << 20)
    path = world.folder / "in.jsonl"
    path.write_bytes(b'{"id": 0, "word": "a"}\n' + start)
    os.truncate(path, 80 << 20)
    with pytest.raises(ConfigurationError, match=r"in\.jsonl: line 2: it is longer than 1,048,576 bytes"):
        world.attempt(world.spec(), world.path("in.jsonl"))


def test_byte_that_is_no_text_far_inside_names_its_line(world):
    lines = b"".join(b"%d,x\n" % n for n in range(3000))
    (world.folder / "in.csv").write_bytes(b"id,word\n" + lines + b"9999,caf\xe9\n")
    with pytest.raises(ConfigurationError, match=r"Line: 3002 .* not utf-8 encoded\.$"):
        world.attempt(world.spec(), world.path("in.csv"))
