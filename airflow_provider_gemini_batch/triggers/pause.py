# SPDX-License-Identifier: Apache-2.0
"""A trigger that waits until a moment, for a task that has to come back later."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class PauseTrigger(BaseTrigger):
    """
    Resume the task at a moment.

    :param until: UTC epoch seconds; what is no number, as another version may have stored it, is now.
    :param retired: Arguments of other versions: stored triggers outlive an upgrade.
    """

    def __init__(self, until: float = 0.0, **retired: Any) -> None:
        super().__init__()
        self.until = until if isinstance(until, (int, float)) and math.isfinite(until) else 0.0

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments, as they are stored."""
        return "airflow_provider_gemini_batch.triggers.pause.PauseTrigger", {"until": self.until}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event."""
        # By the wall clock, so that a triggerer which restarts waits for the rest alone.
        await asyncio.sleep(max(0.0, self.until - time.time()))
        yield TriggerEvent({"until": self.until})
