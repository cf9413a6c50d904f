# SPDX-License-Identifier: Apache-2.0
"""
One clock for several threads, which stands while any of them works and jumps when all of them sleep.

Worked example: a worker sleeps until 30 s, another one waits in its event loop until 5 s, and a server's thread holds a
reply back until 5.2 s for a third. Nobody works, so it becomes 5 s, and the second one goes on. Only when that one
sleeps again, or is through, does it become 5.2 s. So real sockets and threads play hours in seconds, and no slow
machine lets a timeout pass that would not have passed on a fast one.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import selectors
import threading
from collections.abc import Callable
from typing import Any


class SteppedTime:
    """
    The clock; UTC epoch seconds.

    :param now: When it begins.
    """

    def __init__(self, now: float) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._working = 0
        self._sleepers: list[tuple[float, int, threading.Event]] = []
        self._numbers = itertools.count()

    def now(self) -> float:
        """Return the time."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Sleep; called by a worker, or by a server's thread in a worker's place while that one waits for its reply."""
        woken = threading.Event()
        with self._lock:
            heapq.heappush(self._sleepers, (self._now + max(0.0, seconds), next(self._numbers), woken))
            self._rest()
        woken.wait()

    def start(self, work: Callable[[], Any], delay: float = 0.0) -> threading.Thread:
        """Begin a worker after some seconds."""

        def body() -> None:
            try:
                self.sleep(delay)
                work()
            finally:
                with self._lock:
                    self._rest()

        with self._lock:
            self._working += 1
        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        return thread

    def _rest(self) -> None:
        self._working -= 1
        if not self._working and self._sleepers:
            wake, _, woken = heapq.heappop(self._sleepers)
            self._now = max(self._now, wake)
            self._working += 1
            woken.set()


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop on this clock. A call in a thread beside it counts as work, see :meth:`aside`."""

    def __init__(self, clock: SteppedTime) -> None:
        self._clock = clock
        super().__init__(_Selector(clock))
        self._clock_resolution = 1e-5  # what epoch seconds can tell apart

    def time(self) -> float:
        """Return the clock's time."""
        return self._clock.now()

    async def aside(self, call: Any) -> Any:
        """Await what another thread brings."""
        selector: Any = self._selector  # type: ignore[attr-defined]
        selector.aside += 1
        try:
            return await call
        finally:
            selector.aside -= 1

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Run something in a thread, which counts as work."""
        selector: Any = self._selector  # type: ignore[attr-defined]
        future = super().run_in_executor(executor, func, *args)
        selector.aside += 1

        def through(_: Any) -> None:
            selector.aside -= 1

        future.add_done_callback(through)
        return future


class _Selector(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Waits by the clock, unless a thread beside the loop is to bring something."""

    def __init__(self, clock: SteppedTime) -> None:
        super().__init__()
        self._clock = clock
        self.aside = 0

    def select(self, timeout: float | None = None) -> Any:
        """Return what is ready, as any selector."""
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self.aside or timeout is None:
            return super().select(None)
        self._clock.sleep(timeout)
        return super().select(0)
