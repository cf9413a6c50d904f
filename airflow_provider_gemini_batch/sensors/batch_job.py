# SPDX-License-Identifier: Apache-2.0
"""Wait for a job that somebody else submitted; a retry only looks again."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.compat import (
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)
from airflow_provider_gemini_batch.errors import GeminiBatchError, JobTimeoutError
from airflow_provider_gemini_batch.operators.base import failing_at_once
from airflow_provider_gemini_batch.times import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
    from airflow_provider_gemini_batch.lifecycle.waiting import Watch


class BatchJobTimeoutError(JobTimeoutError, AirflowSensorTimeout):
    """A JobTimeoutError of a sensor: Airflow does not retry it."""


class BatchJobSensor(BaseSensorOperator):
    """
    Wait until a job has ended well; returns its summary (name, state, model, stats, the output's place).

    The verdicts are the same in poke, reschedule and deferrable mode. Passing faults (429, 5xx, lost connections) are
    waited out until the timeout.

    :param job_name: What a create operator returned.
    :param deferrable: Wait in the triggerer instead of holding a worker.
    :param poke_interval: Seconds or timedelta between looks; None for once a minute, and in deferrable mode for 6 % of
        the job's age, 5 s to 10 min.
    :param timeout: Seconds or timedelta to wait in all, default four days. A timeout is not retried; the job runs on.
    :param max_failed_rows: Count (int) or share (float below 1) of rows without an answer that is still fine; None
        warns, and fails only if no row has one.
    """

    template_fields: Sequence[str] = ("gemini_batch_conn_id", "job_name")
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        job_name: str,
        gemini_batch_conn_id: str = "gemini_batch_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poke_interval: float | timedelta | None = None,
        timeout: float | timedelta = 4 * 24 * 3600,
        max_failed_rows: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=60 if poke_interval is None else poke_interval, timeout=timeout, **kwargs)
        self.job_name = job_name
        self.gemini_batch_conn_id = gemini_batch_conn_id
        self.deferrable = deferrable
        self.poll_interval = poke_interval.total_seconds() if isinstance(poke_interval, timedelta) else poke_interval
        self.max_failed_rows = max_failed_rows
        self._started: float | None = None

    @cached_property
    def hook(self) -> GeminiBatchHook:
        """The hook; looked up when the task runs."""
        from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook

        return GeminiBatchHook(self.gemini_batch_conn_id)

    @cached_property
    def _watch(self) -> Watch:
        from airflow_provider_gemini_batch.lifecycle.waiting import ProgressReport, WaitLimits, Watch

        started = self._started or time.time()
        report = ProgressReport(self.log.info, started)
        return Watch(WaitLimits(started + self._seconds), started, report.see, report.fault)

    @property
    def _seconds(self) -> float:
        return self.timeout.total_seconds() if isinstance(self.timeout, timedelta) else float(self.timeout)

    def execute(self, context: Any) -> Any:
        """Wait in the triggerer, or look here until the job has ended."""
        from airflow_provider_gemini_batch.lifecycle.verdict import check_max_failed_rows

        with failing_at_once():
            check_max_failed_rows(self.max_failed_rows)
            # Everything that can be known at once is said at once: a connection or a name that cannot work.
            self.job_name = self.hook.client.backend.check_job_name(self.job_name)
            if not self.deferrable:
                return self._look_until_over(context)
            seconds(self.poll_interval, "poke_interval")
            with self._never_failing():
                job = self._look()
                if job is not None and job.is_done:
                    return self._summary(job)
            self._defer(time.time() + self._seconds)
        return None

    def _look_until_over(self, context: Any) -> Any:
        try:
            return super().execute(context)
        except AirflowSensorTimeout as error:
            raise self._timeout(self._watch.job) from error

    def _timeout(self, job: BatchJob | None) -> BatchJobTimeoutError:
        from airflow_provider_gemini_batch.lifecycle.verdict import not_ended
        from airflow_provider_gemini_batch.lifecycle.waiting import Outcome

        return BatchJobTimeoutError(str(not_ended(Outcome.TIMEOUT, self.job_name, job, self._seconds)), job=job)

    @contextmanager
    def _never_failing(self) -> Iterator[None]:
        """Do in deferrable mode what Airflow does with ``never_fail`` in the others."""
        try:
            yield
        except AirflowSkipException:
            raise
        except Exception as error:
            if getattr(self, "never_fail", False):
                raise AirflowSkipException("Skipping due to never_fail is set to True.") from error
            raise

    def _defer(self, deadline: float) -> None:
        from airflow_provider_gemini_batch.triggers.batch_job import BatchJobTrigger

        self.defer(
            trigger=BatchJobTrigger(
                self.job_name, self.gemini_batch_conn_id, self.poll_interval, deadline, cancel_on_kill=False
            ),
            method_name="execute_complete",
            kwargs={"deadline": deadline},
            # The trigger's own deadline comes first, so that the timeout is ours to explain.
            timeout=timedelta(seconds=max(60.0, deadline - time.time() + 300)),
        )

    def poke(self, context: Any) -> PokeReturnValue | bool:
        """Look once."""
        self._started = self._started or self._first_poke(context)
        with failing_at_once():
            job = self._look()
            if job is None or not job.is_done:
                return False
            return PokeReturnValue(is_done=True, xcom_value=self._summary(job))

    def _first_poke(self, context: Any) -> float | None:
        """Return when the wait began: a rescheduled sensor is a new process each time, and the wait is one."""
        ti = context.get("ti")
        if ti is None or not self.reschedule:
            return None
        # Airflow 2.11 keeps it as the task's start.
        first = getattr(ti, "get_first_reschedule_date", lambda _: getattr(ti, "start_date", None))(context)
        return first.timestamp() if isinstance(first, datetime) else None

    def _look(self) -> BatchJob | None:
        """Look at the job; None after a passing fault."""
        from airflow_provider_gemini_batch.api.flows import get_job
        from airflow_provider_gemini_batch.api.retry import NO_RETRY

        try:
            job = self.hook.run(get_job(self.hook.client.backend, self.job_name, NO_RETRY))
        except GeminiBatchError as error:
            self._watch.fault(error, time.time())
            return None
        self._watch.see(job, time.time())
        return job

    def execute_complete(self, context: Any, event: dict[str, Any], deadline: float | None = None) -> dict[str, Any]:
        """Go on after the wait in the triggerer."""
        from airflow_provider_gemini_batch.lifecycle.waiting import Outcome
        from airflow_provider_gemini_batch.watch.event import read_event

        wait = read_event(event)
        self.job_name = wait.job_name
        deadline = deadline or time.time() + self._seconds
        with self._never_failing(), failing_at_once():
            if wait.outcome is Outcome.ERROR:
                raise GeminiBatchError(f"{wait.job_name} could not be watched any longer: {wait.message}")
            try:
                job = self.hook.get_batch(wait.job_name)
            except GeminiBatchError as error:
                if not error.is_transient:
                    raise
                self.log.warning("%s could not be looked at. %s", wait.job_name, error)
                job = None
            if job is not None and job.is_done:
                return self._summary(job)
            if wait.outcome is Outcome.ENDED and time.time() < deadline:
                self._defer(deadline)  # a list said so, the job itself does not, or cannot be asked for now
            timeout = self._timeout(job)
            if self.soft_fail:
                raise AirflowSkipException(str(timeout)) from timeout
            raise timeout

    def _summary(self, job: BatchJob) -> dict[str, Any]:
        from airflow_provider_gemini_batch.lifecycle.verdict import check_ended

        warning = check_ended(job, self.max_failed_rows, self.hook.why_rows_failed)
        if warning:
            self.log.warning("%s", warning)
        return job.summary()
