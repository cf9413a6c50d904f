# SPDX-License-Identifier: Apache-2.0
"""What each suite of real processes begins and ends with: one at a time, nothing left over from the last one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from demo.__main__ import DemoError, only_one, tail
from demo.processes import ComponentDiedError, Processes, stop_leftovers
from tests.system.services import postgres

if TYPE_CHECKING:
    from demo.display import Display


@contextmanager
def suite(state: Path, stale: Sequence[str], display: Display) -> Iterator[tuple[Processes, Path]]:
    """
    Make room for a suite; yield the processes, all stopped at the end, and a folder for PostgreSQL.

    :param state: Folder for everything that is written.
    :param stale: Folders in it that the last suite left.
    :raises DemoError: If a process died by itself, with the end of its log.
    """
    with only_one(state):
        record = state / "processes.json"
        stop_leftovers(record)
        for name in stale:
            shutil.rmtree(state / name, ignore_errors=True)
        logs = state / "logs"
        logs.mkdir()
        with postgres.folder() as database, Processes(logs, record) as processes:
            try:
                yield processes, database
            except ComponentDiedError as error:
                raise DemoError(str(error), tail(error.log)) from error
            finally:
                display.step(f"stopping everything; logs stay in {logs}")
