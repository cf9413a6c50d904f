# SPDX-License-Identifier: Apache-2.0
"""
Rows that a refused create left at Google: what a wait for quota carries, and how the submission goes on from there.
"""

# To read, check and hash a large input takes minutes, and a wait for quota may try dozens of times. So the task carries
# where the checked rows lie and what they were made with. When it comes back it reads that file's metadata, one call,
# and submits. Only if the file is gone, is about to expire, or the task's arguments have changed meanwhile, the input
# is prepared anew.

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.api.flows import get_file
from airflow_provider_gemini_batch.errors import ConfigurationError, NotFoundError, PermissionDeniedError
from airflow_provider_gemini_batch.lifecycle.request import Placed
from airflow_provider_gemini_batch.lifecycle.upload import STILL_NEEDED, PreparedInput
from airflow_provider_gemini_batch.times import epoch

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.models import RemoteFile
    from airflow_provider_gemini_batch.api.retry import RetryPolicy
    from airflow_provider_gemini_batch.api.wire import Flow
    from airflow_provider_gemini_batch.cost.input_measure import InputMeasure
    from airflow_provider_gemini_batch.lifecycle.request import JobRequest

_BESIDE_THE_ROWS = frozenset({"display_name", "priority", "labels", "webhook_config"})
"""Members of a request that change no row, and may differ when the submission goes on."""


@dataclass(frozen=True)
class UploadedInput:
    """
    Checked rows that lie at Google already.

    :param sha256: Digest of the rows as they were sent.
    :param file_name: ``files/...``, or ``gs://...`` on Vertex AI.
    :param fingerprint: Of the arguments that the rows were made with.
    :param rows: Number of rows.
    :param input_digest: As :class:`~airflow_provider_gemini_batch.lifecycle.upload.PreparedInput` has it.
    :param sent: Whether this task sent the file, and removes it if it turns out that no job reads it.
    :param measure: What an estimate needs to know of the rows, with their tokens if these were counted; None where an
        older version did not say.
    """

    sha256: str
    file_name: str
    fingerprint: str
    rows: int | None = None
    input_digest: str = ""
    sent: bool = False
    measure: InputMeasure | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values: names, digests and sizes, nothing of the rows."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values


def fingerprint(request: JobRequest) -> str:
    """Digest the arguments that decide what the rows become; empty if they are no plain values."""
    given = {
        each.name: value
        for each in fields(request)
        if each.name not in _BESIDE_THE_ROWS and (value := getattr(request, each.name)) is not None
    }
    try:
        # Deterministic, as a dict may come back from a rendered template in another order.
        text = msgspec.json.encode(given, enc_hook=str, order="deterministic")
    except (TypeError, ValueError, RecursionError):
        return ""
    return hashlib.sha256(text).hexdigest()[:32]


def uploaded_input(
    request: JobRequest, source: PreparedInput, placed: Placed, measure: InputMeasure | None = None
) -> UploadedInput | None:
    """
    Return what a wait for quota has to carry; None for rows that were not uploaded, which travel in the request.

    :param measure: What is known of the rows by now.
    """
    name, known = placed.uploaded, fingerprint(request)
    if name is None or not known:
        return None
    sha256 = str(source.identity["source"])
    return UploadedInput(sha256, name, known, source.rows, source.input_digest, placed.sent, measure)


def find_again(
    backend: Backend, request: JobRequest, uploaded: UploadedInput, retry: RetryPolicy, now: float
) -> Flow[PreparedInput | None]:
    """
    Return uploaded rows as if they had just been prepared, or None if they have to be prepared anew.

    :param now: UTC epoch seconds.
    """
    if uploaded.fingerprint != fingerprint(request):
        return None
    try:
        file = yield from get_file(backend, uploaded.file_name, retry)
    except (NotFoundError, PermissionDeniedError):  # the Developer API answers 403 for a file that is gone
        return None
    except ConfigurationError:  # the connection is one of the other backend by now, which has no such file
        return None
    if not _serves(file, uploaded, now):
        return None
    placed = Placed(file_name=file.name, uploaded=file.name, sent=uploaded.sent)
    return PreparedInput(
        request.identity(uploaded.sha256),
        uploaded.rows,
        placed=placed,
        input_digest=uploaded.input_digest,
        measure=uploaded.measure,
    )


def _serves(file: RemoteFile, uploaded: UploadedInput, now: float) -> bool:
    expires = epoch(file.expiration_time)
    # A whole job may lie ahead of the file, and one whose input expires fails after it was queued for a day.
    lives = expires is None or expires - now > STILL_NEEDED
    return file.state == "ACTIVE" and lives and file.sha256 in (None, uploaded.sha256)
