# SPDX-License-Identifier: Apache-2.0
"""Copies of Google's lists of jobs, one a connection, in the memory of this process."""

# Google's list has no total, few filters and a page of at most 100, so that ten thousand jobs take half a minute. It is
# read in a thread, kept with its time, and searched here. What has come already can be used. A copy that nobody looked
# at for a quarter of an hour is dropped. Each process of the API server has copies of its own.

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.plugins.page import owners
from airflow_provider_gemini_batch.plugins.page.hooks import hook_for
from airflow_provider_gemini_batch.plugins.page.kept import give_back
from airflow_provider_gemini_batch.plugins.page.listed import ListedJob, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from airflow_provider_gemini_batch.api.models import BatchJob

log = logging.getLogger(__name__)

KEPT_SECONDS = 900.0
"""For how long a copy is kept after it was looked at last."""

MAX_JOBS = 50_000
"""Jobs of one copy: some 40 MB."""


@dataclass
class JobList:
    """
    A copy of a connection's list.

    :param phase: ``listing``, ``owners`` (whose jobs they are is being found out), ``done``, ``stopped`` or ``failed``.
    :param error: Why it failed.
    """

    conn_id: str
    phase: str = "listing"
    jobs: list[ListedJob] = field(default_factory=list)
    began: float = 0.0
    finished: float | None = None
    error: str = ""
    cut: bool = False
    used: float = field(default_factory=time.monotonic)
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def is_busy(self) -> bool:
        """Whether it is being read."""
        return self.phase in ("listing", "owners")

    def stop(self) -> None:
        """Read no further; what has come stays."""
        self._stop.set()

    def by_name(self) -> dict[str, ListedJob]:
        """Return the jobs by name."""
        return {job.name: job for job in list(self.jobs)}

    def forget(self, names: Iterable[str]) -> None:
        """Leave jobs out that were deleted."""
        gone = set(names)
        self.jobs = [job for job in self.jobs if job.name not in gone]

    def fill(self, jobs: Iterator[BatchJob]) -> None:
        """Read the list to its end, then find out whose jobs they are; never raises."""
        try:
            # Appended one by one: the page shows what has come, while the list is still being read.
            for job in jobs:
                self.jobs.append(listed(job))
                # A connection may have years of jobs; the API server is not the place to hold them.
                if len(self.jobs) >= MAX_JOBS:
                    self.cut = True
                    break
                if self._stop.is_set():
                    break
            self.finished = time.time()
            self.phase = "owners"
            owners.find_owners(self.jobs)
            self.phase = "stopped" if self._stop.is_set() else "done"
        except GeminiBatchError as error:
            self._fail(str(error))
        except Exception as error:
            log.exception("The jobs of %s could not be listed", self.conn_id)
            self._fail(f"{type(error).__name__}: the log of the API server says more.")

    def _fail(self, why: str) -> None:
        self.error, self.phase = why, "failed"
        self.finished = self.finished or time.time()


_lists: dict[str, JobList] = {}
_timers: list[threading.Timer] = []
_lock = threading.Lock()


def list_of(conn_id: str, *, anew: bool = False) -> JobList:
    """
    Return the copy of a connection's list, and begin to read it if there is none.

    :param anew: Read it again; the copy before it is shown no longer.
    """
    drop_unused()
    with _lock:
        known = _lists.get(conn_id)
        # Also where it is to be read anew: two threads would read the same list at once, and quotas are shared with the
        # tasks.
        if known is not None and (not anew or known.is_busy):
            known.used = time.monotonic()
            return known
        copy = _lists[conn_id] = JobList(conn_id, began=time.time())
    threading.Thread(target=_fill, args=(copy,), name="gemini-batch-list", daemon=True).start()
    _drop_later()
    return copy


def known_list(conn_id: str) -> JobList | None:
    """Return the copy if there is one; nothing is read."""
    with _lock:
        return _lists.get(conn_id)


def last_looks(conn_id: str | None, names: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """Return what the copy of a connection's list says of some jobs; empty without a copy."""
    copy = known_list(conn_id) if conn_id else None
    if copy is None:
        return {}
    wanted = set(names)
    return {
        job.name: {
            "at": copy.finished or copy.began,
            "state": job.state,
            "stats": {"total": job.total, "succeeded": job.succeeded, "failed": job.failed},
            "created": job.created,
            "ended": job.ended,
            "read": job.read,
        }
        for job in list(copy.jobs)
        if job.name in wanted
    }


def drop_unused(now: Callable[[], float] = time.monotonic) -> None:
    """Drop the copies that nobody looked at for :data:`KEPT_SECONDS`."""
    with _lock:
        for conn_id, copy in list(_lists.items()):
            if not copy.is_busy and now() - copy.used > KEPT_SECONDS:
                del _lists[conn_id]


def _drop_later() -> None:
    """Look for unused copies until there are none, so that the memory is free also where nobody asks again."""

    def again() -> None:
        with _lock:
            _timers.clear()
        drop_unused()
        with _lock:
            left = bool(_lists)
        if left:
            _drop_later()
        else:
            give_back()

    with _lock:
        if _timers:
            return
        timer = threading.Timer(KEPT_SECONDS / 3, again)
        timer.daemon = True
        _timers.append(timer)
    timer.start()


def _fill(copy: JobList) -> None:
    copy.fill(_all_jobs(copy.conn_id))


def _all_jobs(conn_id: str) -> Iterator[BatchJob]:
    """Yield all jobs; that the connection is looked up belongs to what may fail."""
    yield from hook_for(conn_id).list_all_batches()
