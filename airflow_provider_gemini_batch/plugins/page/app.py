# SPDX-License-Identifier: Apache-2.0
"""The app that serves the page, made in the API server alone."""

# Theory of operation. Each route is wrapped by `_endpoint`: Airflow's `get_user` says who asks (401 if nobody), the
# route's need is checked (403), a POST's origin and token are checked (403), then the view runs in a thread. Views read
# Airflow's database, so they block; they get threads of their own (`threads.py`), so that fifty people take none of
# those that Airflow's routes need. Changes that ask Google have threads apart. A view that reads answers yields what it
# wants read, which runs in the threads of that storage (`storage_reads.py`), and goes on with what came. Whatever
# happens, the answer is HTML with the same headers.

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.plugins.page import storage_reads, threads, urls
from airflow_provider_gemini_batch.plugins.page.errors import PageError
from airflow_provider_gemini_batch.plugins.page.rendering import HERE, render

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI

    from airflow_provider_gemini_batch.plugins.page.visit import Route, Visit

log = logging.getLogger(__name__)

MAX_PARAMETER = 1_000
"""Characters of a parameter that a message leads back to."""

LOCK = "gemini_batch_lock"
"""Where a request's ASGI scope has its :class:`~.threads.LoopLock`."""

MAX_BODY = 1_000_000
"""Bytes of a form."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'self'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Sent with everything; all but the static files is never kept by a cache."""


def routes() -> list[Route]:
    """Return all routes, view by view."""
    from airflow_provider_gemini_batch.plugins.page.views import answers, jobs, run, sample, spend

    return [*run.ROUTES, *answers.ROUTES, *sample.ROUTES, *jobs.ROUTES, *spend.ROUTES]


