# SPDX-License-Identifier: Apache-2.0
"""Whatever shape a reply has, what comes of it is a value or an error of ours: flows stepped by hand."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_gemini_batch.api.developer.jobs import DeveloperBackend
from airflow_provider_gemini_batch.api.flows import delete_job, exchange, get_file, get_job, list_page
from airflow_provider_gemini_batch.api.models import BatchJob, JobOutput, JobPage
from airflow_provider_gemini_batch.api.retry import NO_RETRY, RetryPolicy
from airflow_provider_gemini_batch.api.vertex.jobs import VertexBackend
from airflow_provider_gemini_batch.api.wire import Flow, HttpReply, HttpRequest
from airflow_provider_gemini_batch.connection.settings import ConnectionSettings, Secret
from airflow_provider_gemini_batch.errors import (
    ApiError,
    ConfigurationError,
    GeminiBatchError,
    PermissionDeniedError,
    RateLimitedError,
    ReplyFormatError,
    RequestRejectedError,
    ServerError,
)
from airflow_provider_gemini_batch.lifecycle.verdict import check_ended
from airflow_provider_gemini_batch.lifecycle.waiting import WaitLimits, Watch, progress_line

TIME = "2026-11-23T10:00:00.123456789Z"
JOB = "projects/p/locations/us-central1/batchPredictionJobs/1"
OPERATION = {
    "name": "batches/a",
    "done": True,
    "error": {"code": 3, "message": "m", "details": [{"@type": "t"}]},
    "metadata": {
        "state": "BATCH_STATE_SUCCEEDED",
        "displayName": "nightly",
        "model": "models/gemini-3.5-flash-lite",
        "batchStats": {"requestCount": "2", "successfulRequestCount": "1", "failedRequestCount": "1"},
        "createTime": TIME,
        "endTime": TIME,
        "inputConfig": {"fileName": "files/a"},
        "output": {"responsesFile": "files/b"},
    },
    "response": {"responsesFile": "files/b"},
}
FILE = {"name": "files/a", "sizeBytes": "5", "sha256Hash": "abcd", "state": "ACTIVE", "error": {"code": 1},
        "expirationTime": TIME}  # fmt: skip
VERTEX_JOB = {
    "name": JOB,
    "state": "JOB_STATE_PARTIALLY_SUCCEEDED",
    "error": {"code": 9, "message": "Failed to get GCS bucket location for b", "details": []},
    "partialFailures": [{"code": 1, "message": "x"}],
    "completionStats": {"successfulCount": "1", "failedCount": "-1"},
    "outputInfo": {"gcsOutputDirectory": "gs://a/b", "bigqueryOutputDataset": "bq://p.d", "bigqueryOutputTable": "t"},
    "outputConfig": {"bigqueryDestination": {"outputUri": "bq://p.d.t"}},
    "inputConfig": {"gcsSource": {"uris": ["gs://a/b"]}, "bigquerySource": {"inputUri": "bq://a.b.c"}},
    "labels": {"team": "search"},
    "createTime": TIME,
    "startTime": TIME,
}
OBJECT = {"name": "a", "bucket": "bucket", "size": "5", "md5Hash": "abcd", "metadata": {"a": "b"}, "generation": "1"}

DEVELOPER = DeveloperBackend(ConnectionSettings("gemini", "https://host", "v1beta", api_key=Secret("k")))
VERTEX = VertexBackend(
    ConnectionSettings("vertex_ai", "https://host", "v1", project="p", location="us-central1", storage_uri="gs://b/x")
)
JUNK: list[Any] = [None, 0, -1, 1.5, True, "", "x", [], {}, [1], ["a"], {"a": 1}, [None], [[]], "9" * 400]
ERROR = {"error": {"code": 429, "message": "m", "status": "S", "details": [
    {"@type": "t", "retryDelay": "3s", "reason": "R", "violations": [{"quotaId": "q"}]}]}}  # fmt: skip
FLOWS: dict[str, tuple[Any, Callable[[], Flow[Any]]]] = {
    "job": (OPERATION, lambda: get_job(DEVELOPER, "batches/a", NO_RETRY)),
    "jobs": ({"operations": [OPERATION], "nextPageToken": "t"}, lambda: list_page(DEVELOPER, NO_RETRY)),
    "file": (FILE, lambda: get_file(DEVELOPER, "files/a", NO_RETRY)),
    "files": ({"files": [FILE]}, lambda: exchange(DEVELOPER.list_files(), DEVELOPER.read_file_page, NO_RETRY)),
    "vertex-job": (VERTEX_JOB, lambda: get_job(VERTEX, JOB, NO_RETRY)),
    "vertex-jobs": ({"batchPredictionJobs": [VERTEX_JOB]}, lambda: list_page(VERTEX, NO_RETRY)),
    "object": (OBJECT, lambda: get_file(VERTEX, "gs://bucket/a", NO_RETRY)),
    "objects": (
        {"items": [OBJECT]},
        lambda: exchange(VERTEX.list_files(prefix="gs://bucket/a"), VERTEX.read_file_page, NO_RETRY),
    ),
    "deleted": (
        {"name": "operations/1", "error": {"code": 9, "message": "m"}},
        lambda: delete_job(VERTEX, JOB, NO_RETRY),
    ),
}


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield here
    if isinstance(value, dict):
        for name in value:
            yield from places(value[name], (*here, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from places(item, (*here, number))


def changed(value: Any, place: tuple[Any, ...], junk: Any) -> Any:
    if not place:
        return junk
    value = copy.deepcopy(value)
    holder = value
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = junk
    return value


def answered(flow: Flow[Any], body: bytes, status: int = 200) -> Any:
    """Answer every request of a flow with one reply."""
    reply = HttpReply(status, {}, body)
    try:
        step = next(flow)
        while True:
            step = flow.send(reply if isinstance(step, HttpRequest) else None)
    except StopIteration as stop:
        return stop.value


def used(value: Any) -> None:
    """Do what a wait does with a job."""
    for job in value.jobs if isinstance(value, JobPage) else [value]:
        if isinstance(job, BatchJob):
            json.dumps(job.summary())
            progress_line(job, 1.0)
            watch = Watch(WaitLimits(9e9, 1, 1), 0.0)
            watch.see(job, 100.0)
            watch.pause(100.0, None)
            check_ended(job, 0.5)


@pytest.mark.parametrize("name", FLOWS)
def test_a_member_of_another_type_is_a_value_or_our_own_error(name: str) -> None:
    base, flow = FLOWS[name]
    tried = refused = 0
    for place in places(base):
        for junk in JUNK:
            try:
                used(answered(flow(), json.dumps(changed(base, place, junk)).encode()))
            except GeminiBatchError:
                refused += 1
            tried += 1
    assert 0 < refused < tried


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, RequestRejectedError), (403, PermissionDeniedError), (429, RateLimitedError), (503, ServerError)],
)
def test_an_error_of_any_shape_is_the_error_of_its_status(status: int, kind: type[ApiError]) -> None:
    for place in places(ERROR):
        for junk in JUNK:
            body = json.dumps(changed(ERROR, place, junk)).encode()
            with pytest.raises(kind):
                answered(get_job(VERTEX, JOB, NO_RETRY), body, status)


def test_what_is_not_implemented_is_not_tried_again() -> None:
    with pytest.raises(ServerError) as caught:
        answered(get_job(VERTEX, JOB, RetryPolicy(max_attempts=2)), b"{}", 501)
    assert not caught.value.is_transient


@pytest.mark.parametrize("name", ["batches/a?x=1", "batches/a#b", "batches/a%2Fb", "batches/..", "batches/a\x01b",
                                  "batches/ü", "batches/a:cancel", "batches/a/b", "batches/ ", "a"])  # fmt: skip
def test_a_name_that_would_lead_elsewhere_is_refused(name: str) -> None:
    for look in (DEVELOPER.check_job_name, lambda text: DEVELOPER.check_file_name(text.replace("batches", "files"))):
        with pytest.raises(ConfigurationError, match=r"must look like"):
            look(name)


def test_names_of_the_service_are_accepted() -> None:
    assert DEVELOPER.check_job_name(" batches/0123456789abcdefghijklmnopqrstuvwxyz ")
    assert DEVELOPER.check_file_name("files/batch-0123456789abcdefghijklmnopqrstuvwxyz")
    assert DEVELOPER.check_file_name("files/my-id_1")


def test_a_filter_is_never_sent_to_the_developer_api_which_answers_unimplemented() -> None:
    for text in ('state="JOB_STATE_SUCCEEDED"', ""):
        request = next(list_page(DEVELOPER, NO_RETRY, filter=text))
        assert isinstance(request, HttpRequest)
        assert "filter" not in dict(request.params)


def test_a_filter_that_cannot_be_read_is_told_before_anything_is_sent() -> None:
    with pytest.raises(ConfigurationError, match=r"filter 'nonsense' cannot be read: a comparison was expected"):
        next(list_page(DEVELOPER, NO_RETRY, filter="nonsense"))


@pytest.mark.parametrize("metadata", [None, {}, {"state": "BATCH_STATE_UNSPECIFIED"}, {"state": "BATCH_STATE_NEWER"}])
@pytest.mark.parametrize(
    ("rest", "state", "reason"),
    [
        ({"error": {"code": 3, "message": "bad rows"}}, "FAILED", "bad rows"),
        ({"error": {"code": 1, "message": "stopped"}}, "CANCELLED", "stopped"),
        ({"response": {"responsesFile": "files/b"}}, "SUCCEEDED", None),
        ({"response": {"inlinedResponses": {}}}, "SUCCEEDED", None),
        ({"output": {"responsesFile": "files/b"}}, "SUCCEEDED", None),
        ({"inputConfig": {"fileName": "files/a"}}, "FAILED", "no state that is known, no answers and no error"),
    ],
)
def test_a_job_that_is_done_is_not_waited_for_whatever_its_state(
    metadata: dict[str, Any] | None, rest: dict[str, Any], state: str, reason: str | None
) -> None:
    members = {name: rest.pop(name) for name in ("output", "inputConfig") if name in (rest := dict(rest))}
    body = {"name": "batches/a", "done": True, "metadata": {**(metadata or {}), **members} or None, **rest}
    backend = DeveloperBackend(ConnectionSettings("gemini", "https://host", "v1beta", api_key=Secret("k")))
    job = answered(get_job(backend, "batches/a", NO_RETRY), json.dumps(body).encode())
    assert (job.state.value, job.is_done) == (state, True)
    assert reason is None or (job.error is not None and reason in str(job.error))
    place = JobOutput("file", "files/b") if "files/b" in str(body) else JobOutput("inline", "batches/a")
    assert job.output == (place if state == "SUCCEEDED" else None)


def test_an_inline_job_that_is_done_in_a_new_state_is_not_taken_for_a_failed_one() -> None:
    """Masked replies leave its answers out; it may have succeeded, and another one would be paid for as well."""
    body = {"name": "batches/a", "done": True, "metadata": {"state": "BATCH_STATE_NEWER"}}
    assert answered(get_job(DEVELOPER, "batches/a", NO_RETRY), json.dumps(body).encode()).is_running


def test_a_listed_job_that_is_done_without_a_word_is_left_to_a_single_read() -> None:
    """Lists leave answers out; a job that went well must not be taken for a failed one, and be paid for twice."""
    body = json.dumps({"operations": [{"name": "batches/a", "done": True}]}).encode()
    [job] = answered(list_page(DEVELOPER, NO_RETRY), body).jobs
    assert job.is_running


def test_an_outdated_state_does_not_hide_a_failure() -> None:
    body = {"name": "batches/a", "done": True, "metadata": {"state": "BATCH_STATE_RUNNING"}, "error": {"code": 13}}
    assert answered(get_job(DEVELOPER, "batches/a", NO_RETRY), json.dumps(body).encode()).is_failed


@pytest.mark.parametrize("backend", [DeveloperBackend, VertexBackend])
@pytest.mark.parametrize("body", [b"", b" \n"])
def test_a_list_without_a_word_is_no_list_without_jobs(backend: Any, body: bytes) -> None:
    """It is a proxy's: taken for an empty list it would have a job submitted a second time."""
    settings = ConnectionSettings("gemini", "https://a.example", "v1beta", Secret("k"), "p", "us-central1")
    with pytest.raises(ReplyFormatError, match="not JSON"):
        backend(settings).read_job_page(HttpReply(200, {}, body))
    assert backend(settings).read_job_page(HttpReply(200, {}, b"{}")).jobs == ()
