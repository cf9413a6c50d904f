# SPDX-License-Identifier: Apache-2.0
"""Rows on their way to Google, as flows: find a file with the same bytes, or send it."""

# Everything here happens before a job exists: it may cost an upload, never money.

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_gemini_batch.api.flows import Pages, delete_file, exchange, find_reader, get_file
from airflow_provider_gemini_batch.api.identity import input_digest_in
from airflow_provider_gemini_batch.api.wire import Digested, Flow, Pause, UploadSource
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    FileGoneError,
    GeminiBatchError,
    InputChangedError,
    NotFoundError,
    PermissionDeniedError,
    RequestRejectedError,
)
from airflow_provider_gemini_batch.lifecycle.request import Placed, unwritable
from airflow_provider_gemini_batch.times import epoch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.models import RemoteFile
    from airflow_provider_gemini_batch.api.retry import RetryPolicy
    from airflow_provider_gemini_batch.cost.input_measure import InputMeasure
    from airflow_provider_gemini_batch.lifecycle.submission import Submission

MIME_TYPE = "application/jsonl"

STILL_NEEDED = 24 * 3600.0
"""Seconds a file must still live to be used again: the service's target for a whole job."""

ACTIVE_WITHIN = 600.0


class FileToSend(UploadSource, Digested, Protocol):
    """A file that is read from disk while it is sent, and may change meanwhile."""

    def check_arrived(self, sha256: str | None) -> None:
        """Raise InputChangedError if what has arrived, of this digest where it is known, is not what was to be sent."""


@dataclass(frozen=True)
class PreparedInput:
    """
    Rows checked and in wire form, on disk or in memory.

    :param identity: What the digest of the submission is made of.
    :param rows: Number of rows, or None for rows at Google.
    :param input_digest: Names the lines of the user's file (``SubmissionToken.input``); empty for other sources.
    :param measure: What an estimate of the cost needs to know; None for rows that were not read.
    :param sample: Some of the rows, to count their tokens; empty for rows on disk.
    """

    identity: Mapping[str, Any]
    rows: int | None = None
    file: FileToSend | None = None
    placed: Placed | None = None
    input_digest: str = ""
    measure: InputMeasure | None = None
    sample: tuple[bytes, ...] = ()

    def place(self, backend: Backend, retry: RetryPolicy, display_name: str) -> Flow[Placed]:
        """Bring the rows to where the backend wants them; a file with the same bytes that lies there is used."""
        if self.placed is not None:
            return self.placed
        assert self.file is not None
        remote, sent = yield from place_file(backend, retry, self.file, display_name=display_name, mime_type=MIME_TYPE)
        return Placed(file_name=remote.name, uploaded=remote.name, sent=sent)


class Upload:
    """
    Rows on their way to a job: sent when it turns out that a job needs them, removed again if none came to use them.

    After a refused create they stay: the next attempt finds them, and the Files API forgets them after two days.
    """

    def __init__(
        self,
        source: PreparedInput,
        backend: Backend,
        retry: RetryPolicy,
        display_name: str,
    ) -> None:
        self._source = source
        self._backend = backend
        self._retry = retry
        self._display_name = display_name
        self._placed: Placed | None = None

    def place(self) -> Flow[Placed]:
        """Bring the rows to where the backend wants them."""
        self._placed = yield from self._source.place(self._backend, self._retry, self._display_name)
        return self._placed

    def removed_if_unused(self, submitting: Flow[Submission]) -> Flow[Submission]:
        """Carry *submitting* out; if it ends with a job that reads another file, remove what was sent for nothing."""
        submission = yield from submitting
        placed, place = self._placed, submission.job.input_place
        # Only what this very attempt sent, and only if the job demonstrably reads something else.
        if placed is not None and placed.sent and placed.uploaded and place not in (None, placed.uploaded):
            # A job's own work is done: a file that stays is a nuisance, not a failure.
            with suppress(GeminiBatchError):
                # Another task with the same rows may have found it. One that is about to create its job with it is not
                # seen; it is refused then, which costs a try and no money.
                if (yield from find_reader(self._backend, placed.uploaded, self._retry)) is None:
                    yield from delete_file(self._backend, placed.uploaded, self._retry)
        return submission