def create_app() -> FastAPI:
    """Make the app."""
    from fastapi import FastAPI, HTTPException
    from starlette.responses import RedirectResponse
    from starlette.staticfiles import StaticFiles

    from airflow_provider_gemini_batch.plugins.page.stored_port import read_missing_port_as_zero

    read_missing_port_as_zero()
    app = FastAPI(title="Gemini Batch", docs_url=None, redoc_url=None, openapi_url=None)
    for route in routes():
        app.add_api_route(route.path, _endpoint(route), methods=[route.method], response_model=None)

    async def home(request: Any) -> Any:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/jobs", status_code=307)

    app.router.add_route("/", home, methods=["GET"])
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.add_exception_handler(PageError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(404, _answer_http)
    app.add_exception_handler(405, _answer_http)
    app.add_exception_handler(Exception, _answer_fault)
    app.add_middleware(PageMiddleware)
    return app


def _endpoint(route: Route) -> Callable[..., Any]:
    from airflow.api_fastapi.core_api.security import GetUserDep
    from fastapi import HTTPException
    from starlette.requests import Request

    from airflow_provider_gemini_batch.plugins.page.security import Viewer
    from airflow_provider_gemini_batch.plugins.page.visit import Visit

    async def endpoint(request: Any, user: Any) -> Any:
        lock = request.scope[LOCK]
        lock.release()
        try:
            form = await _form(request) if route.method != "GET" else {}
            return await _answered(route, Visit(request, Viewer(user), form))
        except (PageError, HTTPException):
            raise
        except Exception as error:
            # Here, and not by Starlette: that raises it again, which logs it twice and cuts the connection.
            return await _answer_fault(request, error)
        finally:
            await lock.acquire()

    # As objects: names that only this function knows could not be looked up.
    endpoint.__annotations__ = {"request": Request, "user": GetUserDep}
    return endpoint


async def _answered(route: Route, visit: Visit) -> Any:
    """Run a view: its own steps in its threads, what it yields in those of the storage."""
    answer = await threads.run(route.threads, _serve, route, visit)
    if not isinstance(answer, Generator):
        return answer
    view, reply = answer, None
    while isinstance(wanted := await threads.run(route.threads, _advance, view, reply), storage_reads.Read):
        try:
            reply = await storage_reads.run("answers", wanted.storage, wanted.call)
        except Exception as error:
            reply = error
    return wanted


def _advance(view: Generator[storage_reads.Read, Any, Any], reply: Any) -> Any:
    """Return what a view wants read next, or its response."""
    try:
        return view.throw(reply) if isinstance(reply, Exception) else view.send(reply)
    except StopIteration as end:
        return end.value


def _serve(route: Route, visit: Visit) -> Any:
    from airflow_provider_gemini_batch.plugins.page import security

    if route.method != "GET":
        headers = visit.request.headers
        security.check_origin(headers.get("origin"), headers.get("sec-fetch-site"), headers.get("host", ""))
        security.check_token(visit.text("token"), visit.viewer.user_id)
    route.needs(visit)
    return route.view(visit)


async def _form(request: Any) -> dict[str, list[str]]:
    """Read the fields of a form that was sent."""
    from urllib.parse import parse_qs

    # Of the types that a foreign page can send without asking first, this one alone is read, and the token has to hold.
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise PageError(415, "Nothing was changed", "Only forms of this page are read.")
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > MAX_BODY:
            raise PageError(413, "Nothing was changed", "The form is too large.")
        pieces.append(piece)
    text = b"".join(pieces).decode("utf-8", "replace")
    try:
        return parse_qs(text, keep_blank_values=True, max_num_fields=20_000)
    except ValueError:
        raise PageError(413, "Nothing was changed", "The form has too many fields.") from None


# --- what is answered instead of a view -------------------------------------------------------------------------------


class PageMiddleware:
    """
    Sends our headers with everything; one request at a time goes through the event loop (:class:`.threads.LoopLock`).

    :param app: What is asked, as ASGI has it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        from starlette.datastructures import MutableHeaders

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        lock = scope[LOCK] = threads.LoopLock()
        is_static = "/static/" in scope["path"]

        async def send_ours(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if not is_static:
                    headers["Cache-Control"] = "no-store"
            await send(message)
            if message["type"] == "http.response.body":
                lock.release()

        try:
            await lock.acquire()
            await self._app(scope, receive, send_ours)
        finally:
            lock.release()


def _message(request: Any, error: PageError) -> Any:
    from starlette.responses import HTMLResponse

    root = str(request.scope.get("root_path", ""))
    named = [request.query_params.get(name, "")[:MAX_PARAMETER] for name in ("dag_id", "run_id", "task_id")]
    context = {
        "error": error,
        "root": root,
        "airflow": root.removesuffix("/gemini-batch") or "/",
        "urls": urls,
        "address": urls.TaskAddress(*named) if all(named) else None,
    }
    response = HTMLResponse(render("message.html", context), status_code=error.status)
    response.headers.update(HEADERS)
    response.headers["Cache-Control"] = "no-store"
    return response


async def _answer_error(request: Any, error: Any) -> Any:
    return _message(request, error)


async def _answer_http(request: Any, error: Any) -> Any:
    status = int(getattr(error, "status_code", 500))
    titles = {
        401: ("You are signed out", "Airflow wants you to sign in again. Do so and this page goes on where it was."),
        403: ("You may not see this", "Airflow did not accept who you are. Sign in again."),
        404: ("There is nothing here", "This page has a task's run and answers, the jobs of a connection, and spend."),
        405: ("Not like this", "This address is not asked in that way."),
    }
    title, text = titles.get(status, ("This cannot be shown", "Airflow answered with an error."))
    kind = {401: "signed-out", 403: "locked", 404: "empty"}.get(status, "error")
    return _message(request, PageError(status, title, text, kind=kind))


async def _answer_fault(request: Any, error: Any) -> Any:
    # The message may hold a row's text, so the browser gets only the kind of fault.
    log.error("The page could not show %s", request.url.path, exc_info=error)
    text = f"{type(error).__name__}: the log of the API server says more. The runs themselves go on without this page."
    return _message(request, PageError(500, "This could not be shown", text))
