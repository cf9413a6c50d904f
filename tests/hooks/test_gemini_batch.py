# SPDX-License-Identifier: Apache-2.0
"""Every method of the hook, against the emulated Developer API."""

from __future__ import annotations

import hashlib
import os
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.api.models import BatchJob
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    JobCancelledError,
    JobError,
    JobExpiredError,
    JobFailedError,
    JobTimeoutError,
    NotFoundError,
    PartialFailureError,
    TransportError,
)
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.lifecycle.waiting import ProgressReport
from tests.support.airflow_side import rows, set_connection, write_rows

if TYPE_CHECKING:
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

GENERATE, EMBED = "gemini-3.5-flash-lite", "gemini-embedding-001"


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    gemini_batch_emulator.script(mode="at_once")
    return gemini_batch_emulator


@pytest.fixture
def hook(emulator: EmulatorHandle) -> GeminiBatchHook:
    return GeminiBatchHook()


def sent_rows(emulator: EmulatorHandle) -> list[dict[str, Any]]:
    """Return the rows of the newest job as the service got them."""
    return [row.raw for row in emulator.state.all_jobs[-1].source.rows()]


# --- create ---------------------------------------------------------------------------------------------------------


def test_inline_rows_come_back_by_key(hook: GeminiBatchHook) -> None:
    job = hook.create_batch(GENERATE, inlined_requests=rows(3), display_name="mine")
    results = {result.key: result for result in hook.get_responses(job.name)}
    assert job.display_name.startswith("mine")
    assert set(results) == {"k0", "k1", "k2"}
    assert all(result.status == "succeeded" and result.text and result.usage for result in results.values())


def test_rows_of_a_file_come_back_from_a_file(hook: GeminiBatchHook, tmp_path: Path) -> None:
    job = hook.create_batch(GENERATE, input_path=write_rows(tmp_path / "in.jsonl", rows(5)))
    ended = hook.wait_for_batch(job.name, poll_interval=0.05)
    assert ended.output is not None
    assert ended.output.kind == "file"
    assert sorted(result.key for result in hook.get_responses(ended)) == [f"k{n}" for n in range(5)]


def test_a_file_name_of_an_upload_is_a_source(hook: GeminiBatchHook, tmp_path: Path) -> None:
    request = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    path = write_rows(tmp_path / "in.jsonl", [{"key": "a", "request": request}])
    remote = hook.upload_file(path)
    assert [r.key for r in hook.get_responses(hook.create_batch(GENERATE, file_name=remote.name))] == ["a"]


def test_seed_documented_generate_lines_without_keys_work(hook: GeminiBatchHook, tmp_path: Path) -> None:
    lines = [{"contents": [{"parts": [{"text": f"line {n}"}]}]} for n in range(2)]
    job = hook.create_batch(GENERATE, input_path=write_rows(tmp_path / "in.jsonl", lines))
    results = list(hook.get_responses(job))
    assert [(r.key, r.status) for r in results] == [("row-1", "succeeded"), ("row-2", "succeeded")]


def test_seed_documented_embed_lines_without_keys_work(hook: GeminiBatchHook, tmp_path: Path) -> None:
    lines = [{"content": {"parts": [{"text": f"line {n}"}]}} for n in range(2)]
    job = hook.create_embeddings_batch(EMBED, input_path=write_rows(tmp_path / "in.jsonl", lines))
    results = list(hook.get_responses(job))
    assert [r.key for r in results] == ["row-1", "row-2"]
    assert all(r.status == "succeeded" and r.embedding for r in results)


def test_settings_reach_rows_that_do_not_set_their_own(hook: GeminiBatchHook, emulator: EmulatorHandle) -> None:
    own = {
        "contents": [{"parts": [{"text": "b"}]}],
        "generationConfig": {"temperature": 1.0},
        "systemInstruction": {"parts": [{"text": "own"}]},
    }
    hook.create_batch(
        GENERATE,
        inlined_requests=[{"prompt": "a"}, {"request": own}],
        generation_config={"temperature": 0.0, "max_output_tokens": 9},
        system_instruction="common",
    )
    first, second = (row["request"] for row in sent_rows(emulator))
    assert first["generationConfig"] == {"temperature": 0.0, "maxOutputTokens": 9}
    assert first["systemInstruction"]["parts"] == [{"text": "common"}]
    assert second["generationConfig"] == {"temperature": 1.0, "maxOutputTokens": 9}
    assert second["systemInstruction"]["parts"] == [{"text": "own"}]


