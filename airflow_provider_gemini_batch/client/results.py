# SPDX-License-Identifier: Apache-2.0
"""
A job's answers, read wherever they lie: in the job itself, in a file, in Cloud Storage, in BigQuery.

All of it is streamed in constant memory. What a line means:
:mod:`airflow_provider_gemini_batch.rows.results`.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.models import JobErrorInfo
from airflow_provider_gemini_batch.api.vertex.bigquery import BigQuery, result_line
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    GeminiBatchError,
    NotFoundError,
    PermissionDeniedError,
)
from airflow_provider_gemini_batch.lifecycle.verdict import RowSample, check_ended, check_state
from airflow_provider_gemini_batch.rows.legacy_embeddings import with_keys
from airflow_provider_gemini_batch.rows.line_batches import line_blocks, lines_of, split_lines
from airflow_provider_gemini_batch.rows.results import iter_inline_results, read_result
from airflow_provider_gemini_batch.rows.settings import RowSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_gemini_batch.api.models import BatchJob, BatchResult
    from airflow_provider_gemini_batch.client.session import Log, Session
    from airflow_provider_gemini_batch.rows.line_batches import Lines

ROWS_SAMPLED = 1000
"""Answers that are read to say why rows failed, before anybody downloads them all."""


class ResultReader:
    """
    Reads the answers of jobs.

    :param session: The connection.
    :param log: Told what cannot be read and is done without.
    """

    def __init__(self, session: Session, log: Log) -> None:
        self._session = session
        self._log = log

    def responses(self, job: BatchJob) -> Iterator[BatchResult]:
        """Yield the answers one by one, in the order the service keeps them (any order)."""
        for number, line in enumerate(self.lines(job), 1):
            yield read_result(line, position=number)

    def sample_rows(self, job: BatchJob) -> RowSample:
        """Read the first answers, to say why rows failed and how many were cut off; empty if they cannot be read."""
        reasons: Counter[str] = Counter()
        truncated = read = 0
        is_whole = True
        try:
            for result in islice(self.responses(job), ROWS_SAMPLED):
                read += 1
                truncated += result.status == "succeeded" and result.finish_reason == "MAX_TOKENS"
                if result.status == "failed" and result.error is not None:
                    reasons[str(JobErrorInfo(result.error["code"], result.error["message"]))] += 1
        except (GeminiBatchError, OSError) as error:
            is_whole = False
            self._log.warning("Why rows of %s failed could not be looked up. %s", job.name, error)
        return RowSample(dict(reasons.most_common()), truncated, read, is_whole=is_whole and read < ROWS_SAMPLED)

    def lines(self, job: BatchJob) -> Iterator[bytes | dict[str, Any]]:
        """Yield the raw result lines."""
        for found in self.blocks(job):
            if isinstance(found, list):
                yield from lines_of(found)
            else:
                yield found

    def blocks(self, job: BatchJob) -> Iterator[Lines | bytes | dict[str, Any]]:
        """
        Yield the raw results as they arrive: several lines with their newlines, or one result.

        :param job: As last seen; it has ended.
        :raises JobError: If the job left no answers.
        :raises ConfigurationError: If it has not ended, or its answers are gone.
        """
        output = job.output
        if output is None:
            if job.is_done:
                check_ended(job, None)
            raise ConfigurationError(f"{job.name} has no results: it is {job.state.value}. Wait for it to end first.")
        if output.kind == "inline":
            yield from self._inline(job.name)
        elif output.kind == "file":
            yield from line_blocks(self._session.read_file(output.place))
        elif output.kind == "gcs":
            yield from self._with_keys(job, self._objects(job, output.place))
        else:
            settings = self._session.settings
            rows = BigQuery(settings.bigquery_base_url).rows(self._session.run, output.place, self._session.retry)
            yield from map(result_line, rows)

    def _inline(self, job_name: str) -> Iterator[bytes | dict[str, Any]]:
        """Yield the answers that lie in the job resource, which is brought to disk first."""
        session = self._session
        with tempfile.TemporaryFile() as body:
            for piece in session.transport.stream(lambda offset: session.backend.get_job(job_name, masked=False)):
                body.write(piece)
            body.seek(0)
            yield from iter_inline_results(body)

    def _objects(self, job: BatchJob, directory: str) -> Iterator[Lines]:
        """Yield the lines of every result object under a job's output directory; a long job leaves several."""
        files = self._session.all_files(prefix=directory.rstrip("/") + "/")
        names = sorted(file.name for file in files if file.name.endswith(".jsonl"))
        if not names:
            if not job.is_succeeded:
                check_state(job)  # it may name a place and have left nothing there
            raise ConfigurationError(
                f"There are no *.jsonl objects under {directory}: they were removed, or may not be listed."
            )
        for name in names:
            yield from line_blocks(self._session.read_file(name))

    def _with_keys(self, job: BatchJob, blocks: Iterator[Lines]) -> Iterator[Lines | bytes]:
        """Give answers of the older embedding models, which come without keys, those of the job's input."""
        place = job.input_place or ""
        if not place.startswith("gs://") or not RowSettings("embed", "vertex_ai", job.model).is_legacy_embedding:
            return blocks

        def rows() -> Iterator[bytes]:
            try:
                yield from split_lines(self._session.read_file(place))
            except (NotFoundError, PermissionDeniedError) as error:
                self._log.warning("The answers of %s stay without keys: its input cannot be read. %s", job.name, error)

        return with_keys((line for block in blocks for line in lines_of(block)), rows)
