# SPDX-License-Identifier: Apache-2.0
"""Vertex AI, Cloud Storage and BigQuery: replies read by hand, and the flows against the emulator over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from airflow_provider_gemini_batch.api import flows
from airflow_provider_gemini_batch.api.models import BatchJob, BatchStats, JobOutput, JobSpec
from airflow_provider_gemini_batch.api.retry import NO_RETRY, RetryPolicy
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.api.vertex.advice import explain_job
from airflow_provider_gemini_batch.api.vertex.bigquery import BigQuery, parse_table_uri, result_line
from airflow_provider_gemini_batch.api.vertex.job_spec import check_labels, model_path
from airflow_provider_gemini_batch.api.vertex.jobs import VertexBackend
from airflow_provider_gemini_batch.api.vertex.storage import CHUNK_BYTES, CloudStorage, md5_of, parse_gs_uri
from airflow_provider_gemini_batch.api.wire import HttpReply, HttpRequest, Pause
from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    InputChangedError,
    JobFailedError,
    NotFoundError,
    PermissionDeniedError,
    ReplyFormatError,
    RequestRejectedError,
    TransportError,
)
from airflow_provider_gemini_batch.lifecycle.verdict import check_ended
from airflow_provider_gemini_batch.transport.blocking import BlockingTransport
from airflow_provider_gemini_batch.transport.credentials import credentials_for
from gemini_batch_emulator.bigquery import table_store
from gemini_batch_emulator.storage import object_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

PARENT = "projects/p-1/locations/us-central1"
JOB = f"{PARENT}/batchPredictionJobs/123"
LABELS = {"airflow-task": "0123456789abcdef", "airflow-input": "fedcba9876543210"}
RETRY = RetryPolicy(max_attempts=4, base=0.001, cap=0.01)


def backend(**extra: Any) -> VertexBackend:
    members = {"backend": "vertex_ai", "project": "p-1", "location": "us-central1", **extra}
    return VertexBackend(settings_from_connection(extra=members), new_id=lambda: "unique")


def spec(**members: Any) -> JobSpec:
    return JobSpec(**{"model": "gemini-3.5-flash-lite", "kind": "generate", "display_name": "nightly", **members})


def body_of(request: HttpRequest) -> dict[str, Any]:
    return dict(json.loads(bytes(request.body or b"")))


def answer(value: Any, status: int = 200) -> HttpReply:
    return HttpReply(status, {}, json.dumps(value).encode())


def read(**members: Any) -> BatchJob:
    return backend().read_job(answer({"name": JOB, "state": "JOB_STATE_RUNNING", **members}))


class Bytes:
    """Bytes to upload, which counts what is read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.bytes_read = 0

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        piece = self.data[offset : offset + length]
        self.bytes_read += len(piece)
        return piece


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "full"),
    [
        (JOB, JOB),
        ("123", JOB),
        (f" {JOB} ", JOB),
        (JOB.replace("p-1", "987654321"), JOB.replace("p-1", "987654321")),
        (JOB.replace("p-1", "example.com:p"), JOB.replace("p-1", "example.com:p")),
    ],
)
def test_a_job_is_named_in_full_or_by_its_number(name: str, full: str) -> None:
    assert backend().check_job_name(name) == full


@pytest.mark.parametrize(
    "name",
    ["", "batches/abc", "nightly", f"{JOB}/x", f"{JOB}:cancel", f"{JOB}?x=1", JOB.replace("p-1", ".."), "１２３"],
)
def test_what_is_no_job_of_vertex_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="job_name"):
        backend().check_job_name(name)


def test_a_job_of_another_location_names_both_locations() -> None:
    other = JOB.replace("us-central1", "europe-west4")
    with pytest.raises(ConfigurationError, match=r"europe-west4.*us-central1.*connection with location europe-west4"):
        backend().check_job_name(other)
    with pytest.raises(ConfigurationError, match=r"global"):
        backend().check_job_name(JOB.replace("us-central1", "global"))


def test_a_private_endpoint_of_google_takes_the_jobs_of_the_connections_location() -> None:
    ours = VertexBackend(
        settings_from_connection(
            host="https://aiplatform-ours.p.googleapis.com",
            extra={"backend": "vertex_ai", "project": "p-1", "location": "us-central1"},
        )
    )
    assert ours.check_job_name(JOB) == JOB


