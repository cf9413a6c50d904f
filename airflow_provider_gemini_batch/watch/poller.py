# SPDX-License-Identifier: Apache-2.0
"""One poller for all waits of a connection in an event loop: carries out what :mod:`.schedule` decides."""

# The poller belongs to nobody. It runs in a context of its own, so that its log lines land in no task's log and no
# task's end is its end; who waits subscribes and is handed updates, who leaves takes nothing from the others.

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.backends import backend_for
from airflow_provider_gemini_batch.api.flows import get_job, list_page
from airflow_provider_gemini_batch.api.retry import NO_RETRY
from airflow_provider_gemini_batch.errors import GeminiBatchError, TransportError
from airflow_provider_gemini_batch.times import seconds
from airflow_provider_gemini_batch.transport.asynchronous import AsyncTransport
from airflow_provider_gemini_batch.transport.credentials import credentials_for
from airflow_provider_gemini_batch.transport.http import place_of
from airflow_provider_gemini_batch.watch.schedule import MAX_CONNECTIONS, Schedule
from airflow_provider_gemini_batch.watch.steps import Read, Stop, Tell, Update, Wait
from airflow_provider_gemini_batch.watch.subscription import Subscription
from airflow_provider_gemini_batch.watch.sweep import ReadPage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
    from airflow_provider_gemini_batch.watch.steps import WatchedJob

log = logging.getLogger(__name__)

_POLLERS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Poller]] = weakref.WeakKeyDictionary()


def subscribe(settings: ConnectionSettings, job_name: str, poll_interval: float | None = None) -> Subscription:
    """
    Begin to watch a job, with the poller that all waits of this connection in the running event loop share.

    :param settings: The connection, already looked up; equal credentials and settings share a poller.
    :param poll_interval: Seconds between polls, or None for the adaptive interval.
    :return: To be used as a context manager (or closed), in this event loop.
    :raises ConfigurationError: If *job_name* cannot be a job of this backend.
    """
    return subscribe_many(settings, (job_name,), poll_interval)


def subscribe_many(
    settings: ConnectionSettings, job_names: Iterable[str], poll_interval: float | None = None
) -> Subscription:
    """
    Begin to watch several jobs in one wait; they cost it one timer, and the poller no more requests than one job each.

    :raises ConfigurationError: As :func:`subscribe`.
    """
    pollers = _POLLERS.setdefault(asyncio.get_running_loop(), {})
    poller = pollers.get(settings.identity)
    if poller is None:
        poller = Poller(settings, pollers)
    return poller.subscribe(job_names, poll_interval)


