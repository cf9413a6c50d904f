# SPDX-License-Identifier: Apache-2.0
"""The client: batch jobs and files of the Gemini API as plain Python calls, on either backend."""

from __future__ import annotations

import logging
import math
import time
import uuid
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_provider_gemini_batch.api import flows
from airflow_provider_gemini_batch.api.identity import SubmissionToken, TaskIdentity, digest_of
from airflow_provider_gemini_batch.api.models import BatchJob
from airflow_provider_gemini_batch.client.check import check_connection
from airflow_provider_gemini_batch.client.counting import with_counts
from airflow_provider_gemini_batch.client.former_digest import digest_of_0_1_0
from airflow_provider_gemini_batch.client.prepare import check_model, prepared, row_settings
from airflow_provider_gemini_batch.client.results import ResultReader
from airflow_provider_gemini_batch.client.session import Session
from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from airflow_provider_gemini_batch.connection.urls import is_google
from airflow_provider_gemini_batch.cost.row_sample import sample_of
from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError
from airflow_provider_gemini_batch.files.atomic import AtomicFile
from airflow_provider_gemini_batch.files.input_file import as_it_is
from airflow_provider_gemini_batch.files.paths import base_name, normalise_path
from airflow_provider_gemini_batch.lifecycle.cut_short import CutShort
from airflow_provider_gemini_batch.lifecycle.gone_file import GoneFile, look_or_find
from airflow_provider_gemini_batch.lifecycle.request import JobRequest
from airflow_provider_gemini_batch.lifecycle.submission import SubmitPolicy
from airflow_provider_gemini_batch.lifecycle.submit import submit
from airflow_provider_gemini_batch.lifecycle.twins import Choice, paid_twins, reconcile
from airflow_provider_gemini_batch.lifecycle.upload import MIME_TYPE, Upload, look_at_remote, place_file
from airflow_provider_gemini_batch.lifecycle.uploaded import find_again, uploaded_input
from airflow_provider_gemini_batch.lifecycle.verdict import check_ended, check_max_failed_rows, not_ended
from airflow_provider_gemini_batch.lifecycle.waiting import Outcome, ProgressReport, WaitLimits, Watch, wait_for_end
from airflow_provider_gemini_batch.times import seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from datetime import timedelta
    from os import PathLike
    from typing import Self, Unpack

    from airflow_provider_gemini_batch.api.models import BatchResult, JobPage, RemoteFile
    from airflow_provider_gemini_batch.api.wire import Flow
    from airflow_provider_gemini_batch.client.session import Log
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
    from airflow_provider_gemini_batch.cost.input_measure import InputMeasure
    from airflow_provider_gemini_batch.lifecycle.request import EmbedArguments, GenerateArguments, Placed
    from airflow_provider_gemini_batch.lifecycle.submission import Submission
    from airflow_provider_gemini_batch.lifecycle.twins import Reconciled, TwinWatch
    from airflow_provider_gemini_batch.lifecycle.upload import PreparedInput
    from airflow_provider_gemini_batch.lifecycle.uploaded import UploadedInput
    from airflow_provider_gemini_batch.lifecycle.verdict import RowSample
    from airflow_provider_gemini_batch.rows.line_batches import Lines

_LOG = logging.getLogger(__name__)