def test_every_embedding_option_reaches_every_row(hook: GeminiBatchHook, emulator: EmulatorHandle) -> None:
    job = hook.create_embeddings_batch(
        EMBED,
        inlined_requests=[{"key": "a", "text": "one"}, {"key": "b", "text": "two"}],
        display_name="vectors",
        task_type="RETRIEVAL_DOCUMENT",
        title="Book",
        output_dimensionality=8,
        priority=3,
        webhook_config={"uris": ["https://example.org/hook"]},
    )
    for row in sent_rows(emulator):
        text = str(row["request"])
        assert "RETRIEVAL_DOCUMENT" in text
        assert "Book" in text
        assert "8" in text
    assert emulator.state.all_jobs[-1].priority == 3
    assert [len(r.embedding or ()) for r in hook.get_responses(job)] == [8, 8]


def test_each_call_starts_its_own_job(hook: GeminiBatchHook, emulator: EmulatorHandle) -> None:
    names = {hook.create_batch(GENERATE, inlined_requests=rows(1), display_name="same").name for _ in range(2)}
    assert len(names) == emulator.ledger()["totals"]["created"] == 2


def test_rows_too_large_for_the_body_travel_as_a_file(hook: GeminiBatchHook, emulator: EmulatorHandle) -> None:
    hook.create_batch(GENERATE, inlined_requests=[{"prompt": "x" * 1_500_000} for _ in range(3)])
    assert len(hook.list_files().files) == 1
    assert emulator.ledger()["jobs"][0]["rows"] == 3


# --- get, list, wait ------------------------------------------------------------------------------------------------


def test_get_tells_state_counts_and_times(hook: GeminiBatchHook) -> None:
    job = hook.get_batch(hook.create_batch(GENERATE, inlined_requests=rows(2)).name)
    assert job.state is JobState.SUCCEEDED
    assert job.is_done and job.is_succeeded and not job.is_failed and not job.is_running  # noqa: PT018
    assert job.progress == 100.0
    assert (job.stats.total, job.stats.succeeded) == (2, 2)
    assert job.create_time


def test_a_missing_job_is_not_found(hook: GeminiBatchHook) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        hook.get_batch("batches/nowhere")


def test_list_all_reads_every_page_once_newest_first(hook: GeminiBatchHook, emulator: EmulatorHandle) -> None:
    emulator.seed_jobs(count=250)
    page = hook.list_batches(page_size=40)
    jobs = list(hook.list_all_batches())
    assert len(page.jobs) == 40
    assert page.next_page_token
    assert len({job.name for job in jobs}) == len(jobs) == 250
    assert all((newer.create_time or "") >= (older.create_time or "") for newer, older in pairwise(jobs))


@pytest.mark.parametrize("argument", ["page_token", "filter", "page_size"])
@pytest.mark.parametrize("backend", ["gemini", "vertex_ai"])
def test_an_argument_that_cannot_be_sent_is_told(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, backend: str, argument: str
) -> None:
    set_connection(monkeypatch, emulator.connection(backend))
    with pytest.raises(ConfigurationError, match=r"\\ud800"):
        GeminiBatchHook().list_batches(**{argument: "a\ud800"})


