# SPDX-License-Identifier: Apache-2.0
"""
A catalogue of bad input: each kind gives one clear error of ours that names the place, and no job is paid for.

An entry is a claim's name, what is wrong, and a word that the message must hold.
"""

from __future__ import annotations

import json
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.compat import AirflowFailException
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    GeminiBatchError,
    InputNotFoundError,
    ReplyFormatError,
)
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.operators import (
    CancelBatchOperator,
    CleanUpBatchesOperator,
    CreateBatchOperator,
    CreateEmbeddingBatchOperator,
    DownloadResultsOperator,
    GetBatchOperator,
    ListBatchesOperator,
    UploadFileOperator,
)
from airflow_provider_gemini_batch.sensors import BatchJobSensor
from tests.support.airflow_side import attempt, rows, set_connection, write_rows

if TYPE_CHECKING:
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

KEY = {"password": "a-key"}


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    gemini_batch_emulator.script(mode="at_once")
    return gemini_batch_emulator


def fails_clearly(call: Any, word: str, expected: type[GeminiBatchError] = ConfigurationError) -> GeminiBatchError:
    with pytest.raises(expected) as caught:
        call()
    text = str(caught.value)
    assert word.lower() in text.lower()
    assert "Traceback" not in text
    assert not any(inside in text for inside in ("KeyError", "TypeError", "AttributeError", "JSONDecodeError"))
    assert "object at 0x" not in text
    return caught.value


# --- connections ----------------------------------------------------------------------------------------------------

SERVICE_ACCOUNT = {
    "type": "service_account",
    "client_email": "a@b.iam.gserviceaccount.com",
    "private_key": "k",
    "token_uri": "https://oauth2.googleapis.com/token",
}
PLACE = {"backend": "vertex_ai", "project": "my-project-1", "location": "us-central1"}

CONNECTIONS: list[tuple[str, dict[str, Any], str]] = [
    ("no key", {"extra": {"backend": "gemini"}}, "password"),
    ("plain http", {**KEY, "host": "http://example.org"}, "http://"),
    ("another scheme", {**KEY, "host": "ftp://example.org"}, "ftp"),
    ("a query in the host", {**KEY, "host": "https://example.org/?a=b"}, "host"),
    ("a user in the host", {**KEY, "host": "https://u:p@example.org"}, "user name"),
    ("a blank in the host", {**KEY, "host": "https://exa mple.org"}, "URL"),
    ("port zero", {**KEY, "host": "https://example.org:0"}, "URL"),
    ("a port that is no number", {**KEY, "host": "https://example.org:abc"}, "URL"),
    ("two ports", {**KEY, "host": "https://example.org:1", "port": 2}, "port"),
    ("a schema of another kind", {**KEY, "host": "example.org", "schema": "ftp"}, "schema"),
    ("an unknown backend", {**KEY, "extra": {"backend": "openai"}}, "openai"),
    ("a backend that is no text", {**KEY, "extra": {"backend": ["gemini"]}}, "backend"),
    ("a timeout in words", {**KEY, "extra": {"timeout": "soon"}}, "timeout"),
    ("a timeout of zero", {**KEY, "extra": {"timeout": 0}}, "timeout"),
    ("a negative timeout", {**KEY, "extra": {"timeout": -1}}, "timeout"),
    ("an endless timeout", {**KEY, "extra": {"timeout": "inf"}}, "timeout"),
    ("a timeout that is a list", {**KEY, "extra": {"timeout": [1]}}, "timeout"),
    ("half a retry", {**KEY, "extra": {"max_retries": 1.5}}, "max_retries"),
    ("retries in words", {**KEY, "extra": {"max_retries": "many"}}, "max_retries"),
    ("retries as a flag", {**KEY, "extra": {"max_retries": True}}, "max_retries"),
    ("a version that is a path", {**KEY, "extra": {"api_version": "v1/../x"}}, "api_version"),
    ("a flag in words", {**KEY, "extra": {"allow_http": "perhaps"}}, "allow_http"),
    ("no project", {"extra": {"backend": "vertex_ai", "location": "us-central1"}}, "project"),
    ("a location that is a path", {"extra": {**PLACE, "location": "us/../x"}}, "location"),
    ("a project that is a path", {"extra": {**PLACE, "project": "a/b"}}, "project"),
    ("a storage place of another kind", {"extra": {**PLACE, "storage_uri": "s3://bucket"}}, "storage_uri"),
    ("a storage place without a bucket", {"extra": {**PLACE, "storage_uri": "gs://"}}, "storage_uri"),
    ("a storage host that is no URL", {"extra": {**PLACE, "storage_host": "ftp://x"}}, "storage_host"),
    ("a key file that is no JSON", {"extra": {**PLACE, "keyfile_dict": "{not json"}}, "keyfile_dict"),
    ("a key file that is a list", {"extra": {**PLACE, "keyfile_dict": "[1]"}}, "keyfile_dict"),
    ("a key file without members", {"extra": {**PLACE, "keyfile_dict": {"type": "service_account"}}}, "lacks"),
    ("a key file of a user", {"extra": {**PLACE, "keyfile_dict": {"type": "authorized_user"}}}, "authorized_user"),
    ("a key path that is not there", {"extra": {**PLACE, "key_path": "/nowhere/key.json"}}, "key_path"),
    (
        "two kinds of credentials",
        {"extra": {**PLACE, "keyfile_dict": SERVICE_ACCOUNT, "key_path": "/nowhere/key.json"}},
        "key_path",
    ),
    ("scopes that are a number", {"extra": {**PLACE, "scopes": 5}}, "scopes"),
    ("an impersonation chain of numbers", {"extra": {**PLACE, "impersonation_chain": [1]}}, "impersonation_chain"),
]


