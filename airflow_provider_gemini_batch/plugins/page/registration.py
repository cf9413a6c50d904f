# SPDX-License-Identifier: Apache-2.0
"""
What the plugin tells Airflow of the page: an app, an entry in the menu, and on Airflow 3.4 a tab on our tasks.

Every process of Airflow loads plugins. Only the API server asks for the list of apps, and only then is the app made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.plugins.old_form import FormOfApiServer
from airflow_provider_gemini_batch.plugins.page.operator_names import OPERATORS
from airflow_provider_gemini_batch.plugins.page.urls import PREFIX, base_path

if TYPE_CHECKING:
    from collections.abc import Iterator

NAV_ROUTE = "gemini-batch"
TAB_ROUTE = "gemini-batch-run"


class LazyApps(list[Any]):
    """A list of one app, which is made when somebody looks into it, and once."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[dict[str, Any]] | None = None

    def __iter__(self) -> Iterator[Any]:
        if self._made is None:
            from airflow_provider_gemini_batch.plugins.page.app import create_app

            self._made = [{"app": create_app(), "url_prefix": PREFIX, "name": "Gemini Batch"}]
        return iter(self._made)

    def __len__(self) -> int:
        return 1

    def __bool__(self) -> bool:
        return True


def fastapi_apps() -> list[Any]:
    """Return the apps of the plugin: none before Airflow 3.1, whose API server knows no cookie."""
    version = _airflow_version()
    if version < (3, 0):
        return []
    return LazyApps() if version >= (3, 1) else FormOfApiServer()


def external_views() -> list[dict[str, Any]]:
    """Return the entry in the menu, and the tab where Airflow can restrict it to our tasks (3.4 and later)."""
    version = _airflow_version()
    if version < (3, 1):
        return []
    root = base_path() + PREFIX
    look = {"icon": f"{root}/static/icon.svg", "icon_dark_mode": f"{root}/static/icon-dark.svg"}
    views: list[dict[str, Any]] = [
        {"name": "Gemini", "href": f"{root}/jobs", "url_route": NAV_ROUTE, "destination": "nav", **look}
    ]
    if version >= (3, 4):
        address = "dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}"
        views.append(
            {
                "name": "Gemini batch",
                "href": f"{root}/run?{address}",
                "url_route": TAB_ROUTE,
                "destination": "task_instance",
                "applies_to": {"operator_name": list(OPERATORS)},
                **look,
            }
        )
    return views


def _airflow_version() -> tuple[int, int]:
    from airflow import __version__

    major, minor = __version__.split(".")[:2]
    return int(major), int(minor)
