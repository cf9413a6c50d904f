# SPDX-License-Identifier: Apache-2.0
"""One HTTP call with ``requests``: the part that both drivers share."""

# The credentials of a call are in the frames of `HttpClient._exchange` and `HttpClient.read` and nowhere else: tools
# that report errors send the local variables of every frame along. So these two never raise; they return what went
# wrong, and whoever called them raises it. What a reply knows of its request is emptied as soon as it comes.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from airflow_provider_gemini_batch.api.wire import HttpReply, HttpRequest
from airflow_provider_gemini_batch.connection.settings import Secret
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    GeminiBatchError,
    InputChangedError,
    NetworkSettingError,
    TransportError,
)
from airflow_provider_gemini_batch.transport.bounds import ACCEPT_ENCODING, Body
from airflow_provider_gemini_batch.transport.faults import cause_of, is_of_our_settings, server_of, was_sent

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests

    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
    from airflow_provider_gemini_batch.transport.credentials import Credentials

CALL_FAULTS = (TransportError, ConfigurationError, InputChangedError)
"""What a driver throws into a flow; any other error ends the flow."""

_PIECE_BYTES = 64 * 1024


class SentCredentials:
    """The credentials that went along with the last call, to be told apart from newer ones when they are refused."""

    __slots__ = ("_headers",)

    def __init__(self) -> None:
        self._headers: dict[str, Secret] = {}

    def note(self, headers: Mapping[str, str]) -> None:
        """Remember what is sent."""
        self._headers = {name: Secret(value) for name, value in headers.items()}

    def headers(self) -> dict[str, str]:
        """Return what was sent, in the open."""
        return {name: value.reveal() for name, value in self._headers.items()}


