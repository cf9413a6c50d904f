# SPDX-License-Identifier: Apache-2.0
"""Triggers as a triggerer runs them: a task each, in one event loop. Works for any trigger, in any environment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def lines_of(path: str) -> Iterator[str]:
    """Yield a file's lines, each read when it is needed: memory is measured meanwhile."""
    with open(path) as file:
        for line in file:
            yield line.strip()


class Waits:
    """
    Many triggers at once.

    :param make: Makes one trigger.
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make
        self.tasks: list[asyncio.Task[None]] = []
        self.events: list[tuple[float, Any]] = []

    async def start(self, of: Iterable[Any]) -> None:
        """Start a trigger for each, letting others run in between, as Airflow's ``TriggerRunner`` does."""
        for what in of:
            await asyncio.sleep(0)
            trigger = self._make(what)
            await asyncio.sleep(0)
            self.tasks.append(asyncio.create_task(self._run(trigger)))

    async def _run(self, trigger: Any) -> None:
        async for event in trigger.run():
            self.events.append((time.time(), event.payload))
            return

    async def ended(self, seconds: float) -> None:
        """Wait until every trigger has yielded its event, or the time is over."""
        await asyncio.wait(self.tasks, timeout=seconds)

    async def stop(self) -> None:
        """Cancel what still waits."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