def test_a_host_of_ones_own_may_serve_every_location() -> None:
    settings = settings_from_connection(
        host="http://127.0.0.1:1", extra={"backend": "vertex_ai", "project": "p-1", "location": "us-central1"}
    )
    other = JOB.replace("us-central1", "europe-west4")
    assert VertexBackend(settings).check_job_name(other) == other


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("us-central1", "us-central1-aiplatform.googleapis.com"),
        ("global", "aiplatform.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
    ],
)
def test_every_location_form_has_its_host_and_takes_its_own_jobs(location: str, host: str) -> None:
    request = backend(location=location).get_job(JOB.replace("us-central1", location))
    assert urlsplit(request.url).hostname == host
    assert f"/locations/{location}/" in request.url


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-3.5-flash-lite", "publishers/google/models/gemini-3.5-flash-lite"),
        ("models/gemini-3.5-flash-lite", "publishers/google/models/gemini-3.5-flash-lite"),
        ("publishers/google/models/gemini-3.8-flash", "publishers/google/models/gemini-3.8-flash"),
        ("projects/p-1/locations/us-central1/models/42@1", "projects/p-1/locations/us-central1/models/42@1"),
        (f"{PARENT}/publishers/google/models/gemini-3.8-flash", f"{PARENT}/publishers/google/models/gemini-3.8-flash"),
    ],
)
def test_a_model_becomes_its_resource_name(model: str, path: str) -> None:
    assert model_path(model) == path


@pytest.mark.parametrize("model", ["", "tunedModels/x", "a b", "../x", "gemini?x", "projects/p/models/x"])
def test_what_is_no_model_is_refused(model: str) -> None:
    with pytest.raises(ConfigurationError, match="Not a model"):
        model_path(model)


# --- create -----------------------------------------------------------------------------------------------------------


def test_without_a_destination_each_job_gets_its_own_prefix_below_storage_uri() -> None:
    here = backend(storage_uri="gs://bucket/airflow")

    def prefix(**members: Any) -> str:
        body = body_of(here.create_job(spec(gcs_uri="gs://bucket/in.jsonl", **members)))
        return str(body["outputConfig"]["gcsDestination"]["outputUriPrefix"])

    assert prefix(labels=LABELS) == "gs://bucket/airflow/results/0123456789abcdef/fedcba9876543210"
    assert prefix(labels={**LABELS, "airflow-task": "ff"}) == "gs://bucket/airflow/results/ff/fedcba9876543210"
    assert prefix() == "gs://bucket/airflow/results/unique"
    assert prefix(destination="gs://other/x") == "gs://other/x"


def test_everything_wrong_with_a_job_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        backend().create_job(spec(model="a b", file_name="files/x", display_name="x" * 129, labels={"Team": "x"}))
    text = str(refusal.value)
    for part in ("Not a model", "files/x", "129 characters", "Team=x", "storage_uri"):
        assert part in text, part


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({}, "exactly one source"),
        ({"gcs_uri": "gs://b-1/x", "bigquery_uri": "bq://p.d.t"}, "exactly one source"),
        ({"gcs_uri": "gs://b-1/x", "file_name": "gs://b-1/x"}, "one of them"),
        ({"requests": ({"request": {}},)}, "inline"),
        ({"gcs_uri": "gs://bucket"}, "no object"),
        ({"gcs_uri": "s3://bucket/x"}, "gs://bucket/name"),
        ({"bigquery_uri": "bq://p.d"}, "bq://project.dataset.table"),
        ({"bigquery_uri": "bq://p.d.t", "model": "gemini-embedding-001"}, "Cloud Storage only"),
        ({"gcs_uri": "gs://b-1/x", "destination": "/tmp/x"}, "destination"),
        ({"gcs_uri": "gs://b-1/x", "display_name": " "}, "display_name is empty"),
        ({"gcs_uri": "gs://b-1/x", "model": "projects/p/locations/europe-west4/models/1"}, "europe-west4"),
    ],
)
def test_a_job_that_cannot_work_is_refused_before_it_is_sent(members: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        backend().create_job(spec(**{"destination": "gs://bucket/out", **members}))
    assert problem in str(refusal.value)


@pytest.mark.parametrize("labels", [{"k": "v"}, {"k" * 64: "v" * 64}, {"über": "straße"}, {"a-b_c9": ""}, LABELS])
def test_labels_within_the_rules_pass(labels: dict[str, str]) -> None:
    check_labels(labels)


@pytest.mark.parametrize(
    "labels",
    [{"K": "v"}, {"": "v"}, {"9k": "v"}, {"k": "V"}, {"k": "v" * 65}, {"k": "a b"}, {"k" * 65: "v"}, {"k": 'a"'}],
)
def test_labels_against_the_rules_are_named(labels: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="labels: "):
        check_labels(labels)


def test_too_many_labels_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="65 are too many"):
        check_labels({f"k{number}": "v" for number in range(65)})


