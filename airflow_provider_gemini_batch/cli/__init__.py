# SPDX-License-Identifier: Apache-2.0
"""
Check a file of rows, say what it will cost, list and cancel jobs, sum up what was spent.

"validate" and "plan" open no connection, unless "plan" is given --conn-id. "cancel" alone changes something.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError


def main(words: list[str] | None = None) -> int:
    """
    Run a command.

    :return: 0; 1 if rows cannot be sent; 2 if the command could not do its work.
    """
    arguments = parser().parse_args(words)
    return run(arguments.run, arguments)


def run(command: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Carry a command out; its errors become a line and the code 2."""
    try:
        return int(command(arguments))
    except GeminiBatchError as error:
        sys.stderr.write(f"{error}\n")
    except OSError as error:
        sys.stderr.write(f"{error.filename or 'The file'}: {error.strerror or error}\n")
    return 2


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    from airflow_provider_gemini_batch.cli import files, jobs, spend

    top = argparse.ArgumentParser(prog="python -m airflow_provider_gemini_batch", description=__doc__)
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (files, jobs, spend):
        module.add_to(commands)
    return top


def command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    """Add a command; *text* is its help, a sentence."""
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    made.set_defaults(run=run)
    return made


def hook(conn_id: str) -> Any:
    """
    Return a hook whose connection has been read.

    :raises ConfigurationError: There is no such connection, or it cannot work.
    """
    from airflow_provider_gemini_batch.compat import AirflowNotFoundException
    from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook

    made = GeminiBatchHook(conn_id)
    try:
        # Read now, so that a connection that is missing is told as such, and not by whatever call comes first.
        _ = made.client
    except AirflowNotFoundException:
        raise ConfigurationError(
            f"There is no connection {conn_id!r}: add it with `airflow connections add {conn_id} --conn-type "
            f'gemini_batch --conn-password "$GEMINI_API_KEY"`, set AIRFLOW_CONN_{conn_id.upper()}, or name another '
            "with --conn-id."
        ) from None
    return made
