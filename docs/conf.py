# SPDX-License-Identifier: Apache-2.0
"""How Sphinx makes a site of these pages: ``make docs``."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_VERSION = re.search(
    r'^__version__ = "(.+)"', (_ROOT / "airflow_provider_gemini_batch/__init__.py").read_text(), re.MULTILINE
)

project = "Gemini Batch for Apache Airflow"
author = "The airflow-provider-gemini-batch authors"
project_copyright = author
release = _VERSION[1] if _VERSION else ""

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["build"]
html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
myst_heading_anchors = 3  # links like reliability.md#the-events
# A drawing in mermaid's language stays text; no lexer knows it.
suppress_warnings = ["misc.highlighting_failure"]