# --- reading jobs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        (None, BatchStats()),
        ({"successfulCount": "7"}, BatchStats(7, 7, 0, 0)),
        ({"successfulCount": "7", "failedCount": "2", "incompleteCount": "1"}, BatchStats(10, 7, 2, 1)),
        ({"successfulCount": "7", "incompleteCount": "-1"}, BatchStats(None, 7, 0, None)),
        ({"successfulCount": "-1", "failedCount": "-1", "incompleteCount": "-1"}, BatchStats()),
    ],
)
def test_absent_counts_are_zero_and_minus_one_is_unknown(stats: Any, expected: BatchStats) -> None:
    assert read(**({} if stats is None else {"completionStats": stats})).stats == expected


@pytest.mark.parametrize(
    ("members", "output"),
    [
        ({}, None),
        ({"outputConfig": {"gcsDestination": {"outputUriPrefix": "gs://b/x"}}}, None),
        (
            {"outputInfo": {"gcsOutputDirectory": "gs://b/x/prediction-model-1Z/"}},
            ("gcs", "gs://b/x/prediction-model-1Z"),
        ),
        (
            {"outputInfo": {"bigqueryOutputDataset": "bq://p.d", "bigqueryOutputTable": "t"}},
            ("bigquery", "bq://p.d.t"),
        ),
        (
            {
                "state": "JOB_STATE_SUCCEEDED",
                "outputConfig": {"bigqueryDestination": {"outputUri": "bq://p.d.t"}},
            },
            ("bigquery", "bq://p.d.t"),
        ),
    ],
)
def test_the_output_is_where_answers_really_lie(members: Any, output: Any) -> None:
    assert read(**members).output == (JobOutput(*output) if output else None)


def test_errors_and_partial_failures_are_kept() -> None:
    job = read(
        state="JOB_STATE_PARTIALLY_SUCCEEDED",
        partialFailures=[{"code": 13, "message": "a"}, {"code": 14, "message": "b"}],
        inputConfig={"bigquerySource": {"inputUri": "bq://p.d.t"}},
    )
    assert [failure.code for failure in job.partial_failures] == [13, 14]
    assert job.state is JobState.PARTIALLY_SUCCEEDED
    assert job.input_place == "bq://p.d.t"
    assert read(state="JOB_STATE_DREAMING").state is JobState.UNKNOWN
    assert read(state="JOB_STATE_DREAMING").state_text == "JOB_STATE_DREAMING"


@pytest.mark.parametrize("body", [{}, {"name": 5}, {"state": "JOB_STATE_RUNNING"}])
def test_an_answer_that_is_no_job_is_said_to_be_none(body: Any) -> None:
    with pytest.raises(ReplyFormatError):
        backend().read_job(answer(body))


def test_a_page_may_be_empty_and_have_a_next_one() -> None:
    page = backend().read_job_page(answer({"nextPageToken": "t"}))
    assert (page.jobs, page.next_page_token) == ((), "t")
    assert backend().read_job_page(answer({})).next_page_token is None