class HttpClient:
    """
    A connection's HTTP client, for one thread at a time.

    :param most_bytes: What an ordinary reply may hold, unpacked.
    """

    def __init__(self, settings: ConnectionSettings, credentials: Credentials, most_bytes: int) -> None:
        from airflow_provider_gemini_batch.transport.sessions import NetworkSession

        self._credentials = credentials
        self._timeout = settings.timeout
        self._most_bytes = most_bytes
        self._session = NetworkSession()
        # Only what Unpacker can undo: with brotli installed, the library would ask for it as well.
        self._session.headers["Accept-Encoding"] = ACCEPT_ENCODING
        self._session.hooks["response"].append(_forget)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def send(self, request: HttpRequest, sent: SentCredentials) -> HttpReply:
        """
        Send a request and return its whole reply, whatever its status.

        :raises TransportError: If no complete reply arrived.
        :raises ConfigurationError: If the call cannot be made at all.
        """
        response = self.open(request, sent)
        try:
            return self.read(request, response, sent)
        finally:
            response.close()

    def open(
        self, request: HttpRequest, sent: SentCredentials, extra_headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        """
        Send a request and return the head of its reply; the body is still to be read.

        :raises GeminiBatchError: As :meth:`send`.
        """
        response = self._exchange(request, sent, extra_headers or {})
        if isinstance(response, GeminiBatchError):
            # Raised here, where no frame holds credentials.
            raise response
        return response

    def read(self, request: HttpRequest, response: requests.Response, sent: SentCredentials) -> HttpReply:
        """
        Read the body of an ordinary reply.

        :raises TransportError: If it is not complete, or larger than this client holds.
        """
        body, fault = self._body_of(request, response)
        if fault is not None:
            raise fault
        # The last piece read may hold more than was wanted.
        content = body.content()[: request.at_most]
        if response.status_code < 200 or (not content and not says_its_end(response)):
            raise broken_head(request)
        headers = {k.lower(): v for k, v in response.headers.items()}
        return HttpReply(response.status_code, headers, _without_key(content, sent))

    def _body_of(self, request: HttpRequest, response: requests.Response) -> tuple[Body, TransportError | None]:
        import urllib3

        body = Body(response.headers.get("Content-Encoding", ""), self._most_bytes)
        try:
            while body.fault is None and (piece := response.raw.read(_PIECE_BYTES, decode_content=False)):
                body.add(piece)
                if request.at_most is not None and body.size >= request.at_most:
                    # Enough was read. The rest is dropped with the connection, which costs less than gigabytes nobody
                    # wants.
                    return body, body.fault
            body.end()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:  # a chunk of negative size is the latter
            cause = cause_of(error, request.timeout or self._timeout)
            return body, TransportError(f"No complete reply from {server_of(request.url)}: {cause}.")
        return body, body.fault

    def _exchange(
        self, request: HttpRequest, sent: SentCredentials, extra_headers: Mapping[str, str]
    ) -> requests.Response | GeminiBatchError:
        """Send a request; return the head of its reply, or what went wrong."""
        headers: dict[str, str] = {**request.headers, **extra_headers}
        if request.authorize:
            try:
                own = self._credentials.headers()
            except GeminiBatchError as error:
                return error.with_traceback(None)
            sent.note(own)
            headers.update(own)
        options: dict[str, Any] = {"params": request.params} if request.params else {}
        timeout = request.timeout or self._timeout
        try:
            response = self._session.request(
                request.method,
                request.url,
                data=cast("bytes | None", request.body),  # any iterable with a length is sent as it comes
                headers=headers,
                timeout=timeout,
                stream=True,
                # A redirect would carry key or token to whatever host it names.
                allow_redirects=False,
                **options,
            )
        except Exception as error:
            return _fault_of(error, request, timeout)
        # The reply keeps its request, and an error that holds the reply would hold the key.
        response.request.headers.clear()
        return response


def _fault_of(error: Exception, request: HttpRequest, timeout: float) -> GeminiBatchError:
    """Say what an exception of the HTTP library, or of a body while it is read, means."""
    import requests
    from urllib3.exceptions import LocationParseError

    if isinstance(error, (ConfigurationError, InputChangedError)):  # certificates; a body while it is read
        return error.with_traceback(None)
    cannot_be = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema)
    if isinstance(error, (*cannot_be, LocationParseError)):
        return ConfigurationError(f"The URL of a call cannot be one ({type(error).__name__}).")
    if isinstance(error, requests.exceptions.InvalidHeader) and isinstance(error.args[0], str):  # not one of the reply
        return ConfigurationError("A header of a call cannot be sent: the credential, it seems, holds a line break.")
    if isinstance(error, UnicodeEncodeError):  # a page token of a lone surrogate, say
        return ConfigurationError(f"An argument of this call holds what cannot be sent: {error.object!r:.80}.")
    if isinstance(error, requests.exceptions.RequestException):
        sent = was_sent(error)
        what = "No complete reply from" if sent else "No connection to"
        kind = NetworkSettingError if is_of_our_settings(error) else TransportError
        return kind(f"{what} {server_of(request.url)}: {cause_of(error, timeout)}.", sent=sent)
    # Neither shown nor chained: its text and its frames may hold the credentials.
    return GeminiBatchError(f"A call could not be made: {type(error).__name__} {place_of(error)}. This is a bug.")


def place_of(error: BaseException) -> str:
    """Name the line of code that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "at an unknown place"
    return f"in {trace.tb_frame.f_code.co_qualname} ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"


def broken_head(request: HttpRequest) -> TransportError:
    """Return the error for a reply whose head is not complete."""
    return TransportError(f"No complete reply from {server_of(request.url)}: it broke off in its head.")


def _without_key(content: bytes, sent: SentCredentials) -> bytes:
    from airflow_provider_gemini_batch.transport.credentials import without_key

    return without_key(content, sent.headers())


def _forget(response: requests.Response, **_: Any) -> None:
    """Redirects are not followed; left in, requests would parse the place all the same, and stumble over a bad one."""
    if 300 <= response.status_code < 400:
        response.headers.pop("Location", None)


def says_its_end(response: requests.Response) -> bool:
    """
    Whether a reply's head says where its body ends.

    ``http.client`` takes a head that breaks off for a complete one, and what follows for an empty body. A body that
    came proves the head; so does the word that it ends with the connection.
    """
    if response.status_code in (204, 304) or response.raw.version != 11:
        return True
    headers = response.headers
    return (
        "Content-Length" in headers
        or headers.get("Transfer-Encoding", "").strip().lower().endswith("chunked")
        or "close" in headers.get("Connection", "").lower()
    )
