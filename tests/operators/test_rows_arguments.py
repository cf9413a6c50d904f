# SPDX-License-Identifier: Apache-2.0
"""Keys of other names, members of one's own, inputs without rows and rows that cannot be sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.compat import AirflowFailException, AirflowSkipException
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.operators import CreateBatchOperator, UploadFileOperator
from tests.support.airflow_side import attempt, set_connection, write_rows

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

CONTENTS = [{"role": "user", "parts": [{"text": "x"}]}]
OWN = [{"id": n, "url": f"u{n}", "tags": [n], "request": {"contents": CONTENTS}} for n in (17, 18)]


def create(**arguments: Any) -> Any:
    return CreateBatchOperator(task_id="create", model="gemini-3.5-flash-lite", **arguments).execute(attempt())


def upload(path: str, **arguments: Any) -> Any:
    return UploadFileOperator(task_id="upload", input_path=path, **arguments).execute(attempt())


def created(emulator: EmulatorHandle) -> int:
    return int(emulator.ledger()["totals"]["created"])


def test_rows_with_members_of_ones_own_are_submitted(emulator: EmulatorHandle, tmp_path: Path) -> None:
    create(input_path=write_rows(tmp_path / "in.jsonl", OWN))
    assert created(emulator) == 1


@pytest.mark.parametrize("source", ["list", "file"])
def test_an_empty_input_fails_or_skips(emulator: EmulatorHandle, tmp_path: Path, source: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n \r\n")
    given: dict[str, Any] = {"inlined_requests": []} if source == "list" else {"input_path": path}
    with pytest.raises(AirflowFailException, match=r"no input rows.*on_empty_input=.skip. skips the task"):
        create(**given)
    with pytest.raises(AirflowSkipException, match="no input rows"):
        create(**given, on_empty_input="skip")
    if source == "file":
        with pytest.raises(AirflowSkipException):
            upload(str(path), on_empty_input="skip")
    assert created(emulator) == 0


def test_a_bad_row_fails_the_task_or_is_left_out(
    emulator: EmulatorHandle, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"key": "a", "prompt": "x"}, {"key": "b", "prompt": " "}, "{", {"key": "a", "prompt": "y"}]
    path = write_rows(tmp_path / "in.jsonl", lines)
    with pytest.raises(AirflowFailException, match="3 input rows cannot be submitted"):
        create(input_path=path)
    assert created(emulator) == 0
    create(input_path=path, on_bad_row="land")
    assert created(emulator) == 1
    said = caplog.text + capsys.readouterr().out
    assert "3 of 4 rows cannot be sent and are left out" in said
    assert "line 2 (key 'b'): 'prompt' is empty" in said


def test_rows_that_all_are_bad_are_an_error(emulator: EmulatorHandle, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", [{"key": "a", "prompt": " "}])
    with pytest.raises(AirflowFailException, match=r"line 1 \(key 'a'\)"):
        create(input_path=path, on_bad_row="land")
    assert created(emulator) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"key": ""}, "key must name the member"),
        ({"key": ["id", "id"]}, "key must name the member"),
        ({"on_empty_input": "ignore"}, "on_empty_input must be one of fail, skip"),
        ({"on_bad_row": "skip"}, "on_bad_row must be one of fail, land"),
        ({"key": "id", "inlined_requests": None, "file_name": "files/x"}, "cannot be applied to rows that already lie"),
    ],
)
def test_row_arguments_that_cannot_work_are_refused(
    emulator: EmulatorHandle, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        create(**{"inlined_requests": OWN, **arguments})
    assert created(emulator) == 0


def test_answers_that_may_be_large_never_travel_inside_the_job(
    gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a job is billed, and every read of it ends in 503."""
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    rows = [{"key": str(n), "prompt": "x"} for n in range(3)]
    for arguments, is_file in (
        ({}, False),
        ({"generation_config": {"responseModalities": ["TEXT", "IMAGE"]}}, True),
        ({"model": "gemini-3.1-flash-image"}, True),
        ({"generation_config": {"maxOutputTokens": 2_000_000}}, True),
    ):
        given: dict[str, Any] = {"model": "gemini-3.5-flash-lite", "inlined_requests": rows, **arguments}
        context = attempt(run_id=json.dumps(arguments))
        name = CreateBatchOperator(task_id="create", **given).execute(context)
        assert (GeminiBatchHook().get_batch(name).input_place is not None) is is_file
