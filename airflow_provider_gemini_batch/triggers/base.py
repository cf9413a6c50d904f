# SPDX-License-Identifier: Apache-2.0
"""What the triggers that watch jobs share: the connection, looked up where Airflow allows it, and being killed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import sys
import time
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.triggers.base import BaseTrigger

from airflow_provider_gemini_batch.errors import AuthError, ConfigurationError, TransportError
from airflow_provider_gemini_batch.task.kill import FINAL_STATES, acancel_if_marked, state_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings

T = TypeVar("T")

LOOK_UP_TRIES = 10
"""How often the connection is looked up while Airflow fails, which takes some three minutes."""

MISSING_TRIES = 3
"""How often Airflow has to say that there is no such connection."""

CANCEL_TIMEOUT = 10.0
"""Seconds for one call when a killed task's job is cancelled."""

_NEEDED = (
    "airflow_provider_gemini_batch.watch.event",
    "airflow_provider_gemini_batch.watch.poller",
    "airflow_provider_gemini_batch.connection.reading",
)
_TASK_RUNNER = "airflow.sdk.execution_time.task_runner"

_cancelling: set[asyncio.Task[None]] = set()


class WatchTrigger(BaseTrigger):
    """
    Base of the triggers that watch jobs. A subclass sets the attributes below in its ``__init__``.

    :ivar gemini_batch_conn_id: Connection.
    :ivar backend: Overrides the connection's backend.
    :ivar cancel_on_kill: Whether the jobs are cancelled when a person ends the deferred task.
    :ivar in_loop: Whether the task is a pass of a task loop (Airflow 3.4).
    """

    gemini_batch_conn_id: str
    backend: str | None
    cancel_on_kill: bool
    in_loop: bool
    _settings: ConnectionSettings | None = None
    _event_sent = False

    @property
    def watched_jobs(self) -> Sequence[str]:
        """Names of the jobs that are watched."""
        raise NotImplementedError

    @staticmethod
    async def _load_modules() -> None:
        """Import what a wait needs, off the event loop: the first of a triggerer's waits would hold up all others."""
        for name in _NEEDED:
            if name not in sys.modules:
                await asyncio.to_thread(importlib.import_module, name)

    # --- the connection -----------------------------------------------------------------------------------------------

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
        from airflow_provider_gemini_batch.connection.reading import read_connection

        found: Any = None
        try:
            found = await get_connection_in_trigger(self.gemini_batch_conn_id)
        except AirflowNotFoundException as error:
            variable = f"AIRFLOW_CONN_{self.gemini_batch_conn_id.upper()}"
            raise ConfigurationError(
                f"There is no connection {self.gemini_batch_conn_id!r} where the trigger runs; `airflow dags test` "
                f"looks in the environment alone ({variable})."
            ) from error
        reading = read_connection(found[0], self.backend, extra=found[1])
        del found  # an error's frames do not reach the key
        return reading.checked()

    async def _over_connection(self, deadline: float, wait: Callable[[ConnectionSettings], Awaitable[T]]) -> T:
        """
        Wait over the connection; a refused key is looked up once more, since the connection may have another by now.

        :param wait: The wait itself; called again with other settings.
        """
        settings = self._settings = await self._find_connection(deadline)
        await self._prepare_for_kill()
        while True:
            try:
                return await wait(settings)
            except AuthError:
                changed = await self._changed_connection(settings, deadline)
                if changed is None:
                    raise
                settings = changed

    async def _changed_connection(self, refused: ConnectionSettings, deadline: float) -> ConnectionSettings | None:
        """Look the connection up once more after its key was refused; None if it has no other by now."""
        settings = await self._find_connection(deadline)
        if settings.identity == refused.identity:
            return None
        self._settings = settings
        self.log.info("The credentials were refused; the connection has others now, and the wait goes on.")
        return settings

    # --- killed -------------------------------------------------------------------------------------------------------

    async def _prepare_for_kill(self) -> None:
        # Loading it takes seconds, which a kill does not leave us. Airflow before 3.3 never calls on_kill.
        if self.cancel_on_kill and hasattr(BaseTrigger, "on_kill") and _TASK_RUNNER not in sys.modules:
            with contextlib.suppress(ImportError):
                await asyncio.to_thread(importlib.import_module, _TASK_RUNNER)

    async def on_kill(self) -> None:
        """
        Cancel the jobs if the task has been ended for good.

        Airflow 3.3 also calls this when another triggerer has taken the trigger over, when a cleared task has already
        deferred again, and when a trigger outlives its event; the job is paid for and wanted then. It also cuts the
        call off after a second (https://github.com/apache/airflow/pull/73454).
        """
        if not self.cancel_on_kill or self._event_sent:
            return
        rule = acancel_if_marked(lambda: self.watched_jobs, self._task_state, self._cancel, self.log)
        # The set keeps the work alive and the shield keeps it running when Airflow gives up on this call.
        work = asyncio.ensure_future(rule)
        _cancelling.add(work)
        work.add_done_callback(_cancelling.discard)
        await asyncio.shield(work)

    async def _task_state(self) -> str | None:
        from asgiref.sync import sync_to_async

        instance = self.task_instance
        if instance is None:
            return None
        runner = importlib.import_module(_TASK_RUNNER)
        if self.in_loop:
            # States by name are those of the loop's last pass (`task/kill.py`); the end of the run is that of all.
            ask = sync_to_async(runner.RuntimeTaskInstance.get_dagrun_state)
            state = await ask(dag_id=instance.dag_id, run_id=instance.run_id)
            return str(state) if state in FINAL_STATES else f"in a run that is {state}"
        map_index = -1 if instance.map_index is None else instance.map_index
        states = await sync_to_async(runner.RuntimeTaskInstance.get_task_states)(
            dag_id=instance.dag_id, task_ids=[instance.task_id], run_ids=[instance.run_id], map_index=map_index
        )
        return state_in(states, instance.run_id, instance.task_id, map_index)

    async def _cancel(self, job_name: str) -> None:
        from airflow_provider_gemini_batch.api.backends import backend_for
        from airflow_provider_gemini_batch.api.flows import cancel_job
        from airflow_provider_gemini_batch.api.retry import RetryPolicy
        from airflow_provider_gemini_batch.transport.asynchronous import AsyncTransport
        from airflow_provider_gemini_batch.transport.credentials import credentials_for

        # Our own client: the shared poller may be gone by now, or be busy with thousands of polls.
        settings = self._settings or await self._look_up_connection()
        settings = dataclasses.replace(settings, timeout=min(settings.timeout, CANCEL_TIMEOUT))
        async with AsyncTransport(settings, credentials_for(settings), max_connections=1) as transport:
            await transport.arun(cancel_job(backend_for(settings), job_name, RetryPolicy(max_attempts=3, cap=3.0)))
