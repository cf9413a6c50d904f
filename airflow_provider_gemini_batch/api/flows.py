# SPDX-License-Identifier: Apache-2.0
"""The conversations with the service, as generators over a :class:`~.backend.Backend`."""

# Everything here is safe to repeat. Starting a job is not: that lives in `lifecycle/submit.py` alone.

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit, urlunsplit

from airflow_provider_gemini_batch.api.wire import (
    Flow,
    HttpReply,
    HttpRequest,
    Pause,
    Reader,
    RefreshCredentials,
    T,
)
from airflow_provider_gemini_batch.errors import (
    ApiError,
    AuthError,
    GeminiBatchError,
    NotFoundError,
    PermissionDeniedError,
    ReplyFormatError,
    RequestRejectedError,
)
from airflow_provider_gemini_batch.times import http_date

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.models import BatchJob, JobPage, RemoteFile
    from airflow_provider_gemini_batch.api.retry import RetryPolicy

PAGE_SIZE = 100
MAX_PAGES = 10_000


def exchange(request: HttpRequest, read: Reader[T], retry: RetryPolicy) -> Flow[T]:
    """
    Send one request, again where the policy says so, and return what *read* makes of the reply.

    An access token that the service no longer takes (401) is replaced once, which costs no try.
    """
    refreshed = False
    attempt = 1
    while True:
        try:
            # The flow's only contact with the world: the driver sends the reply in here, or throws a TransportError.
            reply = yield request
            assert reply is not None  # the driver's promise
            return understood(read, reply, request.about)
        except AuthError as error:
            # Tokens are renewed before they expire; a 401 for one that should be valid means that it was revoked or
            # that clocks differ. An API key that is refused has status 400 or 403, and another look at it does not
            # help.
            if refreshed or error.status != 401:
                raise
            refreshed = True
            yield RefreshCredentials()
            continue
        except GeminiBatchError as error:
            delay = retry.delay_after(error, attempt)
            if delay is None:
                raise
            attempt += 1
            pause = Pause.before_retry(delay, error)
        # Outside the except block: an exception thrown in here, as a cancelled task is, has no error of the service's
        # as its context.
        yield pause


def understood(read: Reader[T], reply: HttpReply, about: str = "") -> T:
    """
    Return what *read* makes of a reply.

    :param about: What was asked for; an error that does not name it gets it in front.
    :raises ReplyFormatError: If a member has another type than the service documents, which *read* stumbles over.
    """
    try:
        return read(reply)
    except ApiError as error:
        name_in(error, about)
        raise
    # Readers take a documented shape for granted. One guard here is what keeps them free of a check for each member.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ReplyFormatError(
            f"The service answered HTTP {reply.status} in a shape that is not known ({type(error).__name__}): "
            f"{reply.excerpt()!r}",
            excerpt=reply.excerpt(),
        ) from error


def name_in(error: ApiError, about: str) -> None:
    """Put *about*, e.g. ``file files/a``, in front of an error that does not name the thing in it."""
    if about and about.rpartition(" ")[2] not in str(error):
        error.args = (f"{about[:1].upper()}{about[1:]}: {error}",)


def on_host(base_url: str, url: str) -> str:
    """
    Return a URL that the service named, on the host it is called by: credentials never go anywhere else.

    :param base_url: Of the connection; a gateway's may have a path in front of the service's own.
    """
    ours, theirs = urlsplit(base_url), urlsplit(url)
    # A gateway may answer with its own path in front of the service's, or pass on the service's bare one. Both lead to
    # the gateway.
    prefix = ours.path.rstrip("/")
    path = theirs.path if theirs.path.startswith(f"{prefix}/") else prefix + theirs.path
    return urlunsplit((ours.scheme, ours.netloc, path, theirs.query, ""))


def get_job(backend: Backend, job_name: str, retry: RetryPolicy) -> Flow[BatchJob]:
    """
    Look at one job, without its inline answers where the service can leave them out.

    If the masked call is refused, or comes back without a state, the plain call is made as well.
    """
    name = backend.check_job_name(job_name)
    masks = backend.job_masks
    if masks.are_used:
        try:
            job = yield from exchange(backend.get_job(name, masked=True), _dated(backend.read_job), retry)
        # A mask may be refused, or cut off what a job is read from. Until it is proven or given up, the plain read
        # follows.
        except (RequestRejectedError, ReplyFormatError):
            if masks.are_proven:
                raise
        else:
            if job.state_text:
                masks.succeeded()
                return job
    job = yield from exchange(backend.get_job(name, masked=False), _dated(backend.read_job), retry)
    if job.state_text:
        masks.failed()
    return job


class Page(Protocol):
    """One page of any list."""

    @property
    def next_page_token(self) -> str | None:
        """What the call for the next page needs, or None after the last one."""


def _dated(read: Reader[BatchJob]) -> Reader[BatchJob]:
    """Note the service's own time beside what it says of a job: the job's age is a difference of its times alone."""
    return lambda reply: replace(read(reply), read_at=http_date(reply.headers.get("date")))


