# SPDX-License-Identifier: Apache-2.0
"""The page's threads: daemons that are used again, the last one first."""

# The C library gives each thread that allocates a heap of its own, and gives back little of one that was used once. The
# page's work in whichever of forty threads is free left some megabytes in many heaps, which no release reached; in the
# same few threads the next work uses them again. A daemon that waits for a storage does not hold up the end of the API
# server.

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

IDLE_SECONDS = 60.0
"""Seconds without work after which a thread ends."""

_idle: list[_Worker] = []
_lock = threading.Lock()


def _begin_anew() -> None:
    """Forget the threads of the process that this one was forked from: they do not run here."""
    global _lock
    _idle.clear()
    _lock = threading.Lock()  # a thread that is not here may have held it


os.register_at_fork(after_in_child=_begin_anew)


def start(ended: Callable[[Any, BaseException | None], None], function: Callable[..., Any], *arguments: Any) -> None:
    """
    Run a function in a thread.

    :param ended: Called in the running event loop with what the function returned or raised.
    """
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()

    def work() -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = context.run(function, *arguments)
        except BaseException as fault:
            error = fault
        with suppress(RuntimeError):  # the loop was closed meanwhile: the server ends
            loop.call_soon_threadsafe(ended, result, error)

    with _lock:
        worker = _idle.pop() if _idle else None
    (worker or _Worker()).works.put(work)


async def call(function: Callable[..., T], *arguments: Any) -> T:
    """Run a function in a thread and wait for it, even when nobody waits for us any more."""
    import anyio

    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def ended(result: Any, error: BaseException | None) -> None:
        settle(done, result, error)

    start(ended, function, *arguments)
    with anyio.CancelScope(shield=True):
        await asyncio.wait({done})
    return done.result()


def settle(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Give a future what a function returned or raised, unless it is over."""
    if done.done():
        return
    if isinstance(error, StopIteration):
        # A future takes none: whoever waits for it would wait for ever, and hold a place that others need.
        fault = RuntimeError("StopIteration in a thread of the page")
        fault.__cause__ = error
        done.set_exception(fault)
    elif error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)


class _Worker:
    def __init__(self) -> None:
        self.works: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._run, name="gemini-batch-page", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                work = self.works.get(timeout=IDLE_SECONDS)
            except Empty:
                with _lock:
                    if self not in _idle:  # work is on its way
                        continue
                    _idle.remove(self)
                return
            work()
            del work  # what it has read
            with _lock:
                _idle.append(self)
