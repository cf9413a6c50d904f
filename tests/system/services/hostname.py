# SPDX-License-Identifier: Apache-2.0
"""Tell workers and triggerers of one machine apart: Airflow shows the name of the host where a task or trigger runs."""

from __future__ import annotations

import os

VARIABLE = "MEMBER_HOSTNAME"


def hostname() -> str:
    """Return this process's name; ``[core] hostname_callable`` of these suites."""
    return os.environ.get(VARIABLE, "localhost")
