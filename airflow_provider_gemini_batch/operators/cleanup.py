# SPDX-License-Identifier: Apache-2.0
"""Cancel jobs, and remove jobs and files."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.compat import conf
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    GeminiBatchError,
    NotFoundError,
    PermissionDeniedError,
)
from airflow_provider_gemini_batch.operators.base import GeminiBatchOperator
from airflow_provider_gemini_batch.operators.jobs import selected, states_from
from airflow_provider_gemini_batch.times import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook

CANCEL_WITHIN = 300.0
MISSING_PAUSES = (2.0, 8.0)
"""
Seconds between the looks at a job that is not found: taken for deleted, a young one would go on and bill.

Nothing tells how old it is. Most have really been deleted, by an earlier attempt, so that the looks end sooner than
where a job is known to be young.
"""

RETENTION = 7 * 24 * 3600.0
"""Seconds for which the checkpoint of a run that has ended stays, where nothing else is said."""


class CancelBatchOperator(GeminiBatchOperator):
    """
    Ask for a job to be cancelled; one that has ended or is gone is fine. Rows already done are billed.

    A job counts as gone once it has not been found for ten seconds.

    :param job_name: What a create operator returned.
    """

    template_fields: Sequence[str] = (*GeminiBatchOperator.template_fields, "job_name")

    def __init__(self, *, job_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job_name = job_name

    def run_task(self, context: Any) -> None:
        """Ask for the job to be cancelled."""
        self.show_job_name(context.get("ti"), self.job_name, self.hook.settings)
        if find_job(self.hook, self.job_name) is None:
            self.log.info("%s is already gone.", self.job_name)
            return
        self.hook.cancel_batch(self.job_name)


class DeleteBatchOperator(GeminiBatchOperator):
    """
    Delete a job, on the Developer API with its results; one already gone, i.e. not found for ten seconds, is fine.

    On Vertex AI the results stay in Cloud Storage or BigQuery.

    :param job_name: What a create operator returned.
    :param cancel_running: Cancel a job that has not ended, and wait for its end, before deleting it; else such a job is
        an error, as deleting alone may leave it running.
    """

    template_fields: Sequence[str] = (*GeminiBatchOperator.template_fields, "job_name")

    def __init__(self, *, job_name: str, cancel_running: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job_name = job_name
        self.cancel_running = cancel_running

    def run_task(self, context: Any) -> None:
        """Delete the job, if it has ended or *cancel_running* allows it."""
        hook = self.hook
        job = find_job(hook, self.job_name)
        if job is None:
            self.log.info("%s is already gone.", self.job_name)
            return
        # Google's pages disagree on whether deleting a job stops it (https://ai.google.dev/gemini-api/docs/batch-api
        # says so, the reference does not), so that it is cancelled first and its end is awaited.
        if job.is_running and not self.cancel_running:
            raise ConfigurationError(f"{job.name} is {job.state.value}. Cancel it first, or set cancel_running.")
        remove_job(hook, job)
        self.log.info("Deleted %s.", job.name)


class DeleteFileOperator(GeminiBatchOperator):
    """
    Delete a file at Google; one already gone is fine.

    A file that a job which has not ended reads is left: tasks with the same rows share it, also in different runs.

    :param file_name: ``files/...``, or ``gs://...`` on Vertex AI.
    """

    template_fields: Sequence[str] = (*GeminiBatchOperator.template_fields, "file_name")

    def __init__(self, *, file_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.file_name = file_name

    def run_task(self, context: Any) -> None:
        """Delete the file, if no job reads it."""
        from airflow_provider_gemini_batch.api.flows import find_reader

        hook = self.hook
        name = str(self.file_name or "").strip()
        try:
            # Files are shared: a task with the same rows finds one by its digest. To take it away from under a job
            # would fail that job, which is paid for.
            reader = hook.run(find_reader(hook.client.backend, name, hook.retry)) if name else None
        except PermissionDeniedError as error:
            # An account for storage alone may delete files, and see no jobs.
            self.log.warning("Whether a job reads %s is not known. %s", name, error)
            reader = None
        if reader is not None:
            self.log.warning("%s stays: %s (%s) may still read it.", name, reader.name, reader.state.value)
            return
        hook.delete_file(name)
        self.log.info("%s is gone.", name)


class CleanUpBatchesOperator(GeminiBatchOperator):
    """
    Remove old jobs, and on request their input files; returns what was (or would be) removed.

    :param older_than: Only jobs created longer ago than this, in seconds or as timedelta; None for any age.
    :param states: Only jobs in these states (a list, or names with commas); default the end states. Others are
        cancelled first.
    :param display_name_prefix: Only jobs whose display name begins so.
    :param delete_files: Remove each job's uploaded input as well, unless a job that stays still reads it. On Vertex AI
        only what lies below the connection's ``storage_uri`` is removed.
    :param checkpoints: Remove the checkpoints of runs that ended longer ago than *older_than*, or than seven days.
    :param checkpoint_path: Where they are; default ``[gemini_batch] checkpoint_path``.
    :param dry_run: Remove nothing, only say what would be.
    """

    template_fields: Sequence[str] = (
        *GeminiBatchOperator.template_fields,
        "older_than",
        "states",
        "display_name_prefix",
        "checkpoint_path",
    )

    def __init__(
        self,
        *,
        older_than: float | timedelta | None = None,
        states: Sequence[str] | None = None,
        display_name_prefix: str | None = None,
        delete_files: bool = False,
        checkpoints: bool = False,
        checkpoint_path: str | None = None,
        dry_run: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.checkpoints = checkpoints
        self.checkpoint_path = checkpoint_path
        self.older_than = older_than
        self.states = states
        self.display_name_prefix = display_name_prefix
        self.delete_files = delete_files
        # BaseOperator has a method of the name dry_run.
        self.only_say = dry_run

    def run_task(self, context: Any) -> list[dict[str, Any]]:
        """Remove what is old enough; return what was, or would be."""
        from airflow_provider_gemini_batch.api.states import TERMINAL
        from airflow_provider_gemini_batch.files.folder import Folder
        from airflow_provider_gemini_batch.run.checkpoint import sweep_all
        from airflow_provider_gemini_batch.times import epoch

        flags = {"delete_files": self.delete_files, "dry_run": self.only_say, "checkpoints": self.checkpoints}
        for name, value in flags.items():
            if not isinstance(value, bool):
                raise ConfigurationError(f"{name} must be True or False, not {value!r}.")  # "False" would be true
        age = seconds(_number(self.older_than), "older_than")
        states = states_from(self.states)
        if states is None:
            states = TERMINAL
        if self.display_name_prefix == "":
            raise ConfigurationError("display_name_prefix is empty: every name begins so. To mean that, leave it out.")
        root = self._checkpoint_root() if self.checkpoints else None
        hook = self.hook
        now = time.time()
        # The list is read to its end first: removing while paging could skip jobs.
        everything = list(hook.list_all_batches())
        jobs = [
            job
            for job in selected(everything, states, self.display_name_prefix)
            if age is None or ((created := epoch(job.create_time)) is not None and (job.read_at or now) - created > age)
        ]
        # Jobs of the same rows share one file.
        going = {job.name for job in jobs}
        needed = {job.needs for job in everything if job.name not in going}
        what = "Would remove" if self.only_say else "Removed"
        removed: list[dict[str, Any]] = []
        failures: list[str] = []
        for job in jobs:
            file = self._own_file(hook, job) if self.delete_files and job.input_place not in needed else None
            entry = {"name": job.name, "display_name": job.display_name, "state": job.state.value, "file": file}
            if not self.only_say:
                try:
                    remove_job(hook, job)
                except GeminiBatchError as error:
                    failures.append(f"{job.name}: {error}")
                    continue
            removed.append(entry)
            self.log.info("%s %s (%s, %s)", what, job.name, job.state.value, job.display_name)
        if self.delete_files and not self.only_say:
            failures += self._delete_files(hook, removed)
        self.log.info("%s %d of %d jobs.", what, len(removed), len(everything))
        if root is not None:
            for place in sweep_all(Folder(root), now - (RETENTION if age is None else age), dry_run=self.only_say):
                removed.append({"checkpoint": place})
                self.log.info("%s the checkpoint %s.", what, place)
        if failures:
            raise GeminiBatchError(
                f"{len(removed)} jobs were removed, {len(failures)} jobs or files could not be: "
                + "; ".join(failures[:5])
            )
        return removed

    def _checkpoint_root(self) -> str:
        place = self.checkpoint_path or conf.get("gemini_batch", "checkpoint_path", fallback="")
        if not place:
            raise ConfigurationError(
                "checkpoints=True needs checkpoint_path, or [gemini_batch] checkpoint_path: without both, runs keep "
                "their checkpoints in _gemini_batch beside each output."
            )
        return str(place)

    def _delete_files(self, hook: GeminiBatchHook, removed: list[dict[str, Any]]) -> list[str]:
        """Delete the files of what was removed, but for those that a job still reads; return what failed."""
        failures = []
        # Listed anew: a job could not be removed, or another one took the same file meanwhile.
        needed = {job.needs for job in hook.list_all_batches()} if any(each["file"] for each in removed) else set()
        for entry in removed:
            if entry["file"] in needed:
                entry["file"] = None
            if entry["file"] is not None:
                try:
                    hook.delete_file(entry["file"])
                except GeminiBatchError as error:
                    failures.append(f"{entry['file']}: {error}")
        return failures

    def _own_file(self, hook: GeminiBatchHook, job: BatchJob) -> str | None:
        place = job.input_place
        if place is None or place.startswith("files/"):
            return place
        home = hook.settings.storage_uri
        return place if home and place.startswith(home + "/") else None


def _number(value: Any) -> Any:
    """Read a number that a template has made text of."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def find_job(hook: GeminiBatchHook, job_name: str) -> BatchJob | None:
    """Return a job, or None once it has not been found for ten seconds: a read may miss one that was just created."""
    for pause in MISSING_PAUSES:
        with contextlib.suppress(NotFoundError):
            return hook.get_batch(job_name)
        time.sleep(pause)
    try:
        return hook.get_batch(job_name)
    except NotFoundError:
        return None


def remove_job(hook: GeminiBatchHook, job: BatchJob) -> None:
    """Delete a job, after cancelling it and seeing it end if it is still running."""
    if job.is_running:
        from airflow_provider_gemini_batch.lifecycle.waiting import WaitLimits, Watch, wait_for_end

        hook.cancel_batch(job.name)
        started = time.time()
        watch = Watch(WaitLimits(started + CANCEL_WITHIN), started)
        try:
            hook.run(wait_for_end(hook.client.backend, job.name, watch, time.time, poll_interval=2.0))
        except NotFoundError:
            return
        if watch.job is None or watch.job.is_running:
            raise GeminiBatchError(f"{job.name} was cancelled but has not ended; delete it later.")
    hook.delete_batch(job.name)
