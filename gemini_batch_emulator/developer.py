# SPDX-License-Identifier: Apache-2.0
"""
Batch jobs of the Developer API: create (generate, embed), get, list, cancel, delete, update, for ``v1`` and ``v1beta``.

Input is checked when the job is created, line by line; inline rows and uploaded files are kept on disk under a name of
the job's own. Results are written when the job ends: a file job's to the file ``files/batch-<job id>``, an inline job's
to a file that the replies read.

Sources: https://ai.google.dev/api/batch-api, https://ai.google.dev/api/embeddings,
https://generativelanguage.googleapis.com/$discovery/rest?version=v1beta.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.routing import Route

from gemini_batch_emulator import answering, states
from gemini_batch_emulator.answering import member, snake
from gemini_batch_emulator.core import (
    Answer,
    Ending,
    FileRows,
    GoogleError,
    polled,
    read_json,
    reply,
    timestamp,
    unhurried,
)
from gemini_batch_emulator.files import VERSIONS, file_store, require_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

    from gemini_batch_emulator.core import EmulatorState, Job, JobScript, RowSource

BACKEND = "gemini"
TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main."
MAX_LINE_ERRORS = 100
SMALL_FILE = 1 << 20
"""Files up to this size are checked in the server's own thread."""

_MODEL = re.compile(
    r"(gemini-(\d+(\.\d+)?-[a-z0-9.-]+|embedding-[a-z0-9-]+|exp-\d+|robotics-[a-z0-9.-]+)|gemma-\d[a-z0-9.-]*"
    r"|text-embedding-\d{3}|embedding-\d{3})"
)
_LATEST = re.compile(r"gemini-(pro|flash|flash-lite)-latest")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


GENERATE_FIELDS = _names(
    "contents systemInstruction tools toolConfig safetySettings generationConfig cachedContent model "
    "labels serviceTier store"
)
EMBED_FIELDS = _names("content model taskType title outputDimensionality embedContentConfig")
CONFIG_FIELDS = _names(
    "stopSequences responseMimeType responseSchema responseJsonSchema responseModalities responseFormat "
    "candidateCount maxOutputTokens temperature topP topK seed presencePenalty frequencyPenalty "
    "responseLogprobs logprobs enableEnhancedCivicAnswers speechConfig thinkingConfig imageConfig "
    "mediaResolution routingConfig modelSelectionConfig audioTimestamp enableAffectiveDialog "
    "translationConfig"
)
CONTENT_FIELDS = frozenset({"parts", "role"})
BATCH_FIELDS = _names(
    "displayName model priority inputConfig webhookConfig name state output createTime endTime updateTime batchStats"
)


# --------------------------------------------------------------------------------------------------------------------
# What is refused


def unknown_member(values: Mapping[str, Any], known: frozenset[str]) -> str | None:
    """Return the first member that is not in *known* in either spelling."""
    for name in values:
        if name not in known and not any(snake(one) == name for one in known):
            return name
    return None


def _refuse_unknown(values: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    name = unknown_member(values, known)
    if name is None:
        return
    place = f" at '{where}'" if where else ""
    message = f'Invalid JSON payload received. Unknown name "{name}"{place}: Cannot find field.'
    violation = {"description": message, **({"field": where} if where else {})}
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}]
    raise GoogleError(400, message, details=details)


