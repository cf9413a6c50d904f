# SPDX-License-Identifier: Apache-2.0
"""The commands of ``python -m airflow_provider_gemini_batch``, run as a person runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from airflow_provider_gemini_batch.cli import main
from airflow_provider_gemini_batch.task.history import leave_in_history
from tests.support.airflow_side import set_connection

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"key": f"k{n}", "prompt": "Why? " * 20}) + "\n" for n in range(100)))
    return path


def test_validate_names_each_bad_row_with_line_and_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    lines = ['{"key": "a", "prompt": "Why?"}', '{"key": "a", "prompt": "Twice?"}', "nonsense", '{"key": "c"}']
    path.write_text("\n".join(lines) + "\n")
    assert main(["validate", str(path)]) == 1
    told = capsys.readouterr().out
    assert "line 2 (key 'a'): this key was there before" in told
    assert "line 3: " in told
    assert "line 4 (key 'c'): " in told
    assert "4 rows: 1 can be sent, 3 cannot." in told


def test_validate_names_more_than_ten_bad_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"key": "a"}\n' * 30)
    assert main(["validate", str(path)]) == 1
    assert capsys.readouterr().out.count(": line ") == 30


def test_validate_passes_a_good_file(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(good)]) == 0
    assert "100 rows: 100 can be sent, 0 cannot." in capsys.readouterr().out


def test_plan_says_what_a_file_costs_at_most(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", str(good), "--model", "gemini-3.5-flash-lite", "--max-output-tokens", "100", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == 100
    assert told["output_tokens"]["high"] == 10_000
    assert 0.0125 < told["dollars"]["high"] < 0.02
    assert told["dollars_in_single_calls"]["high"] == pytest.approx(2 * told["dollars"]["high"], rel=1e-4)


def test_plan_of_an_unknown_model_is_unknown(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(good), "--model", "gemini-9"]) == 0
    assert "the price of gemini-9 is not known" in capsys.readouterr().out


def test_plan_tells_both_ends_and_guesses_at_a_misspelt_model(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(good), "--model", "gemini-3.5-flash-lite", "--max-output-tokens", "100"]) == 0
    assert "at least 0." in capsys.readouterr().out
    assert main(["plan", str(good), "--model", "gemini-3.5-flash-lit"]) == 0
    told = capsys.readouterr()
    assert "did you mean gemini-3.5-flash-lite?" in told.err
    assert "is not known" in told.out


@pytest.mark.parametrize(("text", "said"), [('{"key": "a"}\n', "No row can be sent."), ("", "there are no rows")])
def test_plan_without_a_row_to_send_names_no_price(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    assert main(["plan", str(path), "--model", "gemini-3.5-flash-lite"]) == 1
    told = capsys.readouterr()
    assert said in told.err
    assert "USD" not in told.out


def test_one_row_without_a_limit_may_write_the_longest_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    contents = [{"parts": [{"text": "Why?"}]}]
    limited = {"contents": contents, "generationConfig": {"maxOutputTokens": 10}}
    path.write_text("".join(json.dumps({"request": each}) + "\n" for each in (limited, {"contents": contents})))
    assert main(["plan", str(path), "--model", "gemini-3.5-flash-lite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output_tokens"]["high"] == 2 * 65_536


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "rows.csv.gz"])
def test_a_table_is_told_how_it_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["plan", str(tmp_path / name), "--model", "gemini-3.8-flash"]) == 2
    assert "dry_run=True" in capsys.readouterr().err


def test_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(tmp_path / "none.jsonl")]) == 2
    assert capsys.readouterr().err == f"There is no file {tmp_path / 'none.jsonl'}.\n"


def test_plan_and_validate_open_no_connection(good: Path) -> None:
    watch = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('a connection was opened')\n"
        "socket.socket.connect = refuse\n"
        "from airflow_provider_gemini_batch.cli import main\n"
        f"sys.exit(main(['validate', {str(good)!r}]) or main(['plan', {str(good)!r}, '--model', 'gemini-3.8-flash']))\n"
    )
    done = subprocess.run([sys.executable, "-c", watch], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_jobs_are_listed_and_one_is_cancelled(
    gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    name, other = gemini_batch_emulator.seed_jobs(count=2, state="RUNNING")
    assert main(["cancel", name]) == 0
    (asked,) = gemini_batch_emulator.journal(path=":cancel")
    assert name in asked["path"]
    assert main(["jobs", "--live"]) == 0
    assert f"{other}\tRUNNING" in capsys.readouterr().out


def test_a_cancel_of_no_job_is_an_error_and_of_an_ended_one_is_told(
    gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    (ended,) = gemini_batch_emulator.seed_jobs(count=1, state="SUCCEEDED")
    assert main(["cancel", "batches/mistyped"]) == 2
    assert "batches/mistyped" in capsys.readouterr().err
    assert main(["cancel", ended]) == 0
    assert capsys.readouterr().out == f"{ended} has ended (SUCCEEDED): there is nothing to cancel.\n"


def test_spend_without_a_finished_task_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spend", "--history", str(tmp_path / "none")]) == 0
    assert f"No finished task is in {tmp_path / 'none'}" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["jobs"], ["cancel", "batches/a"], ["plan", "ROWS", "--model", "gemini-3.8-flash"]])
def test_a_connection_that_is_not_there_is_told_in_a_line(
    good: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    given = [str(good) if word == "ROWS" else word for word in words]
    assert main([*given, "--conn-id", "gemini_none"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("There is no connection 'gemini_none': add it with `airflow connections add gemini_none")
    assert "AIRFLOW_CONN_GEMINI_NONE" in told


def test_a_lower_end_of_next_to_nothing_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"key": "a", "prompt": "Why?"}\n')
    assert main(["plan", str(path), "--model", "gemini-3.5-flash-lite", "--max-output-tokens", "300"]) == 0
    assert capsys.readouterr().out.startswith("1 row with gemini-3.5-flash-lite: at most 0.000")
    assert main(["plan", str(path), "--model", "gemini-3.5-flash-lite", "--max-output-tokens", "9"]) == 0
    assert capsys.readouterr().out.startswith("1 row with gemini-3.5-flash-lite: less than 0.0001 USD (")


def test_spend_is_summed_by_model_with_unknown_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    day = tmp_path / "2026-11-27"
    day.mkdir()
    part = {"rows": 10, "input_tokens": 1000, "output_tokens": 100, "cost": 0.5, "unknown": 0,
            "single_calls": 1.0, "saved": 0.25}  # fmt: skip
    lost = {"rows": 3, "input_tokens": 30, "output_tokens": 3, "cost": 0, "unknown": 3}
    for number, costs in enumerate(({"gemini-3.8-flash": part}, {"gemini-3.8-flash": part, "gemini-9": lost})):
        entry = {"dag_id": "d", "task_id": "t", "ended_at": "2026-11-27T01:00:00+00:00", "manifest": {"costs": costs}}
        (day / f"{number}.json").write_text(json.dumps(entry))
    assert main(["spend", "--history", str(tmp_path), "--by", "model", "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "model": "gemini-3.8-flash", "rows": 20, "input_tokens": 2000, "output_tokens": 200, "cost": 1.0,
        "unknown": 0, "single_calls": 2.0, "saved": 0.5,
    }  # fmt: skip
    assert (second["model"], second["cost"], second["unknown"]) == ("gemini-9", 0, 3)
    assert main(["spend", "--history", str(tmp_path), "--by", "model"]) == 0
    assert "\t30\t3\tunknown\t3\t" in capsys.readouterr().out


def test_spend_without_a_history_says_how_to_keep_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spend"]) == 2
    assert "history_path" in capsys.readouterr().err


def test_finished_task_leaves_its_manifest_for_spend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__HISTORY_PATH", str(tmp_path / "history"))
    ti = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1, try_number=1)
    cost = {"actual": 0.25, "single_calls": 0.5, "saved_by_reuse": 0.125, "saved_by_deduplication": None}
    manifest = {"total": 7, "tokens": {"prompt": 70, "output": 6, "thoughts": 1}, "cost": cost}
    for _ in range(2):  # written twice, counted once
        leave_in_history({"ti": ti}, manifest)
    assert main(["spend", "--by", "dag", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "dag": "d", "rows": 7, "input_tokens": 70, "output_tokens": 7, "cost": 0.25, "unknown": 0,
        "single_calls": 0.5, "saved": 0.125,
    }  # fmt: skip


def test_download_that_is_repeated_counts_once_in_spend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__HISTORY_PATH", str(tmp_path / "history"))
    for attempt, job in enumerate(["batches/a", "batches/a", "batches/b"], start=1):
        ti = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1, try_number=attempt)
        costs = {"gemini-3.8-flash": {"rows": 7, "cost": 0.25}}
        leave_in_history({"ti": ti}, {"job_name": job, "total": 7, "costs": costs})
    assert main(["spend", "--by", "dag", "--json"]) == 0
    spent = json.loads(capsys.readouterr().out)
    assert (spent["rows"], spent["cost"]) == (14, 0.5)


def test_run_that_returns_its_outcome_again_counts_once_in_spend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__HISTORY_PATH", str(tmp_path / "history"))
    # A retry after the end tells the same generation; a clear another one, as does one without the checkpoint.
    ends = [(1, "batches/a"), (1, "batches/a"), (2, "batches/b"), (1, "batches/c")]
    for attempt, (generation, job) in enumerate(ends, start=1):
        ti = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1, try_number=attempt)
        manifest = {"generation": generation, "jobs": [job], "total": 7, "cost": {"actual": 0.25}}
        leave_in_history({"ti": ti}, manifest)
    assert main(["spend", "--by", "dag", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cost"] == 0.75


def test_download_that_is_repeated_on_a_later_day_counts_on_its_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in ("2026-11-01", "2026-11-27"):
        (tmp_path / day).mkdir()
        manifest = {"job_name": "batches/a", "costs": {"gemini-3.8-flash": {"rows": 7, "cost": 0.25}}}
        entry = {"dag_id": "d", "task_id": "t", "run_id": "r", "ended_at": f"{day}T01:00:00+00:00"}
        (tmp_path / day / "1.json").write_text(json.dumps({**entry, "manifest": manifest}))
    assert main(["spend", "--history", str(tmp_path), "--by", "day", "--since", "2026-11-10"]) == 0
    assert "No finished task" in capsys.readouterr().err
    assert main(["spend", "--history", str(tmp_path), "--by", "day", "--since", "2026-11-01", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["day"] == "2026-11-01"


def test_each_pass_of_a_loop_counts_in_spend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__HISTORY_PATH", str(tmp_path / "history"))
    ti = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1, try_number=1)
    for index in range(2):
        leave_in_history({"ti": ti, "loop": SimpleNamespace(index=index)}, {"total": 7, "cost": {"actual": 0.25}})
    assert main(["spend", "--by", "dag", "--json"]) == 0
    spent = json.loads(capsys.readouterr().out)
    assert (spent["rows"], spent["cost"]) == (14, 0.5)


def test_validate_says_what_a_submission_would_warn_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"key": "a", "prompt": "x", "generationConfig": {"temperature": 0, "respnseSchema": {}}}\n')
    assert main(["validate", str(path), "--model", "gemini-3.8-flash"]) == 0
    said = capsys.readouterr().out
    assert "note: line 1, generationConfig: 'respnseSchema' is not known here" in said
    assert "gemini-3.8-flash ignores temperature" in said


def test_validate_tells_what_is_wrong_with_the_whole_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "x"}\n' * 30_001)
    arguments = ["validate", str(path), "--kind", "embed", "--backend", "vertex_ai", "--model", "text-embedding-005"]
    assert main(arguments) == 1
    assert "takes up to 30,000" in capsys.readouterr().out
