# SPDX-License-Identifier: Apache-2.0
"""What a route asks for before its view runs; each raises :class:`~.errors.Refused`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.plugins.page.visit import Visit


def signed_in(visit: Visit) -> None:
    """Need no more than a login: the view itself leaves out what the viewer may not read."""


def reads_task(visit: Visit) -> None:
    """Need to read the tasks of the DAG that the address names."""
    visit.viewer.require_dag("GET", visit.address.dag_id, "TASK_INSTANCE")


def reads_answers(visit: Visit) -> None:
    """Need to read the tasks and the XComs of the DAG that the address names, where answers come from."""
    reads_task(visit)
    visit.viewer.require_dag("GET", visit.address.dag_id, "XCOM")


def changes_task(visit: Visit) -> None:
    """Need to change tasks of the DAG that the address names, as for marking one failed."""
    reads_task(visit)
    visit.viewer.require_dag("PUT", visit.address.dag_id, "TASK_INSTANCE")


def reads_connection(visit: Visit) -> None:
    """Need to read the connection that the address names."""
    visit.viewer.require_connection("GET", visit.conn_id)
