# SPDX-License-Identifier: Apache-2.0
"""
Every error this package raises.

::

    GeminiBatchError
      ConfigurationError        connection, arguments or rows cannot work; a retry cannot help
        EmptyInputError         there is not one row
      InputMismatchError        (a ConfigurationError) results are joined with an input that is not their job's
      ResultsIncompleteError    fewer answers came than the job counts; a retry reads them again
      InputNotFoundError        a local file is not there; a retry looks again
      InputChangedError         a file was written to while it was read; a retry reads it anew
      TransportError            no complete reply arrived
        ReplyTooLargeError      it is larger than any we read into memory
      ApiError                  the service answered with an error
        RateLimitedError        429; ``retry_after`` in seconds where the service gave one
        ServerError             408 and 5xx
        AuthError               401, a refused key, or no token to be had
        PermissionDeniedError   403
        NotFoundError           404
        RequestRejectedError    every other 4xx
      ReplyFormatError          a reply we do not understand; keeps a short excerpt
      JobError                  carries the ``BatchJob``
        JobFailedError  JobCancelledError  JobExpiredError  PartialFailureError
        JobTimeoutError         we stopped waiting; the job may still run and bill
        JobStuckError           pending or running for longer than allowed
      JobConflictError          a job of this task exists that was submitted with other input
      SubmitError               it could not be settled whether a job exists, or the quota never freed up
      TriggerEventError         a deferred task was resumed with an event, or values of its own, it cannot read

Facts are attributes, set as keywords; the message is for people and says what to do next. No message ever holds a
secret. Each class survives ``pickle``: its only positional argument is the message, and the rest travels in
``__dict__``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob


class GeminiBatchError(Exception):
    """Base of every error of this package."""

    @property
    def is_transient(self) -> bool:
        """Whether repeating a call that is safe to repeat may help."""
        return False

    @property
    def may_have_taken_effect(self) -> bool:
        """Whether the call may have been carried out although it ended in this error."""
        return False


class ConfigurationError(GeminiBatchError):
    """The connection, an argument or an input row cannot work; names every bad place and the way out."""


class FileGoneError(ConfigurationError):
    """A file at Google that a job was to read does not exist, or has expired."""


class EmptyInputError(ConfigurationError):
    """The input holds not one row."""


class InputMismatchError(ConfigurationError):
    """Results were to be joined with an input that is not the one their job was made from."""


class ResultsIncompleteError(GeminiBatchError):
    """Fewer answers came than the job counts, or they are not there yet. Nothing was written; a retry reads anew."""

    @property
    def is_transient(self) -> bool:
        """Whether another try may succeed."""
        return True


class InputNotFoundError(GeminiBatchError):
    """A local file is not there, or not yet there on this host; a retry looks again."""


class InputChangedError(GeminiBatchError):
    """A file was written to while it was read for the upload. Nothing of it is used; a retry reads it anew."""


class TransportError(GeminiBatchError):
    """
    No complete reply arrived.

    :param sent: False only if it is certain that the request never left (refused connection, unknown host).
    """

    def __init__(self, message: str = "", *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent

    @property
    def is_transient(self) -> bool:
        """Whether another try may succeed."""
        return True

    @property
    def may_have_taken_effect(self) -> bool:
        """Whether the service may have done what was asked."""
        return self.sent


class NetworkSettingError(TransportError):
    """
    This host's settings keep the service away: a certificate that it does not trust, a proxy that refuses its password.

    A retry may succeed, as certificates are exchanged under a running process; hours of them will not.
    """


class ReplyTooLargeError(TransportError):
    """A reply was larger than any that is read into memory, and was not read to its end; it would be so again."""

    @property
    def is_transient(self) -> bool:
        """Whether another try may succeed."""
        return False


class ApiError(GeminiBatchError):
    """
    The service answered with an error.

    :param status: HTTP status.
    :param reason: The service's own word for it, e.g. ``INVALID_ARGUMENT`` or ``API_KEY_INVALID``.
    :param details: The reply's ``error.details``, as sent.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int = 0,
        reason: str = "",
        details: tuple[dict[str, Any], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.details = details


class RateLimitedError(ApiError):
    """
    HTTP 429.

    :param retry_after: Seconds the service asked us to wait, or None.
    :param quota: The limit that the reply names, or an empty string.
    """

    def __init__(self, message: str = "", *, retry_after: float | None = None, quota: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after
        self.quota = quota

    @property
    def is_spend_limit(self) -> bool:
        """Whether the limit is one of money spent, over ten minutes or a month, as far as the reply tells."""
        return "spend" in f"{self.quota} {self}".lower()

    @property
    def is_transient(self) -> bool:
        """Whether another try may succeed."""
        return True


class ServerError(ApiError):
    """
    HTTP 408 or 5xx: the service's own trouble. 501 stays as it is: what is not implemented is not so a minute later.

    :param retry_after: Seconds the service asked us to wait, or None.
    """

    def __init__(self, message: str = "", *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after

    @property
    def is_transient(self) -> bool:
        """Whether another try may succeed."""
        return self.status != 501

    @property
    def may_have_taken_effect(self) -> bool:
        """Whether the service may have done what was asked."""
        return True


class AuthError(ApiError):
    """The credentials were refused (401, or the Developer API's 400 ``API_KEY_INVALID``), or none could be had."""


class PermissionDeniedError(ApiError):
    """HTTP 403. The Developer API also answers so for a file that is missing or has expired."""


class NotFoundError(ApiError):
    """HTTP 404."""


class RequestRejectedError(ApiError):
    """Any other 4xx: the request itself is wrong, and nothing was created."""


class ReplyFormatError(GeminiBatchError):
    """
    A successful reply we do not understand.

    :param excerpt: The first characters of the body.
    """

    def __init__(self, message: str = "", *, excerpt: str = "") -> None:
        super().__init__(message)
        self.excerpt = excerpt

    @property
    def is_transient(self) -> bool:
        """Whether another try may succeed."""
        return True

    @property
    def may_have_taken_effect(self) -> bool:
        """Whether the service may have done what was asked."""
        return True


class JobError(GeminiBatchError):
    """
    A job did not end as hoped.

    :param job: The job as last seen.
    """

    def __init__(self, message: str = "", *, job: BatchJob | None = None) -> None:
        super().__init__(message)
        self.job = job


class JobFailedError(JobError):
    """The job ended FAILED, or without one usable answer."""


class JobCancelledError(JobError):
    """The job ended CANCELLED."""


class JobExpiredError(JobError):
    """The job waited or ran for too long at Google and ended EXPIRED."""


class PartialFailureError(JobError):
    """
    More rows failed, were blocked or are missing than allowed; the good rows are kept.

    :param failed: Number of rows without a usable answer.
    :param total: Number of rows.
    """

    def __init__(self, message: str = "", *, failed: int = 0, total: int = 0, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.failed = failed
        self.total = total


class JobTimeoutError(JobError):
    """
    We stopped waiting at the deadline; unless it was cancelled, the job may still run and bill.

    :param limit: Which limit ended the wait: ``timeout``, or Airflow's ``execution_timeout``.
    """

    def __init__(self, message: str = "", *, limit: str = "timeout", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.limit = limit


class JobStuckError(JobError):
    """
    The job stayed pending, or running, for longer than allowed.

    :param phase: ``pending`` or ``running``.
    """

    def __init__(self, message: str = "", *, phase: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.phase = phase


class JobConflictError(JobError):
    """A job of this very task exists, submitted with other input, and ``on_existing_job`` is ``fail``."""


class SubmitError(GeminiBatchError):
    """No job was submitted, or it could not be settled whether one was; the message says which and what to do."""


class TriggerEventError(GeminiBatchError):
    """A deferred task was resumed with an event, or with values of its own, that this version cannot read."""
