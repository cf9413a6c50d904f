# SPDX-License-Identifier: Apache-2.0
"""The calls of Airflow's REST API, and of the emulator's control routes, that the demo makes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter
from typing import Any

import requests


def upstream_first(downstream: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the tasks so that none comes before one it waits for; *downstream* names those that wait for each."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for task_id, waiting in downstream.items():
        sorter.add(task_id)
        for other in waiting:
            sorter.add(other, task_id)
    return list(sorter.static_order())


class AirflowApi:
    """
    Airflow's public REST API, version 2.

    :param base_url: ``http://host:port`` of the API server.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._session = requests.Session()
        self._session.trust_env = False  # loopback only: a proxy of the environment must not see it

    def sign_in(self, name: str = "", password: str = "") -> None:
        """Get a token; where all are admins, the simple auth manager gives one to everybody who can reach it."""
        url = f"{self.base_url}/auth/token"
        if name:
            reply = self._session.post(url, json={"username": name, "password": password}, timeout=10)
        else:
            reply = self._session.get(url, timeout=10)
        reply.raise_for_status()
        self._session.headers["Authorization"] = f"Bearer {reply.json()['access_token']}"

    def health(self) -> dict[str, str | None]:
        """Return the status of each component; empty while nobody answers."""
        try:
            reply = self._session.get(f"{self.base_url}/api/v2/monitor/health", timeout=5)
            parts: dict[str, Any] = reply.json() if reply.ok else {}
        except (requests.RequestException, ValueError):
            return {}
        return {name: part.get("status") for name, part in parts.items()}

    def connection(self, conn_id: str) -> dict[str, Any] | None:
        """Return a stored connection without its secrets, None if there is none."""
        found: dict[str, Any] | None = self._send("GET", f"/connections/{conn_id}", missing_is_none=True)
        return found

    def add_connection(self, conn_id: str, connection: Mapping[str, Any]) -> None:
        """Store a connection in the database; its extra is an object."""
        body = {**connection, "connection_id": conn_id, "extra": json.dumps(connection.get("extra") or {})}
        self._send("POST", "/connections", body)

    def move_connection(self, conn_id: str, host: str) -> None:
        """Let a stored connection lead elsewhere; the rest of it stays."""
        known = self.connection(conn_id) or {}
        body = {"connection_id": conn_id, "conn_type": known.get("conn_type", ""), "host": host}
        self._send("PATCH", f"/connections/{conn_id}?update_mask=host", body)

    def has_dag(self, dag_id: str) -> bool:
        """Whether the DAG processor has stored the DAG."""
        return self._send("GET", f"/dags/{dag_id}", missing_is_none=True) is not None

    def import_errors(self) -> list[str]:
        """Return file name and stack trace of each DAG file that cannot be imported."""
        listed = self._send("GET", "/importErrors")["import_errors"]
        return [f"{error['filename']}:\n{error['stack_trace']}" for error in listed]

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler run the DAG."""
        self._send("PATCH", f"/dags/{dag_id}", {"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Start a run with *conf* as its parameters and return its id."""
        run = self._send("POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})
        return str(run["dag_run_id"])

    def count_runs(self, dag_id: str) -> int:
        """Return how many runs of the DAG there are."""
        return int(self._send("GET", f"/dags/{dag_id}/dagRuns?limit=1")["total_entries"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return ``queued``, ``running``, ``success`` or ``failed``."""
        return str(self._send("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """Return the state of each task of the run, mapped ones as ``task[0]``, upstream first."""
        tasks = self._send("GET", f"/dags/{dag_id}/tasks")["tasks"]
        order = upstream_first({task["task_id"]: task["downstream_task_ids"] for task in tasks})
        listed = self.instances_of_run(dag_id, run_id)
        listed.sort(key=lambda ti: (order.index(ti["task_id"]) if ti["task_id"] in order else -1, ti["map_index"]))
        mapped = {ti["task_id"] for ti in listed if ti["map_index"] >= 0}
        return {
            f"{ti['task_id']}[{ti['map_index']}]" if ti["task_id"] in mapped else ti["task_id"]: ti["state"]
            for ti in listed
        }

    def instances_of_run(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the run's task instances as Airflow tells them: state, pid, try_number and more."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        instances: list[dict[str, Any]] = self._send("GET", path)["task_instances"]
        return instances

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return what a task returned, None if nothing."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        entry = self._send("GET", path, missing_is_none=True)
        return None if entry is None else entry["value"]

    def links(self, dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]:
        """Return the task's links by name, None for one that leads nowhere yet."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/links"
        links: dict[str, str | None] = self._send("GET", path)["extra_links"]
        return links

    def respond(self, dag_id: str, run_id: str, task_id: str, choice: str) -> None:
        """Answer, as a person does, a task that waits for one."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails"
        self._send("PATCH", path, {"chosen_options": [choice], "params_input": {}})

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> list[str]:
        """Return the lines of a task's log."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        log = self._send("GET", path, missing_is_none=True)
        lines = []
        for entry in (log or {}).get("content", []):
            lines.append(entry if isinstance(entry, str) else str(entry.get("event", "")))
            for error in entry.get("error_detail", None) or [] if isinstance(entry, dict) else []:
                lines.append(f"{error.get('exc_type')}: {error.get('exc_value')}")
        return lines

    def _send(self, method: str, path: str, body: Any = None, *, missing_is_none: bool = False) -> Any:
        headers = {"Accept": "application/json"}
        reply = self._session.request(method, f"{self.base_url}/api/v2{path}", json=body, headers=headers, timeout=30)
        if missing_is_none and reply.status_code == 404:
            return None
        reply.raise_for_status()
        return reply.json()


class EmulatorControl:
    """
    The emulator's control routes.

    :param base_url: ``http://host:port`` of the emulator.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._session = requests.Session()
        self._session.trust_env = False

    def is_up(self) -> bool:
        """Whether the emulator answers."""
        try:
            return self._session.get(f"{self.base_url}/_emulator/health", timeout=5).ok
        except requests.RequestException:
            return False

    def configure(self, **knobs: Any) -> None:
        """Change knobs of the emulator."""
        self._session.patch(f"{self.base_url}/_emulator/config", json=knobs, timeout=10).raise_for_status()

    def reset(self) -> None:
        """Let it forget everything."""
        self._session.post(f"{self.base_url}/_emulator/reset", timeout=10).raise_for_status()

    def jobs(self) -> list[dict[str, Any]]:
        """Return all jobs ever created, deleted ones too: name, state, rows, rows_run and what was billed."""
        reply = self._session.get(f"{self.base_url}/_emulator/ledger", timeout=10)
        reply.raise_for_status()
        jobs: list[dict[str, Any]] = reply.json()["jobs"]
        return jobs

    def hold(self, method: str, path: str, seconds: float) -> None:
        """Let the next call whose path matches the regular expression take effect, and its reply wait."""
        rule = {"match": {"method": method, "path": path}, "action": "delay", "when": "after", "delay": seconds}
        self._session.post(f"{self.base_url}/_emulator/faults", json=rule, timeout=10).raise_for_status()

    def is_held(self, path: str) -> bool:
        """Whether a call that :meth:`hold` speaks of has arrived."""
        reply = self._session.get(f"{self.base_url}/_emulator/faults", timeout=10)
        reply.raise_for_status()
        return any(rule["fired"] for rule in reply.json()["faults"] if rule["match"]["path"] == path)
