# SPDX-License-Identifier: Apache-2.0
"""An auth manager that knows people who may not read all of a DAG, as custom roles of Airflow may be."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

WITHOUT = {"tasks_only": DagAccessEntity.XCOM, "no_actions": DagAccessEntity.HITL_DETAIL}
"""What of a DAG each of them may not read."""


class NarrowAuthManager(SimpleAuthManager):
    """Airflow's own, which knows no such roles, with these exceptions."""

    def is_authorized_dag(self, *, user: Any, access_entity: Any = None, **asked: Any) -> bool:
        """Ask Airflow's own, but for what is not theirs."""
        if user.get_name() == "stranger":  # may read none
            return False
        if access_entity is not None and access_entity is WITHOUT.get(user.get_name()):
            return False
        return super().is_authorized_dag(user=user, access_entity=access_entity, **asked)
