# SPDX-License-Identifier: Apache-2.0
"""What a parallel run of the tests relies on."""

from __future__ import annotations

import os

import pytest


@pytest.mark.xdist_group("a group")
def test_tests_that_belong_together_say_so_in_their_ids(request: pytest.FixtureRequest) -> None:
    """The process that hands tests out knows nothing else of them."""
    is_parallel = "PYTEST_XDIST_WORKER" in os.environ
    assert request.node.nodeid.endswith("@a group") == is_parallel
