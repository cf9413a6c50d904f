# SPDX-License-Identifier: Apache-2.0
"""What every test may use."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

# An installed package brings its plugin by entry point; a bare checkout has to name it.
_IS_REGISTERED = any(entry.name == "gemini_batch" for entry in importlib.metadata.entry_points(group="pytest11"))
pytest_plugins = [] if _IS_REGISTERED else ["gemini_batch_emulator.pytest_plugin"]


@pytest.fixture(params=["gemini", "vertex_ai"])
def emulator(
    request: pytest.FixtureRequest, gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch
) -> EmulatorHandle:
    """The emulator behind the default connection: once as the Developer API, once as Vertex AI."""
    from tests.support.airflow_side import set_connection

    set_connection(monkeypatch, gemini_batch_emulator.connection(request.param))
    return gemini_batch_emulator
