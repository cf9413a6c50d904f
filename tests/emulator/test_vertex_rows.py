# SPDX-License-Identifier: Apache-2.0
"""What a Vertex AI job of the emulator reads and writes: importer, output lines, shards, embeddings, BigQuery."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gemini_batch_emulator.bigquery import table_store
from gemini_batch_emulator.storage import object_store
from tests.support.discovery import schema_problems, schemas_of
from tests.support.emulator_serving import PROJECT, Served, generate_row

TABLES = f"/bigquery/v2/projects/{PROJECT}/datasets/emulator/tables"


def nested(levels: int) -> Any:
    return {"a": nested(levels - 1)} if levels else "leaf"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"key": "b", "request": {"contents": {"role": "user"}}}, "Repeated field must be imported as a JSON array"),
        ({"key": {"a": 1}, "request": {}}, "not a record"),
        ({"key": "b", "request": {"contents": [], "x": nested(15)}}, "nested too deeply"),
        ({"key": "b", "request": {"contents": [], "$defs": {"a": 1}}}, "Invalid field name"),
        ({"key": "b", "my key": 1, "request": {"contents": []}}, "Invalid field name"),
        ({"key": "b", "request": {"contents": [], "tools": [{"google_search": {}}]}}, "empty struct"),
        ({"key": "b", "request": {"contents": [], "enum": None}}, "must not be null"),
        ("not json", "JSON parsing error"),
    ],
)
def test_one_row_against_the_importers_rules_fails_the_job(served: Served, row: Any, text: str) -> None:
    uri = served.put("in.jsonl", [generate_row("a"), row])
    job = served.ended(served.create(uri)["name"])
    assert job["state"] == "JOB_STATE_FAILED"
    assert job["error"]["code"] == 3
    assert job["error"]["message"].startswith("Failed to import data. Please check 'Prepare input'")
    assert text in job["error"]["message"]
    assert "completionStats" not in job
    assert served.state.ledger()["totals"]["billed_rows"] == 0


def test_fifteen_levels_and_nulls_elsewhere_are_fine(served: Served) -> None:
    row = generate_row("a", x=nested(14), y=None)
    assert served.ended(served.create(served.put("in.jsonl", [row]))["name"])["state"] == "JOB_STATE_SUCCEEDED"


def test_empty_inputs_and_too_many_rows_fail(served: Served) -> None:
    empty = served.ended(served.create(served.put("empty.jsonl", [""]))["name"])
    assert empty["error"]["code"] == 3
    served.state.configure({"extra": {"vertex_max_rows": 2}})
    uri = served.put("in.jsonl", [generate_row(str(number)) for number in range(3)])
    assert "at most 2" in served.ended(served.create(uri)["name"])["error"]["message"]


def test_missing_buckets_and_objects_fail_late_with_code_9(served: Served) -> None:
    for uri in ("gs://nowhere/in.jsonl", "gs://emulator/nothing.jsonl"):
        job = served.create(uri)
        assert job["state"] == "JOB_STATE_PENDING"
        assert served.ended(job["name"])["error"]["code"] == 9
    message = served.ended(served.create("gs://nowhere/in.jsonl")["name"])["error"]["message"]
    assert message.startswith("Failed to get GCS bucket location for nowhere")


def test_an_unwritable_output_fails_after_the_rows_ran(served: Served) -> None:
    object_store(served.state).create_bucket("readonly")
    served.state.configure({"unwritable_buckets": ["readonly"]})
    target = {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": "gs://readonly/out"}}
    uri = served.put("in.jsonl", [generate_row("a"), generate_row("b")])
    job = served.ended(served.create(uri, outputConfig=target)["name"])
    assert job["error"]["code"] == 7
    assert "storage.objects.create" in job["error"]["message"]
    assert "predictions.jsonl" in job["error"]["message"]
    assert job["completionStats"] == {"successfulCount": "2"}
    assert "gcsOutputDirectory" in job["outputInfo"]


def test_a_result_row_has_status_request_response_and_its_siblings(served: Served) -> None:
    with_file = generate_row("b")
    with_file["request"]["contents"][0]["parts"].append({"fileData": {"fileUri": "gs://b/o", "mimeType": "x/y"}})
    rows = [generate_row("a") | {"custom": {"n": 1}, "tags": ["x"], "plain": "p"}, with_file]
    job = served.ended(served.create(served.put("in.jsonl", rows))["name"])
    row = {line["key"]: line for line in served.output(job)}["a"]
    assert row["status"] == ""
    assert row["processed_time"].endswith("+00:00")
    assert (row["custom"], row["tags"], row["plain"]) == ({}, [], "p")
    assert row["request"]["contents"] == [{"role": "user", "parts": [{"text": "hi", "fileData": None}]}]
    assert row["response"]["candidates"][0]["finishReason"] == "STOP"
    assert row["response"]["modelVersion"].endswith("@default")


def test_a_failed_row_has_its_error_as_text_and_the_job_succeeds(served: Served) -> None:
    served.state.add_script({"rows": [{"key": "b", "outcome": "error", "code": 3, "message": "no such role"}]})
    uri = served.put("in.jsonl", [generate_row("a"), generate_row("b")])
    job = served.ended(served.create(uri)["name"])
    assert job["state"] == "JOB_STATE_SUCCEEDED"
    assert job["completionStats"] == {"successfulCount": "1", "failedCount": "1"}
    row = {line["key"]: line for line in served.output(job)}["b"]
    assert "response" not in row
    prefix, _, text = row["status"].partition(": ")
    assert prefix == "Bad Request"
    assert json.loads(text) == {"error": {"code": 400, "message": "no such role", "status": "INVALID_ARGUMENT"}}
    served.state.configure({"extra": {"vertex_failed_response": "empty"}})
    served.state.add_script({"rows": [{"outcome": "error"}]})
    again = served.ended(served.create(uri)["name"])
    assert [line["response"] for line in served.output(again)] == [{}, {}]
    assert again["state"] == "JOB_STATE_SUCCEEDED"


def test_rows_are_shuffled_the_same_way_each_time(served: Served) -> None:
    keys = [f"k{number}" for number in range(50)]
    uri = served.put("in.jsonl", [generate_row(key) for key in keys])
    first, second = ([row["key"] for row in served.output(served.ended(served.create(uri)["name"]))] for _ in "ab")
    assert first == second
    assert first != keys
    assert sorted(first) == sorted(keys)
    served.state.configure({"vertex_shuffle": False})
    assert [row["key"] for row in served.output(served.ended(served.create(uri)["name"]))] == keys


def test_numeric_looking_siblings_become_numbers_when_told_so(served: Served) -> None:
    served.state.configure({"coerce_numeric_keys": True, "vertex_shuffle": False})
    uri = served.put("in.jsonl", [generate_row("000000"), generate_row("1.5")])
    assert [row["key"] for row in served.output(served.ended(served.create(uri)["name"]))] == [0, 1.5]
    # One type a column: a single other string keeps all of them strings.
    uri = served.put("in.jsonl", [generate_row("000000"), generate_row("x1")])
    assert [row["key"] for row in served.output(served.ended(served.create(uri)["name"]))] == ["000000", "x1"]


def test_ten_thousand_rows_in_four_shards_with_37_errors(served: Served) -> None:
    served.state.configure({"shards": 4})
    bad = {f"row-{number * 270}" for number in range(37)}
    served.state.add_script({"rows": [{"key": key, "outcome": "error", "code": 8} for key in sorted(bad)]})
    uri = served.put("in.jsonl", [generate_row(f"row-{number}", f"text {number}") for number in range(10_000)])
    job = served.ended(served.create(uri)["name"])
    assert job["completionStats"] == {"successfulCount": "9963", "failedCount": "37"}
    directory = job["outputInfo"]["gcsOutputDirectory"].removeprefix("gs://emulator/")
    names = object_store(served.state).names("emulator", directory)
    assert [name.rpartition("/")[2] for name in names] == [f"predictions_{n:05d}.jsonl" for n in range(1, 5)]
    rows = served.output(job)
    assert {row["key"] for row in rows} == {f"row-{number}" for number in range(10_000)}
    assert len(rows) == 10_000
    assert {row["key"] for row in rows if row["status"]} == bad
    assert all(row["status"].startswith("Too Many Requests: {") for row in rows if row["status"])


def test_missing_duplicate_extra_and_truncated_rows(served: Served) -> None:
    served.state.configure({"vertex_shuffle": False})
    served.state.add_script(
        {
            "rows": [{"key": "a", "outcome": "missing"}, {"key": "b", "outcome": "duplicate"}],
            "extra_keys": ["ghost"],
            "truncate_last_line": True,
        }
    )
    uri = served.put("in.jsonl", [generate_row(key) for key in "abc"])
    job = served.ended(served.create(uri)["name"])
    name = job["outputInfo"]["gcsOutputDirectory"].removeprefix("gs://emulator/") + "/predictions.jsonl"
    lines = object_store(served.state).read("emulator", name).decode().split("\n")
    assert [json.loads(line)["key"] for line in lines[:-1]] == ["b", "b", "c"]
    with pytest.raises(ValueError, match=r".+"):
        json.loads(lines[-1])


def test_several_objects_and_wildcards_are_one_input_unless_refused(served: Served) -> None:
    served.put("parts/1.jsonl", [generate_row("a")])
    served.put("parts/2.jsonl", [generate_row("b")])
    job = served.ended(served.create("gs://emulator/parts/*.jsonl")["name"])
    assert {row["key"] for row in served.output(job)} == {"a", "b"}
    served.state.configure({"several_uris": "reject"})
    served.create("gs://emulator/parts/*.jsonl", expect=400)


def test_gemini_embeddings(served: Served) -> None:
    row = {
        "key": "e1",
        "request": {
            "content": {"parts": [{"text": "hello"}]},
            "embed_content_config": {"output_dimensionality": 5, "task_type": "RETRIEVAL_DOCUMENT"},
        },
    }
    uri = served.put("in.jsonl", [row])
    job = served.ended(served.create(uri, model="publishers/google/models/gemini-embedding-001")["name"])
    (line,) = served.output(job)
    assert line["key"] == "e1"
    assert line["request"] == row["request"]
    assert len(line["response"]["embedding"]["values"]) == 5


def test_legacy_embeddings(served: Served) -> None:
    uri = served.put("in.jsonl", [{"content": "hello"}, {"content": "there"}])
    job = served.ended(served.create(uri, model="publishers/google/models/text-embedding-005")["name"])
    lines = served.output(job)
    assert {line["instance"]["content"] for line in lines} == {"hello", "there"}
    (prediction,) = lines[0]["predictions"]
    assert prediction["embeddings"]["statistics"]["truncated"] is False
    assert prediction["embeddings"]["values"]
    assert lines[0]["status"] == ""


# BigQuery -----------------------------------------------------------------------------------------------------------


def table(served: Served, name: str, rows: list[dict[str, Any]]) -> str:
    """Make and fill a table over HTTP; return its URI."""
    body = {
        "tableReference": {"tableId": name},
        "schema": {"fields": [{"name": "id", "type": "STRING"}, {"name": "request", "type": "JSON"}]},
    }
    assert served.call("POST", TABLES, json=body).status_code == 200
    inserted = served.call("POST", f"{TABLES}/{name}/insertAll", json={"rows": [{"json": row} for row in rows]})
    assert "insertErrors" not in inserted.json()
    return f"bq://{PROJECT}.emulator.{name}"


def bigquery_job(served: Served, source: str, target: str, *, expect: int = 200) -> dict[str, Any]:
    return served.create(
        "gs://emulator/unused",
        expect=expect,
        inputConfig={"instancesFormat": "bigquery", "bigquerySource": {"inputUri": source}},
        outputConfig={"predictionsFormat": "bigquery", "bigqueryDestination": {"outputUri": target}},
    )


def test_a_table_becomes_a_table(served: Served) -> None:
    rows = [{"id": f"r{n}", "request": json.dumps(generate_row("x", f"t{n}")["request"])} for n in range(5)]
    served.state.add_script({"rows": [{"index": 2, "outcome": "error"}]})
    source = table(served, "in", rows)
    job = served.ended(bigquery_job(served, source, f"bq://{PROJECT}.emulator.out")["name"])
    assert job["state"] == "JOB_STATE_SUCCEEDED"
    assert job["outputInfo"] == {
        "bigqueryOutputDataset": f"bq://{PROJECT}.emulator",
        "bigqueryOutputTable": "out",
    }
    schema = [column["name"] for column in served.call("GET", f"{TABLES}/out").json()["schema"]["fields"]]
    assert schema == ["id", "request", "response", "status", "processed_time"]
    seen: dict[str, tuple[Any, ...]] = {}
    token = ""
    while True:
        page = served.call("GET", f"{TABLES}/out/data", params={"maxResults": "2", "pageToken": token}).json()
        assert page["totalRows"] == "5"
        for row in page["rows"]:
            cells = [cell["v"] for cell in row["f"]]
            seen[cells[0]] = tuple(cells[1:])
        token = page.get("pageToken", "")
        if not token:
            break
    assert set(seen) == {f"r{n}" for n in range(5)}
    assert seen["r2"][1] is None
    assert seen["r2"][2].startswith("Bad Request: {")
    assert json.loads(seen["r0"][1])["candidates"]
    assert seen["r0"][2] == ""


def test_every_bigquery_reply_fits_googles_discovery_document(served: Served) -> None:
    schemas = schemas_of("bigquery.v2")
    table(served, "in", [{"id": "a"}, {"id": "b"}])
    replies = {
        "Table": served.call("GET", f"{TABLES}/in").json(),
        "TableList": served.call("GET", TABLES).json(),
        "TableDataList": served.call("GET", f"{TABLES}/in/data", params={"maxResults": "1"}).json(),
        "TableDataInsertAllResponse": served.call("POST", f"{TABLES}/in/insertAll", json={"rows": []}).json(),
        "Dataset": served.call("GET", TABLES.removesuffix("/tables")).json(),
    }
    for name, reply in replies.items():
        assert schema_problems(reply, name, schemas) == []


def test_a_missing_table_or_dataset_or_a_taken_target_fails_the_job(served: Served) -> None:
    source = table(served, "in", [{"id": "a", "request": json.dumps(generate_row("x")["request"])}])
    cases = {
        (f"bq://{PROJECT}.emulator.none", f"bq://{PROJECT}.emulator.out"): "Not found: Table",
        (source, f"bq://{PROJECT}.nodata.out"): "Not found: Dataset",
        (source, source): "Already Exists",
    }
    for (read, write), text in cases.items():
        job = served.ended(bigquery_job(served, read, write)["name"])
        assert job["state"] == "JOB_STATE_FAILED"
        assert text in job["error"]["message"]


def test_a_dataset_alone_gets_a_new_table(served: Served) -> None:
    source = table(served, "in", [{"id": "a", "request": json.dumps(generate_row("x")["request"])}])
    info = served.ended(bigquery_job(served, source, f"bq://{PROJECT}.emulator")["name"])["outputInfo"]
    assert info["bigqueryOutputTable"].startswith("predictions_")
    assert table_store(served.state).find(f"{info['bigqueryOutputDataset']}.{info['bigqueryOutputTable']}")


def test_storage_in_and_bigquery_out(served: Served) -> None:
    uri = served.put("in.jsonl", [generate_row("a"), generate_row("b")])
    target = {"predictionsFormat": "bigquery", "bigqueryDestination": {"outputUri": f"bq://{PROJECT}.emulator.mixed"}}
    job = served.ended(served.create(uri, outputConfig=target)["name"])
    assert job["state"] == "JOB_STATE_SUCCEEDED"
    found = table_store(served.state).find(f"bq://{PROJECT}.emulator.mixed")
    assert found is not None
    assert {row["key"] for row in found.rows} == {"a", "b"}


def test_an_unknown_column_is_an_insert_error_and_an_unknown_table_404(served: Served) -> None:
    table(served, "in", [])
    reply = served.call("POST", f"{TABLES}/in/insertAll", json={"rows": [{"json": {"nope": 1}}]}).json()
    assert reply["insertErrors"][0]["errors"][0]["location"] == "nope"
    missing = served.call("GET", f"{TABLES}/none")
    assert missing.status_code == 404
    assert missing.json()["error"]["errors"][0]["reason"] == "notFound"
