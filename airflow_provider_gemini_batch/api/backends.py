# SPDX-License-Identifier: Apache-2.0
"""Connection -> surface: the only place that knows which backends there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.backend import Surface
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings


def surface_for(settings: ConnectionSettings) -> Surface:
    """Return the surface of the connection's backend."""
    if settings.backend == "vertex_ai":
        from airflow_provider_gemini_batch.api.vertex.jobs import VertexSurface

        return VertexSurface(settings)
    from airflow_provider_gemini_batch.api.developer.jobs import DeveloperSurface

    return DeveloperSurface(settings)
