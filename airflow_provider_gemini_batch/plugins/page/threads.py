# SPDX-License-Identifier: Apache-2.0
"""Threads of the page's own, so that whatever it does takes none of those that Airflow's routes need."""

# Theory of operation. Python runs one thread at a time. One that computes is only asked to let go after five
# milliseconds, so a route of Airflow's waits that long at each return from the database, once for each thread of ours
# that computes: twenty such returns beside six threads are half a second. So our threads are few, and each lets go by
# itself after a millisecond of its own (`Courtesy`) and then rests as long: whoever waits goes on at once, and the page
# takes longer by half.
#
# The event loop is one more such place: fifty clicks in a moment are fifty logins to check, one after the other, and a
# route of Airflow's that comes after them waits for all. So the page's requests go through it one by one (`Door`), and
# what comes between two of them goes on.

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

THREADS = {"views": 1, "answers": 2, "downloads": 1}
"""How many run at once in one process, by what they do: views that read answers may wait for a slow storage."""

SLICE = 0.001
"""Seconds of CPU after which a thread rests, and for how long."""

_limiters: dict[tuple[Any, str], Any] = {}
_doors: dict[Any, asyncio.Lock] = {}


class Door:
    """A request's way through the event loop, which one request at a time is on. To leave twice does no harm."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        if loop not in _doors:
            _doors.clear()
        self._lock = _doors.setdefault(loop, asyncio.Lock())
        self._is_mine = False

    async def enter(self) -> None:
        """Wait until the others have left."""
        await self._lock.acquire()
        self._is_mine = True

    def leave(self) -> None:
        """Let the next one in."""
        if self._is_mine:
            self._is_mine = False
            self._lock.release()


class Courtesy:
    """
    Lets other threads go on while this one computes for long.

    :param every: So many calls of :meth:`give_way` go without a look at the clock.
    """

    def __init__(self, every: int = 1) -> None:
        self._every = self._left = every
        self._since = time.thread_time()

    def give_way(self) -> None:
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
    import anyio.to_thread

    return await anyio.to_thread.run_sync(function, *arguments, limiter=_limiter(kind))


def _limiter(kind: str) -> Any:
    """Return the limiter of this event loop."""
    import anyio

    loop = asyncio.get_running_loop()
    if (loop, kind) not in _limiters:
        for each in [key for key in _limiters if key[0] is not loop]:
            del _limiters[each]
        _limiters[loop, kind] = anyio.CapacityLimiter(THREADS[kind])
    return _limiters[loop, kind]
