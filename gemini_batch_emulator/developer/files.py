# SPDX-License-Identifier: Apache-2.0
"""The Files API: get, list, delete, download; uploads are in :mod:`.uploads`."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from gemini_batch_emulator.developer.access import VERSIONS, require_key
from gemini_batch_emulator.developer.store import file_resource, file_store
from gemini_batch_emulator.developer.uploads import Uploads
from gemini_batch_emulator.errors import GoogleError
from gemini_batch_emulator.replies import base_url, file_reply, parse_range, reply

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gemini_batch_emulator.state import EmulatorState


class Files:
    """Handlers of one version of the API."""

    def __init__(self, state: EmulatorState, version: str) -> None:
        self._state = state
        self._version = version
        self._uploads = Uploads(state, version)

    def routes(self) -> list[Route]:
        """The routes; downloads first, since their paths would match others."""
        version = self._version
        file = f"/{version}/files/{{file}}"
        return [
            Route(f"/download{file}:download", self.download, methods=["GET"], name="developer.files.download"),
            Route(f"{file}:download", self.download, methods=["GET"], name="developer.files.download"),
            Route(
                f"/upload/{version}/files",
                self._uploads.handle,
                methods=["POST", "PUT"],
                name="developer.files.upload",
            ),
            Route(f"/{version}/files", self.list, methods=["GET"], name="developer.files.list"),
            Route(file, self.get, methods=["GET"], name="developer.files.get"),
            Route(file, self.delete, methods=["DELETE"], name="developer.files.delete"),
        ]

    async def download(self, request: Request) -> Response:
        """The answers of a job; uploaded files cannot be downloaded."""
        state = self._state
        require_key(state, request)
        store = file_store(state)
        name = f"files/{request.path_params['file']}"
        # The SDK's path and the documented one differ (`/download/...`), and both end here.
        if request.query_params.get("alt") != "media":
            raise GoogleError(400, "A download needs alt=media.")
        path, job = store.outputs.get(name, (None, None))
        # 404 here, where get and delete answer 403, as captures show.
        if path is None or job is None or not path.exists() or not job.has_results(state.now()):
            if store.find(name) is not None:
                raise GoogleError(400, f"The file {name} was not generated; only generated files can be downloaded.")
            raise GoogleError(404, f"Requested entity was not found: {name}.")
        # Whether the service honours `Range` is not known, so that by default the whole file comes with a 200. A client
        # has to cope with both.
        chosen = None
        if state.config.download_ranges:
            chosen = parse_range(request.headers.get("range"), path.stat().st_size)
        return file_reply(path, media_type="application/jsonl", byte_range=chosen)

    async def get(self, request: Request) -> Response:
        """One uploaded file."""
        require_key(self._state, request)
        stored = file_store(self._state).get(f"files/{request.path_params['file']}")
        resource = file_resource(self._state, stored, base_url(request), self._version)
        # After the answer is made: the first read shows the state of the upload.
        stored.polls += 1
        return reply(self._state, request, resource)

    async def delete(self, request: Request) -> Response:
        """Remove an uploaded file."""
        require_key(self._state, request)
        store = file_store(self._state)
        store.remove(store.get(f"files/{request.path_params['file']}"))
        return reply(self._state, request, {})

    async def list(self, request: Request) -> Response:
        """Uploaded files, newest first; outputs of jobs are not among them."""
        state = self._state
        require_key(state, request)
        size = _page_size(request)
        below = _page_number(request.query_params.get("pageToken") or request.query_params.get("page_token"))
        store = file_store(state)
        # Only what was uploaded: outputs of jobs are not in this list, as captures show.
        alive = [stored for stored in [*store.files.values()] if store.find(stored.name)]
        wanted = [stored for stored in reversed(alive) if below is None or stored.number < below]
        page = wanted[:size]
        answer: dict[str, Any] = {}
        if page:
            answer["files"] = [file_resource(state, stored, base_url(request), self._version) for stored in page]
        if len(wanted) > size:
            token = json.dumps(page[-1].number).encode()
            answer["nextPageToken"] = base64.urlsafe_b64encode(token).decode().rstrip("=")
        return reply(state, request, answer)


def routes(state: EmulatorState) -> list[Route]:
    """The routes of the Files API, for both versions."""
    return [route for version in VERSIONS for route in Files(state, version).routes()]


def _page_size(request: Request, default: int = 10, most: int = 100) -> int:
    text = request.query_params.get("pageSize") or request.query_params.get("page_size")
    try:
        size = int(text) if text else 0
    except ValueError:
        raise GoogleError(400, f"Invalid value at 'page_size' (TYPE_INT32), \"{text}\"") from None
    return min(size, most) if size > 0 else default


def _page_number(token: str | None) -> int | None:
    if not token:
        return None
    try:
        return int(json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))))
    except ValueError:
        raise GoogleError(400, "Invalid page token.") from None
