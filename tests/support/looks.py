# SPDX-License-Identifier: Apache-2.0
"""A person's window on the page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.page_server import PageServer


class Look:
    """One window of a signed-in person, and what its console said."""

    def __init__(self, browser: Any, page: PageServer, *, dark: bool = False, width: int = 1280) -> None:
        self.faults: list[str] = []
        self._base = f"{page.url}/gemini-batch"
        scheme = "dark" if dark else "light"
        self._context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        self._context.add_cookies([{"name": "_token", "value": page.token("admin"), "url": page.url}])
        self.window = self._context.new_page()
        self.window.on("console", lambda said: self.faults.append(said.text) if said.type == "error" else None)
        self.window.on("pageerror", lambda fault: self.faults.append(str(fault)))

    def open(self, path: str) -> None:
        """Go to a view and wait until it stands still."""
        self.window.goto(f"{self._base}{path}", wait_until="networkidle")

    def picture(self, name: str, *, height: int = 560) -> None:
        """Keep a picture of the view's upper part where pictures are asked for."""
        if place := os.environ.get("PICTURES"):
            Path(place).mkdir(parents=True, exist_ok=True)
            clip = {"x": 0, "y": 0, "width": 1280, "height": height}
            self.window.screenshot(path=str(Path(place) / f"{name}.png"), clip=clip)

    def close(self) -> None:
        """Close the window."""
        self._context.close()
