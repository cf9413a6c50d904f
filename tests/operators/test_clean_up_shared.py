# SPDX-License-Identifier: Apache-2.0
"""Clean-up spares what others use, and takes what templates make of its arguments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    GeminiBatchError,
    NotFoundError,
    PermissionDeniedError,
)
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.operators import CleanUpBatchesOperator, CreateBatchOperator, DeleteFileOperator
from tests.support.airflow_side import attempt, rows, write_rows

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle


def submit(path: str, run_id: str) -> str:
    operator = CreateBatchOperator(task_id="create", model="gemini-3.5-flash-lite", input_path=path)
    return str(operator.execute(attempt(run_id=run_id)))


def test_the_file_of_a_job_that_still_runs_is_kept(emulator: EmulatorHandle, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", rows(5))
    emulator.script(mode="at_once", times=1)
    emulator.script(mode="time", pending_seconds=60, running_seconds=60)
    old, new = submit(path, "monday"), submit(path, "tuesday")
    hook = GeminiBatchHook()
    place = hook.get_batch(new).input_place
    assert place == hook.get_batch(old).input_place, "the same rows are sent once"
    [removed] = CleanUpBatchesOperator(task_id="clean_up", delete_files=True).execute({})
    assert (removed["name"], removed["file"]) == (old, None)
    emulator.advance(600)
    assert hook.get_batch(new).state is JobState.SUCCEEDED
    [removed] = CleanUpBatchesOperator(task_id="clean_up", delete_files=True).execute({})
    assert (removed["name"], removed["file"]) == (new, place)


def test_the_file_of_a_job_that_could_not_be_removed_is_kept(emulator: EmulatorHandle, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", rows(5))
    emulator.script(mode="at_once", times=1)
    emulator.script(mode="time", pending_seconds=60, running_seconds=6000)
    old, new = submit(path, "monday"), submit(path, "tuesday")
    emulator.fault(match={"path": ":cancel$"}, times=None, status=403, reason="PERMISSION_DENIED")
    operator = CleanUpBatchesOperator(task_id="clean_up", delete_files=True, states="SUCCEEDED,PENDING,RUNNING")
    with pytest.raises(GeminiBatchError, match=f"1 jobs were removed, 1 jobs or files could not be: {new}"):
        operator.execute({})
    hook = GeminiBatchHook()
    job = hook.get_batch(new)
    assert job.is_running
    assert job.input_place is not None
    assert hook.get_file(job.input_place).state == "ACTIVE"
    with pytest.raises(NotFoundError):
        hook.get_batch(old)


def test_an_account_that_may_not_see_jobs_may_still_delete_files(emulator: EmulatorHandle, tmp_path: Path) -> None:
    hook = GeminiBatchHook()
    file = hook.upload_file(write_rows(tmp_path / "in.jsonl", rows(5)))
    emulator.fault(
        match={"method": "GET", "path": "batches$|batchPredictionJobs$"}, times=None, status=403,
        reason="PERMISSION_DENIED",
    )  # fmt: skip
    DeleteFileOperator(task_id="delete", file_name=file.name).execute({})
    with pytest.raises((NotFoundError, PermissionDeniedError)):
        hook.get_file(file.name)


def test_a_file_is_deleted_once_no_job_reads_it(emulator: EmulatorHandle, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", rows(5))
    emulator.script(mode="time", pending_seconds=60, running_seconds=60)
    hook = GeminiBatchHook()
    job = hook.get_batch(submit(path, "tuesday"))
    assert job.input_place is not None
    DeleteFileOperator(task_id="delete", file_name=job.input_place).execute({})
    assert hook.get_file(job.input_place).state == "ACTIVE"
    emulator.advance(600)
    assert hook.get_batch(job.name).stats.succeeded == 5
    DeleteFileOperator(task_id="delete", file_name=job.input_place).execute({})
    with pytest.raises((NotFoundError, PermissionDeniedError)):
        hook.get_file(job.input_place)


@pytest.mark.parametrize(("age", "states", "count"), [("3600", "SUCCEEDED, FAILED", 0), (None, "SUCCEEDED", 1)])
def test_templated_arguments_are_text(emulator: EmulatorHandle, age: Any, states: Any, count: int) -> None:
    emulator.script(mode="at_once")
    CreateBatchOperator(task_id="create", model="gemini-3.5-flash-lite", inlined_requests=rows(1)).execute(attempt())
    operator = CleanUpBatchesOperator(task_id="clean_up", older_than=age, states=states, dry_run=True)
    assert len(operator.execute({})) == count


@pytest.mark.parametrize(
    "wrong", [{"older_than": "a week"}, {"older_than": "-5"}, {"older_than": ""}, {"states": "DONE"}, {"states": ""}]
)
def test_text_that_means_nothing_is_refused(emulator: EmulatorHandle, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        CleanUpBatchesOperator(task_id="clean_up", **wrong).execute({})
