# SPDX-License-Identifier: Apache-2.0
"""Who may call Vertex AI, and about which project and location."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemini_batch_emulator.errors import GoogleError, error_info
from gemini_batch_emulator.token.desk import require_caller

if TYPE_CHECKING:
    from starlette.requests import Request

    from gemini_batch_emulator.state import EmulatorState


class Access:
    """Checks callers and paths."""

    def __init__(self, state: EmulatorState) -> None:
        self._state = state

    def enter(self, request: Request) -> tuple[str, str, str]:
        """
        Check caller, project and location.

        :return: Project, location, and the scope that jobs are kept under.
        :raises GoogleError: 401 for the caller, 403 for a project or location that does not exist.
        """
        config = self._state.config
        require_caller(self._state, request)
        project, location = request.path_params["project"], request.path_params["location"]
        # The service answers with a project's number where it was asked by its id, and takes both.
        by_number = {number: name for name, number in config.project_numbers.items()}
        if config.projects is not None and by_number.get(project, project) not in config.projects:
            raise GoogleError(
                403,
                f"Permission denied on resource project {project}.",
                details=[
                    error_info("CONSUMER_INVALID", service="aiplatform.googleapis.com", consumer=f"projects/{project}")
                ],
            )
        if config.locations is not None and location not in config.locations:
            raise GoogleError(403, f"Permission denied on 'locations/{location}' (or it may not exist).")
        return project, location, f"projects/{config.project_numbers.get(project, project)}/locations/{location}"
