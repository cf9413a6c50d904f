# SPDX-License-Identifier: Apache-2.0
"""Tell triggerers of one machine apart: Airflow shows the name of the host where a trigger runs."""

from __future__ import annotations

import os

VARIABLE = "CRASH_HOSTNAME"


def hostname() -> str:
    """Return this process's name; ``[core] hostname_callable`` of the crash suite."""
    return os.environ.get(VARIABLE, "localhost")
