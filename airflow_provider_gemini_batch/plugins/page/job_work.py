# SPDX-License-Identifier: Apache-2.0
"""Cancelling and deleting jobs in the background: one after the other, seen from each page, and to be stopped."""

# A thread of this process does it; it goes on when the page is closed, and ends with the process. What is left then is
# seen in the next list.

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import GeminiBatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_provider_gemini_batch.plugins.page.job_lists import JobList

log = logging.getLogger(__name__)

SHOWN_SECONDS = 120.0
"""For how long the page tells of work that is over."""


@dataclass
class Work:
    """
    Some jobs to cancel or delete.

    :param action: ``cancel`` or ``delete``.
    """

    action: str
    names: Sequence[str]
    by: str
    done: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.time)
    ended: float | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def is_busy(self) -> bool:
        """Whether it goes on."""
        return self.ended is None

    def stop(self) -> None:
        """End after the job that is being worked on."""
        self._stop.set()

    def run(self, hook: Any, copy: JobList | None) -> None:
        """Do it, and keep the copy of the list true; never raises."""
        try:
            for name in self.names:
                if self._stop.is_set():
                    break
                self._one(hook, name, copy)
        except Exception as error:
            log.exception("Jobs could not be changed")
            self.failures.append(f"{type(error).__name__}: the log of the API server says more.")
        finally:
            self.ended = time.time()

    def _one(self, hook: Any, name: str, copy: JobList | None) -> None:
        try:
            if self.action == "delete":
                hook.delete_batch(name)
            else:
                hook.cancel_batch(name)
        except GeminiBatchError as error:
            log.warning("%s: %s failed: %s", name, self.action, error)
            self.failures.append(f"{name}: {error}")
            return
        self.done.append(name)
        if copy is None:
            return
        if self.action == "delete":
            # The copy of the list is kept true by hand: reading it anew would take half a minute for each job.
            copy.forget([name])
        elif (job := copy.by_name().get(name)) is not None and not job.is_over:
            job.state = "CANCELLING"


_works: dict[str, Work] = {}
_lock = threading.Lock()


def work_on(conn_id: str) -> Work | None:
    """Return what is being done, or was done a moment ago, to the jobs of a connection."""
    with _lock:
        work = _works.get(conn_id)
        if work is not None and work.ended is not None and time.time() - work.ended > SHOWN_SECONDS:
            del _works[conn_id]
            return None
        return work


def begin(conn_id: str, work: Work, hook: Callable[[], Any], copy: JobList | None) -> bool:
    """Begin to work in a thread, unless something is being done to this connection; say whether it was begun."""
    with _lock:
        known = _works.get(conn_id)
        # One at a time for a connection: two people who press the button at once would delete the same jobs.
        if known is not None and known.is_busy:
            return False
        _works[conn_id] = work

    def run() -> None:
        try:
            made = hook()
        except Exception as error:
            work.failures.append(str(error) if isinstance(error, GeminiBatchError) else type(error).__name__)
            work.ended = time.time()
            return
        work.run(made, copy)

    threading.Thread(target=run, name="gemini-batch-jobs", daemon=True).start()
    return True
