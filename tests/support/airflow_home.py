# SPDX-License-Identifier: Apache-2.0
"""
Airflow homes of processes that tests start.

Their database is made once for all tests: ``airflow db migrate`` takes longer than what they try.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path


def home_environment(home: Path, **options: str) -> dict[str, str]:
    """
    Return the environment of a process whose Airflow has *home* for its own, and nothing of ours.

    :param options: Airflow's, e.g. ``CORE__DAGS_FOLDER``.
    """
    given = {
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__UNIT_TEST_MODE": "False",
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        # Airflow 3.2 starts its API in the process of `dag.test`, which makes no secret of its own.
        "API_AUTH__JWT_SECRET": "a-secret-of-this-test-and-nothing-else",
        **options,
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    return {**kept, "AIRFLOW_HOME": str(home), **{f"AIRFLOW__{name}": value for name, value in given.items()}}


def migrated_database(folder: Path) -> Path:
    """
    Return an SQLite database as Airflow makes it, to be copied into a home.

    :param folder: What all processes of this test run share.
    """
    made = folder / "migrated" / "airflow.db"
    with (folder / "migrated.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            home = folder / "migrating"
            home.mkdir(exist_ok=True)
            done = subprocess.run(
                [sys.executable, "-m", "airflow", "db", "migrate"],
                env=home_environment(home), capture_output=True, text=True, timeout=240, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-3000:]
            _submits_again(home / "airflow.db")
            home.rename(made.parent)
    return made


def _submits_again(database: Path) -> None:
    """Let this be an Airflow that has submitted before: the first submission of all waits for five seconds."""
    kept = {"id": "0123456789abcdef", "current": "airflow:0123456789abcdef", "former": []}
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "INSERT INTO variable (key, val, is_encrypted) VALUES (?, ?, 0)",
            ("gemini_batch_installation", json.dumps(kept)),
        )
