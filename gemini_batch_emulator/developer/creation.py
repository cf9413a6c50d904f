# SPDX-License-Identifier: Apache-2.0
"""From a create call to a job: everything is checked before the job exists."""

# Inline rows and uploaded files are kept on disk under a name of the job's own, so that a caller may delete the file.

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import msgspec

from gemini_batch_emulator import models
from gemini_batch_emulator.answering.requests import input_tokens, member
from gemini_batch_emulator.developer.checks import (
    BATCH_FIELDS,
    CONFIG_FIELDS,
    EMBED_FIELDS,
    GENERATE_FIELDS,
    LineCheck,
    RowProblem,
    check_request,
)
from gemini_batch_emulator.developer.run import DeveloperRun, read_row
from gemini_batch_emulator.developer.store import file_store
from gemini_batch_emulator.errors import GoogleError
from gemini_batch_emulator.messages import refuse_unknown
from gemini_batch_emulator.replies import unhurried
from gemini_batch_emulator.rows import FileRows

if TYPE_CHECKING:
    from gemini_batch_emulator.jobs import Job
    from gemini_batch_emulator.rows import RowSource
    from gemini_batch_emulator.scripts import JobScript
    from gemini_batch_emulator.state import EmulatorState

BACKEND = "gemini"
SMALL_FILE = 1 << 20
"""Files up to this size are checked in the server's own thread."""

SPEND_WINDOW = 600.0
"""Seconds over which spending is limited."""


def spool_inline(state: EmulatorState, rows: list[Any], kind: str) -> FileRows:
    """
    Check inline rows and put them on disk.

    :raises GoogleError: 400 for the first bad row.
    """
    if not rows:
        raise GoogleError(400, "* BatchRequest.batch.input_config.requests: must not be empty.")
    where = "batch.input_config.requests.requests"
    tokens = 0
    path = state.new_path(".rows")
    with path.open("wb") as file:
        for number, row in enumerate(rows):
            place = f"{where}[{number}]"
            if not isinstance(row, dict):
                raise GoogleError(400, f"Invalid value at '{place}': must be an object.")
            # An inline row carries its key in `metadata`; a `key` beside the request is what lines of a file have
            # (https://ai.google.dev/gemini-api/docs/batch-api).
            refuse_unknown(row, frozenset({"request", "metadata"}), place)
            request = row.get("request")
            try:
                check_request(kind, request)
            except RowProblem as problem:
                if problem.field and isinstance(request, dict):
                    known = GENERATE_FIELDS if kind == "generate" else EMBED_FIELDS
                    refuse_unknown(request, known, f"{place}.request")
                    config = member(request, "generationConfig")
                    if isinstance(config, dict):
                        refuse_unknown(config, CONFIG_FIELDS, f"{place}.request.generation_config")
                raise GoogleError(400, f"Invalid value at '{place}.request': {problem}") from None
            if not isinstance(row.get("metadata", {}), dict):
                raise GoogleError(400, f"Invalid value at '{place}.metadata': must be an object.")
            tokens += input_tokens(request or {})
            file.write(msgspec.json.encode(row) + b"\n")
    return FileRows(path, count=len(rows), tokens=tokens, read=read_row)


def check_model(state: EmulatorState, name: str, method: str, version: str, key: str = "") -> None:
    """
    Check that a model exists, can do this, and answers to this key.

    :param name: With ``models/`` or ``tunedModels/``.
    :param method: E.g. ``batchGenerateContent``; what embeds has "Embed" in its name.
    :raises GoogleError: 404.
    """
    # Reported: a model's alias that ends in `-latest` exists in v1beta alone. No list names the tuned models.
    exists = models.exists(state.config, name) or (name.startswith("tunedModels/") and state.config.models is None)
    exists = exists or (version == "v1beta" and state.config.models is None and models.is_alias(name))
    # What the service says to a generate call on an embedding model is not documented; here it is a 404, as for a model
    # that lacks the method.
    fits = method == "countTokens" or models.is_embedding(name) == ("Embed" in method)
    if not exists or not fits:
        raise GoogleError(
            404,
            f"{name} is not found for API version {version}, or is not supported for {method}. Call ListModels to see "
            "the list of available models and their supported methods.",
        )
    # Since the summer of 2026 a retired model is gone for keys that had not used it, while others still reach it.
    if models.is_retired_for(state.config, name, key):
        raise GoogleError(
            404,
            f"This model {name} is no longer available to new users. Please update your code to use a newer model for "
            "the latest features and improvements.",
        )


def seed_job(
    state: EmulatorState,
    *,
    kind: str,
    model: str,
    display_name: str,
    source: RowSource,
    labels: dict[str, str] | None = None,
    script: JobScript | None = None,
) -> Job:
    """Make a job that seems to read a file nobody has uploaded."""
    return state.create_job(
        name=f"batches/{state.new_id()}",
        backend=BACKEND,
        kind=kind,
        model=model,
        display_name=display_name,
        source=source,
        handler=DeveloperRun(state),
        labels=labels,
        resource={"fileName": "files/seeded"},
        script=script,
    )


def priority_of(batch: dict[str, Any]) -> int:
    """
    Return the priority that a batch asks for.

    :raises GoogleError: 400 if it is no whole number.
    """
    value = batch.get("priority")
    try:
        return int(value) if value is not None else 0
    except (TypeError, ValueError):
        raise GoogleError(400, f"Invalid value at 'batch.priority' (TYPE_INT64), {value!r}") from None


