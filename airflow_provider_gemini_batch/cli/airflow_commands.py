# SPDX-License-Identifier: Apache-2.0
"""``airflow gemini-batch validate | plan | jobs | cancel | spend``, on Airflow 3.2 and later."""

# They are the commands of `python -m airflow_provider_gemini_batch`, argument by argument. Each `airflow` command loads
# this module, so it loads nothing but the parser.

from __future__ import annotations

import argparse
import sys
from typing import Any


def get_commands() -> list[Any]:
    """Return the group of commands, as Airflow's ``cli`` entry of a provider's metadata names it."""
    from airflow.cli.cli_config import ActionCommand, GroupCommand

    from airflow_provider_gemini_batch.cli import parser

    subparsers = next(each for each in parser()._actions if isinstance(each, argparse._SubParsersAction))
    commands = [
        ActionCommand(
            name=name,
            help=made.description or "",
            description=made.description,
            func=_run,
            args=_arguments(name, made),
        )
        for name, made in subparsers.choices.items()
    ]
    return [GroupCommand(name="gemini-batch", help="Gemini batch jobs: rows, cost, jobs, spend", subcommands=commands)]


def _arguments(command: str, made: argparse.ArgumentParser) -> tuple[Any, ...]:
    return tuple(_Argument(command, action) for action in made._actions if action.dest != "help")


class _Argument:
    """
    An argument of our own parser, where Airflow wants one of its ``Arg``.

    :param command: The command it belongs to, which is how the command is known once it is parsed.
    """

    def __init__(self, command: str, action: argparse.Action) -> None:
        self.command = command
        self.action = action
        self.flags = tuple(action.option_strings) or (action.dest,)

    def add_to_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the argument, and the command's name."""
        parser._add_action(self.action)
        parser.set_defaults(gemini_batch_command=self.command)


def _run(arguments: argparse.Namespace) -> None:
    from airflow_provider_gemini_batch.cli import parser, run

    subparsers = next(each for each in parser()._actions if isinstance(each, argparse._SubParsersAction))
    command = subparsers.choices[arguments.gemini_batch_command].get_default("run")
    if code := run(command, arguments):
        sys.exit(code)