class RowProblem(ValueError):
    """
    A row that is refused at creation.

    :param field: The member that is the trouble, if it is one.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


def check_request(kind: str, request: Any) -> None:
    """
    Check one row's request as strictly as the service does before a job exists.

    :raises RowProblem: If it has members that do not exist, or of the wrong kind.
    """
    if not isinstance(request, dict):
        raise RowProblem("request must be an object")
    name = unknown_member(request, GENERATE_FIELDS if kind == "generate" else EMBED_FIELDS)
    if name is not None:
        raise RowProblem(f"no such field: '{name}'", name)
    if kind == "embed":
        contents = [request["content"]] if request.get("content") is not None else []
    else:
        contents = request.get("contents") or []
        if not isinstance(contents, list):
            raise RowProblem("expected a list: 'contents'", "contents")
        _check_generate(request)
    for content in contents:
        if not isinstance(content, dict):
            raise RowProblem("expected an object: 'contents'", "contents")
        name = unknown_member(content, CONTENT_FIELDS)
        if name is not None:
            raise RowProblem(f"no such field: '{name}'", name)
        if not isinstance(content.get("parts", []), list):
            raise RowProblem("expected a list: 'parts'", "parts")


def _check_generate(request: dict[str, Any]) -> None:
    config = member(request, "generationConfig")
    if config is not None:
        if not isinstance(config, dict):
            raise RowProblem("expected an object: 'generationConfig'", "generationConfig")
        name = unknown_member(config, CONFIG_FIELDS)
        if name is not None:
            raise RowProblem(f"no such field: '{name}'", name)
    if member(request, "cachedContent") and any(
        member(request, name) for name in ("systemInstruction", "tools", "toolConfig")
    ):
        raise RowProblem(
            "CachedContent can not be used with GenerateContent request setting system_instruction, tools or "
            "tool_config."
        )


@dataclass
class Checked:
    """What the check of an input found: number of rows and input tokens."""

    count: int = 0
    tokens: int = 0


def check_lines(path: Path, kind: str, *, bare_rows: bool = False) -> Checked:
    """
    Check an uploaded input file, streaming.

    :raises GoogleError: 400 with a clause a bad line.
    """
    checked = Checked()
    problems: list[str] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                checked.tokens += answering.input_tokens(_read_line(line, kind, bare_rows))
                checked.count += 1
            except (RowProblem, UnicodeDecodeError) as problem:
                problems.append(f"Error on line {number}: {_line_problem(line, problem)}")
                if len(problems) == MAX_LINE_ERRORS:
                    break
    if problems:
        raise GoogleError(400, "\n".join(problems))
    if not checked.count:
        raise GoogleError(400, "The input file has no requests.")
    return checked


def _read_line(line: bytes, kind: str, bare_rows: bool) -> dict[str, Any]:
    """Return the request of an input line."""
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RowProblem("") from None
    if not isinstance(row, dict):
        raise RowProblem("expected an object")
    if "request" not in row:
        bare = member(row, "contents") if kind == "generate" else row.get("content")
        if not bare_rows or bare is None:
            # The line is read as a message with the members key and request; others are let through beside a request.
            name = unknown_member(row, frozenset({"key", "metadata"}))
            raise RowProblem(f"no such field: '{name}'" if name else "request is missing", name or "")
        row = {"request": {name: value for name, value in row.items() if name not in ("key", "metadata")}}
    key = row.get("key")
    if key is not None and not isinstance(key, str):
        raise RowProblem("expected a string: 'key'", "key")
    check_request(kind, row["request"])
    request: dict[str, Any] = row["request"]
    return request


def _line_problem(line: bytes, problem: Exception) -> str:
    text = str(problem)
    column = 1
    field = getattr(problem, "field", "")
    if field:
        column = line.find(f'"{field}"'.encode()) + 1
    elif not text or isinstance(problem, UnicodeDecodeError):
        text = "unexpected character or end of input"
        try:
            json.loads(line)
        except json.JSONDecodeError as error:
            column, text = error.colno, error.msg
        except UnicodeDecodeError as error:
            column, text = error.start + 1, "invalid UTF-8"
    return f"invalid JSON, near column {max(1, column)}: {text}"


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
            _refuse_unknown(row, frozenset({"request", "metadata"}), place)
            request = row.get("request")
            try:
                check_request(kind, request)
            except RowProblem as problem:
                if problem.field and isinstance(request, dict):
                    known = GENERATE_FIELDS if kind == "generate" else EMBED_FIELDS
                    _refuse_unknown(request, known, f"{place}.request")
                    config = member(request, "generationConfig")
                    if isinstance(config, dict):
                        _refuse_unknown(config, CONFIG_FIELDS, f"{place}.request.generation_config")
                raise GoogleError(400, f"Invalid value at '{place}.request': {problem}") from None
            if not isinstance(row.get("metadata", {}), dict):
                raise GoogleError(400, f"Invalid value at '{place}.metadata': must be an object.")
            tokens += answering.input_tokens(request or {})
            file.write(msgspec.json.encode(row) + b"\n")
    return FileRows(path, count=len(rows), tokens=tokens)


def check_model(state: EmulatorState, name: str, kind: str, version: str) -> None:
    """
    Check that a model exists and can do this.

    :param name: With ``models/`` or ``tunedModels/``.
    :raises GoogleError: 404.
    """
    collection, _, short = name.partition("/")
    known = state.config.models
    if known is not None:
        exists = short in known or name in known
    else:
        exists = collection == "tunedModels" or bool(_MODEL.fullmatch(short))
        exists = exists or (version == "v1beta" and bool(_LATEST.fullmatch(short)))
    method = "batchGenerateContent" if kind == "generate" else "asyncBatchEmbedContent"
    if not exists or ("embedding" in short) != (kind == "embed"):
        raise GoogleError(
            404,
            f"{name} is not found for API version {version}, or is not supported for {method}. Call ListModels to see "
            "the list of available models and their supported methods.",
        )


# --------------------------------------------------------------------------------------------------------------------
# Results


class DeveloperRun:
    """What happens when a job begins and when it ends."""

    def start(self, state: EmulatorState, job: Job) -> Ending | None:
        """Begin; everything was checked at creation."""
        return None

    def finish(self, state: EmulatorState, job: Job, ending: Ending) -> Ending | None:
        """Write the answers of the rows that ran."""
        script = job.script
        is_inline = bool(job.resource.get("inline"))
        path = state.new_path(".results")
        if script.result_file is not None:
            path.unlink(missing_ok=True)
            path.symlink_to(script.result_file)
            job.succeeded = job.source.count
        elif script.result_bytes is not None:
            with path.open("wb", buffering=1 << 20) as file:
                for block in _filler(script.result_bytes, script.result_line_bytes):
                    file.write(block)
            job.succeeded = job.source.count
        else:
            self._write(state, job, path, inline=is_inline)
            if script.truncate_last_line and not is_inline:
                _truncate_last_line(path)
        job.output["path"] = path
        if not is_inline:
            name = f"files/batch-{job.name.partition('/')[2]}"
            file_store(state).outputs[name] = path
            job.output["responsesFile"] = name
        return None

    @staticmethod
    def _write(state: EmulatorState, job: Job, path: Path, *, inline: bool) -> None:
        encode = msgspec.json.encode
        with path.open("wb", buffering=1 << 20) as file:
            for answer in state.answers(job):
                file.write(encode(_inline_row(answer) if inline else _file_row(answer)))
                file.write(b"\n")


def _file_row(answer: Answer) -> dict[str, Any]:
    row: dict[str, Any] = {}
    key = {} if answer.key is None else {"key": answer.key}
    if answer.error is not None:
        row = {**key, "error": answer.error}
    else:
        row = {"response": answer.response, **key}
    return row


def _inline_row(answer: Answer) -> dict[str, Any]:
    row: dict[str, Any] = {"response": answer.response} if answer.error is None else {"error": answer.error}
    metadata = answer.row.raw.get("metadata") if answer.row is not None else {"key": answer.key}
    if metadata is not None:
        row["metadata"] = metadata
    return row


def _truncate_last_line(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb+") as file:
        start = max(0, size - (1 << 20))
        file.seek(start)
        tail = file.read().rstrip(b"\n")
        begin = tail.rfind(b"\n") + 1
        file.truncate(start + begin + (len(tail) - begin) // 2)


def _filler(total: int, line_bytes: int) -> Iterator[bytes]:
    """Result lines of *line_bytes* each with keys ``row-0``, ... until at least *total* bytes are there."""
    written = number = 0
    while written < total:
        block = bytearray()
        while len(block) < 1 << 20 and written + len(block) < total:
            head = '{"response":{"candidates":[{"content":{"role":"model","parts":[{"text":"'
            tail = (
                '"}]},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":4,'
                '"candidatesTokenCount":4,"totalTokenCount":8}},"key":"row-'
                f'{number}"}}\n'
            )
            block += (head + "x" * max(1, line_bytes - len(head) - len(tail)) + tail).encode()
            number += 1
        written += len(block)
        yield bytes(block)


# --------------------------------------------------------------------------------------------------------------------
# Jobs on the wire


def batch_stats(state: EmulatorState, job: Job, *, stale: bool = False) -> dict[str, str]:
    """Return the counters as the service writes them: strings, no zeros."""
    total = job.source.count
    if stale:
        counts = {"requestCount": total, "pendingRequestCount": total}
    elif job.is_ended:
        cancelled = job.raw_state == "CANCELLED"
        counts = {
            "requestCount": total,
            "successfulRequestCount": job.succeeded,
            "failedRequestCount": job.failed,
            "pendingRequestCount": max(0, total - job.succeeded - job.failed) if cancelled else 0,
        }
    else:
        done = job.ran_limit if job.ran_limit is not None else int(job.progress(state.now()) * total)
        counts = {"requestCount": total, "successfulRequestCount": done, "pendingRequestCount": total - done}
    return {name: str(count) for name, count in counts.items() if count}


def batch_resource(state: EmulatorState, job: Job, *, stale: bool = False) -> dict[str, Any]:
    """Return the batch without its output."""
    kind = "GenerateContentBatch" if job.kind == "generate" else "EmbedContentBatch"
    resource: dict[str, Any] = {"@type": TYPE + kind, "model": job.model}
    if job.display_name:
        resource["displayName"] = job.display_name
    if job.resource.get("fileName"):
        resource["inputConfig"] = {"fileName": job.resource["fileName"]}
    resource["createTime"] = timestamp(job.created)
    if job.is_ended and job.ended is not None:
        resource["endTime"] = timestamp(job.ended)
    resource["updateTime"] = timestamp(job.updated)
    resource["batchStats"] = batch_stats(state, job, stale=stale)
    resource["state"] = states.prefixed(job.raw_state, "BATCH_STATE_")
    resource["name"] = job.name
    if job.priority:
        resource["priority"] = str(job.priority)
    return resource


def job_output(job: Job, *, raw: bool = True) -> dict[str, Any] | None:
    """
    Return the output union of an ended job, None without output.

    :param raw: Leave inline rows as the JSON text that was written.
    """
    if "responsesFile" in job.output:
        return {"responsesFile": job.output["responsesFile"]}
    path: Path | None = job.output.get("path")
    if path is None:
        return None
    text = b"[" + b",".join(path.read_bytes().splitlines()) + b"]"
    return {"inlinedResponses": {"inlinedResponses": msgspec.Raw(text) if raw else msgspec.json.decode(text)}}


def operation(state: EmulatorState, job: Job, *, with_output: bool = True, raw: bool = True) -> dict[str, Any]:
    """Return the job as a long-running operation."""
    metadata = batch_resource(state, job, stale=not with_output and state.config.stale_list_stats)
    answer: dict[str, Any] = {"name": job.name, "metadata": metadata}
    if not job.is_ended:
        return answer
    answer["done"] = True
    output = job_output(job, raw=raw) if with_output else None
    if output is not None:
        metadata["output"] = output
    if job.error is not None:
        answer["error"] = job.error
    elif output is not None:
        kind = "GenerateContentBatchOutput" if job.kind == "generate" else "EmbedContentBatchOutput"
        answer["response"] = {"@type": TYPE + kind, **output}
    return answer


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
        handler=DeveloperRun(),
        labels=labels,
        resource={"fileName": "files/seeded"},
        script=script,
    )


class _Creation:
    """One create call, from body to job."""

    def __init__(self, state: EmulatorState, kind: str, model: str) -> None:
        self._state = state
        self._kind = kind
        self._model = model

    async def job_from(self, body: dict[str, Any]) -> Job:
        """Check everything, then make the job."""
        state = self._state
        _refuse_unknown(body, frozenset({"batch"}), "")
        batch = body.get("batch")
        if not isinstance(batch, dict):
            raise GoogleError(400, "* BatchRequest.batch: batch is required.")
        _refuse_unknown(batch, BATCH_FIELDS, "batch")
        if state.config.free_tier:
            raise GoogleError(
                400,
                "The Batch API is not available on the free tier. Please enable billing on your project.",
                "FAILED_PRECONDITION",
            )
        priority = self._priority(batch)
        source, resource = await self._source(batch)
        await unhurried(state, self._check_limits, source.tokens)
        hook = member(batch, "webhookConfig")
        if hook is not None:
            if not isinstance(hook, dict):
                raise GoogleError(400, "Invalid value at 'batch.webhook_config': must be an object.")
            _refuse_unknown(hook, frozenset({"uris", "userMetadata"}), "batch.webhook_config")
            resource["webhookConfig"] = hook
        return state.create_job(
            name=f"batches/{state.new_id()}",
            backend=BACKEND,
            kind=self._kind,
            model=self._model,
            display_name=str(member(batch, "displayName") or ""),
            source=source,
            handler=DeveloperRun(),
            resource=resource,
            priority=priority,
        )

    @staticmethod
    def _priority(batch: dict[str, Any]) -> int:
        value = batch.get("priority")
        try:
            return int(value) if value is not None else 0
        except (TypeError, ValueError):
            raise GoogleError(400, f"Invalid value at 'batch.priority' (TYPE_INT64), {value!r}") from None

    async def _source(self, batch: dict[str, Any]) -> tuple[FileRows, dict[str, Any]]:
        config = member(batch, "inputConfig")
        if not isinstance(config, dict):
            raise GoogleError(400, "* BatchRequest.batch.input_config: input_config is required.")
        _refuse_unknown(config, frozenset({"fileName", "requests"}), "batch.input_config")
        file_name, inline = member(config, "fileName"), config.get("requests")
        if (file_name is None) == (inline is None):
            raise GoogleError(
                400, "* BatchRequest.batch.input_config: exactly one of file_name and requests must be set."
            )
        if file_name is not None:
            return await self._file(str(file_name)), {"fileName": str(file_name)}
        if not isinstance(inline, dict):
            raise GoogleError(400, "Invalid value at 'batch.input_config.requests': must be an object.")
        _refuse_unknown(inline, frozenset({"requests"}), "batch.input_config.requests")
        rows = inline.get("requests")
        if not isinstance(rows, list):
            raise GoogleError(400, "* BatchRequest.batch.input_config.requests: must not be empty.")
        return spool_inline(self._state, rows, self._kind), {"inline": True}

    async def _file(self, name: str) -> FileRows:
        state = self._state
        store = file_store(state)
        stored = store.get(name if name.startswith("files/") else f"files/{name}")
        if store.state_of(stored) != "ACTIVE":
            raise GoogleError(
                400, f"The File {name} is not in an ACTIVE state and usage is not allowed.", "FAILED_PRECONDITION"
            )
        arguments = (stored.path, self._kind)
        if stored.size > SMALL_FILE:
            checked = await asyncio.to_thread(check_lines, *arguments, bare_rows=state.config.bare_rows)
        else:
            checked = check_lines(*arguments, bare_rows=state.config.bare_rows)
        # The caller may delete the file while the job runs; the job keeps a link of its own.
        own = state.new_path(".rows")
        os.link(stored.path, own)
        return FileRows(own, count=checked.count, tokens=checked.tokens)

    def _check_limits(self, tokens: int) -> None:
        state = self._state
        active = state.active_jobs(BACKEND)
        if len(active) >= state.config.max_active_jobs:
            raise _quota(
                f"You exceeded your current quota: at most {state.config.max_active_jobs} concurrent batch requests.",
                "batch_concurrent_requests",
            )
        ceiling = state.config.enqueued_tokens
        if ceiling is not None:
            queued = sum(job.source.tokens for job in active if job.model == self._model)
            if queued + tokens > ceiling:
                raise _quota(
                    f"You exceeded your current quota: {queued} + {tokens} enqueued tokens, the limit is {ceiling}.",
                    "batch_enqueued_tokens",
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


# --------------------------------------------------------------------------------------------------------------------
# Routes


def _missing(name: str) -> GoogleError:
    return GoogleError(404, f"Requested entity was not found: {name}.")


def _query(request: Request, name: str) -> str:
    return request.query_params.get(name) or request.query_params.get(snake(name)) or ""


def routes(state: EmulatorState) -> list[Route]:
    """The routes of batch jobs and models, for both versions; the polled ones come first."""
    found: list[Route] = []
    for version in VERSIONS:
        found += _job_routes(state, version)
    for version in VERSIONS:
        found += _model_routes(state, version)
    return found


def _job_routes(state: EmulatorState, version: str) -> list[Route]:
    def existing(request: Request) -> Job:
        require_key(state, request)
        name = f"batches/{request.path_params['batch']}"
        job = state.jobs.get(name)
        if job is None or job.backend != BACKEND:
            raise _missing(name)
        return job

    async def get(request: Request) -> Response:
        require_key(state, request)
        name = f"batches/{request.path_params['batch']}"
        job = await polled(state, name)
        if job is None:
            raise _missing(name)
        return reply(state, request, operation(state, job, raw="fields" not in request.query_params))

    async def list_jobs(request: Request) -> Response:
        require_key(state, request)
        if _query(request, "filter") and state.config.list_filter == "reject":
            raise GoogleError(501, "Operation is not implemented, or supported, or enabled: filter.")
        asked = _query(request, "pageSize")
        try:
            size = int(asked) if asked else 0
        except ValueError:
            raise GoogleError(400, f"Invalid value at 'page_size' (TYPE_INT32), \"{asked}\"") from None
        if size <= 0:
            if state.config.list_empty_without_page_size:
                return reply(state, request, {})
            size = state.config.list_default_page_size
        size = min(size, state.config.list_max_page_size)
        page_token = _query(request, "pageToken")
        jobs, token = await unhurried(state, state.page_of_jobs, BACKEND, page_size=size, page_token=page_token)
        answer: dict[str, Any] = {}
        if jobs:
            answer["operations"] = [operation(state, job, with_output=False) for job in jobs]
        if token:
            answer["nextPageToken"] = token
        return reply(state, request, answer)

    async def cancel(request: Request) -> Response:
        job = existing(request)
        await read_json(request)
        await unhurried(state, state.look_at, job)
        if job.is_ended and state.config.cancel_ended == "reject":
            raise GoogleError(400, f"{job.name} has ended and cannot be cancelled.", "FAILED_PRECONDITION")
        await unhurried(state, state.cancel_job, job)
        return reply(state, request, {})

    async def delete(request: Request) -> Response:
        job = existing(request)
        await unhurried(state, state.delete_job, job)
        file_store(state).outputs.pop(job.output.get("responsesFile", ""), None)
        return reply(state, request, {})

    def update(kind: str) -> Any:
        async def updated(request: Request) -> Response:
            job = existing(request)
            if job.kind != kind:
                raise GoogleError(400, f"{job.name} is not a batch of this kind.")
            body = await read_json(request)
            _refuse_unknown(body, BATCH_FIELDS, "")
            mask = [snake(name) for name in _query(request, "updateMask").split(",") if name]
            for name in mask:
                if name not in ("display_name", "priority"):
                    raise GoogleError(400, f"* UpdateBatchRequest.update_mask: {name} cannot be changed.")
            if ("displayName" in body or "display_name" in body) and (not mask or "display_name" in mask):
                job.display_name = str(member(body, "displayName"))
            if "priority" in body and (not mask or "priority" in mask):
                job.priority = _Creation._priority(body)
            resource = batch_resource(state, state.look_at(job))
            resource.pop("@type")
            return reply(state, request, resource)

        return updated

    batch = f"/{version}/batches/{{batch}}"
    return [
        Route(batch + ":cancel", cancel, methods=["POST"]),
        Route(batch + ":updateGenerateContentBatch", update("generate"), methods=["PATCH"]),
        Route(batch + ":updateEmbedContentBatch", update("embed"), methods=["PATCH"]),
        Route(batch, get, methods=["GET"]),
        Route(batch, delete, methods=["DELETE"]),
        Route(f"/{version}/batches", list_jobs, methods=["GET"]),
    ]


def _model_routes(state: EmulatorState, version: str) -> list[Route]:
    def create(kind: str, collection: str) -> Any:
        async def created(request: Request) -> Response:
            require_key(state, request)
            body = await read_json(request)
            model = f"{collection}/{request.path_params['model']}"
            check_model(state, model, kind, version)
            job = await _Creation(state, kind, model).job_from(body)
            return reply(state, request, operation(state, job))

        return created

    async def one_model(request: Request) -> Response:
        require_key(state, request)
        name = request.path_params["model"]
        kind = "embed" if "embedding" in name else "generate"
        check_model(state, f"models/{name}", kind, version)
        return reply(state, request, _model(name))

    async def models(request: Request) -> Response:
        require_key(state, request)
        names = state.config.models or ["gemini-3.5-flash-lite", "gemini-3.8-flash", "gemini-embedding-001"]
        return reply(state, request, {"models": [_model(name) for name in names]})

    found = []
    for collection in ("models", "tunedModels"):
        model = f"/{version}/{collection}/{{model}}"
        found += [
            Route(model + ":batchGenerateContent", create("generate", collection), methods=["POST"]),
            Route(model + ":asyncBatchEmbedContent", create("embed", collection), methods=["POST"]),
        ]
    return [
        *found,
        Route(f"/{version}/models", models, methods=["GET"]),
        Route(f"/{version}/models/{{model}}", one_model, methods=["GET"]),
    ]


def _model(name: str) -> dict[str, Any]:
    is_embedding = "embedding" in name
    methods = ["asyncBatchEmbedContent"] if is_embedding else ["batchGenerateContent"]
    return {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": methods}