# --- advice -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message", "parts"),
    [
        (9, "Failed to get GCS bucket location for no-such-bucket", ["gs://no-such-bucket", "p-1", "objectAdmin"]),
        (
            7,
            "service-12@gcp-sa-aiplatform.iam.gserviceaccount.com does not have storage.objects.create access",
            ["service-12@gcp-sa-aiplatform", "storage.objects.create", "roles/storage.objectAdmin"],
        ),
        (3, "Failed to import data. Please check", ["same shape"]),
        (5, "Not found: Dataset p:d", ["p-1", "us-central1"]),
        (13, "System error. Please try this operation again", ["again"]),
    ],
)
def test_a_failed_job_comes_with_what_to_do(code: int, message: str, parts: list[str]) -> None:
    job = read(state="JOB_STATE_FAILED", error={"code": code, "message": message})
    for part in parts:
        assert part in job.advice
    assert explain_job(replace(job, error=None)) == ""
    with pytest.raises(JobFailedError) as verdict:
        check_ended(job)
    assert message in str(verdict.value)
    assert str(verdict.value).endswith(job.advice)


# --- uploads, stepped by hand -----------------------------------------------------------------------------------------


def object_reply(data: bytes, *, md5: bytes | None = None) -> HttpReply:
    digest = md5 or hashlib.md5(data, usedforsecurity=False).digest()
    resource = {
        "name": "x",
        "bucket": "bucket",
        "size": str(len(data)),
        "md5Hash": base64.b64encode(digest).decode(),
        "generation": "7",
    }
    return answer(resource)


def session_reply(
    location: str = "https://elsewhere.example/upload/storage/v1/b/bucket/o?upload_id=s3cret",
) -> HttpReply:
    return HttpReply(200, {"location": location})


def test_a_session_stays_on_our_host_and_gets_no_credentials() -> None:
    flow = CloudStorage("http://127.0.0.1:9").upload(Bytes(b"abc"), "gs://bucket/x")
    start = next(flow)
    assert isinstance(start, HttpRequest)
    assert ("ifGenerationMatch", "0") in start.params
    chunk = flow.send(session_reply())
    assert isinstance(chunk, HttpRequest)
    assert urlsplit(chunk.url).netloc == "127.0.0.1:9"
    assert chunk.authorize is False
    assert "s3cret" in chunk.url
    assert "s3cret" not in repr(chunk)
    with pytest.raises(StopIteration) as end:
        flow.send(object_reply(b"abc"))
    assert end.value.value.name == "gs://bucket/x"


def test_bytes_that_arrive_damaged_are_deleted_again() -> None:
    flow = CloudStorage("http://127.0.0.1:9").upload(Bytes(b"abc"), "gs://bucket/x")
    next(flow)
    flow.send(session_reply())
    delete = flow.send(object_reply(b"abc", md5=b"0" * 16))
    assert isinstance(delete, HttpRequest)
    assert (delete.method, delete.params) == ("DELETE", (("generation", "7"),))
    with pytest.raises(TransportError, match="not what was sent"):
        flow.send(HttpReply(204))


def test_a_service_that_keeps_nothing_ends_the_upload_after_so_many_tries() -> None:
    flow = CloudStorage("http://127.0.0.1:9", RETRY).upload(Bytes(b"abc"), "gs://bucket/x")
    next(flow)
    step = flow.send(session_reply())
    replies = 0

    def keep_nothing() -> None:
        nonlocal step, replies
        while replies < 100:
            if isinstance(step, Pause):
                step = flow.send(None)
            else:
                replies += 1
                step = flow.send(HttpReply(308))

    with pytest.raises(TransportError, match="kept nothing"):
        keep_nothing()
    assert replies < 10


@pytest.mark.parametrize("range_", ["bytes=0-3", "bytes=5-9", "lots"])
def test_a_kept_range_that_cannot_be_is_an_error(range_: str) -> None:
    flow = CloudStorage("http://127.0.0.1:9", NO_RETRY).upload(Bytes(b"abc"), "gs://bucket/x")
    next(flow)
    flow.send(session_reply())
    with pytest.raises(ReplyFormatError, match="cannot be"):
        flow.send(HttpReply(308, {"range": range_}))


