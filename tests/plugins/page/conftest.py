# SPDX-License-Identifier: Apache-2.0
"""A real API server for the page's tests: one for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.page_server import PageServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """Serve the page in a real Airflow, whose users are named as their roles."""
    server = PageServer(tmp_path_factory.mktemp("page"))
    yield server
    server.stop()
