# SPDX-License-Identifier: Apache-2.0
"""The README as a package index shows it, where no file of the repository lies beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


def standing_alone(text: str, repository: str = "") -> str:
    """
    Return Markdown whose links and pictures work without the files beside it.

    :param repository: Where these files can be read. Empty: pictures are left out, and a link becomes its text and the
        file's path, ``[cost](docs/cost.md)`` for example ``cost (`docs/cost.md`)``.
    """
    local = r"\[([^\]]*)\]\((?!https?:|#)([^)]+)\)"
    if repository:
        text = re.sub(rf"!{local}", rf"![\1]({repository}/raw/HEAD/\2)", text)
        return re.sub(rf"(?<!!){local}", rf"[\1]({repository}/blob/HEAD/\2)", text)
    text = re.sub(rf"^!{local}\n\n", "", text, flags=re.MULTILINE)
    return re.sub(local, lambda link: link[1] if link[2] in link[1] else f"{link[1]} (`{link[2]}`)", text)


class CustomMetadataHook(MetadataHookInterface):
    """Gives the package its description; hatchling looks for this name."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set ``readme``; ``Repository`` below ``[project.urls]`` makes its links absolute."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository", "").rstrip("/")
        metadata["readme"] = {"content-type": "text/markdown", "text": standing_alone(text, repository)}
