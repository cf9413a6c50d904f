# SPDX-License-Identifier: Apache-2.0
"""``airflow gemini-batch``: the same commands with the same arguments, through Airflow's own parser."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from airflow_provider_gemini_batch.cli import parser
from airflow_provider_gemini_batch.cli.airflow_commands import get_commands
from airflow_provider_gemini_batch.get_provider_info import get_provider_info

if TYPE_CHECKING:
    from pathlib import Path


def airflow_parser() -> argparse.ArgumentParser:
    """Return a parser that Airflow makes of our commands."""
    from airflow.cli import cli_parser

    top = argparse.ArgumentParser()
    for command in get_commands():
        cli_parser._add_command(top.add_subparsers(dest="subcommand"), command)
    return top


def test_airflow_is_told_of_the_commands() -> None:
    (name,) = get_provider_info()["cli"]
    module, _, attribute = name.rpartition(".")
    assert getattr(importlib.import_module(module), attribute) is get_commands


def test_each_command_is_there() -> None:
    (group,) = get_commands()
    assert group.name == "gemini-batch"
    assert {command.name for command in group.subcommands} == {"validate", "plan", "jobs", "cancel", "spend"}


@pytest.mark.parametrize(
    "words",
    [
        ["validate", "rows.jsonl", "--key", "day", "--key", "id"],
        ["plan", "rows.jsonl", "--model", "m", "--max-output-tokens", "5", "--json"],
        ["jobs", "--limit", "3", "--live", "--conn-id", "c"],
        ["cancel", "batches/1"],
        ["spend", "--by", "day", "--since", "2026-11-01"],
    ],
)
def test_arguments_mean_what_they_mean_without_airflow(words: list[str]) -> None:
    ours = vars(parser().parse_args(words))
    theirs = vars(airflow_parser().parse_args(["gemini-batch", *words]))
    assert {name: theirs[name] for name in ours if name != "run"} == {
        name: value for name, value in ours.items() if name != "run"
    }


def test_a_command_does_its_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"key": "a", "prompt": "Why?"}) + "\n")
    arguments = airflow_parser().parse_args(["gemini-batch", "validate", str(path)])
    arguments.func(arguments)
    assert "1 rows: 1 can be sent, 0 cannot." in capsys.readouterr().out


def test_a_command_that_fails_ends_with_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = airflow_parser().parse_args(["gemini-batch", "validate", str(tmp_path / "none.jsonl")])
    with pytest.raises(SystemExit) as ended:
        arguments.func(arguments)
    assert ended.value.code == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_the_commands_cost_other_commands_next_to_nothing() -> None:
    code = (
        "import sys, airflow\n"
        "from airflow.cli import cli_config\n"
        "before = set(sys.modules)\n"
        "from airflow_provider_gemini_batch.cli.airflow_commands import get_commands\n"
        "get_commands()\n"
        "heavy = {'requests', 'google.auth', 'duckdb', 'msgspec', 'fsspec', 'genai_prices'}\n"
        "assert not heavy & (set(sys.modules) - before), heavy & (set(sys.modules) - before)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