@pytest.mark.parametrize(("fields", "word"), [pytest.param(f, w, id=name) for name, f, w in CONNECTIONS])
def test_a_bad_connection_names_its_field(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], word: str
) -> None:
    set_connection(monkeypatch, {"conn_type": "gemini_batch", **fields})
    operator = CreateBatchOperator(task_id="t", model="gemini-3.5-flash-lite", inlined_requests=rows(1))
    fails_clearly(lambda: operator.execute(attempt()), word)
    ok, message = GeminiBatchHook().test_connection()
    assert not ok
    assert word.lower() in message.lower()


# --- arguments ------------------------------------------------------------------------------------------------------


def create(**arguments: Any) -> Any:
    arguments = {"model": "gemini-3.5-flash-lite", "task_id": "t", **arguments}
    return lambda: CreateBatchOperator(**arguments).execute(attempt())


def embed(**arguments: Any) -> Any:
    arguments = {"model": "gemini-embedding-001", "task_id": "t", **arguments}
    return lambda: CreateEmbeddingBatchOperator(**arguments).execute(attempt())


ONE: dict[str, Any] = {"inlined_requests": rows(1)}
TEXT: dict[str, Any] = {"inlined_requests": [{"text": "a"}]}

ARGUMENTS: list[tuple[str, Any, str]] = [
    ("no source", create(), "exactly one of"),
    ("two sources", create(**ONE, file_name="files/a"), "exactly one of"),
    ("an empty list", create(inlined_requests=[]), "inlined_requests is empty"),
    ("an empty path", create(input_path=""), "input_path is empty"),
    ("an empty file name", create(file_name=""), "file_name is empty"),
    ("no model", create(model="", **ONE), "model"),
    ("a model of blanks", create(model="  ", **ONE), "model"),
    ("a model that is a number", create(model=5, **ONE), "model"),
    ("a model that is a path", create(model="../secrets", **ONE), "model"),
    ("requests as a text", create(inlined_requests="rows.jsonl"), "list of rows"),
    ("requests as one row", create(inlined_requests={"prompt": "a"}), "list of rows"),
    ("requests as a number", create(inlined_requests=5), "inlined_requests"),
    ("a path that is a number", create(input_path=5), "input_path must be a path"),
    ("a path with a NUL", create(input_path="/a\0b"), "input_path holds a NUL"),
    ("a path that is too long", create(input_path="/" + "a" * 300), "cannot be read"),
    ("a path of a device", create(input_path="/dev/null"), "not a regular file"),
    ("a folder as a file", create(input_path="/"), "/"),
    ("a path of an unknown kind", create(input_path="nosuch://bucket/a"), "nosuch"),
    ("a remote file that is not there", create(file_name="files/nowhere"), "files/nowhere"),
    ("a file name of another kind", create(file_name="batches/a"), "batches/a"),
    ("a file name that climbs", create(file_name="files/../a"), "files/../a"),
    ("Cloud Storage without Vertex AI", create(gcs_uri="gs://b/a"), "gcs_uri"),
    ("BigQuery without Vertex AI", create(bigquery_uri="bq://p.d.t"), "bigquery_uri"),
    ("a destination of another kind", create(**ONE, destination="s3://b"), "destination"),
    ("a destination that is a number", create(**ONE, destination=5), "destination"),
    ("a config that is a text", create(**ONE, generation_config="hot"), "generation_config"),
    ("a config that is a list", create(**ONE, generation_config=[1]), "generation_config"),
    ("a config for rows at Google", create(file_name="files/a", generation_config={"a": 1}), "generation_config"),
    ("an instruction for rows at Google", create(file_name="files/a", system_instruction="a"), "system_instruction"),
    ("an instruction that is a number", create(**ONE, system_instruction=5), "system_instruction"),
    ("a config with one name twice", create(**ONE, generation_config={"topK": 1, "top_k": 2}), "twice"),
    ("a display name that is a number", create(**ONE, display_name=5), "display_name"),
    ("a display name of no characters", create(**ONE, display_name="\ud800"), "display_name"),
    ("a priority in words", create(**ONE, priority="high"), "priority"),
    ("a priority that is a flag", create(**ONE, priority=True), "priority"),
    ("labels that are a list", create(**ONE, labels=["a"]), "labels"),
    ("a webhook that is a text", create(**ONE, webhook_config="https://a"), "webhook_config"),
    ("a webhook that is no JSON", create(**ONE, webhook_config={"uris": [object]}), "webhook_config"),
    ("an unknown policy for jobs", create(**ONE, on_existing_job="ignore"), "on_existing_job"),
    ("an unknown policy for timeouts", create(**ONE, on_timeout="explode"), "on_timeout"),
    ("an unknown policy for waiting jobs", create(**ONE, on_pending_timeout="x"), "on_pending_timeout"),
    ("an unknown policy for running jobs", create(**ONE, on_running_timeout="x"), "on_running_timeout"),
    ("a timeout of zero", create(**ONE, timeout=0), "timeout"),
    ("a timeout in words", create(**ONE, timeout="long"), "timeout"),
    ("a negative timedelta", create(**ONE, timeout=timedelta(seconds=-1)), "timeout"),
    ("a flag as an interval", create(**ONE, poll_interval=True), "poll_interval"),
    ("a negative interval", create(**ONE, poll_interval=-1), "poll_interval"),
    ("a pending_timeout of zero", create(**ONE, pending_timeout=0), "pending_timeout"),
    ("a running_timeout in words", create(**ONE, running_timeout="x"), "running_timeout"),
    ("a submit_timeout of zero", create(**ONE, submit_timeout=0), "submit_timeout"),
    ("negative resubmits", create(**ONE, max_resubmits=-1), "max_resubmits"),
    ("half a resubmit", create(**ONE, max_resubmits=0.5), "max_resubmits"),
    ("negative failed rows", create(**ONE, max_failed_rows=-1), "max_failed_rows"),
    ("failed rows in words", create(**ONE, max_failed_rows="few"), "max_failed_rows"),
    ("failed rows between counts", create(**ONE, max_failed_rows=1.5), "max_failed_rows"),
    ("failed rows as a flag", create(**ONE, max_failed_rows=True), "max_failed_rows"),
    ("dimensions in words", embed(**TEXT, output_dimensionality="8"), "output_dimensionality"),
    ("no dimensions", embed(**TEXT, output_dimensionality=0), "output_dimensionality"),
    ("a task type nobody knows", embed(**TEXT, task_type=5), "taskType"),
    ("a title that is a list", embed(**TEXT, title=["a"]), "title"),
    ("an upload of nothing", lambda: UploadFileOperator(task_id="t", input_path="").execute({}), "input_path"),
    (
        "an upload of an unknown kind",
        lambda: UploadFileOperator(task_id="t", input_path="/a", kind="chat").execute({}),
        "kind",
    ),
    (
        "an upload of many kinds",
        lambda: UploadFileOperator(task_id="t", input_path="/a", kind=["embed"]).execute({}),  # type: ignore[arg-type]
        "kind",
    ),
    ("an upload of a number", lambda: UploadFileOperator(task_id="t", input_path=5).execute({}), "input_path"),  # type: ignore[arg-type]
    ("a job name that is empty", lambda: GetBatchOperator(task_id="t", job_name="").execute({}), "job"),
    ("a job name that climbs", lambda: GetBatchOperator(task_id="t", job_name="batches/../a").execute({}), "batches"),
    ("a file as a job", lambda: CancelBatchOperator(task_id="t", job_name="files/a").execute({}), "files/a"),
    ("no job at all", lambda: CancelBatchOperator(task_id="t", job_name=None).execute({}), "job"),  # type: ignore[arg-type]
    ("a job for the sensor", lambda: BatchJobSensor(task_id="t", job_name="x/y").execute(attempt()), "x/y"),
    (
        "failed rows for the sensor",
        lambda: BatchJobSensor(task_id="t", job_name="batches/a", max_failed_rows=-1).execute(attempt()),
        "max_failed_rows",
    ),
    ("a wait without a timeout", lambda: GeminiBatchHook().wait_for_batch("batches/a", timeout=None), "timeout"),  # type: ignore[arg-type]
    ("a wait in words", lambda: GeminiBatchHook().wait_for_batch("batches/a", timeout="1h"), "timeout"),  # type: ignore[arg-type]
    ("a wait of no number", lambda: GeminiBatchHook().wait_for_batch("batches/a", timeout=float("nan")), "timeout"),
    ("a limit of zero", lambda: ListBatchesOperator(task_id="t", limit=0).execute({}), "limit"),
    ("a limit beyond all bounds", lambda: ListBatchesOperator(task_id="t", limit=10**30).execute({}), "limit"),
    ("states that are a number", lambda: ListBatchesOperator(task_id="t", states=5).execute({}), "states"),  # type: ignore[arg-type]
    ("states that are none", lambda: ListBatchesOperator(task_id="t", states=[None]).execute({}), "None"),  # type: ignore[list-item]
    (
        "a prefix that is a number",
        lambda: ListBatchesOperator(task_id="t", display_name_prefix=5).execute({}),  # type: ignore[arg-type]
        "display_name_prefix",
    ),
    (
        "a prefix to clean that is no text",
        lambda: CleanUpBatchesOperator(task_id="t", display_name_prefix=0).execute({}),  # type: ignore[arg-type]
        "display_name_prefix",
    ),
    ("a state nobody knows", lambda: ListBatchesOperator(task_id="t", states=["HAPPY"]).execute({}), "HAPPY"),
    ("an age in words", lambda: CleanUpBatchesOperator(task_id="t", older_than="old").execute({}), "older_than"),  # type: ignore[arg-type]
    ("states to clean nobody knows", lambda: CleanUpBatchesOperator(task_id="t", states=["X"]).execute({}), "'X'"),
    (
        "no place for results",
        lambda: DownloadResultsOperator(task_id="t", job_name="batches/a", output_path="").execute({}),
        "output_path",
    ),
    (
        "a number as the place of results",
        lambda: DownloadResultsOperator(task_id="t", job_name="batches/a", output_path=5).execute({}),  # type: ignore[arg-type]
        "output_path",
    ),
    ("a number as a job's answers", lambda: list(GeminiBatchHook().get_responses(5)), "job_name"),  # type: ignore[arg-type]
    ("a number as a file's name", lambda: GeminiBatchHook().upload_file(__file__, display_name=5), "display_name"),  # type: ignore[arg-type]
    ("half a character as a name", lambda: GeminiBatchHook().upload_file(__file__, display_name="\ud800"), "name"),
    ("a type nobody knows", lambda: GeminiBatchHook().upload_file(__file__, mime_type="é"), "mime_type"),
    ("a number as a backend", lambda: GeminiBatchHook(backend=5).get_batch("batches/a"), "backend"),  # type: ignore[arg-type]
    (
        "failed rows for a wait",
        lambda: GeminiBatchHook().wait_for_batch("batches/a", max_failed_rows=True),
        "max_failed_rows",
    ),
    (
        "failed rows for results",
        lambda: DownloadResultsOperator(
            task_id="t",
            job_name="batches/a",
            output_path="/o",
            max_failed_rows="x",  # type: ignore[arg-type]
        ).execute({}),
        "max_failed_rows",
    ),
]


