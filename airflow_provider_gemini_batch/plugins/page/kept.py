# SPDX-License-Identifier: Apache-2.0
"""
What the page keeps between two requests so that it is not read again: small, bounded, and dropped when nobody asks.
"""

# Theory of operation. Fifty people may ask for the same thing at once, and each page of a filter reads on from the one
# before. What such work leaves (places in a file, never a row's text) is kept by a key that names the very state of the
# file: size, time of change, version in object storage. A file that is written anew has another key. An entry carries
# its own lock, so that one thread does the work and the others wait for it and find it done.
#
# When nothing was asked for five minutes, all of it goes, and the allocator hands free pages back to the system: with
# glibc by `malloc_trim`, elsewhere as the allocator likes.

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

IDLE_SECONDS = 300.0
"""After how many seconds without a request all is dropped."""

MAX_BYTES = 16 * 1024 * 1024
MAX_ENTRIES = 200


class Sized(Protocol):
    """An entry: it says how many bytes it holds, which may grow."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...


V = TypeVar("V", bound=Sized)


class Kept(Generic[V]):
    """
    Entries by key; those asked for longest ago go first.

    :param released: Called when all is dropped.
    """

    def __init__(self, released: Callable[[], None] = lambda: None) -> None:
        self._entries: OrderedDict[Hashable, V] = OrderedDict()
        self._lock = threading.Lock()
        self._released = released
        self._used = 0.0
        self._timer: threading.Timer | None = None

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """Return the entry of a key, a new one if there is none."""
        with self._lock:
            self._touch()
            entry = self._entries.pop(key, None) or make()
            self._entries[key] = entry
            while len(self._entries) > MAX_ENTRIES or (self.size > MAX_BYTES and len(self._entries) > 1):
                self._entries.popitem(last=False)
        return entry

    def touch(self) -> None:
        """Count the time until all is dropped from now."""
        with self._lock:
            self._touch()

    @property
    def size(self) -> int:
        """Bytes that all entries hold."""
        return sum(entry.size for entry in self._entries.values())

    def drop(self) -> None:
        """Drop all."""
        with self._lock:
            self._entries.clear()
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
        self._released()
        give_back()

    def _touch(self) -> None:
        self._used = time.monotonic()
        if self._timer is None:
            self._wait(IDLE_SECONDS)

    def _wait(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._drop_if_idle)
        self._timer.daemon = True
        self._timer.start()

    def _drop_if_idle(self) -> None:
        with self._lock:
            left = IDLE_SECONDS - (time.monotonic() - self._used)
            if left > 0:
                self._wait(left)
                return
        self.drop()


def give_back() -> None:
    """Hand memory that is free in this process back to the system."""
    gc.collect()
    if sys.platform == "linux":
        try:
            trim: Any = ctypes.CDLL(None).malloc_trim
        except (AttributeError, OSError):  # musl has none
            return
        trim(0)
