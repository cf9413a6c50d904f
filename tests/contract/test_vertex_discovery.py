# SPDX-License-Identifier: Apache-2.0
"""Every request we build for Vertex AI, Cloud Storage and BigQuery, held against Google's discovery documents."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import googleapiclient
import pytest

from airflow_provider_gemini_batch.api.models import JobSpec
from airflow_provider_gemini_batch.api.vertex.bigquery import BigQuery
from airflow_provider_gemini_batch.api.vertex.jobs import READ_MASK, VertexBackend
from airflow_provider_gemini_batch.api.vertex.storage import CloudStorage
from airflow_provider_gemini_batch.api.wire import HttpReply, HttpRequest
from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from tests.support.discovery import schema_problems

DOCUMENTS = {
    "us-central1-aiplatform.googleapis.com": "aiplatform.v1",
    "storage.googleapis.com": "storage.v1",
    "bigquery.googleapis.com": "bigquery.v2",
}
JOB = "projects/p-1/locations/us-central1/batchPredictionJobs/123"
TABLE = "bq://p-1.set.table"
OBJECT = "gs://bucket/a b/ü?.jsonl"


@functools.cache
def document(name: str) -> dict[str, Any]:
    """A discovery document."""
    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    return dict(json.loads((folder / f"{name}.json").read_text()))


def methods(node: dict[str, Any]) -> list[dict[str, Any]]:
    """All methods of a document, of all its resources."""
    found = list(node.get("methods", {}).values())
    for child in node.get("resources", {}).values():
        found += methods(child)
    return found


def pattern_of(template: str, method: dict[str, Any]) -> re.Pattern[str]:
    """A path template as a pattern with one group a parameter."""
    parts = re.split(r"\{(\+?\w+)\}", template)
    text = ""
    for index, part in enumerate(parts):
        if index % 2 == 0:
            text += re.escape(part)
            continue
        name = part.lstrip("+")
        declared = method["parameters"][name].get("pattern", "")
        inner = declared.removeprefix("^").removesuffix("$") if part.startswith("+") and declared else "[^/]+"
        text += f"(?P<{name}>{inner})"
    return re.compile(text)


def fitting_method(request: HttpRequest) -> tuple[str, list[str]]:
    """The id of the method that a request calls, and what in the request does not fit it."""
    url = urlsplit(request.url)
    assert url.hostname in DOCUMENTS, url.hostname
    spec = document(DOCUMENTS[url.hostname])
    path = url.path.lstrip("/")
    for method in methods(spec):
        is_upload = path.startswith("upload/")
        template = spec["servicePath"] + method["path"]
        if is_upload:
            if "mediaUpload" not in method:
                continue
            template = method["mediaUpload"]["protocols"]["simple"]["path"].lstrip("/")
        match = pattern_of(template, method).fullmatch(path)
        if method["httpMethod"] != request.method or match is None:
            continue
        return method["id"], _problems(request, method, spec, match)
    raise AssertionError(f"No method of {spec['id']} is called by {request.method} {path}")


def _problems(request: HttpRequest, method: dict[str, Any], spec: dict[str, Any], match: re.Match[str]) -> list[str]:
    declared = {**spec["parameters"], **method.get("parameters", {})}
    found = []
    given = {name for name, _ in request.params} | set(match.groupdict())
    for name, value in request.params:
        entry = declared.get(name)
        if entry is None or entry["location"] != "query":
            found.append(f"query {name}: unknown")
        elif entry["type"] == "integer" and not re.fullmatch(r"-?\d+", value):
            found.append(f"query {name}: {value!r} is no integer")
        elif entry["type"] == "boolean" and value not in ("true", "false"):
            found.append(f"query {name}: {value!r} is no boolean")
        elif "enum" in entry and value not in entry["enum"]:
            found.append(f"query {name}: {value!r} is none of its words")
    found += [f"{name}: missing" for name, entry in declared.items() if entry.get("required") and name not in given]
    if request.body:
        if "request" not in method:
            found.append("body: the method takes none")
        else:
            body = json.loads(bytes(request.body))
            found += schema_problems(body, method["request"]["$ref"], spec["schemas"])
    return found


def backend() -> VertexBackend:
    """Vertex AI as a connection to Google has it."""
    return VertexBackend(
        settings_from_connection(
            extra={
                "backend": "vertex_ai",
                "project": "p-1",
                "location": "us-central1",
                "storage_uri": "gs://bucket/airflow",
            }
        )
    )


def spec_of(**members: Any) -> JobSpec:
    """A job to create."""
    return JobSpec(model="gemini-3.5-flash-lite", kind="generate", display_name="nightly", **members)


def requests_we_build() -> list[tuple[str, HttpRequest]]:
    """Every request, with the id of the method that it is meant for."""
    vertex = backend()
    storage = CloudStorage("https://storage.googleapis.com")
    bigquery = BigQuery("https://bigquery.googleapis.com")
    jobs = "aiplatform.projects.locations.batchPredictionJobs"
    labels = {"airflow-task": "0123456789abcdef", "airflow-input": "fedcba9876543210"}
    filter = vertex.own_jobs_filter(labels, "2026-09-01T00:00:00Z")
    return [
        (f"{jobs}.create", vertex.create_job(spec_of(gcs_uri="gs://bucket/in.jsonl", labels=labels))),
        (f"{jobs}.create", vertex.create_job(spec_of(file_name="gs://bucket/in.jsonl", destination="gs://b-2/out"))),
        (f"{jobs}.create", vertex.create_job(spec_of(gcs_uri="gs://bucket/in.jsonl", destination=TABLE))),
        (f"{jobs}.create", vertex.create_job(spec_of(bigquery_uri=TABLE, destination="bq://p-1.set"))),
        (f"{jobs}.create", vertex.create_job(spec_of(bigquery_uri=TABLE, destination="gs://bucket/out"))),
        (f"{jobs}.get", vertex.get_job(JOB)),
        (f"{jobs}.get", vertex.get_job("123", masked=False)),
        (f"{jobs}.list", vertex.list_jobs(50, "token", filter)),
        (f"{jobs}.list", vertex.list_jobs(masked=False)),
        (f"{jobs}.cancel", vertex.cancel_job(JOB)),
        (f"{jobs}.delete", vertex.delete_job(JOB)),
        (
            "storage.objects.insert",
            storage.start_upload(OBJECT, size=5, display_name="in.jsonl", mime_type="application/jsonl"),
        ),
        ("storage.objects.get", vertex.get_file(OBJECT)),
        ("storage.objects.get", vertex.download_file(OBJECT, 100, "17")),
        ("storage.objects.list", vertex.list_files(10, "token")),
        ("storage.objects.list", vertex.list_files(prefix="gs://bucket")),
        ("storage.objects.delete", vertex.delete_file(OBJECT)),
        ("storage.objects.delete", storage.delete_object(OBJECT, "17")),
        ("bigquery.tables.get", bigquery.get_table(TABLE)),
        ("bigquery.tables.get", bigquery.get_table("bq://example.com:p-1.set.table")),
        ("bigquery.tabledata.list", bigquery.list_rows(TABLE)),
        ("bigquery.tabledata.list", bigquery.list_rows(TABLE, "token", 7)),
    ]


@pytest.mark.parametrize(("method", "request_"), requests_we_build())
def test_a_request_fits_the_discovery_document(method: str, request_: HttpRequest) -> None:
    assert fitting_method(request_) == (method, [])


def test_a_wrong_request_is_found_out() -> None:
    """The check itself can fail: on a query name, on a body's field, and on a path."""
    good = backend().list_jobs()
    assert fitting_method(HttpRequest("GET", good.url, (("orderBy", "x"),)))[1] == ["query orderBy: unknown"]
    made = backend().create_job(spec_of(gcs_uri="gs://bucket/in.jsonl"))
    wrong = json.dumps({**json.loads(bytes(made.body or b"")), "priority": 1}).encode()
    assert fitting_method(HttpRequest("POST", made.url, (), {}, wrong))[1] == [".priority: unknown"]
    with pytest.raises(AssertionError, match="No method"):
        fitting_method(HttpRequest("GET", good.url.replace("batchPredictionJobs", "batches")))


