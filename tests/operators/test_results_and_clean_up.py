# SPDX-License-Identifier: Apache-2.0
"""Landing results, looking at jobs, and removing them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.cost.spend import summed
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    JobCancelledError,
    JobError,
    JobFailedError,
    NotFoundError,
    PartialFailureError,
)
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.operators import (
    CancelBatchOperator,
    CleanUpBatchesOperator,
    CreateBatchOperator,
    DeleteBatchOperator,
    DeleteFileOperator,
    DownloadResultsOperator,
    GetBatchOperator,
    ListBatchesOperator,
    UploadFileOperator,
)
from airflow_provider_gemini_batch.task.history import read_history
from tests.support.airflow_side import attempt, rows, set_connection, write_rows

if TYPE_CHECKING:
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    return gemini_batch_emulator


def submit(**arguments: Any) -> str:
    return str(CreateBatchOperator(task_id="create", model="gemini-3.5-flash-lite", **arguments).execute(attempt()))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def download(name: str, folder: Path, **arguments: Any) -> dict[str, Any]:
    operator = DownloadResultsOperator(task_id="d", job_name=name, output_path=str(folder / "out.jsonl"), **arguments)
    return dict(operator.execute({}))


def test_results_land_in_input_order_with_errors_blocked_and_missing_rows(
    emulator: EmulatorHandle, tmp_path: Path
) -> None:
    failing = [{"key": f"k{n}", "outcome": "error", "code": 13, "message": "broke"} for n in range(0, 1000, 50)]
    emulator.script(
        mode="at_once",
        shuffle=True,
        rows=[
            *failing,
            {"key": "k7", "outcome": "blocked_prompt"},
            {"key": "k8", "outcome": "blocked_output"},
            {"key": "k9", "outcome": "missing"},
        ],
    )
    path = write_rows(tmp_path / "in.jsonl", rows(1000))
    manifest = download(submit(input_path=path), tmp_path, input_path=path, errors_path=str(tmp_path / "errors.jsonl"))
    landed = lines_of(tmp_path / "out.jsonl")
    status = {line["key"]: line["status"] for line in landed}
    assert [line["key"] for line in landed] == [f"k{n}" for n in range(1000)]
    assert (status["k7"], status["k8"], status["k9"]) == ("blocked", "blocked", "missing")
    assert {key for key, word in status.items() if word == "failed"} == {f"k{n}" for n in range(0, 1000, 50)}
    assert landed[0]["error"] == {"code": 13, "message": "broke"}
    assert (manifest["total"], manifest["succeeded"]) == (1000, 977)
    assert manifest["missing"] == 1
    assert len(lines_of(tmp_path / "errors.jsonl")) == 23


def test_rows_without_an_answer_are_warned_about_with_counts_and_reasons(
    emulator: EmulatorHandle, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.script(
        mode="at_once",
        rows=[
            {"key": "k0", "outcome": "error", "code": 13, "message": "broke"},
            {"key": "k1", "outcome": "blocked_prompt"},
            {"key": "k2", "outcome": "missing"},
            {"key": "k3", "outcome": "missing"},
        ],
    )
    path = write_rows(tmp_path / "in.jsonl", rows(6))
    download(submit(input_path=path), tmp_path, input_path=path, max_failed_rows=None)
    said = caplog.text + capsys.readouterr().out  # Airflow 3 logs to stdout
    assert (
        "4 of 6 rows have no usable answer: 1 failed, 1 blocked, 2 missing "
        "(1 x broke (code 13); 1 x the prompt was blocked: SAFETY)."
    ) in said


@pytest.mark.parametrize(("allowed", "fails"), [(1, True), (2, False), (0.1, True), (0.5, False)])
def test_good_rows_are_landed_before_a_threshold_fails_the_task(
    emulator: EmulatorHandle, tmp_path: Path, allowed: float, fails: bool
) -> None:
    emulator.script(mode="at_once", rows=[{"key": k, "outcome": "error", "code": 8} for k in ("k0", "k3")])
    name = submit(inlined_requests=rows(4))
    if fails:
        with pytest.raises(PartialFailureError, match=r"2 of 4.*max_failed_rows"):
            download(name, tmp_path, max_failed_rows=allowed)
    else:
        assert download(name, tmp_path, max_failed_rows=allowed)["succeeded"] == 2
    assert len(lines_of(tmp_path / "out.jsonl")) == 4


def test_the_manifest_tells_the_cost_and_history_keeps_it(
    emulator: EmulatorHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__HISTORY_PATH", str(tmp_path / "history"))
    emulator.script(mode="at_once")
    operator = DownloadResultsOperator(
        task_id="d", job_name=submit(inlined_requests=rows(20)), output_path=str(tmp_path / "out.jsonl")
    )
    manifest = operator.execute(attempt())
    landed = lines_of(tmp_path / "out.jsonl")
    (part,) = summed(read_history(str(tmp_path / "history")), ["model"])
    ((version, costs),) = manifest["costs"].items()
    assert costs["cost"] == pytest.approx(sum(row["cost"] for row in landed))
    assert costs["single_calls"] == pytest.approx(2 * costs["cost"])
    assert (part["model"], part["rows"]) == (version, 20)
    assert part["cost"] == pytest.approx(costs["cost"])


def test_responses_are_left_out_on_request(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.script(mode="at_once")
    name = submit(inlined_requests=rows(1))
    download(name, tmp_path, include_response=False)
    assert "response" not in lines_of(tmp_path / "out.jsonl")[0]
    download(name, tmp_path)
    assert lines_of(tmp_path / "out.jsonl")[0]["response"]["candidates"]


def test_results_of_a_running_job_are_an_error_and_no_file(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.script(stuck="RUNNING")
    with pytest.raises(JobError, match="not ended"):
        download(submit(inlined_requests=rows(1)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_results_of_a_failed_job_tell_its_reason(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.script(mode="at_once", end={"state": "FAILED", "code": 3, "message": "the rows are bad"})
    with pytest.raises(JobFailedError, match="the rows are bad"):
        download(submit(inlined_requests=rows(1)), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backend", ["gemini", "vertex_ai"])
@pytest.mark.parametrize(("share", "landed"), [(0.5, True), (0.0, False)])
def test_what_a_cancelled_job_left_is_landed_with_a_warning_and_nothing_is_its_error(
    emulator: EmulatorHandle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    backend: str,
    share: float,
    landed: bool,
) -> None:
    set_connection(monkeypatch, emulator.connection(backend))
    emulator.script(mode="at_once", end={"state": "CANCELLED", "code": 1, "message": "by hand", "share": share})
    path = write_rows(tmp_path / "in.jsonl", rows(4))
    name = submit(input_path=path)
    if landed:
        manifest = download(name, tmp_path, input_path=path, max_failed_rows=2)
        assert (manifest["succeeded"], manifest["missing"]) == (2, 2)
        assert "was cancelled. The service says: by hand (code 1). What it left is landed." in (
            caplog.text + capsys.readouterr().out  # Airflow 3 logs to stdout
        )
    else:
        with pytest.raises(JobCancelledError, match="by hand"):
            download(name, tmp_path, input_path=path)


def test_a_job_that_could_not_write_its_results_says_so_and_not_that_they_are_gone(
    emulator: EmulatorHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_connection(monkeypatch, emulator.connection("vertex_ai"))
    emulator.script(mode="at_once")
    emulator.configure(unwritable_buckets=["emulator"])
    name = submit(inlined_requests=rows(2))
    with pytest.raises(JobFailedError, match=r"storage\.objects\.create"):
        download(name, tmp_path)
    with pytest.raises(JobFailedError, match=r"storage\.objects\.create"):
        list(GeminiBatchHook().get_responses(name))


def test_seed_documented_lines_land_with_their_row_numbers(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.script(mode="at_once")
    path = write_rows(tmp_path / "in.jsonl", [{"contents": [{"parts": [{"text": t}]}]} for t in ("a", "b")])
    download(submit(input_path=path), tmp_path, input_path=path)
    assert [line["key"] for line in lines_of(tmp_path / "out.jsonl")] == ["row-1", "row-2"]


# --- looking --------------------------------------------------------------------------------------------------------


def test_get_returns_a_summary_without_answers(emulator: EmulatorHandle) -> None:
    emulator.script(mode="at_once")
    name = submit(inlined_requests=rows(2))
    summary = GetBatchOperator(task_id="g", job_name=name).execute({})
    assert (summary["name"], summary["state"], summary["stats"]["succeeded"]) == (name, "SUCCEEDED", 2)
    assert "Say" not in json.dumps(summary)


def test_get_of_a_missing_job_is_not_found(emulator: EmulatorHandle) -> None:
    with pytest.raises(NotFoundError):
        GetBatchOperator(task_id="g", job_name="batches/nowhere").execute({})


def test_list_picks_by_state_prefix_and_limit(emulator: EmulatorHandle) -> None:
    emulator.seed_jobs(count=120, display_name="old-{n}")
    emulator.seed_jobs(count=3, display_name="new-{n}", state="FAILED")

    def listed(**arguments: Any) -> list[dict[str, Any]]:
        return list(ListBatchesOperator(task_id="l", **arguments).execute({}))

    assert len(listed()) == 123
    assert {job["state"] for job in listed(states=["FAILED"])} == {"FAILED"}
    assert len(listed(states=["BATCH_STATE_FAILED"])) == len(listed(display_name_prefix="new-")) == 3
    assert len(listed(limit=5)) == 5


# --- removing -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("stepped")
@pytest.mark.parametrize("operator", [CancelBatchOperator, DeleteBatchOperator])
def test_a_job_just_created_that_is_not_found_at_once_is_ended_all_the_same(
    emulator: EmulatorHandle, operator: Any
) -> None:
    emulator.configure(cancel_settle_seconds=0)
    emulator.script(stuck="PENDING")
    name = submit(inlined_requests=rows(1))
    emulator.fault(match={"path": f"/{name}(:cancel)?$"}, status=404, reason="NOT_FOUND", times=2)
    operator(task_id="c", job_name=name).execute({})
    assert emulator.state.all_jobs[0].cancelled is not None


@pytest.mark.usefixtures("stepped")
def test_cancel_ends_a_job_and_is_fine_with_a_gone_one(emulator: EmulatorHandle) -> None:
    emulator.script(stuck="PENDING")
    name = submit(inlined_requests=rows(1))
    assert CancelBatchOperator(task_id="c", job_name=name).execute({}) is None
    assert emulator.state.all_jobs[0].cancelled is not None
    CancelBatchOperator(task_id="c", job_name="batches/gone").execute({})


@pytest.mark.usefixtures("stepped")
def test_delete_cancels_a_running_job_first(emulator: EmulatorHandle) -> None:
    emulator.configure(cancel_settle_seconds=0)
    emulator.script(stuck="PENDING")
    name = submit(inlined_requests=rows(1))
    with pytest.raises(ConfigurationError, match="Cancel it first"):
        DeleteBatchOperator(task_id="d", job_name=name, cancel_running=False).execute({})
    DeleteBatchOperator(task_id="d", job_name=name).execute({})
    DeleteBatchOperator(task_id="d", job_name=name).execute({})
    assert emulator.ledger()["jobs"][0]["deleted"]
    assert emulator.ledger()["totals"]["running"] == 0


def test_delete_file_removes_it_and_is_fine_with_a_gone_one(emulator: EmulatorHandle, tmp_path: Path) -> None:
    name = UploadFileOperator(task_id="u", input_path=write_rows(tmp_path / "in.jsonl", rows(1))).execute({})
    DeleteFileOperator(task_id="d", file_name=name).execute({})
    DeleteFileOperator(task_id="d", file_name=name).execute({})
    assert GeminiBatchHook().list_files().files == ()


def test_a_second_upload_of_the_same_rows_sends_nothing(emulator: EmulatorHandle, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", rows(3))
    names = {UploadFileOperator(task_id="u", input_path=path).execute({}) for _ in range(2)}
    assert len(names) == len(GeminiBatchHook().list_files().files) == 1


def test_a_file_that_would_expire_during_the_job_is_sent_again(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.configure(file_lifetime_seconds=3600)
    path = write_rows(tmp_path / "in.jsonl", rows(3))
    names = {UploadFileOperator(task_id="u", input_path=path).execute({}) for _ in range(2)}
    assert len(names) == len(GeminiBatchHook().list_files().files) == 2


def test_clean_up_removes_what_is_old_and_ours_with_its_files(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.script(mode="at_once")
    path = write_rows(tmp_path / "in.jsonl", rows(2))
    mine = submit(input_path=path, display_name="nightly")
    other = submit(inlined_requests=rows(1), display_name="elsewhere", submission_salt="x")
    GetBatchOperator(task_id="g", job_name=mine).execute({})

    def clean(**arguments: Any) -> list[str]:
        operator = CleanUpBatchesOperator(task_id="c", display_name_prefix="nightly", delete_files=True, **arguments)
        return [entry["name"] for entry in operator.execute({})]

    assert clean(older_than=3600) == []
    assert clean(states=["FAILED"]) == []
    assert clean(dry_run=True) == [mine]
    hook = GeminiBatchHook()
    assert {job.name for job in hook.list_all_batches()} == {mine, other}
    assert clean() == [mine]
    assert [job.name for job in hook.list_all_batches()] == [other]
    assert all(file.mime_type != "application/jsonl" for file in hook.list_files().files)