def test_a_file_that_shrinks_under_the_upload_is_noticed() -> None:
    class Shrinking(Bytes):
        def read(self, offset: int, length: int) -> bytes:
            return b"ab"

    flow = CloudStorage("http://127.0.0.1:9").upload(Shrinking(b"abc"), "gs://bucket/x")
    next(flow)
    request = flow.send(session_reply())
    assert isinstance(request, HttpRequest)
    with pytest.raises(InputChangedError):
        bytes(request.body or b"")


@pytest.mark.parametrize("uri", ["", "gs://", "gs:///x", "s3://b/x", "gs://B_/x", "gs://bucket"])
def test_what_is_no_place_in_cloud_storage_is_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_gs_uri(uri)


# --- against the emulator ---------------------------------------------------------------------------------------------


@pytest.fixture
def settings(gemini_batch_emulator: EmulatorHandle) -> ConnectionSettings:
    return settings_from_connection(**gemini_batch_emulator.connection("vertex_ai"))


@pytest.fixture
def run(settings: ConnectionSettings) -> Iterator[Callable[..., Any]]:
    with BlockingTransport(settings, credentials_for(settings), sleep=lambda seconds: None) as transport:
        yield transport.run


@pytest.fixture
def live(settings: ConnectionSettings) -> VertexBackend:
    return VertexBackend(settings)


def stored(emulator: EmulatorHandle, uri: str) -> bytes:
    return object_store(emulator.state).get(*parse_gs_uri(uri)).path.read_bytes()


def put_rows(emulator: EmulatorHandle, *keys: str) -> str:
    rows = [
        {"key": f"afgb:{key}", "request": {"contents": [{"role": "user", "parts": [{"text": key}]}]}} for key in keys
    ]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    object_store(emulator.state).put("emulator", "in.jsonl", data)
    return "gs://emulator/in.jsonl"


def test_a_job_is_created_watched_listed_cancelled_and_deleted(
    gemini_batch_emulator: EmulatorHandle, run: Callable[..., Any], live: VertexBackend
) -> None:
    uri = put_rows(gemini_batch_emulator, "a", "b")
    made = run(flows.exchange(live.create_job(spec(gcs_uri=uri, labels=LABELS)), live.read_job, NO_RETRY))
    assert (made.state, made.labels, made.input_place) == (JobState.PENDING, LABELS, uri)
    other = run(flows.exchange(live.create_job(spec(gcs_uri=uri)), live.read_job, NO_RETRY))
    filter = live.own_jobs_filter(LABELS, made.create_time)
    page = run(flows.list_page(live, RETRY, filter=filter))
    assert [job.name for job in page.jobs] == [made.name]
    assert run(flows.list_page(live, RETRY, filter=live.own_jobs_filter(LABELS, "2999-01-01T00:00:00Z"))).jobs == ()
    first = run(flows.list_page(live, RETRY, page_size=1))
    second = run(flows.list_page(live, RETRY, page_size=1, page_token=first.next_page_token))
    assert [job.name for job in first.jobs + second.jobs] == [other.name, made.name]
    assert first.jobs[0] == replace(run(flows.get_job(live, other.name, RETRY)), update_time=first.jobs[0].update_time)
    run(flows.cancel_job(live, other.name, RETRY))
    cancelled = run(flows.get_job(live, other.name, RETRY))
    assert (cancelled.state, cancelled.error.code) == (JobState.CANCELLED, 1)
    run(flows.cancel_job(live, other.name, RETRY))  # ended already: fine
    with pytest.raises(RequestRejectedError, match="cancel it first"):
        run(flows.delete_job(live, made.name, RETRY))
    gemini_batch_emulator.advance(3600)
    done = run(flows.get_job(live, made.name.rpartition("/")[2], RETRY))
    assert (done.state, done.stats) == (JobState.SUCCEEDED, BatchStats(2, 2, 0, 0))
    assert done.output.place.startswith("gs://emulator/airflow/results/0123456789abcdef/fedcba9876543210/prediction-")
    files = live.read_file_page
    shards = run(flows.exchange(live.list_files(prefix=done.output.place + "/"), files, RETRY)).files
    assert [shard.name for shard in shards] == [done.output.place + "/predictions.jsonl"]
    run(flows.delete_job(live, made.name, RETRY))
    run(flows.delete_job(live, made.name, RETRY))  # gone already: fine
    with pytest.raises(NotFoundError, match=r"deleted, or belongs to another project or location.*emulated-project"):
        run(flows.get_job(live, made.name, RETRY))


