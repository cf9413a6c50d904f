# SPDX-License-Identifier: Apache-2.0
"""Buckets: create, get, list, delete."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route

from gemini_batch_emulator.replies import base_url, reply
from gemini_batch_emulator.storage.access import allow, json_body
from gemini_batch_emulator.storage.resources import bucket_resource
from gemini_batch_emulator.storage.store import StorageError, object_store

if TYPE_CHECKING:
    from starlette.requests import Request

    from gemini_batch_emulator.state import EmulatorState

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


class Buckets:
    """Handlers."""

    def __init__(self, state: EmulatorState) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        """The routes."""
        name = "storage.buckets"
        return [
            Route("/storage/v1/b", self.create, methods=["POST"], name=f"{name}.create"),
            Route("/storage/v1/b", self.list, methods=["GET"], name=f"{name}.list"),
            Route("/storage/v1/b/{bucket}", self.get, methods=["GET"], name=f"{name}.get"),
            Route("/storage/v1/b/{bucket}", self.delete, methods=["DELETE"], name=f"{name}.delete"),
        ]

    async def create(self, request: Request) -> Response:
        """Make a bucket."""
        store = object_store(self._state)
        allow(self._state, request, None, "storage.buckets.create")
        body = await json_body(request)
        name = body.get("name", "")
        if not _NAME.fullmatch(str(name)):
            raise StorageError(400, f"Invalid bucket name: '{name}'")
        # Word for word: clients that create a bucket if it is absent look at the status, people at the text.
        if name in store.buckets:
            raise StorageError(
                409, "Your previous request to create the named bucket succeeded and you already own it."
            )
        project = request.query_params.get("project", "")
        bucket = store.create_bucket(name, project=project, location=str(body.get("location") or "US"))
        return reply(self._state, request, bucket_resource(bucket, base_url(request)))

    async def list(self, request: Request) -> Response:
        """All buckets, by name."""
        store = object_store(self._state)
        allow(self._state, request, None, "storage.buckets.list")
        prefix = request.query_params.get("prefix", "")
        found = [bucket for name, bucket in sorted(store.buckets.items()) if name.startswith(prefix)]
        listing: dict[str, Any] = {"kind": "storage#buckets"}
        if found:
            listing["items"] = [bucket_resource(bucket, base_url(request)) for bucket in found]
        return reply(self._state, request, listing)

    async def get(self, request: Request) -> Response:
        """One bucket."""
        bucket = object_store(self._state).bucket(request.path_params["bucket"])
        allow(self._state, request, bucket, "storage.buckets.get")
        return reply(self._state, request, bucket_resource(bucket, base_url(request)))

    async def delete(self, request: Request) -> Response:
        """Remove an empty bucket."""
        store = object_store(self._state)
        bucket = store.bucket(request.path_params["bucket"])
        allow(self._state, request, bucket, "storage.buckets.delete")
        # The service refuses it, too: a bucket is not removed with what is in it.
        if bucket.objects:
            raise StorageError(409, "The bucket you tried to delete is not empty.")
        del store.buckets[bucket.name]
        return Response(status_code=204)
