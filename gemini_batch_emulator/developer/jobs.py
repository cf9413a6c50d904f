# SPDX-License-Identifier: Apache-2.0
"""
Batch jobs of the Developer API: create (generate, embed), get, list, cancel, delete, update, for ``v1`` and ``v1beta``.
"""

# Sources: https://ai.google.dev/api/batch-api, https://ai.google.dev/api/embeddings,
# https://generativelanguage.googleapis.com/$discovery/rest?version=v1beta.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from gemini_batch_emulator.answering.requests import member, snake
from gemini_batch_emulator.developer.access import VERSIONS, require_key
from gemini_batch_emulator.developer.checks import BATCH_FIELDS
from gemini_batch_emulator.developer.creation import BACKEND, Creation, check_model, priority_of
from gemini_batch_emulator.developer.resources import batch_resource, operation
from gemini_batch_emulator.developer.store import file_store
from gemini_batch_emulator.errors import GoogleError
from gemini_batch_emulator.messages import refuse_unknown
from gemini_batch_emulator.replies import polled, read_json, reply, unhurried

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gemini_batch_emulator.jobs import Job
    from gemini_batch_emulator.state import EmulatorState

CREATE_METHODS = {"generate": "batchGenerateContent", "embed": "asyncBatchEmbedContent"}


def _missing(name: str) -> GoogleError:
    return GoogleError(404, f"Requested entity was not found: {name}.")


def _query(request: Request, name: str) -> str:
    return request.query_params.get(name) or request.query_params.get(snake(name)) or ""