def test_an_upload_cut_three_times_ends_in_identical_bytes(
    gemini_batch_emulator: EmulatorHandle, run: Callable[..., Any], live: VertexBackend
) -> None:
    data = random.Random(4).randbytes(3 * CHUNK_BYTES + 12_345)
    faults: list[dict[str, Any]] = [
        {"action": "cut_upload", "bytes": 5_000_000},
        {"action": "close", "when": "after"},
        {"action": "reset", "when": "before"},
    ]
    for skip, fault in enumerate(faults):
        gemini_batch_emulator.fault(match={"method": "PUT", "path": "^/upload/"}, skip=skip, **fault)
    source = Bytes(data)
    made = run(live.upload(source, name="gs://emulator/big ü.bin", display_name="big", mime_type="application/jsonl"))
    journal = gemini_batch_emulator.journal(path="^/upload/", method="PUT")
    assert sorted(entry["fault"] for entry in journal if entry["fault"]) == ["close", "cut_upload", "reset"]
    assert stored(gemini_batch_emulator, "gs://emulator/big ü.bin") == data
    assert (made.size, made.md5, made.display_name) == (len(data), md5_of(Bytes(data)), "big")
    assert len(gemini_batch_emulator.journal(path="^/upload/", method="POST")) == 1  # resumed, never begun anew
    assert source.bytes_read < 2 * len(data)


def test_an_upload_whose_last_reply_is_lost_is_not_sent_again(
    gemini_batch_emulator: EmulatorHandle, run: Callable[..., Any], live: VertexBackend
) -> None:
    gemini_batch_emulator.fault(match={"method": "PUT"}, action="close", when="after")
    made = run(live.upload(Bytes(b"abc"), name="gs://emulator/x", display_name="x", mime_type="text/plain"))
    assert made.size == 3
    sent = gemini_batch_emulator.journal(path="^/upload/", method="PUT")
    assert [entry["request_bytes"] for entry in sent] == [3, 0]


def test_what_is_there_already_with_the_same_bytes_is_the_upload(
    gemini_batch_emulator: EmulatorHandle, run: Callable[..., Any], live: VertexBackend
) -> None:
    where = {"name": "gs://emulator/x", "display_name": "x", "mime_type": "text/plain"}
    first = run(live.upload(Bytes(b"abc"), **where))
    assert run(live.upload(Bytes(b"abc"), **where)) == replace(first, was_there=True)
    assert len(gemini_batch_emulator.journal(path="^/upload/", method="PUT")) == 1
    with pytest.raises(ConfigurationError, match="gs://emulator/x exists already"):
        run(live.upload(Bytes(b"abd"), **where))
    assert stored(gemini_batch_emulator, "gs://emulator/x") == b"abc"


def test_a_lost_session_is_begun_anew_and_an_empty_file_is_fine(
    gemini_batch_emulator: EmulatorHandle, run: Callable[..., Any], live: VertexBackend
) -> None:
    gemini_batch_emulator.fault(match={"method": "PUT"}, action="reply", status=410)
    where = {"display_name": "x", "mime_type": "text/plain"}
    assert run(live.upload(Bytes(b"abc"), name="gs://emulator/x", **where)).size == 3
    assert run(live.upload(Bytes(b""), name="gs://emulator/empty", **where)).size == 0
    assert stored(gemini_batch_emulator, "gs://emulator/empty") == b""


def test_a_service_that_keeps_less_than_was_sent_gets_the_rest(
    gemini_batch_emulator: EmulatorHandle, run: Callable[..., Any], live: VertexBackend
) -> None:
    gemini_batch_emulator.configure(extra={"storage_keep_bytes": [300_000, 0, 1_000_000]})
    data = random.Random(5).randbytes(2_000_003)
    run(live.upload(Bytes(data), name="gs://emulator/x", display_name="x", mime_type="text/plain"))
    assert stored(gemini_batch_emulator, "gs://emulator/x") == data


