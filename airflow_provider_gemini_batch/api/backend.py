# SPDX-License-Identifier: Apache-2.0
"""
What a backend has to offer: one implementation for the Developer API, one for Vertex AI.

What differs is answered here, and nobody asks which backend it is. (What differs of rows is answered by
:mod:`airflow_provider_gemini_batch.rows.backend_rules`, as rows know no calls.) A backend knows URLs, bodies and
replies, and nothing else: it never sends, sleeps or looks at a clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_gemini_batch.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_gemini_batch.api.field_masks import FieldMaskSupport
    from airflow_provider_gemini_batch.api.models import BackendName, BatchJob, FilePage, JobPage, JobSpec, RemoteFile
    from airflow_provider_gemini_batch.api.wire import Digested, Flow, HttpReply, HttpRequest, UploadSource
    from airflow_provider_gemini_batch.errors import ApiError


def given_job_name(value: object) -> str:
    """
    Return a job's name as it was given, without blanks around it.

    :raises ConfigurationError: If there is none.
    """
    name = str(value or "").strip()
    if name in ("", "None"):
        raise ConfigurationError(
            "job_name is empty: what it comes from, an XCom or a template, holds nothing, as after a task that was "
            "skipped."
        )
    return name


class Backend(Protocol):
    """The calls of one backend. Every ``read_...`` raises the matching ``ApiError`` for an error reply."""

    name: BackendName
    """What users call it."""
    label: str
    """What it is called in messages."""
    ignored: tuple[str, ...]
    """Arguments of a request that it does not know; they are left out, and the log says so."""
    unsupported: Mapping[str, str]
    """Arguments of a request that it cannot serve -> the way out."""
    has_labels: bool
    """Whether its jobs carry labels, and a list can be asked for the jobs with one."""
    has_flex: bool
    """Whether it answers single requests at the batch price: :meth:`generate_flex`."""
    inline_limit: int
    """Bytes of rows that may travel in the call that creates a job; 0 if they always travel as a file."""
    keeps_files: bool
    """Whether it keeps uploaded rows itself; else they need the connection's ``storage_uri``."""
    hides_missing_files: bool
    """Whether a file that does not exist is answered like one of somebody else's (403)."""
    answer_copies: tuple[str, ...]
    """Where in a job its answers may be, as field masks; an empty one asks for the whole job."""
    job_masks: FieldMaskSupport
    """What is known of partial responses to :meth:`get_job`."""
    list_masks: FieldMaskSupport
    """The same for :meth:`list_jobs`, which may have another mechanism."""

    def check_job_name(self, job_name: str) -> str:
        """Return the full job name; raise ConfigurationError if it cannot be a job of this backend."""

    def create_job(self, spec: JobSpec) -> HttpRequest:
        """Build the call that starts (and bills) a job; raise ConfigurationError for what cannot work here."""

    def generate_flex(self, model: str, request: Mapping[str, Any], timeout: float) -> HttpRequest:
        """
        Build a call that answers one request at the batch price, without a job.

        :param timeout: Seconds.
        :raises ConfigurationError: If the backend has no such call (:attr:`has_flex`).
        """

    def get_job(self, job_name: str, *, masked: bool = True) -> HttpRequest:
        """Build the read of one job; *masked* asks to leave out inline answers."""

    def get_inline_answers(self, job_name: str, copy: str) -> HttpRequest:
        """Build the read of the answers inside a job: of one of :attr:`answer_copies`."""

    def list_jobs(
        self, page_size: int = 100, page_token: str | None = None, filter: str | None = None, *, masked: bool = True
    ) -> HttpRequest:
        """Build the call for one page of jobs, newest first."""

    def cancel_job(self, job_name: str) -> HttpRequest:
        """Build the cancel call."""

    def delete_job(self, job_name: str) -> HttpRequest:
        """Build the delete call."""

    def read_job(self, reply: HttpReply) -> BatchJob:
        """Read the answer to create or get."""

    def read_job_page(self, reply: HttpReply) -> JobPage:
        """Read one page of a list."""

    def client_filter(self, filter: str | None) -> Callable[[BatchJob], bool] | None:
        """Return what of a page *filter* keeps where the service does not filter, else None."""

    def read_empty(self, reply: HttpReply) -> None:
        """Check the answer to cancel or delete."""

    def own_jobs_filter(self, labels: dict[str, str], since: str | None) -> str | None:
        """
        Return a list filter for jobs with *labels* created after *since* (RFC 3339).

        None asks for all jobs: the backend has no filter, and the caller compares.
        """

    def list_models(self) -> HttpRequest:
        """Build the call for the models that the caller can use."""

    def read_models(self, reply: HttpReply) -> tuple[str, ...]:
        """Read their names."""

    def count_tokens(self, model: str, request: Mapping[str, Any]) -> HttpRequest | None:
        """
        Build the call that counts the input tokens of one row's request, or None where they cannot be counted.

        :raises ConfigurationError: If *model* cannot be one of this backend.
        """

    def read_token_count(self, reply: HttpReply) -> int:
        """Read the count."""

    def upload_name(self, source: Digested, mark: str = "") -> str:
        """
        Return the place that bytes are uploaded to; empty where the service names files itself.

        :param mark: What the file is to be marked with: the same bytes with another mark have another place.
        :raises ConfigurationError: If the connection names no storage.
        """

    def explain(self, error: ApiError) -> str:
        """Say what to do about a refused call, where the service's own text leaves that open; else nothing."""

    def upload(self, source: UploadSource, *, name: str, display_name: str, mime_type: str) -> Flow[RemoteFile]:
        """Upload with the resumable protocol. *name* is a ``gs://`` place on Vertex AI and ignored elsewhere."""

    def get_file(self, file_name: str) -> HttpRequest:
        """Build the read of a file's metadata."""

    def list_files(self, page_size: int = 100, page_token: str | None = None, prefix: str = "") -> HttpRequest:
        """Build the call for one page of files (*prefix*: ``gs://bucket/prefix`` on Vertex AI)."""

    def delete_file(self, file_name: str) -> HttpRequest:
        """Build the delete call."""

    def download_file(self, file_name: str, offset: int = 0) -> HttpRequest:
        """Build the call that streams a file's content from *offset* on (the service may ignore the offset)."""

    def read_file(self, reply: HttpReply) -> RemoteFile:
        """Read a file's metadata."""

    def read_file_page(self, reply: HttpReply) -> FilePage:
        """Read one page of files."""
