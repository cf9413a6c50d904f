# SPDX-License-Identifier: Apache-2.0
"""The view ``/run``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.plugins.page.errors import NotHere
from airflow_provider_gemini_batch.plugins.page.needs import reads_task
from airflow_provider_gemini_batch.plugins.page.visit import Route, Visit

if TYPE_CHECKING:
    from starlette.responses import Response


def show(visit: Visit) -> Response:
    """Show the view."""
    raise NotHere("Not built yet", "This view comes next.")


ROUTES = [Route("/run", show, reads_task)]