class GeminiBatchClient(Session):
    """
    Batch jobs and files of the Gemini API, on the Developer API or on Vertex AI as the connection says.

    Calls that are safe to repeat are tried up to ``max_retries`` times, while faults pass. Starting a job is not such a
    call: a lost answer is settled by looking for the job under its name.

    :param settings: From :func:`~airflow_provider_gemini_batch.connection.reading.settings_from_connection`.
    :param log: Where progress and warnings go.
    """

    def __init__(self, settings: ConnectionSettings, *, log: Log = _LOG) -> None:
        super().__init__(settings)
        self._log = log
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

    def submit(
        self,
        request: JobRequest,
        *,
        task: str | TaskIdentity,
        since: float | None = None,
        known_names: Sequence[str] = (),
        on_existing_job: str = "replace",
        may_have_rivals: bool = False,
        intent_at: float | None = None,
        exclude: frozenset[str] = frozenset(),
        policy: SubmitPolicy | None = None,
        remember: Callable[[str, str], None] | None = None,
        on_token: Callable[[str], None] | None = None,
        digest: str | None = None,
        verdicts: Mapping[str, bool] | None = None,
        uploaded: UploadedInput | None = None,
        on_uploaded: Callable[[UploadedInput], None] | None = None,
        may_create: Callable[[InputMeasure | None, Sequence[BatchJob], int], None] | None = None,
        reads_earlier: bool = True,
        counts_tokens: bool = False,
        listed: tuple[float, Sequence[BatchJob]] | None = None,
    ) -> Submission:
        """
        Find the job of a piece of work, or else start it: however often it is called, one job is billed.

        :param task: The piece of work, or just 16 hex digits that name it (:func:`~.api.identity.make_task_id`).
        :param since: UTC epoch seconds; no own job can be older.
        :param may_have_rivals: Whether another attempt at the same work may be under way.
        :param intent_at: UTC epoch seconds at which an earlier attempt was about to create, if its job is not known.
        :param on_token: Told the token before anything is sent.
        :param digest: 16 hex digits that say what is computed, where the caller knows that better than the bytes do.
        :param verdicts: Which ended jobs a cancel cut short, as far as earlier attempts noted it.
        :param uploaded: Rows that an earlier call left at Google; if they are there still, nothing is read again.
        :param on_uploaded: Told where the rows lie, before the create.
        :param may_create: Told what is known of the rows (None where they were not read), and this task's own jobs of
            before, and how many create calls had no answer, if a job has to be created; what it raises ends the
            submission.
        :param reads_earlier: Whether *may_create* counts what those jobs have answered: each is read for it.
        :param counts_tokens: Whether the tokens of a few rows are counted first (``countTokens``), for *may_create*.
        :param listed: When the caller has read the list, and this task's jobs in it: a look that is not made again.
        """
        note = remember or (lambda what, value: None)
        # A caller outside of Airflow has a name for its work and nothing else.
        work = TaskIdentity(task, since, may_have_rivals) if isinstance(task, str) else task
        if may_have_rivals:
            work = replace(work, may_have_rivals=True)
        self._say_what_is_ignored(request)
        policy = policy or SubmitPolicy()
        gone: list[GoneFile] = []

        def look(name: str) -> RemoteFile | None:
            seen = look_or_find(self.backend, name, request, work, policy, known_names=known_names, exclude=exclude)
            found = self.run(seen)
            if isinstance(found, GoneFile):
                gone.append(found)
                return None
            return found

        with self._source(request, uploaded, look) as source:
            digest = gone[0].digest if gone else digest
            token = SubmissionToken(work.task, digest or digest_of(source.identity), source.input_digest)
            if work.former and work.may_have_rivals and digest is None:
                # Reads the whole input once more, so only where an earlier attempt can have left a job by that name.
                former = digest_of_0_1_0(request, row_settings(request, self.backend.name))
                work = replace(work, former_digests=frozenset({former} if former else ()))
            if on_token is not None:
                # Before anything is sent: whoever is killed from here on leaves a note by which its job can be found.
                on_token(str(token))
            name = request.display_name or f"airflow {request.kind} batch"
            upload = Upload(source, self.backend, self.retry, name)

            def place() -> Flow[Placed]:
                if gone:
                    raise gone[0].error
                # Between the upload and the create: a create that is refused for a quota then costs no second upload.
                placed = yield from upload.place()
                if on_uploaded is not None and (found := uploaded_input(request, source, placed)) is not None:
                    on_uploaded(found)
                return placed

            submitting = submit(
                self.backend,
                lambda placed: request.spec(placed, name),
                place,
                token,
                identity=work,
                known_names=known_names,
                on_existing_job=on_existing_job,
                intent_at=intent_at,
                exclude=exclude,
                policy=policy,
                now=time.time,
                remember=note,
                was_cut_short=self._cut_short(verdicts, note),
                may_create=None if may_create is None else self._asking(may_create, request, source, counts_tokens),
                reads_earlier=reads_earlier,
                listed=listed,
            )
            # Inside the `with`: the prepared copy has no name, and is gone once its file is closed.
            return self.run(upload.removed_if_unused(submitting))

    def measure(self, request: JobRequest, *, counts_tokens: bool = False) -> InputMeasure | None:
        """
        Read and check a request's rows without making anything; None for rows that lie at Google.

        :param counts_tokens: Whether the tokens of a few rows are counted (``countTokens``); else nothing is sent.
        :raises ConfigurationError: For what cannot work.
        """
        self._say_what_is_ignored(request)
        with self._source(request, None, self._look) as source:
            return self._measured(request, source, counts_tokens)

    def _measured(self, request: JobRequest, source: PreparedInput, counts_tokens: bool) -> InputMeasure | None:
        if source.measure is None or not counts_tokens:
            return source.measure
        lines = source.sample if source.file is None else sample_of(source.file)
        return with_counts(self, request.model, source.measure, lines, self._log)

    def _asking(
        self,
        may_create: Callable[[InputMeasure | None, Sequence[BatchJob], int], None],
        request: JobRequest,
        source: PreparedInput,
        counts_tokens: bool,
    ) -> Callable[[Sequence[BatchJob], int], None]:
        """Return *may_create* with what is known of the rows: found out when it is first asked, and not again."""
        # A create call may be repeated, and the rows are the same: counting their tokens sends them to the service.
        known: list[InputMeasure | None] = []

        def ask(jobs: Sequence[BatchJob], lost: int) -> None:
            if not known:
                known.append(self._measured(request, source, counts_tokens))
            may_create(known[0], jobs, lost)

        return ask

    @property
    def _is_own_host(self) -> bool:
        return not is_google(urlsplit(self.settings.base_url).hostname or "")

    def check_model(self, model: str) -> None:
        """
        Log what is known against a model: that it retires, or that another one answers in its place.

        :raises ConfigurationError: If the service refuses it to everybody.
        """
        check_model(model, self.backend, is_own_host=self._is_own_host)

    @contextmanager
    def _source(
        self, request: JobRequest, uploaded: UploadedInput | None, look: Callable[[str], RemoteFile | None]
    ) -> Iterator[PreparedInput]:
        """Yield the rows as they lie at Google, or else prepared on disk."""
        found = None
        if uploaded is not None:
            # The rows are not read again, but the arguments may have been changed by a deployment since.
            request.check(self.backend)
            found = self.run(find_again(self.backend, request, uploaded, self.retry, time.time()))
            text = "Going on with the rows in %s." if found else "The rows in %s do not serve any more: preparing anew."
            self._log.info(text, uploaded.file_name)
        if found is not None:
            yield found
            return
        with prepared(request, self.backend, look, is_own_host=self._is_own_host) as source:
            yield source

    def _look(self, name: str) -> RemoteFile | None:
        return self.run(look_at_remote(self.backend, name, self.retry))

    def reconcile(
        self,
        job_name: str,
        watch: TwinWatch,
        *,
        known: Collection[str] = (),
        exclude: Collection[str] = frozenset(),
        keep: bool = False,
        hold_until_age: float = 0.0,
        hold_until: float = math.inf,
        verdicts: Mapping[str, bool] | None = None,
        remember: Callable[[str, str], None] | None = None,
    ) -> Reconciled:
        """
        Look once for twins of a job, cancel all but one, and say whether several have run; see
        :func:`~airflow_provider_gemini_batch.lifecycle.twins.reconcile`.
        """
        return self.run(
            reconcile(
                self.backend,
                job_name,
                watch,
                reads=self.retry,
                cancels=self.retry,
                was_cut_short=self._cut_short(verdicts, remember or (lambda what, value: None)),
                now=time.time,
                known=known,
                exclude=exclude,
                keep=keep,
                hold_until_age=hold_until_age,
                hold_until=hold_until,
            )
        )

    def paid_twins(self, job: BatchJob) -> tuple[str, ...]:
        """Name the jobs that ran for the same rows as an ended one, that one first; nothing if it is alone."""
        # Nothing is cancelled with it: it only says which of the jobs have usable answers.
        cut_short = self._cut_short(None, lambda what, value: None)
        choice = Choice(self.backend, self.retry, self.retry, cut_short, time.time)
        try:
            return self.run(paid_twins(self.backend, job, choice))
        except GeminiBatchError as error:
            self._log.info("Whether another job ran for the rows of %s could not be looked up. %s", job.name, error)
            return ()

    def _cut_short(self, verdicts: Mapping[str, bool] | None, remember: Callable[[str, str], None]) -> CutShort:
        def keep(job_name: str, was_cut_short: bool) -> None:
            remember("cut_short" if was_cut_short else "whole", job_name)

        return CutShort(self.backend, self.retry, dict(verdicts or {}), keep)

    def _say_what_is_ignored(self, request: JobRequest) -> None:
        """The same DAG runs on both backends, so what one of them lacks is said and left out."""
        ignored = [name for name in self.backend.ignored if getattr(request, name)]
        if ignored:
            names, backend = ", ".join(ignored), self.backend.name
            self._log.warning("%s: not known to this backend (%s), left out.", names, backend)

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
