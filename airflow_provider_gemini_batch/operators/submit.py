# SPDX-License-Identifier: Apache-2.0
"""
What the two create operators share: submit once, then wait if asked to.

The order matters. The submission's token is made before anything is sent; the job's name goes to XCom as soon as it
exists, before any wait; a deferred task hands over a name and never submits from the trigger.

What to do next is decided in :mod:`airflow_provider_gemini_batch.lifecycle.attempt`; :meth:`SubmitOperator._follow`
carries the steps out.
"""

# The way through the methods, of a task that waits in the triggerer and whose first create meets a quota:
#
#   method                what it does
#   --------------------  ---------------------------------------------------------------------------------------------
#   run_task              begins an attempt
#   _submit               finds no job and may create none: `next_step` answers `Pause`
#   _follow, _pause       the task leaves the worker until the pause is over
#   resume_submission     goes on with the attempt that was carried, and with the file that is uploaded already
#   _submit               creates the job, pushes its name; the step is `Wait`
#   _follow, _wait        the task leaves the worker until the trigger has an event
#   execute_complete      reads the job once more; the step is `Done`
#   _follow, _judged      pushes the manifest, fails the task over too many rows without an answer
#
# Without `deferrable` the same steps run on the worker: `_pause` sleeps, and `_wait` polls.

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_gemini_batch.compat import AirflowSkipException, AirflowTaskTimeout
from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError, NotFoundError, RateLimitedError
from airflow_provider_gemini_batch.operators.announcing import Announcing
from airflow_provider_gemini_batch.operators.base import fail_without_retry
from airflow_provider_gemini_batch.task.kill import TaskEnd, is_looped
from airflow_provider_gemini_batch.times import seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.cost.input_measure import InputMeasure
    from airflow_provider_gemini_batch.lifecycle.attempt import Attempt, AttemptPolicy, Fail, Pause, Resubmit, Step
    from airflow_provider_gemini_batch.lifecycle.submission import Submission
    from airflow_provider_gemini_batch.lifecycle.uploaded import UploadedInput
    from airflow_provider_gemini_batch.task.caps import Caps
    from airflow_provider_gemini_batch.task.store import SubmissionStore
    from airflow_provider_gemini_batch.triggers.deferral import TwinRules


