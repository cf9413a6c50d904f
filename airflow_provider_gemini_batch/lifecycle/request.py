# SPDX-License-Identifier: Apache-2.0
"""
What a user asks to have computed -> rows on disk, a digest of them, and their place at Google.

Everything here happens before a job exists: it may cost an upload, never money.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.api.flows import (
    Pages,
    delete_file,
    exchange,
    find_reader,
    get_file,
)
from airflow_provider_gemini_batch.api.models import Backend, JobSpec, Kind, RemoteFile
from airflow_provider_gemini_batch.api.wire import Flow, Pause
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    GeminiBatchError,
    InputChangedError,
    NotFoundError,
    PermissionDeniedError,
    RequestRejectedError,
)
from airflow_provider_gemini_batch.files.input_file import InputFile, OpenFile, open_original, write_input
from airflow_provider_gemini_batch.files.paths import place_of
from airflow_provider_gemini_batch.rows.forms import (
    RowSettings,
    naming,
    normalise_blocks,
    normalise_rows,
    unknown_members,
)
from airflow_provider_gemini_batch.times import epoch

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.backend import Surface
    from airflow_provider_gemini_batch.api.retry import RetryPolicy
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
    from airflow_provider_gemini_batch.lifecycle.submit import Submission
    from airflow_provider_gemini_batch.rows.fast_path import CommonBlock
    from airflow_provider_gemini_batch.rows.forms import WireRow

log = logging.getLogger(__name__)

MIME_TYPE = "application/jsonl"
INLINE_BYTES = 4 * 1024 * 1024
"""Rows above this travel as a file even when given inline: their answers would come back inside the job resource."""

STILL_NEEDED = 24 * 3600.0
"""Seconds a file must still live to be used again: the service's target for a whole job."""

ACTIVE_WITHIN = 600.0
_SOURCES = ("inlined_requests", "input_path", "file_name", "gcs_uri", "bigquery_uri")


@dataclass(frozen=True)
class JobRequest:
    """
    A job as a user asks for it; see ``CreateBatchOperator`` for the members.

    :param kind: ``generate`` or ``embed``.
    """

    kind: Kind
    model: str
    inlined_requests: Sequence[Mapping[str, Any]] | None = None
    input_path: str | os.PathLike[str] | None = None
    file_name: str | None = None
    gcs_uri: str | None = None
    bigquery_uri: str | None = None
    destination: str | None = None
    display_name: str | None = None
    generation_config: Mapping[str, Any] | None = None
    system_instruction: str | Mapping[str, Any] | None = None
    task_type: str | None = None
    title: str | None = None
    output_dimensionality: int | None = None
    priority: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    webhook_config: Mapping[str, Any] | None = None

    @property
    def row_settings(self) -> dict[str, Any]:
        """The settings that go into rows, without those not given."""
        names = ("generation_config", "system_instruction", "task_type", "title", "output_dimensionality")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def check(self, backend: str) -> None:
        """Raise ConfigurationError naming everything that cannot work, before anything is read or sent."""
        problems = []
        if not isinstance(self.model, str) or not self.model.strip():
            problems.append(f"model must name a Gemini model, not {self.model!r}")
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            problems.append(
                f"give exactly one of {', '.join(_SOURCES)}, not {' and '.join(given) if given else 'none of them'}"
            )
        empty = [name for name in given if getattr(self, name) in ("", [], ())]
        problems += [f"{name} is empty" for name in empty]
        remote = [name for name in given if name in ("file_name", "gcs_uri", "bigquery_uri")]
        if remote and self.row_settings:
            problems.append(
                f"{', '.join(self.row_settings)} cannot be applied to rows that already lie at Google ({remote[0]}); "
                "put them into the rows, or give the rows as input_path or inlined_requests"
            )
        if backend == "gemini":
            problems += [
                f"{name} works on Vertex AI only: give input_path, which takes gs:// too, or use a Vertex AI connection"
                for name in ("gcs_uri", "bigquery_uri")
                if getattr(self, name) is not None
            ]
        for name, scheme in (("gcs_uri", "gs://"), ("bigquery_uri", "bq://")):
            value = getattr(self, name)
            if isinstance(value, str) and value and not value.startswith(scheme):
                problems.append(f"{name} must begin with {scheme}, not {value!r}")
        if self.destination is not None and not str(self.destination).startswith(("gs://", "bq://")):
            problems.append(f"destination must be gs://bucket/prefix or bq://project.dataset, not {self.destination!r}")
        rows = self.inlined_requests
        if rows is not None and (isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable)):
            problems.append("inlined_requests must be a list of rows; for a file use input_path")
        if self.generation_config is not None and not isinstance(self.generation_config, Mapping):
            problems.append(f"generation_config must be a dict, not {type(self.generation_config).__name__}")
        if self.priority is not None and (isinstance(self.priority, bool) or not isinstance(self.priority, int)):
            problems.append(f"priority must be a whole number, not {self.priority!r}")
        dimensions = self.output_dimensionality
        if dimensions is not None and (
            isinstance(dimensions, bool) or not isinstance(dimensions, int) or dimensions < 1
        ):
            problems.append(f"output_dimensionality must be a whole number above 0, not {dimensions!r}")
        if self.webhook_config is not None and not isinstance(self.webhook_config, Mapping):
            problems.append(f"webhook_config must be a dict, not {type(self.webhook_config).__name__}")
        if not isinstance(self.labels, Mapping):
            problems.append(f"labels must be a dict, not {type(self.labels).__name__}")
        if self.display_name is not None and not isinstance(self.display_name, str):
            problems.append(f"display_name must be a text, not {self.display_name!r}")
        for name in ("model", "display_name", "webhook_config"):
            if problem := _unwritable(name, getattr(self, name)):
                problems.append(problem)
        if problems:
            raise ConfigurationError("; ".join(problems) + ".")

    def row_settings_for(self, backend: str) -> RowSettings:
        """Return what the rows' normaliser needs to know."""
        which: Backend = "vertex_ai" if backend == "vertex_ai" else "gemini"
        return RowSettings(kind=self.kind, backend=which, model=self.model, **self.row_settings)

    def spec(self, placed: Placed, display_name: str) -> JobSpec:
        """Return the job to submit with its rows at *placed*."""
        return JobSpec(
            model=self.model,
            kind=self.kind,
            display_name=display_name,
            requests=placed.requests,
            file_name=placed.file_name,
            gcs_uri=placed.gcs_uri,
            bigquery_uri=placed.bigquery_uri,
            destination=self.destination,
            priority=self.priority,
            labels=dict(self.labels),
            webhook_config=self.webhook_config,
        )


