# SPDX-License-Identifier: Apache-2.0
"""
Waiting for a batch job in the triggerer.

A trigger may run again from the start, or twice at once (restart, hand-over, split network): it only watches. Times are
UTC epoch seconds, so that they mean the same wherever it runs again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import math
import sys
import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_gemini_batch.errors import AuthError, ConfigurationError, GeminiBatchError, TransportError
from airflow_provider_gemini_batch.task.context import FINAL_STATES, state_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings

LOOK_UP_TRIES = 10
"""How often the connection is looked up while Airflow fails, which takes some three minutes."""

MISSING_TRIES = 3
"""How often Airflow has to say that there is no such connection."""

CANCEL_TIMEOUT = 10.0
"""Seconds for one call when a killed task's job is cancelled."""

_TASK_RUNNER = "airflow.sdk.execution_time.task_runner"
_NEEDED = (
    "airflow_provider_gemini_batch.watch.event",
    "airflow_provider_gemini_batch.watch.poller",
    "airflow_provider_gemini_batch.hooks.gemini_batch",
    "airflow_provider_gemini_batch.connection.settings",
)

_cancelling: set[asyncio.Task[None]] = set()


class BatchJobTrigger(BaseTrigger):
    """
    Watches a batch job until it has ended or a limit is reached; never creates one.

    :param job_name: ``batches/...`` or ``projects/.../batchPredictionJobs/...``.
    :param gemini_batch_conn_id: Connection.
    :param poll_interval: Seconds between looks; None for a rhythm that follows the job's age.
    :param deadline: UTC epoch seconds; None for no limit.
    :param pending_timeout: Seconds that the job may wait for its turn, from its creation.
    :param running_timeout: Seconds that the job may run.
    :param started: UTC epoch seconds when the wait began; None is now.
    :param cancel_on_kill: Whether the job is cancelled when a person ends the deferred task. Airflow tells that to a
        trigger from 3.3 on; see also :mod:`airflow_provider_gemini_batch.plugins.listener`.
    :param backend: Overrides the connection's backend.
    :param retired: Arguments of other versions: stored triggers outlive an upgrade.
    """

    def __init__(
        self,
        job_name: str,
        gemini_batch_conn_id: str = "gemini_batch_default",
        poll_interval: float | None = None,
        deadline: float | None = None,
        *,
        pending_timeout: float | None = None,
        running_timeout: float | None = None,
        started: float | None = None,
        cancel_on_kill: bool = True,
        backend: str | None = None,
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
        self.backend = backend
        self._settings: ConnectionSettings | None = None
        self._event_sent = False

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
                "backend": self.backend,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: how the wait ended."""
        event = await self._wait()
        # A trigger that lingers after its event is killed as if by a person.
        self._event_sent = True
        yield TriggerEvent(event)

    async def _wait(self) -> dict[str, Any]:
        for name in _NEEDED:
            if name not in sys.modules:
                await asyncio.to_thread(importlib.import_module, name)
        from airflow_provider_gemini_batch.lifecycle.waiting import Outcome, ProgressReport, WaitLimits, Watch
        from airflow_provider_gemini_batch.watch.event import event_for, watch_until_over, why
        from airflow_provider_gemini_batch.watch.poller import subscribe

        # NaN is no limit: it is neither before nor after any time.
        deadline = math.inf if self.deadline is None or self.deadline != self.deadline else self.deadline
        limits = WaitLimits(deadline, self.pending_timeout, self.running_timeout)
        report = ProgressReport(self.log.info, self.started)
        watch = Watch(limits, self.started, report.see, report.fault)
        try:
            self._settings = await self._find_connection(limits.deadline)
            await self._prepare_for_kill()
            while True:
                try:
                    with subscribe(self._settings, self.job_name, self.poll_interval) as subscription:
                        outcome = await watch_until_over(watch, subscription)
                        message = why(outcome, self.job_name, time.time() - self.started, subscription.trouble)
                    break
                except AuthError:
                    refused, self._settings = self._settings, await self._find_connection(limits.deadline)
                    if self._settings.identity == refused.identity:
                        raise
                    self.log.info("The credentials were refused; the connection has others now, and the wait goes on.")
        except GeminiBatchError as error:
            return event_for(Outcome.ERROR, self.job_name, watch.job, str(error), type(error).__name__)
        except Exception as error:
            # An exception out of a trigger reaches the task as a bare traceback, without the job's name.
            self.log.exception("Waiting for %s broke off", self.job_name)
            text = (
                f"Waiting for {self.job_name} broke off: {type(error).__name__}; the triggerer's log has the details."
            )
            return event_for(Outcome.ERROR, self.job_name, watch.job, text, type(error).__name__)
        return event_for(outcome, self.job_name, watch.job, message)

    async def _find_connection(self, deadline: float) -> ConnectionSettings:
        """
        Look the connection up, a few times if need be.

        After a restart all waits ask Airflow at once, and a job that is paid for is not given up because Airflow could
        not answer just then. Where it could not ask, it may say that there is no such connection.
        """
        from airflow_provider_gemini_batch.api.retry import RetryPolicy

        policy = RetryPolicy(max_attempts=LOOK_UP_TRIES)
        failures = 0
        while True:
            try:
                return await self._look_up_connection()
            except Exception as error:
                failures += 1
                is_missing = isinstance(error, ConfigurationError)
                if is_missing and (error.__cause__ is None or failures >= MISSING_TRIES):
                    raise
                pause = policy.delay_after(TransportError(), failures)
                left = deadline - time.time()
                if pause is None or left <= 0:
                    raise
                self.log.warning(
                    "The connection %s could not be looked up (%s); next try in %.0f s.",
                    self.gemini_batch_conn_id, type(error).__name__, pause,
                )  # fmt: skip
            await asyncio.sleep(min(pause, left))

    async def _look_up_connection(self) -> ConnectionSettings:
        """Look the connection up; only ever in the trigger's own task, where every Airflow version allows it."""
        from airflow_provider_gemini_batch.compat import AirflowNotFoundException, get_connection_in_trigger
        from airflow_provider_gemini_batch.hooks.gemini_batch import settings_of

        try:
            connection, extra = await get_connection_in_trigger(self.gemini_batch_conn_id)
        except AirflowNotFoundException as error:
            variable = f"AIRFLOW_CONN_{self.gemini_batch_conn_id.upper()}"
            raise ConfigurationError(
                f"There is no connection {self.gemini_batch_conn_id!r} where the trigger runs; `airflow dags test` "
                f"looks in the environment alone ({variable})."
            ) from error
        return settings_of(connection, self.backend, extra=extra)

    # --- killed -------------------------------------------------------------------------------------------------------

    async def _prepare_for_kill(self) -> None:
        # Loading it takes seconds, which a kill does not leave us. Airflow before 3.3 never calls on_kill.
        if self.cancel_on_kill and hasattr(BaseTrigger, "on_kill") and _TASK_RUNNER not in sys.modules:
            with contextlib.suppress(ImportError):
                await asyncio.to_thread(importlib.import_module, _TASK_RUNNER)

    async def on_kill(self) -> None:
        """
        Cancel the job if the task has been ended for good.

        Airflow 3.3 also calls this when another triggerer has taken the trigger over, when a cleared task has already
        deferred again, and when a trigger outlives its event; the job is paid for and wanted then. It also cuts the
        call off after a second (https://github.com/apache/airflow/pull/73454).
        """
        if not self.cancel_on_kill or self._event_sent:
            return
        work = asyncio.ensure_future(self._cancel_if_final())
        _cancelling.add(work)
        work.add_done_callback(_cancelling.discard)
        await asyncio.shield(work)

    async def _cancel_if_final(self) -> None:
        try:
            state = await self._task_state()
            if state not in FINAL_STATES:
                self.log.info("%s is kept: its task is %s.", self.job_name, state or "without a state")
                return
            await self._cancel()
            self.log.info("%s was asked to cancel: its task is %s.", self.job_name, state)
        except Exception as error:
            self.log.warning("%s could not be cancelled and may still run and bill: %s", self.job_name, error)

    async def _task_state(self) -> str | None:
        from asgiref.sync import sync_to_async

        instance = self.task_instance
        if instance is None:
            return None
        runner = importlib.import_module(_TASK_RUNNER)
        map_index = -1 if instance.map_index is None else instance.map_index
        states = await sync_to_async(runner.RuntimeTaskInstance.get_task_states)(
            dag_id=instance.dag_id, task_ids=[instance.task_id], run_ids=[instance.run_id], map_index=map_index
        )
        return state_in(states, instance.run_id, instance.task_id, map_index)

    async def _cancel(self) -> None:
        from airflow_provider_gemini_batch.api.backends import backend_for
        from airflow_provider_gemini_batch.api.flows import cancel_job
        from airflow_provider_gemini_batch.api.retry import RetryPolicy
        from airflow_provider_gemini_batch.transport.asynchronous import AsyncTransport
        from airflow_provider_gemini_batch.transport.credentials import credentials_for

        # Our own client: the shared poller may be gone by now, or be busy with thousands of looks.
        settings = self._settings or await self._look_up_connection()
        settings = dataclasses.replace(settings, timeout=min(settings.timeout, CANCEL_TIMEOUT))
        async with AsyncTransport(settings, credentials_for(settings), max_connections=1) as transport:
            await transport.arun(cancel_job(backend_for(settings), self.job_name, RetryPolicy(max_attempts=3, cap=3.0)))
