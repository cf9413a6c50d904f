# SPDX-License-Identifier: Apache-2.0
"""Where figures come from: machine and versions."""

from __future__ import annotations

import os
import platform
import re
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def machine() -> str:
    """Describe this machine in one line."""
    model = re.search(r"model name\s*:\s*(.+)", _read("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    parts = [
        f"{os.cpu_count()} cores",
        model[1].strip() if model else platform.machine(),
        f"{int(memory[1]) / 1e6:.0f} GB of memory" if memory else "",
        f"{platform.system()} {platform.release().split('-')[0]}",
    ]
    return ", ".join(part for part in parts if part)


def versions(*names: str) -> dict[str, str]:
    """Return the versions of Python and of those distributions of this environment that are there."""
    found = {"Python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def named_versions(names: list[str]) -> dict[str, str]:
    """The same with a list, for a call from another process."""
    return versions(*names)


def today() -> str:
    """Return the date."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
