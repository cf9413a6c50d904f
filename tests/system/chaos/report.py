# SPDX-License-Identifier: Apache-2.0
"""Tables that read well on a terminal and as Markdown, and the file that keeps them."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

TITLE = "# Results of `make chaos`"
PARTS = ("Seeded schedules", "Beside the official provider", "What the look-up costs", "Runs", "Caps")
"""The sections of the file, in order; each is replaced when its part has run in full."""


def table(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """Lay a table out, as Markdown whose columns stand below each other."""
    cells = [[str(cell) for cell in line] for line in (head, *lines)]
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(head))]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    )


def machine() -> str:
    """Say on what figures were made."""
    return (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, Airflow {version('apache-airflow')}, "
        f"airflow-provider-gemini-batch {version('airflow-provider-gemini-batch')}"
    )


def keep(file: Path, part: str, text: str) -> None:
    """Put *text* into the part's section of *file*; the other sections stay."""
    sections = _sections(file.read_text()) if file.exists() else {}
    sections[part] = text.strip()
    ordered = [f"## {name}\n\n{sections[name]}" for name in PARTS if name in sections]
    file.write_text("\n\n".join((TITLE, *ordered)) + "\n")


def _sections(text: str) -> dict[str, str]:
    pieces = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return {name: body.strip() for name, body in zip(pieces[1::2], pieces[2::2], strict=True)}
