# SPDX-License-Identifier: Apache-2.0
"""What every test may use."""

from __future__ import annotations

import importlib.metadata

# An installed package brings its plugin by entry point; a bare checkout has to name it.
_IS_REGISTERED = any(entry.name == "gemini_batch" for entry in importlib.metadata.entry_points(group="pytest11"))
pytest_plugins = [] if _IS_REGISTERED else ["gemini_batch_emulator.pytest_plugin"]
