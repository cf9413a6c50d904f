# SPDX-License-Identifier: Apache-2.0
"""An auth manager that knows a person who may read a DAG's tasks and not its XComs, as custom roles of Airflow may."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

WITHOUT_XCOMS = "tasks_only"


class NarrowAuthManager(SimpleAuthManager):
    """Airflow's own, which knows no such role, with one exception."""

    def is_authorized_dag(self, *, user: Any, access_entity: Any = None, **asked: Any) -> bool:
        """Ask Airflow's own, but for that person's XComs."""
        if access_entity is DagAccessEntity.XCOM and user.get_name() == WITHOUT_XCOMS:
            return False
        return super().is_authorized_dag(user=user, access_entity=access_entity, **asked)
