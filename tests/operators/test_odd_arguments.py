# SPDX-License-Identifier: Apache-2.0
"""Arguments that nobody should pass, and what they would have cost."""

from __future__ import annotations

import asyncio
import os
import traceback
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError, ReplyFormatError
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.operators import (
    CleanUpBatchesOperator,
    CreateBatchOperator,
    DownloadResultsOperator,
    UploadFileOperator,
)
from airflow_provider_gemini_batch.triggers import BatchJobTrigger
from tests.support.airflow_side import attempt, rows, set_connection, write_rows

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    return gemini_batch_emulator


def create(**arguments: Any) -> CreateBatchOperator:
    given = {"inlined_requests": rows(2), "model": "gemini-3.5-flash-lite", **arguments}
    return CreateBatchOperator(task_id="create", **given)


def created(emulator: EmulatorHandle) -> int:
    return int(emulator.ledger()["totals"]["created"])


def test_an_interval_may_be_a_timedelta(emulator: EmulatorHandle) -> None:
    emulator.script(pending_seconds=0.1, running_seconds=0.1)
    create(wait_for_completion=True, poll_interval=timedelta(seconds=0.05)).execute(attempt())
    assert created(emulator) == 1


@pytest.mark.parametrize("name", ["dry_run", "delete_files"])
@pytest.mark.parametrize("value", ["False", 0, None])
def test_what_says_whether_to_delete_is_true_or_false(emulator: EmulatorHandle, name: str, value: Any) -> None:
    emulator.seed_jobs(count=2, state="SUCCEEDED")
    with pytest.raises(ConfigurationError, match=f"{name} must be True or False"):
        CleanUpBatchesOperator(task_id="clean_up", **{name: value}).execute({})
    assert len(list(GeminiBatchHook().list_all_batches())) == 2


def test_the_hook_waits_by_timedelta(emulator: EmulatorHandle) -> None:
    emulator.script(pending_seconds=0.1, running_seconds=0.1)
    hook = GeminiBatchHook()
    job = hook.create_batch("gemini-3.5-flash-lite", inlined_requests=rows(1))
    ended = hook.wait_for_batch(job.name, poll_interval=timedelta(seconds=0.05), timeout=timedelta(minutes=1))
    assert ended.is_succeeded


@pytest.mark.parametrize("value", ["30", 0, -1, float("nan"), True])
def test_an_odd_interval_ends_its_own_wait_and_no_other(emulator: EmulatorHandle, value: Any) -> None:
    emulator.script(pending_seconds=0.2, running_seconds=0.2)
    name = create().execute(attempt())

    async def event(trigger: BatchJobTrigger) -> dict[str, Any]:
        async for each in trigger.run():
            return dict(each.payload)
        raise AssertionError("no event")

    async def both() -> list[dict[str, Any]]:
        odd, sound = (BatchJobTrigger(name, poll_interval=interval) for interval in (value, 0.1))
        return await asyncio.wait_for(asyncio.gather(event(odd), event(sound)), 20)

    odd, sound = asyncio.run(both())
    assert (odd["outcome"], odd["error"]) == ("error", "TriggerEventError")
    assert (sound["outcome"], sound["state"]) == ("ended", "SUCCEEDED")


@pytest.mark.parametrize("name", ["timeout", "submit_timeout", "pending_timeout", "poll_interval"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e14, timedelta.max])
def test_a_duration_beyond_all_bounds_is_refused_before_a_job_exists(
    emulator: EmulatorHandle, name: str, value: Any
) -> None:
    with pytest.raises(ConfigurationError, match=name):
        create(wait_for_completion=True, deferrable=True, **{name: value}).execute(attempt())
    assert created(emulator) == 0


def test_what_cannot_work_is_one_error_in_the_log(emulator: EmulatorHandle) -> None:
    with pytest.raises(ConfigurationError) as caught:
        create(inlined_requests=None, input_path="/usr").execute(attempt())
    told = "".join(traceback.format_exception(caught.value))
    assert told.count("Traceback") == 1
    assert told.count("'/usr' is not a regular file.") == 1


