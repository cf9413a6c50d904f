# SPDX-License-Identifier: Apache-2.0
"""Threads of the page's own, so that whatever it does takes none of those that Airflow's routes need."""

# Theory of operation. Python runs one thread at a time. One that computes is only asked to let go after five
# milliseconds, so a route of Airflow's waits that long at each return from the database, once for each thread of ours
# that computes: twenty such returns beside six threads are half a second. So our threads are few, and each lets go by
# itself after a millisecond of its own (`CpuThrottle`) and then rests as long: whoever waits goes on at once, and the
# page takes longer by half.
#
# The event loop is one more such place: fifty clicks in a moment are fifty logins to check, one after the other, and a
# route of Airflow's that comes after them waits for all. So the page's requests go through it one by one (`LoopLock`),
# and what comes between two of them goes on.
#
# Whoever waits for somebody else (a thread, a browser that sends or reads slowly) must not hold the lock meanwhile: one
# dead connection would be the end of the page for all. It is given up before a wait that is known, and in any case
# after `MOST_HELD`.

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_gemini_batch.plugins.page import workers

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

THREADS = {"views": 1, "answers": 1, "changes": 8}
"""
How many run at once in one process, by what they do. Views ask Airflow's database alone, and so do those of answers,
which leave the reading to the threads of the storage (`storage_reads.py`); a change may wait for Google, for minutes
while Google cannot be reached, and computes nothing.
"""

SLICE = 0.001
"""Seconds of CPU after which a thread rests, and for how long."""

MOST_HELD = 0.5
"""Seconds after which a request that still holds the event loop's lock loses it."""

_limiters: dict[tuple[Any, str], Any] = {}
_locks: dict[Any, asyncio.Lock] = {}


class LoopLock:
    """One request's hold of the event loop, which one request at a time has. To release it twice does no harm."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._loop not in _locks:
            _locks.clear()
        self._lock = _locks.setdefault(self._loop, asyncio.Lock())
        self._expiry: asyncio.TimerHandle | None = None

    async def acquire(self) -> None:
        """Wait until no other request holds it; it is released by itself after :data:`MOST_HELD`."""
        await self._lock.acquire()
        self._expiry = self._loop.call_later(MOST_HELD, self.release)

    def release(self) -> None:
        """Let the next request go on."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
            self._lock.release()


class CpuThrottle:
    """
    Lets other threads go on while this one computes for long.

    :param every: So many calls of :meth:`pause_if_due` go without a look at the clock.
    """

    def __init__(self, every: int = 1) -> None:
        self._every = self._left = every
        self._since = time.thread_time()

    def pause_if_due(self) -> None:
        """Rest, if this thread has computed for :data:`SLICE` since it rested last."""
        self._left -= 1
        if self._left > 0:
            return
        self._left = self._every
        if time.thread_time() - self._since >= SLICE:
            time.sleep(SLICE)
            self._since = time.thread_time()


async def run(kind: str, function: Callable[..., T], *arguments: Any) -> T:
    """
    Run a function in a thread, once one is free.

    :param kind: A key of :data:`THREADS`.
    """
    async with _limiter(kind):
        return await workers.call(function, *arguments)


def _limiter(kind: str) -> Any:
    """Return the limiter of this event loop."""
    import anyio

    loop = asyncio.get_running_loop()
    if (loop, kind) not in _limiters:
        for each in [key for key in _limiters if key[0] is not loop]:
            del _limiters[each]
        _limiters[loop, kind] = anyio.CapacityLimiter(THREADS[kind])
    return _limiters[loop, kind]
