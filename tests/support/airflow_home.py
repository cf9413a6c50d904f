# SPDX-License-Identifier: Apache-2.0
"""The database of an Airflow home, made once for all tests: ``airflow db migrate`` takes longer than what they try."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path


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
            environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
            environment |= {
                "AIRFLOW_HOME": str(home),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            }
            done = subprocess.run(
                [sys.executable, "-m", "airflow", "db", "migrate"],
                env=environment, capture_output=True, text=True, timeout=240, check=False,
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