class SubmitOperator(Announcing):
    """
    Base of the create operators: submits once, then waits if asked to.

    :class:`~airflow_provider_gemini_batch.operators.submit_arguments.SubmitArguments` explains the arguments.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._unheard_calls = 0
        self._in_doubt_since: float | None = None
        self._end = TaskEnd()

    # --- entered by Airflow -------------------------------------------------------------------------------------------

    def run_task(self, context: Any) -> str:
        """Submit, push the job's name, and wait if asked to."""
        policy = self._policy()
        if isinstance(self.inlined_requests, Iterator):
            self.inlined_requests = list(self.inlined_requests)  # a second try reads them again
        caps = self._caps()
        if self.plan_only:
            self._plan(context, caps)
        with self._ended_in_order():
            return self._follow(context, self._submit(context, policy.begin(time.time()), policy), policy)

    def _plan(self, context: Any, caps: Caps) -> NoReturn:
        """Say what the job would cost, and skip."""
        from airflow_provider_gemini_batch.task.caps import estimate_of, tell
        from airflow_provider_gemini_batch.task.prices import counts_tokens, price_list

        self._ti = context.get("ti") or context.get("task_instance")
        request, prices = self.request(), price_list()
        measure = self.hook.client.measure(request, counts_tokens=counts_tokens())
        found = estimate_of(prices, request.kind, self.model, measure, asked_for="dry_run")
        assert found is not None
        tell(found, prices, self.log, self._push)
        caps.check(found, ())
        raise AirflowSkipException("dry_run: no job was made; the estimate is in XCom.")

    def _may_create(
        self,
        caps: Caps,
        store: SubmissionStore,
        noted: Mapping[str, Any],
        measure: InputMeasure | None,
        jobs: Sequence[BatchJob],
        lost: int,
    ) -> None:
        """
        Say what a job may cost before it is created, and refuse one over a cap.

        :param noted: What earlier attempts noted.
        :param lost: Create calls of this attempt without an answer.
        """
        from airflow_provider_gemini_batch.task.caps import estimate_of, tell, unheard_lately
        from airflow_provider_gemini_batch.task.prices import price_list

        # Without a cap the estimate is a help for the log: rows that lie at Google simply have none.
        asked_for = "max_cost" if caps.max_cost is not None else "max_input_tokens" if caps.are_set else ""
        prices = price_list()
        found = estimate_of(prices, self.request().kind, self.model, measure, asked_for=asked_for)
        if found is not None:
            tell(found, prices, self.log, self._push)
            caps.check(found, jobs, lost + unheard_lately(noted, jobs, time.time()), self._token)
        # After the check and before the call: from now on a job that turns up and is not among these is what came of a
        # call.
        store.note_listed(job.name for job in jobs)

    def execute_complete(self, context: Any, event: Any = None, **carried: Any) -> str:
        """Go on after the wait in the triggerer."""
        from airflow_provider_gemini_batch.triggers.deferral import read_wait, step_after_wait

        self._ti = context.get("ti")
        with fail_without_retry(skip_empty_input=self.on_empty_input == "skip"), self._ended_in_order():
            policy = self._policy()
            attempt, outcome = read_wait(event, carried, policy)
            # First of all: a kill that comes now has to find the name.
            self._job_name = attempt.job_name
            self._paid_twice = list(attempt.paid_twice)
            self.show_page(self._ti)
            self.show_job_name(self._ti, attempt.job_name or "", self.hook.settings)
            step = step_after_wait(self.hook, attempt, outcome, policy, self.log, self._twin_rules)
            return self._follow(context, step, policy)

    def resume_submission(self, context: Any, event: Any = None, **carried: Any) -> str:
        """Go on after a wait for quota."""
        from airflow_provider_gemini_batch.triggers.deferral import read_carried

        with fail_without_retry(skip_empty_input=self.on_empty_input == "skip"), self._ended_in_order():
            policy = self._policy()
            self.show_page(context.get("ti"))
            attempt = read_carried(carried, policy)
            return self._follow(context, self._submit(context, attempt, policy), policy)

    # --- the steps ----------------------------------------------------------------------------------------------------

    def _follow(self, context: Any, step: Step, policy: AttemptPolicy) -> str:
        """Carry steps out until one of them ends the task, or leaves the worker."""
        from airflow_provider_gemini_batch.lifecycle.attempt import Done, Fail, Pause, Resubmit

        while True:
            if isinstance(step, Done):
                return self._judged(context, step.job)
            if isinstance(step, Fail):
                self._fail(step)
            elif isinstance(step, Pause):
                self._pause(step)
                step = self._submit(context, step.attempt, policy)
            elif isinstance(step, Resubmit):
                step = self._resubmit(context, step, policy)
            else:
                if step.why:
                    self.log.warning("%s", step.why)
                if not self.wait_for_completion:
                    return self._left(step.attempt)
                step = self._wait(step.attempt, policy)

    def _resubmit(self, context: Any, step: Resubmit, policy: AttemptPolicy) -> Step:
        """Cancel a stuck job, see what came of that, and submit anew."""
        from airflow_provider_gemini_batch.lifecycle.attempt import Attempt
        from airflow_provider_gemini_batch.lifecycle.stuck import cancel_stuck, follow_cancel

        client = self.hook.client
        remote_rows = self.request().remote_file
        kept = client.run(cancel_stuck(client.backend, step, remote_rows, client.retry, self.log))
        if kept is not None:
            return kept
        with self._end.waiting():
            found = client.run(follow_cancel(client.backend, step, policy, client.retry, time.time, self.log))
        return self._submit(context, found, policy) if isinstance(found, Attempt) else found

    def _submit(self, context: Any, attempt: Attempt, policy: AttemptPolicy) -> Step:
        """Find this task's job, or create it."""
        from dataclasses import replace

        from airflow_provider_gemini_batch.lifecycle.attempt import Wait, next_step
        from airflow_provider_gemini_batch.lifecycle.twins import LAST_LOOK_AGE

        # What the submission says on its way outlives the error that ends it.
        placed: list[UploadedInput] = [attempt.uploaded] if attempt.uploaded else []
        try:
            submission = self._submission(context, attempt, placed.append)
        except RateLimitedError as error:
            if placed:
                attempt = replace(attempt, uploaded=placed[-1])
            if self._unheard_calls:  # an earlier call without an answer may have made a job that is listed late
                attempt = replace(attempt, last_look_age=LAST_LOOK_AGE)
            return next_step(attempt, error, None, policy, time.time())
        self._announce(submission)
        self._in_doubt_since = submission.in_doubt_since
        attempt = replace(
            attempt,
            job_name=submission.job.name,
            settled=tuple(dict.fromkeys((*attempt.settled, *submission.settled))),
            paid_twice=submission.paid_twice or attempt.paid_twice,
            last_look_age=LAST_LOOK_AGE if submission.may_have_twin else attempt.last_look_age,
            owned=submission.owned,
            spares_others=submission.spares_others,
        )
        return Wait(attempt)

    @property
    def _twin_rules(self) -> TwinRules:
        from airflow_provider_gemini_batch.triggers.deferral import TwinRules

        return TwinRules(replace=self.on_existing_job == "replace", push=self._push_settled)

    def _submission(self, context: Any, attempt: Attempt, on_uploaded: Any) -> Submission:
        from airflow_provider_gemini_batch.task.identity import submit_policy, task_identity
        from airflow_provider_gemini_batch.task.prices import counts_tokens
        from airflow_provider_gemini_batch.task.store import SubmissionStore, intent_time

        self._ti = context.get("ti") or context.get("task_instance")
        store = SubmissionStore(context.get("task_state_store"), seen_by=self.hook.settings.seen_by)
        noted = store.recall()
        names = self._noted_names(store, noted, context)
        work = task_identity(context, self.submission_salt, noted)

        self._unheard_calls = 0

        def remember(what: str, value: str) -> None:
            store.note(what, value)
            # A call counts from right before it is made until it is clear that it made nothing; with an answer the name
            # is known, and nobody asks for the count any more.
            self._unheard_calls += {"intent": 1, "refused": -1}.get(what, 0)
            if what == "job":
                self._know_job(value)
            self._stop_if_unwanted()

        caps = self._caps()
        # What lies at Google is not measured, and an older version did not carry what had been.
        is_measured = attempt.uploaded is not None and attempt.uploaded.measure is not None
        return self.hook.submit(
            self.request(),
            task=work,
            known_names=names,
            on_existing_job=self.on_existing_job,
            may_have_rivals=bool(noted),
            intent_at=intent_time(noted, time.time()),
            exclude=frozenset(attempt.exclude),
            verdicts=noted.get("verdicts"),
            policy=submit_policy(),
            remember=remember,
            on_token=self._know_token,
            uploaded=None if caps.are_set and not is_measured else attempt.uploaded,
            on_uploaded=on_uploaded,
            may_create=partial(self._may_create, caps, store, noted),
            reads_earlier=caps.are_set,
            counts_tokens=counts_tokens(),
        )

    def _noted_names(self, store: SubmissionStore, noted: Mapping[str, Any], context: Any) -> list[str]:
        """
        Return the name of the job that an earlier attempt noted, to be looked for.

        One that another key made, and that ours does not see, may run and bill: a person has to say what is to be done.

        :raises ConfigurationError: Until the task is cleared after this was said.
        """
        from airflow_provider_gemini_batch.lifecycle.own_jobs import out_of_sight
        from airflow_provider_gemini_batch.task.variables import occasion_of

        # What a store holds may stem from another version, or from a person.
        name = noted.get("job")
        if not isinstance(name, str) or not store.is_anothers(noted):
            return [name] if isinstance(name, str) else []
        occasion = occasion_of(context)
        is_answered = noted.get("told") not in (None, occasion)
        try:
            self.hook.get_batch(name)
        except NotFoundError:
            if not is_answered:
                store.note_told(occasion)
                raise out_of_sight(name) from None
        except ConfigurationError:  # a name of the other backend, or project
            if not is_answered:
                store.note_told(occasion)
                return [name]  # the submission refuses it, and says why
        else:
            return [name]
        self.log.warning("%s, which an earlier attempt submitted, is out of this connection's sight.", name)
        return []

    def _wait(self, attempt: Attempt, policy: AttemptPolicy) -> Step:
        """Wait in the triggerer, or here."""
        from dataclasses import replace

        from airflow_provider_gemini_batch.lifecycle.waiting import ProgressReport, Watch, wait_for_end
        from airflow_provider_gemini_batch.triggers.deferral import defer_wait, step_after_wait

        interval = seconds(self.poll_interval, "poll_interval")
        if self.deferrable:
            defer_wait(
                self,
                attempt,
                policy,
                self._twin_rules,
                poll_interval=interval,
                cancel_on_kill=self.cancel_on_kill,
                in_loop=is_looped(self._ti),
            )
        # From here on without an event loop: the same rules (`Watch`, `step_after_wait`) as in the triggerer.
        started = time.time()
        report = ProgressReport(self.log.info, started)
        watch = Watch(policy.limits(attempt), started, report.see, report.fault)
        hook = self.hook
        with self._end.waiting():
            waiting = wait_for_end(
                hook.client.backend,
                attempt.job_name or "",
                watch,
                time.time,
                poll_interval=interval,
                twins=self._twin_rules.watch(attempt),
            )
            outcome = hook.run(waiting)
            attempt = replace(attempt, twins=watch.twins)
            return step_after_wait(hook, attempt, outcome, policy, self.log, self._twin_rules)

    def _left(self, attempt: Attempt) -> str:
        """
        Return the job's name; if it may have a twin, stay first until that would be listed: nobody else knows.

        Not beyond ``execution_timeout``, which would end the task for a job that is submitted.
        """
        from airflow_provider_gemini_batch.triggers.deferral import settle

        if attempt.last_look_age:
            with self._end.waiting():
                attempt = settle(self.hook, attempt, self.log, self._twin_rules, since=self._in_doubt_since)
        return str(attempt.job_name)

    def _pause(self, step: Pause) -> None:
        """Wait for quota, outside the worker where we may."""
        from airflow_provider_gemini_batch.triggers.deferral import defer_pause

        self.log.warning("%s", step.why)
        if self.deferrable:
            defer_pause(self, step)
        with self._end.waiting():
            time.sleep(max(0.0, step.until - time.time()))

    def _judged(self, context: Any, job: BatchJob) -> str:
        from airflow_provider_gemini_batch.lifecycle.verdict import check_ended

        self._announce_end(context, job)  # first: a task that fails for its rows has a manifest too
        warning = check_ended(job, self.max_failed_rows, self.hook.sample_rows, count_truncated=self.count_truncated)
        if warning:
            self.log.warning("%s", warning)
        return job.name

    def _fail(self, step: Fail) -> None:
        if step.cancel and self._job_name is not None:
            self._cancel_or_say(self._job_name)
        raise step.error

    def _cancel_or_say(self, job_name: str) -> None:
        try:
            self.hook.cancel_batch(job_name)
        except GeminiBatchError as error:
            self.log.error("%s could not be cancelled, and may bill: %s", job_name, error)

    # --- killed, or out of time ---------------------------------------------------------------------------------------

    def on_kill(self) -> None:
        """
        Cancel the job if somebody marked the task; a cleared or retried task finds its job again.

        Runs in the middle of whatever the task was doing. A wait ends; a submission under way goes on, and is told to
        stop: before its create call, or with its job cancelled right after it.
        """
        if self.cancel_on_kill and self._ti is not None:
            self._end.cancel_if_marked(self._ti, self._job_names, self.hook.cancel_batch)
        else:
            self.log.info("%s goes on.", self._job_name or "The submission")
        self._end.end_wait()

    def _job_names(self) -> list[str]:
        return [self._job_name] if self._job_name is not None else []

    def _stop_if_unwanted(self) -> None:
        """Leave a submission that nobody wants any more; called before each create and after a job is known."""
        if self._end.unwanted is None:
            return
        if self._job_name is None:
            raise GeminiBatchError(f"The task was marked {self._end.unwanted} before a job was submitted; none was.")
        self.hook.cancel_batch(self._job_name)
        raise GeminiBatchError(
            f"The task was marked {self._end.unwanted} while it submitted; {self._job_name} is cancelled."
        )

    @contextmanager
    def _ended_in_order(self) -> Iterator[None]:
        """Say what becomes of the job when Airflow ends the task, or its ``execution_timeout`` cuts it off."""
        try:
            with self._end.told(self._job_names):
                yield
        except AirflowTaskTimeout:
            if self._job_name is None:
                if self._unheard_calls:
                    self.log.error(
                        "execution_timeout is over while a create call has no answer: it may have made a job, which "
                        "bills. A retry finds it; without one, look for [airflow %s] among the jobs.",
                        self._token,
                    )
            elif self.on_timeout == "cancel":
                self._cancel_or_say(self._job_name)
            else:
                self.log.warning("execution_timeout is over; %s runs on, and a retry finds it.", self._job_name)
            raise
