# SPDX-License-Identifier: Apache-2.0
"""
A job's answers, read wherever they lie: in the job itself, in a file, in Cloud Storage, in BigQuery.

All of it is streamed in constant memory. What a line means:
:mod:`airflow_provider_gemini_batch.rows.results`.
"""

# Answers that are not there yet
# ------------------------------
#
# A job may say that it succeeded before its output can be found: the job names no place yet, the file is 404 (403 on
# the Developer API), the directory lists empty. All of that passes within a minute or two. So a job that ended lately
# is looked at again, up to `PATIENCE` seconds, and what remains is an error that Airflow retries.
#
# Where the job names no place, its answers may still be inside the job resource: small jobs made from a file, and
# cancelled jobs, were seen to have them there.

from __future__ import annotations

import tempfile
import time
from collections import Counter
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.models import JobErrorInfo
from airflow_provider_gemini_batch.api.vertex.bigquery import BigQuery, result_line
from airflow_provider_gemini_batch.api.wire import Flow, Pause
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    GeminiBatchError,
    NotFoundError,
    PermissionDeniedError,
    RequestRejectedError,
    ResultsIncompleteError,
)
from airflow_provider_gemini_batch.files.atomic import temporary_files
from airflow_provider_gemini_batch.lifecycle.verdict import RowSample, check_state
from airflow_provider_gemini_batch.rows.inline_results import iter_inline_results
from airflow_provider_gemini_batch.rows.judging import is_cut_off
from airflow_provider_gemini_batch.rows.legacy_embeddings import with_keys
from airflow_provider_gemini_batch.rows.line_batches import LineTooLongError, line_blocks, lines_of, split_lines
from airflow_provider_gemini_batch.rows.results import is_foreign, read_result
from airflow_provider_gemini_batch.rows.settings import RowSettings
from airflow_provider_gemini_batch.times import epoch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_gemini_batch.api.models import BatchJob, BatchResult
    from airflow_provider_gemini_batch.client.session import Log, Session
    from airflow_provider_gemini_batch.rows.line_batches import Lines

    Found = Lines | bytes | dict[str, Any]

ROWS_SAMPLED = 1000
"""Answers that are read to say why rows failed, before anybody downloads them all."""

PATIENCE = 90.0
"""Seconds for which answers that are not there yet are looked for."""

LATELY = 900.0
"""Seconds since the end of a job within which its answers may still be on their way. Clocks may be minutes apart."""

_FIRST_PAUSE = 2.0
_LONGEST_PAUSE = 15.0


