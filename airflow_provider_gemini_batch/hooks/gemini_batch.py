# SPDX-License-Identifier: Apache-2.0
"""
The hook: an Airflow connection -> :class:`~airflow_provider_gemini_batch.client.client.GeminiBatchClient`.

The connection's fields are explained where they are read: :mod:`airflow_provider_gemini_batch.connection.reading`.
What the methods do is explained at those of the client, which have the same names.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.compat import AirflowNotFoundException, BaseHook, without_parsed_texts
from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta
    from os import PathLike
    from typing import Unpack

    from airflow_provider_gemini_batch.api.models import BatchJob, BatchResult, FilePage, JobPage, RemoteFile
    from airflow_provider_gemini_batch.api.retry import RetryPolicy
    from airflow_provider_gemini_batch.api.wire import Flow, T
    from airflow_provider_gemini_batch.client.client import GeminiBatchClient
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
    from airflow_provider_gemini_batch.lifecycle.request import EmbedArguments, GenerateArguments, JobRequest
    from airflow_provider_gemini_batch.lifecycle.submission import Submission
    from airflow_provider_gemini_batch.lifecycle.twins import Reconciled, TwinWatch
    from airflow_provider_gemini_batch.lifecycle.verdict import RowSample
    from airflow_provider_gemini_batch.rows.line_batches import Lines
    from airflow_provider_gemini_batch.transport.blocking import BlockingTransport


class GeminiBatchHook(BaseHook):
    """
    Batch jobs and files of the Gemini API, on the Developer API or on Vertex AI as the connection says.

    :param gemini_batch_conn_id: Connection of type ``gemini_batch`` or ``google_cloud_platform``.
    :param backend: ``gemini`` or ``vertex_ai``; None for the connection's own.
    """

    conn_name_attr = "gemini_batch_conn_id"
    default_conn_name = "gemini_batch_default"
    conn_type = "gemini_batch"
    hook_name = "Gemini Batch"

    def __init__(self, gemini_batch_conn_id: str = default_conn_name, *, backend: str | None = None) -> None:
        super().__init__()
        self.gemini_batch_conn_id = gemini_batch_conn_id
        self._backend = backend

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's own fields, for Airflow before 3.2."""
        from airflow_provider_gemini_batch.connection.form import connection_form_widgets

        return connection_form_widgets()

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return labels and hidden fields of the form, for Airflow before 3.2."""
        from airflow_provider_gemini_batch.connection.form import ui_field_behaviour

        return ui_field_behaviour()

    # --- the connection -----------------------------------------------------------------------------------------------

    @cached_property
    def client(self) -> GeminiBatchClient:
        """The client that does all the work; made when it is first needed, as it reads the connection."""
        from airflow_provider_gemini_batch.client import GeminiBatchClient
        from airflow_provider_gemini_batch.connection.reading import read_connection

        # No variable holds the connection, so that an error's frames do not reach its key.
        settings = read_connection(self._connection(), self._backend).checked()
        for note in settings.notes:
            self.log.warning("Connection %s: %s", settings.conn_id, note)
        return GeminiBatchClient(settings, log=self.log)

    def _connection(self) -> Any:
        problem, missing = f"Connection {self.gemini_batch_conn_id!r} cannot be parsed.", ""
        try:
            with without_parsed_texts():
                return self.get_connection(self.gemini_batch_conn_id)
        except AirflowNotFoundException as error:
            missing = str(error)  # raised anew: Airflow's frames reach a connection that it could not use
        except (ValueError, KeyError, TypeError):
            pass  # what a parser says holds what it stumbled over, a key perhaps
        if missing:
            raise AirflowNotFoundException(f"{missing} here, or it cannot be parsed.")
        raise ConfigurationError(
            f"{problem} Nothing of it is shown here, as it may hold a key. As a URI write gemini-batch://:KEY@/ "
            '(special characters as %XX), as JSON {"conn_type": "gemini_batch", "password": "KEY"}.'
        )

    @property
    def settings(self) -> ConnectionSettings:
        """The connection, checked."""
        return self.client.settings

    @property
    def backend(self) -> str:
        """``gemini`` or ``vertex_ai``."""
        return self.client.settings.backend

    @property
    def retry(self) -> RetryPolicy:
        """How often a call that is safe to repeat is tried."""
        return self.client.retry

    def get_conn(self) -> BlockingTransport:
        """Return the driver, for :meth:`run`-like use of the connection."""
        return self.client.transport

    def run(self, flow: Flow[T]) -> T:
        """Carry out a conversation of :mod:`airflow_provider_gemini_batch.api.flows` and return its value."""
        return self.client.run(flow)

    async def arun(self, flow: Flow[T]) -> T:
        """
        Carry out a conversation without blocking the event loop.

        The connection must have been looked up before (``hook.settings``), as a thread may not do it.
        """
        return await self.client.arun(flow)

    def test_connection(self) -> tuple[bool, str]:
        """Try the connection, and its storage place, with a cheap call; never raises, never shows a secret."""
        try:
            return self.client.test_connection()
        except GeminiBatchError as error:
            return False, str(error)
        except AirflowNotFoundException:  # also for one that Airflow cannot parse, of which it only logs
            return False, f"There is no connection {self.gemini_batch_conn_id!r} here, or it cannot be parsed."
        except Exception as error:  # a form must get an answer, whatever a library does
            return False, f"{type(error).__name__}: the connection could not be tried."

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def create_batch(self, model: str, **arguments: Unpack[GenerateArguments]) -> BatchJob:
        """
        Start a job that generates an answer to each row. Every call starts (and bills) a new one.

        :param arguments: :class:`~airflow_provider_gemini_batch.lifecycle.request.GenerateArguments`.
        """
        return self.client.create_batch(model, **arguments)

    def create_embeddings_batch(self, model: str, **arguments: Unpack[EmbedArguments]) -> BatchJob:
        """
        Start a job that embeds each row. Every call starts (and bills) a new one.

        :param arguments: :class:`~airflow_provider_gemini_batch.lifecycle.request.EmbedArguments`.
        """
        return self.client.create_embeddings_batch(model, **arguments)

    def submit(self, request: JobRequest, **how: Any) -> Submission:
        """Find the job of a piece of work, or else start it: however often it is called, one job is billed."""
        return self.client.submit(request, **how)

    def reconcile(self, job_name: str, watch: TwinWatch, **how: Any) -> Reconciled:
        """Look once for twins of a job, and cancel all but one."""
        return self.client.reconcile(job_name, watch, **how)

    def paid_twins(self, job: BatchJob) -> tuple[str, ...]:
        """Name the jobs that ran for the same rows as an ended one, that one first; nothing if it is alone."""
        return self.client.paid_twins(job)

    def get_batch(self, job_name: str) -> BatchJob:
        """Look at a job."""
        return self.client.get_batch(job_name)

    def list_batches(self, page_size: int = 100, page_token: str | None = None, filter: str | None = None) -> JobPage:
        """Read one page of jobs, newest first."""
        return self.client.list_batches(page_size, page_token, filter)

    def list_all_batches(self, filter: str | None = None) -> Iterator[BatchJob]:
        """Yield all jobs, newest first, reading pages as they are needed."""
        return self.client.list_all_batches(filter)

    def wait_for_batch(
        self,
        job_name: str,
        poll_interval: float | timedelta | None = 30,
        timeout: float | timedelta = 3600,
        on_progress: Callable[[BatchJob], None] | None = None,
        *,
        max_failed_rows: float | None = 0.1,
    ) -> BatchJob:
        """Wait until a job has ended well, holding this process."""
        return self.client.wait_for_batch(
            job_name, poll_interval, timeout, on_progress, max_failed_rows=max_failed_rows
        )

    def cancel_batch(self, job_name: str) -> None:
        """Ask for a job to be cancelled; a job already gone or ended is fine."""
        self.client.cancel_batch(job_name)

    def delete_batch(self, job_name: str) -> None:
        """Delete a job with its results; one already gone is fine. A running job should be cancelled first."""
        self.client.delete_batch(job_name)

    def run_batch(
        self, *, run_key: str, checkpoint_path: str, progress: bool = True, **arguments: Any
    ) -> dict[str, Any]:
        """
        Ask each row of an input, and write a table with a row for each, holding this process: for notebooks.

        :param run_key: Names the run: the same key resumes it, and no answer is paid for twice.
        :param checkpoint_path: Where it remembers.
        :param progress: Whether to print how far it is.
        :param arguments: Those of ``RunBatchOperator``, without *sql_conn_id*, *output_table* and what concerns tasks.
        :return: The manifest.
        :raises RunFailedError: If too many rows have no answer; the outputs are written.
        """
        from airflow_provider_gemini_batch.run.waiting import run_batch
        from airflow_provider_gemini_batch.task.prices import counts_tokens, run_prices

        return run_batch(
            self.client, "generate", run_key=run_key, checkpoint_path=checkpoint_path, progress=progress,
            prices=run_prices(), counts_tokens=counts_tokens(), **arguments,
        )  # fmt: skip

    # --- answers ------------------------------------------------------------------------------------------------------

    def get_responses(self, job_or_name: BatchJob | str) -> Iterator[BatchResult]:
        """Yield a job's answers one by one, wherever they lie, in the order the service keeps them (any order)."""
        return self.client.get_responses(job_or_name)

    def sample_rows(self, job: BatchJob) -> RowSample:
        """Read the first answers of a job, to say why rows failed and how many were cut off."""
        return self.client.sample_rows(job)

    def result_lines(self, job_or_name: BatchJob | str) -> Iterator[bytes | dict[str, Any]]:
        """Yield a job's raw result lines, streamed in constant memory."""
        return self.client.result_lines(job_or_name)

    def result_blocks(self, job_or_name: BatchJob | str) -> Iterator[Lines | bytes | dict[str, Any]]:
        """Yield a job's raw results as they arrive: several lines with their newlines, or one result."""
        return self.client.result_blocks(job_or_name)

    # --- files --------------------------------------------------------------------------------------------------------

    def upload_file(
        self, path: str | PathLike[str], *, display_name: str | None = None, mime_type: str | None = None
    ) -> RemoteFile:
        """Upload a file as it is; one with the same bytes that is already there is used."""
        return self.client.upload_file(path, display_name=display_name, mime_type=mime_type)

    def get_file(self, file_name: str) -> RemoteFile:
        """Look at a file's metadata."""
        return self.client.get_file(file_name)

    def list_files(self, page_size: int = 100, page_token: str | None = None, *, prefix: str = "") -> FilePage:
        """Read one page of files; *prefix* is ``gs://bucket/prefix`` on Vertex AI."""
        return self.client.list_files(page_size, page_token, prefix=prefix)

    def delete_file(self, file_name: str) -> None:
        """Delete a file; one already gone is fine."""
        self.client.delete_file(file_name)

    def download_file(self, file_name: str, destination: str | PathLike[str]) -> str:
        """Download a file in constant memory; *destination* appears only when it is complete."""
        return self.client.download_file(file_name, destination)
