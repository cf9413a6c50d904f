# SPDX-License-Identifier: Apache-2.0
"""The service's things as frozen values, the same for both backends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.times import epoch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BackendName = Literal["gemini", "vertex_ai"]
Kind = Literal["generate", "embed"]

# https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto: number, name, HTTP status of each.
_CODES = {
    1: ("CANCELLED", 499),
    2: ("UNKNOWN", 500),
    3: ("INVALID_ARGUMENT", 400),
    4: ("DEADLINE_EXCEEDED", 504),
    5: ("NOT_FOUND", 404),
    6: ("ALREADY_EXISTS", 409),
    7: ("PERMISSION_DENIED", 403),
    8: ("RESOURCE_EXHAUSTED", 429),
    9: ("FAILED_PRECONDITION", 400),
    10: ("ABORTED", 409),
    11: ("OUT_OF_RANGE", 400),
    12: ("UNIMPLEMENTED", 501),
    13: ("INTERNAL", 500),
    14: ("UNAVAILABLE", 503),
    15: ("DATA_LOSS", 500),
    16: ("UNAUTHENTICATED", 401),
}
_BY_NAME = {name: number for number, (name, _) in _CODES.items()}
# Where a status stands for several, the most common one: 400 and 500 are INVALID_ARGUMENT and INTERNAL.
_BY_HTTP = {status: number for number, (_, status) in reversed(_CODES.items())} | {500: 13}

LEAST_SKEW = 5.0
"""Seconds between two clocks that are taken for a difference."""


@dataclass(frozen=True)
class BatchStats:
    """
    How far the rows of a job are. A number is None while the service has not told it.

    :param total: Rows of the job.
    :param succeeded: Rows with an answer.
    :param failed: Rows that ended in an error.
    :param pending: Rows not done yet.
    """

    total: int | None = None
    succeeded: int | None = None
    failed: int | None = None
    pending: int | None = None

    @property
    def done(self) -> int | None:
        """Rows that are through, well or badly; None while unknown."""
        if self.succeeded is None and self.failed is None:
            return None
        return (self.succeeded or 0) + (self.failed or 0)

    def as_dict(self) -> dict[str, int | None]:
        """Return plain values, for XCom and logs."""
        return {"total": self.total, "succeeded": self.succeeded, "failed": self.failed, "pending": self.pending}


@dataclass(frozen=True)
class JobErrorInfo:
    """
    Why a job failed, in the service's words.

    :param code: gRPC status number (not HTTP), e.g. 3 for INVALID_ARGUMENT; 0 if none was given.
    """

    code: int = 0
    message: str = ""
    details: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.message or 'no message'} (code {self.code})" if self.code else self.message or "no reason given"


def grpc_code(code: int, word: object = None) -> int:
    """
    Return the gRPC number of an error: rows of one backend carry that, rows of the other an HTTP status.

    :param code: Either of them; gRPC numbers are below 100, HTTP statuses are not.
    :param word: The error's ``status``, e.g. ``INVALID_ARGUMENT``, which wins.
    """
    # Below 100 lies every gRPC number (0 to 16), above it every HTTP status; nothing is in between.
    return _BY_NAME.get(str(word), code if code < 100 else _BY_HTTP.get(code, code))


@dataclass(frozen=True)
class JobOutput:
    """
    Where a job's answers lie. Answers themselves never travel in a :class:`BatchJob`.

    :param kind: ``inline`` (in the job resource), ``file`` (Developer API), ``gcs`` or ``bigquery`` (Vertex AI).
    :param place: ``files/...``, ``gs://bucket/directory``, ``bq://project.dataset.table``; for ``inline`` the job name.
    """

    kind: Literal["inline", "file", "gcs", "bigquery"]
    place: str


@dataclass(frozen=True)
class BatchJob:
    """
    A batch job as last seen. Times are the service's RFC 3339 strings in UTC, or None.

    :param name: ``batches/...`` or ``projects/.../batchPredictionJobs/...``.
    :param model: As the service names it.
    :param state_text: The state as the service spelt it, for states we do not know.
    :param read_at: When it was read by the service's own clock, in UTC epoch seconds; None if no reply said so.
    :param advice: What to do about a job that failed, where its error leaves that open; else empty.
    :param input_place: ``files/...``, ``gs://...`` or ``bq://...`` where the rows lie; None for inline rows.
    :param never_ran: Whether the job ended before any of its rows ran, so that nothing of it was billed, as far as that
        can be known. A list may show counts that are out of date, and shows no output: ask for the job itself.
    :param answers_every_row: Whether such a job, if it ended well, has left a line for each of its rows, also where its
        counts were not brought up to date.
    """

    name: str
    display_name: str = ""
    model: str = ""
    state: JobState = JobState.UNKNOWN
    stats: BatchStats = field(default_factory=BatchStats)
    error: JobErrorInfo | None = None
    create_time: str | None = None
    start_time: str | None = None
    end_time: str | None = None
    update_time: str | None = None
    output: JobOutput | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    backend: BackendName = "gemini"
    input_place: str | None = None
    state_text: str = ""
    partial_failures: tuple[JobErrorInfo, ...] = ()
    advice: str = ""
    never_ran: bool = False
    answers_every_row: bool = True
    read_at: float | None = field(default=None, compare=False, repr=False)

    @property
    def is_done(self) -> bool:
        """Whether the job has ended, however it ended."""
        return self.state.is_terminal

    @property
    def is_succeeded(self) -> bool:
        """Whether the job ended with answers for all or some rows."""
        return self.state.has_results

    @property
    def is_failed(self) -> bool:
        """Whether the job ended without answers we may count on."""
        return self.is_done and not self.is_succeeded

    @property
    def is_running(self) -> bool:
        """Whether the job has not ended (it may still be waiting for its turn)."""
        return not self.is_done

    @property
    def expected_answers(self) -> int | None:
        """
        How many result lines the job must have left at least; None if that is not known.

        Rows that succeeded and rows that failed both leave a line. Counts may be out of date, but never too high.
        Counts that the service has not told are unknown (Vertex AI: absent, or ``-1``; Developer API: all zero in a job
        that ended well, or no success where not every row failed); but a job of the Developer API that ended well
        leaves a line for each of its rows. A job that was cancelled, failed or expired keeps counts that nobody brought
        up to date.
        """
        if not self.is_succeeded:
            return None
        stats = self.stats
        # Such counts ask for what they can vouch for and no more: too high a number would call a complete result file
        # cut.
        if stats.succeeded is None and self.state is JobState.SUCCEEDED and self.answers_every_row:
            return stats.done if stats.total is None else stats.total - (stats.pending or 0)
        return stats.done

    def skew(self, now: float) -> float:
        """
        Return by how many seconds the service's clock is ahead of ours, as the reply that told of the job shows.

        Ages are differences of the service's own times, also where a worker's clock is minutes off. A few seconds are
        taken for none: replies tell whole seconds, and are on their way for a while.

        :param now: UTC epoch seconds of our clock when the job was read.
        """
        # The Date header of the very reply that told of the job: no request of its own, and as old as the job's own
        # times.
        skew = 0.0 if self.read_at is None else self.read_at - now
        return skew if abs(skew) > LEAST_SKEW else 0.0

    def born(self, now: float) -> float | None:
        """Return when the job was created, by our clock; *now* as for :meth:`skew`."""
        created = epoch(self.create_time)
        return None if created is None else created - self.skew(now)

    @property
    def needs(self) -> str | None:
        """The place of the rows that the job may still read: ``input_place`` until it has ended."""
        return self.input_place if self.is_running else None

    @property
    def progress(self) -> float | None:
        """Percent of rows done, 0 to 100, or None while unknown."""
        # Counts of an ended job may be out of date; its state is not.
        if self.state is JobState.SUCCEEDED:
            return 100.0
        total, done = self.stats.total, self.stats.done
        return None if not total or done is None else min(100.0, 100.0 * done / total)

    def summary(self) -> dict[str, Any]:
        """Return what XCom carries of a job: name, state, model, stats and the output's place; never answers."""
        return {
            "name": self.name,
            "display_name": self.display_name,
            "state": self.state.value,
            "model": self.model,
            "stats": self.stats.as_dict(),
            "output": {"kind": self.output.kind, "place": self.output.place} if self.output else None,
            "error": str(self.error) if self.error else None,
            "create_time": self.create_time,
            "end_time": self.end_time,
        }


