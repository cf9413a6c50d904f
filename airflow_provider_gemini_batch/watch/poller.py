# SPDX-License-Identifier: Apache-2.0
"""
One poller for all waits of a connection in an event loop.

Rules:

* Who waits subscribes and is handed looks; who leaves takes nothing from the others. The poller belongs to nobody: it
  runs in a context of its own, so that its log lines land in no task's log and no task's end is its end.
* Times to look are shared. Waits with the same fixed interval tick together, adaptive ones that are nearly due come
  along, and so a round costs one page for a hundred jobs.
* In a round, few jobs are read one by one and many by the list, newest first. Reading on pays as long as fewer pages
  showed nothing new than jobs are still to be found; the rest is read one by one. Only such a single read can say 404.
* Trouble that passes is not told to anybody: the poller backs off as a whole (429, an unreachable service) or for one
  job (a read that fails or is slow while others work), and whoever waits has a deadline of its own. What no repetition
  can help is told: credentials for which the list is refused to all, what a single read says to those who wait for
  that job.
* One odd reply decides nothing for longer than a round, or some minutes where a whole list was refused.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import time
import weakref
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.backends import backend_for
from airflow_provider_gemini_batch.api.flows import get_job, list_page
from airflow_provider_gemini_batch.api.retry import NO_RETRY, RetryPolicy
from airflow_provider_gemini_batch.errors import (
    AuthError,
    GeminiBatchError,
    RateLimitedError,
    ReplyFormatError,
    ReplyTooLargeError,
    TransportError,
)
from airflow_provider_gemini_batch.lifecycle.polling import next_interval
from airflow_provider_gemini_batch.times import epoch, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_provider_gemini_batch.api.models import BatchJob, JobPage
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
    from airflow_provider_gemini_batch.transport.asynchronous import AsyncTransport

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 2
FEW = 4
"""Up to so many due jobs are read one by one."""

GETS_PER_ROUND = 100
"""Single reads in one round at most; further ones stay due for the next, so that no round lasts for ever."""

COALESCE = 0.1
"""Adaptive waits take part in a round this share of their interval early."""

LINGER = 2.0
"""Seconds for which connections are kept after the last wait has left."""

READ_ON = 10
"""For so many jobs that are due but not hoped for, one page more is read: it may show them all."""

UNLISTED_SECONDS = 600.0
"""For how long a job that the list did not show is read one by one."""

SLOW_READ = 3.0
"""A single read that takes longer goes on beside the rounds: one job's slowness is not that of the others."""

SHORTEST_TICK = 0.1
"""Seconds between rounds at least, whatever a wait asks for: a round is everybody's."""

FIRST_LOOKS_TOGETHER = 1.0
"""Once many wait, first looks gather on ticks of so many seconds: after a restart all begin at once."""

REPEAT_SECONDS = 300.0
"""A look that shows nothing new is told again after so many seconds."""

_BACK_OFF = RetryPolicy(max_attempts=None)

_POLLERS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Poller]] = weakref.WeakKeyDictionary()


def subscribe(settings: ConnectionSettings, job_name: str, poll_interval: float | None = None) -> Subscription:
    """
    Begin to watch a job, with the poller that all waits of this connection in the running event loop share.

    :param settings: The connection, already looked up; equal credentials and settings share a poller.
    :param poll_interval: Seconds between looks, or None for the adaptive rhythm.
    :return: To be used as a context manager (or closed), in this event loop.
    :raises ConfigurationError: If *job_name* cannot be a job of this backend.
    """
    pollers = _POLLERS.setdefault(asyncio.get_running_loop(), {})
    poller = pollers.get(settings.identity)
    if poller is None:
        poller = Poller(settings, pollers)
    return poller.subscribe(job_name, poll_interval)