@dataclass(frozen=True)
class Placed:
    """
    Where rows lie for a job: one member is set.

    :param uploaded: The file that was sent or found.
    :param sent: Whether this very attempt sent it. Another task with the same rows may have found it since.
    """

    requests: tuple[Mapping[str, Any], ...] | None = None
    file_name: str | None = None
    gcs_uri: str | None = None
    bigquery_uri: str | None = None
    uploaded: str | None = None
    sent: bool = False


@dataclass(frozen=True)
class PreparedInput:
    """
    Rows checked and in wire form, on disk or in memory.

    :param identity: What the digest of the submission is made of.
    :param rows: Number of rows, or None for rows at Google.
    """

    identity: Mapping[str, Any]
    rows: int | None = None
    file: InputFile | None = None
    placed: Placed | None = None

    def place(
        self, surface: Surface, settings: ConnectionSettings, retry: RetryPolicy, display_name: str
    ) -> Flow[Placed]:
        """Bring the rows to where the backend wants them; a file with the same bytes that lies there is used."""
        if self.placed is not None:
            return self.placed
        assert self.file is not None
        remote, sent = yield from place_file(
            surface, settings, retry, self.file, display_name=display_name, mime_type=MIME_TYPE
        )
        if surface.backend == "gemini":
            return Placed(file_name=remote.name, uploaded=remote.name, sent=sent)
        return Placed(gcs_uri=remote.name, uploaded=remote.name)


