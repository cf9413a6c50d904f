# SPDX-License-Identifier: Apache-2.0
"""What does a task do with a run? A thin class around :class:`~airflow_provider_gemini_batch.run.driver.Run`."""

# An attempt enters by `run_task`, and by `resume` after each wait in the triggerer. Both come to `_go_on`, which builds
# the world around the run anew (`_context`) and lets it proceed: what the run knows is in its checkpoint, not here.

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.compat import AirflowFailException, AirflowSkipException, AirflowTaskTimeout
from airflow_provider_gemini_batch.errors import EmptyInputError, GeminiBatchError
from airflow_provider_gemini_batch.links import InputLink, place_url
from airflow_provider_gemini_batch.operators.base import MANIFEST_KEY, fail_without_retry
from airflow_provider_gemini_batch.operators.run_arguments import RunArguments
from airflow_provider_gemini_batch.task.kill import TaskEnd, is_looped
from airflow_provider_gemini_batch.task.xcom_keys import ESTIMATE_KEY, PROGRESS_KEY
from airflow_provider_gemini_batch.times import seconds

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.identity import TaskIdentity
    from airflow_provider_gemini_batch.cost.estimate import Estimate
    from airflow_provider_gemini_batch.cost.prices import PriceList
    from airflow_provider_gemini_batch.files.folder import Folder
    from airflow_provider_gemini_batch.run.context import RunContext
    from airflow_provider_gemini_batch.run.driver import Run, Waiting

log = logging.getLogger(__name__)


class RunFailed(GeminiBatchError, AirflowFailException):
    """A run's own outcome is a failure: its outputs are published, and a retry would not change it."""


