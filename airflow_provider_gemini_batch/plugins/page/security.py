# SPDX-License-Identifier: Apache-2.0
"""Who asks, what they may do, and whether a change was meant."""

# Airflow protects no plugin's app, so each route asks Airflow's own auth manager, in the way Airflow's own routes do:
#
# * login: Airflow's dependency `get_user` reads the bearer token or the session's cookie.
# * permission: `is_authorized_dag` and `is_authorized_connection`; each route names what it needs.
# * forgery: the cookie travels with every request to this origin, whoever made it. So nothing is changed on GET, and a
#   change carries a token that only a page of ours could have been given: a signature over the user and the hour, made
#   with `[api] secret_key`. Worked example: a page given to ada at 10:40 holds `2870482.<signature>`, hour 2870482
#   being 10:00 to 11:00; it is taken until 22:59, from ada alone.

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.plugins.page.errors import PageError, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HOUR = 3600
TOKEN_HOURS = 12
"""For how many hours a page's forms can be sent."""


class Viewer:
    """
    The person who asks, and what Airflow lets them do. Answers are kept for the time of one request.

    :param user: Airflow's ``BaseUser``.
    """

    def __init__(self, user: Any) -> None:
        self._user = user
        self._known: dict[tuple[Any, ...], bool] = {}

    @property
    def user_id(self) -> str:
        """What tells this user from all others."""
        return str(self._user.get_id())

    @property
    def name(self) -> str:
        """How Airflow calls the user."""
        return str(self._user.get_name())

    def may_dag(self, method: str, dag_id: str, entity: str | None = None) -> bool:
        """
        Say whether the viewer may do something with a DAG.

        :param method: ``GET`` to read, ``PUT`` to change.
        :param entity: Of the DAG, e.g. ``TASK_INSTANCE`` or ``XCOM``: a name of Airflow's ``DagAccessEntity``.
        """
        return self._ask(("dag", method, dag_id, entity), lambda: _dag_is_allowed(self._user, method, dag_id, entity))

    def may_connection(self, method: str, conn_id: str) -> bool:
        """Say whether the viewer may read (``GET``) or change (``PUT``) a connection."""
        return self._ask(("connection", method, conn_id), lambda: _connection_is_allowed(self._user, method, conn_id))

    def readable(self, dag_ids: Iterable[str]) -> set[str]:
        """Return those of some DAGs whose tasks the viewer may read."""
        return {dag_id for dag_id in set(dag_ids) if self.may_dag("GET", dag_id, "TASK_INSTANCE")}

    def require_dag(self, method: str, dag_id: str, entity: str | None = None) -> None:
        """:raises Refused: As :meth:`may_dag` says."""
        if not self.may_dag(method, dag_id, entity):
            verb = "read" if method == "GET" else "edit"
            raise Refused(
                f"You may not {'read' if verb == 'read' else 'change'} this DAG", f"{verb} on the DAG {dag_id}"
            )

    def require_connection(self, method: str, conn_id: str) -> None:
        """:raises Refused: As :meth:`may_connection` says."""
        if not self.may_connection(method, conn_id):
            verb = "read" if method == "GET" else "edit"
            raise Refused(
                f"You may not {'see' if verb == 'read' else 'change'} the jobs of this connection",
                f"{verb} on the connection {conn_id}",
            )

    def _ask(self, key: tuple[Any, ...], question: Callable[[], bool]) -> bool:
        # A list of ten thousand jobs asks for the same few DAGs again and again.
        if key not in self._known:
            self._known[key] = question()
        return self._known[key]


# --- forged changes ---------------------------------------------------------------------------------------------------


def make_token(user_id: str, *, now: float | None = None) -> str:
    """Return the token that a page for *user_id* puts into its forms."""
    hour = int((time.time() if now is None else now) // HOUR)
    return f"{hour}.{_signature(user_id, hour)}"


def check_token(token: str, user_id: str, *, now: float | None = None) -> None:
    """
    Accept a change only with a token that this user's page was given.

    :raises PageError: With status 403.
    """
    hour_text, _, signature = token.partition(".")
    present = int((time.time() if now is None else now) // HOUR)
    hour = int(hour_text) if hour_text.isascii() and hour_text.isdigit() and len(hour_text) < 12 else -1
    # In constant time, and computed also for an hour that cannot be: the time taken tells nothing.
    right = hmac.compare_digest(_signature(user_id, hour).encode(), signature.encode("utf-8", "replace"))
    if not right or not present - TOKEN_HOURS < hour <= present:
        raise PageError(
            403,
            "Nothing was changed",
            "This form is too old, or it does not come from this page. Load the page again and repeat what you did.",
        )


def check_origin(origin: str | None, site: str | None, host: str) -> None:
    """
    Refuse a change that a browser says another site has asked for.

    :param origin: Header ``Origin``; browsers send it with each POST.
    :param site: Header ``Sec-Fetch-Site``.
    :raises PageError: With status 403.
    """
    # Newer and stronger: a page cannot set it, and a proxy that rewrites `Host` does not spoil it.
    if site is not None:
        foreign = site not in ("same-origin", "none")
    else:
        foreign = origin is not None and origin.partition("://")[2] != host
    if foreign:
        raise PageError(403, "Nothing was changed", "The request came from another site.")


def _signature(user_id: str, hour: int) -> str:
    message = f"gemini-batch page\n{hour}\n{user_id}".encode()
    return hmac.new(_secret(), message, hashlib.sha256).hexdigest()


def _secret() -> bytes:
    from airflow_provider_gemini_batch.compat import conf

    secret = str(conf.get("api", "secret_key", fallback="") or "")
    if not secret:
        raise PageError(
            500, "Nothing can be changed here", "[api] secret_key is not set: no form of this page can be signed."
        )
    return secret.encode()


# --- Airflow's own checks ---------------------------------------------------------------------------------------------


def _dag_is_allowed(user: Any, method: str, dag_id: str, entity: str | None) -> bool:
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
    from airflow.models.dag import DagModel  # noqa: TID251  (the API server has them)

    return bool(
        get_auth_manager().is_authorized_dag(
            method=method,  # type: ignore[arg-type]
            access_entity=None if entity is None else DagAccessEntity[entity],
            details=DagDetails(id=dag_id, **_team(DagDetails, DagModel, dag_id)),
            user=user,
        )
    )


def _connection_is_allowed(user: Any, method: str, conn_id: str) -> bool:
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.models.resource_details import ConnectionDetails
    from airflow.models.connection import Connection  # noqa: TID251  (the API server has them)

    return bool(
        get_auth_manager().is_authorized_connection(
            method=method,  # type: ignore[arg-type]
            details=ConnectionDetails(conn_id=conn_id, **_team(ConnectionDetails, Connection, conn_id)),
            user=user,
        )
    )


def _team(details: Any, model: Any, name: str) -> dict[str, Any]:
    """Return the team that a thing belongs to, for Airflows with teams (3.1 and later)."""
    if "team_name" not in details.__dataclass_fields__ or not hasattr(model, "get_team_name"):
        return {}
    return {"team_name": model.get_team_name(name)}
