# SPDX-License-Identifier: Apache-2.0
"""Blocking calls beside an event loop, in a few threads of one's own."""

# `asyncio.to_thread` would not do: its threads are shared with everything else in the process, and the interpreter
# waits for them when it ends, so that one call which hangs in a name server's silence would hold up both. Here
#
# * the number of threads is bounded; further calls wait for one to be free, and give up in time,
# * a call that is cancelled, or takes too long, is left to itself: its thread is free again once it returns,
# * all threads are daemons: none keeps the process alive.
#
# Each thread has a tool of its own, an HTTP client for instance. The one that was free last is used first, so that
# calls one after the other share one connection.

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Tool = TypeVar("Tool")
Value = TypeVar("Value")


class NoThreadError(TimeoutError):
    """No thread became free in time; the call did not begin."""


class ThreadedCalls(Generic[Tool]):
    """
    A few daemon threads for one event loop. All methods are called in that loop.

    :param make: Makes a thread's tool, in that thread; its ``close()`` is called there, too.
    :param most: Threads at most.
    :param name: Of the threads, for debuggers.
    """

    def __init__(self, make: Callable[[], Tool], most: int, name: str) -> None:
        self._make = make
        self._most = most
        self._name = name
        self._count = 0
        self._idle: list[_Thread[Tool]] = []
        self._waiting: deque[asyncio.Future[_Thread[Tool]]] = deque()
        self._is_closed = False

    async def call(self, function: Callable[[Tool], Value], seconds: float) -> Value:
        """
        Call *function* with a thread's tool.

        :param seconds: How long to wait for a free thread, and then for the call.
        :raises NoThreadError: If no thread was free in time.
        :raises TimeoutError: If the call did not return in time; it may still go on.
        """
        try:
            async with asyncio.timeout(seconds):
                thread = await self._free_thread()
        except TimeoutError:
            raise NoThreadError from None
        future: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        # From here on the thread is busy until the call returns, whatever becomes of this task: only then it is
        # released.
        thread.begin(function, future, self._release)
        async with asyncio.timeout(seconds):
            return await future

    def close(self) -> None:
        """Let the threads end, each once it is idle. Nobody is waited for."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().end()
        while self._waiting:
            self._waiting.popleft().cancel()

    async def _free_thread(self) -> _Thread[Tool]:
        if self._idle:
            return self._idle.pop()
        if self._count < self._most:
            self._count += 1
            return _Thread(self._make, f"{self._name}-{self._count}")
        waiter: asyncio.Future[_Thread[Tool]] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            # A thread was handed over in the same turn of the loop in which this task was cancelled: it would be lost.
            if waiter.done() and not waiter.cancelled():
                self._release(waiter.result())
            raise

    def _release(self, thread: _Thread[Tool]) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            # A waiter that was cancelled or ran out of time stays in the queue until its turn.
            if not waiter.done():
                waiter.set_result(thread)
                return
        if self._is_closed:
            thread.end()
        else:
            self._idle.append(thread)


class _Thread(Generic[Tool]):
    """One thread with its tool."""

    def __init__(self, make: Callable[[], Tool], name: str) -> None:
        self._make = make
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tool: Tool | None = None
        # A daemon: a call that hangs in a name server must not keep the triggerer from ending.
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def begin(
        self,
        function: Callable[[Tool], Value],
        future: asyncio.Future[Value],
        release: Callable[[_Thread[Tool]], None],
    ) -> None:
        """Call *function* in the thread, settle *future* in its event loop, and release the thread."""
        loop = future.get_loop()

        def settle(value: Value | None, error: BaseException | None) -> None:
            release(self)
            if future.done():
                return  # cancelled, or out of time
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)  # type: ignore[arg-type]

        def task() -> None:
            value, fault = None, None
            try:
                if self._tool is None:
                    # Made in the thread, so that building an HTTP client (a TLS context above all) never blocks the
                    # loop.
                    self._tool = self._make()
                value = function(self._tool)
            except Exception as error:
                fault = error
            try:
                loop.call_soon_threadsafe(settle, value, fault)
            except RuntimeError:
                self.end()  # the loop is closed, and nobody waits any longer
            finally:
                del value, fault  # a traceback that holds this frame would keep itself alive

        self._tasks.put(task)

    def end(self) -> None:
        """Let the thread end after what it is doing."""
        self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            # While it waits for the next one, the thread must not keep the last call's arguments alive.
            del task
        close = getattr(self._tool, "close", None)
        if close is not None:
            close()