def _dated_page(read: Reader[JobPage]) -> Reader[JobPage]:
    def read_dated(reply: HttpReply) -> JobPage:
        page, now = read(reply), http_date(reply.headers.get("date"))
        return replace(page, jobs=tuple(replace(job, read_at=now) for job in page.jobs))

    return read_dated


class Pages:
    """
    The page tokens of a list: None for its first page, then those that :meth:`turn` takes from each page read.

    :param what: Named in the message of a list that has no end.
    :param most: More pages than any honest list has.
    """

    def __init__(self, what: str = "The service's list", most: float = MAX_PAGES) -> None:
        self._what = what
        self._most = most
        self._count = 0
        self._token: str | None = None
        self._is_next = True

    def __iter__(self) -> Iterator[str | None]:
        while self._is_next:
            self._is_next = False
            yield self._token

    def turn(self, page: Page) -> None:
        """
        Go on to the page after *page*, if there is one.

        :raises ReplyFormatError: If the list does not end.
        """
        self._count += 1
        before, self._token = self._token, page.next_page_token
        self._is_next = bool(self._token)
        # A proxy that caches the first page, or a service with a bug, would keep us reading for ever, and every page
        # costs quota.
        if self._token and (self._token == before or self._count >= self._most):
            why = "the same page token came twice" if self._token == before else f"it has over {self._most:,} pages"
            raise ReplyFormatError(f"{self._what} does not end: {why}.")


def list_page(
    backend: Backend,
    retry: RetryPolicy,
    *,
    page_size: int = PAGE_SIZE,
    page_token: str | None = None,
    filter: str | None = None,
) -> Flow[JobPage]:
    """
    Read one page of jobs.

    :raises ConfigurationError: For a *filter* that cannot be read, where the service leaves filtering to us.
    """
    keep = backend.client_filter(filter)
    page = yield from _page(backend, retry, page_size, page_token, filter)
    return page if keep is None else replace(page, jobs=tuple(job for job in page.jobs if keep(job)))


def _page(
    backend: Backend, retry: RetryPolicy, page_size: int, page_token: str | None, filter: str | None
) -> Flow[JobPage]:
    masks = backend.list_masks
    if masks.are_used:
        masked = backend.list_jobs(page_size, page_token, filter, masked=True)
        try:
            page = yield from exchange(masked, _dated_page(backend.read_job_page), retry)
        except RequestRejectedError:
            if masks.are_proven:
                raise
        else:
            # A mask that swallows the members by which jobs are recognised would make them look foreign.
            if any(job.state_text for job in page.jobs):
                masks.succeeded()
            if not page.jobs or masks.are_proven:
                return page
    plain = backend.list_jobs(page_size, page_token, filter, masked=False)
    page = yield from exchange(plain, _dated_page(backend.read_job_page), retry)
    if any(job.state_text for job in page.jobs):
        masks.failed()
    return page


def cancel_job(backend: Backend, job_name: str, retry: RetryPolicy) -> Flow[None]:
    """Ask for a job to be cancelled; a job that is gone, or has ended, is fine."""
    try:
        yield from exchange(backend.cancel_job(backend.check_job_name(job_name)), backend.read_empty, retry)
    except NotFoundError:
        return
    except RequestRejectedError as error:
        # Vertex AI answers 400 FAILED_PRECONDITION for an ended job; for the Developer API nothing is published.
        if error.reason != "FAILED_PRECONDITION":
            raise


def delete_job(backend: Backend, job_name: str, retry: RetryPolicy) -> Flow[None]:
    """Delete a job with its output file; a job already gone is fine."""
    try:
        yield from exchange(backend.delete_job(backend.check_job_name(job_name)), backend.read_empty, retry)
    except NotFoundError:
        return


def delete_file(backend: Backend, file_name: str, retry: RetryPolicy) -> Flow[None]:
    """
    Delete a file; one already gone is fine.

    The Developer API answers 403 for a file that does not exist, so that cannot be told from a foreign one.
    """
    try:
        yield from exchange(backend.delete_file(file_name), backend.read_empty, retry)
    except NotFoundError:
        return
    except PermissionDeniedError:
        if not backend.hides_missing_files:
            raise


def find_reader(backend: Backend, file_name: str, retry: RetryPolicy) -> Flow[BatchJob | None]:
    """Look for a job that has not ended and reads a file: the same rows are sent once, and tasks share them."""
    pages = Pages()
    for token in pages:
        page = yield from list_page(backend, retry, page_token=token)
        for job in page.jobs:
            # Rows are uploaded once for all tasks that ask the same: to delete a file under a job that still reads it
            # fails somebody else's paid rows.
            if job.needs == file_name:
                return job
        pages.turn(page)
    return None


def get_file(backend: Backend, file_name: str, retry: RetryPolicy) -> Flow[RemoteFile]:
    """Look at a file's metadata."""
    return (yield from exchange(backend.get_file(file_name), backend.read_file, retry))
