# SPDX-License-Identifier: Apache-2.0
"""Emulated time: it can run faster than real time, and jump."""

from __future__ import annotations

import threading
import time


class Clock:
    """Emulated time: real time, times a speed, plus what was skipped. Epoch seconds."""

    def __init__(self, speed: float = 1.0) -> None:
        self._lock = threading.Lock()
        self._speed = speed
        # Measured by a clock that nobody sets: when the host's time is corrected, emulated time must not jump.
        self._real = time.monotonic()
        self._emulated = time.time()

    def now(self) -> float:
        """Return the emulated time."""
        with self._lock:
            return self._emulated + (time.monotonic() - self._real) * self._speed

    @property
    def speed(self) -> float:
        """Emulated seconds a real second."""
        return self._speed

    def change(self, *, advance: float = 0.0, to: float | None = None, speed: float | None = None) -> float:
        """Skip *advance* seconds or set the time or the speed; return the new time."""
        # Settled first, as a change of speed holds from now on and not for the time that is past.
        now = self.now()
        with self._lock:
            self._emulated = (now if to is None else to) + advance
            self._real = time.monotonic()
            if speed is not None:
                self._speed = speed
            return self._emulated


def timestamp(epoch: float, digits: int = 9) -> str:
    """Write a time as Google does: RFC 3339, UTC, *digits* fractional digits and ``Z``."""
    nanoseconds = int(epoch * 1_000_000_000)
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    # Cut and not rounded: a time that is rounded up could lie in the future of whoever reads it.
    return f"{text}.{fraction:09d}"[: 20 + digits].rstrip(".") + "Z"
