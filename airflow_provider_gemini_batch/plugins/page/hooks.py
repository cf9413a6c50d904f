# SPDX-License-Identifier: Apache-2.0
"""A connection's hook inside the API server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook


def hook_for(conn_id: str | None, backend: str | None = None) -> GeminiBatchHook:
    """
    Return the hook of a connection, which is looked up now.

    :param conn_id: None for the default connection.
    :raises GeminiBatchError: If there is no such connection, or it cannot be read.
    """
    from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook

    hook = GeminiBatchHook(conn_id or GeminiBatchHook.default_conn_name, backend=backend)
    try:
        _ = hook.settings
    except GeminiBatchError:
        raise
    except Exception as error:  # what Airflow says may quote the connection
        raise ConfigurationError(
            f"The connection {hook.gemini_batch_conn_id!r} cannot be looked up by the API server "
            f"({type(error).__name__}). It has to be in Airflow's database, in a secrets backend, or in this server's "
            "environment."
        ) from None
    return hook