class Jobs:
    """Handlers of one version of the API."""

    def __init__(self, state: EmulatorState, version: str) -> None:
        self._state = state
        self._version = version

    def routes(self) -> list[Route]:
        """The routes; the polled ones first."""
        name = "developer.jobs"
        batch = f"/{self._version}/batches/{{batch}}"
        found = [
            Route(batch + ":cancel", self.cancel, methods=["POST"], name=f"{name}.cancel"),
            Route(
                batch + ":updateGenerateContentBatch", self.update_generate, methods=["PATCH"], name=f"{name}.update"
            ),
            Route(batch + ":updateEmbedContentBatch", self.update_embed, methods=["PATCH"], name=f"{name}.update"),
            Route(batch, self.get, methods=["GET"], name=f"{name}.get"),
            Route(batch, self.delete, methods=["DELETE"], name=f"{name}.delete"),
            Route(f"/{self._version}/batches", self.list, methods=["GET"], name=f"{name}.list"),
        ]
        for collection in ("models", "tunedModels"):
            for kind, handler in (("generate", self.create_generate), ("embed", self.create_embed)):
                path = f"/{self._version}/{collection}/{{model}}:{CREATE_METHODS[kind]}"
                found.append(Route(path, handler, methods=["POST"], name=f"{name}.create"))
        return found

    # Create ---------------------------------------------------------------------------------------------------------

    async def create_generate(self, request: Request) -> Response:
        """``batchGenerateContent``."""
        return await self._create(request, "generate")

    async def create_embed(self, request: Request) -> Response:
        """``asyncBatchEmbedContent``."""
        return await self._create(request, "embed")

    async def _create(self, request: Request, kind: str) -> Response:
        state = self._state
        key = require_key(state, request)
        body = await read_json(request)
        # From the URL: official clients leave the body's `model` out.
        model = request.url.path.partition(f"/{self._version}/")[2].rpartition(":")[0]
        check_model(state, model, CREATE_METHODS[kind], self._version, key)
        job = await Creation(state, kind, model).job_from(body)
        return reply(state, request, operation(state, job))

    # Read -----------------------------------------------------------------------------------------------------------

    def _existing(self, request: Request) -> Job:
        require_key(self._state, request)
        name = f"batches/{request.path_params['batch']}"
        job = self._state.jobs.get(name)
        if job is None or job.backend != BACKEND:
            raise _missing(name)
        return job

    async def get(self, request: Request) -> Response:
        """One job, with its output once it has ended."""
        state = self._state
        require_key(state, request)
        name = f"batches/{request.path_params['batch']}"
        job = await polled(state, name)
        if job is None:
            raise _missing(name)
        answer = reply(state, request, operation(state, job, raw="fields" not in request.query_params))
        limit = state.config.inline_read_limit
        # Reported: an inline job with large answers ends well, is billed, and every read of it is a 503
        # (https://github.com/googleapis/python-genai/issues/2519). Listing goes on to work.
        if limit is not None and job.resource.get("inline") and job.is_ended and len(answer.body) > limit:
            raise GoogleError(503, "The service is currently unavailable.")
        return answer

    async def list(self, request: Request) -> Response:
        """Jobs, newest first, without their output."""
        state = self._state
        require_key(state, request)
        if _query(request, "filter") and state.config.list_filter == "reject":
            raise GoogleError(501, "Operation is not implemented, or supported, or enabled: filter.")
        asked = _query(request, "pageSize")
        try:
            size = int(asked) if asked else 0
        except ValueError:
            raise GoogleError(400, f"Invalid value at 'page_size' (TYPE_INT32), \"{asked}\"") from None
        if size <= 0:
            # https://github.com/googleapis/python-genai/issues/1250
            if state.config.list_empty_without_page_size:
                return reply(state, request, {})
            size = state.config.list_default_page_size
        size = min(size, state.config.list_max_page_size)
        page_token = _query(request, "pageToken")
        jobs, token = await unhurried(state, state.page_of_jobs, BACKEND, page_size=size, page_token=page_token)
        # Without jobs there is no member at all, as proto JSON leaves empty lists out. A list item has no output: it
        # may not decide whether a job's rows are done.
        answer: dict[str, Any] = {}
        if jobs:
            answer["operations"] = [operation(state, job, with_output=False) for job in jobs]
        if token:
            answer["nextPageToken"] = token
        return reply(state, request, answer)

    # Change ---------------------------------------------------------------------------------------------------------

    async def cancel(self, request: Request) -> Response:
        """Ask a job to stop."""
        state = self._state
        job = self._existing(request)
        await read_json(request)
        await unhurried(state, state.look_at, job)
        # What the service says here is published nowhere; the default is a 200 that changes nothing.
        if job.is_ended and state.config.cancel_ended == "reject":
            raise GoogleError(400, f"{job.name} has ended and cannot be cancelled.", "FAILED_PRECONDITION")
        await unhurried(state, state.cancel_job, job)
        return reply(state, request, {})

    async def delete(self, request: Request) -> Response:
        """Forget a job and its output."""
        state = self._state
        job = self._existing(request)
        await unhurried(state, state.delete_job, job)
        # The output goes with its job, the input stays: it is a file of its own.
        file_store(state).outputs.pop(job.output.get("responsesFile", ""), None)
        return reply(state, request, {})

    async def update_generate(self, request: Request) -> Response:
        """``updateGenerateContentBatch``."""
        return await self._update(request, "generate")

    async def update_embed(self, request: Request) -> Response:
        """``updateEmbedContentBatch``."""
        return await self._update(request, "embed")

    async def _update(self, request: Request, kind: str) -> Response:
        state = self._state
        job = self._existing(request)
        if job.kind != kind:
            raise GoogleError(400, f"{job.name} is not a batch of this kind.")
        body = await read_json(request)
        refuse_unknown(body, BATCH_FIELDS, "")
        mask = [snake(name) for name in _query(request, "updateMask").split(",") if name]
        for name in mask:
            if name not in ("display_name", "priority"):
                raise GoogleError(400, f"* UpdateBatchRequest.update_mask: {name} cannot be changed.")
        if ("displayName" in body or "display_name" in body) and (not mask or "display_name" in mask):
            job.display_name = str(member(body, "displayName"))
        if "priority" in body and (not mask or "priority" in mask):
            job.priority = priority_of(body)
        # An update answers with the bare batch, not with an operation, so that it has no type either.
        resource = batch_resource(state, state.look_at(job))
        resource.pop("@type")
        return reply(state, request, resource)


def routes(state: EmulatorState) -> list[Route]:
    """The routes of batch jobs, for both versions."""
    return [route for version in VERSIONS for route in Jobs(state, version).routes()]
