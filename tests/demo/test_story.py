# SPDX-License-Identifier: Apache-2.0
"""What the demo says, and when it gives up."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from demo.__main__ import DAG_ID, DAGS, StoppedError, main, only_one, read_arguments, stopping_on_signals
from demo.display import Display, job_words, task_words
from demo.keeping import Ports
from demo.processes import Processes
from demo.report import NoManifestError, cost_words, find_manifest, lines_of_report, local_path
from demo.rest import upstream_first
from demo.stack import environment

MANIFEST: dict[str, Any] = {
    "total": 3,
    "succeeded": 1,
    "failed": 1,
    "missing": 1,
    "usage": {"prompt_token_count": 12, "candidates_token_count": 30},
}


def test_report_shows_counts_tokens_places_and_first_answers(tmp_path: Path) -> None:
    rows = [
        {"key": "a", "status": "succeeded", "text": "Guten\nTag", "error": None},
        {"key": "b", "status": "failed", "text": None, "error": {"code": 3, "message": "no"}},
        {"key": "c", "status": "succeeded", "embedding": [0.25, 0.5, 0.75, 1.0, 2.0]},
    ]
    output = tmp_path / "answers.jsonl"
    output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = "\n".join(lines_of_report({**MANIFEST, "output_path": output.as_uri(), "errors_path": "elsewhere"}))
    assert "3: 1 succeeded, 1 failed, 1 missing" in report
    assert "candidates_token_count 30" in report
    assert output.as_uri() in report
    assert "elsewhere" in report
    assert "Guten Tag" in report
    assert '"message": "no"' in report
    assert "(5 numbers)" in report


def test_results_in_object_storage_are_named_and_not_opened() -> None:
    report = list(lines_of_report({**MANIFEST, "output_path": "gs://bucket/answers.jsonl"}))
    assert report[-1].endswith("gs://bucket/answers.jsonl")
    assert local_path("gs://bucket/answers.jsonl") is None


def test_manifest_is_found_among_what_tasks_returned() -> None:
    manifest = {**MANIFEST, "output_path": "x"}
    assert find_manifest({"upload": "files/1", "wait": {"name": "batches/1"}, "results": manifest}) is manifest
    with pytest.raises(NoManifestError, match="upload"):
        find_manifest({"upload": "files/1"})


def test_tasks_are_listed_upstream_first() -> None:
    assert upstream_first({"clean_up": [], "create": ["wait"], "results": ["clean_up"], "wait": ["results"]}) == [
        "create",
        "wait",
        "results",
        "clean_up",
    ]


def test_words_tell_states_and_progress() -> None:
    words = task_words({"create": "success", "wait": "deferred", "results": None})
    assert words == "✓ create  ⏳ wait (deferred)  · results"
    assert job_words([]) == ""
    assert job_words([{"state": "RUNNING", "rows_run": 50, "rows": 200}]) == "job RUNNING 50/200 25 %"
    assert job_words([{"state": "PENDING", "rows_run": 0, "rows": 0}]) == "job PENDING 0/0"


def test_without_a_terminal_each_change_is_one_line() -> None:
    stream = io.StringIO()
    display = Display(stream)
    for count in range(50):
        display.update("▶ wait", f"job RUNNING {count}/50")
    display.update("✓ wait", "job SUCCEEDED 50/50")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("✓ wait  job SUCCEEDED 50/50")


def test_in_a_terminal_one_line_moves() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    display = Display(stream)
    display.update("a", "1")
    display.update("a", "2")
    display.say("done")
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().endswith("\r\x1b[Kdone\n")


def test_settings_of_the_developer_do_not_reach_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("AIRFLOW_CONN_MINE", "x")
    monkeypatch.setenv("GEMINI_API_KEY", "secret")
    env = environment(tmp_path, tmp_path / "home", tmp_path / "dags", Ports(1, 2, 3, 4))
    assert env["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert env["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert "AIRFLOW_CONN_MINE" not in env
    assert "GEMINI_API_KEY" not in env
    assert env["AIRFLOW__CORE__TEST_CONNECTION"] == "Enabled"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_request_to_stop_unwinds_once(number: signal.Signals) -> None:
    cleared_up = []

    def story() -> None:
        with stopping_on_signals():
            try:
                os.kill(os.getpid(), number)
                time.sleep(5)
            finally:
                os.kill(os.getpid(), number)  # a second one must not disturb the clearing up
                cleared_up.append(number)

    before = signal.getsignal(number)
    with pytest.raises(StoppedError) as caught:
        story()
    assert caught.value.signal_number == number
    assert cleared_up == [number]
    assert signal.getsignal(number) == before


def test_second_demo_in_the_same_place_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with only_one(tmp_path):
        assert main(["run", "--state", str(tmp_path)]) == 1
    assert f"The demo failed: a demo is running in {tmp_path}" in capsys.readouterr().err


def test_stop_with_nothing_left_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stop", "--state", str(tmp_path)]) == 0
    assert f"nothing of a demo runs any more in {tmp_path}" in capsys.readouterr().out


def test_stop_names_what_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = Processes(tmp_path, tmp_path / "processes.json")
    component = left.start("sleeper", ["sleep", "60"], env=os.environ, cwd=tmp_path)
    try:
        assert main(["stop", "--state", str(tmp_path)]) == 0
    finally:
        left.stop()
    assert "stopped what an earlier demo left: sleeper" in capsys.readouterr().out
    assert component.process.returncode == -signal.SIGTERM


def test_stop_leaves_a_demo_that_runs_to_its_own_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with only_one(tmp_path):
        assert main(["stop", "--state", str(tmp_path)]) == 1
    assert f"Nothing was stopped: a demo is running in {tmp_path}" in capsys.readouterr().err


def test_demo_runs_the_classify_example_unless_told_otherwise() -> None:
    arguments = read_arguments(["run"])
    assert (arguments.dags, arguments.dag, arguments.conf) == (DAGS, DAG_ID, {})
    assert DAG_ID in (DAGS / "classify_table.py").read_text()


def test_report_shows_the_first_rows_of_a_typed_table_and_both_prices(tmp_path: Path) -> None:
    import duckdb

    output = tmp_path / "reviews.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT 'r' || i AS id, i > 1 AS is_defect, 'succeeded' AS status, 0.1 AS cost FROM range(9) t(i)) "
            f"TO '{output}' (FORMAT parquet)"
        )
    manifest = {
        "total": 9,
        "counts": {"succeeded": 8, "invalid": 1},
        "tokens": {"prompt": 1_000_000, "output": 1_000_000, "thoughts": 0, "cached": 0},
        "model_versions": {"gemini-3.5-flash-lite": 9},
        "output_path": str(output),
    }
    report = "\n".join(lines_of_report(manifest))
    assert "9: 8 succeeded, 1 invalid" in report
    assert "r4  True       succeeded" in report
    assert "cost" in report.split("results")[0]
    assert "r5" not in report
    assert "0.1" not in report.split("the first 5 answers")[1], "columns after the status are left out"


def test_batch_is_said_to_cost_half_of_single_calls() -> None:
    tokens = {"prompt": 1_000_000, "output": 1_000_000, "thoughts": 0, "cached": 0}
    words = cost_words({"tokens": tokens, "model_versions": {"gemini-3.5-flash-lite": 1}}, date(2026, 11, 27))
    assert words.startswith("1.400000 USD in batch; single calls would have cost 2.800000 USD")
    assert cost_words({"tokens": tokens, "model_versions": {"nobody-knows-it": 1}}, date(2026, 11, 27)) == ""