class ResultReader:
    """
    Reads the answers of jobs.

    :param session: The connection.
    :param log: Told what cannot be read and is done without.
    """

    def __init__(self, session: Session, log: Log) -> None:
        self._session = session
        self._log = log

    def responses(self, job: BatchJob, *, whole: bool = False) -> Iterator[BatchResult]:
        """
        Yield the answers one by one, in the order the service keeps them (any order).

        :param whole: Whether fewer answers than the job counts are an error, after the last one.
        :raises ResultsIncompleteError: With *whole*, if answers are lacking.
        """
        number = foreign = 0
        for line in self.lines(job):
            is_none = is_foreign(line)
            foreign += is_none
            number += not is_none
            yield read_result(line)
        expected = job.expected_answers
        if whole and expected is not None and number < expected:
            raise ResultsIncompleteError(f"{job.name} counts {expected:,} answers, and {number:,} arrived. Try again.")
        if whole and expected is None and foreign:
            raise ResultsIncompleteError(f"{foreign:,} lines among the answers of {job.name} are none. Try again.")

    def sample_rows(self, job: BatchJob) -> RowSample:
        """Read the first answers, to say why rows failed and how many were cut off; empty if they cannot be read."""
        reasons: Counter[str] = Counter()
        truncated = read = 0
        is_whole = True
        try:
            # Not patient: the reasons are a help in an error's text, and the task that fails must not wait for them.
            for result in map(read_result, islice(self.lines(job, patient=False), ROWS_SAMPLED)):
                read += 1
                truncated += result.status == "succeeded" and is_cut_off(result.finish_reason)
                if result.status == "failed" and result.error is not None:
                    reasons[str(JobErrorInfo(result.error["code"], result.error["message"]))] += 1
        except (GeminiBatchError, OSError) as error:
            is_whole = False
            self._log.warning("Why rows of %s failed could not be looked up. %s", job.name, error)
        return RowSample(dict(reasons.most_common()), truncated, read, is_whole=is_whole and read < ROWS_SAMPLED)

    def lines(self, job: BatchJob, *, patient: bool = True) -> Iterator[bytes | dict[str, Any]]:
        """Yield the raw result lines; see :meth:`blocks`."""
        for found in self.blocks(job, patient=patient):
            if isinstance(found, list):
                yield from lines_of(found)
            else:
                yield found

    def blocks(self, job: BatchJob, *, patient: bool = True) -> Iterator[Found]:
        """
        Yield the raw results as they arrive: several lines with their newlines, or one result.

        :param job: As last seen; it has ended.
        :param patient: Whether answers that are not there yet are waited for.
        :raises JobError: If the job left no answers.
        :raises ResultsIncompleteError: If it should have left some, and they are not there yet.
        :raises ConfigurationError: If it has not ended.
        """
        if not job.is_done:
            raise ConfigurationError(f"{job.name} has no results: it is {job.state.value}. Wait for it to end first.")
        waited, pause = 0.0, _FIRST_PAUSE
        while True:
            found = self._read(job)
            try:
                # A generator raises at its first item and not when it is made; so the first is taken inside the try.
                first = next(found, None)
            except (NotFoundError, PermissionDeniedError, ResultsIncompleteError) as error:
                if not patient or waited + pause > PATIENCE or not self._may_pass(job, error):
                    raise
                self._log.info("The answers of %s are not there yet; looking again in %g s. %s", job.name, pause, error)
                self._session.run(_pause(pause))
                # Doubled, as the first seconds after a job's end are when most answers appear.
                waited, pause = waited + pause, min(2 * pause, _LONGEST_PAUSE)
                # The place may be named by now; what is written at a known place changes without the job being read.
                if job.output is None:
                    job = self._read_job(job)
                continue
            if first is not None:
                yield first
                yield from found
            return

    def _read_job(self, job: BatchJob) -> BatchJob:
        from airflow_provider_gemini_batch.api.flows import get_job

        return self._session.run(get_job(self._session.backend, job.name, self._session.retry))

    def _may_pass(self, job: BatchJob, error: GeminiBatchError) -> bool:
        """Say whether answers that cannot be found may be on their way."""
        # 403 means "not there" on the Developer API alone, which does not tell a missing file from one of somebody
        # else's.
        if isinstance(error, PermissionDeniedError) and not self._session.backend.hides_missing_files:
            return False
        # A job that ended long ago and has no answers will have none: to wait would only delay the error.
        ended = epoch(job.end_time)
        return job.is_succeeded and (ended is None or abs(time.time() - ended) < LATELY)

    def _read(self, job: BatchJob) -> Iterator[Found]:
        """Yield the answers from where the job says they are, or from inside it if it does not say."""
        output = job.output
        if output is None:
            yield from self._unplaced(job)
        elif output.kind == "inline":
            yield from self._inline(job)
        elif output.kind == "file":
            yield from _named(line_blocks(self._session.read_file(output.place)), output.place)
        elif output.kind == "gcs":
            yield from self._with_keys(job, self._objects(job, output.place))
        else:
            settings = self._session.settings
            rows = BigQuery(settings.bigquery_base_url).rows(self._session.run, output.place, self._session.retry)
            yield from map(result_line, rows)

    def _unplaced(self, job: BatchJob) -> Iterator[Found]:
        inside = self._inline_entries(job.name)
        first = next(inside, None)
        if first is not None:
            yield from chain([first], inside)
            return
        if not job.is_succeeded:
            check_state(job)
        raise ResultsIncompleteError(
            f"{job.name} has ended ({job.state.value}), and the service does not say yet where its answers are. A "
            "retry looks again."
        )

    def _inline(self, job: BatchJob) -> Iterator[Found]:
        count = 0
        for entry in self._inline_entries(job.name):
            count += 1
            yield entry
        if not count and (job.expected_answers or not job.is_succeeded):
            if not job.is_succeeded:
                check_state(job)
            raise ResultsIncompleteError(f"{job.name} counts answers, and holds none yet. A retry looks again.")

    def _inline_entries(self, job_name: str) -> Iterator[dict[str, Any]]:
        """
        Yield the answers that lie in the job resource, which is brought to disk first.

        They are there twice, and a resource with both copies may be too large for the service to send. So one copy is
        asked for, and the whole only where the service does not know how to send a part.
        """
        session = self._session
        for copy in session.backend.answer_copies:
            name = f"the answers of {job_name}"
            with temporary_files(name), tempfile.TemporaryFile() as body:
                try:
                    for piece in session.transport.stream(
                        lambda offset, copy=copy: session.backend.get_inline_answers(job_name, copy)  # type: ignore[misc]
                    ):
                        body.write(piece)
                except RequestRejectedError:
                    if copy:
                        continue
                    raise
                body.seek(0)
                entries = iter_inline_results(body)
                first = next(entries, None)
                if first is not None:
                    yield from chain([first], entries)
                    return

    def _objects(self, job: BatchJob, directory: str) -> Iterator[Lines]:
        """Yield the lines of every result object under a job's output directory; a long job leaves several."""
        files = self._session.all_files(prefix=directory.rstrip("/") + "/")
        # Sorted, so that a second reading comes in the same order; the service promises none.
        names = sorted(file.name for file in files if file.name.endswith(".jsonl"))
        if not names:
            if not job.is_succeeded:
                check_state(job)  # it may name a place and have left nothing there
            raise ResultsIncompleteError(
                f"There are no *.jsonl objects under {directory}: they are not there yet, were removed, or may not be "
                "listed. A retry looks again."
            )
        for name in names:
            yield from _named(line_blocks(self._session.read_file(name)), name)

    def _with_keys(self, job: BatchJob, blocks: Iterator[Lines]) -> Iterator[Lines | bytes]:
        """Give answers of the older embedding models, which come without keys, those of the job's input."""
        place = job.input_place or ""
        if not place.startswith("gs://") or not RowSettings("embed", job.backend, job.model).is_legacy_embedding:
            return blocks

        def rows() -> Iterator[bytes]:
            try:
                yield from split_lines(self._session.read_file(place))
            except (NotFoundError, PermissionDeniedError) as error:
                self._log.warning("The answers of %s stay without keys: its input cannot be read. %s", job.name, error)

        return with_keys((line for block in blocks for line in lines_of(block)), rows)


def _pause(seconds: float) -> Flow[None]:
    yield Pause(seconds)


def _named(blocks: Iterator[Lines], name: str) -> Iterator[Lines]:
    """Yield blocks; a line that is too long is named with its file."""
    try:
        yield from blocks
    except LineTooLongError as error:
        raise LineTooLongError(f"{name}: {error}") from None
