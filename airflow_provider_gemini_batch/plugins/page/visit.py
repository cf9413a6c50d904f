# SPDX-License-Identifier: Apache-2.0
"""One request to the page: who asks, what for, and how it is answered."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.plugins.page import rendering, security, urls
from airflow_provider_gemini_batch.plugins.page.errors import BadAddress
from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from sqlalchemy.orm import Session
    from starlette.requests import Request
    from starlette.responses import Response

    from airflow_provider_gemini_batch.plugins.page.security import Viewer
    from airflow_provider_gemini_batch.plugins.page.storage_reads import Read

DEFAULT_CONNECTION = "gemini_batch_default"
_rendering = threading.Lock()
"""One page is made at a time: two threads of Python make none sooner, and take more from Airflow's own routes."""

MAX_PARAMETER = 1000
"""Characters of a parameter; longer ones are refused."""


@dataclass(frozen=True)
class Route:
    """
    An address that the app serves.

    :param path: Below the page's address, e.g. ``/run``.
    :param view: Answers a :class:`Visit`; runs in a thread, so it may ask Airflow's database. For what is stored
        elsewhere it yields a :class:`~.storage_reads.Read` and gets what was read, or what was raised.
    :param needs: One of :mod:`.needs`, asked before *view* runs.
    :param method: ``GET``, which changes nothing, or ``POST``, which carries the page's token.
    :param threads: Key of :data:`.threads.THREADS`: what *view* waits for itself.
    """

    path: str
    view: Callable[[Visit], Response | Generator[Read, Any, Response]]
    needs: Callable[[Visit], None]
    method: str = "GET"
    threads: str = "views"


@dataclass
class Visit:
    """
    One request.

    :param form: Fields of a POST, each with all its values; empty for GET.
    """

    request: Request
    viewer: Viewer
    form: Mapping[str, list[str]] = field(default_factory=dict)

    # --- what is asked for --------------------------------------------------------------------------------------------

    def text(self, name: str, default: str = "") -> str:
        """Return a parameter of the address, or of the form that was sent."""
        given = self.form[name][0] if name in self.form else self.request.query_params.get(name, default)
        if len(given) > MAX_PARAMETER:
            raise BadAddress(f"{name} is longer than {MAX_PARAMETER} characters.")
        return given

    def texts(self, name: str) -> list[str]:
        """Return all values of a parameter."""
        return self.form[name] if name in self.form else self.request.query_params.getlist(name)

    def number(self, name: str, default: int, *, least: int = 0, most: int = 2**31 - 1) -> int:
        """Return a parameter that is a whole number; one outside the bounds is brought inside."""
        text = self.text(name)
        if not text:
            return default
        try:
            return min(max(int(text), least), most)
        except ValueError:
            raise BadAddress(f"{name} must be a whole number.") from None

    @cached_property
    def address(self) -> TaskAddress:
        """
        The task instance that the address names.

        :raises BadAddress: If a part is missing.
        """
        parts = {name: self.text(name) for name in ("dag_id", "run_id", "task_id")}
        missing = [name for name, value in parts.items() if not value]
        if missing:
            raise BadAddress(f"It names no {', no '.join(missing)}. Open this page from a task.")
        map_index = self.text("map_index")
        # The UI leaves {MAP_INDEX} as it is for a task that is not mapped.
        index = int(map_index) if map_index.isascii() and map_index.isdigit() and len(map_index) < 10 else -1
        return TaskAddress(**parts, map_index=index)

    @cached_property
    def conn_id(self) -> str:
        """The connection that the address names, or the default one."""
        return self.text("conn_id") or DEFAULT_CONNECTION

    # --- how it is answered -------------------------------------------------------------------------------------------

    @property
    def root(self) -> str:
        """The page's own address on this server, without a slash at its end."""
        return str(self.request.scope.get("root_path", ""))

    def to(self, path: str) -> str:
        """Return the address of a path of :mod:`.urls` on this server."""
        return self.root + path

    def to_airflow(self, path: str) -> str:
        """Return the address of a path of Airflow's own pages on this server."""
        return self.root.removesuffix(urls.PREFIX) + path

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Give a session of Airflow's database."""
        from airflow.utils.session import create_session

        with create_session() as session:
            yield session

    def page(self, template: str, *, status: int = 200, **context: Any) -> Response:
        """
        Render a template. It sees ``visit``, ``viewer``, ``urls``, ``to``, ``to_airflow``, ``token`` and ``now`` beside
        *context*; everything it writes is escaped.
        """
        from starlette.responses import HTMLResponse

        with _rendering:
            html = rendering.render(template, self._context() | context)
        return HTMLResponse(html, status_code=status)

    def redirect(self, path: str) -> Response:
        """Answer a change: show a page again, by GET."""
        from starlette.responses import RedirectResponse

        # 303 makes the browser go on with GET, so that a reload does not send the form again.
        return RedirectResponse(self.to(path), status_code=303)

    def _context(self) -> dict[str, Any]:
        return {
            "visit": self,
            "viewer": self.viewer,
            "urls": urls,
            "to": self.to,
            "to_airflow": self.to_airflow,
            "token": security.make_token(self.viewer.user_id),
            "now": time.time(),
        }