def test_the_mask_names_members_of_the_job() -> None:
    known = document("aiplatform.v1")["schemas"]["GoogleCloudAiplatformV1BatchPredictionJob"]["properties"]
    assert set(READ_MASK.split(",")) <= set(known)


def test_an_object_name_is_one_segment_of_the_path() -> None:
    path = urlsplit(backend().get_file(OBJECT).url).path
    assert path == "/storage/v1/b/bucket/o/a%20b%2F%C3%BC%3F.jsonl"
    assert unquote(path.rpartition("/")[2]) == "a b/ü?.jsonl"


def test_every_state_of_the_service_is_known() -> None:
    from airflow_provider_gemini_batch.api.states import JobState

    job = document("aiplatform.v1")["schemas"]["GoogleCloudAiplatformV1BatchPredictionJob"]["properties"]
    words = [word for word in job["state"]["enum"] if word != "JOB_STATE_UNSPECIFIED"]
    states = {}
    for word in words:
        body = json.dumps({"name": JOB, "state": word}).encode()
        states[word] = backend().read_job(HttpReply(200, {}, body)).state
    assert len(words) == 11
    assert {word: f"JOB_STATE_{state.value}" for word, state in states.items()} == {word: word for word in words}
    assert JobState.UNKNOWN not in states.values()
