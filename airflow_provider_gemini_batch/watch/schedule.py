# SPDX-License-Identifier: Apache-2.0
"""When the shared poller reads what, and who is told: pure decisions that :mod:`.poller` carries out and tests step."""

# Nothing here sends, sleeps or reads a clock of its own. `Schedule.next_step` says what to do now:
#
#   a step      and what the driver does
#   ----------  ----------------------------------------------------------------------------------------------
#   `ReadPage`  reads a page of the list; hands page or error to `Schedule.finish`, meanwhile takes more steps
#   `ReadJob`   reads one job, in the same way
#   `Tell`      hands each update to the owner of its job
#   `Wait`      waits until a time, until a read has finished or until somebody is added, whichever is first
#   `Stop`      ends
#
# Rules
# -----
# * Times are shared. Waits with the same fixed interval are due on the same ticks; adaptive ones that are nearly due
#   come along. So one page of the list serves a hundred jobs.
# * A round reads every due job once. Up to `FEW` jobs are read one by one, more by the list, newest first, as
#   `sweep.py` says. Only a single read can say 404.
# * Trouble that passes ends no wait. The poller backs off as a whole (429, a service out of reach) or for one job (a
#   read that fails or is slow while others work). Who waits has a deadline of its own, and hears of the trouble once a
#   job was not seen for `TROUBLE_AFTER` seconds, then every `TROUBLE_EVERY` seconds.
# * What no repetition can help is told at once: credentials or a configuration that fail for the whole list to
#   everybody, what a single read says to those who wait for that job.
# * One odd reply decides nothing for longer than a round, or `UNLISTED_SECONDS` where a whole list is refused.
# * Siblings are seen for free. Every listed job with the same task in its token as a watched job is told to the owner
#   of that job. A young job's round reads page 1 of the list now and then even where few jobs are due.
#
# Worked example
# --------------
# Seven waits with an interval of 60 s start at 0 s; the jobs are named a to g, and a to f are on page 1 of the list.
#
#   time    event                                                                step
#   ------  -------------------------------------------------------------------  ----------------------------------
#   0.0 s   a to d are added, due at once; e to g gather on the tick at 1 s      `ReadJob(a)`, `ReadJob(b)`
#   0.2 s   a and b have been read: next due at 60 s; their states are news      `Tell`, `ReadJob(c)`, `ReadJob(d)`
#   0.4 s   all four have been read                                              `Tell`, `Wait(1.0)`
#   1.0 s   e, f and g are due: few, so one by one                               `ReadJob(e)` ...
#   60 s    all seven are due: more than four, so by the list                    `ReadPage(None)`
#   60.3 s  the page shows a to f. Only g is missing, which is worth another     `ReadPage("p2")`
#           page
#   60.5 s  page 2, the last one, does not show g: it is read alone, and is not  `ReadJob(g)`
#           expected in the list for ten minutes
#   60.7 s  g has ended, which is news; that a to f still run is not             `Tell` (g alone), `Wait(120.0)`
#   120 s   the service answers 429 and asks for 30 s, to which a random share   `Tell` (everybody), `Wait(151.5)`
#           is added; no job was seen for 60 s, so all hear of the trouble
#   151.5   the list can be read again                                           `ReadPage(None)` ..., `Tell`

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from airflow_provider_gemini_batch.api.identity import token_of
from airflow_provider_gemini_batch.api.models import BatchJob, JobPage
from airflow_provider_gemini_batch.api.retry import RetryPolicy
from airflow_provider_gemini_batch.errors import AuthError, GeminiBatchError, RateLimitedError
from airflow_provider_gemini_batch.watch.due import Ticks
from airflow_provider_gemini_batch.watch.steps import (
    Read,
    ReadJob,
    Result,
    SingleReads,
    Step,
    Stop,
    Tell,
    Update,
    Wait,
    WatchedJob,
    key_of,
)
from airflow_provider_gemini_batch.watch.sweep import FEW, Pages, ReadPage, Sweeper
from airflow_provider_gemini_batch.watch.watched import WatchedJobs

log = logging.getLogger(__name__)

# Few: a triggerer has a poller for each connection, and each of these is a thread with a socket.
MAX_CONNECTIONS = 2
GETS_PER_ROUND = 100
"""Single reads in one round at most; further ones stay due for the next, so that no round lasts for ever."""

COALESCE = 0.1
"""Adaptive waits take part in a round this share of their interval early."""

LINGER = 2.0
"""Seconds for which the poller stays after the last wait has left."""

UNLISTED_SECONDS = 600.0
"""For how long a job that the list did not show is read one by one, and a list that is refused is not asked for."""