def test_a_download_goes_on_at_an_offset_and_is_pinned_to_its_generation(
    gemini_batch_emulator: EmulatorHandle, run: Callable[..., Any], live: VertexBackend, settings: ConnectionSettings
) -> None:
    data = random.Random(6).randbytes(3_000_000)
    object_store(gemini_batch_emulator.state).put("emulator", "x", data)
    found = run(flows.get_file(live, "gs://emulator/x", RETRY))
    generation = found.metadata["generation"]
    fault = {"match": {"method": "GET", "query": "alt=media"}, "action": "cut_response", "bytes": 900_000, "times": 3}
    gemini_batch_emulator.fault(**fault)
    with BlockingTransport(settings, credentials_for(settings), sleep=lambda seconds: None) as transport:
        pieces = transport.stream(lambda offset: live.download_file("gs://emulator/x", offset, generation))
        assert b"".join(pieces) == data
        object_store(gemini_batch_emulator.state).put("emulator", "x", b"other")
        with pytest.raises(NotFoundError):
            list(transport.stream(lambda offset: live.download_file("gs://emulator/x", offset, generation)))


def test_files_are_listed_page_by_page_and_deleted(
    gemini_batch_emulator: EmulatorHandle, run: Callable[..., Any], live: VertexBackend
) -> None:
    for number in range(3):
        object_store(gemini_batch_emulator.state).put("emulator", f"airflow/{number}", b"x")
    object_store(gemini_batch_emulator.state).put("emulator", "airflow-of-others/9", b"x")
    names: list[str] = []
    token = None
    while True:
        page = run(flows.exchange(live.list_files(2, token), live.read_file_page, RETRY))
        names += [file.name for file in page.files]
        token = page.next_page_token
        if token is None:
            break
    assert names == [f"gs://emulator/airflow/{number}" for number in range(3)]
    run(flows.delete_file(live, names[0], RETRY))
    run(flows.delete_file(live, names[0], RETRY))
    with pytest.raises(NotFoundError, match="deleted or never written"):
        run(flows.get_file(live, names[0], RETRY))


def failing_job(emulator: EmulatorHandle, run: Callable[..., Any], live: VertexBackend, **members: Any) -> BatchJob:
    made = run(flows.exchange(live.create_job(spec(**members)), live.read_job, NO_RETRY))
    emulator.advance(3600)
    job: BatchJob = run(flows.get_job(live, made.name, RETRY))
    assert job.state is JobState.FAILED
    return job


def test_each_way_to_go_wrong_says_which_and_what_to_do(
    gemini_batch_emulator: EmulatorHandle, run: Callable[..., Any], live: VertexBackend, settings: ConnectionSettings
) -> None:
    uri = put_rows(gemini_batch_emulator, "a")
    create = flows.exchange

    missing = failing_job(gemini_batch_emulator, run, live, gcs_uri="gs://no-such-bucket/in.jsonl")
    assert "gs://no-such-bucket does not exist" in missing.advice
    gemini_batch_emulator.configure(unwritable_buckets=["emulator"])
    denied = failing_job(gemini_batch_emulator, run, live, gcs_uri=uri)
    assert "roles/storage.objectAdmin" in denied.advice
    with pytest.raises(ConfigurationError, match="gs://no-such-bucket does not exist"):
        run(live.upload(Bytes(b"x"), name="gs://no-such-bucket/x", display_name="x", mime_type="text/plain"))
    gemini_batch_emulator.configure(forbidden_buckets=["emulator"])
    with pytest.raises(PermissionDeniedError, match=r"gs://emulator.*roles/storage.objectUser"):
        run(live.upload(Bytes(b"x"), name="gs://emulator/x", display_name="x", mime_type="text/plain"))
    with pytest.raises(PermissionDeniedError, match=r"storage\.objects\.get.*roles/storage.objectUser"):
        run(flows.get_file(live, "gs://emulator/in.jsonl", RETRY))
    gemini_batch_emulator.configure(forbidden_buckets=[], unwritable_buckets=[])

    with pytest.raises(NotFoundError, match=r"not served in location us-central1 of the connection"):
        run(create(live.create_job(spec(gcs_uri=uri, model="gemini-embedding-2")), live.read_job, NO_RETRY))
    with pytest.raises(NotFoundError, match=r"The model does not exist"):
        run(create(live.create_job(spec(gcs_uri=uri, model="palm-0")), live.read_job, NO_RETRY))
    gemini_batch_emulator.configure(locations=["europe-west4"])
    with pytest.raises(PermissionDeniedError, match=r"correct the connection's location"):
        run(flows.list_page(live, RETRY))
    gemini_batch_emulator.configure(locations=None, projects=["another"])
    with pytest.raises(
        PermissionDeniedError, match=r"project emulated-project.*correct the connection's project"
    ) as refusal:
        run(flows.list_page(live, RETRY))
    copy = pickle.loads(pickle.dumps(refusal.value))
    assert (str(copy), copy.status) == (str(refusal.value), 403)


