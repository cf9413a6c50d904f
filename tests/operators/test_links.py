# SPDX-License-Identifier: Apache-2.0
"""Links in Airflow's UI: they are there while a task waits, and none leads nowhere."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from airflow import __version__ as AIRFLOW

from airflow_provider_gemini_batch import links
from airflow_provider_gemini_batch.compat import DAG, BaseOperator, TaskDeferred
from airflow_provider_gemini_batch.get_provider_info import get_provider_info
from airflow_provider_gemini_batch.operators import (
    CancelBatchOperator,
    CleanUpBatchesOperator,
    CreateBatchOperator,
    CreateEmbeddingBatchOperator,
    DeleteBatchOperator,
    DeleteFileOperator,
    DownloadResultsOperator,
    GetBatchOperator,
    ListBatchesOperator,
    RunBatchOperator,
    RunEmbeddingBatchOperator,
    UploadFileOperator,
)
from airflow_provider_gemini_batch.plugins.page.google import google_url
from airflow_provider_gemini_batch.sensors import BatchJobSensor
from tests.support.airflow_side import TaskInstance, attempt, rows, set_connection, write_rows
from tests.support.tls_front import certificate, https

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

HAS_PAGE = tuple(int(part) for part in AIRFLOW.split(".")[:2]) >= (3, 1)
"""Whether this Airflow serves the page; before, nothing may lead there."""

JOB, RESULTS, INPUT, PAGE = (f"gemini_batch_link_{name}" for name in ("job", "results", "input", "page"))
CLASSES = [
    BatchJobSensor,
    CancelBatchOperator,
    CleanUpBatchesOperator,
    CreateBatchOperator,
    CreateEmbeddingBatchOperator,
    DeleteBatchOperator,
    DeleteFileOperator,
    DownloadResultsOperator,
    GetBatchOperator,
    ListBatchesOperator,
    RunBatchOperator,
    RunEmbeddingBatchOperator,
    UploadFileOperator,
]


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    return gemini_batch_emulator


@pytest.fixture
def vertex(
    gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[EmulatorHandle]:
    """Vertex AI over HTTPS, as at Google."""
    gemini_batch_emulator.configure(create_missing_buckets=True)
    pem = certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
    with https(urlsplit(gemini_batch_emulator.url).port or 0, pem) as url:
        connection = gemini_batch_emulator.connection("vertex_ai", storage_host=gemini_batch_emulator.url)
        set_connection(monkeypatch, {**connection, "host": url})
        yield gemini_batch_emulator


def create(count: int = 2, **arguments: Any) -> CreateBatchOperator:
    return CreateBatchOperator(
        task_id="create",
        model="gemini-3.5-flash-lite",
        inlined_requests=rows(count),
        poll_interval=0.02,
        **arguments,
    )


def pages(ti: TaskInstance) -> str:
    """Return where the task leads to on the page, which older Airflows lack."""
    assert (PAGE in ti.xcoms) is HAS_PAGE
    return str(ti.xcoms.get(PAGE, ""))


def in_console(job_name: str) -> str:
    _, project, _, region, _, number = job_name.split("/")
    return f"https://console.cloud.google.com/vertex-ai/locations/{region}/batch-predictions/{number}?project={project}"


# --- addresses --------------------------------------------------------------------------------------------------------


def test_a_job_of_vertex_ai_has_a_page_in_the_console() -> None:
    assert google_url("projects/p-1/locations/us-central1/batchPredictionJobs/42") == (
        "https://console.cloud.google.com/vertex-ai/locations/us-central1/batch-predictions/42?project=p-1"
    )


@pytest.mark.parametrize(
    ("place", "address"),
    [
        ("gs://b/in/rows.jsonl", "https://console.cloud.google.com/storage/browser/_details/b/in/rows.jsonl"),
        ("gs://b/out/prediction-1", "https://console.cloud.google.com/storage/browser/b/out/prediction-1"),
        ("gs://b", "https://console.cloud.google.com/storage/browser/b"),
        ("gs://b/a b?#.jsonl", "https://console.cloud.google.com/storage/browser/_details/b/a%20b%3F%23.jsonl"),
        ("bq://p.d.t", "https://console.cloud.google.com/bigquery?project=p&p=p&d=d&t=t&page=table"),
        ("bq://p.d", "https://console.cloud.google.com/bigquery?project=p&p=p&d=d&page=dataset"),
    ],
)
def test_places_at_google_have_a_page_in_the_console(place: str, address: str) -> None:
    assert links.place_url(place) == address


@pytest.mark.parametrize("place", [None, "", "files/abc", "/data/out.jsonl", "s3://b/k", "bq://p", "gs://"])
def test_other_places_have_none(place: str | None) -> None:
    assert links.place_url(place) == ""


@pytest.mark.parametrize("name", ["batches/abc", "", "projects/p/locations/l/batchPredictionJobs/1/x"])
def test_what_is_no_job_of_vertex_ai_has_none(name: str) -> None:
    assert google_url(name) == ""


# --- on tasks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task_class", CLASSES, ids=lambda one: one.__name__)
def test_each_class_has_the_four_links(task_class: type[BaseOperator]) -> None:
    names = [link.name for link in task_class.operator_extra_links]
    assert names == ["Job at Google", "Results", "Input", "Gemini batch"]


def test_airflow_is_told_of_each_link() -> None:
    told = get_provider_info()["extra-links"]
    assert told == [f"{type(one).__module__}.{type(one).__name__}" for one in CreateBatchOperator.operator_extra_links]


def test_a_task_that_waits_in_the_worker_has_its_links_before_the_job_ends(vertex: EmulatorHandle) -> None:
    vertex.script(pending_seconds=0.2, running_seconds=0.2)
    states: dict[str, str] = {}

    class Observed(TaskInstance):
        def xcom_push(self, key: str, value: Any) -> None:
            states[key] = vertex.ledger()["jobs"][0]["state"] if vertex.ledger()["jobs"] else "none"
            super().xcom_push(key, value)

    ti = Observed()
    name = create(wait_for_completion=True).execute({"ti": ti})
    early = {key for key, state in states.items() if "PENDING" in state or state == "none"}
    assert early >= ({JOB, INPUT, PAGE} if HAS_PAGE else {JOB, INPUT})
    assert ti.xcoms[JOB] == in_console(name)
    assert ti.xcoms[INPUT].startswith("https://console.cloud.google.com/storage/browser/_details/emulator/airflow/")
    assert ti.xcoms[RESULTS].startswith("https://console.cloud.google.com/storage/browser/emulator/airflow/")


def test_a_deferred_task_has_its_links(vertex: EmulatorHandle) -> None:
    context = attempt()
    with pytest.raises(TaskDeferred):
        create(wait_for_completion=True, deferrable=True).execute(context)
    xcoms = context["ti"].xcoms
    assert xcoms[JOB] == in_console(xcoms["job_name"])
    if HAS_PAGE:
        assert "/gemini-batch/run?dag_id=nightly&run_id=manual__1&task_id=create" in pages(context["ti"])


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_a_sensor_has_its_links_while_it_waits(vertex: EmulatorHandle, mode: str) -> None:
    vertex.script(pending_seconds=60)
    name = create().execute(attempt())
    context = attempt(task_id="wait")
    waiting = BatchJobSensor(task_id="wait", job_name=name, deferrable=mode == "deferrable", poke_interval=0.01)
    if mode == "poke":
        assert waiting.poke(context) is False
    else:
        with pytest.raises(TaskDeferred):
            waiting.execute(context)
    xcoms = context["ti"].xcoms
    assert xcoms[JOB] == in_console(name)
    assert xcoms[INPUT].startswith("https://console.cloud.google.com/storage/")
    assert ("task_id=wait" in pages(context["ti"])) is HAS_PAGE


def test_a_task_that_resumes_keeps_its_links(vertex: EmulatorHandle) -> None:
    vertex.script(mode="at_once")
    context = attempt()
    with pytest.raises(TaskDeferred) as deferral:
        create(wait_for_completion=True, deferrable=True).execute(context)

    async def ended() -> dict[str, Any]:
        async for event in deferral.value.trigger.run():  # type: ignore[attr-defined]
            return dict(event.payload)
        raise AssertionError("no event")

    event = asyncio.run(ended())
    before = dict(context["ti"].xcoms)
    create(wait_for_completion=True, deferrable=True).execute_complete(context, event, **deferral.value.kwargs or {})
    xcoms = context["ti"].xcoms
    assert {key: xcoms[key] for key in (JOB, INPUT)} == {key: before[key] for key in (JOB, INPUT)}
    assert xcoms.get(PAGE) == before.get(PAGE)
    assert RESULTS in xcoms


def test_the_other_operators_lead_to_their_job_and_page(vertex: EmulatorHandle, tmp_path: Path) -> None:
    vertex.script(mode="at_once")
    name = create().execute(attempt())
    tasks = {
        "get": GetBatchOperator(task_id="get", job_name=name),
        "download": DownloadResultsOperator(task_id="download", job_name=name, output_path=str(tmp_path / "o.jsonl")),
        "cancel": CancelBatchOperator(task_id="cancel", job_name=name),
    }
    for task_id, task in tasks.items():
        context = attempt(task_id=task_id)
        task.execute(context)
        assert context["ti"].xcoms[JOB] == in_console(name), task_id
        assert ("/gemini-batch/" in pages(context["ti"])) is HAS_PAGE
        if task_id == "download" and HAS_PAGE:
            assert "/gemini-batch/answers?" in context["ti"].xcoms[RESULTS]


def test_an_upload_leads_to_its_object(vertex: EmulatorHandle, tmp_path: Path) -> None:
    context = attempt()
    place = UploadFileOperator(
        task_id="up", input_path=write_rows(tmp_path / "in.jsonl", rows(2)), model="gemini-3.5-flash-lite"
    ).execute(context)
    assert context["ti"].xcoms[INPUT] == links.place_url(place) != ""


def test_a_job_of_the_developer_api_has_no_dead_link(emulator: EmulatorHandle) -> None:
    emulator.script(mode="at_once")
    context = attempt()
    create(wait_for_completion=True).execute(context)
    assert [key for key in context["ti"].xcoms if key.startswith("gemini_batch_link_")] == ([PAGE] if HAS_PAGE else [])


def test_a_job_of_an_emulator_has_no_link_into_the_console(
    gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_connection(monkeypatch, gemini_batch_emulator.connection("vertex_ai"))
    gemini_batch_emulator.configure(create_missing_buckets=True)
    gemini_batch_emulator.script(mode="at_once")
    context = attempt()
    create(wait_for_completion=True).execute(context)
    assert [key for key in context["ti"].xcoms if key.startswith("gemini_batch_link_")] == ([PAGE] if HAS_PAGE else [])


def test_a_link_that_cannot_be_pushed_fails_no_task(emulator: EmulatorHandle) -> None:
    class Unreachable(TaskInstance):
        def xcom_push(self, key: str, value: Any) -> None:
            if key.startswith("gemini_batch_link_"):
                raise ConnectionError("the supervisor is gone")
            super().xcom_push(key, value)

    assert create().execute({"ti": Unreachable()}).startswith("batches/")


def test_a_run_leads_to_its_answers(emulator: EmulatorHandle, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    emulator.script(mode="at_once")
    context = attempt(task_id="run")
    RunBatchOperator(
        task_id="run",
        model="gemini-3.5-flash-lite",
        rows=[{"id": 1, "text": "a"}],
        key="id",
        prompt="Say {{ row.text }}",
        output_path=str(tmp_path / "out.jsonl"),
        poll_interval=0.01,
    ).execute(context)
    assert ("/gemini-batch/answers?dag_id=nightly" in context["ti"].xcoms.get(RESULTS, "")) is HAS_PAGE


def test_links_survive_serialisation() -> None:
    from airflow.serialization import serialized_objects

    dags: Any = getattr(serialized_objects, "DagSerialization", None) or serialized_objects.SerializedDAG  # type: ignore[attr-defined]
    with DAG("linked", schedule=None) as dag:
        create()
        BatchJobSensor(task_id="wait", job_name="batches/1")
        GetBatchOperator.partial(task_id="mapped").expand(job_name=["batches/1", "batches/2"])
    again = dags.from_dict(dags.to_dict(dag))
    for task_id in ("create", "wait", "mapped"):
        names = sorted(link.name for link in again.get_task(task_id).operator_extra_links)
        assert names == ["Gemini batch", "Input", "Job at Google", "Results"], task_id
