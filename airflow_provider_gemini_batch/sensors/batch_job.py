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
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)
from airflow_provider_gemini_batch.errors import GeminiBatchError, JobTimeoutError
from airflow_provider_gemini_batch.operators.base import Connected, fail_without_retry
from airflow_provider_gemini_batch.task.kill import TaskEnd
from airflow_provider_gemini_batch.times import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.lifecycle.attempt import Attempt, AttemptPolicy, Step
    from airflow_provider_gemini_batch.lifecycle.waiting import Watch
    from airflow_provider_gemini_batch.triggers.deferral import TwinRules

MAX_FAILED_ROWS = 0.1


class BatchJobTimeoutError(JobTimeoutError, AirflowSensorTimeout):
    """A JobTimeoutError of a sensor: Airflow does not retry it."""


class BatchJobSensor(Connected, BaseSensorOperator):
    """
    Wait until a job has ended well; returns its summary (name, state, model, stats, the output's place).

    The verdicts are the same in poke, reschedule and deferrable mode. Passing faults (429, 5xx, lost connections) are
    waited out until the timeout.

    :param job_name: What a create operator returned.
    :param deferrable: Wait in the triggerer instead of holding a worker.
    :param poke_interval: Seconds or timedelta between polls; None for once a minute, and in deferrable mode for 6 % of
        the job's age, 5 s to 10 min.
    :param timeout: Seconds or timedelta to wait in all, default four days. A timeout is not retried; the job runs on.
    :param max_failed_rows: Count (int) or share (float below 1) of rows without an answer that is still fine; None
        warns, and fails only if no row has one.
    :param count_truncated: Whether answers that were cut off count as failed, as far as the first 1,000 tell.
    """

    page_view = "run"
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
        max_failed_rows: float | None = MAX_FAILED_ROWS,
        count_truncated: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=60 if poke_interval is None else poke_interval, timeout=timeout, **kwargs)
        self.job_name = job_name
        self.gemini_batch_conn_id = gemini_batch_conn_id
        self.deferrable = deferrable
        self.poll_interval = poke_interval.total_seconds() if isinstance(poke_interval, timedelta) else poke_interval
        self.max_failed_rows = max_failed_rows
        self.count_truncated = count_truncated
        self._attempt: Attempt | None = None
        self._ti: Any = None
        self._end = TaskEnd()

    @cached_property
    def _policy(self) -> AttemptPolicy:
        """What was asked for: a sensor leaves the job alone, whatever ends the wait."""
        from airflow_provider_gemini_batch.lifecycle.attempt import AttemptPolicy
        from airflow_provider_gemini_batch.triggers.deferral import execution_timeout_of

        timeout = self.timeout.total_seconds() if isinstance(self.timeout, timedelta) else float(self.timeout)
        return AttemptPolicy(timeout=timeout, execution_timeout=execution_timeout_of(self))

    def _begin(self, started: float) -> Attempt:
        from dataclasses import replace

        return replace(self._policy.begin(started), job_name=self.job_name)

    @cached_property
    def _watch(self) -> Watch:
        from airflow_provider_gemini_batch.lifecycle.waiting import ProgressReport, Watch

        attempt = self._attempt or self._begin(time.time())
        report = ProgressReport(self.log.info, attempt.started)
        return Watch(self._policy.limits(attempt), attempt.started, report.see, report.fault)

    # --- entered by Airflow -------------------------------------------------------------------------------------------

    def execute(self, context: Any) -> Any:
        """Wait in the triggerer, or poll here until the job has ended."""
        from airflow_provider_gemini_batch.lifecycle.verdict import check_max_failed_rows

        # A sensor submits nothing: whatever ends it, the job is somebody else's and runs on.
        with fail_without_retry(), self._end.told(lambda: [self.job_name]):
            check_max_failed_rows(self.max_failed_rows)
            # Everything that can be known at once is said at once: a connection or a name that cannot work.
            self.job_name = self.hook.client.backend.check_job_name(self.job_name)
            if not self.deferrable:
                return self._poll_until_over(context)
            self._show(context)
            # For its error: a wrong interval fails here, and not in the triggerer an hour later.
            seconds(self.poll_interval, "poke_interval")
            self._attempt = self._begin(time.time())
            with self._never_failing():
                job = self._poll(context)
                if job is not None and job.is_done:
                    return self._summary(job)
            self._defer(self._attempt, self._twin_rules(context))
        return None

    def execute_complete(self, context: Any, event: Any = None, **carried: Any) -> dict[str, Any]:
        """Go on after the wait in the triggerer."""
        from airflow_provider_gemini_batch.triggers.deferral import read_wait, step_after_wait

        attempt, outcome = read_wait(event, carried, self._policy)
        self.job_name = str(attempt.job_name)
        with self._never_failing(), fail_without_retry():
            self._show(context)
            rules = self._twin_rules(context)
            return self._follow(step_after_wait(self.hook, attempt, outcome, self._policy, self.log, rules), rules)

    def poke(self, context: Any) -> PokeReturnValue | bool:
        """Read the job once."""
        if self._attempt is None:
            self._show(context)
            self._attempt = self._begin(self._first_poke(context) or time.time())
        with fail_without_retry():
            job = self._poll(context)
            if job is None or not job.is_done:
                return False
            return PokeReturnValue(is_done=True, xcom_value=self._summary(job))

    def on_kill(self) -> None:
        """End the wait; the job is left to whoever made it."""
        self._end.end_wait()

    # --- the steps ----------------------------------------------------------------------------------------------------

    def _show(self, context: Any) -> None:
        """Show the links that can be known before the job is read."""
        self._ti = context.get("ti")
        self.show_page(self._ti)
        self.show_job_name(self._ti, self.job_name, self.hook.settings)

    @staticmethod
    def _twin_rules(context: Any) -> TwinRules:
        """Others know the job by its name, so it is gone on with, whichever is older."""
        from airflow_provider_gemini_batch.triggers.deferral import TwinRules

        ti = context.get("ti")

        def push(key: str, value: Any) -> None:
            if ti is not None:
                ti.xcom_push(key=key, value=value)

        return TwinRules(keep=True, push=push)

    def _follow(self, step: Step, rules: TwinRules) -> dict[str, Any]:
        """Carry a step out; a sensor neither pauses nor submits."""
        from airflow_provider_gemini_batch.lifecycle.attempt import Done, Fail, Wait

        if isinstance(step, Done):
            return self._summary(step.job)
        if isinstance(step, Wait):
            self._defer(step.attempt, rules)
        assert isinstance(step, Fail)
        error = self._as_timeout(step.error)
        if isinstance(error, AirflowSensorTimeout) and self.soft_fail:
            raise AirflowSkipException(str(error)) from error
        raise error

    def _as_timeout(self, error: GeminiBatchError) -> GeminiBatchError:
        """Make Airflow's own kind of error of the sensor's timeout; ``execution_timeout`` may be retried."""
        if isinstance(error, JobTimeoutError) and error.limit == "timeout":
            return BatchJobTimeoutError(str(error), job=error.job)
        return error

    def _poll_until_over(self, context: Any) -> Any:
        from airflow_provider_gemini_batch.lifecycle.attempt import Fail, next_step
        from airflow_provider_gemini_batch.lifecycle.waiting import Outcome

        try:
            with self._end.waiting():
                return super().execute(context)
        except AirflowSensorTimeout as error:
            # Airflow's own timeout says nothing of the job: the step's error names it, and the last that was seen of
            # it.
            attempt = self._attempt or self._begin(time.time() - self._policy.timeout)
            step = next_step(attempt, Outcome.TIMEOUT, self._watch.job, self._policy, time.time())
            if isinstance(step, Fail):
                raise self._as_timeout(step.error) from error
            raise
        except AirflowTaskTimeout:
            self.log.warning("execution_timeout is over; %s runs on, and a retry waits for it again.", self.job_name)
            raise

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

    def _defer(self, attempt: Attempt, rules: TwinRules) -> None:
        from airflow_provider_gemini_batch.triggers.deferral import defer_wait

        defer_wait(self, attempt, self._policy, rules, poll_interval=self.poll_interval, cancel_on_kill=False)

    def _first_poke(self, context: Any) -> float | None:
        """Return when the wait began: a rescheduled sensor is a new process each time, and the wait is one."""
        ti = context.get("ti")
        if ti is None or not self.reschedule:
            return None
        # Airflow 2.11 keeps it as the task's start.
        first = getattr(ti, "get_first_reschedule_date", lambda _: getattr(ti, "start_date", None))(context)
        return first.timestamp() if isinstance(first, datetime) else None

    def _poll(self, context: Any) -> BatchJob | None:
        """Read the job, and the list now and then; None after a passing fault."""
        from airflow_provider_gemini_batch.api.flows import get_job
        from airflow_provider_gemini_batch.api.retry import NO_RETRY

        try:
            job = self.hook.run(get_job(self.hook.client.backend, self.job_name, NO_RETRY))
        except GeminiBatchError as error:
            self._watch.fault(error, time.time())
            return None
        self._watch.see(job, time.time())
        self.show_job(self._ti, job, self.hook.settings)
        return self._without_twins(context, job)

    def _without_twins(self, context: Any, job: BatchJob) -> BatchJob:
        """Look for twins when the job has ended, and often while it is young."""
        from airflow_provider_gemini_batch.lifecycle.twins import list_look_due
        from airflow_provider_gemini_batch.triggers.deferral import reconciled

        now = time.time()
        born = job.born(now)
        age = 0.0 if born is None else now - born
        # A rescheduled sensor does not know when it last looked; it polled so many seconds ago.
        if not (job.is_done or list_look_due(max(0.0, age - self.poke_interval), age)):
            return job
        attempt = self._attempt or self._begin(time.time())
        self._attempt, found = reconciled(self.hook, attempt, self.log, self._twin_rules(context))
        return found or job

    def _summary(self, job: BatchJob) -> dict[str, Any]:
        from airflow_provider_gemini_batch.lifecycle.verdict import check_ended
        from airflow_provider_gemini_batch.task.landed import tell_ended

        self.show_job(self._ti, job, self.hook.settings)
        tell_ended(self, {"ti": self._ti}, job)
        warning = check_ended(job, self.max_failed_rows, self.hook.sample_rows, count_truncated=self.count_truncated)
        if warning:
            self.log.warning("%s", warning)
        return job.summary()