def test_rows_of_a_bigquery_job_are_read_back_page_by_page(
    gemini_batch_emulator: EmulatorHandle, run: Callable[..., Any], live: VertexBackend, settings: ConnectionSettings
) -> None:
    project = settings.project
    rows = [
        {"id": f"k{number}", "request": json.dumps({"contents": [{"role": "user", "parts": [{"text": "x"}]}]})}
        for number in range(2_345)
    ]
    table_store(gemini_batch_emulator.state).create_table(project, "emulator", "in", rows=rows)
    uri = f"bq://{project}.emulator.in"
    request = live.create_job(spec(bigquery_uri=uri, destination=f"bq://{project}.emulator"))
    made = run(flows.exchange(request, live.read_job, NO_RETRY))
    gemini_batch_emulator.advance(3600)
    done = run(flows.get_job(live, made.name, RETRY))
    assert done.output is not None
    assert done.output.kind == "bigquery"
    bigquery = BigQuery(settings.bigquery_base_url)
    found = [result_line(row) for row in bigquery.rows(run, done.output.place, RETRY)]
    assert sorted(row["id"] for row in found) == sorted(row["id"] for row in rows)
    assert all(row["response"]["candidates"] and row["status"] == "" for row in found)
    assert found[0]["request"]["contents"][0]["parts"] == [{"text": "x"}]
    assert found[0]["processed_time"].endswith("Z")
    assert len(gemini_batch_emulator.journal(path="/data$")) == 3
    with pytest.raises(NotFoundError, match="check the name, or whether it was deleted"):
        list(bigquery.rows(run, f"bq://{project}.emulator.gone", RETRY))


def test_every_type_of_cell_is_read() -> None:
    columns = [
        {"name": "i", "type": "INTEGER"},
        {"name": "f", "type": "FLOAT"},
        {"name": "b", "type": "BOOLEAN"},
        {"name": "n", "type": "NUMERIC"},
        {"name": "t", "type": "TIMESTAMP"},
        {"name": "j", "type": "JSON"},
        {"name": "l", "type": "STRING", "mode": "REPEATED"},
        {"name": "r", "type": "RECORD", "fields": [{"name": "x", "type": "INTEGER"}]},
        {"name": "z", "type": "STRING"},
    ]
    bigquery = BigQuery("https://bigquery.googleapis.com")
    place = {"projectId": "p", "datasetId": "d", "tableId": "t"}
    table = bigquery.read_table(answer({"tableReference": place, "schema": {"fields": columns}}))
    values: list[Any] = [
        "5",
        "1.5",
        "true",
        "9.99",
        "1756800000000001",
        '{"a":[1]}',
        [{"v": "q"}],
        {"f": [{"v": "3"}]},
        None,
    ]
    page = bigquery.read_rows(answer({"rows": [{"f": [{"v": value} for value in values]}]}), table)
    assert page.rows == (
        {
            "i": 5,
            "f": 1.5,
            "b": True,
            "n": "9.99",
            "t": "2025-09-02T08:00:00.000001Z",
            "j": {"a": [1]},
            "l": ["q"],
            "r": {"x": 3},
            "z": None,
        },
    )
    with pytest.raises(ReplyFormatError, match="do not fit"):
        bigquery.read_rows(answer({"rows": [{"f": [{"v": "1"}]}]}), table)
    assert parse_table_uri("bq://example.com:p.d.t") == ("example.com:p", "d", "t")