@pytest.mark.parametrize(("call", "word"), [pytest.param(c, w, id=name) for name, c, w in ARGUMENTS])
def test_a_bad_argument_is_named(emulator: EmulatorHandle, call: Any, word: str) -> None:
    fails_clearly(call, word)
    assert emulator.ledger()["totals"]["created"] == 0


def test_a_missing_local_file_names_the_host_and_is_retried(emulator: EmulatorHandle) -> None:
    error = fails_clearly(create(input_path="/nowhere/in.jsonl"), "/nowhere/in.jsonl", InputNotFoundError)
    assert not isinstance(error, AirflowFailException)
    assert socket.gethostname() in str(error)


def test_all_bad_arguments_are_told_at_once(emulator: EmulatorHandle) -> None:
    error = fails_clearly(create(model="", priority="high"), "model")
    assert "priority" in str(error)
    assert "exactly one of" in str(error)


# --- rows -----------------------------------------------------------------------------------------------------------

GOOD = {"key": "good", "prompt": "fine"}

ROWS: list[tuple[str, str, Any, str]] = [
    ("a number", "generate", 5, "object"),
    ("a list", "generate", [], "object"),
    ("null", "generate", None, "object"),
    ("an empty object", "generate", {}, "2"),
    ("a key alone", "generate", {"key": "a"}, "2"),
    ("an unknown member alone", "generate", {"question": "a"}, "2"),
    ("a prompt that is a number", "generate", {"prompt": 5}, "prompt"),
    ("a prompt that is empty", "generate", {"prompt": ""}, "prompt"),
    ("a prompt beside a request", "generate", {"prompt": "a", "request": {}}, "2"),
    ("a key that is a number", "generate", {"key": 5, "prompt": "a"}, "key"),
    ("a key that is empty", "generate", {"key": "", "prompt": "a"}, "key"),
    ("a key that is there twice", "generate", {"key": "good", "prompt": "a"}, "good"),
    ("a request that is a text", "generate", {"request": "a"}, "request"),
    ("a request that is empty", "generate", {"request": {}}, "contents"),
    ("contents that are empty", "generate", {"contents": []}, "contents"),
    ("contents that are a number", "generate", {"contents": 5}, "contents"),
    ("contents without parts", "generate", {"contents": [{"role": "user"}]}, "parts"),
    ("parts that are a text", "generate", {"contents": [{"parts": "a"}]}, "parts"),
    ("metadata that is a text", "generate", {"request": {}, "metadata": "a"}, "metadata"),
    ("a config that is a list", "generate", {"prompt": "a", "generation_config": [1]}, "2"),
    ("an embedding row to generate", "generate", {"content": {"parts": [{"text": "a"}]}}, "2"),
    ("a generation row to embed", "embed", {"contents": [{"parts": [{"text": "a"}]}]}, "2"),
    ("a text that is a number", "embed", {"text": 5}, "text"),
    ("a text that is empty", "embed", {"text": ""}, "text"),
    ("content that is a list", "embed", {"content": []}, "content"),
]