class RunOperator(RunArguments):
    """
    Base of the run operators: runs, deferring while jobs run if asked to.

    :class:`~airflow_provider_gemini_batch.operators.run_arguments.RunArguments` explains the arguments.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._run: Run | None = None
        self._ti: Any = None
        self._task_context: Any = {}
        self._unwatched: tuple[frozenset[str], str] = frozenset(), ""
        self._end = TaskEnd()

    def _context(self, context: Any, left: Mapping[str, Any] | None, prices: PriceList) -> RunContext:
        """
        Return what the run needs of this Airflow.

        :param left: What this attempt carried over a wait; None if it begins.
        """
        from airflow_provider_gemini_batch.api.identity import TaskIdentity
        from airflow_provider_gemini_batch.cost.estimate import RunPrices
        from airflow_provider_gemini_batch.files.folder import Folder
        from airflow_provider_gemini_batch.run.checkpoint import Left, folder_of, half_in_use
        from airflow_provider_gemini_batch.run.context import JobLimits, RunContext
        from airflow_provider_gemini_batch.task.identity import submit_policy, task_identity
        from airflow_provider_gemini_batch.task.prices import counts_tokens
        from airflow_provider_gemini_batch.task.sql import sql_target, table_source
        from airflow_provider_gemini_batch.task.store import CheckpointStore
        from airflow_provider_gemini_batch.task.variables import occasion_of, template_variables

        found = task_identity(context, self.submission_salt)
        dag_id = str(getattr(self._ti, "dag_id", "") or getattr(self, "dag_id", "") or "_")
        # Where a store knows no conditional writes, two workers agree by candidates in a list, and wait as long for it
        # as a submission waits before its last look (`settle_seconds`).
        root, settle = self._checkpoint_root(), submit_policy().reconcile[-1]

        def folder_for(half: str) -> Folder:
            return Folder(folder_of(root, dag_id, self.task_id, half), settle=settle)

        # Only what had an attempt before the change can have begun under a former identity.
        halves = found.all_tasks if found.may_have_rivals or left is not None else (found.task,)
        task = half_in_use(halves, folder_for)
        if task != found.task:
            log.warning("This run began under a former identity (%s) and goes on with that.", task)
        reuse = {}
        if self.output_table and self.output_conn_id:
            reuse["output_table"] = table_source(self.output_conn_id, self.output_table)
        folder, occasion = folder_for(task), occasion_of(context)
        # Not the checkpoint itself, but where it is and who wrote it: for a worker that does not see the folder.
        store = CheckpointStore(context.get("task_state_store"), folder.place, occasion)
        return RunContext(
            self.hook.client,
            folder,
            TaskIdentity(task, found.since, found.may_have_rivals),
            self._source,
            variables=template_variables(context),
            occasion=occasion,
            siblings=self._siblings(found, folder_for(found.task).parent()),
            may_be_reordered=found.may_be_reordered,
            run_claim=f"{dag_id}\n{getattr(self._ti, 'run_id', '')}",
            prices=RunPrices(prices),
            submit_policy=submit_policy(),
            sql=sql_target(self.output_conn_id) if self.output_conn_id else None,
            reuse_tables=reuse,
            limits=JobLimits(
                seconds(self.timeout, "timeout"),
                seconds(self.pending_timeout, "pending_timeout"),
                seconds(self.running_timeout, "running_timeout"),
            ),
            stop=self._stop_if_unwanted,
            left=store.recall() if left is None else Left.read(left),
            on_checkpoint=store.note,
            on_estimate=self._push_estimate,
            counts_tokens=counts_tokens(),
            host=getattr(self._ti, "hostname", None) or socket.gethostname(),
        )

    @staticmethod
    def _siblings(found: TaskIdentity, task_folder: Folder) -> list[Folder]:
        """Return the folders of a mapped task's other indexes, if its list may have changed since they were made."""
        if not found.may_be_reordered:
            return []
        return [task_folder.below(name) for name in sorted(found.indexes.intersection(task_folder.folders()))]

    # --- the steps ----------------------------------------------------------------------------------------------------

    def run_task(self, context: Any) -> dict[str, Any]:
        """Run, deferring while jobs run if asked to, and return the manifest."""
        from airflow_provider_gemini_batch.run.tables import require_extra

        require_extra()
        return self._go_on(context, self._deadline(), None)

    def _ends_at(self, deadline: float, carried: Mapping[str, Any] | None) -> tuple[float, float | None]:
        """
        Return the UTC epoch seconds of the run's deadline, and of the attempt's if ``execution_timeout`` sets one.

        :param carried: What this attempt carried over a wait; None if it begins.
        """
        from airflow_provider_gemini_batch.lifecycle.attempt import execution_deadline
        from airflow_provider_gemini_batch.triggers.deferral import execution_timeout_of

        # `execution_timeout` is one for the whole attempt, waits included: its end is carried, as Airflow versions
        # differ in what they count after a deferral.
        kept = (carried or {}).get("execution_deadline")
        if isinstance(kept, (int, float)):
            return deadline, float(kept)
        return deadline, execution_deadline(time.time(), execution_timeout_of(self))

    def resume(
        self, context: Any, event: Any = None, state: Mapping[str, Any] | None = None, **others: Any
    ) -> dict[str, Any]:
        """
        Go on after a wait.

        What the deferral carries (``airflow dags test`` drops it) only makes sure of the generation and of the run's
        deadline: all else is in the checkpoint. So what another version wrote, and cannot be read, counts as absent.

        :param others: What a newer version carries.
        """
        # Read with suspicion: another version of the provider may have written it, and a person can edit what Airflow
        # stores.
        carried = state if isinstance(state, Mapping) else {}
        generation, deadline = carried.get("generation"), carried.get("deadline")
        is_number = isinstance(generation, int) and not isinstance(generation, bool)
        known = {**carried, "generation": generation if is_number else None}
        told = event if isinstance(event, Mapping) else {}
        twins, names = told.get("twins"), told.get("unwatched")
        if isinstance(names, list):
            self._unwatched = frozenset(map(str, names)), str(told.get("message") or "")
        with fail_without_retry():
            is_moment = (
                isinstance(deadline, (int, float)) and not isinstance(deadline, bool) and math.isfinite(deadline)
            )
            until = float(deadline) if is_moment and deadline else self._deadline()
            return self._go_on(context, until, known, twins if isinstance(twins, Mapping) else {})

    def _go_on(
        self,
        context: Any,
        deadline: float,
        carried: Mapping[str, Any] | None,
        twins: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, Any]:
        from airflow_provider_gemini_batch.run.arguments import rows_digest
        from airflow_provider_gemini_batch.run.driver import Run
        from airflow_provider_gemini_batch.run.dry_run import plan_of
        from airflow_provider_gemini_batch.run.finish import RunFailedError
        from airflow_provider_gemini_batch.run.waiting import run_to_end
        from airflow_provider_gemini_batch.task.caps import warn_of_change
        from airflow_provider_gemini_batch.task.prices import price_list

        self._ti = context.get("ti") or context.get("task_instance")
        self._task_context = context
        self.show_page(self._ti)
        self.show_links(self._ti, {InputLink: place_url(str(self.input_path or ""))})
        spec = self.spec()
        if getattr(self._ti, "map_index", -1) >= 0:
            # A mapped index is known by its number. Only its rows tell whether it still stands for the same ones after
            # a clear.
            spec = replace(spec, rows_digest=rows_digest(self.rows))
        prices = price_list()
        # Once an attempt, not at each resume.
        if carried is None:
            warn_of_change(prices, spec.model, log)
        world = self._context(context, carried, prices)
        deadline, attempt_ends = self._ends_at(deadline, carried)
        try:
            if self.plan_only:  # before there is a run, which cancels the jobs of one that asked otherwise
                plan = plan_of(spec, world)
                self._push(plan)
                refused = f" The run would be refused: {plan['refused']}" if plan["refused"] else ""
                raise AirflowSkipException(f"dry_run: nothing was submitted; the plan is in XCom.{refused}")
            run = self._run = Run(spec, world, (carried or {}).get("generation"))
            run.twins.take(twins)
            interval = seconds(self.poll_interval, "poll_interval")
            manifest = run_to_end(
                run,
                deadline=deadline,
                execution_deadline=attempt_ends,
                poll_interval=interval,
                on_wait=lambda run, waiting: self._wait(run, waiting, deadline, attempt_ends),
            )
        except AirflowTaskTimeout:
            log.warning("execution_timeout is over. The jobs of the run go on; a retry or a clear finds them.")
            raise
        except EmptyInputError as error:
            if self.on_empty_input == "skip":
                raise AirflowSkipException(str(error)) from None
            raise
        except RunFailedError as error:
            self._push_progress(run)
            self._push(error.manifest)
            raise RunFailed(str(error)) from None
        self._push_progress(run)
        self._push(manifest)
        self._sweep(run)
        return manifest

    def _wait(self, run: Run, waiting: Waiting, deadline: float, attempt_ends: float | None) -> None:
        """Wait in the triggerer, or say what is waited for; the link leads to one of the jobs."""
        # A link leads to one job; the page lists all.
        for job_name in waiting.jobs[:1]:
            self.show_job_name(self._ti, job_name, self.hook.settings)
        self._tell(run, waiting)
        if self.deferrable:
            self._defer(run, waiting, deadline, attempt_ends)

    def _sweep(self, run: Run) -> None:
        """Remove checkpoints of this task's earlier runs; one that stays is a nuisance, not a failure."""
        from airflow_provider_gemini_batch.run.checkpoint import sweep

        retention = seconds(self.checkpoint_retention, "checkpoint_retention")
        if retention is None:
            return
        folder = run.checkpoint.root
        try:
            removed = sweep(folder.parent(), time.time() - retention, folder.name)
        except OSError as error:
            log.warning("Old checkpoints could not be removed: %s", error)
        else:
            log.debug("Removed %d old checkpoints.", len(removed))

    def _push(self, manifest: Mapping[str, Any]) -> None:
        from airflow_provider_gemini_batch.task.history import leave_in_history
        from airflow_provider_gemini_batch.task.landed import tell_landed

        if self._ti is not None:
            self._ti.xcom_push(key=MANIFEST_KEY, value=dict(manifest))
            if manifest.get("paid_twice_jobs"):
                self._ti.xcom_push(key="paid_twice", value=list(manifest["paid_twice_jobs"]))
            if manifest.get("output_path") or manifest.get("output_table"):
                self.show_landed(self._ti, manifest.get("output_path"))
                for job_name in (manifest.get("jobs") or [])[-1:]:
                    self.show_job_name(self._ti, job_name, self.hook.settings)
                outputs = [manifest.get("output_path"), manifest.get("errors_path")]
                tell_landed(self, self._task_context, manifest, inputs=[self.input_path], outputs=outputs)
            if not self.plan_only:  # a plan has spent nothing
                leave_in_history(self._task_context, manifest)

    def _push_estimate(self, found: Estimate) -> None:
        if self._ti is not None:
            self._ti.xcom_push(key=ESTIMATE_KEY, value=found.to_json())

    def _tell(self, run: Run, waiting: Waiting) -> None:
        from airflow_provider_gemini_batch.run.progress import rows_done

        done, total = rows_done(run)
        log.info("Jobs that run: %d. Rows that are done: %d of %d.", len(waiting.jobs), done, total)
        self._push_progress(run)

    def _push_progress(self, run: Run) -> None:
        """Leave for the page how far the run is; a failure costs the run nothing."""
        from airflow_provider_gemini_batch.run.progress import progress_of

        if self._ti is None:
            return
        try:
            self._ti.xcom_push(key=PROGRESS_KEY, value=progress_of(run))
        except Exception as error:  # the run goes on, whatever people can see of it
            log.warning("How far the run is could not be pushed: %s: %s", type(error).__name__, error)

    def _defer(self, run: Run, waiting: Waiting, deadline: float, attempt_ends: float | None) -> None:
        from airflow_provider_gemini_batch.lifecycle.attempt import LEAST_DEFERRAL, SLACK
        from airflow_provider_gemini_batch.triggers.batch_jobs import BatchJobsTrigger

        names, why = self._unwatched
        if not names.isdisjoint(waiting.jobs):  # a worker that can poll would be started again and again
            raise GeminiBatchError(
                f"Jobs of the run could not be watched any longer: {why} They run on; a retry or a clear goes on "
                "with them."
            )
        ends_at = deadline if attempt_ends is None else min(deadline, attempt_ends)
        left_to_wait = ends_at - time.time()
        if left_to_wait <= 0:
            return  # the loop says so
        until = ends_at if waiting.until is None else min(ends_at, waiting.until)
        trigger = BatchJobsTrigger(
            list(waiting.jobs),
            self.gemini_batch_conn_id,
            wake=waiting.wake,
            poll_interval=seconds(self.poll_interval, "poll_interval"),
            # The trigger knows no limits of single jobs: it wakes the task at the first of them, and the run cancels
            # that job.
            deadline=min(until, run.reader.next_limit(waiting.jobs)),
            cancel_on_kill=self.cancel_on_kill,
            in_loop=is_looped(self._ti),
            known=run.twins.beside(waiting.jobs),
        )
        left = run.left()
        state = {
            "deadline": deadline,
            "execution_deadline": attempt_ends,
            **(asdict(left) if left is not None else {}),
        }
        self.defer(
            trigger=trigger,
            method_name="resume",
            kwargs={"state": state},
            timeout=timedelta(seconds=max(LEAST_DEFERRAL, left_to_wait + SLACK)),
        )

    # --- killed -------------------------------------------------------------------------------------------------------

    def on_kill(self) -> None:
        """Cancel all jobs of the run if somebody marked the task; a cleared or retried task finds them again."""
        if self.cancel_on_kill and self._ti is not None and self._run is not None:
            self._end.cancel_if_marked(self._ti, self._run.live_jobs, self.hook.cancel_batch)
        self._end.end_wait()

    def _stop_if_unwanted(self) -> None:
        if self._end.unwanted is not None:
            if self._run is not None:
                self._run.cancel()
            raise GeminiBatchError(f"The task was marked {self._end.unwanted}; its jobs are cancelled.")