class Heard:
    """Takes the place of an operator's log."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str, *values: Any) -> None:
        self.lines.append(text % values)

    def warning(self, text: str, *values: Any) -> None:
        """Airflow says that no task runner is there."""


def test_what_came_of_a_submission_is_said_once(emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator.script(pending_seconds=60)
    heard = Heard()
    monkeypatch.setattr(CreateBatchOperator, "log", heard, raising=False)
    monkeypatch.setattr("time.sleep", lambda _: None)
    name = create().execute(attempt())
    create().execute(attempt(2))
    cost, first, second = heard.lines
    assert cost.startswith("What it may cost: ")
    assert first.startswith(f"Created {name}: ")
    assert second.startswith(f"Adopting {name} (PENDING), ")


@pytest.mark.parametrize("config", [{"stop_sequences": {"END", "STOP"}}, {"temperature": float("nan")}])
def test_a_setting_without_one_meaning_is_refused(emulator: EmulatorHandle, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        create(generation_config=config).execute(attempt())
    assert created(emulator) == 0


def test_rows_that_can_be_read_once_survive_a_wait_for_quota(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    emulator.fault(match={"path": ":batchGenerateContent"}, status=429, times=1)
    create(inlined_requests=iter(rows(3))).execute(attempt())
    assert emulator.ledger()["jobs"][0]["rows"] == 3


def test_no_states_remove_no_job(emulator: EmulatorHandle) -> None:
    emulator.script(mode="at_once")
    create().execute(attempt())
    assert CleanUpBatchesOperator(task_id="clean", states=[]).execute({}) == []


def test_an_empty_prefix_removes_no_job(emulator: EmulatorHandle) -> None:
    with pytest.raises(ConfigurationError, match="display_name_prefix"):
        CleanUpBatchesOperator(task_id="clean", display_name_prefix="").execute({})


def test_a_list_that_does_not_end_is_an_error(emulator: EmulatorHandle) -> None:
    page = {"operations": [], "nextPageToken": "again"}
    emulator.fault(match={"path": "/batches$"}, status=200, body=page, times=None)
    with pytest.raises(ReplyFormatError, match="does not end"):
        list(GeminiBatchHook().list_all_batches())


@pytest.mark.parametrize("seconds", ["0", "nan", "abc", "1e9"])
def test_too_little_patience_for_a_lost_answer_is_refused(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__SETTLE_SECONDS", seconds)
    with pytest.raises(ConfigurationError, match="settle_seconds"):
        create().execute(attempt())
    assert created(emulator) == 0


@pytest.mark.parametrize("body", ["html", "empty", {"error": {"code": 503}}])
def test_a_page_in_place_of_answers_leaves_the_file_of_yesterday(
    emulator: EmulatorHandle, tmp_path: Path, body: Any
) -> None:
    emulator.script(mode="at_once")
    path = write_rows(tmp_path / "in.jsonl", rows(2))
    name = CreateBatchOperator(task_id="create", model="gemini-3.5-flash-lite", input_path=path).execute(attempt())
    out = tmp_path / "out.jsonl"
    out.write_text("yesterday")
    emulator.fault(match={"query": "alt=media"}, status=200, body=body, times=1)
    download = DownloadResultsOperator(task_id="results", job_name=name, input_path=path, output_path=str(out))
    with pytest.raises(GeminiBatchError, match="none that can be read"):
        download.execute({})
    assert out.read_text() == "yesterday"
    assert download.execute({})["succeeded"] == 2


def test_a_device_is_never_replaced_by_a_file(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.script(mode="at_once")
    name = create().execute(attempt())
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigurationError, match="not a file"):
        DownloadResultsOperator(task_id="results", job_name=name, output_path=str(pipe)).execute({})
    assert pipe.is_fifo()


def test_a_link_and_a_mode_stay(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.script(mode="at_once")
    name = create().execute(attempt())
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    DownloadResultsOperator(task_id="results", job_name=name, output_path=str(link)).execute({})
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert len(real.read_text().splitlines()) == 2


def test_paths_and_choices_are_templated(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.script(mode="at_once")
    write_rows(tmp_path / "2026-01-01.jsonl", [{"text": "a"}])
    day = {"ds": "2026-01-01", "kind": "embed", "policy": "reuse"}
    upload = UploadFileOperator(task_id="upload", input_path=tmp_path / "{{ ds }}.jsonl", kind="{{ kind }}")  # type: ignore[arg-type]
    upload.render_template_fields(day)
    assert upload.execute(attempt()).startswith("files/")
    task = create(on_existing_job="{{ policy }}")
    task.render_template_fields(day)
    name = task.execute(attempt())
    download = DownloadResultsOperator(task_id="download", job_name=name, output_path=tmp_path / "{{ ds }}.out")  # type: ignore[arg-type]
    download.render_template_fields(day)
    assert download.execute(attempt())["output_path"] == str(tmp_path / "2026-01-01.out")
    assert (tmp_path / "2026-01-01.out").exists()


@pytest.mark.parametrize("name", ["", None, "None", "  "])
def test_a_name_that_came_from_nothing_is_told_so(emulator: EmulatorHandle, name: Any) -> None:
    with pytest.raises(ConfigurationError, match="job_name is empty: what it comes from"):
        GeminiBatchHook().get_batch(name)


def test_result_rows_are_no_input_rows(emulator: EmulatorHandle) -> None:
    row = {"key": "k", "status": "failed", "text": None, "finish_reason": None, "error": {"code": 3, "message": "m"}}
    with pytest.raises(ConfigurationError, match=r"row 1 \(key 'k'\): is a result row, not an input row"):
        create(inlined_requests=[row]).execute(attempt())
    assert created(emulator) == 0
