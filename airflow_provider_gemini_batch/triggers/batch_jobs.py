# SPDX-License-Identifier: Apache-2.0
"""
Waiting for the jobs of a run in the triggerer: one trigger and one subscription for all of them, at the shared poller.
"""

# It only watches. Its arguments name the jobs in flight, since the triggerer and the API server cannot see the run's
# checkpoint and must be able to cancel all of them.

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import TriggerEvent

from airflow_provider_gemini_batch.errors import ApiError, ConfigurationError, GeminiBatchError, TriggerEventError
from airflow_provider_gemini_batch.triggers.base import WatchTrigger

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
    from airflow_provider_gemini_batch.lifecycle.waiting import Outcome

MAX_JOBS = 50
COLLECT_WITHIN = 1800.0
"""Seconds after which an ended job's answers are brought in, whatever else still runs: they live 48 hours."""


class BatchJobsTrigger(WatchTrigger):
    """
    Watches jobs until one of them, or all, have ended.

    :param job_names: At most 50; none is a pause until *deadline*.
    :param gemini_batch_conn_id: Connection.
    :param wake: ``any`` to end with the first job, ``all`` with the last, or half an hour after the first.
    :param poll_interval: Seconds between polls; None for an interval that grows with the jobs' age.
    :param deadline: UTC epoch seconds at which the wait ends in any case.
    :param started: UTC epoch seconds when the wait began; None is now.
    :param cancel_on_kill: Whether the jobs are cancelled when a person ends the deferred task.
    :param in_loop: Whether the task is a pass of a task loop (Airflow 3.4).
    :param backend: Overrides the connection's backend.
    :param known: Names of jobs that are known to be for the same rows as one of these: they end no wait. None if no
        such job does, as an older version left it.
    :param retired: Arguments of other versions: stored triggers outlive an upgrade.
    """

    def __init__(
        self,
        job_names: Sequence[str] = (),
        gemini_batch_conn_id: str = "gemini_batch_default",
        *,
        wake: str = "all",
        poll_interval: float | None = None,
        deadline: float | None = None,
        started: float | None = None,
        cancel_on_kill: bool = True,
        in_loop: bool = False,
        backend: str | None = None,
        known: Sequence[str] | None = None,
        **retired: Any,
    ) -> None:
        super().__init__()
        self._has_names = isinstance(job_names, (list, tuple))
        names = job_names if isinstance(job_names, (list, tuple)) else ()
        self.job_names = [name for name in names if isinstance(name, str)][:MAX_JOBS]
        self.gemini_batch_conn_id = gemini_batch_conn_id
        self.wake = wake
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.started = time.time() if started is None else started
        self.cancel_on_kill = cancel_on_kill
        self.in_loop = in_loop
        self.backend = backend
        self.known = known
        self._twins: dict[str, str] = {}
        self._unwatched: list[str] = []

    @property
    def watched_jobs(self) -> Sequence[str]:
        """The jobs in flight."""
        return self.job_names

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments; stored in the open, so never anything secret."""
        deadline = None if self.deadline == math.inf else self.deadline
        return (
            f"{BatchJobsTrigger.__module__}.{BatchJobsTrigger.__qualname__}",
            {
                "job_names": self.job_names,
                "gemini_batch_conn_id": self.gemini_batch_conn_id,
                "wake": self.wake,
                "poll_interval": self.poll_interval,
                "deadline": deadline,
                "started": self.started,
                "cancel_on_kill": self.cancel_on_kill,
                "in_loop": self.in_loop,
                "backend": self.backend,
                "known": self.known,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """
        Yield one event. What it says is a hint alone: the resumed task looks for itself.

        With ``message`` no further poll of the jobs in ``unwatched`` can help from here, and the task must not defer
        again for them.
        """
        event: dict[str, Any]
        try:
            self._check_arguments()
            event = await self._wait()
        except TriggerEventError as error:  # the resumed task makes a trigger that this version can read
            self.log.warning("Waiting for %d jobs broke off: %s", len(self.job_names), error)
            event = {"ended": [], "error": type(error).__name__}
        except GeminiBatchError as error:
            event = self._broken_off(error, str(error))
        except Exception as error:
            self.log.exception("Waiting for %d jobs broke off", len(self.job_names))
            event = self._broken_off(error, f"{type(error).__name__}; the triggerer's log has the details.")
        # A trigger that lingers after its event is killed as if by a person.
        self._event_sent = True
        yield TriggerEvent(event)

    def _check_arguments(self) -> None:
        """
        Refuse what another version of the provider may have stored, and this one cannot read.

        :raises TriggerEventError: It wakes the task at once, which looks for itself and makes a trigger of today.
        """
        from airflow_provider_gemini_batch.connection.settings import BACKENDS
        from airflow_provider_gemini_batch.lifecycle.attempt import carried_error
        from airflow_provider_gemini_batch.times import seconds

        started: object = self.started
        if not self._has_names or not isinstance(self.gemini_batch_conn_id, str):
            raise carried_error("job_names or gemini_batch_conn_id is of another kind")
        if isinstance(started, bool) or not isinstance(started, (int, float)):
            raise carried_error(f"started is {started!r}")
        if self.backend is not None and self.backend not in BACKENDS:
            raise carried_error(f"backend is {self.backend!r}")
        try:
            seconds(self.poll_interval, "poll_interval")
        except ConfigurationError as error:
            raise carried_error(str(error)) from error

    def _broken_off(self, error: Exception, text: str) -> dict[str, Any]:
        from airflow_provider_gemini_batch.watch.event import MESSAGE_CHARACTERS

        self.log.warning("Waiting for %d jobs broke off: %s", len(self.job_names), text)
        unwatched = self._unwatched or self.job_names
        return {
            "ended": [],
            "error": type(error).__name__,
            "message": text[:MESSAGE_CHARACTERS],
            "unwatched": unwatched,
        }

    async def _wait(self) -> dict[str, Any]:
        deadline = math.inf
        if isinstance(self.deadline, (int, float)) and not math.isnan(self.deadline):
            deadline = self.deadline
        # A wait for quota alone, or for a job that may be listed late.
        if not self.job_names:
            await asyncio.sleep(max(0.0, deadline - time.time()))
            return {"ended": []}
        await self._load_modules()
        ended = await self._over_connection(deadline, lambda settings: self._until_woken(settings, deadline))
        return {"ended": ended, "twins": self._twins}

    async def _on_sibling(self, job_name: str, own: BatchJob | None, sibling: BatchJob) -> Outcome | None:
        """End the wait for a second job of the same rows, which the list showed late: the resumed task leaves one."""
        from airflow_provider_gemini_batch.lifecycle.twins import TwinWatch
        from airflow_provider_gemini_batch.lifecycle.waiting import Outcome

        if own is None or not isinstance(self.known, (list, tuple)):
            return None
        if not TwinWatch(settled=frozenset(map(str, self.known))).is_twin(own, sibling):
            return None
        self.log.info("%s turned up beside %s: the run settles on one of them.", sibling.name, job_name)
        self._twins[sibling.name] = job_name
        return Outcome.TWIN

    async def _until_woken(self, settings: ConnectionSettings, deadline: float) -> list[str]:
        """
        Return the names of the jobs whose wait is over when the task is to go on.

        :raises GeminiBatchError: What no further poll can help.
        """
        from airflow_provider_gemini_batch.lifecycle.waiting import Outcome, ProgressReport, WaitLimits, Watch
        from airflow_provider_gemini_batch.watch.event import next_end
        from airflow_provider_gemini_batch.watch.poller import subscribe_many

        ended: list[str] = []
        # One subscription: the jobs cost this wait one timer, and no task of the event loop each.
        with subscribe_many(settings, self.job_names, self.poll_interval) as subscription:
            watches = {}
            for name in subscription.job_names:
                report = ProgressReport(self.log.info, self.started)
                # Without limits of single jobs: the run knows those, and has put the first of them into the deadline.
                watches[name] = Watch(WaitLimits(deadline), self.started, report.see, report.fault)
            while subscription.job_names and (left := deadline - time.time()) > 0:
                timeout = None if math.isinf(left) else left
                end = await next_end(watches, subscription, timeout, self._on_sibling)
                if end is None or end.outcome is Outcome.TWIN:
                    break
                if end.outcome is Outcome.ERROR and end.error is not None:
                    # A service that answers speaks of this job alone; anything else concerns all of them.
                    self._unwatched = [end.job_name] if isinstance(end.error, ApiError) else []
                    raise end.error
                ended.append(end.job_name)
                if self.wake == "any":
                    break
                # Also with `wake="all"`: answers at Google do not live for ever, and those of a job that has ended are
                # safe only once they are brought in.
                deadline = min(deadline, time.time() + COLLECT_WITHIN)
        return ended
