# SPDX-License-Identifier: Apache-2.0
"""The page's addresses, in one place: the app serves them, extra links and the tab lead to them."""

# Nothing heavy is imported, so that a worker may make a link. Example:
#
#     address = TaskAddress("nightly", "scheduled__2026-11-27", "classify")
#     run_path(address)            # /run?dag_id=nightly&run_id=scheduled__2026-11-27&task_id=classify
#     page_url(run_path(address))  # https://airflow.example/gemini-batch/run?..., as [api] base_url says

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

PREFIX = "/gemini-batch"
"""Where the app is mounted, below Airflow's own address."""


@dataclass(frozen=True)
class TaskAddress:
    """
    Names a task instance.

    :param map_index: -1 for a task that is not mapped.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    def query(self) -> dict[str, str]:
        """Return the parameters that stand for it in an address."""
        found = {"dag_id": self.dag_id, "run_id": self.run_id, "task_id": self.task_id}
        return found if self.map_index < 0 else {**found, "map_index": str(self.map_index)}


def run_path(address: TaskAddress) -> str:
    """Return the path of a task's run, below :data:`PREFIX`."""
    return _path("/run", address.query())


def answers_path(address: TaskAddress, **filters: Any) -> str:
    """
    Return the path of a task's answers.

    :param filters: Further parameters; those that are None or empty are left out.
    """
    return _path("/answers", {**address.query(), **filters})


def sample_path(address: TaskAddress) -> str:
    """Return the path of what a sample says of the whole."""
    return _path("/sample", address.query())


def jobs_path(conn_id: str | None = None, **filters: Any) -> str:
    """Return the path of the jobs of a connection, the default one if none is named."""
    return _path("/jobs", {"conn_id": conn_id, **filters})


def spend_path(**filters: Any) -> str:
    """Return the path of what was spent."""
    return _path("/spend", filters)


def airflow_task_path(address: TaskAddress) -> str:
    """Return the path of Airflow's own page of a task instance, below Airflow's address."""
    dag_id, run_id, task_id = (quote(each, safe="") for each in (address.dag_id, address.run_id, address.task_id))
    mapped = f"/mapped/{address.map_index}" if address.map_index >= 0 else ""
    return f"/dags/{dag_id}/runs/{run_id}/tasks/{task_id}{mapped}"


def airflow_action_path(address: TaskAddress) -> str:
    """Return the path of Airflow's own page where a person answers what a task asks."""
    return f"{airflow_task_path(address)}/required_actions"


def base_url() -> str:
    """Return ``[api] base_url`` without its last slash, empty if it is not set."""
    from airflow_provider_gemini_batch.compat import conf

    return str(conf.get("api", "base_url", fallback="") or "").rstrip("/")


def base_path() -> str:
    """Return the path below which Airflow is served, empty for the root."""
    return urlsplit(base_url()).path.rstrip("/")


def page_url(path: str) -> str:
    """Return the whole address of a path of the page, or one from the root where ``[api] base_url`` is not set."""
    return f"{base_url()}{PREFIX}{path}"


def _path(path: str, parameters: dict[str, Any]) -> str:
    given = {name: value for name, value in parameters.items() if value is not None and value != ""}
    return f"{path}?{urlencode(given, doseq=True, safe='', quote_via=quote)}" if given else path
