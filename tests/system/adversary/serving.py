# SPDX-License-Identifier: Apache-2.0
"""The adversarial service over HTTP, on the standard library's server; one front for each caller."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.system.adversary.service import Service

_CARRYING_OUT = threading.Lock()


class Front:
    """
    What befalls the calls of one caller on their way; this one lets all of them through.

    :ivar service: Where they go.
    """

    service: Service

    def arrive(self, method: str, path: str) -> bool:
        """Hold a call on its way to the service; False if it never arrives."""
        return True

    def leave(self, method: str, path: str) -> bool:
        """Hold a reply on its way back; False if it is lost."""
        return True


class Server:
    """
    Serves through one front at a time.

    :ivar front: May be replaced between two plays.
    """

    def __init__(self, front: Callable[[], Front]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                here = front()
                if not here.arrive(self.command, self.path):
                    self.close_connection = True
                    return
                with _CARRYING_OUT:
                    status, headers, content = here.service.handle(self.command, self.path, dict(self.headers), body)
                if not here.leave(self.command, self.path):
                    self.close_connection = True
                    return
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, format: str, *words: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.02), name="adversary", daemon=True)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
