# SPDX-License-Identifier: Apache-2.0
"""By what the jobs of this Airflow are told from those of another one with the same key and equal DAGs."""

# Production and staging may run DAGs with the same ids, on the same schedule, with the same key at Google. Their jobs
# must not be taken for each other's. What could tell the two apart on a worker:
#
#   candidate                                   why not, or why
#   ------------------------------------------  ----------------------------------------------------------------------
#   `[gemini_batch] namespace`                  wins where it is set, but is empty by default and easily missed
#   URL of the API server, URL of the database  equal in two clusters with the same service names; may differ between
#                                               the workers of one Airflow; the database's is hidden from tasks on 3.x
#   Fernet key, JWT secret, secret key          empty, rotated, or made up anew by each container that lacks a setting
#   host name, DAG bundle, task instance id     change from one attempt to the next
#   a Variable in Airflow's own database        the database is the installation: the same for all workers and
#                                               attempts, over upgrades from 2.11 on, whatever is configured
#
# So the first submission keeps a made-up id in the Variable `gemini_batch_installation`, together with the identities
# in use before it: the empty one of version 0.1.0, or another namespace. Jobs submitted before the change are looked
# for under both for 14 days; those of a former identity are adopted only by tasks that had an attempt before, only if
# they were created before the change, and never cancelled: they may be another installation's. A database that was
# copied has the same id: set the namespace in the copy. If the Variable is deleted, a new id is made up, and running
# jobs are found only where a task state store names them.
#
# Without a supervisor to ask (a task that somebody runs by hand in a script), the database's address has to do.

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from airflow_provider_gemini_batch.errors import SubmitError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

VARIABLE = "gemini_batch_installation"
DESCRIPTION = "Tells the jobs of this Airflow from those of others with the same key. Do not delete."
REMEMBERED = 14 * 24 * 3600.0
"""Seconds for which jobs are looked for under a former identity."""

SECOND_LOOK = 5.0
"""
Seconds after which a new id is read again: of several tasks that make one up at once, all take the one that stays.

Whoever saw no id before ours was written writes another one over it, and is to have done so by then. Half a second was
too short for a database under load; the wait is paid once in the life of an Airflow.
"""

_MOST_MARKS = 5
"""Questions, at most, by which to find the end of the replies of Airflow 3.0.0 to 3.0.2."""

_NOT_TOLD_APART = "Airflow's answers could not be told apart; nothing was sent. A retry asks again."


class _OutOfStep(SubmitError):
    """Later answers would be taken for those to other questions: the task cannot go on, whatever it has configured."""


class Desk(Protocol):
    """Where Airflow keeps Variables."""

    def read(self) -> str | None:
        """
        Return the value, or None if there certainly is none.

        :raises SubmitError: If Airflow cannot be asked.
        """

    def write(self, value: str) -> None:
        """
        Keep the value.

        :raises SubmitError: If Airflow cannot be asked.
        """


@dataclass(frozen=True)
class Installation:
    """
    This Airflow.

    :param name: What goes into the identity of its tasks.
    :param former: Names that it had, and until when (UTC epoch seconds), within the last 14 days.
    :param change: What has changed just now, for the log.
    """

    name: str
    former: tuple[tuple[str, float], ...] = ()
    change: str = ""