class Poller:
    """
    Polls jobs for everybody who waits for one through the same connection.

    :param settings: The connection.
    :param registry: Where it stands under the connection's identity while it runs.
    """

    def __init__(self, settings: ConnectionSettings, registry: dict[str, Poller]) -> None:
        self._settings = settings
        self._backend = backend_for(settings)
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        self._schedule = Schedule(self._loop.time)
        self._task: asyncio.Task[None] | None = None
        self._finished: deque[tuple[Read, asyncio.Task[Any]]] = deque()
        self._woken = asyncio.Event()
        self._asleep_until = math.inf

    # --- who waits ----------------------------------------------------------------------------------------------------

    def subscribe(self, job_names: Iterable[str], poll_interval: float | None) -> Subscription:
        """Take a wait on; see :func:`subscribe`."""
        # All names first: one that cannot be a job ends this wait before it changes anything for others.
        names = [self._backend.check_job_name(name) for name in job_names]
        poll_interval = seconds(poll_interval, "poll_interval")  # an odd one must not stop the rounds of all
        subscription = Subscription(self)
        for name in dict.fromkeys(names):
            job = self._schedule.add(name, poll_interval, subscription)
            subscription.watch(job)
            self._wake_for(job)
        self.keep_running()
        return subscription

    def leave(self, job: WatchedJob) -> None:
        """Let a job of a subscription go."""
        self._schedule.remove(job)
        # Woken so that it counts LINGER from now, and ends in time.
        if not self._schedule.count:
            self._woken.set()

    def poll_now(self, job: WatchedJob) -> None:
        """Make a job due now."""
        self._schedule.poll_now(job)
        self._wake_for(job)

    @property
    def trouble(self) -> GeminiBatchError | None:
        """What keeps the poller from reading at the moment."""
        return self._schedule.trouble

    def keep_running(self) -> None:
        """Begin, also again: whatever has ended the poller, nobody is to wait in silence."""
        if self._schedule.count and (self._task is None or self._task.done()):
            self._registry.setdefault(self._settings.identity, self)
            # A child task would inherit the first subscriber's log routing and keep it.
            self._task = self._loop.create_task(self._run(), context=contextvars.Context())

    def _wake_for(self, job: WatchedJob) -> None:
        # Awake, the schedule goes through all waits; woken by each of thousands that begin, it would do little else.
        if max(job.due, self._schedule.not_before) < self._asleep_until:
            self._woken.set()

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        self._schedule.restart()
        self._finished.clear()
        reads: set[asyncio.Task[Any]] = set()
        transport = AsyncTransport(self._settings, credentials_for(self._settings), max_connections=MAX_CONNECTIONS)
        try:
            while True:
                while self._finished:
                    read, task = self._finished.popleft()
                    self._schedule.finish(read, _result_of(task))
                # What has finished is handed in first, as each step is decided by all that is known.
                step = self._schedule.next_step()
                if isinstance(step, Tell):
                    for job, update in step.updates:
                        job.owner.deliver(update)
                    # What was delivered runs before anything else.
                    await asyncio.sleep(0)
                elif isinstance(step, Wait):
                    await self._sleep(step.until)
                elif isinstance(step, Stop):
                    return
                else:
                    self._begin(transport, step, reads)
        except Exception as error:
            # A poller that dies in silence would leave everybody waiting until their deadlines.
            self._tell_everybody(own_fault(error))
        finally:
            if self._registry.get(self._settings.identity) is self:
                del self._registry[self._settings.identity]
            for task in reads:
                # The connections are closed behind them, and a read that was forgotten would only warn of it in
                # somebody's log.
                task.cancel()
            await asyncio.gather(*reads, return_exceptions=True)
            await transport.aclose()

    def _begin(self, transport: AsyncTransport, read: Read, reads: set[asyncio.Task[Any]]) -> None:
        task: asyncio.Task[Any]
        if isinstance(read, ReadPage):
            flow = list_page(self._backend, NO_RETRY, page_token=read.token)
            task = self._loop.create_task(transport.arun(flow))
        else:
            task = self._loop.create_task(transport.arun(get_job(self._backend, read.job_name, NO_RETRY)))
        reads.add(task)

        def done(task: asyncio.Task[Any]) -> None:
            reads.discard(task)
            # Queued and not handed in: this callback runs in the middle of whatever the loop was doing.
            self._finished.append((read, task))
            self._woken.set()

        task.add_done_callback(done)

    async def _sleep(self, until: float) -> None:
        # A timer and an event instead of wait_for: no second task for each pause.
        # Nothing is lost between this and wait(): whoever sets the event runs in this loop, and there is no await in
        # between.
        self._woken.clear()
        self._asleep_until = until
        timer = None if until == math.inf else self._loop.call_at(until, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _tell_everybody(self, error: GeminiBatchError) -> None:
        for job in list(self._schedule.jobs()):
            job.owner.deliver(Update(job.job_name, error=error))


def _result_of(task: asyncio.Task[Any]) -> Any:
    """Return what a read brought: a page, a job, or an error of ours."""
    if task.cancelled():
        return TransportError("A poll was broken off.")
    error = task.exception()
    if error is None:
        return task.result()
    return error if isinstance(error, GeminiBatchError) else own_fault(error)


def own_fault(error: BaseException) -> GeminiBatchError:
    """
    Return the error for an exception that is nobody's but ours; a repetition cannot help, so that it ends waits.

    Its text stays out, as it may hold anything, but for a library that is missing.
    """
    log.error("Polling batch jobs failed for a fault of its own.", exc_info=error)
    what = f"{type(error).__name__}: {error}" if isinstance(error, ImportError) else type(error).__name__
    return GeminiBatchError(
        f"The job could not be polled for a fault of this package, not of the service: {what} {place_of(error)}. The "
        "triggerer's log has the traceback."
    )