@pytest.mark.parametrize("source", ["inline", "file"])
@pytest.mark.parametrize(("kind", "row", "word"), [pytest.param(k, r, w, id=name) for name, k, r, w in ROWS])
def test_a_bad_row_is_named_before_a_job_exists(
    emulator: EmulatorHandle, tmp_path: Path, source: str, kind: str, row: Any, word: str
) -> None:
    good = GOOD if kind == "generate" else {"key": "good", "text": "fine"}
    arguments: dict[str, Any] = {"inlined_requests": [good, row]}
    if source == "file":
        arguments = {"input_path": write_rows(tmp_path / "in.jsonl", [json.dumps(line) for line in (good, row)])}
    error = fails_clearly((create if kind == "generate" else embed)(**arguments), word)
    assert ("line 2" if source == "file" else "row 2") in str(error)
    assert emulator.ledger()["totals"]["created"] == 0
    assert GeminiBatchHook().list_files().files == ()


FILES: list[tuple[str, bytes, str]] = [
    ("an empty file", b"", "no input rows"),
    ("blank lines alone", b"\n \n\n", "no input rows"),
    ("a line that is no JSON", b'{"prompt": "a"}\nnot json\n', "line 2"),
    ("half a line", b'{"prompt": "a"}\n{"prompt": "b', "line 2"),
    ("bytes that are no UTF-8", b'{"prompt": "a"}\n{"prompt": "\xff\xfe"}\n', "line 2"),
    ("one JSON list", b'[{"prompt": "a"}]\n', "line 1"),
    ("a zip file", b"PK\x03\x04\x00\x01\xff", "line 1"),
    ("not a number", b'{"prompt": "a", "generation_config": {"temperature": NaN}}\n', "line 1"),
]