class Upload:
    """
    Rows on their way to a job: sent when it turns out that a job needs them, removed again if none came to use them.

    After a refused create they stay: the next attempt finds them, and the Files API forgets them after two days.
    """

    def __init__(
        self,
        source: PreparedInput,
        surface: Surface,
        settings: ConnectionSettings,
        retry: RetryPolicy,
        display_name: str,
    ) -> None:
        self._source = source
        self._surface = surface
        self._settings = settings
        self._retry = retry
        self._display_name = display_name
        self._placed: Placed | None = None

    def place(self) -> Flow[Placed]:
        """Bring the rows to where the backend wants them."""
        self._placed = yield from self._source.place(self._surface, self._settings, self._retry, self._display_name)
        return self._placed

    def removed_if_unused(self, submitting: Flow[Submission]) -> Flow[Submission]:
        """Carry *submitting* out; if it ends with a job that reads another file, remove what was sent for nothing."""
        submission = yield from submitting
        placed, place = self._placed, submission.job.input_place
        if placed is not None and placed.sent and placed.uploaded and place not in (None, placed.uploaded):
            # A job's own work is done: a file that stays is a nuisance, not a failure.
            with suppress(GeminiBatchError):
                # Another task with the same rows may have found it. One that is about to create its job with it is not
                # seen; it is refused then, which costs a try and no money.
                if (yield from find_reader(self._surface, placed.uploaded, self._retry)) is None:
                    yield from delete_file(self._surface, placed.uploaded, self._retry)
        return submission


@contextmanager
def prepared(
    request: JobRequest, backend: str, look_at_file: Callable[[str], RemoteFile | None]
) -> Iterator[PreparedInput]:
    """
    Check a request and its rows, and bring them into a file to upload.

    :param look_at_file: Returns what is known of a file at Google, or None if it may not be looked at.
    :raises ConfigurationError: For anything that cannot work, before money is spent.
    """
    request.check(backend)
    common = {
        "kind": request.kind,
        "model": request.model,
        "destination": request.destination,
    }
    if request.bigquery_uri is not None:
        yield PreparedInput(
            {**common, "source": request.bigquery_uri}, placed=Placed(bigquery_uri=request.bigquery_uri)
        )
        return
    remote_name = request.file_name if request.file_name is not None else request.gcs_uri
    if remote_name is not None:
        remote = look_at_file(remote_name)
        at_storage = remote_name.startswith("gs://")
        placed = Placed(gcs_uri=remote_name) if at_storage else Placed(file_name=remote_name)
        yield PreparedInput({**common, "source": _content_identity(remote, remote_name)}, placed=placed)
        return
    with _rows(request) as (rows, original):
        settings = request.row_settings_for(backend)
        normalised: Iterable[CommonBlock | WireRow] = normalise_blocks(rows, settings)
        for name, meant in unknown_members(request.generation_config or {}).items():
            guess = f"; {meant} may be meant" if meant else ""
            log.warning("generation_config: %r is not known here and is sent as it is%s.", name, guess)
        if request.input_path is not None:
            normalised = naming(request.input_path, normalised)
        if backend == "gemini" and request.inlined_requests is not None:
            kept = list(normalise_rows(rows, settings))
            lines = [row.line() for row in kept]
            if sum(map(len, lines)) <= INLINE_BYTES:
                sha256 = hashlib.sha256(b"".join(lines)).hexdigest()
                placed = Placed(requests=tuple(row.inline() for row in kept))
                yield PreparedInput({**common, "source": sha256}, len(kept), placed=placed)
                return
            normalised = kept
        with write_input(normalised, backend=settings.backend, original=original) as file:
            yield PreparedInput({**common, "source": file.sha256}, file.rows, file)


@contextmanager
def _rows(request: JobRequest) -> Iterator[tuple[Iterable[Any], OpenFile | None]]:
    """Yield the rows, and the local file whose lines they are."""
    if request.inlined_requests is not None:
        yield request.inlined_requests, None
        return
    stream, original = open_original(place_of(request.input_path, "input_path"))
    with stream:
        yield stream, original


def _content_identity(remote: RemoteFile | None, name: str) -> str:
    """Name a remote file by its content where the service tells it, so that the same bytes count as the same input."""
    if remote is None:
        return name
    if remote.metadata.get("sha256"):
        return remote.metadata["sha256"]
    return remote.sha256 or (f"md5:{remote.md5}" if remote.md5 else name)


def _unwritable(name: str, value: Any) -> str:
    """Say why an argument cannot be sent, or nothing."""
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as fault:
        return f"{name} cannot be written as JSON ({fault})"
    return ""


