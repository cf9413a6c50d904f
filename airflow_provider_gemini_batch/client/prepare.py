# SPDX-License-Identifier: Apache-2.0
"""Rows -> a file to upload and a digest of it. Nothing is sent, and whatever cannot work is said here."""

from __future__ import annotations

import hashlib
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.client.advice import row_advice
from airflow_provider_gemini_batch.files.input_file import OpenFile, open_original, write_input
from airflow_provider_gemini_batch.files.paths import normalise_path
from airflow_provider_gemini_batch.lifecycle.request import Placed
from airflow_provider_gemini_batch.lifecycle.upload import PreparedInput
from airflow_provider_gemini_batch.rows.input_digest import InputDigest
from airflow_provider_gemini_batch.rows.line_batches import file_blocks
from airflow_provider_gemini_batch.rows.normalise import naming, normalise_blocks, normalise_rows
from airflow_provider_gemini_batch.rows.notes import RowReport
from airflow_provider_gemini_batch.rows.settings import RowSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.models import RemoteFile
    from airflow_provider_gemini_batch.lifecycle.request import JobRequest
    from airflow_provider_gemini_batch.rows.fast_path import FastBlock
    from airflow_provider_gemini_batch.rows.normalise import WireRow

log = logging.getLogger(__name__)


@contextmanager
def prepared(
    request: JobRequest, backend: Backend, look_at_file: Callable[[str], RemoteFile | None]
) -> Iterator[PreparedInput]:
    """
    Check a request and its rows, and bring them into a file to upload.

    :param look_at_file: Returns what is known of a file at Google, or None if it may not be looked at.
    :raises ConfigurationError: For anything that cannot work, before money is spent.
    """
    request.check(backend)
    if request.bigquery_uri is not None:
        yield PreparedInput(request.identity(request.bigquery_uri), placed=Placed(bigquery_uri=request.bigquery_uri))
        return
    remote_name = request.file_name if request.file_name is not None else request.gcs_uri
    if remote_name is not None:
        remote = look_at_file(remote_name)
        at_storage = remote_name.startswith("gs://")
        placed = Placed(gcs_uri=remote_name) if at_storage else Placed(file_name=remote_name)
        yield PreparedInput(request.identity(_content_identity(remote, remote_name)), placed=placed)
        return
    digest = InputDigest()
    with _rows(request, digest) as (rows, original):
        settings = _row_settings(request, backend)
        report = RowReport()
        normalised: Iterable[FastBlock | WireRow] = normalise_blocks(rows, settings, report)
        if request.input_path is not None:
            normalised = naming(request.input_path, normalised)
        if backend.inline_limit and request.inlined_requests is not None:
            kept = list(normalise_rows(rows, settings, report))
            lines = [row.line() for row in kept]
            if sum(map(len, lines)) <= backend.inline_limit:
                sha256 = hashlib.sha256(b"".join(lines)).hexdigest()
                placed = Placed(requests=tuple(row.inline() for row in kept))
                _advise(report)
                yield PreparedInput(request.identity(sha256), len(kept), placed=placed)
                return
            normalised = kept
        with write_input(normalised, backend=settings.backend, original=original) as file:
            mark = digest.mark() if request.input_path is not None else ""
            _advise(report)
            yield PreparedInput(request.identity(file.sha256), file.rows, file, input_digest=mark)


def _advise(report: RowReport) -> None:
    for advice in row_advice(report):
        log.warning("%s", advice)


def _row_settings(request: JobRequest, backend: Backend) -> RowSettings:
    """Return what the rows' normaliser needs to know."""
    return RowSettings(
        kind=request.kind,
        backend=backend.name,
        model=request.model,
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
