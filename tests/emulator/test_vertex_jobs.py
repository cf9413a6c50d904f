# SPDX-License-Identifier: Apache-2.0
"""Vertex AI batch prediction jobs of the emulator, over HTTP: the resource, its life, lists and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from airflow_provider_gemini_batch.api.job_filter import FilterError, parse_filter
from airflow_provider_gemini_batch.api.states import JobState
from gemini_batch_emulator.storage import object_store
from tests.support.discovery import schema_problems, schemas_of
from tests.support.emulator_serving import FLASH, LOCATION, PROJECT, SCOPE, Served, generate_row

JOBS = f"/v1/{SCOPE}/batchPredictionJobs"


@pytest.fixture
def uri(served: Served) -> str:
    return served.put("in.jsonl", [generate_row(f"k{number}") for number in range(4)])


def test_a_job_goes_from_pending_over_running_to_succeeded(served: Served, uri: str) -> None:
    made = served.create(uri, labels={"team": "x"})
    assert made["state"] == "JOB_STATE_PENDING"
    assert made["name"].startswith(f"{SCOPE}/batchPredictionJobs/")
    assert made["name"].rpartition("/")[2].isdigit()
    assert not {"completionStats", "outputInfo", "startTime", "endTime", "error"} & set(made)
    served.state.clock.change(advance=1.5)
    running = served.get(made["name"])
    assert running["state"] == "JOB_STATE_RUNNING"
    assert "startTime" in running
    assert not {"completionStats", "outputInfo", "endTime"} & set(running)
    done = served.ended(made["name"])
    assert done["state"] == "JOB_STATE_SUCCEEDED"
    assert done["completionStats"] == {"successfulCount": "4"}
    assert done["labels"] == {"team": "x"}
    directory = done["outputInfo"]["gcsOutputDirectory"]
    assert directory == f"gs://emulator/out/prediction-model-{done['createTime']}"


def test_every_reply_fits_googles_discovery_document(served: Served, uri: str) -> None:
    served.state.configure({"extra": {"vertex_partial_failures": [{"code": 13, "message": "m"}]}})
    served.state.add_script({"end": {"state": "FAILED", "code": 13, "message": "System error."}})
    schemas = schemas_of("aiplatform.v1")
    for job in (served.create(uri), served.create(uri)):
        for reply in (job, served.ended(job["name"])):
            assert schema_problems(reply, "GoogleCloudAiplatformV1BatchPredictionJob", schemas) == []
    listing = served.call("GET", JOBS).json()
    assert schema_problems(listing, "GoogleCloudAiplatformV1ListBatchPredictionJobsResponse", schemas) == []
    operation = served.call("DELETE", f"/v1/{job['name']}").json()
    assert schema_problems(operation, "GoogleLongrunningOperation", schemas) == []


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.UNKNOWN])
def test_every_state_can_be_shown(served: Served, uri: str, state: JobState) -> None:
    if state is JobState.QUEUED:
        served.state.configure({"extra": {"vertex_queued_reads": 1}})
        served.state.add_script({"stuck": "PENDING"})
    elif state is JobState.PENDING:
        served.state.add_script({"stuck": "PENDING"})
    elif state is JobState.RUNNING:
        served.state.add_script({"stuck": "RUNNING"})
    elif state is JobState.EXPIRED:
        served.state.add_script({"stuck": "PENDING", "expire_seconds": 60})
    elif state is JobState.CANCELLED or state is JobState.CANCELLING:
        served.state.add_script({"running_seconds": 100_000})
    elif state.is_terminal:
        served.state.add_script({"end": {"state": state.value}})
    else:
        served.state.add_script({"hold": {"state": state.value}})
    name = served.create(uri)["name"]
    if state is JobState.CANCELLED or state is JobState.CANCELLING:
        served.ended(name)
        served.state.configure({"cancel_settle_seconds": 600})
        served.call("POST", f"/v1/{name}:cancel", json={})
    shown = served.get(name) if state is JobState.CANCELLING else served.ended(name)
    assert shown["state"] == f"JOB_STATE_{state.value}"


def test_an_unspecified_or_unheard_of_state_can_be_shown(served: Served, uri: str) -> None:
    served.state.add_script({"hold": {"state": "JOB_STATE_DREAMING"}})
    assert served.ended(served.create(uri)["name"])["state"] == "JOB_STATE_DREAMING"


def test_partially_succeeded_names_failures(served: Served, uri: str) -> None:
    served.state.add_script({"end": {"state": "PARTIALLY_SUCCEEDED", "share": 0.5}})
    job = served.ended(served.create(uri)["name"])
    assert job["completionStats"] == {"successfulCount": "2", "incompleteCount": "2"}
    assert job["partialFailures"]
    assert len(served.output(job)) == 2


def test_a_pending_job_is_cancelled_at_once_with_code_1(served: Served, uri: str) -> None:
    name = served.create(uri)["name"]
    reply = served.call("POST", f"/v1/{name}:cancel", json={})
    assert (reply.status_code, reply.json()) == (200, {})
    job = served.get(name)
    assert job["state"] == "JOB_STATE_CANCELLED"
    assert job["error"] == {"code": 1, "message": "CANCELED"}
    assert "completionStats" not in job


def test_a_running_job_is_cancelling_and_exports_what_had_run(served: Served, uri: str) -> None:
    served.state.add_script({"pending_seconds": 0, "running_seconds": 1000})
    name = served.create(uri)["name"]
    served.get(name)
    served.state.clock.change(advance=510)
    served.call("POST", f"/v1/{name}:cancel", json={})
    assert served.get(name)["state"] == "JOB_STATE_CANCELLING"
    job = served.ended(name)
    assert job["state"] == "JOB_STATE_CANCELLED"
    assert job["completionStats"]["successfulCount"] == "2"
    rows = [row for row in served.output(job) if not row["status"]]
    assert {row["key"] for row in rows} == {"k0", "k1"}
    assert served.state.ledger()["totals"]["billed_rows"] == 2


def test_a_failed_job_cannot_be_cancelled(served: Served) -> None:
    name = served.create("gs://no-such-bucket/in.jsonl")["name"]
    served.ended(name)
    reply = served.call("POST", f"/v1/{name}:cancel", json={})
    assert (reply.status_code, reply.json()["error"]["status"]) == (400, "FAILED_PRECONDITION")


def test_only_an_ended_job_can_be_deleted(served: Served, uri: str) -> None:
    name = served.create(uri)["name"]
    early = served.call("DELETE", f"/v1/{name}")
    assert (early.status_code, early.json()["error"]["status"]) == (400, "FAILED_PRECONDITION")
    served.ended(name)
    operation = served.call("DELETE", f"/v1/{name}").json()
    assert operation["done"] is True
    assert served.call("GET", f"/v1/{operation['name']}").json() == operation
    assert served.call("GET", f"/v1/{name}").status_code == 404
    assert served.call("DELETE", f"/v1/{name}").status_code == 404


def test_both_versions_and_snake_case_are_understood(served: Served, uri: str) -> None:
    body = {
        "display_name": "snake",
        "model": FLASH,
        # Google's own sample has a bare string where a list belongs.
        "input_config": {"instances_format": "jsonl", "gcs_source": {"uris": uri}},
        "output_config": {"predictions_format": "jsonl", "gcs_destination": {"output_uri_prefix": "gs://emulator/o"}},
    }
    made = served.call("POST", f"/v1beta1/{SCOPE}/batchPredictionJobs", json=body).json()
    assert made["inputConfig"] == {"instancesFormat": "jsonl", "gcsSource": {"uris": [uri]}}
    assert served.call("GET", f"/v1/{made['name']}").status_code == 200


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"displayName": ""}, "display_name"),
        ({"model": "gemini-3.5-flash-lite"}, "resource name"),
        ({"inputConfig": {"instancesFormat": "bigquery", "gcsSource": {"uris": ["gs://b/o"]}}}, "input_config"),
        ({"inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": ["b/o"]}}}, "Cloud Storage URIs"),
        ({"outputConfig": {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": "o"}}}, "gs://"),
        ({"labels": {"Team": "x"}}, "Label"),
        ({"surprise": 1}, 'Unknown name "surprise"'),
        ({"encryptionSpec": {"kmsKeyName": "k"}}, "CMEK"),
    ],
)
def test_a_malformed_create_is_400(served: Served, uri: str, change: dict[str, Any], text: str) -> None:
    error = served.create(uri, expect=400, **change)["error"]
    assert error["status"] == "INVALID_ARGUMENT"
    assert text in error["message"]
    assert served.state.all_jobs == []


def test_models_that_do_not_exist_here(served: Served, uri: str) -> None:
    unknown = served.create(uri, expect=404, model="publishers/google/models/palm-0")["error"]
    assert "PublisherModel" in unknown["message"]
    region = served.create(uri, expect=404, model="publishers/google/models/gemini-embedding-2")["error"]
    assert f"location {LOCATION}" in region["message"]
    assert "global" in region["message"]
    served.state.configure({"extra": {"tuned_models": [f"{SCOPE}/models/1"]}})
    served.create(uri, model=f"{SCOPE}/models/1@2")
    served.create(uri, expect=404, model=f"{SCOPE}/models/2")
    other = served.create(uri, expect=400, model=f"projects/{PROJECT}/locations/europe-west4/models/1")["error"]
    assert "europe-west4" in other["message"]


def test_unknown_project_location_and_job(served: Served, uri: str) -> None:
    served.state.configure({"projects": [PROJECT], "locations": [LOCATION, "global"]})
    name = served.create(uri)["name"]
    foreign = served.create(uri, expect=403, scope=f"projects/foreign/locations/{LOCATION}")["error"]
    assert "foreign" in foreign["message"]
    assert foreign["details"][0]["reason"] == "CONSUMER_INVALID"
    nowhere = served.create(uri, expect=403, scope=f"projects/{PROJECT}/locations/mars")["error"]
    assert "locations/mars" in nowhere["message"]
    moved = served.call("GET", f"/v1/{name}".replace(LOCATION, "global"))
    assert moved.status_code == 404


def test_names_can_carry_the_project_number(served: Served, uri: str) -> None:
    served.state.configure({"extra": {"project_numbers": {PROJECT: "42"}}})
    name = served.create(uri)["name"]
    assert name.startswith("projects/42/")
    assert served.get(name)["name"] == name
    assert served.get(name.replace("/42/", f"/{PROJECT}/"))["name"] == name
    assert len(served.call("GET", JOBS).json()["batchPredictionJobs"]) == 1


def test_lists_are_newest_first_in_pages_and_empty_without_jobs(served: Served, uri: str) -> None:
    assert served.call("GET", JOBS).json() == {}
    made = [served.create(uri, displayName=f"job-{number}")["name"] for number in range(5)]
    seen: list[str] = []
    token = ""
    while True:
        page = served.call("GET", JOBS, params={"pageSize": "2", "pageToken": token}).json()
        seen += [job["name"] for job in page["batchPredictionJobs"]]
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert seen == made[::-1]


def test_masks_leave_only_what_was_asked_for(served: Served, uri: str) -> None:
    name = served.create(uri)["name"]
    jobs = served.call("GET", JOBS, params={"readMask": "name,display_name,inputConfig.gcsSource"}).json()
    assert jobs["batchPredictionJobs"] == [
        {"name": name, "displayName": "nightly", "inputConfig": {"gcsSource": {"uris": [uri]}}}
    ]
    assert set(served.call("GET", f"/v1/{name}", params={"fields": "name,state"}).json()) == {"name", "state"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "abc"),
        ('display_name="alpha one"', "a"),
        ('display_name:"alpha*"', "ab"),
        ('display_name != "gamma"', "ab"),
        ('NOT display_name:"alpha*"', "c"),
        ('state="JOB_STATE_CANCELLED"', "b"),
        ("labels.airflow-task=0f0f", "a"),
        ("labels.airflow-task:*", "ab"),
        ("labels.airflow-task:* AND NOT state=JOB_STATE_CANCELLED", "a"),
        ('display_name="gamma" OR labels.airflow-task="1e1e"', "bc"),
        ('(display_name="gamma" OR display_name:"alpha*") AND state="JOB_STATE_PENDING"', "ac"),
        # OR binds more tightly than AND.
        ('state="JOB_STATE_CANCELLED" AND display_name="gamma" OR display_name:"alpha*"', "b"),
        ('create_time>"2020-01-01T00:00:00Z"', "abc"),
        ('create_time<"2020-01-01T00:00:00Z"', ""),
        ('model_display_name="gemini-3.5-flash-lite"', "abc"),
    ],
)
def test_filters(served: Served, uri: str, text: str, expected: str) -> None:
    made = {
        served.create(uri, displayName="alpha one", labels={"airflow-task": "0f0f"})["name"]: "a",
        served.create(uri, displayName="alpha two", labels={"airflow-task": "1e1e"})["name"]: "b",
        served.create(uri, displayName="gamma")["name"]: "c",
    }
    served.call("POST", f"/v1/{list(made)[1]}:cancel", json={})
    jobs = served.call("GET", JOBS, params={"filter": text}).json().get("batchPredictionJobs", [])
    assert "".join(sorted(made[job["name"]] for job in jobs)) == expected


@pytest.mark.parametrize("text", ["state", "nonsense=1", 'state<"x"', "(state=A", "create_time>yesterday", "=", "a b"])
def test_filters_that_make_no_sense_are_refused(served: Served, text: str) -> None:
    with pytest.raises(FilterError):
        parse_filter(text)
    assert served.call("GET", JOBS, params={"filter": text}).status_code == 400


def test_a_create_time_shown_can_be_used_in_a_filter(served: Served, uri: str) -> None:
    job = served.create(uri)
    for sign, count in ((">=", 1), ("<", 0)):
        text = f'create_time{sign}"{job["createTime"]}"'
        jobs = served.call("GET", JOBS, params={"filter": text}).json().get("batchPredictionJobs", [])
        assert len(jobs) == count


def test_the_input_may_be_deleted_once_the_job_runs(served: Served, uri: str) -> None:
    name = served.create(uri)["name"]
    served.state.clock.change(advance=1.5)
    assert served.get(name)["state"] == "JOB_STATE_RUNNING"
    object_store(served.state).delete("emulator", "in.jsonl")
    assert len(served.output(served.ended(name))) == 4


def test_seeded_jobs_are_listed_and_have_results(served: Served) -> None:
    seed = {"count": 3, "backend": "vertex_ai", "project": PROJECT, "location": LOCATION, "rows": 2}
    names = served.call("POST", "/_emulator/seed_jobs", json=seed).json()["names"]
    listed = [job["name"] for job in served.call("GET", JOBS).json()["batchPredictionJobs"]]
    assert (listed[-1], listed[0]) == tuple(names)
    job = served.get(names[0])
    assert job["completionStats"] == {"successfulCount": "2"}
    assert {row["key"] for row in served.output(job)} == {"row-0", "row-1"}


def test_a_lost_create_reply_leaves_a_job_behind(served: Served, uri: str) -> None:
    served.state.add_fault(match={"method": "POST", "path": "batchPredictionJobs$"}, action="close", when="after")
    with pytest.raises(requests.ConnectionError):
        served.create(uri, labels={"airflow-task": "x1"})
    found = served.call("GET", JOBS, params={"filter": "labels.airflow-task=x1"}).json()["batchPredictionJobs"]
    assert len(found) == 1