SLOW_READ = 3.0
"""Seconds after which a single read goes on beside the rounds: one job's slowness is not that of the others."""

FIRST_POLLS_TOGETHER = 1.0
"""Once many wait, first polls gather on ticks of so many seconds: after a restart all begin at once."""

REPEAT_SECONDS = 300.0
"""A poll that shows nothing new is told again after so many seconds."""

TROUBLE_AFTER = 30.0
"""Seconds without a successful poll after which a wait hears of the trouble."""

TROUBLE_EVERY = 300.0
"""Seconds after which it hears of it again."""

TOLD_AT_ONCE = 200
"""Updates in one step at most: each wakes a task, and others in the loop want their turn in between."""

_BACK_OFF = RetryPolicy(max_attempts=None)


class Schedule:
    """
    Decides for everybody who waits for a job through the same connection.

    :param now: Seconds of a clock that never goes back.
    :param utc: UTC epoch seconds.
    """

    def __init__(self, now: Callable[[], float], utc: Callable[[], float] = lambda: time.time()) -> None:
        self._now = now
        self._utc = utc
        self._ticks = Ticks(now(), utc)
        self._watched = WatchedJobs()
        self._updates: deque[tuple[WatchedJob, Update]] = deque()
        self._reading: dict[Read, float] = {}
        self._slow: set[Read] = set()
        self._sweeper = Sweeper(self._take_page, UNLISTED_SECONDS)
        self._pages: Pages | None = None
        self._page: ReadPage | None = None
        self._unseen: dict[str, str] = {}
        self._singles: SingleReads | None = None
        self._left_at: float | None = now()
        self._failures = 0
        self._first_page_at: float | None = None
        self.not_before = -math.inf
        self.trouble: GeminiBatchError | None = None

    # --- who waits ----------------------------------------------------------------------------------------------------

    def add(self, job_name: str, poll_interval: float | None, owner: Any) -> WatchedJob:
        """Take a job on."""
        now = self._now()
        # The first few are read at once. From then on new ones gather: after a restart of the triggerer a thousand
        # waits begin within a second.
        due = now
        if len(self._watched) >= FEW:
            due = self._ticks.next_tick(now, min(FIRST_POLLS_TOGETHER, poll_interval or FIRST_POLLS_TOGETHER))
        job = WatchedJob(key_of(job_name), job_name, poll_interval, owner, due=due, now=now, utc=self._utc())
        self._watched.add(job)
        self._left_at = None
        return job

    def remove(self, job: WatchedJob) -> None:
        """Let a job go; again does no harm."""
        if self._watched.remove(job) and not len(self._watched):
            self._left_at = self._now()

    def poll_now(self, job: WatchedJob) -> None:
        """Make a job due, and tell its owner whatever the poll shows."""
        # What was told before does not count: whoever asks for a poll wants to hear its result.
        job.told = None
        job.due = self._now()

    def restart(self) -> None:
        """Forget what was under way: the driver has ended and begins anew."""
        # Nobody will hand over what these reads bring, so their jobs are due again; finish() passes such a result over.
        for read in self._reading:
            if isinstance(read, ReadJob):
                for job in self._watched.of(read.key):
                    job.due = min(job.due, self._now())
        self._reading.clear()
        self._slow.clear()
        self._end_round()

    @property
    def count(self) -> int:
        """How many jobs are watched."""
        return len(self._watched)

    def jobs(self) -> Iterator[WatchedJob]:
        """Yield every watched job."""
        return iter(self._watched)

    # --- steps --------------------------------------------------------------------------------------------------------

    def next_step(self) -> Step:
        """Return what to do now. A read that is returned counts as begun."""
        while True:
            if self._updates:
                count = min(TOLD_AT_ONCE, len(self._updates))
                return Tell(tuple(self._updates.popleft() for _ in range(count)))
            step = self._step_of_round() if self._singles is not None or self._pages is not None else self._idle()
            if step is not None:
                return step

    def finish(self, read: Read, result: Result) -> None:
        """Take what came of a read: a page, a job, or an error."""
        if self._reading.pop(read, None) is None:
            return  # begun before a restart
        self._slow.discard(read)
        if isinstance(read, ReadJob):
            self._take_read(read, result)
        elif self._pages is not None:
            self._advance(result)

    def _idle(self) -> Step | None:
        """Begin a round, or say how long there is nothing to do."""
        now = self._now()
        if self._left_at is not None:
            # A task that ends and the next one that begins seconds later share the poller with its connections.
            ends = self._left_at + LINGER
            return Stop() if now >= ends else Wait(ends)
        # One sleep for everybody, and no earlier than the service allows.
        due = max(min(job.due for job in self.jobs()), self.not_before)
        if due > now:
            return Wait(due)
        self._begin_round(now)
        return None

    def _step_of_round(self) -> Step | None:
        now = self._now()
        is_free = len(self._reading) < MAX_CONNECTIONS
        if self._pages is not None:
            if self._page is None or not is_free:
                return Wait(math.inf)
            page, self._page = self._page, None
            return self._begin(page, now)
        assert self._singles is not None
        # A job may have been let go while it stood in the queue.
        while self._singles.queue and is_free:
            key, name = self._singles.queue.popleft()
            if key in self._watched:
                return self._begin(ReadJob(key, name), now)
        quick = min((began for read, began in self._reading.items() if read not in self._slow), default=None)
        if quick is not None:
            if now < quick + SLOW_READ:
                return Wait(quick + SLOW_READ)
            self._leave_slow_reads(now)
            return None
        if self._singles.queue:
            return Wait(math.inf)  # slow reads hold all connections
        self._close_round(self._singles)
        return None

    def _begin(self, read: Read, now: float) -> Read:
        self._reading[read] = now
        return read

    # --- a round ------------------------------------------------------------------------------------------------------

    def _begin_round(self, now: float) -> None:
        reading = {read.key for read in self._reading if isinstance(read, ReadJob)}
        due = [job for job in self.jobs() if job.due <= now + COALESCE * job.span]
        # Longest overdue first: where single reads cannot keep up, nobody starves.
        due.sort(key=lambda job: job.due)
        # A dict and no set: it keeps the order, so that the longest overdue are read first where not all can be.
        self._unseen = {}
        for job in due:
            if job.key in reading:
                job.due = math.inf  # what that read brings is for all who wait for the job
            else:
                self._unseen[job.key] = job.job_name
        self._pages = None
        if self._sweeper.may_list(now):
            listed = {job.key for job in due if job.unlisted_until <= now and job.key in self._unseen}
            if len(listed) > FEW:
                self._pages = self._sweeper.sweep(self._unseen, listed, now)
            elif any(self._ticks.siblings_due(job, self._first_page_at) for job in due):
                self._pages = self._sweeper.first_page(self._unseen, now)
        if self._pages is None:
            self._begin_singles()
        else:
            self._advance(None)

    def _advance(self, result: Result | None) -> None:
        """Go on with the list after what came of a page."""
        assert self._pages is not None
        pages: Any = self._pages  # a generator is begun by sending None
        try:
            self._page = pages.throw(result) if isinstance(result, GeminiBatchError) else pages.send(result)
        except StopIteration as stop:
            now = self._now()
            for key in stop.value or ():
                for job in self._watched.of(key):
                    job.unlisted_until = now + UNLISTED_SECONDS
            self._begin_singles()
        except GeminiBatchError as error:
            self.fail(error)
        else:
            if self._page.token is None:
                self._first_page_at = self._utc()

    def _begin_singles(self) -> None:
        self._pages = None
        # The rest stay due, and stand in front of the next round.
        todo = list(self._unseen.items())[:GETS_PER_ROUND]
        self._singles = SingleReads(deque(todo), len(todo))

    def _close_round(self, singles: SingleReads) -> None:
        self._end_round()
        # One job that cannot be read alone says nothing of the others.
        is_telling = singles.asked > 1 or self._watched.keys == 1
        if singles.fault is not None and singles.failed == singles.asked and is_telling:
            self._back_off(singles.fault)

    def _end_round(self) -> None:
        self._pages = self._page = self._singles = None
        self._unseen = {}

    def _leave_slow_reads(self, now: float) -> None:
        """Let slow reads go on beside the rounds; until they are over, their jobs are not due."""
        for read, began in self._reading.items():
            if isinstance(read, ReadJob) and read not in self._slow and now >= began + SLOW_READ:
                self._slow.add(read)
                for job in self._watched.of(read.key):
                    job.due = math.inf

    # --- what came ----------------------------------------------------------------------------------------------------

    def _take_page(self, page: JobPage, unseen: dict[str, str], expected: set[str]) -> None:
        """Take what a page shows; see :class:`~.sweep.Sweeper`."""
        self._recovered()
        now = self._now()
        for listed in page.jobs:
            # A page under a mask that swallows states would make every job look unknown.
            if not listed.state_text:
                continue  # a single read may tell more
            key = key_of(listed.name)
            is_due = unseen.pop(key, None) is not None
            expected.discard(key)
            for job in self._watched.of(key):
                # It was missed by a sweep that ended before it, when few others were wanted.
                job.unlisted_until = -math.inf
                # A poll that comes for free is taken where it is useful, which also brings the phases together.
                if is_due or listed.is_done or job.due - now <= job.span / 2:
                    self._take_job(job, listed)
        if self._watched.have_tasks:
            self._tell_siblings(page)

    def _tell_siblings(self, page: JobPage) -> None:
        for listed in page.jobs:
            token = token_of(listed) if listed.state_text else None
            if token is None:
                continue
            for job in self._watched.of_task(token.task):
                told = job.siblings or {}
                if job.key == key_of(listed.name) or told.get(listed.name) == listed.state_text:
                    continue
                # Made when it is needed: whatever thousands of waits hold is collected garbage among.
                job.siblings = {**told, listed.name: listed.state_text}
                self._updates.append((job, Update(job.job_name, sibling=listed)))

    def _take_read(self, read: ReadJob, result: Result) -> None:
        if isinstance(result, BatchJob):
            self._recovered()
            for job in self._watched.of(read.key):
                self._take_job(job, result)
            return
        assert isinstance(result, GeminiBatchError)
        # A quota says nothing of the job: it stays due, and its owner is not told.
        if isinstance(result, RateLimitedError):
            for job in self._watched.of(read.key):
                job.due = min(job.due, self._now())
            self.fail(result)
            return
        for job in self._watched.of(read.key):
            self._take_fault(job, result)
        if self._singles is not None and result.is_transient:
            self._singles.failed += 1
            self._singles.fault = result

    def _take_job(self, job: WatchedJob, seen: BatchJob) -> None:
        now = self._now()
        job.failures = 0
        job.trouble = None
        job.seen_at = now
        job.complained_at = -math.inf
        # Worked out once: the difference of the clocks is that of the first poll, and must not make the age jump later.
        if job.created is None:
            job.created = seen.born(self._utc())
        if job.task is None:
            token = token_of(seen)
            if token is not None:
                self._watched.learn_task(job, token.task)
        self._ticks.plan(job, now)
        # The counts of done rows are left out: they change with every poll, and nobody decides by them.
        news = (seen.state, seen.state_text, seen.stats.failed)
        if news == job.told and now - job.told_at < REPEAT_SECONDS:
            # Waking thousands for nothing costs more than their polls do; and what stays in memory from one round to
            # the next makes Python's garbage collector stop the loop, to go through all objects of the process.
            return
        job.told, job.told_at = news, now
        self._updates.append((job, Update(job.job_name, job=seen)))

    def _take_fault(self, job: WatchedJob, error: GeminiBatchError) -> None:
        now = self._now()
        self._ticks.plan(job, now)
        if not error.is_transient:
            self._tell_error(job, error)
            return
        # Backed off for this job alone; the others' polls show that the service is well.
        job.failures += 1
        job.trouble = error
        job.due = now + (_BACK_OFF.delay_after(error, job.failures) or _BACK_OFF.cap)
        self._complain(job, error, now)

    def _tell_error(self, job: WatchedJob, error: GeminiBatchError) -> None:
        job.told, job.told_at = None, self._now()
        self._updates.append((job, Update(job.job_name, error=error)))

    def _complain(self, job: WatchedJob, error: GeminiBatchError, now: float) -> None:
        """Tell of trouble that lasts."""
        if now - job.seen_at >= TROUBLE_AFTER and now - job.complained_at >= TROUBLE_EVERY:
            job.complained_at = now
            self._tell_error(job, error)

    # --- trouble ------------------------------------------------------------------------------------------------------

    def fail(self, error: GeminiBatchError) -> None:
        """End the round with an error that concerns everybody: pause, and tell it if no repetition can help."""
        self._end_round()
        # A key that was revoked ends no wait here: the owner decides, and a corrected connection is another poller.
        if isinstance(error, AuthError) or not error.is_transient:
            for job in self.jobs():
                self._tell_error(job, error)
        self._back_off(error)

    def _back_off(self, error: GeminiBatchError) -> None:
        now = self._now()
        self._failures += 1
        pause = _BACK_OFF.delay_after(error, self._failures)
        if pause is None:
            pause = _BACK_OFF.cap
        self.not_before = now + pause
        # Once for each kind of trouble, not once for each try: a night without network would fill the log.
        if self.trouble is None or type(self.trouble) is not type(error):
            log.warning("Polling %d batch jobs pauses for %.1f s: %s", len(self._watched), pause, error)
        self.trouble = error
        if error.is_transient:
            for job in self.jobs():
                self._complain(job, error, now)

    def _recovered(self) -> None:
        self._failures = 0
        self.trouble = None
