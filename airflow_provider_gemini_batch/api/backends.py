# SPDX-License-Identifier: Apache-2.0
"""Settings -> backend: the only branch on a backend's name outside the room that reads connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings


def backend_for(settings: ConnectionSettings) -> Backend:
    """
    Return the backend that the connection names.

    :raises ConfigurationError: If it is none of ours.
    """
    if settings.backend == "vertex_ai":
        from airflow_provider_gemini_batch.api.vertex.jobs import VertexBackend

        return VertexBackend(settings)
    if settings.backend == "gemini":
        from airflow_provider_gemini_batch.api.developer.jobs import DeveloperBackend

        return DeveloperBackend(settings)
    raise ConfigurationError(f"backend must be gemini or vertex_ai, not {settings.backend!r}.")
