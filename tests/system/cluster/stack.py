# SPDX-License-Identifier: Apache-2.0
"""
The processes of the cluster.

``docker-compose.yaml`` runs the same commands; ``tests/packaging/test_compose.py`` holds the two together. Here all
members share one disk, as they share a volume there, and each goes by the name of a host of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from demo.stack import COMPONENTS
from demo.story import RETRY_SETTINGS
from tests.system.services import postgres, redis
from tests.system.services.members import MemberStack, settings

if TYPE_CHECKING:
    from demo.processes import Processes

CLUSTER_COMPONENTS: Mapping[str, tuple[str, ...]] = {**COMPONENTS, "worker": ("celery", "worker")}
"""Airflow's parts and the arguments of ``airflow`` that start each."""

REPLICAS: Mapping[str, int] = {"worker": 2, "triggerer": 2}
"""Of which parts there are several."""

SLOTS = 4
"""Tasks of one worker at once."""

_HERE = {"worker": ("--skip-serve-logs",), "triggerer": ("--skip-serve-logs",)}
"""What members of one machine are told besides: a host has one port for logs, and here all logs lie on one disk."""


@dataclass(frozen=True)
class Programs:
    """Where the servers' programs are."""

    postgres: Path
    redis: str

    @classmethod
    def find(cls) -> Programs:
        """
        Find all of them.

        :raises NoPostgresError, NoRedisError: Saying what to install.
        """
        return cls(postgres.find_programs(), redis.find_program())


def celery_settings(broker: str, database: str) -> dict[str, str]:
    """Return what makes an Airflow with PostgreSQL one with Celery; both as URLs."""
    return {
        "CORE__EXECUTOR": "CeleryExecutor",
        "CELERY__BROKER_URL": broker,
        "CELERY__RESULT_BACKEND": "db+" + database,
        "CELERY__WORKER_CONCURRENCY": str(SLOTS),
        # How long a worker that does not wait for its jobs in the triggerer may hold a task.
        "CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "2592000",
    }


TIMES = {
    # A task in a dead worker's hands that has not begun: 600 s by default.
    "SCHEDULER__TASK_QUEUED_TIMEOUT": "60",
    "SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "10",
    # The emulator's list is never late.
    "GEMINI_BATCH__SETTLE_SECONDS": "15",
}
"""Shorter than elsewhere: who watches does not want to wait."""


class ClusterStack(MemberStack):
    """
    What runs.

    :param state: Folder for everything that is written.
    :param dags: Folder with the DAG files.
    :param database, broker: URLs of PostgreSQL and Redis.
    """

    def __init__(self, root: Path, state: Path, dags: Path, processes: Processes, database: str, broker: str) -> None:
        once = {name: arguments for name, arguments in CLUSTER_COMPONENTS.items() if name not in REPLICAS}
        slots = SLOTS * REPLICAS["worker"]
        more = {**settings(database, 2 * slots), **celery_settings(broker, database), **TIMES, **RETRY_SETTINGS}
        super().__init__(root, state, dags, processes, once, more)
        self._started = dict.fromkeys(REPLICAS, 0)

    def start(self) -> None:
        """Start everything; returns before it is ready."""
        super().start()
        self.replenish()

    def waiting_for(self) -> list[str]:
        """Return the names of the parts that are not ready yet."""
        missing = super().waiting_for()
        if missing:
            return missing
        self.airflow.sign_in()
        present = self.airflow.triggerers()
        return [name for name in self.living("triggerer") if name not in present]

    def living(self, part: str) -> list[str]:
        """Return the names of the workers or triggerers that run, oldest first."""
        return [name for name in self.members if name.startswith(f"{part}-") and not self.has_ended(name)]

    def add(self, part: str, name: str = "", **more_environment: str) -> str:
        """
        Start a worker or triggerer, and return its name.

        :param name: Of a host that had one before; a new one if not given.
        """
        if not name:
            self._started[part] += 1
            name = f"{part}-{self._started[part]}"
        own = ("--celery-hostname", name) if part == "worker" else ()
        self.start_member(name, (*CLUSTER_COMPONENTS[part], *_HERE[part], *own), **more_environment)
        return name

    def replenish(self) -> None:
        """Start as many workers and triggerers as are wanted, as whoever looks after a cluster does."""
        for part, count in REPLICAS.items():
            for _ in range(count - len(self.living(part))):
                self.add(part)

    def memory(self) -> dict[str, int]:
        """
        Return the memory of each part in bytes, that of all its processes.

        Pages that forked processes share count once, in proportion (Linux).
        """
        found = {}
        for name, component in self._processes.living().items():
            total = 0
            for process in component:
                try:
                    info = process.memory_full_info()
                    total += getattr(info, "pss", info.rss)
                except psutil.Error:
                    continue  # it has just ended
            found[name] = total
        return found