@pytest.mark.parametrize("backend", ["gemini", "vertex_ai"])
def test_a_filter_picks_the_same_jobs_on_both_backends(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    emulator.reset()
    emulator.script(mode="at_once", times=1, end={"state": "FAILED", "code": 13})
    emulator.script(mode="at_once")
    set_connection(monkeypatch, emulator.connection(backend))
    hook = GeminiBatchHook()
    for name in ("night a", "night b", "day"):
        hook.create_batch(GENERATE, inlined_requests=rows(1), display_name=name)

    def picked(text: str) -> list[str]:
        return [job.display_name.split(" [")[0] for job in hook.list_all_batches(filter=text)]

    assert picked('state="JOB_STATE_SUCCEEDED"') == ["day", "night b"]
    assert picked('display_name:"night*" AND NOT state="JOB_STATE_FAILED"') == ["night b"]
    assert picked('create_time>"2000-01-01T00:00:00Z"') == ["day", "night b", "night a"]
    assert picked("labels.team=x") == []


def test_wait_reports_every_look(hook: GeminiBatchHook, emulator: EmulatorHandle) -> None:
    emulator.reset()
    emulator.script(mode="reads", pending_reads=2, running_reads=2)
    name = hook.create_batch(GENERATE, inlined_requests=rows(4)).name
    seen: list[JobState] = []
    job = hook.wait_for_batch(name, poll_interval=0.01, on_progress=lambda job: seen.append(job.state))
    assert job.state is JobState.SUCCEEDED
    assert {JobState.PENDING, JobState.RUNNING, JobState.SUCCEEDED} <= set(seen)
    assert seen[-1] is JobState.SUCCEEDED


def test_wait_logs_a_line_at_every_change(
    hook: GeminiBatchHook,
    emulator: EmulatorHandle,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    emulator.reset()
    emulator.script(mode="reads", pending_reads=5, running_reads=5, rows=[{"key": "k0", "outcome": "error"}])
    caplog.set_level("INFO")
    name = hook.create_batch(GENERATE, inlined_requests=rows(4)).name
    hook.wait_for_batch(name, poll_interval=0.01, max_failed_rows=1)
    said = caplog.text or capsys.readouterr().out  # Airflow 3 logs to stdout
    lines = re.findall(rf"{name}: (\w+), (\S+) rows, (\d+) %(, 1 failed)?, \d+ s elapsed", said)
    assert list(dict.fromkeys(line[0] for line in lines)) == ["PENDING", "RUNNING", "SUCCEEDED"]
    assert lines[-1] == ("SUCCEEDED", "4/4", "100", ", 1 failed")
    assert len(lines) <= 4  # of more than ten looks


@pytest.mark.parametrize(("backend", "version"), [("gemini", "v1"), ("vertex_ai", "v1beta1")])
def test_the_connections_version_is_in_every_path(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str, version: str
) -> None:
    set_connection(monkeypatch, emulator.connection(backend, api_version=version))
    hook = GeminiBatchHook()
    job = hook.create_batch(GENERATE, input_path=write_rows(tmp_path / "in.jsonl", rows(2)))
    hook.wait_for_batch(job.name)
    assert len(list(hook.get_responses(job))) == 2
    hook.list_batches()
    hook.delete_batch(job.name)
    paths = [re.sub("^/(upload|download)(?=/)", "", call["path"]) for call in emulator.journal()]
    assert {path.split("/")[1] for path in paths} - {"storage", "token"} == {version}


@pytest.mark.parametrize(
    ("state", "error"),
    [("FAILED", JobFailedError), ("CANCELLED", JobCancelledError), ("EXPIRED", JobExpiredError)],
)
def test_wait_raises_how_a_job_ended(
    hook: GeminiBatchHook, emulator: EmulatorHandle, state: str, error: type[JobError]
) -> None:
    emulator.reset()
    emulator.script(mode="at_once", end={"state": state, "code": 13, "message": "the reason given"})
    name = hook.create_batch(GENERATE, inlined_requests=rows(1)).name
    with pytest.raises(error) as caught:
        hook.wait_for_batch(name, poll_interval=0.01)
    assert caught.value.job is not None
    assert caught.value.job.name == name in str(caught.value)
    if state == "FAILED":
        assert "the reason given" in str(caught.value)


def test_wait_stops_at_its_timeout_and_leaves_the_job(hook: GeminiBatchHook, emulator: EmulatorHandle) -> None:
    emulator.reset()
    emulator.script(stuck="RUNNING")
    name = hook.create_batch(GENERATE, inlined_requests=rows(1)).name
    with pytest.raises(JobTimeoutError, match="may still run"):
        hook.wait_for_batch(name, poll_interval=0.01, timeout=0.3)
    assert emulator.ledger()["totals"]["running"] == 1


@pytest.mark.usefixtures("stepped")
def test_wait_survives_passing_faults(hook: GeminiBatchHook, emulator: EmulatorHandle) -> None:
    name = hook.create_batch(GENERATE, inlined_requests=rows(1)).name
    fault = emulator.fault(match={"method": "GET", "path": name}, status=429, retry_after=0.1, times=2)
    assert hook.wait_for_batch(name, poll_interval=0.01).is_succeeded
    assert fault.fired == 2


@pytest.mark.usefixtures("stepped")
def test_wait_says_that_polls_fail_and_that_they_work_again(
    hook: GeminiBatchHook,
    emulator: EmulatorHandle,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = hook.create_batch(GENERATE, inlined_requests=rows(1)).name
    emulator.fault(match={"method": "GET", "path": name}, status=429, retry_after=0.1, times=3, message="slow down")
    caplog.set_level("INFO")
    hook.wait_for_batch(name, poll_interval=0.01)
    lines = (caplog.text or capsys.readouterr().out).splitlines()
    assert len([line for line in lines if "Polling has failed" in line and "slow down" in line]) == 1
    assert len([line for line in lines if f"{name} can be polled again" in line]) == 1


def test_an_outage_is_told_at_once_every_five_minutes_and_at_its_end() -> None:
    lines: list[str] = []
    report = ProgressReport(lines.append, 0.0)
    job = BatchJob("batches/a", state=JobState.RUNNING, state_text="BATCH_STATE_RUNNING")
    for now in range(0, 3600, 60):
        if 600 <= now < 2100:
            report.fault(TransportError("No connection to host:443: it refused the connection."), float(now))
        else:
            report.see(job, float(now))
    assert [line.split(";")[0].split(", ")[0] for line in lines] == [
        "batches/a: RUNNING",
        "Polling has failed",
        "Polling has failed for 5 min 0 s",
        "Polling has failed for 10 min 0 s",
        "Polling has failed for 15 min 0 s",
        "Polling has failed for 20 min 0 s",
        "batches/a can be polled again",
        "batches/a: RUNNING",
        "batches/a: RUNNING",
    ]
    assert lines[1].endswith("waiting goes on. No connection to host:443: it refused the connection.")


# --- cancel, delete -------------------------------------------------------------------------------------------------


def test_cancel_ends_a_job_and_is_fine_with_a_gone_one(hook: GeminiBatchHook, emulator: EmulatorHandle) -> None:
    emulator.reset()
    emulator.script(stuck="PENDING")
    name = hook.create_batch(GENERATE, inlined_requests=rows(1)).name
    hook.cancel_batch(name)
    emulator.advance(10)
    assert hook.get_batch(name).state is JobState.CANCELLED
    hook.cancel_batch(name)
    hook.cancel_batch("batches/gone")


def test_delete_removes_a_job_and_is_fine_with_a_gone_one(hook: GeminiBatchHook) -> None:
    name = hook.create_batch(GENERATE, inlined_requests=rows(1)).name
    hook.delete_batch(name)
    hook.delete_batch(name)
    assert [job.name for job in hook.list_all_batches()] == []


def test_responses_of_a_job_without_any_say_why(hook: GeminiBatchHook, emulator: EmulatorHandle) -> None:
    emulator.reset()
    emulator.script(mode="at_once", end={"state": "FAILED", "code": 3, "message": "bad rows"}, times=1)
    name = hook.create_batch(GENERATE, inlined_requests=rows(1)).name
    with pytest.raises(JobFailedError, match="bad rows"):
        list(hook.get_responses(name))
    emulator.script(stuck="RUNNING")
    name = hook.create_batch(GENERATE, inlined_requests=rows(1)).name
    with pytest.raises(ConfigurationError, match="no results"):
        list(hook.get_responses(name))


@pytest.mark.parametrize("readable", [True, False])
def test_failed_rows_are_told_by_wait_as_a_warning_with_the_reasons_if_they_can_be_read(
    hook: GeminiBatchHook,
    emulator: EmulatorHandle,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    readable: bool,
) -> None:
    emulator.reset()
    emulator.script(mode="at_once", rows=[{"key": "k1", "outcome": "error", "code": 13, "message": "broke"}])
    if not readable:
        emulator.fault(match={"path": ":download"}, status=403, times=None)
    name = hook.create_batch(GENERATE, input_path=write_rows(tmp_path / "in.jsonl", rows(3))).name
    caplog.set_level("WARNING")
    assert hook.wait_for_batch(name, poll_interval=0.01, max_failed_rows=None).stats.failed == 1
    said = caplog.text + capsys.readouterr().out  # Airflow 3 logs to stdout
    assert "1 of 3 rows have no usable answer" + (" (1 x broke (code 13))." if readable else ".") in said
    assert ("could not be looked up" in said) is not readable


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    path = tmp_path / "payload.jsonl"
    path.write_bytes(os.urandom(20 << 20))
    return path


def test_an_upload_cut_three_times_arrives_whole(
    hook: GeminiBatchHook, emulator: EmulatorHandle, payload: Path
) -> None:
    upload = emulator.fault(match={"path": "/upload/"}, skip=1, action="cut_upload", bytes=3 << 20, times=3)
    remote = hook.upload_file(payload, display_name="payload", mime_type="text/plain")
    assert upload.fired == 3
    assert remote.name.startswith("files/")
    assert (remote.display_name, remote.mime_type, remote.size) == ("payload", "text/plain", 20 << 20)
    assert remote.sha256 == hashlib.sha256(payload.read_bytes()).hexdigest()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.usefixtures("stepped")
def test_a_download_cut_three_times_arrives_whole(
    hook: GeminiBatchHook, emulator: EmulatorHandle, tmp_path: Path, ranges: bool
) -> None:
    emulator.reset()
    emulator.configure(download_ranges=ranges)
    emulator.script(mode="at_once", result_bytes=8 << 20)
    job = hook.create_batch(GENERATE, input_path=write_rows(tmp_path / "in.jsonl", rows(2)))
    output = hook.wait_for_batch(job.name, poll_interval=0.01).output
    assert output is not None
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert hook.download_file(output.place, whole) == str(whole)
    fault = emulator.fault(match={"path": ":download"}, action="cut_response", bytes=3 << 20, times=3)
    hook.download_file(output.place, str(cut))
    assert fault.fired == 3
    assert whole.stat().st_size >= 8 << 20
    assert cut.read_bytes() == whole.read_bytes()


def test_a_file_is_looked_at_listed_and_deleted(hook: GeminiBatchHook, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n")
    name = hook.upload_file(path).name
    assert hook.upload_file(path).name == name, "the same bytes are not sent twice"
    assert hook.get_file(name).size == 3
    path.write_text("[]\n")
    other = hook.upload_file(path).name
    assert other != name, "other bytes are sent, though there are as many"
    hook.delete_file(other)
    assert [file.name for file in hook.list_files().files] == [name]
    hook.delete_file(name)
    hook.delete_file(name)
    assert hook.list_files().files == ()


def test_a_failed_download_leaves_no_file(hook: GeminiBatchHook, tmp_path: Path) -> None:
    from airflow_provider_gemini_batch.errors import GeminiBatchError

    with pytest.raises(GeminiBatchError):
        hook.download_file("files/nowhere", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# --- connection -----------------------------------------------------------------------------------------------------


def test_connection_test_accepts_a_good_key(hook: GeminiBatchHook) -> None:
    ok, message = hook.test_connection()
    assert ok
    assert message.startswith("Connected to the Gemini Developer API.")


def test_connection_test_tells_a_bad_key(emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    set_connection(monkeypatch, {**emulator.connection("gemini"), "password": "bad-key-0123"})
    ok, message = GeminiBatchHook().test_connection()
    assert not ok
    assert "key" in message.lower()
    assert "bad-key-0123" not in message


def test_connection_test_tells_bad_fields(emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    set_connection(monkeypatch, {"conn_type": "gemini_batch", "password": "k", "host": "http://example.org"})
    ok, message = GeminiBatchHook().test_connection()
    assert not ok
    assert "http://" in message


def test_form_names_and_labels_every_field() -> None:
    pytest.importorskip("flask_appbuilder", reason="Airflow before 3.2 draws the form with it")
    widgets = GeminiBatchHook.get_connection_form_widgets()
    documented = {
        "backend", "project", "location", "storage_uri", "storage_host", "keyfile_dict", "key_path",
        "credential_config_file", "impersonation_chain", "quota_project", "scopes", "api_version", "timeout",
        "max_retries", "allow_http",
    }  # fmt: skip
    assert documented <= {name.rsplit("__", 1)[-1] for name in widgets}


def test_form_labels_the_key() -> None:
    behaviour = GeminiBatchHook.get_ui_field_behaviour()
    assert "key" in behaviour["relabeling"]["password"].lower()
    assert {"schema", "login", "port"} & set(behaviour["hidden_fields"])


def test_partial_success_is_its_own_error(hook: GeminiBatchHook, emulator: EmulatorHandle) -> None:
    emulator.reset()
    emulator.script(mode="at_once", end={"state": "PARTIALLY_SUCCEEDED", "share": 0.5})
    name = hook.create_batch(GENERATE, inlined_requests=rows(4)).name
    with pytest.raises(PartialFailureError, match="max_failed_rows"):
        hook.wait_for_batch(name, poll_interval=0.01)
