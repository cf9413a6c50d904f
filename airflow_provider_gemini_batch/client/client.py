# SPDX-License-Identifier: Apache-2.0
"""The client: batch jobs and files of the Gemini API as plain Python calls, on either backend."""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api import flows
from airflow_provider_gemini_batch.api.models import BatchJob
from airflow_provider_gemini_batch.client.check import check_connection
from airflow_provider_gemini_batch.client.results import ResultReader
from airflow_provider_gemini_batch.client.submitting import SubmittingSession
from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError
from airflow_provider_gemini_batch.files.atomic import AtomicFile
from airflow_provider_gemini_batch.files.input_file import as_it_is
from airflow_provider_gemini_batch.files.paths import base_name, normalise_path
from airflow_provider_gemini_batch.lifecycle.request import JobRequest
from airflow_provider_gemini_batch.lifecycle.upload import MIME_TYPE, place_file
from airflow_provider_gemini_batch.lifecycle.verdict import check_ended, check_max_failed_rows, not_ended
from airflow_provider_gemini_batch.lifecycle.waiting import Outcome, ProgressReport, WaitLimits, Watch, wait_for_end
from airflow_provider_gemini_batch.times import seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta
    from os import PathLike
    from typing import Self, Unpack

    from airflow_provider_gemini_batch.api.models import BatchResult, JobPage, RemoteFile
    from airflow_provider_gemini_batch.client.session import Log
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
    from airflow_provider_gemini_batch.lifecycle.request import EmbedArguments, GenerateArguments
    from airflow_provider_gemini_batch.lifecycle.verdict import RowSample
    from airflow_provider_gemini_batch.rows.line_batches import Lines

_LOG = logging.getLogger(__name__)


