# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL for a module's tests, which are skipped where its programs are missing."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.services import postgres

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def real_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a server, and return its URL as its drivers read it."""
    from demo.processes import Processes

    try:
        programs = postgres.find_programs()
    except postgres.NoPostgresError as error:
        pytest.skip(str(error))
    logs = tmp_path_factory.mktemp("postgres")
    with postgres.folder() as home, Processes(logs, Path(logs) / "record") as processes:
        yield postgres.start(processes, programs, home).replace("+psycopg2", "")
