# SPDX-License-Identifier: Apache-2.0
"""Result lines that nobody should write, and a download that is killed: what a user finds afterwards can be read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.landing.join import land
from airflow_provider_gemini_batch.landing.manifest import Manifest
from tests.support.airflow_side import set_connection, write_rows

if TYPE_CHECKING:
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle


def answer(key: str, text: str = "fine", **members: Any) -> bytes:
    response = {"candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}]}
    return json.dumps({"key": key, "response": response, **members}, ensure_ascii=False).encode()


ODD_LINES: list[tuple[str, list[bytes]]] = [
    ("line ends inside an answer that are none to JSON", [answer("a", "x\u2028y\u2029z\u0085"), answer("b")]),
    ("a carriage return at each end", [answer("a") + b"\r", answer("b") + b"\r"]),
    ("a carriage return between members", [answer("a").replace(b'", "', b'",\r"'), answer("b")]),
    ("a key that looks like the rest of a row", [answer('x","status":"'), answer("a"), answer("b")]),
    ("numbers that are none", [answer("a").replace(b'"STOP"', b'"STOP", "avgLogprobs": NaN'), answer("b")]),
    ("half a pair of surrogates", [answer("a").replace(b"fine", b"\\ud83d"), answer("b")]),
    ("bytes that are no UTF-8", [answer("a").replace(b"fine", b"\xff"), answer("b").replace(b"STOP", b"\xff")]),
    ("an answer nested without end", [b'{"key": "a", "response": {"x": ' + b"[" * 200_000, answer("b")]),
    ("two rows in a line", [answer("a") + answer("b")]),
    ("lines that are no objects", [b"null", b"[]", b"5", b'"a"', answer("a"), answer("b")]),
    ("zero bytes", [b"\x00" + answer("a"), answer("b") + b"\x00"]),
    ("keys of every type", [b'{"key": 5}', b'{"key": ["a"]}', b'{"key": {"a": 1}}', b'{"key": null}', answer("a")]),
    ("answers of every type", [b'{"key": "a", "response": "x"}', b'{"key": "b", "response": [1]}']),
    ("errors of every type", [b'{"key": "a", "error": 5}', b'{"key": "b", "error": {"code": 1e999, "details": 5}}']),
    ("counts beyond 64 bits", [answer("a", usageMetadata=1), b'{"key": "b", "error": {"code": ' + b"9" * 30 + b"}}"]),
    ("the same answer again and again", [answer("a"), answer("a"), answer("b"), answer("a"), answer("b")]),
    ("nothing", []),
]


@pytest.mark.parametrize("joined", [True, False], ids=["joined", "as they come"])
@pytest.mark.parametrize("lines", [pytest.param(lines, id=name) for name, lines in ODD_LINES])
def test_odd_result_lines_leave_files_that_can_be_read(tmp_path: Path, lines: list[bytes], joined: bool) -> None:
    input_path = write_rows(tmp_path / "in.jsonl", [{"key": "a", "prompt": "x"}, {"key": "b", "prompt": "y"}])
    output, errors = tmp_path / "out.jsonl", tmp_path / "errors.jsonl"
    manifest = land(lines, output, input_path=input_path if joined else None, errors_path=errors)
    landed = [json.loads(line) for line in output.read_bytes().split(b"\n") if line]
    failed = [json.loads(line) for line in errors.read_bytes().split(b"\n") if line]
    unwanted = manifest.unknown if joined else 0
    assert all(row["status"] != "succeeded" for row in failed[: len(failed) - unwanted])
    assert {row["key"] for row in landed if row["status"] != "succeeded"} <= {row["key"] for row in failed}
    assert len(landed) == manifest.total
    assert sum(getattr(manifest, status) for status in ("succeeded", "failed", "blocked", "missing")) == manifest.total
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    if joined:
        assert [row["key"] for row in landed] == ["a", "b"]


DOWNLOAD = """
import sys
from airflow_provider_gemini_batch.operators import DownloadResultsOperator
operator = DownloadResultsOperator(task_id="t", job_name=sys.argv[1], output_path=sys.argv[2])
print("ready", flush=True)
operator.execute({})
"""


def test_a_killed_download_leaves_the_file_that_was_there(
    gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    gemini_batch_emulator.script(mode="at_once", result_bytes=2_000_000_000)
    input_path = write_rows(tmp_path / "in.jsonl", [{"key": "a", "prompt": "x"}])
    name = GeminiBatchHook().create_batch("gemini-3.5-flash-lite", input_path=input_path).name
    output = tmp_path / "out" / "answers.jsonl"
    output.parent.mkdir()
    output.write_text("yesterday's\n")
    with subprocess.Popen([sys.executable, "-c", DOWNLOAD, name, str(output)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            deadline = time.monotonic() + 60
            while not any(path.stat().st_size for path in output.parent.glob(".gemini-batch-*.part")):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    assert output.read_text() == "yesterday's\n"
    assert not [path for path in output.parent.iterdir() if path != output and not path.name.startswith(".")]
