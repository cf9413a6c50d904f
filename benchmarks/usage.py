# SPDX-License-Identifier: Apache-2.0
"""
Memory, CPU and pauses of the process that asks.

Peak memory is read from ``/proc``: what ``getrusage`` tells survives the start of a new program, so that a small child
of a large parent would seem large.
"""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TICK = 0.002
"""Seconds between two looks at the clock: how finely a pause of the loop is known."""

_STATUS = "/proc/{}/status"
_CLEAR = Path("/proc/self/clear_refs")


def _status(name: str, process: int | None = None) -> int:
    path = Path(_STATUS.format(process or "self"))
    found = re.search(rf"{name}:\s+(\d+) kB", path.read_text())
    if found is None:
        raise RuntimeError(f"{path} has no {name}: memory is measured on Linux only.")
    return int(found[1]) * 1024


def resident() -> int:
    """Return the bytes of this process in memory now."""
    return _status("VmRSS")


def peak(process: int | None = None) -> int:
    """Return the most bytes of a process in memory, of this one since :func:`forget_peak`."""
    return _status("VmHWM", process)


def forget_peak() -> None:
    """Let the peak begin anew at what is in memory now."""
    _CLEAR.write_text("5")


def measured(work: Callable[[], Any]) -> dict[str, float]:
    """Run *work*; return its seconds, its CPU seconds, and its peak memory over the start in bytes."""
    forget_peak()
    before, start, cpu = resident(), time.perf_counter(), time.process_time()
    work()
    return {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "memory": max(0, peak() - before),
    }


def collection_seconds() -> float:
    """
    Return the CPU seconds of one full garbage collection as things stand, the least of three.

    Python makes one every now and then, in whatever is running: no event loop pauses less than that.
    """
    spent = []
    for _ in range(3):
        start = time.thread_time()
        gc.collect()
        spent.append(time.thread_time() - start)
    return min(spent)


class LoopWatch:
    """Async context manager that finds the longest time for which the event loop ran nothing else."""

    def __init__(self) -> None:
        self._longest = self._busiest = self._collection = self._collecting = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> LoopWatch:
        gc.callbacks.append(self._on_collection)
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        gc.callbacks.remove(self._on_collection)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def pauses(self) -> dict[str, float]:
        """
        Return the longest pause, the most CPU of the loop's thread in any pause, and the longest garbage collection.

        All in seconds. Where other programs compete for the cores, the first is theirs as much as ours.
        """
        return {"pause": self._longest, "cpu": self._busiest, "collection": self._collection}

    def _on_collection(self, phase: str, _: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._collecting = now
        else:
            self._collection = max(self._collection, now - self._collecting)

    async def _watch(self) -> None:
        last, last_cpu = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(TICK)
            now, cpu = time.perf_counter(), time.thread_time()
            # The whole time since the last look: a pause may have begun right after it.
            self._longest = max(self._longest, now - last)
            self._busiest = max(self._busiest, cpu - last_cpu)
            last, last_cpu = now, cpu
