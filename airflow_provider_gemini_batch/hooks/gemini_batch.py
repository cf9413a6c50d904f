# SPDX-License-Identifier: Apache-2.0
"""
The hook: an Airflow connection, and everything one can ask the service with it.

The connection's fields are explained where they are read: :mod:`airflow_provider_gemini_batch.connection.settings`.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections import Counter
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_gemini_batch.errors import (
    ApiError,
    ConfigurationError,
    GeminiBatchError,
    NotFoundError,
    PermissionDeniedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import timedelta
    from pathlib import Path

    from airflow_provider_gemini_batch.api.backend import Surface
    from airflow_provider_gemini_batch.api.models import (
        BatchJob,
        BatchResult,
        FilePage,
        JobPage,
        RemoteFile,
    )
    from airflow_provider_gemini_batch.api.retry import RetryPolicy
    from airflow_provider_gemini_batch.api.wire import Flow, T
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
    from airflow_provider_gemini_batch.lifecycle.request import JobRequest
    from airflow_provider_gemini_batch.lifecycle.submit import Submission, SubmitPolicy
    from airflow_provider_gemini_batch.rows.line_batches import Lines
    from airflow_provider_gemini_batch.transport.blocking import BlockingTransport

ROWS_LOOKED_AT = 1000
"""Answers that are read to say why rows failed, before anybody downloads them all."""


def settings_of(
    connection: Any, backend: str | None = None, *, extra: Mapping[str, Any] | None = None
) -> ConnectionSettings:
    """
    Read an Airflow connection.

    :param connection: An ``airflow`` Connection object, already looked up.
    :param backend: Overrides the connection's backend.
    :param extra: The connection's extra, decoded; given where decoding it here would block (triggers).
    :raises ConfigurationError: Naming every bad field.
    """
    from airflow_provider_gemini_batch.connection.settings import settings_from_connection

    return settings_from_connection(
        conn_id=connection.conn_id or "",
        conn_type=connection.conn_type or "gemini_batch",
        host=connection.host,
        schema=connection.schema,
        login=connection.login,
        password=connection.password,
        port=connection.port,
        extra=connection.extra_dejson if extra is None else extra,
        backend=backend,
    )


class GeminiBatchHook(BaseHook):
    """
    Batch jobs and files of the Gemini API, on the Developer API or on Vertex AI as the connection says.

    Calls that are safe to repeat are tried up to ``max_retries`` times, while faults pass. Starting a job is not such a
    call: a lost answer is settled by looking for the job under its name.

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

    # --- the parts ----------------------------------------------------------------------------------------------------

    @cached_property
    def settings(self) -> ConnectionSettings:
        """The connection, checked."""
        return settings_of(self.get_connection(self.gemini_batch_conn_id), self._backend)

    @property
    def backend(self) -> str:
        """``gemini`` or ``vertex_ai``."""
        return self.settings.backend

    @cached_property
    def surface(self) -> Surface:
        """The backend's calls."""
        from airflow_provider_gemini_batch.api.backends import surface_for

        return surface_for(self.settings)

    @cached_property
    def transport(self) -> BlockingTransport:
        """The driver that sends them."""
        from airflow_provider_gemini_batch.transport.blocking import BlockingTransport
        from airflow_provider_gemini_batch.transport.credentials import credentials_for

        return BlockingTransport(self.settings, credentials_for(self.settings))

    @cached_property
    def retry(self) -> RetryPolicy:
        """How often a call that is safe to repeat is tried."""
        from airflow_provider_gemini_batch.api.retry import RetryPolicy

        return RetryPolicy(max_attempts=self.settings.max_retries)

    def get_conn(self) -> BlockingTransport:
        """Return the driver, for :meth:`run`-like use of the connection."""
        return self.transport

    def run(self, flow: Flow[T]) -> T:
        """Carry out a conversation of :mod:`airflow_provider_gemini_batch.api.flows` and return its value."""
        return self.transport.run(flow)

    async def arun(self, flow: Flow[T]) -> T:
        """
        Carry out a conversation without blocking the event loop.

        The connection must have been looked up before (``hook.settings``), as a thread may not do it.
        """
        from airflow_provider_gemini_batch.transport.asynchronous import AsyncTransport
        from airflow_provider_gemini_batch.transport.credentials import credentials_for

        async with AsyncTransport(self.settings, credentials_for(self.settings)) as transport:
            return await transport.arun(flow)

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def create_batch(
        self,
        model: str,
        *,
        inlined_requests: Sequence[Mapping[str, Any]] | None = None,
        file_name: str | None = None,
        gcs_uri: str | None = None,
        bigquery_uri: str | None = None,
        destination: str | None = None,
        display_name: str | None = None,
        generation_config: Mapping[str, Any] | None = None,
        system_instruction: str | Mapping[str, Any] | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        webhook_config: Mapping[str, Any] | None = None,
        input_path: str | Path | None = None,
    ) -> BatchJob:
        """
        Start a job that generates an answer to each row. Every call starts (and bills) a new one.

        :param model: E.g. ``gemini-3.5-flash-lite``.
        :param inlined_requests: Rows in any of the forms that the README lists; above 4 MiB they travel as a file.
        :param input_path: Local path or object-storage URI of a JSONL file with rows.
        :param file_name: What :meth:`upload_file` returned, ``files/...`` or ``gs://...``.
        :param destination: ``gs://`` prefix or ``bq://`` table for the answers (Vertex AI).
        :param generation_config: For every row that does not set the same member itself.
        :param system_instruction: Text or Content, for every row that has none.
        :param priority: Higher runs first; the Developer API alone knows it.
        :param labels: On Vertex AI only.
        :param webhook_config: ``{"uris": [...], "userMetadata": {...}}``; the Developer API alone knows it.
        :raises ConfigurationError: Before anything is submitted, for what cannot work.
        :raises SubmitError: If it could not be settled whether a job exists.
        """
        from airflow_provider_gemini_batch.lifecycle.request import JobRequest

        return self._create(
            JobRequest(
                "generate",
                model,
                inlined_requests=inlined_requests,
                input_path=input_path,
                file_name=file_name,
                gcs_uri=gcs_uri,
                bigquery_uri=bigquery_uri,
                destination=destination,
                display_name=display_name,
                generation_config=generation_config,
                system_instruction=system_instruction,
                priority=priority,
                labels=labels or {},
                webhook_config=webhook_config,
            )
        )

    def create_embeddings_batch(
        self,
        model: str,
        *,
        inlined_requests: Sequence[Mapping[str, Any]] | None = None,
        file_name: str | None = None,
        gcs_uri: str | None = None,
        bigquery_uri: str | None = None,
        destination: str | None = None,
        display_name: str | None = None,
        task_type: str | None = None,
        title: str | None = None,
        output_dimensionality: int | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        webhook_config: Mapping[str, Any] | None = None,
        input_path: str | Path | None = None,
    ) -> BatchJob:
        """
        Start a job that embeds each row. Every call starts (and bills) a new one; see :meth:`create_batch`.

        :param task_type: E.g. ``RETRIEVAL_DOCUMENT``; gemini-embedding-2 ignores it.
        :param output_dimensionality: Numbers in each vector.
        """
        from airflow_provider_gemini_batch.lifecycle.request import JobRequest

        return self._create(
            JobRequest(
                "embed",
                model,
                inlined_requests=inlined_requests,
                input_path=input_path,
                file_name=file_name,
                gcs_uri=gcs_uri,
                bigquery_uri=bigquery_uri,
                destination=destination,
                display_name=display_name,
                task_type=task_type,
                title=title,
                output_dimensionality=output_dimensionality,
                priority=priority,
                labels=labels or {},
                webhook_config=webhook_config,
            )
        )

    def _create(self, request: JobRequest) -> BatchJob:
        # A name of its own for each call, so that a lost answer can be settled and no other job is ever adopted.
        return self.submit(request, task=uuid.uuid4().hex[:16], since=time.time() - 60).job

    def submit(
        self,
        request: JobRequest,
        *,
        task: str,
        since: float | None = None,
        known_names: Sequence[str] = (),
        on_existing_job: str = "replace",
        may_have_rivals: bool = False,
        intent_at: float | None = None,
        exclude: frozenset[str] = frozenset(),
        policy: SubmitPolicy | None = None,
        remember: Callable[[str, str], None] | None = None,
        on_token: Callable[[str], None] | None = None,
    ) -> Submission:
        """
        Find the job of a piece of work, or else start it: however often it is called, one job is billed.

        :param task: 16 hex digits that name the piece of work (:func:`~.api.identity.make_task_id`).
        :param since: UTC epoch seconds; no own job can be older.
        :param may_have_rivals: Whether another attempt at the same work may be under way.
        :param intent_at: UTC epoch seconds at which an earlier attempt was about to create, if its job is not known.
        :param on_token: Told the token before anything is sent.
        """
        from airflow_provider_gemini_batch.api.identity import SubmissionToken, digest_of
        from airflow_provider_gemini_batch.lifecycle.request import Upload, look_at_remote, prepared
        from airflow_provider_gemini_batch.lifecycle.submit import SubmitPolicy, submit

        def look(name: str) -> RemoteFile | None:
            return self.run(look_at_remote(self.surface, name, self.retry))

        self._say_what_is_ignored(request)
        with prepared(request, self.backend, look) as source:
            token = SubmissionToken(task, digest_of(source.identity))
            if on_token is not None:
                on_token(str(token))
            name = request.display_name or f"airflow {request.kind} batch"
            upload = Upload(source, self.surface, self.settings, self.retry, name)
            submitting = submit(
                self.surface,
                lambda placed: request.spec(placed, name),
                upload.place,
                token,
                since=since,
                known_names=known_names,
                on_existing_job=on_existing_job,  # type: ignore[arg-type]
                may_have_rivals=may_have_rivals,
                intent_at=intent_at,
                exclude=exclude,
                policy=policy or SubmitPolicy(),
                now=time.time,
                remember=remember or (lambda what, value: None),
                is_remnant=self.is_remnant,
            )
            return self.run(upload.removed_if_unused(submitting))

    def _say_what_is_ignored(self, request: JobRequest) -> None:
        """The same DAG runs on both backends, so what one of them lacks is said and left out."""
        names = ("destination", "labels") if self.backend == "gemini" else ("priority", "webhook_config")
        ignored = [name for name in names if getattr(request, name)]
        if ignored:
            self.log.warning("%s: not known to this backend (%s), left out.", ", ".join(ignored), self.backend)

    def is_remnant(self, job: BatchJob) -> bool:
        """
        Say whether a job that ended well was really cancelled half-way: rows that had not run carry error code 1.

        A job of the Developer API that is cancelled after it began ends SUCCEEDED.
        """
        if not job.stats.failed:
            return False
        cancelled = 1
        return any(
            result.error is not None and result.error.get("code") == cancelled for result in self.get_responses(job)
        )

    def get_batch(self, job_name: str) -> BatchJob:
        """Look at a job."""
        from airflow_provider_gemini_batch.api.flows import get_job

        return self.run(get_job(self.surface, job_name, self.retry))

    def list_batches(self, page_size: int = 100, page_token: str | None = None, filter: str | None = None) -> JobPage:
        """
        Read one page of jobs, newest first.

        :param filter: Vertex AI's list filter, e.g. ``state="JOB_STATE_SUCCEEDED"``. The Developer API has none; its
            pages are filtered here, and one may be empty and still have a next one.
        """
        from airflow_provider_gemini_batch.api.flows import list_page

        return self.run(list_page(self.surface, self.retry, page_size=page_size, page_token=page_token, filter=filter))

    def list_all_batches(self, filter: str | None = None) -> Iterator[BatchJob]:
        """Yield all jobs, newest first, reading pages as they are needed."""
        from airflow_provider_gemini_batch.api.flows import Pages

        pages = Pages()
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
    ) -> BatchJob:
        """
        Wait until a job has ended, holding this process.

        :param poll_interval: Seconds or timedelta between looks; None for a rhythm that grows with the job's age.
        :param timeout: Seconds or timedelta in all.
        :param on_progress: Called with the job after every look.
        :return: The job, ended well.
        :raises JobError: The subclass says how it ended; ``JobTimeoutError`` if it has not.
        """
        from airflow_provider_gemini_batch.lifecycle.verdict import check_ended, not_ended
        from airflow_provider_gemini_batch.lifecycle.waiting import (
            Outcome,
            ProgressReport,
            WaitLimits,
            Watch,
            wait_for_end,
        )
        from airflow_provider_gemini_batch.times import seconds

        interval, limit = seconds(poll_interval, "poll_interval"), seconds(timeout, "timeout")
        if limit is None:
            raise ConfigurationError("timeout must be seconds or a timedelta, not None: no wait is endless.")
        started = time.time()
        report = ProgressReport(self.log.info, started)

        def look(job: BatchJob, now: float) -> None:
            report.see(job, now)
            if on_progress is not None:
                on_progress(job)

        watch = Watch(WaitLimits(started + limit), started, look, report.fault)
        outcome = self.run(wait_for_end(self.surface, job_name, watch, time.time, poll_interval=interval))
        if outcome is not Outcome.ENDED or watch.job is None:
            raise not_ended(outcome, job_name, watch.job, time.time() - started)
        warning = check_ended(watch.job, reasons=self.why_rows_failed)
        if warning:
            self.log.warning("%s", warning)
        return watch.job

    def cancel_batch(self, job_name: str) -> None:
        """Ask for a job to be cancelled; a job already gone or ended is fine."""
        from airflow_provider_gemini_batch.api.flows import cancel_job

        self.run(cancel_job(self.surface, job_name, self.retry))

    def delete_batch(self, job_name: str) -> None:
        """Delete a job with its results; one already gone is fine. A running job should be cancelled first."""
        from airflow_provider_gemini_batch.api.flows import delete_job

        self.run(delete_job(self.surface, job_name, self.retry))

    # --- answers ------------------------------------------------------------------------------------------------------

    def get_responses(self, job_or_name: BatchJob | str) -> Iterator[BatchResult]:
        """
        Yield a job's answers one by one, wherever they lie, in the order the service keeps them (any order).

        :raises JobError: If the job left no answers.
        """
        from airflow_provider_gemini_batch.rows.results import read_result

        for number, line in enumerate(self.result_lines(job_or_name), 1):
            yield read_result(line, position=number)

    def why_rows_failed(self, job: BatchJob) -> dict[str, int]:
        """Count the reasons given in the first answers of a job; none are told if they cannot be read."""
        from airflow_provider_gemini_batch.api.models import JobErrorInfo

        reasons: Counter[str] = Counter()
        try:
            for result in islice(self.get_responses(job), ROWS_LOOKED_AT):
                if result.status == "failed" and result.error is not None:
                    reasons[str(JobErrorInfo(result.error["code"], result.error["message"]))] += 1
        except (GeminiBatchError, OSError) as error:
            self.log.warning("Why rows of %s failed could not be looked up. %s", job.name, error)
        return dict(reasons.most_common())

    def result_lines(self, job_or_name: BatchJob | str) -> Iterator[bytes | dict[str, Any]]:
        """Yield a job's raw result lines, streamed in constant memory."""
        from airflow_provider_gemini_batch.rows.line_batches import lines_of

        for found in self.result_blocks(job_or_name):
            if isinstance(found, list):
                yield from lines_of(found)
            else:
                yield found

    def result_blocks(self, job_or_name: BatchJob | str) -> Iterator[Lines | bytes | dict[str, Any]]:
        """Yield a job's raw results as they arrive: several lines with their newlines, or one result."""
        from airflow_provider_gemini_batch.api.models import BatchJob
        from airflow_provider_gemini_batch.lifecycle.verdict import check_ended
        from airflow_provider_gemini_batch.rows.line_batches import line_blocks
        from airflow_provider_gemini_batch.rows.results import iter_inline_results

        job = job_or_name if isinstance(job_or_name, BatchJob) else self.get_batch(job_or_name)
        if job.is_running:
            job = self.get_batch(job.name)  # a job as it was submitted knows nothing of its end
        if job.output is None:
            if job.is_done:
                check_ended(job)
            raise ConfigurationError(f"{job.name} has no results: it is {job.state.value}. Wait for it to end first.")
        place = job.output.place
        if job.output.kind == "inline":
            with tempfile.TemporaryFile() as body:
                name = job.name
                for piece in self.transport.stream(lambda offset: self.surface.get_job(name, masked=False)):
                    body.write(piece)
                body.seek(0)
                yield from iter_inline_results(body)
        elif job.output.kind == "file":
            yield from line_blocks(self._content_of(place))
        elif job.output.kind == "gcs":
            shards = self._shards(place)
            if not shards:
                if not job.is_succeeded:
                    check_ended(job)  # it may name a place and have left nothing there
                raise ConfigurationError(
                    f"There are no *.jsonl objects under {place}: they were removed, or may not be listed."
                )
            blocks = (block for name in shards for block in line_blocks(self._content_of(name)))
            yield from self._with_keys(job, blocks)
        else:
            from airflow_provider_gemini_batch.api.vertex.bigquery import BigQuery, result_line

            rows = BigQuery(self.settings.bigquery_base_url).rows(self.run, place, self.retry)
            yield from map(result_line, rows)

    def _with_keys(self, job: BatchJob, blocks: Iterator[Lines]) -> Iterator[Lines | bytes]:
        """Give answers of the older embedding models, which come without keys, those of the job's input."""
        from airflow_provider_gemini_batch.rows.forms import RowSettings
        from airflow_provider_gemini_batch.rows.legacy_embeddings import with_keys
        from airflow_provider_gemini_batch.rows.line_batches import lines_of, split_lines

        place = job.input_place or ""
        if not place.startswith("gs://") or not RowSettings("embed", "vertex_ai", job.model).is_legacy_embedding:
            return blocks

        def rows() -> Iterator[bytes]:
            try:
                yield from split_lines(self._content_of(place))
            except (NotFoundError, PermissionDeniedError) as error:
                self.log.warning("The answers of %s stay without keys: its input cannot be read. %s", job.name, error)

        return with_keys((line for block in blocks for line in lines_of(block)), rows)

    def _content_of(self, file_name: str) -> Iterator[bytes]:
        """Stream a file; what the service says when it refuses is completed by what to do."""
        try:
            yield from self.transport.stream(partial(self.surface.download_file, file_name))
        except ApiError as error:
            advice = ""
            if self.backend == "vertex_ai":
                from airflow_provider_gemini_batch.api.vertex.jobs import explain

                advice = explain(error, self.settings)
            if advice:
                error.args = (f"{error} - {advice}",)
            raise

    def _shards(self, directory: str) -> list[str]:
        """List every result object under a job's output directory; a long job leaves several."""
        files = self._files(prefix=directory.rstrip("/") + "/")
        return sorted(file.name for file in files if file.name.endswith(".jsonl"))

    # --- files --------------------------------------------------------------------------------------------------------

    def upload_file(
        self, path: str | Path, *, display_name: str | None = None, mime_type: str | None = None
    ) -> RemoteFile:
        """
        Upload a file as it is; one with the same bytes that is already there is used.

        :param path: Local path or object-storage URI.
        :param mime_type: Default ``application/jsonl``.
        :return: ``.name`` is ``files/...``, or ``gs://...`` on Vertex AI.
        """
        from airflow_provider_gemini_batch.files.input_file import as_it_is
        from airflow_provider_gemini_batch.files.paths import base_name, place_of
        from airflow_provider_gemini_batch.lifecycle.request import MIME_TYPE, place_file

        path = place_of(path, "path")
        with as_it_is(path) as source:
            name = display_name or base_name(path)
            placing = place_file(
                self.surface,
                self.settings,
                self.retry,
                source,
                display_name=name,
                mime_type=mime_type or MIME_TYPE,
            )
            return self.run(placing)[0]

    def get_file(self, file_name: str) -> RemoteFile:
        """Look at a file's metadata."""
        from airflow_provider_gemini_batch.api.flows import get_file

        return self.run(get_file(self.surface, file_name, self.retry))

    def list_files(self, page_size: int = 100, page_token: str | None = None, *, prefix: str = "") -> FilePage:
        """
        Read one page of files.

        :param prefix: ``gs://bucket/prefix`` on Vertex AI; the connection's ``storage_uri`` if empty.
        """
        from airflow_provider_gemini_batch.api.flows import exchange

        place = prefix or self.settings.storage_uri
        return self.run(
            exchange(self.surface.list_files(page_size, page_token, place), self.surface.read_file_page, self.retry)
        )

    def _files(self, prefix: str = "") -> Iterator[RemoteFile]:
        from airflow_provider_gemini_batch.api.flows import Pages

        pages = Pages()
        for token in pages:
            page = self.list_files(100, token, prefix=prefix)
            yield from page.files
            pages.turn(page)

    def delete_file(self, file_name: str) -> None:
        """Delete a file; one already gone is fine."""
        from airflow_provider_gemini_batch.api.flows import delete_file

        self.run(delete_file(self.surface, file_name, self.retry))

    def download_file(self, file_name: str, destination: str | Path) -> str:
        """
        Download a file in constant memory; *destination* appears only when it is complete.

        :param destination: Local path or object-storage URI.
        :return: *destination* as a string.
        """
        from airflow_provider_gemini_batch.files.paths import AtomicFile, place_of

        place = place_of(destination, "destination")
        with AtomicFile(place) as target:
            for piece in self._content_of(file_name):
                target.write(piece)
        return place

    def test_connection(self) -> tuple[bool, str]:
        """Try the connection, and its storage place, with a cheap call; never raises, never shows a secret."""
        try:
            self.settings  # noqa: B018 - reads and checks the connection
            page = self.list_batches(page_size=1)
            if self.backend == "vertex_ai" and self.settings.storage_uri:
                self.list_files(page_size=1)
        except GeminiBatchError as error:
            return False, str(error)
        except Exception as error:  # a form must get an answer, whatever a library does
            return False, f"{type(error).__name__}: the connection could not be tried."
        where = "Vertex AI" if self.backend == "vertex_ai" else "the Gemini Developer API"
        return True, f"Connected to {where}" + (", which has batch jobs." if page.jobs else ".")
