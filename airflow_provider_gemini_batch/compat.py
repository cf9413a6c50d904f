# SPDX-License-Identifier: Apache-2.0
"""Names of Airflow that live elsewhere in each version, each imported when it is first asked for."""

# `apache-airflow-providers-common-compat` does the same for hundreds of names, but the version that came out with an
# older Airflow (1.7.3 with Airflow 3.0.6) lacks most of ours. Without it, this provider installs under the constraints
# of every supported Airflow. Example: `BaseHook` is taken from `airflow.sdk` on 3.1 and later, before from
# `airflow.hooks.base`.

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_HOMES: dict[str, tuple[str, ...]] = {
    "AirflowException": ("airflow.sdk.exceptions", "airflow.exceptions"),
    "AirflowFailException": ("airflow.sdk.exceptions", "airflow.exceptions"),
    "AirflowNotFoundException": ("airflow.sdk.exceptions", "airflow.exceptions"),
    "AirflowPlugin": ("airflow.sdk.plugins_manager", "airflow.plugins_manager"),
    "AirflowSensorTimeout": ("airflow.sdk.exceptions", "airflow.exceptions"),
    "AirflowSkipException": ("airflow.sdk.exceptions", "airflow.exceptions"),
    "AirflowTaskTimeout": ("airflow.sdk.exceptions", "airflow.exceptions"),
    "Asset": ("airflow.sdk", "airflow.datasets:Dataset"),
    "BaseHook": ("airflow.sdk", "airflow.hooks.base"),
    "BaseOperator": ("airflow.sdk", "airflow.models.baseoperator"),
    "BaseOperatorLink": ("airflow.sdk", "airflow.models.baseoperatorlink"),
    "BaseSensorOperator": ("airflow.sdk", "airflow.sensors.base"),
    "Connection": ("airflow.sdk", "airflow.models.connection"),
    "DAG": ("airflow.sdk", "airflow.models.dag"),
    "DecoratedOperator": ("airflow.sdk.bases.decorator", "airflow.decorators.base"),
    "ObjectStoragePath": ("airflow.sdk", "airflow.io.path"),
    "Param": ("airflow.sdk", "airflow.models.param"),
    "PokeReturnValue": ("airflow.sdk", "airflow.sensors.base"),
    "RetryDecision": ("airflow.sdk",),
    "RetryPolicy": ("airflow.sdk",),
    "Stats": ("airflow.sdk.observability.stats", "airflow.observability.stats", "airflow.stats"),
    "TaskDeferred": ("airflow.sdk.exceptions", "airflow.exceptions"),
    "Variable": ("airflow.sdk", "airflow.models.variable"),
    "XCom": ("airflow.sdk.execution_time.xcom", "airflow.models.xcom"),
    "XComArg": ("airflow.sdk", "airflow.models.xcom_arg"),
    "conf": ("airflow.sdk.configuration", "airflow.configuration"),
    "get_hook_lineage_collector": ("airflow.sdk.lineage", "airflow.lineage.hook"),
    "hookimpl": ("airflow.sdk._shared.listeners", "airflow.listeners"),
    "task": ("airflow.sdk", "airflow.decorators"),
    "task_decorator_factory": ("airflow.sdk.bases.decorator", "airflow.decorators.base"),
    "timezone": ("airflow.sdk", "airflow.utils"),
}
"""Modules that may hold a name, the newest first; ``module:name`` where it was called otherwise."""

__all__ = [*_HOMES, "get_connection_in_trigger", "without_parsed_texts"]


def __getattr__(name: str) -> Any:
    """Import a name from the first module of :data:`_HOMES` that holds it, and keep it."""
    for home in _HOMES.get(name, ()):
        module, _, former = home.partition(":")
        try:
            found = getattr(importlib.import_module(module), former or name)
        except (ImportError, AttributeError):
            continue
        globals()[name] = found
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@contextmanager
def without_parsed_texts() -> Iterator[None]:
    """
    Look a connection up without a word of it in Airflow's own log.

    Airflow 2.11 logs the traceback of a connection that cannot be parsed. Its last line quotes what the parser stumbled
    over, which is the key for ``gemini-batch://:KEY`` without its ``@``.
    """

    def leave_out(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[0] is not None:
            record.msg, record.args = f"{record.getMessage()} ({record.exc_info[0].__name__})", ()
            record.exc_info = None
        return True

    parser = logging.getLogger("airflow.models.connection")
    parser.addFilter(leave_out)
    try:
        yield
    finally:
        parser.removeFilter(leave_out)


async def get_connection_in_trigger(conn_id: str) -> tuple[Any, dict[str, Any]]:
    """
    Look a connection up on a triggerer's event loop.

    Before Airflow 3.3.2, ``BaseHook.aget_connection`` talks to the supervisor synchronously, which fails while another
    trigger does; on 3.0 and 3.1 a call from a thread of its own blocks the triggerer for good. asgiref's thread does
    neither.

    :return: The connection, and its extra as a dict.
    """
    from asgiref.sync import sync_to_async

    base_hook, connection_class = __getattr__("BaseHook"), __getattr__("Connection")
    if hasattr(connection_class, "aextra_dejson"):  # came with the repaired aget_connection
        connection = await base_hook.aget_connection(conn_id)
        return connection, await connection.aextra_dejson()
    with without_parsed_texts():
        connection = await sync_to_async(base_hook.get_connection)(conn_id)
    return connection, await sync_to_async(lambda: connection.extra_dejson)()
