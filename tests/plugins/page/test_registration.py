# SPDX-License-Identifier: Apache-2.0
"""What Airflow is told of the page, on each version, and what that costs a process that does not serve it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from airflow_provider_gemini_batch.plugins.page import registration
from airflow_provider_gemini_batch.plugins.page.security import TOKEN_HOURS, check_token, make_token
from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress, airflow_task_path, answers_path, run_path

if TYPE_CHECKING:
    from typing import Any


@pytest.mark.parametrize(
    ("version", "apps", "views"),
    [
        ("2.11.2", 0, []),
        ("3.0.6", 0, []),
        ("3.1.8", 1, ["nav"]),
        ("3.3.2", 1, ["nav"]),
        ("3.4.0b2", 1, ["nav", "task_instance"]),
    ],
)
def test_each_airflow_is_told_what_it_can_show(mocker: Any, version: str, apps: int, views: list[str]) -> None:
    mocker.patch("airflow.__version__", version)
    assert len(registration.fastapi_apps()) == apps
    assert [view["destination"] for view in registration.external_views()] == views


def test_tab_is_for_our_operators_alone(mocker: Any) -> None:
    mocker.patch("airflow.__version__", "3.4.0")
    [tab] = [view for view in registration.external_views() if view["destination"] == "task_instance"]
    assert "RunBatchOperator" in tab["applies_to"]["operator_name"]
    assert "dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}" in tab["href"]


def test_plugin_loads_no_web_framework() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "from airflow_provider_gemini_batch.plugins.listener import GeminiBatchPlugin as plugin\n"
        "assert len(plugin.external_views) in (0, 1, 2), plugin.external_views\n"
        "heavy = {'fastapi', 'starlette', 'jinja2', 'requests', 'duckdb'} & (set(sys.modules) - before)\n"
        "ours = [name for name in sys.modules if name.endswith(('plugins.page.app', 'plugins.page.visit'))]\n"
        "import airflow.plugins_manager\n"
        "print(sorted(ours))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_addresses_carry_names_whatever_they_hold() -> None:
    address = TaskAddress("a b", "run__2026-01-01T00:00:00+00:00", "t/é&x=1", 3)
    assert run_path(address) == (
        "/run?dag_id=a%20b&run_id=run__2026-01-01T00%3A00%3A00%2B00%3A00&task_id=t%2F%C3%A9%26x%3D1&map_index=3"
    )
    assert answers_path(TaskAddress("d", "r", "t"), status="failed", text=None).endswith("task_id=t&status=failed")
    assert airflow_task_path(address).endswith("/tasks/t%2F%C3%A9%26x%3D1/mapped/3")


def test_token_is_for_one_user_and_some_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__SECRET_KEY", "a secret of the API servers")
    now = 1_800_000_000.0
    token = make_token("ada", now=now)
    check_token(token, "ada", now=now + (TOKEN_HOURS - 1) * 3600)
    for user, later in (("eve", 0.0), ("ada", TOKEN_HOURS * 3600.0), ("ada", -3600.0)):
        with pytest.raises(Exception, match="Nothing was changed"):
            check_token(token, user, now=now + later)
    for forged in ("", ".", token[:-1], f"9{token}", "x.y", "١.a"):
        with pytest.raises(Exception, match="Nothing was changed"):
            check_token(forged, "ada", now=now)
