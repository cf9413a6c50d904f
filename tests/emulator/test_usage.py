# SPDX-License-Identifier: Apache-2.0
"""What docs/testing.md and ``--help`` tell about reaching the emulator works as it is printed."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from airflow_provider_gemini_batch.errors import JobFailedError
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from gemini_batch_emulator.__main__ import parser
from tests.support.airflow_side import rows, set_connection

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

PAGE = Path(__file__).parents[2] / "docs/testing.md"
HOST = f"http://127.0.0.1:{parser().get_default('port')}"


def commands(text: str) -> list[str]:
    """The commands in a text that add a connection to the emulator, each in one line."""
    joined = re.sub(r"\\\n\s*|(?<=,)\n\s*", " ", text)
    return [line.strip() for line in joined.splitlines() if "connections add" in line and HOST in line]


def test_docs_and_help_say_the_same() -> None:
    [vertex] = commands(PAGE.read_text(encoding="utf-8"))
    assert vertex in commands(parser().format_help())


@pytest.mark.parametrize("command", commands(parser().format_help()))
def test_a_printed_connection_reaches_the_emulator(
    gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    words = shlex.split(command)
    assert words[:4] == ["airflow", "connections", "add", GeminiBatchHook.default_conn_name]
    options = argparse.ArgumentParser()
    for name in ("type", "host", "password", "extra"):
        options.add_argument(f"--conn-{name}", dest=name)
    given = vars(options.parse_args(words[4:]))
    given["extra"] = json.loads(given["extra"] or "{}")
    given["host"] = given["host"].replace(HOST, gemini_batch_emulator.url)
    set_connection(monkeypatch, {"conn_type": given.pop("type"), **given})
    gemini_batch_emulator.script(mode="at_once")
    hook = GeminiBatchHook()
    assert hook.test_connection()[0]
    job = hook.create_batch("gemini-3.5-flash-lite", inlined_requests=rows(2))
    assert {result.status for result in hook.get_responses(job)} == {"succeeded"}


def test_the_printed_calls_are_served(gemini_batch_emulator: EmulatorHandle) -> None:
    [account] = re.findall(rf"curl -X POST {HOST}(\S+)", parser().format_help())
    assert "private_key" in requests.post(gemini_batch_emulator.url + account, timeout=30).json()
    bucket, failing, partly = (
        requests.post(gemini_batch_emulator.url + path, data=body, timeout=30)
        for path, body in re.findall(rf"curl {HOST}(\S+) -d '(.*)'", parser().format_help())
    )
    assert bucket.json()["name"] == "another"
    assert failing.ok, failing.text
    assert partly.ok, partly.text


def test_the_printed_scripts_do_what_is_said_of_them(
    gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    gemini_batch_emulator.configure(script={"mode": "at_once"})
    for path, body in re.findall(rf"curl {HOST}(/_emulator/\S+) -d '(.*)'", parser().format_help()):
        requests.post(gemini_batch_emulator.url + path, data=body, timeout=30).raise_for_status()
    hook = GeminiBatchHook()
    failed, partly = (hook.create_batch("gemini-3.5-flash-lite", inlined_requests=rows(200)).name for _ in range(2))
    with pytest.raises(JobFailedError, match="No luck"):
        hook.wait_for_batch(failed, timeout=60, poll_interval=0.2)
    stats = hook.wait_for_batch(partly, timeout=60, poll_interval=0.2, max_failed_rows=0.5).stats
    assert stats.failed is not None
    assert 0 < stats.failed < 60
