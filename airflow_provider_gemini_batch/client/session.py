# SPDX-License-Identifier: Apache-2.0
"""One connection in use: its backend's calls, the driver that sends them, and how often they are tried."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_gemini_batch.api.backends import backend_for
from airflow_provider_gemini_batch.api.flows import Pages, exchange, name_in
from airflow_provider_gemini_batch.api.retry import RetryPolicy
from airflow_provider_gemini_batch.errors import ApiError, AuthError
from airflow_provider_gemini_batch.transport.blocking import BlockingTransport
from airflow_provider_gemini_batch.transport.credentials import credentials_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.models import FilePage, RemoteFile
    from airflow_provider_gemini_batch.api.wire import Flow, T
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings


class Log(Protocol):
    """Where progress and warnings go: a logger of the standard library, or Airflow's."""

    def info(self, text: str, /, *values: Any) -> Any:
        """Tell of progress."""

    def warning(self, text: str, /, *values: Any) -> Any:
        """Tell of what went wrong and is done without."""


class Session:
    """
    One connection in use, for one thread. Nothing is opened before the first call; close it, or use ``with``.

    :param settings: From :func:`~airflow_provider_gemini_batch.connection.reading.settings_from_connection`.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self.backend: Backend = backend_for(settings)
        # For calls that are safe to repeat alone; a create has rules of its own (`lifecycle/submit.py`).
        self.retry = RetryPolicy(max_attempts=settings.max_retries)

    @cached_property
    def transport(self) -> BlockingTransport:
        """The driver that sends calls and holds the connections to the service."""
        return BlockingTransport(self.settings, credentials_for(self.settings))

    def close(self) -> None:
        """Close the connections to the service; a later call opens new ones."""
        # A cached_property lives in the instance's dict: to take it out is to have the next call make another.
        transport = self.__dict__.pop("transport", None)
        if transport is not None:
            transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, flow: Flow[T]) -> T:
        """Carry out a conversation of :mod:`airflow_provider_gemini_batch.api.flows` and return its value."""
        return self.transport.run(flow)

    async def arun(self, flow: Flow[T]) -> T:
        """Carry out a conversation without blocking the event loop, over connections of its own."""
        from airflow_provider_gemini_batch.transport.asynchronous import AsyncTransport

        # For one flow and then closed: an event loop of a notebook may be another one at the next call.
        async with AsyncTransport(self.settings, credentials_for(self.settings)) as transport:
            return await transport.arun(flow)

    def read_file(self, file_name: str) -> Iterator[bytes]:
        """
        Stream a file's content.

        :raises ApiError: If the service refuses; with what to do about it.
        """
        try:
            yield from self.transport.stream(partial(self.backend.download_file, file_name))
        except ApiError as error:
            if not isinstance(error, AuthError):  # that is about the connection
                name_in(error, f"file {file_name}")
            advice = self.backend.explain(error)
            if advice:
                error.args = (f"{error} - {advice}",)
            raise

    def list_files(self, page_size: int = 100, page_token: str | None = None, *, prefix: str = "") -> FilePage:
        """
        Read one page of files.

        :param prefix: ``gs://bucket/prefix`` on Vertex AI; the connection's ``storage_uri`` if empty.
        """
        place = prefix or self.settings.storage_uri
        return self.run(
            exchange(self.backend.list_files(page_size, page_token, place), self.backend.read_file_page, self.retry)
        )

    def all_files(self, prefix: str = "") -> Iterator[RemoteFile]:
        """Yield all files, reading pages as they are needed; *prefix* as for :meth:`list_files`."""
        pages = Pages()
        for token in pages:
            page = self.list_files(100, token, prefix=prefix)
            yield from page.files
            pages.turn(page)