class GeminiBatchClient(SubmittingSession):
    """
    Batch jobs and files of the Gemini API, on the Developer API or on Vertex AI as the connection says.

    Calls that are safe to repeat are tried up to ``max_retries`` times, while faults pass. Starting a job is not such a
    call: a lost answer is settled by looking for the job under its name.

    :param settings: From :func:`~airflow_provider_gemini_batch.connection.reading.settings_from_connection`.
    :param log: Where progress and warnings go.
    """

    def __init__(self, settings: ConnectionSettings, *, log: Log = _LOG) -> None:
        super().__init__(settings, log=log)
        self._results = ResultReader(self, log)

    @classmethod
    def connect(cls, api_key: str | None = None, *, base_url: str | None = None, **fields: Any) -> Self:
        """
        Return a client for the fields of a connection, as a notebook has them.

        :param api_key: Of the Gemini Developer API; None for Vertex AI, which needs ``project=``.
        :param base_url: Of the service; None is Google's.
        :param fields: The fields that a connection keeps in its extra, e.g. ``location``, ``storage_uri``, ``timeout``.
        :raises ConfigurationError: Naming every bad field.
        """
        return cls(settings_from_connection(password=api_key, host=base_url, extra=fields))

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def create_batch(self, model: str, **arguments: Unpack[GenerateArguments]) -> BatchJob:
        """
        Start a job that generates an answer to each row. Every call starts (and bills) a new one.

        :param model: E.g. ``gemini-3.5-flash-lite``.
        :param arguments: :class:`~airflow_provider_gemini_batch.lifecycle.request.GenerateArguments`.
        :raises ConfigurationError: Before anything is submitted, for what cannot work.
        :raises SubmitError: If it could not be settled whether a job exists.
        """
        return self._create(JobRequest("generate", model, **arguments))

    def create_embeddings_batch(self, model: str, **arguments: Unpack[EmbedArguments]) -> BatchJob:
        """
        Start a job that embeds each row. Every call starts (and bills) a new one; see :meth:`create_batch`.

        :param arguments: :class:`~airflow_provider_gemini_batch.lifecycle.request.EmbedArguments`.
        """
        return self._create(JobRequest("embed", model, **arguments))

    def _create(self, request: JobRequest) -> BatchJob:
        # A name of its own for each call, so that a lost answer can be settled and no other job is ever adopted.
        # The minute before covers a clock that is ahead of the service's.
        return self.submit(request, task=uuid.uuid4().hex[:16], since=time.time() - 60).job

    def get_batch(self, job_name: str) -> BatchJob:
        """Look at a job."""
        return self.run(flows.get_job(self.backend, job_name, self.retry))

    def list_batches(self, page_size: int = 100, page_token: str | None = None, filter: str | None = None) -> JobPage:
        """
        Read one page of jobs, newest first.

        :param filter: Vertex AI's list filter, e.g. ``state="JOB_STATE_SUCCEEDED"``. The Developer API has none; its
            pages are filtered here, and one may be empty and still have a next one.
        """
        reading = flows.list_page(self.backend, self.retry, page_size=page_size, page_token=page_token, filter=filter)
        return self.run(reading)

    def list_all_batches(self, filter: str | None = None) -> Iterator[BatchJob]:
        """Yield all jobs, newest first, reading pages as they are needed."""
        pages = flows.Pages()
        for token in pages:
            page = self.list_batches(page_token=token, filter=filter)
            yield from page.jobs
            pages.turn(page)

    def wait_for_batch(
        self,
        job_name: str,
        poll_interval: float | timedelta | None = 30,
        timeout: float | timedelta = 3600,
        on_progress: Callable[[BatchJob], None] | None = None,
        *,
        max_failed_rows: float | None = 0.1,
    ) -> BatchJob:
        """
        Wait until a job has ended, holding this process.

        :param poll_interval: Seconds or timedelta between polls; None for an interval that grows with the job's age.
        :param timeout: Seconds or timedelta in all.
        :param on_progress: Called with the job after every poll.
        :param max_failed_rows: Count (int) or share (float below 1) of rows without an answer that is still fine; None
            warns, and fails only if no row has one.
        :return: The job, ended well.
        :raises JobError: The subclass says how it ended; ``JobTimeoutError`` if it has not.
        """
        interval, limit = seconds(poll_interval, "poll_interval"), seconds(timeout, "timeout")
        if limit is None:
            raise ConfigurationError("timeout must be seconds or a timedelta, not None: no wait is endless.")
        check_max_failed_rows(max_failed_rows)
        started = time.time()
        report = ProgressReport(self._log.info, started)

        def look(job: BatchJob, now: float) -> None:
            report.see(job, now)
            if on_progress is not None:
                on_progress(job)

        watch = Watch(WaitLimits(started + limit), started, look, report.fault)
        outcome = self.run(wait_for_end(self.backend, job_name, watch, time.time, poll_interval=interval))
        if outcome is not Outcome.ENDED or watch.job is None:
            raise not_ended(outcome, job_name, watch.job, time.time() - started)
        warning = check_ended(watch.job, max_failed_rows, self.sample_rows)
        if warning:
            self._log.warning("%s", warning)
        return watch.job

    def cancel_batch(self, job_name: str) -> None:
        """Ask for a job to be cancelled; a job already gone or ended is fine."""
        self.run(flows.cancel_job(self.backend, job_name, self.retry))

    def delete_batch(self, job_name: str) -> None:
        """Delete a job with its results; one already gone is fine. A running job should be cancelled first."""
        self.run(flows.delete_job(self.backend, job_name, self.retry))

    # --- answers ------------------------------------------------------------------------------------------------------

    def get_responses(self, job_or_name: BatchJob | str) -> Iterator[BatchResult]:
        """
        Yield a job's answers one by one, wherever they lie, in the order the service keeps them (any order).

        :raises JobError: If the job left no answers.
        :raises ResultsIncompleteError: After the last one, if there are fewer than the job counts.
        """
        yield from self._results.responses(self._ended(job_or_name), whole=True)

    def sample_rows(self, job: BatchJob) -> RowSample:
        """Read the first answers of a job, to say why rows failed and how many were cut off."""
        return self._results.sample_rows(job)

    def result_lines(self, job_or_name: BatchJob | str) -> Iterator[bytes | dict[str, Any]]:
        """Yield a job's raw result lines, streamed in constant memory."""
        yield from self._results.lines(self._ended(job_or_name))

    def result_blocks(self, job_or_name: BatchJob | str) -> Iterator[Lines | bytes | dict[str, Any]]:
        """Yield a job's raw results as they arrive: several lines with their newlines, or one result."""
        yield from self._results.blocks(self._ended(job_or_name))

    def _ended(self, job_or_name: BatchJob | str) -> BatchJob:
        job = job_or_name if isinstance(job_or_name, BatchJob) else self.get_batch(job_or_name)
        # A job as it was submitted knows nothing of its end.
        return self.get_batch(job.name) if job.is_running else job

    # --- files --------------------------------------------------------------------------------------------------------

    def upload_file(
        self, path: str | PathLike[str], *, display_name: str | None = None, mime_type: str | None = None
    ) -> RemoteFile:
        """
        Upload a file as it is; one with the same bytes that is already there is used.

        :param path: Local path or object-storage URI.
        :param mime_type: Default ``application/jsonl``.
        :return: ``.name`` is ``files/...``, or ``gs://...`` on Vertex AI.
        """
        path = normalise_path(path, "path")
        with as_it_is(path) as source:
            placing = place_file(
                self.backend,
                self.retry,
                source,
                display_name=display_name or base_name(path),
                mime_type=mime_type or MIME_TYPE,
            )
            return self.run(placing)[0]

    def get_file(self, file_name: str) -> RemoteFile:
        """Look at a file's metadata."""
        return self.run(flows.get_file(self.backend, file_name, self.retry))

    def delete_file(self, file_name: str) -> None:
        """Delete a file; one already gone is fine."""
        self.run(flows.delete_file(self.backend, file_name, self.retry))

    def download_file(self, file_name: str, destination: str | PathLike[str]) -> str:
        """
        Download a file in constant memory; *destination* appears only when it is complete.

        :param destination: Local path or object-storage URI.
        :return: *destination* as a string.
        """
        place = normalise_path(destination, "destination")
        with AtomicFile(place) as target:
            for piece in self.read_file(file_name):
                target.write(piece)
        return place

    def test_connection(self) -> tuple[bool, str]:
        """
        Try what a job needs (:mod:`.check`); never raises, never shows a secret.

        :return: Whether all of it holds, and what was found.
        """
        try:
            return check_connection(self.settings)
        except GeminiBatchError as error:
            return False, str(error)
        except Exception as error:  # a form must get an answer, whatever a library does
            return False, f"{type(error).__name__}: the connection could not be tried."
