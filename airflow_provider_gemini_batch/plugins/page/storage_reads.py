# SPDX-License-Identifier: Apache-2.0
"""Where reads of answers run: each storage has threads of its own, and a read that gets nothing is given up."""

# Theory of operation. A read of object storage, or of a database, waits for somebody else, perhaps for minutes. Nothing
# can end a thread that waits, so each storage has few threads, and one storage's never serve another:
#
# - At most `MOST` reads of one storage run at once, the next ones wait without a thread.
# - A read that got nothing for `SILENT` seconds is given up: its person is told, its thread goes on until the storage
#   lets go of it. A read that gets bytes says so (`note_progress`) and may last.
# - While all threads of a storage are given up, who asks for it is told at once. After `FORGOTTEN` seconds a thread
#   counts for its storage no more, so that it is tried again; all threads together are at most `MOST_THREADS`.
#
# Worked example: the bucket `a` stalls. Five people ask for answers in it, one for answers on the local disk, who has
# them at once. Two of the five are told after 30 seconds, and the other three in the same moment.

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_gemini_batch.files.paths import SCHEME
from airflow_provider_gemini_batch.plugins.page import workers
from airflow_provider_gemini_batch.plugins.page.errors import PageError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

LOCAL = "this server's disk"

MOST = {"answers": 2, "downloads": 1}
"""Reads of one storage that run at once in one process, by what they are for."""

SILENT = 30.0
"""Seconds after which a read that got nothing is given up. The local disk has no such limit."""

FORGOTTEN = 300.0
"""Seconds after which a read that was given up holds no place of its storage any more."""

MOST_THREADS = 32
"""Reads of all storages but the local disk that run at once in one process, given up or not."""


class StalledError(PageError):
    """A storage does not answer."""

    def __init__(self, storage: str, why: str) -> None:
        super().__init__(504, "The storage does not answer", f"{storage}: {why} Other answers can be read meanwhile.")


@dataclass(frozen=True)
class Read:
    """
    What a view waits for.

    :param storage: Whose threads it takes, see :func:`storage_of`.
    :param call: Reads; blocks.
    """

    storage: str
    call: Callable[[], Any]


def storage_of(place: str) -> str:
    """Return whose threads a path or URI takes: :data:`LOCAL`, or scheme, connection and bucket."""
    match = SCHEME.match(place)
    if match is None or match[1].lower() == "file":
        return LOCAL
    return match[0] + place[match.end() :].partition("/")[0]


def note_progress() -> None:
    """Say that the read that runs in this thread got something; nothing where none does."""
    running = getattr(_here, "running", None)
    if running is not None:
        running.heard = time.monotonic()


class ReadLock:
    """
    A lock of what several reads want. Who waits for it waits for the read that has it, and is given up when that one
    gets nothing: a storage that is slow has not stalled.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: _Running | None = None

    def __enter__(self) -> None:
        running: _Running | None = getattr(_here, "running", None)
        while not self._lock.acquire(timeout=SILENT / 4):
            holder = self._holder
            if running is not None and holder is not None:
                running.heard = max(running.heard, holder.heard)
        self._holder = running

    def __exit__(self, *_: object) -> None:
        self._holder = None
        self._lock.release()


async def run(kind: str, storage: str, function: Callable[..., T], *arguments: Any) -> T:
    """
    Run a function in a thread of a storage, once one is free.

    :param kind: A key of :data:`MOST`.
    :raises StalledError: If the storage does not answer.
    """
    import anyio

    threads = _threads_of(kind, storage)
    await threads.enter()
    running = _Running()
    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    threads.running.append(running)

    def ended(result: Any, error: BaseException | None) -> None:
        threads.leave(running)
        workers.settle(done, result, error)

    def work() -> T:
        _here.running = running
        return function(*arguments)

    workers.start(ended, work)
    try:
        # Whoever leaves, as a browser does in the middle of a download, leaves a thread that ends soon.
        with anyio.CancelScope(shield=True):
            await threads.wait(running, done)
    finally:
        if not done.done():
            done.cancel()
            threads.give_up(running)
    return done.result()


# --- the threads of one storage ---------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Running:
    """
    A thread that reads.

    :param given_up: When nobody waited for it any more.
    """

    heard: float = field(default_factory=time.monotonic)
    given_up: float | None = None


class _Threads:
    """Those of one storage, for one kind of read; only the event loop touches them."""

    def __init__(self, kind: str, storage: str) -> None:
        self.kind, self.storage = kind, storage
        self.running: list[_Running] = []
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def is_unused(self) -> bool:
        return not self.running and not self._waiting

    async def enter(self) -> None:
        """Wait until there is a thread; raise if none is to be expected soon."""
        while len(counted := self._counted()) >= MOST[self.kind]:
            given_up = [each.given_up for each in counted if each.given_up is not None]
            if len(given_up) == len(counted):
                seconds = time.monotonic() - min(given_up) + SILENT
                raise StalledError(
                    self.storage, f"{len(counted)} earlier reads have had nothing for {seconds:.0f} seconds."
                )
            await self._changed()
        if self.storage != LOCAL and sum(len(each.running) for each in _all_threads()) >= MOST_THREADS:
            raise StalledError(self.storage, f"{MOST_THREADS} reads of storages wait already.")

    async def wait(self, running: _Running, done: asyncio.Future[Any]) -> None:
        """Wait for a read as long as it gets something."""
        while not done.done():
            left = None if self.storage == LOCAL else running.heard + SILENT - time.monotonic()
            if left is not None and left <= 0:
                raise StalledError(self.storage, f"a read had nothing for {SILENT:.0f} seconds, and was given up.")
            await asyncio.wait({done}, timeout=left)

    def give_up(self, running: _Running) -> None:
        """Count a read as one that waits for the storage alone, unless it has ended."""
        if running in self.running:
            running.given_up = time.monotonic()
            self._wake()

    def leave(self, running: _Running) -> None:
        """Give the place of a thread free, which has ended."""
        self.running.remove(running)
        self._wake()

    def _counted(self) -> list[_Running]:
        now = time.monotonic()
        return [each for each in self.running if each.given_up is None or now - each.given_up < FORGOTTEN]

    async def _changed(self) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            await waiting
        finally:
            self._waiting.remove(waiting)

    def _wake(self) -> None:
        for each in self._waiting:
            if not each.done():
                each.set_result(None)


_here = threading.local()
_threads: dict[Any, dict[tuple[str, str], _Threads]] = {}
"""By event loop: a process of the API server has one, tests have one after the other."""


def _threads_of(kind: str, storage: str) -> _Threads:
    loop = asyncio.get_running_loop()
    if loop not in _threads:
        _threads.clear()
    known = _threads.setdefault(loop, {})
    for key in [key for key, each in known.items() if each.is_unused]:
        del known[key]
    return known.setdefault((kind, storage), _Threads(kind, storage))


def _all_threads() -> list[_Threads]:
    known = _threads.get(asyncio.get_running_loop(), {})
    return [each for (_, storage), each in known.items() if storage != LOCAL]
