# SPDX-License-Identifier: Apache-2.0
"""
Threads of the page's own, so that whatever it does takes none of those that Airflow's routes need.

Python runs one thread at a time. Each further one that computes takes its share from all of Airflow's routes, and makes
them wait at each return from the database. So there are few: for views that read answers, for other views, and for
downloads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

THREADS = {"views": 3, "answers": 3, "downloads": 2}
"""How many run at once in one process, by what they do."""

_limiters: dict[tuple[Any, str], Any] = {}


async def run(kind: str, function: Callable[..., T], *arguments: Any) -> T:
    """
    Run a function in a thread, once one is free.

    :param kind: A key of :data:`THREADS`.
    """
    import anyio.to_thread

    return await anyio.to_thread.run_sync(function, *arguments, limiter=_limiter(kind))


def _limiter(kind: str) -> Any:
    """Return the limiter of this event loop."""
    import asyncio

    import anyio

    loop = asyncio.get_running_loop()
    if (loop, kind) not in _limiters:
        for each in [key for key in _limiters if key[0] is not loop]:
            del _limiters[each]
        _limiters[loop, kind] = anyio.CapacityLimiter(THREADS[kind])
    return _limiters[loop, kind]
