# SPDX-License-Identifier: Apache-2.0
"""Does a connection have what a job needs? Each need is tried with a cheap call, and it is said which holds."""

# On the Developer API: the key, the list of jobs, the list of models. On Vertex AI: a token, project and location (the
# list of jobs), and the storage place, where a small object is written, read back and deleted again.

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.api.flows import delete_file, exchange, list_page
from airflow_provider_gemini_batch.api.vertex.storage import join_gs_uri
from airflow_provider_gemini_batch.api.wire import Pause
from airflow_provider_gemini_batch.client.session import Session
from airflow_provider_gemini_batch.errors import ApiError, AuthError, GeminiBatchError, TransportError
from airflow_provider_gemini_batch.transport.blocking import BlockingTransport
from airflow_provider_gemini_batch.transport.credentials import credentials_for

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.wire import Flow, T
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings

PATIENCE = 15.0
"""Seconds within which calls are repeated: a person waits, in the API server's process."""

CALL_TIMEOUT = 10.0
"""Most seconds of the connection's ``timeout`` that a call gets."""

_NO_PLACE = "storage_uri is empty"
PROBE = b"A connection was tested; this object can be deleted.\n"


@dataclass(frozen=True)
class Finding:
    """
    One thing that a job needs.

    :param holds: None where it could not be told, and a job may do without.
    """

    need: str
    holds: bool | None
    text: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "FAILS", None: "not told"}[self.holds]
        return f"{self.need}: {mark}{f' ({self.text})' if self.text else ''}"


class _Probe:
    size = len(PROBE)

    def read(self, offset: int, length: int) -> bytes:
        return PROBE[offset : offset + length]


class _QuickSession(Session):
    """A session that repeats calls for a short while only, and then fails with what made it repeat them."""

    def __init__(self, settings: ConnectionSettings) -> None:
        super().__init__(replace(settings, timeout=min(settings.timeout, CALL_TIMEOUT)))
        self._until = time.monotonic() + PATIENCE

    @cached_property
    def transport(self) -> BlockingTransport:
        """The driver, which does not sleep for long either."""
        return BlockingTransport(self.settings, credentials_for(self.settings), sleep=self._sleep)

    def run(self, flow: Flow[T]) -> T:
        """Carry out a conversation, if that is soon done."""
        return super().run(self._hurried(flow))

    def _hurried(self, flow: Flow[T]) -> Flow[T]:
        try:
            step = next(flow)
            while True:
                if isinstance(step, Pause) and step.cause is not None and self._is_late(step.seconds):
                    raise step.cause
                try:
                    reply = yield step
                except GeminiBatchError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            flow.close()

    def _is_late(self, pause: float) -> bool:
        return time.monotonic() + pause > self._until

    def _sleep(self, pause: float) -> None:
        if self._is_late(pause):
            raise TransportError(f"calls kept failing for {PATIENCE:.0f} s")
        time.sleep(pause)


def check_connection(settings: ConnectionSettings) -> tuple[bool, str]:
    """
    Try what a job needs.

    :return: Whether all of it holds, and a text for a person: what was reached, then each need.
    """
    with _QuickSession(settings) as session:
        return _tried(session)


def _tried(session: Session) -> tuple[bool, str]:
    findings = _service(session)
    # Behind a key that is refused, every further call would only say the same in other words.
    if findings[-1].holds:
        findings += _storage(session)
        findings.append(_models(session))
    is_good = all(finding.holds is not False for finding in findings)
    lines = [str(finding) for finding in findings]
    notes = list(session.settings.notes)
    if is_good:
        found = f"Connected to {session.backend.label}"
        if missing := [finding for finding in findings if finding.need == _NO_PLACE]:
            found = f"{found}, but {missing[0].need}: {missing[0].text}"
            lines.remove(str(missing[0]))
        return True, " ".join([f"{found}.", "; ".join(lines) + ".", *notes])
    # What fails comes first: a form may cut a long text.
    lines.sort(key=lambda line: ": FAILS" not in line)
    return False, " ".join(["; ".join(lines), *notes])


def _service(session: Session) -> list[Finding]:
    """Ask for the list of jobs: who calls, and where."""
    settings = session.settings
    caller = "API key" if settings.api_key is not None else "no credentials" if settings.is_anonymous else "token"
    places = [f"project {settings.project}", f"location {settings.location}"] if settings.project else []
    where = " and ".join(places) or "list of jobs"
    try:
        # The cheapest call that needs everything: key or token, project, location and the API switched on.
        page = session.run(list_page(session.backend, session.retry, page_size=1))
    except AuthError as error:
        return [Finding(caller, False, str(error))]
    except ApiError as error:
        # An API key that is refused is answered in many ways; a token was given out before.
        taken = [Finding(caller, True, "")] if settings.api_key is None and error.status in (403, 404) else []
        return [*taken, Finding(where, False, str(error))]
    except GeminiBatchError as error:
        return [Finding(settings.base_url, False, str(error))]
    return [Finding(caller, True, ""), Finding(where, True, "has batch jobs" if page.jobs else "")]


def _storage(session: Session) -> list[Finding]:
    """Write, read and delete an object where rows would be uploaded."""
    if session.backend.keeps_files:
        return []
    place = session.settings.storage_uri
    if not place:
        return [Finding(_NO_PLACE, None, "each task has to name gcs_uri and destination, or fails")]
    name = join_gs_uri(place, "inputs", f"connection-test-{uuid.uuid4().hex}.txt")
    findings = []
    try:
        uploading = session.backend.upload(_Probe(), name=name, display_name="connection test", mime_type="text/plain")
        session.run(uploading)
        findings.append(Finding(f"{place} is writable", True, ""))
    except GeminiBatchError as error:
        findings.append(Finding(f"{place} is writable", False, str(error)))
    try:
        if findings[0].holds:
            # The account may write and not read, which shows only when the first answers are to be fetched.
            b"".join(session.read_file(name))
        session.list_files(page_size=1)  # a job does not name its results: they are found by listing
        findings.append(Finding(f"{place} is readable", True, ""))
    except GeminiBatchError as error:
        findings.append(Finding(f"{place} is readable", False, str(error)))
    if findings[0].holds:
        with suppress(GeminiBatchError):  # an account that may not delete leaves some bytes, which say what they are
            session.run(delete_file(session.backend, name, session.retry))
    return findings


def _models(session: Session) -> Finding:
    """Ask which models the caller can use."""
    try:
        names = session.run(exchange(session.backend.list_models(), session.backend.read_models, session.retry))
    except GeminiBatchError:
        # Not every role that may run jobs may list models.
        return Finding("models", None, "")
    return Finding("models", True if names else None, f"{len(names)}, e.g. {', '.join(names[:3])}" if names else "")
