# SPDX-License-Identifier: Apache-2.0
"""
The emulator and Airflow's components: commands, environment, readiness.

``docker-compose.yaml`` runs the same commands; ``tests/packaging/test_compose.py`` holds the two together.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from demo import secrets
from demo.keeping import Ports
from demo.rest import AirflowApi, EmulatorControl

if TYPE_CHECKING:
    from demo.processes import Component, Processes

COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler",),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer",),
}
"""Airflow's parts and the arguments of ``airflow`` that start each."""

MIGRATE = ("db", "migrate")
EMULATOR_MODULE = "airflow_provider_gemini_batch.emulator"
HEALTHY_PARTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")

# Of a developer's own settings nothing may reach the demo: it would show another Airflow than everybody else's.
_FOREIGN = ("AIRFLOW", "_AIRFLOW", "PYTHONPATH", "GOOGLE_", "GEMINI_")


def environment(
    root: Path,
    home: Path,
    dags: Path,
    ports: Ports,
    more_settings: Mapping[str, str] | None = None,
    *,
    keys: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> dict[str, str]:
    """
    Return the environment of every process of the demo.

    :param root: The project.
    :param home: Airflow's home, also the working directory; everything is written below it.
    :param dags: Folder with the DAG files.
    :param ports: Where the servers listen.
    :param more_settings: Airflow's settings beside or instead of the demo's, as ``{"SECTION__OPTION": value}``.
    :param keys: Secrets, as :func:`demo.secrets.fresh` makes them; fresh ones by default.
    :param python: The interpreter that has Airflow.
    """
    keys = keys or secrets.fresh()
    settings = {
        "CORE__DAGS_FOLDER": str(dags),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "4",
        "CORE__TEST_CONNECTION": "Enabled",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",  # safe on the loopback address only
        "CORE__FERNET_KEY": keys["AIRFLOW_FERNET_KEY"],
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{ports.api}/execution/",
        "API__HOST": "127.0.0.1",
        "API__PORT": str(ports.api),
        "API__WORKERS": "1",
        "API__BASE_URL": f"http://127.0.0.1:{ports.api}",
        "API__SECRET_KEY": keys["AIRFLOW_API_SECRET_KEY"],
        "API_AUTH__JWT_SECRET": keys["AIRFLOW_JWT_SECRET"],
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        # One run at a time is enough to watch: a nightly DAG would also start its last night's run.
        "SCHEDULER__USE_JOB_SCHEDULE": "False",
        "DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "LOGGING__WORKER_LOG_SERVER_PORT": str(ports.worker_logs),
        "LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports.trigger_logs),
        **(more_settings or {}),
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {
        **inherited,
        **{f"AIRFLOW__{name}": value for name, value in settings.items()},
        "AIRFLOW_HOME": str(home),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "PATH": f"{Path(python).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": str(root),
        "PYTHONUNBUFFERED": "1",
    }


class Stack:
    """
    What runs during a demo.

    :param root: The project.
    :param state: Folder for everything that is written.
    :param dags: Folder with the DAG files.
    :param components: Airflow's parts to start.
    :param more_settings: See :func:`environment`.
    :param ports: Where the servers listen; free ports by default.
    :param keys: See :func:`environment`.
    :param python: The interpreter that has Airflow; the emulator runs in ours.
    """

    def __init__(
        self,
        root: Path,
        state: Path,
        dags: Path,
        processes: Processes,
        *,
        components: Mapping[str, tuple[str, ...]] = COMPONENTS,
        more_settings: Mapping[str, str] | None = None,
        ports: Ports | None = None,
        keys: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        self.ports = ports or Ports.choose()
        self.home = state / "airflow"
        self.home.mkdir(parents=True, exist_ok=True)
        self.airflow = AirflowApi(f"http://127.0.0.1:{self.ports.api}")
        self.emulator = EmulatorControl(f"http://127.0.0.1:{self.ports.emulator}")
        self._processes = processes
        self._components = components
        self._python = python
        self._env = environment(root, self.home, dags, self.ports, more_settings, keys=keys, python=python)

    def start(self) -> None:
        """Start the emulator, make the database, start Airflow's parts; returns before they are ready."""
        emulator = [sys.executable, "-m", EMULATOR_MODULE, "--host", "127.0.0.1", "--port", str(self.ports.emulator)]
        self._processes.start("emulator", emulator, env=self._env, cwd=self.home)
        self._processes.run("db-migrate", self._airflow(MIGRATE), env=self._env, cwd=self.home, timeout=120)
        for name, arguments in self._components.items():
            self.start_component(name, arguments)

    def start_component(self, name: str, arguments: tuple[str, ...], **more_environment: str) -> Component:
        """Start one of Airflow's parts."""
        env = {**self._env, **more_environment}
        return self._processes.start(name, self._airflow(arguments), env=env, cwd=self.home)

    def waiting_for(self) -> list[str]:
        """Return the names of the parts that are not ready yet."""
        missing = [] if self.emulator.is_up() else ["emulator"]
        health = self.airflow.health()
        return missing + [part.replace("_", "-") for part in HEALTHY_PARTS if health.get(part) != "healthy"]

    def _airflow(self, arguments: tuple[str, ...]) -> list[str]:
        return [self._python, "-m", "airflow", *arguments]

    def check(self) -> None:
        """Look whether everything still runs."""
        self._processes.check()
