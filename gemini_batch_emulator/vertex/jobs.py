# SPDX-License-Identifier: Apache-2.0
"""Batch prediction jobs of Vertex AI: create, get, list, cancel and delete, for ``v1`` and ``v1beta1``."""

# Not served: multimodal datasets, dedicated resources, explanations. Unsure, since Google documents none of it: names
# of further shards, what cancelling an ended job answers beside a failed one, the error for a model in a wrong
# location.
#
# Sources: https://aiplatform.googleapis.com/$discovery/rest?version=v1;
# https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/capabilities/batch-inference.

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from gemini_batch_emulator.clock import timestamp
from gemini_batch_emulator.errors import GoogleError
from gemini_batch_emulator.models import is_embedding
from gemini_batch_emulator.replies import polled, read_json, reply
from gemini_batch_emulator.vertex.access import Access
from gemini_batch_emulator.vertex.creation import invalid, read_body
from gemini_batch_emulator.vertex.inputs import ImportedRows, objects_at
from gemini_batch_emulator.vertex.list_filter import BadFilter, read_filter
from gemini_batch_emulator.vertex.models import check_model, is_legacy
from gemini_batch_emulator.vertex.outputs import VertexRun
from gemini_batch_emulator.vertex.resources import facts, job_resource, masked

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gemini_batch_emulator.jobs import Job
    from gemini_batch_emulator.state import EmulatorState

BACKEND = "vertex_ai"