@pytest.mark.parametrize(("content", "word"), [pytest.param(c, w, id=name) for name, c, w in FILES])
def test_a_bad_file_is_told_before_a_job_exists(
    emulator: EmulatorHandle, tmp_path: Path, content: bytes, word: str
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    error = fails_clearly(create(input_path=str(path)), word)
    assert str(error).startswith(f"{path}: ")
    assert emulator.ledger()["totals"]["created"] == 0


# --- replies --------------------------------------------------------------------------------------------------------

REPLIES: list[tuple[str, Any]] = [
    ("HTML", "html"),
    ("garbage", "garbage"),
    ("a list", "array"),
    ("half a reply", "truncated"),
    ("nothing", "empty"),
    ("a number", 5),
]


@pytest.mark.parametrize("body", [pytest.param(b, id=name) for name, b in REPLIES])
def test_a_bad_reply_is_our_error(emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, body: Any) -> None:
    set_connection(monkeypatch, emulator.connection("gemini", max_retries=1))
    emulator.fault(match={"method": "GET"}, status=200, body=body, times=None)
    fails_clearly(lambda: GeminiBatchHook().get_batch("batches/a"), "", ReplyFormatError)


ODD: list[tuple[str, Any]] = [
    ("a name that is a number", {"name": 5}),
    ("metadata that is a list", {"name": "batches/a", "metadata": []}),
    ("a state that is a number", {"name": "batches/a", "metadata": {"state": 5}}),
    ("counts in words", {"name": "batches/a", "metadata": {"state": "BATCH_STATE_RUNNING", "batchStats": "many"}}),
]


@pytest.mark.parametrize("body", [pytest.param(b, id=name) for name, b in ODD])
def test_an_odd_member_of_a_reply_never_ends_a_wait_as_a_success(emulator: EmulatorHandle, body: Any) -> None:
    emulator.fault(match={"method": "GET"}, status=200, body=body, times=None)
    try:
        job = GeminiBatchHook().get_batch("batches/a")
    except ReplyFormatError:
        return
    assert not job.is_done
    assert job.stats.succeeded is None
