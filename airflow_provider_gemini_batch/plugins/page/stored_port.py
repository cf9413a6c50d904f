# SPDX-License-Identifier: Apache-2.0
"""Lets the *Test* button of Airflow 3.3 work for our connections."""

# Its form sends port 0 for a connection that has none, and Airflow 3.3 compares that with what is stored: none is not
# 0, so the test of an untouched connection is refused as one of another server (`_same_endpoint` in
# `core_api/routes/public/connections.py`; Airflow 3.4 takes both for none). So inside the API server a stored
# connection of ours without a port is read as one with port 0. Both mean the port of the base URL, and nothing is
# written: the value is set as if the database had held it.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.connection.form import CONNECTION_TYPE

if TYPE_CHECKING:
    from sqlalchemy.orm import InstanceState


def read_missing_port_as_zero() -> None:
    """Do so from now on in this process, where the form of this Airflow needs it; doing it twice changes nothing."""
    from airflow import __version__

    if not __version__.startswith("3.3."):
        return
    from airflow.models.connection import Connection  # noqa: TID251  (the API server has them)
    from sqlalchemy import event

    for moment, listener in (("load", _loaded), ("refresh", _refreshed)):
        if not event.contains(Connection, moment, listener):
            event.listen(Connection, moment, listener)


def _loaded(connection: Any, context: Any) -> None:
    from sqlalchemy import inspect
    from sqlalchemy.orm.attributes import set_committed_value

    state: InstanceState[Any] = inspect(connection)
    # What is not loaded yet is not asked for here: that would be a query inside a query.
    if {"conn_type", "port"} & state.unloaded:
        return
    if connection.conn_type == CONNECTION_TYPE and connection.port is None:
        set_committed_value(connection, "port", 0)


def _refreshed(connection: Any, context: Any, attributes: Any) -> None:
    _loaded(connection, context)
