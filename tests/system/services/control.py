# SPDX-License-Identifier: Apache-2.0
"""The calls of Airflow's REST API, and of the emulator's control routes, that the demo does not make."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import requests

from demo.rest import AirflowApi, EmulatorControl

PAGE = 100
_PASS = ("region_id", "region_index")
"""By what an instance in a loop names its pass."""

READ_TRIES = 4
"""A busy machine may take longer for an answer than the demo waits."""


class Airflow(AirflowApi):
    """Airflow as a person uses it: marks, clears."""

    def task_instances(self) -> list[dict[str, Any]]:
        """Return the instances of all tasks of all runs."""
        listed: list[dict[str, Any]] = []
        while True:
            path = f"/dags/~/dagRuns/~/taskInstances?limit={PAGE}&offset={len(listed)}&order_by=id"
            page = self._send("GET", path)["task_instances"]
            listed += page
            if len(page) < PAGE:
                return listed

    def triggerers(self) -> list[str]:
        """Return the host names of the triggerers that Airflow takes to be alive."""
        jobs = self._send("GET", "/jobs?job_type=TriggererJob&job_state=running&is_alive=true")["jobs"]
        return [job["hostname"] for job in jobs]

    def _send(self, method: str, path: str, body: Any = None, *, missing_is_none: bool = False) -> Any:
        for _ in range(READ_TRIES - 1 if method == "GET" else 0):
            with suppress(requests.Timeout):
                return super()._send(method, path, body, missing_is_none=missing_is_none)
        return super()._send(method, path, body, missing_is_none=missing_is_none)

    def mark_task(self, instance: Mapping[str, Any], state: str) -> None:
        """Mark a task instance, as it was listed, failed, success or skipped."""
        path = f"{self._run(instance)}/taskInstances/{instance['task_id']}"
        body = {"new_state": state} | {name: instance[name] for name in _PASS if name in instance}
        self._send("PATCH", path if instance["map_index"] < 0 else f"{path}/{instance['map_index']}", body)

    def mark_run(self, dag_id: str, run_id: str, state: str) -> None:
        """Mark a whole run."""
        self._send("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", {"state": state})

    def clear(self, instance: Mapping[str, Any], *, keep_state: bool = False) -> None:
        """
        Clear a task instance, as it was listed.

        :param keep_state: Leave it its state; on Airflow 3.4 and later, earlier ones always do.
        """
        body = {"dag_run_id": instance["dag_run_id"], "only_failed": False, "dry_run": False}
        # A task's id alone stands for each pass of its loop.
        body |= (
            {"task_instance_ids": [instance["id"]]} if "region_id" in instance else {"task_ids": [instance["task_id"]]}
        )
        if keep_state:
            body["keep_task_state"] = True
        self._send("POST", f"/dags/{instance['dag_id']}/clearTaskInstances", body)

    @staticmethod
    def _run(instance: Mapping[str, Any]) -> str:
        return f"/dags/{instance['dag_id']}/dagRuns/{instance['dag_run_id']}"


class Emulator(EmulatorControl):
    """The service as it would rather not be."""

    def new_service_account(self, project: str) -> dict[str, Any]:
        """Return the content of a key file."""
        account: dict[str, Any] = self._control("POST", "service_accounts", {"project": project})
        return account

    def delay(self, path: str, body: str, seconds: float) -> None:
        """Let the next POST wait whose path and body match the regular expressions, before it has any effect."""
        match = {"method": "POST", "path": path, "body": body}
        self._control("POST", "faults", {"match": match, "action": "delay", "delay": seconds})

    def has_arrived(self, path: str, body: str) -> bool:
        """Whether a request that :meth:`delay` speaks of has arrived."""
        faults = self._control("GET", "faults")["faults"]
        return any(rule["fired"] for rule in faults if (rule["match"]["path"], rule["match"]["body"]) == (path, body))

    def hold_replies(self, method: str, path: str, seconds: float, times: int) -> None:
        """Let the next calls whose path matches the regular expression take effect, and their replies wait."""
        rule = {
            "match": {"method": method, "path": path},
            "action": "delay",
            "when": "after",
            "delay": seconds,
            "times": times,
        }
        self._control("POST", "faults", rule)

    def held_replies(self, path: str) -> int:
        """Return how many calls that :meth:`hold_replies` speaks of have arrived."""
        faults = self._control("GET", "faults")["faults"]
        return sum(int(rule["fired"]) for rule in faults if rule["match"]["path"] == path)

    def let_go(self) -> None:
        """Hold nothing any more that has not arrived."""
        self._control("DELETE", "faults")

    def executions(self) -> dict[str, Any]:
        """Return how many requests were carried out, and which more than once."""
        done: dict[str, Any] = self._control("GET", "executions")
        return done

    def delete_job(self, name: str) -> None:
        """Delete a job of the Developer API."""
        url, headers = f"{self.base_url}/v1beta/{name}", {"x-goog-api-key": "any-key"}
        self._session.delete(url, headers=headers, timeout=10).raise_for_status()

    def finish(self, display_name: str) -> int:
        """Let the live jobs succeed whose display name matches the regular expression; return how many."""
        done = self._control("POST", "finish_jobs", {"match": {"display_name": display_name}})
        return int(done["count"])

    def _control(self, method: str, route: str, body: Any = None) -> Any:
        reply = self._session.request(method, f"{self.base_url}/_emulator/{route}", json=body, timeout=10)
        reply.raise_for_status()
        return reply.json()
