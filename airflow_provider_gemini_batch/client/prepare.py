# SPDX-License-Identifier: Apache-2.0
"""Rows -> a file to upload and a digest of it. Nothing is sent, and whatever cannot work is said here."""

from __future__ import annotations

import hashlib
import logging
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.identity import input_digest_in
from airflow_provider_gemini_batch.client.advice import (
    Advice,
    model_advice,
    own_members_note,
    row_advice,
    settings_advice,
)
from airflow_provider_gemini_batch.client.measure import MediaWatch, RowWatch
from airflow_provider_gemini_batch.cost.input_measure import InputMeasure
from airflow_provider_gemini_batch.cost.model_table import model_kind
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.input_file import OpenFile, open_original, write_input
from airflow_provider_gemini_batch.files.paths import normalise_path
from airflow_provider_gemini_batch.lifecycle.request import Placed
from airflow_provider_gemini_batch.lifecycle.upload import PreparedInput
from airflow_provider_gemini_batch.rows.input_digest import InputDigest, digest_of_rows
from airflow_provider_gemini_batch.rows.input_rows import row_keys
from airflow_provider_gemini_batch.rows.line_batches import file_blocks
from airflow_provider_gemini_batch.rows.normalise import naming, normalise_blocks, normalise_rows, told
from airflow_provider_gemini_batch.rows.notes import RowReport
from airflow_provider_gemini_batch.rows.settings import RowSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.models import BackendName, RemoteFile
    from airflow_provider_gemini_batch.lifecycle.request import JobRequest
    from airflow_provider_gemini_batch.rows.fast_path import FastBlock
    from airflow_provider_gemini_batch.rows.normalise import WireRow

log = logging.getLogger(__name__)


ANSWER_BYTES = 16 * 1024 * 1024
"""Answers that may be larger come in a file: the job resource holds them twice, and reading such a one ends in 503."""

_BYTES_A_TOKEN = 4
_TOKENS_A_ROW = 1024
"""Assumed where ``maxOutputTokens`` is not set: a page of text."""

_BYTES_A_NUMBER = 12
_NUMBERS_A_VECTOR = 3072


@contextmanager
def prepared(
    request: JobRequest,
    backend: Backend,
    look_at_file: Callable[[str], RemoteFile | None],
    *,
    is_own_host: bool = False,
    knows_model: bool = True,
) -> Iterator[PreparedInput]:
    """
    Check a request and its rows, and bring them into a file to upload.

    :param look_at_file: Returns what is known of a file at Google, or None if it may not be looked at.
    :param is_own_host: Whether calls go to an emulator or a proxy: what is known of Google's models may not hold there.
    :param knows_model: Whether ``request.model`` is the one that will answer.
    :raises ConfigurationError: For anything that cannot work, before money is spent.
    :raises EmptyInputError: If there are no rows.
    """
    request.check(backend)
    if knows_model:
        check_model(request.model, backend, is_own_host=is_own_host)
    # Rows in a table are not read here: they may be terabytes, and the table's name is what identifies them.
    if request.bigquery_uri is not None:
        yield PreparedInput(request.identity(request.bigquery_uri), placed=Placed(bigquery_uri=request.bigquery_uri))
        return
    if (remote_name := request.remote_file) is not None:
        # Rows at Google are not read: the service's own digest of their bytes stands for them, or else their name.
        remote = look_at_file(remote_name)
        at_storage = remote_name.startswith("gs://")
        placed = Placed(gcs_uri=remote_name) if at_storage else Placed(file_name=remote_name)
        mark = input_digest_in(remote.display_name) if remote is not None else ""
        yield PreparedInput(request.identity(_content_identity(remote, remote_name)), placed=placed, input_digest=mark)
        return
    # One pass over the input makes everything: the check, the wire form, the digests, and the measure for the estimate.
    digest = InputDigest()
    with _rows(request, digest) as (rows, original):
        settings = row_settings(request, backend.name)
        report = RowReport()
        normalised: Iterable[FastBlock | WireRow] = normalise_blocks(rows, settings, report)
        if request.input_path is not None:
            normalised = naming(request.input_path, normalised)
        if backend.inline_limit and request.inlined_requests is not None:
            # In memory, since rows given as a list are there already, and their size decides which way they go.
            kept = list(normalise_rows(rows, settings, report))
            lines = [row.line() for row in kept]
            size = sum(map(len, lines))
            if size <= backend.inline_limit and not _answers_may_be_large(request, report):
                # Of the lines as a file would have them: the same rows have one token, whichever way they travel.
                sha256 = hashlib.sha256(b"".join(lines)).hexdigest()
                placed = Placed(requests=tuple(row.inline() for row in kept))
                _say_what_was_found(request, backend.name, report, knows_model=knows_model)
                watch = RowWatch()
                for line in lines:
                    watch.see(line)
                measured = InputMeasure(len(kept), size, report.longest_answer, has_media=watch.has_media)
                yield PreparedInput(
                    request.identity(sha256),
                    len(kept),
                    placed=placed,
                    input_digest=_mark_of_list(request),
                    measure=measured,
                    sample=watch.sample,
                )
                return
            normalised = kept
        media = MediaWatch()
        normalised = _shown(normalised, media)
        with write_input(normalised, backend=settings.backend, original=original) as file:
            # Only after write_input has read all rows through: before, the digest knows nothing.
            mark = digest.mark() if request.input_path is not None else _mark_of_list(request)
            _say_what_was_found(request, backend.name, report, knows_model=knows_model, is_file=True)
            measured = InputMeasure(report.sent, file.size, report.longest_answer, has_media=media.found)
            yield PreparedInput(request.identity(file.sha256), file.rows, file, input_digest=mark, measure=measured)