class Subscription:
    """
    One wait's share of a poller: holds the newest look that was not taken yet.

    :param job_name: The full name.
    :param poll_interval: Seconds between looks, or None for the adaptive rhythm.
    """

    __slots__ = ("_born", "_failures", "_key", "_look", "_poller", "_told", "_told_at", "_trouble", "_unlisted_until",
                 "_waiter", "due", "job_name", "poll_interval", "span")  # fmt: skip

    def __init__(self, poller: Poller, key: str, job_name: str, poll_interval: float | None, due: float) -> None:
        self.job_name = job_name
        self.poll_interval = poll_interval
        self.due = due
        self.span = 0.0
        self._key = key
        self._poller = poller
        self._look: BatchJob | GeminiBatchError | None = None
        self._told: tuple[object, ...] | None = None
        self._told_at = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._born = time.time()
        self._failures = 0
        self._trouble: GeminiBatchError | None = None
        self._unlisted_until = 0.0

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave; the others go on."""
        self._poller.unsubscribe(self)

    @property
    def trouble(self) -> GeminiBatchError | None:
        """What keeps the poller from looking at the moment, or at this job, if anything does."""
        return self._poller.trouble or self._trouble

    def hurry(self) -> None:
        """Ask for a look as soon as the poller may, and to be told of it whatever it shows."""
        self._told = None
        self._poller.hurry(self)

    async def look(self, timeout: float | None = None) -> BatchJob | GeminiBatchError | None:
        """
        Wait for the next look that shows another state or number of failed rows, or that was hurried; others are told
        every five minutes.

        :param timeout: Seconds, or None for no limit.
        :return: The job, what no further look can help (or a 404), or None when the time is over.
        """
        self._poller.keep_running()
        if self._look is None and (timeout is None or timeout > 0):
            loop = asyncio.get_running_loop()
            waiter = self._waiter = loop.create_future()
            timer = None if timeout is None else loop.call_later(timeout, _wake, waiter)
            try:
                await waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        look, self._look = self._look, None
        return look

    def deliver(self, look: BatchJob | GeminiBatchError) -> None:
        """Hand a look over; one not taken yet is replaced."""
        now = time.monotonic()
        news = None if isinstance(look, GeminiBatchError) else (look.state, look.state_text, look.stats.failed)
        if news is not None and news == self._told and now - self._told_at < REPEAT_SECONDS:
            # Waking thousands for nothing costs more than their looks do; and what stays in memory from one round to
            # the next makes Python's garbage collector stop the loop, to go through all objects of the process.
            return
        self._told = news
        self._told_at = now
        self._look = look
        if self._waiter is not None:
            _wake(self._waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Poller:
    """
    Looks at jobs for everybody who waits for one through the same connection.

    :param settings: The connection.
    :param registry: Where it stands under the connection's identity while it runs.
    """

    def __init__(self, settings: ConnectionSettings, registry: dict[str, Poller]) -> None:
        self._settings = settings
        self._backend = backend_for(settings)
        self._registry = registry
        self._by_key: dict[str, list[Subscription]] = {}
        self._count = 0
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._woken = asyncio.Event()
        self._asleep_until = math.inf
        self._task: asyncio.Task[None] | None = None
        self._slow: set[asyncio.Task[BatchJob]] = set()
        self._not_before = 0.0
        self._failures = 0
        self._list_again = 0.0
        self._resume: str | None = None
        self.trouble: GeminiBatchError | None = None

    # --- who waits ----------------------------------------------------------------------------------------------------

    def subscribe(self, job_name: str, poll_interval: float | None) -> Subscription:
        """Take a wait on; see :func:`subscribe`."""
        name = self._backend.check_job_name(job_name)
        poll_interval = seconds(poll_interval, "poll_interval")  # one wait's odd rhythm must not stop the rounds of all
        due = self._loop.time()
        if self._count >= FEW:
            due = self._next_tick(due, min(FIRST_LOOKS_TOGETHER, poll_interval or FIRST_LOOKS_TOGETHER))
        subscription = Subscription(self, key_of(name), name, poll_interval, due)
        self._by_key.setdefault(subscription._key, []).append(subscription)
        self._count += 1
        self.keep_running()
        self._wake_for(subscription)
        return subscription

    def keep_running(self) -> None:
        """Begin, also again: whatever has ended the poller, nobody is to wait in silence."""
        if self._by_key and (self._task is None or self._task.done()):
            self._registry.setdefault(self._settings.identity, self)
            # A child task would inherit the first subscriber's log routing and keep it.
            self._task = self._loop.create_task(self._run(), context=contextvars.Context())

    def unsubscribe(self, subscription: Subscription) -> None:
        """Let a wait go; again does no harm."""
        waiting = self._by_key.get(subscription._key, [])
        if subscription not in waiting:
            return
        waiting.remove(subscription)
        self._count -= 1
        if not waiting:
            del self._by_key[subscription._key]
        if not self._by_key:
            self._woken.set()

    def hurry(self, subscription: Subscription) -> None:
        """Make a wait due now."""
        subscription.due = self._loop.time()
        self._wake_for(subscription)

    def _wake_for(self, subscription: Subscription) -> None:
        # Awake, the poller goes through all waits; woken by each of thousands that begin, it would do little else.
        if max(subscription.due, self._not_before) < self._asleep_until:
            self._woken.set()

    def _all(self) -> Iterator[Subscription]:
        for waiting in self._by_key.values():
            yield from waiting

    # --- when to look -------------------------------------------------------------------------------------------------

    def _next_tick(self, now: float, interval: float) -> float:
        # All waits of one interval share a clock, so that a round reads all of them with the same pages.
        interval = max(interval, SHORTEST_TICK)
        return self._start + (math.floor((now - self._start) / interval + 1e-9) + 1) * interval

    def _plan(self, subscription: Subscription, job: BatchJob | None) -> None:
        now = self._loop.time()
        fixed = subscription.poll_interval
        if fixed is not None:
            subscription.span = 0.0
            subscription.due = self._next_tick(now, fixed)
            return
        created = epoch(job.create_time) if job is not None else None
        subscription.span = next_interval(time.time() - (subscription._born if created is None else created))
        subscription.due = now + subscription.span

    def _due(self, now: float) -> list[Subscription]:
        due = [each for each in self._all() if each.due <= now + COALESCE * each.span]
        # Longest overdue first: where single reads cannot keep up, nobody starves.
        due.sort(key=lambda each: each.due)
        return due

    async def _run(self) -> None:
        transport: AsyncTransport | None = None
        try:
            while self._by_key or await self._lingers():
                now = self._loop.time()
                due = max(min(each.due for each in self._all()), self._not_before)
                if due > now:
                    await self._sleep(due)
                    continue
                try:
                    if transport is None:
                        # Loading certificates takes long enough to be felt by everybody else in the loop.
                        transport = await asyncio.to_thread(self._open)
                    await self._round(transport, self._due(now))
                except AuthError as error:
                    await self._tell(list(self._all()), error)
                    self._back_off(error)
                except GeminiBatchError as error:
                    if not error.is_transient:
                        await self._tell(list(self._all()), error)
                    self._back_off(error)
                except Exception as error:
                    # A poller that dies would leave everybody waiting in silence.
                    log.exception("A round of looks at batch jobs failed; the next one follows.")
                    self._back_off(ReplyFormatError(f"{type(error).__name__} while looking at batch jobs"))
        finally:
            if self._registry.get(self._settings.identity) is self:
                del self._registry[self._settings.identity]
            await _ended(self._slow)
            if transport is not None:
                await transport.aclose()

    def _open(self) -> AsyncTransport:
        from airflow_provider_gemini_batch.transport.asynchronous import AsyncTransport
        from airflow_provider_gemini_batch.transport.credentials import credentials_for

        return AsyncTransport(self._settings, credentials_for(self._settings), max_connections=MAX_CONNECTIONS)

    async def _sleep(self, until: float) -> None:
        # A timer and an event instead of wait_for: no second task for each pause.
        self._woken.clear()
        self._asleep_until = until
        timer = self._loop.call_at(until, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            timer.cancel()

    async def _lingers(self) -> bool:
        await self._sleep(self._loop.time() + LINGER)
        return bool(self._by_key)

    def _back_off(self, error: GeminiBatchError) -> None:
        self._failures += 1
        pause = _BACK_OFF.delay_after(error, self._failures)
        if pause is None:
            pause = _BACK_OFF.cap
        self._not_before = self._loop.time() + pause
        if self.trouble is None or type(self.trouble) is not type(error):
            log.warning("Looking at %d batch jobs pauses for %.1f s: %s", self._count, pause, error)
        self.trouble = error

    def _recovered(self) -> None:
        self._failures = 0
        self.trouble = None

    # --- a round ------------------------------------------------------------------------------------------------------

    async def _round(self, transport: AsyncTransport, due: list[Subscription]) -> None:
        """Look at every due job once, as far as one round goes."""
        now = self._loop.time()
        unseen = {each._key: each.job_name for each in due}
        hoped = {each._key for each in due if each._unlisted_until <= now} if self._list_again <= now else set()
        if len(hoped) > FEW and self._resume is not None:
            # Begun anew each time, it might never come to the old jobs while a quota is short.
            token, self._resume = self._resume, None
            await self._sweep(transport, unseen, hoped, token)
        if len(hoped) > FEW and await self._sweep(transport, unseen, hoped):
            for key in hoped:
                for subscription in self._by_key.get(key, ()):
                    subscription._unlisted_until = now + UNLISTED_SECONDS
        await self._get_each(transport, list(unseen.items())[:GETS_PER_ROUND])

    async def _sweep(
        self, transport: AsyncTransport, unseen: dict[str, str], hoped: set[str], token: str | None = None
    ) -> bool:
        """
        Read the list, newest first, until every job hoped for was seen or single reads are cheaper, and then a little
        further for those that are due as well.

        :param unseen: Keys and names of all that are due; those that were seen are taken out.
        :param hoped: Keys of those that the list should show; those that were seen are taken out.
        :param token: Where to begin.
        :return: Whether what is left of *hoped* is not in the list, as far as that is worth to know.
        :raises GeminiBatchError: What concerns the poller as a whole.
        """
        fruitless = beyond = 0
        while fruitless <= len(hoped) if hoped else (beyond + 1) * READ_ON <= len(unseen):
            beyond += not hoped
            try:
                page = await self._page(transport, token)
            except (ReplyFormatError, ReplyTooLargeError):
                # One item that cannot be read spoils its page; single reads get around it.
                return False
            except GeminiBatchError as error:
                if error.is_transient or isinstance(error, AuthError):
                    self._resume = token
                    raise
                if token is None:
                    log.warning("Batch jobs cannot be listed for now, so they are read one by one: %s", error)
                    self._list_again = self._loop.time() + UNLISTED_SECONDS
                return False
            self._recovered()
            before = len(hoped)
            self._take(page, unseen, hoped)
            fruitless += len(hoped) == before
            # What was delivered runs before the next page is read.
            await asyncio.sleep(0)
            before_it, token = token, page.next_page_token
            if not token or token == before_it:
                break
        return True

    async def _page(self, transport: AsyncTransport, token: str | None) -> JobPage:
        try:
            return await transport.arun(list_page(self._backend, NO_RETRY, page_token=token))
        except ReplyFormatError:
            return await transport.arun(list_page(self._backend, NO_RETRY, page_token=token))

    def _take(self, page: JobPage, unseen: dict[str, str], hoped: set[str]) -> None:
        now = self._loop.time()
        for job in page.jobs:
            if not job.state_text:
                continue  # a single read may tell more
            key = key_of(job.name)
            is_due = unseen.pop(key, None) is not None
            hoped.discard(key)
            for subscription in self._by_key.get(key, ()):
                # It was missed by a sweep that ended before it, when few others were wanted.
                subscription._unlisted_until = 0.0
                # A look that comes for free is taken where it is useful, which also brings the phases together.
                nearly = subscription.due - now <= subscription.span / 2
                if is_due or job.is_done or nearly:
                    self._hand(subscription, job)

    async def _get_each(self, transport: AsyncTransport, jobs: list[tuple[str, str]]) -> None:
        """
        Read jobs one by one, as many at a time as there are connections.

        :raises GeminiBatchError: What concerns the poller as a whole.
        """
        while jobs and len(self._slow) >= MAX_CONNECTIONS:
            await asyncio.wait(self._slow, return_when=asyncio.FIRST_COMPLETED)
        todo = iter(jobs)
        faults: list[GeminiBatchError] = []

        async def work() -> None:
            for key, name in todo:
                if key not in self._by_key:
                    continue
                read = asyncio.ensure_future(transport.arun(get_job(self._backend, name, NO_RETRY)))
                try:
                    await asyncio.wait({read}, timeout=SLOW_READ)
                except asyncio.CancelledError:
                    read.cancel()
                    raise
                if not read.done():
                    self._leave(key, read)
                    return  # it holds the connection
                error = self._told(key, read)
                if isinstance(error, RateLimitedError):
                    raise error
                if error is not None:
                    self._fault(key, error)
                    if error.is_transient:
                        faults.append(error)

        workers = [asyncio.ensure_future(work()) for _ in range(min(MAX_CONNECTIONS - len(self._slow), len(jobs)))]
        try:
            await asyncio.gather(*workers)
        finally:
            await _ended(workers)
        # One job that cannot be read alone says nothing of the others.
        if faults and len(faults) == len(jobs) and (len(jobs) > 1 or len(self._by_key) == 1):
            self._back_off(faults[-1])

    def _leave(self, key: str, read: asyncio.Task[BatchJob]) -> None:
        """Let a slow read go on; until it is over, its job is not due."""
        for subscription in self._by_key.get(key, ()):
            subscription.due = math.inf
        self._slow.add(read)

        def late(_: asyncio.Task[BatchJob]) -> None:
            self._slow.discard(read)
            error = self._told(key, read)
            if error is not None:
                self._fault(key, error)
            self._woken.set()

        read.add_done_callback(late)

    def _told(self, key: str, read: asyncio.Task[BatchJob]) -> GeminiBatchError | None:
        """Hand over what a read brought, or return what went wrong."""
        if read.cancelled():
            return TransportError("A look at the job was broken off.")
        error = read.exception()
        if error is None:
            self._recovered()
            for subscription in self._by_key.get(key, ()):
                self._hand(subscription, read.result())
            return None
        if isinstance(error, GeminiBatchError):
            return error
        log.error("A look at a batch job failed; another one follows.", exc_info=error)
        return ReplyFormatError(f"{type(error).__name__} while looking at the job")

    def _fault(self, key: str, error: GeminiBatchError) -> None:
        for subscription in self._by_key.get(key, ()):
            self._plan(subscription, None)
            if error.is_transient:
                subscription._failures += 1
                subscription._trouble = error
                pause = _BACK_OFF.delay_after(error, subscription._failures)
                subscription.due = self._loop.time() + (pause or _BACK_OFF.cap)
            else:
                subscription.deliver(error)

    def _hand(self, subscription: Subscription, job: BatchJob) -> None:
        subscription._failures = 0
        subscription._trouble = None
        self._plan(subscription, job)
        subscription.deliver(job)

    async def _tell(self, subscriptions: Iterable[Subscription], error: GeminiBatchError) -> None:
        for number, subscription in enumerate(subscriptions, 1):
            subscription.deliver(error)
            if number % 200 == 0:
                await asyncio.sleep(0)


async def _ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have ended."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


def key_of(job_name: str) -> str:
    """Return a job's name without its project: Vertex AI answers with the project's number where one sent its id."""
    if job_name.startswith("projects/"):
        return job_name.split("/", 2)[2]
    return job_name