def installation(
    namespace: str,
    desk: Desk | None,
    *,
    fallback: str = "",
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Installation:
    """
    Say which Airflow this is, and keep that where it changed.

    :param namespace: ``[gemini_batch] namespace``, or empty.
    :param desk: Where Variables are; None if there is no Airflow to ask.
    :param fallback: The name without a Variable.
    :raises SubmitError: If it cannot be told; nothing was submitted then, and a retry asks again.
    """
    if desk is None:
        # Nobody kept when the identity changed, so that what was submitted until now counts.
        return Installation(namespace or fallback, () if namespace or not fallback else (("", now()),))
    try:
        return _kept(namespace, desk, now, sleep)
    except SubmitError as error:
        if not namespace or isinstance(error, _OutOfStep):
            raise
        log.warning("Whether this Airflow's identity has changed is not known: %s", error)
        return Installation(namespace)


def _kept(namespace: str, desk: Desk, now: Callable[[], float], sleep: Callable[[float], None]) -> Installation:
    text = desk.read()
    if text is None:
        made_up = uuid.uuid4().hex[:16]
        current = namespace or f"airflow:{made_up}"
        first = [] if namespace else [{"name": "", "until": now()}]
        desk.write(json.dumps({"id": made_up, "current": current, "former": first}))
        log.info("This Airflow submits for the first time: its new id is read again in %.0f s.", SECOND_LOOK)
        sleep(SECOND_LOOK)
        text = desk.read()
    if text is None:
        raise SubmitError(f"The Variable {VARIABLE} was not kept; nothing was sent. A retry makes it anew.")
    kept = _read(text)
    current = namespace or f"airflow:{kept['id']}"
    former = {one["name"]: one["until"] for one in kept["former"] if one["until"] > now() - REMEMBERED}
    change = ""
    if kept["current"] != current:
        former[kept["current"]] = now()
        change = (
            f"This Airflow's identity has changed from {kept['current']!r} to {current!r} ([gemini_batch] namespace, "
            f"or the Variable {VARIABLE}). Jobs submitted before are looked for under both for 14 days."
        )
        rest = [{"name": name, "until": until} for name, until in former.items()]
        desk.write(json.dumps({"id": kept["id"], "current": current, "former": rest}))
    return Installation(current, tuple((name, until) for name, until in former.items() if name != current), change)


def names_in(namespace: str, text: str | None) -> list[str]:
    """
    Return the names that the kept value tells, the present one first, without keeping anything.

    :param namespace: ``[gemini_batch] namespace``, or empty.
    :param text: Value of :data:`VARIABLE`, None if there is none.
    """
    kept: dict[str, Any] = _read(text) if text is not None else {"id": "", "current": "", "former": []}
    made_up = f"airflow:{kept['id']}" if kept["id"] else ""
    return list(dict.fromkeys([namespace or made_up, kept["current"], *(one["name"] for one in kept["former"])]))


def _read(text: str) -> dict[str, Any]:
    """Read the Variable's value; a text that somebody put there by hand is an id as well."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, Mapping) or not isinstance(value.get("id"), str):
        identity = hashlib.sha256(text.encode()).hexdigest()[:16]
        return {"id": identity, "current": f"airflow:{identity}", "former": []}
    former = [
        one
        for one in value.get("former") or []
        if isinstance(one, Mapping) and isinstance(one.get("name"), str) and isinstance(one.get("until"), (int, float))
    ]
    current = value.get("current")
    return {
        "id": value["id"],
        "current": current if isinstance(current, str) else f"airflow:{value['id']}",
        "former": former,
    }


# --- Airflow ----------------------------------------------------------------------------------------------------------


def desk_here() -> Desk | None:
    """Return where Variables are in this process, or None if there is no Airflow to ask."""
    try:
        from airflow.sdk.execution_time import task_runner
    except ImportError:
        return _Database()
    comms = getattr(task_runner, "SUPERVISOR_COMMS", None)
    return None if comms is None else _Supervisor(comms)


class _Supervisor:
    """
    Airflow 3: the supervisor is asked directly.

    ``Variable.get`` says that there is no such Variable when the API server could not be reached, too; an id made up
    then would hide every running job.
    """

    def __init__(self, comms: Any) -> None:
        self._comms = comms

    def read(self) -> str | None:
        from airflow.sdk.execution_time.comms import ErrorResponse, GetVariable

        reply = self._ask(GetVariable(key=VARIABLE))
        if _key_of(reply) not in ("", VARIABLE):
            raise _OutOfStep(_NOT_TOLD_APART)
        if not isinstance(reply, ErrorResponse):
            value = getattr(reply, "value", None)
            return None if value is None else str(value)
        if getattr(reply.error, "name", "") == "VARIABLE_NOT_FOUND":
            return None
        raise SubmitError(f"Airflow could not be asked for the Variable {VARIABLE} ({reply.error}); nothing was sent.")

    def write(self, value: str) -> None:
        from airflow.sdk.execution_time.comms import ErrorResponse, PutVariable

        reply = self._ask(PutVariable(key=VARIABLE, value=value, description=DESCRIPTION))
        if isinstance(reply, ErrorResponse):
            raise SubmitError(
                f"Airflow could not keep the Variable {VARIABLE} ({reply.error}); nothing was sent. Where tasks may "
                "not write Variables, set [gemini_batch] namespace."
            )

    def _ask(self, message: Any) -> Any:
        from airflow.sdk.exceptions import AirflowRuntimeError

        try:
            if hasattr(self._comms, "send"):
                return self._comms.send(message)
            with self._comms.lock:
                return _ask_unframed(self._comms, message)
        except AirflowRuntimeError as error:
            return error.error
        except (EOFError, ConnectionError) as error:
            raise SubmitError("This task's supervisor is gone; nothing was submitted.") from error


def _ask_unframed(comms: Any, message: Any) -> Any:
    """
    Ask the supervisor of Airflow 3.0.0 to 3.0.2, whose replies do not say which request they answer.

    A question has one reply. A ``PutVariable`` has one if it is refused, and none if it is kept; what nobody reads
    would be taken for the answer to the task's next question. So a question about a Variable that does not exist
    follows, and its reply, which names that Variable, marks the end::

        PutVariable, Get ..._1    ->              no ..._1     kept
        PutVariable, Get ..._1    ->   refused,   no ..._1     refused

    A question may fail as well, and such a reply names nothing. Then another question is asked before another reply is
    read, so that one is always due.

    :raises _OutOfStep: If no reply marks the end.
    """
    from airflow.sdk.exceptions import AirflowRuntimeError
    from airflow.sdk.execution_time.comms import GetVariable

    comms.send_request(log=log, msg=message)
    if "Get" in type(message).__name__:
        return comms.get_message()
    refusal = None
    asked = replies = 0
    due: int | None = None
    while due is None or replies < due:
        if due is None:
            if asked == _MOST_MARKS:
                raise _OutOfStep(_NOT_TOLD_APART)
            asked += 1
            comms.send_request(log=log, msg=GetVariable(key=f"{VARIABLE}_{asked}"))
        try:
            reply = comms.get_message()
        except AirflowRuntimeError as error:
            reply = error.error
        replies += 1
        marked = _marked_by(reply)
        if due is None and marked is not None:
            # Replies come in order: all up to this question's are read, and each later question's is still to come.
            due = replies + asked - marked
            refusal = refusal if replies > marked else None
        elif refusal is None:
            refusal = reply
    return refusal


def _marked_by(reply: Any) -> int | None:
    """Return the number of the question that a reply answers, None if it does not say."""
    number = _key_of(reply).removeprefix(f"{VARIABLE}_")
    return int(number) if number.isdecimal() else None


def _key_of(reply: Any) -> str:
    """Return which Variable a reply is about, or an empty text if it does not say."""
    return str(getattr(reply, "key", None) or (getattr(reply, "detail", None) or {}).get("key") or "")


class _Database:
    """Airflow 2.11, whose tasks may look into the database."""

    def read(self) -> str | None:
        from airflow.utils.session import create_session
        from sqlalchemy.exc import SQLAlchemyError

        model = _variable_model()
        try:
            with create_session() as session:
                row = session.query(model).filter(model.key == VARIABLE).first()
                return None if row is None else str(row.val)
        except SQLAlchemyError as error:
            raise self._unasked(error) from error

    def write(self, value: str) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            _variable_model().set(VARIABLE, value, description=DESCRIPTION)
        except SQLAlchemyError as error:
            raise self._unasked(error) from error

    @staticmethod
    def _unasked(error: Exception) -> SubmitError:
        return SubmitError(
            f"Airflow's database could not be asked for the Variable {VARIABLE} ({type(error).__name__}); nothing was "
            "sent. A retry asks again; with [gemini_batch] namespace set, nobody is asked."
        )


def _variable_model() -> Any:
    from airflow_provider_gemini_batch import compat

    return compat.Variable


def database_address(conf: Any) -> str:
    """Return a digest of the address of Airflow's database, without its user and password."""
    url = str(conf.get("database", "sql_alchemy_conn", fallback="") or "")
    parts = urlsplit(url)
    place = f"{parts.hostname or ''}:{parts.port or ''}{parts.path}"
    return "database:" + hashlib.sha256(place.encode()).hexdigest()[:16]