def place_file(
    surface: Surface,
    settings: ConnectionSettings,
    retry: RetryPolicy,
    source: InputFile,
    *,
    display_name: str,
    mime_type: str,
    now: Callable[[], float] = time.time,
) -> Flow[tuple[RemoteFile, bool]]:
    """
    Upload a file, unless one with the same bytes lies there and lives long enough.

    On Vertex AI the object is named by its content below the connection's ``storage_uri``; on the Developer API the
    list of files tells each file's SHA-256.

    :return: The file, and whether it was sent for this call alone: an object that is named by its content may be
        somebody else's too.
    :raises ConfigurationError: If *display_name* or *mime_type* cannot be sent.
    :raises InputChangedError: If *source* changes meanwhile.
    """
    if not isinstance(mime_type, str) or not (mime_type.isascii() and mime_type.isprintable()):
        raise ConfigurationError(f"mime_type must be like {MIME_TYPE}, not {mime_type!r}.")
    if not isinstance(display_name, str) or _unwritable("display_name", display_name):
        raise ConfigurationError(f"display_name must be a text of whole characters, not {display_name!r}.")
    if surface.backend == "vertex_ai":
        if not settings.storage_uri:
            raise ConfigurationError(
                "Vertex AI reads rows from Cloud Storage: set storage_uri (gs://bucket/prefix) in the connection."
            )
        name = f"{settings.storage_uri}/inputs/{source.sha256[:32]}.jsonl"
        stored = yield from _upload(surface, retry, source, name, display_name, mime_type)
        return stored, False
    found = yield from find_uploaded(surface, retry, source, now)
    if found is not None:
        return found, False
    uploaded = yield from _upload(surface, retry, source, "", display_name, mime_type)
    return (yield from until_active(surface, uploaded, retry, now)), True


def _upload(
    surface: Surface, retry: RetryPolicy, source: InputFile, name: str, display_name: str, mime_type: str
) -> Flow[RemoteFile]:
    """Send a file; what has arrived of one that was written to meanwhile is removed."""
    try:
        stored = yield from surface.upload(source, name=name, display_name=display_name, mime_type=mime_type)
    except (ConfigurationError, InputChangedError):
        source.check_arrived(None)  # then this is why
        raise
    if stored.was_there:  # it is as its name says, and others may be reading it
        return stored
    try:
        source.check_arrived(stored.sha256)
    except InputChangedError:
        with suppress(GeminiBatchError):  # it tells less than this one
            yield from delete_file(surface, stored.name, retry)
        raise
    return stored


def find_uploaded(
    surface: Surface, retry: RetryPolicy, source: InputFile, now: Callable[[], float]
) -> Flow[RemoteFile | None]:
    """Look for an active file with the same bytes that does not expire during a job."""
    pages = Pages()
    for token in pages:
        page = yield from exchange(surface.list_files(100, token), surface.read_file_page, retry)
        for file in page.files:
            expires = epoch(file.expiration_time)
            lives = expires is None or expires - now() > STILL_NEEDED
            # The digest last: only where a file has the same size, ours is read for one.
            if file.size == source.size and file.state == "ACTIVE" and lives and file.sha256 == source.sha256:
                return file
        pages.turn(page)
    return None


def until_active(surface: Surface, file: RemoteFile, retry: RetryPolicy, now: Callable[[], float]) -> Flow[RemoteFile]:
    """Wait until an uploaded file can be used."""
    deadline = now() + ACTIVE_WITHIN
    while file.state == "PROCESSING" and now() < deadline:
        yield Pause(2.0)
        file = yield from get_file(surface, file.name, retry)
    if file.state != "ACTIVE":
        raise RequestRejectedError(
            f"The uploaded file {file.name} cannot be used: it is {file.state}"
            + (f", the service says: {file.error}." if file.error else ". Try again later.")
        )
    return file


def look_at_remote(surface: Surface, name: str, retry: RetryPolicy) -> Flow[RemoteFile | None]:
    """
    Look at a file that a job is to read, so that a missing one is told before anything is submitted.

    :return: None on Vertex AI if we may not look: there the service's own account reads the object, not we.
    """
    try:
        return (yield from get_file(surface, name, retry))
    except PermissionDeniedError as error:
        if surface.backend == "vertex_ai":
            return None
        raise ConfigurationError(
            f"{name} cannot be used: it does not exist, has expired (files live 48 hours), or belongs to another "
            "project. Upload it again."
        ) from error
    except NotFoundError as error:
        if "bucket does not exist" in str(error):
            raise ConfigurationError(f"The bucket of {name} does not exist. Create it, or correct the name.") from error
        raise ConfigurationError(f"{name} does not exist. Upload it first, or correct the name.") from error