def place_file(
    backend: Backend,
    retry: RetryPolicy,
    source: FileToSend,
    *,
    display_name: str,
    mime_type: str,
    now: Callable[[], float] = time.time,
) -> Flow[tuple[RemoteFile, bool]]:
    """
    Upload a file, unless one with the same bytes lies there and lives long enough.

    Where the backend names files by their content, that name tells; else the list of files tells each one's SHA-256.
    A file whose name is to carry the digest of an input is used again only if it carries the same: a job that is made
    from the file has it from there.

    :return: The file, and whether it was sent for this call alone: an object that is named by its content may be
        somebody else's too.
    :raises ConfigurationError: If *display_name* or *mime_type* cannot be sent.
    :raises InputChangedError: If *source* changes meanwhile.
    """
    if not isinstance(mime_type, str) or not (mime_type.isascii() and mime_type.isprintable()):
        raise ConfigurationError(f"mime_type must be like {MIME_TYPE}, not {mime_type!r}.")
    if not isinstance(display_name, str) or unwritable("display_name", display_name):
        raise ConfigurationError(f"display_name must be a text of whole characters, not {display_name!r}.")
    mark = input_digest_in(display_name)
    # A name made of the content: whoever uploads the same rows finds them there, without reading a list.
    name = backend.upload_name(source, mark)
    if name:
        stored = yield from _upload(backend, retry, source, name, display_name, mime_type)
        return stored, False
    found = yield from find_uploaded(backend, retry, source, now, mark)
    if found is not None:
        return found, False
    uploaded = yield from _upload(backend, retry, source, "", display_name, mime_type)
    return (yield from until_active(backend, uploaded, retry, now)), True


def _upload(
    backend: Backend, retry: RetryPolicy, source: FileToSend, name: str, display_name: str, mime_type: str
) -> Flow[RemoteFile]:
    """Send a file; what has arrived of one that was written to meanwhile is removed."""
    try:
        stored = yield from backend.upload(source, name=name, display_name=display_name, mime_type=mime_type)
    except (ConfigurationError, InputChangedError):
        source.check_arrived(None)  # then this is why
        raise
    if stored.was_there:  # it is as its name says, and others may be reading it
        return stored
    try:
        source.check_arrived(stored.sha256)
    except InputChangedError:
        with suppress(GeminiBatchError):  # it tells less than this one
            yield from delete_file(backend, stored.name, retry)
        raise
    return stored


def find_uploaded(
    backend: Backend, retry: RetryPolicy, source: FileToSend, now: Callable[[], float], mark: str = ""
) -> Flow[RemoteFile | None]:
    """
    Look for an active file with the same bytes that does not expire during a job.

    :param mark: The digest of an input that its name must carry; any name will do without one.
    """
    pages = Pages()
    for token in pages:
        page = yield from exchange(backend.list_files(100, token), backend.read_file_page, retry)
        for file in page.files:
            expires = epoch(file.expiration_time)
            lives = expires is None or expires - now() > STILL_NEEDED
            # The job takes the digest of its input from this name, and a download checks by it: equal rows from another
            # file would look like the wrong input.
            if mark and input_digest_in(file.display_name) != mark:
                continue
            # The digest last: only where a file has the same size, ours is read for one.
            if file.size == source.size and file.state == "ACTIVE" and lives and file.sha256 == source.sha256:
                return file
        pages.turn(page)
    return None


def until_active(backend: Backend, file: RemoteFile, retry: RetryPolicy, now: Callable[[], float]) -> Flow[RemoteFile]:
    """Wait until an uploaded file can be used."""
    deadline = now() + ACTIVE_WITHIN
    while file.state == "PROCESSING" and now() < deadline:
        yield Pause(2.0)
        file = yield from get_file(backend, file.name, retry)
    if file.state != "ACTIVE":
        raise RequestRejectedError(
            f"The uploaded file {file.name} cannot be used: it is {file.state}"
            + (f", the service says: {file.error}." if file.error else ". Try again later.")
        )
    return file


def look_at_remote(backend: Backend, name: str, retry: RetryPolicy) -> Flow[RemoteFile | None]:
    """
    Look at a file that a job is to read, so that a missing one is told before anything is submitted.

    :raises FileGoneError: If it is not there.
    :return: None on Vertex AI if we may not look: there the service's own account reads the object, not we.
    """
    try:
        return (yield from get_file(backend, name, retry))
    except PermissionDeniedError as error:
        if not backend.hides_missing_files:
            return None
        raise FileGoneError(
            f"{name} cannot be used: it does not exist, has expired (files live 48 hours), or belongs to another "
            "project. Upload it again."
        ) from error
    except NotFoundError as error:
        if "bucket does not exist" in str(error):
            raise ConfigurationError(f"The bucket of {name} does not exist. Create it, or correct the name.") from error
        raise FileGoneError(f"{name} does not exist. Upload it first, or correct the name.") from error
