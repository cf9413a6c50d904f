# SPDX-License-Identifier: Apache-2.0
"""Waiting for a batch job in the triggerer."""

# A trigger may run again from the start, or twice at once (restart, hand-over, split network): it only watches. Times
# are UTC epoch seconds, so that they mean the same wherever it runs again.

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import TriggerEvent

from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.triggers.base import WatchTrigger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
    from airflow_provider_gemini_batch.lifecycle.waiting import Outcome, Watch


class BatchJobTrigger(WatchTrigger):
    """
    Watches a batch job until it has ended or a limit is reached; never creates one.

    :param job_name: ``batches/...`` or ``projects/.../batchPredictionJobs/...``.
    :param gemini_batch_conn_id: Connection.
    :param poll_interval: Seconds between polls; None for an interval that grows with the job's age.
    :param deadline: UTC epoch seconds; None for no limit.
    :param pending_timeout: Seconds that the job may wait for its turn, from its creation.
    :param running_timeout: Seconds that the job may run.
    :param started: UTC epoch seconds when the wait began; None is now.
    :param cancel_on_kill: Whether the job is cancelled when a person ends the deferred task. Airflow tells that to a
        trigger from 3.3 on; see also :mod:`airflow_provider_gemini_batch.plugins.listener`.
    :param in_loop: Whether the task is a pass of a task loop (Airflow 3.4).
    :param backend: Overrides the connection's backend.
    :param twins: Which other jobs of the same piece of work end the wait, so that the task settles on one: ``replace``
        and ``settled`` of :class:`~airflow_provider_gemini_batch.lifecycle.twins.TwinWatch`; None for none.
    :param retired: Arguments of other versions: stored triggers outlive an upgrade. For the same reason nothing is
        checked here, where Airflow would fail the task with a bare traceback: what cannot be read becomes an event.
    """

    def __init__(
        self,
        job_name: str = "",
        gemini_batch_conn_id: str = "gemini_batch_default",
        poll_interval: float | None = None,
        deadline: float | None = None,
        *,
        pending_timeout: float | None = None,
        running_timeout: float | None = None,
        started: float | None = None,
        cancel_on_kill: bool = True,
        in_loop: bool = False,
        backend: str | None = None,
        twins: dict[str, Any] | None = None,
        **retired: Any,
    ) -> None:
        super().__init__()
        self.job_name = job_name
        self.gemini_batch_conn_id = gemini_batch_conn_id
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.pending_timeout = pending_timeout
        self.running_timeout = running_timeout
        self.started = time.time() if started is None else started
        self.cancel_on_kill = cancel_on_kill
        self.in_loop = in_loop
        self.backend = backend
        self.twins = twins
        self._twin_names: list[str] = []

    @property
    def watched_jobs(self) -> Sequence[str]:
        """The one job."""
        return [self.job_name]

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments; stored in the open, so never anything secret."""
        return (
            f"{BatchJobTrigger.__module__}.{BatchJobTrigger.__qualname__}",
            {
                "job_name": self.job_name,
                "gemini_batch_conn_id": self.gemini_batch_conn_id,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
                "pending_timeout": self.pending_timeout,
                "running_timeout": self.running_timeout,
                "started": self.started,
                "cancel_on_kill": self.cancel_on_kill,
                "in_loop": self.in_loop,
                "backend": self.backend,
                "twins": self.twins,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: how the wait ended."""
        event = await self._wait()
        # A trigger that lingers after its event is killed as if by a person.
        self._event_sent = True
        yield TriggerEvent(event)

    async def _wait(self) -> dict[str, Any]:
        await self._load_modules()
        from airflow_provider_gemini_batch.lifecycle.attempt import check_stored
        from airflow_provider_gemini_batch.lifecycle.waiting import Outcome
        from airflow_provider_gemini_batch.watch.event import event_for

        watch: Watch | None = None
        try:
            check_stored(self.serialize()[1])
            watch = self._watch()
            return await self._watch_until_over(watch)
        except GeminiBatchError as error:
            text, kind = str(error), type(error).__name__
        except Exception as error:
            # An exception out of a trigger reaches the task as a bare traceback, without the job's name.
            self.log.exception("Waiting for %s broke off", self.job_name)
            kind = type(error).__name__
            text = f"Waiting for {self.job_name} broke off: {kind}; the triggerer's log has the details."
        return event_for(Outcome.ERROR, str(self.job_name or "a job"), watch.job if watch else None, text, kind)

    def _watch(self) -> Watch:
        from airflow_provider_gemini_batch.lifecycle.waiting import ProgressReport, WaitLimits, Watch

        # NaN is no limit: it is neither before nor after any time.
        deadline = math.inf if self.deadline is None or math.isnan(self.deadline) else self.deadline
        report = ProgressReport(self.log.info, self.started, self.log.warning)
        limits = WaitLimits(deadline, self.pending_timeout, self.running_timeout)
        return Watch(limits, self.started, report.see, report.fault)

    async def _watch_until_over(self, watch: Watch) -> dict[str, Any]:
        from airflow_provider_gemini_batch.watch.event import event_for, watch_until_over, why
        from airflow_provider_gemini_batch.watch.poller import subscribe

        async def wait(settings: ConnectionSettings) -> dict[str, Any]:
            with subscribe(settings, self.job_name, self.poll_interval) as subscription:
                end = await watch_until_over(watch, subscription, self._on_sibling)
            message = why(end.outcome, self.job_name, time.time() - self.started, end.error)
            return {**event_for(end.outcome, self.job_name, watch.job, message), "twins": self._twin_names}

        return await self._over_connection(watch.limits.deadline, wait)

    async def _on_sibling(self, job_name: str, own: BatchJob | None, sibling: BatchJob) -> Outcome | None:
        """End the wait for a twin: the resumed task settles on one of the two."""
        from airflow_provider_gemini_batch.lifecycle.twins import TwinWatch
        from airflow_provider_gemini_batch.lifecycle.waiting import Outcome

        if own is None or not isinstance(self.twins, dict):
            return None
        settled, owned = (
            frozenset(map(str, names)) if isinstance(names := self.twins.get(what), list) else frozenset()
            for what in ("settled", "owned")
        )
        if not TwinWatch(self.twins.get("replace") is True, settled, owned).is_twin(own, sibling):
            return None
        self._twin_names = [sibling.name]
        self.log.info("%s turned up beside %s: the task settles on one of them.", sibling.name, job_name)
        return Outcome.TWIN
