# SPDX-License-Identifier: Apache-2.0
"""The demo's processes on PostgreSQL, with triggerers that come and go."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from demo.stack import COMPONENTS
from tests.system.crash.cases import BACKENDS, Case
from tests.system.services.members import MemberStack, settings

if TYPE_CHECKING:
    from demo.processes import Processes

TRIGGERER = (*COMPONENTS["triggerer"], "--skip-serve-logs")
FIRST = "triggerer-1"


class CrashStack(MemberStack):
    """
    What runs during the suite; its members are triggerers.

    :param root: The project.
    :param state: Folder for everything that is written.
    :param database: URL of the database.
    """

    def __init__(self, root: Path, state: Path, processes: Processes, database: str, tasks_at_once: int) -> None:
        parts = {name: arguments for name, arguments in COMPONENTS.items() if name != "triggerer"}
        dags = Path(__file__).parent / "dags"
        super().__init__(root, state, dags, processes, parts, settings(database, tasks_at_once))

    def start(self) -> None:
        """Start everything, with one triggerer."""
        super().start()
        self.start_triggerer(FIRST)

    def write_rows(self, cases: Iterable[Case]) -> None:
        """Write the files that cases read their rows from."""
        for case in cases:
            if case.from_file:
                path = self.home / case.rows_path.name
                path.write_text("".join(json.dumps(row) + "\n" for row in case.rows()))

    def add_connections(self) -> None:
        """Let Airflow know both backends of the emulator."""
        for backend in BACKENDS:
            self.airflow.add_connection(f"crash_{backend}", self.connection(backend))

    def start_triggerer(self, name: str) -> None:
        """Start a triggerer under a name that Airflow shows; returns before it is ready."""
        self.start_member(name, TRIGGERER)

    def has_triggerer(self, name: str) -> bool:
        """Whether a triggerer runs and has told Airflow so."""
        return name in self.airflow.triggerers()

    @property
    def has_triggerers(self) -> bool:
        """Whether any triggerer that was started is still there."""
        return not all(self.has_ended(name) for name in self.members)

    def kill_triggerers(self) -> None:
        """Kill all triggerers that are left."""
        for name in self.members:
            if not self.has_ended(name):
                self.kill(name)
