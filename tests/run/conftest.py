# SPDX-License-Identifier: Apache-2.0
"""Runs against an emulator."""

from __future__ import annotations

import airflow.settings  # noqa: F401 - sets logging up, which is to be done before a test listens
import pytest

from tests.run.world import World


@pytest.fixture
def world(gemini_batch_emulator, tmp_path) -> World:
    """A run's world on the Developer API."""
    return World(gemini_batch_emulator, tmp_path)


@pytest.fixture(params=["gemini", "vertex_ai"])
def both(request, gemini_batch_emulator, tmp_path) -> World:
    """A run's world on either backend."""
    return World(gemini_batch_emulator, tmp_path, request.param)