@dataclass(frozen=True)
class JobPage:
    """One page of a list."""

    jobs: tuple[BatchJob, ...] = ()
    next_page_token: str | None = None


@dataclass(frozen=True)
class RemoteFile:
    """
    A file at Google: of the Files API, or an object in Cloud Storage.

    :param name: ``files/...`` or ``gs://bucket/object``.
    :param size: Bytes, or None if not told.
    :param sha256: Lower-case hex digest where the service tells one (Files API).
    :param state: ``ACTIVE``, ``PROCESSING`` or ``FAILED``; objects in Cloud Storage are ``ACTIVE``.
    :param expiration_time: RFC 3339, or None if it does not expire.
    :param was_there: Whether an upload found it with the same bytes, and sent nothing.
    """

    name: str
    display_name: str = ""
    mime_type: str = ""
    size: int | None = None
    create_time: str | None = None
    expiration_time: str | None = None
    sha256: str | None = None
    md5: str | None = None
    uri: str = ""
    state: str = "ACTIVE"
    error: JobErrorInfo | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    was_there: bool = False


@dataclass(frozen=True)
class FilePage:
    """One page of a list of files."""

    files: tuple[RemoteFile, ...] = ()
    next_page_token: str | None = None


@dataclass(frozen=True)
class BatchResult:
    """
    The answer to one row.

    :param key: The row's key.
    :param status: ``succeeded``, ``failed``, ``blocked`` or ``missing``.
    :param text: The answer's text without thoughts, or None.
    :param embedding: The vector, or None.
    :param error: ``{"code": int, "message": str}``, or None; the code is the gRPC number on both backends.
    :param usage: Token counts as the service names them, or None.
    :param response: The raw response, or None.
    :param model_version: The model that answered, as the service names it, or None.
    :param own: Members of the caller's own that the service passed through.
    """

    key: str
    status: Literal["succeeded", "failed", "blocked", "missing"]
    text: str | None = None
    embedding: Sequence[float] | None = None
    finish_reason: str | None = None
    error: Mapping[str, Any] | None = None
    usage: Mapping[str, Any] | None = None
    response: Mapping[str, Any] | None = None
    model_version: str | None = None
    own: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobSpec:
    """
    What to submit, with its rows already in the backend's wire form. Exactly one source is set.

    :param requests: Inline rows, ``{"request": {...}, "metadata": {"key": ...}}`` each (Developer API only).
    :param file_name: ``files/...`` (Developer API).
    :param gcs_uri: ``gs://...`` of one JSONL object (Vertex AI).
    :param bigquery_uri: ``bq://project.dataset.table`` (Vertex AI).
    :param destination: ``gs://...`` prefix or ``bq://...`` (Vertex AI).
    """

    model: str
    kind: Kind
    display_name: str
    requests: tuple[Mapping[str, Any], ...] | None = None
    file_name: str | None = None
    gcs_uri: str | None = None
    bigquery_uri: str | None = None
    destination: str | None = None
    priority: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    webhook_config: Mapping[str, Any] | None = None