class Jobs:
    """Handlers of one version of the API."""

    def __init__(self, state: EmulatorState, version: str) -> None:
        self._state = state
        self._access = Access(state)
        self._version = version

    def routes(self) -> list[Route]:
        """The routes."""
        name = "vertex.jobs"
        parent = f"/{self._version}/projects/{{project}}/locations/{{location}}"
        jobs = f"{parent}/batchPredictionJobs"
        operation = parent + "/operations/{operation}"
        return [
            Route(jobs, self.create, methods=["POST"], name=f"{name}.create"),
            Route(jobs, self.list, methods=["GET"], name=f"{name}.list"),
            Route(jobs + "/{job}:cancel", self.cancel, methods=["POST"], name=f"{name}.cancel"),
            Route(jobs + "/{job}", self.get, methods=["GET"], name=f"{name}.get"),
            Route(jobs + "/{job}", self.delete, methods=["DELETE"], name=f"{name}.delete"),
            Route(operation, self.operation, methods=["GET"], name=f"{name}.operation"),
        ]

    async def create(self, request: Request) -> Response:
        """Make a job; its places are looked at when it starts."""
        state = self._state
        project, location, scope = self._access.enter(request)
        body = read_body(await read_json(request))
        # The model is what a create call looks at besides the body: buckets and tables are looked at when the job
        # starts.
        short = check_model(state, str(body["model"]), project, location)
        kind = "embed" if is_embedding(short) else "generate"
        uris = (body["inputConfig"].get("gcsSource") or {}).get("uris") or []
        # The page on batch embeddings: Gemini's embedding models take Cloud Storage alone, the older ones BigQuery as
        # well.
        if kind == "embed" and not is_legacy(short) and not uris:
            raise GoogleError(400, f"{short} supports Cloud Storage input only.")
        if state.config.several_uris == "reject" and (len(uris) > 1 or any("*" in uri for uri in uris)):
            raise invalid("input_config.gcs_source.uris", "Exactly one JSONL file is supported.")
        # A guess from the size, at most: nothing but the length of the next step depends on it before the start.
        size = sum(stored.size for uri in uris for stored in objects_at(state, uri))
        job = state.create_job(
            name=f"{scope}/batchPredictionJobs/{state.new_id(1, '123456789')}{state.new_id(18, '0123456789')}",
            backend=BACKEND,
            kind=kind,
            model=str(body["model"]),
            display_name=str(body["displayName"]),
            source=ImportedRows(size // 200),
            handler=VertexRun(state),
            labels={str(key): str(value) for key, value in (body.get("labels") or {}).items()},
            resource=body,
            scope=scope,
        )
        return reply(state, request, job_resource(state, job))

    def _name(self, request: Request) -> str:
        return f"{self._access.enter(request)[2]}/batchPredictionJobs/{request.path_params['job']}"

    async def _existing(self, request: Request) -> Job:
        """Return the job that the path names, advanced to now."""
        name = self._name(request)
        job = self._state.jobs.get(name)
        if job is None:
            raise _missing(name)
        await asyncio.to_thread(self._state.look_at, job)
        return job

    async def get(self, request: Request) -> Response:
        """One job."""
        name = self._name(request)
        job = await polled(self._state, name)
        if job is None:
            raise _missing(name)
        return reply(self._state, request, job_resource(self._state, job))

    async def list(self, request: Request) -> Response:
        """Jobs that a filter keeps, newest first."""
        state = self._state
        scope = self._access.enter(request)[2]
        query = request.query_params
        default = state.config.list_default_page_size
        try:
            keep = read_filter(query.get("filter", ""))
            size = int(query.get("pageSize") or query.get("page_size") or default)
        except BadFilter as error:
            raise GoogleError(400, f"Invalid filter: {error}") from None
        except ValueError:
            raise GoogleError(400, "Invalid value at 'page_size' (TYPE_INT32).") from None
        # Looking may start or end many jobs; other requests must not wait for that.
        jobs, token = await asyncio.to_thread(
            state.page_of_jobs,
            BACKEND,
            scope=scope,
            page_size=min(size if size > 0 else default, state.config.list_max_page_size),
            page_token=query.get("pageToken") or query.get("page_token") or "",
            keep=lambda job: keep(facts(job)),
        )
        mask = query.get("readMask") or query.get("read_mask") or ""
        listing: dict[str, Any] = {}
        if jobs:
            listing["batchPredictionJobs"] = [masked(job_resource(state, job), mask) for job in jobs]
        if token:
            listing["nextPageToken"] = token
        return reply(state, request, listing)

    async def cancel(self, request: Request) -> Response:
        """Ask a job to stop; one that has ended cannot be."""
        state = self._state
        job = await self._existing(request)
        await read_json(request)
        # Captured for a job that had failed; for other ends it is a guess, on the strict side.
        if job.is_ended:
            raise GoogleError(
                400,
                f'The BatchPredictionJob "{job.name}" cannot be cancelled in state JOB_STATE_{job.raw_state}.',
                "FAILED_PRECONDITION",
            )
        await asyncio.to_thread(state.cancel_job, job)
        return reply(state, request, {})

    async def delete(self, request: Request) -> Response:
        """Forget an ended job; answers with an operation."""
        state = self._state
        job = await self._existing(request)
        # Documented: only a job in a final state can be deleted. On the Developer API any can, and that cancels
        # nothing.
        if not job.is_ended:
            raise GoogleError(
                400,
                f'The BatchPredictionJob "{job.name}" is in state JOB_STATE_{job.raw_state}; only jobs that have '
                "completed (succeeded, failed, cancelled or expired) can be deleted.",
                "FAILED_PRECONDITION",
            )
        state.delete_job(job)
        now = timestamp(state.now(), 6)
        operation = {
            "name": f"{job.scope}/operations/{state.new_id(19, '123456789')}",
            "metadata": {
                "@type": "type.googleapis.com/google.cloud.aiplatform.v1.DeleteOperationMetadata",
                "genericMetadata": {"createTime": now, "updateTime": now},
            },
            "done": True,
            "response": {"@type": "type.googleapis.com/google.protobuf.Empty"},
        }
        operations(state)[str(operation["name"])] = operation
        return reply(state, request, operation)

    async def operation(self, request: Request) -> Response:
        """The operation that a delete answered with."""
        name = f"{self._access.enter(request)[2]}/operations/{request.path_params['operation']}"
        # Done at once here; a client that polls meets an operation that was done before it asked.
        found = operations(self._state).get(name)
        if found is None:
            raise GoogleError(404, f'The Operation "{name}" does not exist.')
        return reply(self._state, request, found)


def _missing(name: str) -> GoogleError:
    return GoogleError(404, f'The BatchPredictionJob "{name}" does not exist.')


def operations(state: EmulatorState) -> dict[str, Any]:
    """Operations that delete calls answered with, by name."""
    return state.room("vertex_operations", dict)


def routes(state: EmulatorState) -> list[Route]:
    """The routes of batch prediction jobs, for both versions."""
    return [route for version in ("v1", "v1beta1") for route in Jobs(state, version).routes()]