def _mark_of_list(request: JobRequest) -> str:
    """Return what names the rows of a list where one is known by its number alone, so that their order matters."""
    rows = request.inlined_requests or ()
    keys = row_keys(rows, request.key)
    try:
        numbered = any(key == f"row-{number}" for number, key in enumerate(keys, 1))
    except ConfigurationError:
        numbered = True  # a row that is left out
    return digest_of_rows(rows) if numbered else ""


def _shown(rows: Iterable[FastBlock | WireRow], media: MediaWatch) -> Iterator[FastBlock | WireRow]:
    """Pass rows on, and show them to *media*."""
    for row in rows:
        media.see_rows(row)
        yield row


def _answers_may_be_large(request: JobRequest, report: RowReport) -> bool:
    """
    Say whether the answers of an inline job might not fit into what can be read.

    Such a job ends well, is billed, and every read of it ends in 503 or 504: answers lie inside the job resource, twice
    (https://github.com/googleapis/python-genai/issues/2519).
    """
    if (
        report.modalities - {"TEXT"}
        or "responseLogprobs" in report.settings
        or model_kind(request.model) in ("image", "speech")
    ):
        return True
    if request.kind == "embed":
        size = (request.output_dimensionality or _NUMBERS_A_VECTOR) * _BYTES_A_NUMBER
    else:
        size = (report.max_output_tokens or _TOKENS_A_ROW) * _BYTES_A_TOKEN
    return report.sent * size > ANSWER_BYTES


def check_model(model: str, backend: Backend, *, is_own_host: bool) -> None:
    """
    Log what is known against a model.

    :raises ConfigurationError: If the service refuses it to everybody.
    """
    _say(model_advice(model, backend.name, date.today(), is_own_host=is_own_host))


def _say(advices: Iterable[Advice]) -> None:
    """
    Log advice.

    :raises ConfigurationError: If there is one that says that the job cannot be had.
    """
    refusals = []
    for advice in advices:
        if advice.is_refusal:
            refusals.append(advice.text)
        else:
            log.warning("%s", advice.text)
    if refusals:
        raise ConfigurationError(" ".join(refusals))


def _say_what_was_found(
    request: JobRequest, backend: BackendName, report: RowReport, *, knows_model: bool, is_file: bool = False
) -> None:
    """Log once what is worth a word about the rows."""
    _say(row_advice(report, backend))
    if knows_model:
        _say(settings_advice(request.model, report))
    if is_file and (note := own_members_note(report)):
        log.info("%s", note)
    if report.refused:
        log.warning(
            "%d of %d rows cannot be sent and are left out; they land as failed where DownloadResultsOperator is given "
            "input_path. %s",
            report.refused,
            report.refused + report.sent,
            told(report),
        )


def row_settings(request: JobRequest, backend: BackendName) -> RowSettings:
    """Return what the rows' normaliser needs to know."""
    return RowSettings(
        kind=request.kind,
        backend=backend,
        model=request.model,
        key=request.key,
        skip_bad_rows=request.on_bad_row == "land",
        **request.row_settings,
    )


@contextmanager
def _rows(request: JobRequest, digest: InputDigest) -> Iterator[tuple[Iterable[Any], OpenFile | None]]:
    """Yield the rows, whose lines go through *digest*, and the local file whose lines they are."""
    if request.inlined_requests is not None:
        yield request.inlined_requests, None
        return
    stream, original = open_original(normalise_path(request.input_path, "input_path"))
    with stream:
        yield digest.watch(file_blocks(stream)), original


def _content_identity(remote: RemoteFile | None, name: str) -> str:
    """Name a remote file by its content where the service tells it, so that the same bytes count as the same input."""
    if remote is None:
        return name
    if remote.metadata.get("sha256"):
        return remote.metadata["sha256"]
    return remote.sha256 or (f"md5:{remote.md5}" if remote.md5 else name)