class Creation:
    """One create call, from body to job."""

    def __init__(self, state: EmulatorState, kind: str, model: str) -> None:
        self._state = state
        self._kind = kind
        self._model = model

    async def job_from(self, body: dict[str, Any]) -> Job:
        """Check everything, then make the job."""
        state = self._state
        refuse_unknown(body, frozenset({"batch"}), "")
        batch = body.get("batch")
        if not isinstance(batch, dict):
            raise GoogleError(400, "* BatchRequest.batch: batch is required.")
        refuse_unknown(batch, BATCH_FIELDS, "batch")
        # A key without billing is told so at create, as a precondition and not as a quota: waiting does not help.
        if state.config.free_tier:
            raise GoogleError(
                400,
                "The Batch API is not available on the free tier. Please enable billing on your project.",
                "FAILED_PRECONDITION",
            )
        priority = priority_of(batch)
        # All lines are read before the job exists: with one bad line nothing is created. This is the great difference
        # to Vertex AI, where the same line fails the job minutes later.
        source, resource = await self._source(batch)
        # Last, as the quota is that of a job that would otherwise be made; a 429 here says that nothing was.
        await unhurried(state, self._check_limits, source.tokens)
        hook = member(batch, "webhookConfig")
        if hook is not None:
            if not isinstance(hook, dict):
                raise GoogleError(400, "Invalid value at 'batch.webhook_config': must be an object.")
            refuse_unknown(hook, frozenset({"uris", "userMetadata"}), "batch.webhook_config")
            resource["webhookConfig"] = hook
        return state.create_job(
            name=f"batches/{state.new_id()}",
            backend=BACKEND,
            kind=self._kind,
            model=self._model,
            display_name=str(member(batch, "displayName") or ""),
            source=source,
            handler=DeveloperRun(state),
            resource=resource,
            priority=priority,
        )

    async def _source(self, batch: dict[str, Any]) -> tuple[FileRows, dict[str, Any]]:
        config = member(batch, "inputConfig")
        if not isinstance(config, dict):
            raise GoogleError(400, "* BatchRequest.batch.input_config: input_config is required.")
        refuse_unknown(config, frozenset({"fileName", "requests"}), "batch.input_config")
        file_name, inline = member(config, "fileName"), config.get("requests")
        # The two are a union of the protocol buffer: exactly one of them.
        if (file_name is None) == (inline is None):
            raise GoogleError(
                400, "* BatchRequest.batch.input_config: exactly one of file_name and requests must be set."
            )
        if file_name is not None:
            return await self._file(str(file_name)), {"fileName": str(file_name)}
        if not isinstance(inline, dict):
            raise GoogleError(400, "Invalid value at 'batch.input_config.requests': must be an object.")
        refuse_unknown(inline, frozenset({"requests"}), "batch.input_config.requests")
        rows = inline.get("requests")
        if not isinstance(rows, list):
            raise GoogleError(400, "* BatchRequest.batch.input_config.requests: must not be empty.")
        return spool_inline(self._state, rows, self._kind), {"inline": True}

    async def _file(self, name: str) -> FileRows:
        state = self._state
        store = file_store(state)
        stored = store.get(name if name.startswith("files/") else f"files/{name}")
        # Not documented for batches; other methods answer so to a file that is still processed.
        if store.state_of(stored) != "ACTIVE":
            raise GoogleError(
                400, f"The File {name} is not in an ACTIVE state and usage is not allowed.", "FAILED_PRECONDITION"
            )
        check = LineCheck(self._kind, bare_rows=state.config.bare_rows)
        if stored.size > SMALL_FILE:
            # Off the event loop: a file of 2 GB takes seconds to check, and other clients must not wait for it.
            checked = await asyncio.to_thread(check.run, stored.path)
        else:
            checked = check.run(stored.path)
        # The caller may delete the file while the job runs; the job keeps a link of its own.
        own = state.new_path(".rows")
        # A link and no copy: 2 GB would take seconds and as much disk.
        os.link(stored.path, own)
        return FileRows(
            own, count=checked.count, tokens=checked.tokens, read=read_row, has_common_lines=self._kind == "generate"
        )

    def _check_limits(self, tokens: int) -> None:
        state = self._state
        self._check_spending(tokens)
        active = state.active_jobs(BACKEND)
        if len(active) >= state.config.max_active_jobs:
            raise _quota(
                f"You exceeded your current quota: at most {state.config.max_active_jobs} concurrent batch requests.",
                "batch_concurrent_requests",
            )
        ceiling = state.config.enqueued_tokens
        if ceiling is not None:
            # The quota is one of each model: tokens in jobs of that model that have not ended.
            queued = sum(job.source.tokens for job in active if job.model == self._model)
            if queued + tokens > ceiling:
                raise _quota(
                    f"You exceeded your current quota: {queued} + {tokens} enqueued tokens, the limit is {ceiling}.",
                    "batch_enqueued_tokens",
                )

    def _check_spending(self, tokens: int) -> None:
        """Refuse what would spend more in ten minutes than the project may."""
        state = self._state
        limit = state.config.spend_limit
        if limit is None:
            return
        # A rolling window, so that the limit frees up by waiting and not by ending jobs.
        since = state.now() - SPEND_WINDOW
        recent = sum(job.source.tokens for job in state.all_jobs if job.backend == BACKEND and job.created > since)
        if (recent + tokens) * state.config.spend_per_million_tokens / 1e6 > limit:
            raise _quota(
                f"You exceeded your current quota: spending of {limit:g} USD in a rolling window of 10 minutes. Please "
                "check your plan and billing details.",
                "spend_per_10_minutes",
            )


def _quota(message: str, metric: str) -> GoogleError:
    return GoogleError(
        429,
        message,
        details=[
            {
                "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": [
                    {
                        "quotaMetric": f"generativelanguage.googleapis.com/{metric}",
                        "quotaId": "".join(word.title() for word in metric.split("_")) + "PerProject",
                    }
                ],
            }
        ],
    )
