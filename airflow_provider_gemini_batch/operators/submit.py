# SPDX-License-Identifier: Apache-2.0
"""
What the two create operators share: submit once, then wait if asked to.

The order matters. The submission's token is made before anything is sent; the job's name goes to XCom as soon as it
exists, before any wait; a deferred task hands over a name and never submits from the trigger.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_gemini_batch.compat import conf
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    GeminiBatchError,
    RateLimitedError,
    SubmitError,
)
from airflow_provider_gemini_batch.operators.base import GeminiBatchOperator, failing_at_once
from airflow_provider_gemini_batch.times import seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.lifecycle.request import JobRequest
    from airflow_provider_gemini_batch.lifecycle.submit import Submission
    from airflow_provider_gemini_batch.lifecycle.waiting import Outcome

log = logging.getLogger(__name__)

DAY = 24 * 3600.0
DEFAULT_TIMEOUT = 4 * DAY
"""Longer than the service lets a job wait and run (48 h on the Developer API, 72 h + 24 h on Vertex AI)."""

_CHOICES = {
    "on_existing_job": ("replace", "reuse", "fail"),
    "on_timeout": ("cancel", "leave"),
    "on_pending_timeout": ("fail", "wait", "resubmit"),
    "on_running_timeout": ("fail", "wait", "resubmit"),
}


class SubmitOperator(GeminiBatchOperator):
    """
    Base of the create operators; :meth:`request` says what is to be computed.

    :param model: E.g. ``gemini-3.5-flash-lite``.
    :param inlined_requests: Rows as a list of dicts; above 4 MiB they travel as a file. Exactly one of this and the
        next four is given.
    :param input_path: Local path or object-storage URI of a JSONL file; its rows are checked and uploaded.
    :param file_name: What ``UploadFileOperator`` returned.
    :param gcs_uri: ``gs://...`` of a JSONL object in wire form (Vertex AI).
    :param bigquery_uri: ``bq://project.dataset.table`` (Vertex AI).
    :param destination: ``gs://`` prefix or ``bq://`` table for the answers (Vertex AI); default below the connection's
        ``storage_uri``.
    :param display_name: Shown at Google; default ``<dag_id>.<task_id>``.
    :param priority: Higher runs first (Developer API).
    :param labels: On the job (Vertex AI).
    :param webhook_config: ``{"uris": [...], "userMetadata": {...}}`` (Developer API).
    :param wait_for_completion: Return only when the job has ended.
    :param deferrable: Wait in the triggerer instead of holding a worker.
    :param poll_interval: Seconds or timedelta between looks; None for 6 % of the job's age, 5 s to 10 min.
    :param timeout: Seconds or timedelta to wait in all, default four days.
    :param on_timeout: ``leave`` the job running at the timeout, so that a retry finds it again, or ``cancel`` it.
    :param pending_timeout: Longest time a job may wait for its turn; None for no limit.
    :param on_pending_timeout: ``fail``, ``wait`` on, or cancel and ``resubmit``.
    :param running_timeout: Longest time a job may run; None for no limit.
    :param on_running_timeout: As *on_pending_timeout*.
    :param max_resubmits: How often a stuck job is submitted again at most.
    :param max_failed_rows: Count (int) or share (float below 1) of rows without an answer that is still fine; checked
        when the task waits. None warns, and fails only if no row has an answer.
    :param on_existing_job: What to do if this very task has a job with other input: ``replace`` (cancel it),
        ``reuse`` it or ``fail``.
    :param submission_salt: Change it to ask for a fresh job on purpose, e.g. ``"{{ params.salt }}"``.
    :param cancel_on_kill: Cancel the job when somebody marks the task failed, success or skipped.
    :param submit_timeout: Longest time to wait for quota (HTTP 429 on create), default one day.
    """

    kind: str
    template_fields: Sequence[str] = (
        *GeminiBatchOperator.template_fields,
        "model",
        "inlined_requests",
        "input_path",
        "file_name",
        "gcs_uri",
        "bigquery_uri",
        "destination",
        "display_name",
        "labels",
        "webhook_config",
        "submission_salt",
        *_CHOICES,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "inlined_requests": "json",
        "labels": "json",
        "webhook_config": "json",
    }

    def __init__(
        self,
        *,
        model: str,
        inlined_requests: Sequence[Mapping[str, Any]] | None = None,
        input_path: str | PathLike[str] | None = None,
        file_name: str | None = None,
        gcs_uri: str | None = None,
        bigquery_uri: str | None = None,
        destination: str | None = None,
        display_name: str | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        webhook_config: Mapping[str, Any] | None = None,
        wait_for_completion: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | timedelta | None = None,
        timeout: float | timedelta = DEFAULT_TIMEOUT,
        on_timeout: str = "leave",
        pending_timeout: float | timedelta | None = None,
        on_pending_timeout: str = "fail",
        running_timeout: float | timedelta | None = None,
        on_running_timeout: str = "fail",
        max_resubmits: int = 1,
        max_failed_rows: float | None = None,
        on_existing_job: str = "replace",
        submission_salt: str = "",
        cancel_on_kill: bool = True,
        submit_timeout: float | timedelta = DAY,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.inlined_requests = inlined_requests
        self.input_path = input_path
        self.file_name = file_name
        self.gcs_uri = gcs_uri
        self.bigquery_uri = bigquery_uri
        self.destination = destination
        self.display_name = display_name
        self.priority = priority
        self.labels = labels
        self.webhook_config = webhook_config
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.on_timeout = on_timeout
        self.pending_timeout = pending_timeout
        self.on_pending_timeout = on_pending_timeout
        self.running_timeout = running_timeout
        self.on_running_timeout = on_running_timeout
        self.max_resubmits = max_resubmits
        self.max_failed_rows = max_failed_rows
        self.on_existing_job = on_existing_job
        self.submission_salt = submission_salt
        self.cancel_on_kill = cancel_on_kill
        self.submit_timeout = submit_timeout
        self._job_name: str | None = None
        self._told: str | None = None
        self._ti: Any = None
        self._unwanted: str | None = None

    def request(self) -> JobRequest:
        """Return what is to be computed, from rendered arguments."""
        raise NotImplementedError

    def _common(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "inlined_requests": self.inlined_requests,
            "input_path": self.input_path,
            "file_name": self.file_name,
            "gcs_uri": self.gcs_uri,
            "bigquery_uri": self.bigquery_uri,
            "destination": self.destination,
            "display_name": self.display_name or f"{getattr(self, 'dag_id', '')}.{self.task_id}",
            "priority": self.priority,
            "labels": self.labels or {},
            "webhook_config": self.webhook_config,
        }

    def _check(self) -> None:
        from airflow_provider_gemini_batch.lifecycle.verdict import check_max_failed_rows

        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigurationError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}.")
        for name in ("timeout", "pending_timeout", "running_timeout", "submit_timeout", "poll_interval"):
            seconds(getattr(self, name), name)
        if isinstance(self.max_resubmits, bool) or not isinstance(self.max_resubmits, int) or self.max_resubmits < 0:
            raise ConfigurationError(f"max_resubmits must be a whole number, 0 or more, not {self.max_resubmits!r}.")
        check_max_failed_rows(self.max_failed_rows)

    # --- the steps ----------------------------------------------------------------------------------------------------

    def carry_out(self, context: Any) -> str:
        """Submit, tell the job's name, and wait if asked to."""
        self._check()
        if isinstance(self.inlined_requests, Iterator):
            self.inlined_requests = list(self.inlined_requests)  # a second try reads them again
        now = time.time()
        plan = {
            "deadline": now + (seconds(self.timeout, "timeout") or DEFAULT_TIMEOUT),
            "submit_deadline": now + (seconds(self.submit_timeout, "submit_timeout") or DAY),
            "resubmits": 0,
            "tries": 0,
            "exclude": [],
            "waived": [],
        }
        return self._submit_and_wait(context, plan)

    def _submit_and_wait(self, context: Any, plan: dict[str, Any]) -> str:
        while True:
            try:
                submission = self._submit(context, plan)
                break
            except RateLimitedError as error:
                self._wait_for_quota(error, plan)
        self._tell(submission)
        if not self.wait_for_completion:
            return submission.job.name
        return self._wait(context, submission.job.name, plan)

    def _submit(self, context: Any, plan: dict[str, Any]) -> Submission:
        from airflow_provider_gemini_batch.task.identity import submit_policy, task_identity
        from airflow_provider_gemini_batch.task.store import SubmissionStore

        self._ti = context.get("ti") or context.get("task_instance")
        work = task_identity(context, self.submission_salt)
        memory = SubmissionStore(context.get("task_state_store"))

        def remember(what: str, value: str) -> None:
            memory.note(what, value)
            if what == "job":
                self._know_job(value)
            self._stop_if_unwanted()

        noted = memory.recall()
        names = [noted["job"]] if isinstance(noted.get("job"), str) else []
        return self.hook.submit(
            self.request(),
            task=work.task,
            since=work.since,
            known_names=names,
            on_existing_job=self.on_existing_job,
            may_have_rivals=work.may_have_rivals or bool(noted),
            intent_at=None if names else noted.get("intent_at"),
            exclude=frozenset(plan["exclude"]),
            policy=submit_policy(),
            remember=remember,
            on_token=lambda token: self._push("submission_token", token),
        )

    def _know_job(self, job_name: str) -> None:
        """
        Tell the job's name as soon as it exists; from now on a kill cancels it.

        Whether Airflow hears of it or not (this task's supervisor may be dead), the submission goes on: a twin of the
        job may have to be cancelled. :meth:`_tell` tells the name again.
        """
        self._job_name = job_name
        try:
            self._tell_name()
        except Exception as error:
            # Not self.log, which goes through the supervisor.
            log.warning("Airflow could not be told of %s yet: %s", job_name, type(error).__name__)

    def _tell_name(self) -> None:
        if self._told != self._job_name:
            self._push("job_name", str(self._job_name))
            self._told = self._job_name

    def _tell(self, submission: Submission) -> None:
        self._job_name = submission.job.name
        self._tell_name()
        self.log.info("%s", submission.reason)
        if submission.surplus:
            self.log.warning("Surplus jobs of this task were cancelled: %s", ", ".join(submission.surplus))
        if submission.uncancelled:
            self.log.error("Surplus jobs could not be cancelled, and may bill: %s", ", ".join(submission.uncancelled))

    def _push(self, key: str, value: str) -> None:
        if self._ti is not None:
            self._ti.xcom_push(key=key, value=value)

    def _wait_for_quota(self, error: RateLimitedError, plan: dict[str, Any]) -> None:
        """Wait outside the worker where we may, for as long as the service says, within submit_timeout."""
        from airflow_provider_gemini_batch.api.retry import RetryPolicy

        plan["tries"] += 1
        pause = RetryPolicy(max_attempts=None, base=30.0, cap=1800.0, max_hint=3600.0).delay_after(error, plan["tries"])
        limit = error.quota or "a request rate, the number of running jobs, or the tokens in waiting jobs"
        left = plan["submit_deadline"] - time.time()
        if pause is None or left <= 0:
            raise SubmitError(
                f"No quota for this job within submit_timeout; nothing was submitted. Suspected limit: {limit}. {error}"
            ) from error
        pause = min(pause, left)
        self.log.warning("No quota for this job (suspected limit: %s); next try in %.0f s. %s", limit, pause, error)
        if self.deferrable:
            from airflow_provider_gemini_batch.triggers.pause import PauseTrigger

            self.defer(
                trigger=PauseTrigger(time.time() + pause), method_name="resume_submission", kwargs={"plan": plan}
            )
        time.sleep(pause)

    def resume_submission(self, context: Any, event: Any = None, plan: dict[str, Any] | None = None) -> str:
        """Go on after a wait for quota."""
        if plan is None:
            raise ConfigurationError("The task was resumed without its plan; clear it to start again.")
        with failing_at_once():
            return self._submit_and_wait(context, plan)

    @property
    def _interval(self) -> float | None:
        return seconds(self.poll_interval, "poll_interval")

    def _limits(self, plan: dict[str, Any]) -> dict[str, Any]:
        return {
            name: None if name in plan["waived"] else seconds(getattr(self, name), name)
            for name in ("pending_timeout", "running_timeout")
        }

    def _wait(self, context: Any, job_name: str, plan: dict[str, Any]) -> str:
        if self.deferrable:
            self._defer(job_name, plan)
        from airflow_provider_gemini_batch.lifecycle.waiting import ProgressReport, WaitLimits, Watch, wait_for_end

        started = time.time()
        report = ProgressReport(self.log.info, started)
        watch = Watch(WaitLimits(plan["deadline"], **self._limits(plan)), started, report.see, report.fault)
        outcome = self.hook.run(
            wait_for_end(self.hook.client.backend, job_name, watch, time.time, poll_interval=self._interval)
        )
        return self._conclude(context, outcome, job_name, watch.job, plan)

    def _defer(self, job_name: str, plan: dict[str, Any]) -> None:
        from airflow_provider_gemini_batch.triggers.batch_job import BatchJobTrigger

        self.defer(
            trigger=BatchJobTrigger(
                job_name,
                self.gemini_batch_conn_id,
                self._interval,
                plan["deadline"],
                cancel_on_kill=self.cancel_on_kill,
                **self._limits(plan),
            ),
            method_name="execute_complete",
            kwargs={"plan": plan},
            # The trigger's own deadline comes first, so that the timeout is ours to explain.
            timeout=timedelta(seconds=max(60.0, plan["deadline"] - time.time() + 300)),
        )

    def execute_complete(self, context: Any, event: dict[str, Any], plan: dict[str, Any] | None = None) -> str:
        """Go on after the wait in the triggerer."""
        from airflow_provider_gemini_batch.watch.event import read_event

        wait = read_event(event)
        if plan is None:
            plan = {"deadline": time.time() + DAY, "submit_deadline": 0.0, "resubmits": 0, "tries": 0, "exclude": [],
                    "waived": []}  # fmt: skip
        self._ti, self._job_name = context.get("ti"), wait.job_name
        with failing_at_once():
            if wait.outcome == "error":
                raise GeminiBatchError(f"{wait.job_name} could not be watched any longer: {wait.message}")
            return self._conclude(context, wait.outcome, wait.job_name, None, plan)

    def _conclude(
        self, context: Any, outcome: Outcome, job_name: str, job: BatchJob | None, plan: dict[str, Any]
    ) -> str:
        """Turn the end of a wait into the task's result, its failure, or another round."""
        from airflow_provider_gemini_batch.lifecycle.verdict import check_ended, not_ended
        from airflow_provider_gemini_batch.lifecycle.waiting import Outcome

        # The job may have ended since; and a list, from which the triggerer may have it, has old counts.
        try:
            job = self.hook.get_batch(job_name)
        except GeminiBatchError as error:
            if not error.is_transient:
                raise
            self.log.warning("%s could not be looked at. %s", job_name, error)
            if time.time() < plan["deadline"]:
                return self._wait(context, job_name, plan)  # trouble that passes ends no wait
        if job is not None and job.is_done:
            warning = check_ended(job, self.max_failed_rows, self.hook.why_rows_failed)
            if warning:
                self.log.warning("%s", warning)
            return job_name
        waited = time.time() - (plan["deadline"] - (seconds(self.timeout, "timeout") or DEFAULT_TIMEOUT))
        if outcome is Outcome.ENDED:
            return self._wait(context, job_name, plan)  # a list said so, the job itself does not
        if outcome is Outcome.TIMEOUT:
            timeout = not_ended(outcome, job_name, job, waited)
            if self.on_timeout == "cancel":
                try:
                    self.hook.cancel_batch(job_name)
                except GeminiBatchError as error:
                    self.log.error("%s could not be cancelled, and may bill: %s", job_name, error)
            raise timeout
        name = outcome.value
        choice = getattr(self, f"on_{name}")
        if choice == "wait":
            self.log.warning("%s exceeded %s; waiting goes on.", job_name, name)
            return self._wait(context, job_name, {**plan, "waived": [*plan["waived"], name]})
        if choice == "resubmit" and plan["resubmits"] < self.max_resubmits:
            self.log.warning("%s exceeded %s: it is cancelled and submitted again.", job_name, name)
            self.hook.cancel_batch(job_name)
            again = {**plan, "resubmits": plan["resubmits"] + 1, "exclude": [*plan["exclude"], job_name]}
            return self._submit_and_wait(context, again)
        if choice == "resubmit" or self.on_timeout == "cancel":
            self.hook.cancel_batch(job_name)
        raise not_ended(outcome, job_name, job, waited)

    # --- killed -------------------------------------------------------------------------------------------------------

    def on_kill(self) -> None:
        """
        Cancel the job if somebody marked the task; a cleared or retried task finds its job again.

        Runs in the middle of whatever the task was doing, which then goes on: a submission under way is told to stop,
        before its create call or with its job cancelled right after it.
        """
        from airflow_provider_gemini_batch.task.context import if_final

        if not self.cancel_on_kill or self._ti is None:
            self.log.info("%s goes on.", self._job_name or "The submission")
            return
        if_final(self._ti, self._abandon)

    def _abandon(self, state: str) -> None:
        self._unwanted = state
        if self._job_name is not None:
            self.hook.cancel_batch(self._job_name)
            self.log.info("The task was marked %s: %s is cancelled.", state, self._job_name)

    def _stop_if_unwanted(self) -> None:
        """Leave a submission that nobody wants any more; called before each create and after a job is known."""
        if self._unwanted is None:
            return
        if self._job_name is None:
            raise GeminiBatchError(f"The task was marked {self._unwanted} before a job was submitted; none was.")
        self.hook.cancel_batch(self._job_name)
        raise GeminiBatchError(
            f"The task was marked {self._unwanted} while it submitted; {self._job_name} is cancelled."
        )
