# SPDX-License-Identifier: Apache-2.0
"""
The Gemini Developer API: what we send, and what its replies mean.

Rules that are easy to get wrong:

* A job's state lies in ``metadata.state``; ``done``, zero counters and the output are absent until due. ``done`` is the
  operation's own word that the job is over, and counts where the state does not say so.
* ``GET`` and ``DELETE`` of a result file (``files/batch-...``) are refused, only its download works; it goes with its
  job.
* A file that is missing or has expired answers 403, not 404.

Sources: https://ai.google.dev/api/batch-api; https://ai.google.dev/api/files;
https://ai.google.dev/gemini-api/docs/batch-api; googleapis/python-genai.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.api.backend import given_job_name
from airflow_provider_gemini_batch.api.field_masks import FieldMaskSupport
from airflow_provider_gemini_batch.api.flows import exchange, on_host
from airflow_provider_gemini_batch.api.job_filter import FilterError, parse_filter
from airflow_provider_gemini_batch.api.models import (
    BackendName,
    BatchJob,
    BatchStats,
    FilePage,
    JobErrorInfo,
    JobOutput,
    JobPage,
    JobSpec,
    RemoteFile,
)
from airflow_provider_gemini_batch.api.replies import error_from, error_info, expect_success, whole_number
from airflow_provider_gemini_batch.api.retry import NO_RETRY, RetryPolicy
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.api.wire import Flow, HttpReply, HttpRequest, Part, Pause, json_request
from airflow_provider_gemini_batch.errors import (
    ApiError,
    ConfigurationError,
    GeminiBatchError,
    NotFoundError,
    ReplyFormatError,
    RequestRejectedError,
    TransportError,
)
from airflow_provider_gemini_batch.times import epoch

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.wire import UploadSource
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings

MAX_INLINE_BYTES = 20_971_520
"""The service's limit for the whole body of a create call."""

MAX_RESTARTS = 3
"""How often an upload begins anew after its session was dropped."""

UPLOAD_CHUNK_BYTES = 64 * 1024 * 1024
"""
A multiple of the 8 MiB granularity that the service announces. What a cut connection costs is less, and what the
service's answer to each costs is little against the time that its bytes take.
"""

_ITEM_FIELDS = (
    "name,done,error,metadata(state,displayName,model,batchStats,createTime,endTime,updateTime,"
    "inputConfig/fileName,output/responsesFile),response/responsesFile"
)
# No character that means something in a URL: the name of another job would be left of it.
_JOB_NAME = re.compile(r"batches/[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_FILE_NAME = re.compile(r"files/[A-Za-z0-9_-][A-Za-z0-9_.-]*")


class DeveloperBackend:
    """
    The Developer API as a :class:`~.backend.Backend`.

    :param settings: A connection whose backend is ``gemini``.
    """

    name: BackendName = "gemini"

    def __init__(self, settings: ConnectionSettings) -> None:
        self._host = settings.base_url
        self._version = settings.api_version
        self._base = f"{settings.base_url}/{settings.api_version}"
        self._transfer = RetryPolicy(max_attempts=max(8, settings.max_retries))
        self.job_masks = FieldMaskSupport()
        self.list_masks = FieldMaskSupport()

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def check_job_name(self, job_name: str) -> str:
        name = given_job_name(job_name)
        if _JOB_NAME.fullmatch(name):
            return name
        hint = " It is a Vertex AI job; use a Vertex AI connection." if name.startswith("projects/") else ""
        raise ConfigurationError(f"job_name must look like 'batches/...' on the Developer API, not {name!r}.{hint}")

    def create_job(self, spec: JobSpec) -> HttpRequest:
        """
        Build the call that starts a job.

        :raises ConfigurationError: If the source is missing, ambiguous, or none of this backend's, or the body is
            larger than :data:`MAX_INLINE_BYTES`.

        Source: https://ai.google.dev/api/batch-api (models.batchGenerateContent, models.asyncBatchEmbedContent).
        """
        for field, value in (("gcs_uri", spec.gcs_uri), ("bigquery_uri", spec.bigquery_uri)):
            if value:
                raise ConfigurationError(
                    f"{field} works on Vertex AI only; give input_path (any path or URI, it is uploaded), file_name or "
                    "inlined_requests, or use a Vertex AI connection."
                )
        if (spec.file_name is None) == (spec.requests is None):
            raise ConfigurationError("Give exactly one of inlined_requests, input_path or file_name.")
        batch: dict[str, Any] = {"displayName": spec.display_name}
        if spec.file_name is not None:
            batch["inputConfig"] = {"fileName": self.check_file_name(spec.file_name)}
        else:
            rows = list(spec.requests or ())
            if spec.kind == "embed":
                rows = [_with_embedding_model(row, spec.model) for row in rows]
            batch["inputConfig"] = {"requests": {"requests": rows}}
        if spec.priority is not None:
            batch["priority"] = str(spec.priority)
        if spec.webhook_config:
            batch["webhookConfig"] = camel_case(spec.webhook_config, {"userMetadata", "user_metadata"})
        method = "batchGenerateContent" if spec.kind == "generate" else "asyncBatchEmbedContent"
        request = json_request("POST", f"{self._base}/{model_path(spec.model)}:{method}", {"batch": batch})
        if request.body is not None and len(request.body) > MAX_INLINE_BYTES:
            raise ConfigurationError(
                f"The inline rows make a request of {len(request.body):,} bytes; the service takes "
                f"{MAX_INLINE_BYTES:,}. Give the rows as a file (input_path), which may have 2 GB."
            )
        return request

    def generate_flex(self, model: str, request: Mapping[str, Any], timeout: float) -> HttpRequest:
        """
        Build a call that answers one request at the batch price, without a job.

        :param timeout: Seconds; the service aims at 1 to 15 minutes.

        Source: https://ai.google.dev/gemini-api/docs/flex-inference
        """
        body = {**request, "serviceTier": "flex"}
        call = json_request("POST", f"{self._base}/{model_path(model)}:generateContent", body)
        return replace(call, timeout=timeout)

    def get_job(self, job_name: str, *, masked: bool = True) -> HttpRequest:
        return HttpRequest("GET", f"{self._base}/{job_name}", (("fields", _ITEM_FIELDS),) if masked else ())

    def list_jobs(
        self, page_size: int = 100, page_token: str | None = None, filter: str | None = None, *, masked: bool = True
    ) -> HttpRequest:
        # The declared filter is answered with UNIMPLEMENTED; picks() stands in for it.
        # A list without a page size was reported to come back empty (googleapis/python-genai#1250).
        params = [("pageSize", str(page_size))]
        if page_token:
            params.append(("pageToken", page_token))
        if masked:
            params.append(("fields", f"operations({_ITEM_FIELDS}),nextPageToken"))
        return HttpRequest("GET", f"{self._base}/batches", tuple(params))

    def cancel_job(self, job_name: str) -> HttpRequest:
        return json_request("POST", f"{self._base}/{job_name}:cancel", {})

    def delete_job(self, job_name: str) -> HttpRequest:
        return HttpRequest("DELETE", f"{self._base}/{job_name}")

    def read_job(self, reply: HttpReply) -> BatchJob:
        return read_operation(expect_success(reply).json_object(), reply)

    def read_job_page(self, reply: HttpReply) -> JobPage:
        body = expect_success(reply).json_object()
        items = body.get("operations") or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ReplyFormatError("The list of jobs is not a list of operations.", excerpt=reply.excerpt())
        jobs = tuple(read_operation(item, reply, is_listed=True) for item in items)
        return JobPage(jobs, body.get("nextPageToken") or None)

    def client_filter(self, filter: str | None) -> Callable[[BatchJob], bool] | None:
        if not filter:
            return None
        try:
            keep = parse_filter(str(filter).replace("BATCH_STATE_", "JOB_STATE_"))
        except FilterError as error:
            raise ConfigurationError(f"filter {filter!r} cannot be read: {error}.") from None
        except RecursionError:
            raise ConfigurationError("filter cannot be read: it is nested too deeply.") from None
        return lambda job: keep(
            {
                "display_name": job.display_name,
                "model_display_name": job.model.rpartition("/")[2],
                "state": f"JOB_STATE_{job.state.value}",
                "create_time": epoch(job.create_time) or 0.0,
                "labels": job.labels,
            }
        )

    def read_empty(self, reply: HttpReply) -> None:
        expect_success(reply)

    def own_jobs_filter(self, labels: dict[str, str], since: str | None) -> str | None:
        # The declared filter is unsupported in practice; display names are compared on our side.
        return None

    # --- files --------------------------------------------------------------------------------------------------------

    def check_file_name(self, file_name: str) -> str:
        """Return the file name, or raise ConfigurationError if it cannot be one of the Files API."""
        name = str(file_name or "").strip()
        if _FILE_NAME.fullmatch(name):
            return name
        hint = " It lies in Cloud Storage; use a Vertex AI connection." if name.startswith("gs://") else ""
        raise ConfigurationError(f"file_name must look like 'files/...' on the Developer API, not {name!r}.{hint}")

    def get_file(self, file_name: str) -> HttpRequest:
        return HttpRequest("GET", f"{self._base}/{self.check_file_name(file_name)}")

    def list_files(self, page_size: int = 100, page_token: str | None = None, prefix: str = "") -> HttpRequest:
        params = [("pageSize", str(page_size))]
        if page_token:
            params.append(("pageToken", page_token))
        return HttpRequest("GET", f"{self._base}/files", tuple(params))

    def delete_file(self, file_name: str) -> HttpRequest:
        return HttpRequest("DELETE", f"{self._base}/{self.check_file_name(file_name)}")

    def download_file(self, file_name: str, offset: int = 0) -> HttpRequest:
        # Whether Range is honoured is not documented; the caller copes with a 200 that starts anew.
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        url = f"{self._host}/download/{self._version}/{self.check_file_name(file_name)}:download"
        return HttpRequest("GET", url, (("alt", "media"),), headers)

    def read_file(self, reply: HttpReply) -> RemoteFile:
        body = expect_success(reply).json_object()
        return read_file_resource(body, reply)

    def read_file_page(self, reply: HttpReply) -> FilePage:
        body = expect_success(reply).json_object()
        items = body.get("files") or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ReplyFormatError("The list of files is not a list of objects.", excerpt=reply.excerpt())
        return FilePage(tuple(read_file_resource(item, reply) for item in items), body.get("nextPageToken") or None)

    def upload(self, source: UploadSource, *, name: str, display_name: str, mime_type: str) -> Flow[RemoteFile]:
        """
        Upload with the resumable protocol; after a fault ask how much arrived, and go on from there.

        :raises InputChangedError: If *source* becomes shorter meanwhile.

        Source: https://ai.google.dev/api/files; for the query command
        https://developers.google.com/photos/library/guides/resumable-uploads.
        """
        start = HttpRequest(
            "POST",
            f"{self._host}/upload/{self._version}/files",
            (),
            {
                "X-Goog-Upload-Protocol": "resumable",
                "X-Goog-Upload-Command": "start",
                "X-Goog-Upload-Header-Content-Length": str(source.size),
                "X-Goog-Upload-Header-Content-Type": mime_type,
                "Content-Type": "application/json",
            },
            msgspec.json.encode({"file": {"displayName": display_name[:512], "mimeType": mime_type}}),
        )
        for _restart in range(MAX_RESTARTS):
            session, granularity = yield from exchange(start, self._read_session, self._transfer)
            chunk = max(granularity, UPLOAD_CHUNK_BYTES // granularity * granularity)
            try:
                return (yield from self._send(source, session, chunk))
            except ApiError as error:
                if error.status not in (404, 410):
                    raise  # else the session is gone, which costs what was sent
        raise TransportError(
            f"The service dropped the upload of {display_name!r} {MAX_RESTARTS} times. Try again later."
        )

    def _send(self, source: UploadSource, session: str, chunk: int) -> Flow[RemoteFile]:
        """Send everything to a session; ApiError 404 or 410 if it is gone."""
        offset = failures = 0
        while True:
            length = min(chunk, source.size - offset)
            is_last = offset + length == source.size
            # An empty body has a length only where it is no stream.
            data = Part(source, offset, length) if length else b""
            headers = {
                "X-Goog-Upload-Offset": str(offset),
                "X-Goog-Upload-Command": "upload, finalize" if is_last else "upload",
            }
            try:
                done = yield from exchange(
                    HttpRequest("POST", session, (), headers, data), partial(self._read_piece, is_last), NO_RETRY
                )
            except GeminiBatchError as error:
                failures += 1
                delay = self._delay_after(error, failures)
                if delay is None:
                    raise
                pause = Pause.before_retry(delay, error)
            else:
                if done is not None:
                    return done
                offset += length
                failures = 0
                continue
            yield pause
            # The session's own word decides where to go on; bytes may have been kept in part.
            query = HttpRequest("POST", session, (), {"X-Goog-Upload-Command": "query"}, b"")
            received = yield from exchange(query, partial(self._read_query, source.size), self._transfer)
            if isinstance(received, RemoteFile):
                return received
            if received > offset:
                failures = 0
            offset = received

    def _delay_after(self, error: GeminiBatchError, failures: int) -> float | None:
        """Say how long to pause before asking how much arrived; None if that cannot help."""
        # Also how the service refuses bytes at an offset that is not its own.
        if isinstance(error, RequestRejectedError) and error.status in (400, 412, 416):
            return 0.5 if failures < (self._transfer.max_attempts or 8) else None
        return self._transfer.delay_after(error, failures)

    def _read_session(self, reply: HttpReply) -> tuple[str, int]:
        expect_success(reply)
        url = reply.headers.get("x-goog-upload-url", "")
        if not url:
            raise ReplyFormatError("The service opened no upload session.", excerpt=reply.excerpt())
        granularity = whole_number(reply.headers.get("x-goog-upload-chunk-granularity")) or 1
        return on_host(self._host, url), max(1, granularity)

    def _read_piece(self, is_last: bool, reply: HttpReply) -> RemoteFile | None:
        status = _upload_status(reply)
        if status == "final":
            return self._read_uploaded(reply)
        if status == "active" and not is_last:
            return None
        raise ReplyFormatError("The upload's answer has no usable status.", excerpt=reply.excerpt())

    def _read_query(self, size: int, reply: HttpReply) -> int | RemoteFile:
        if _upload_status(reply) == "final":
            return self._read_uploaded(reply)
        received = whole_number(reply.headers.get("x-goog-upload-size-received"))
        if received is None or not 0 <= received <= size:
            raise ReplyFormatError("The service did not say how much of the upload arrived.", excerpt=reply.excerpt())
        return received

    def _read_uploaded(self, reply: HttpReply) -> RemoteFile:
        body = reply.json_object()
        if "error" in body:
            # Seen with HTTP 200: googleapis/python-genai#1590.
            raise error_from(HttpReply(400, reply.headers, reply.body))
        resource = body.get("file")
        if not isinstance(resource, dict) or not resource.get("name"):
            raise ReplyFormatError("The finished upload names no file.", excerpt=reply.excerpt())
        return read_file_resource(resource, reply)


def _upload_status(reply: HttpReply) -> str:
    """Return the session's state; NotFoundError if it is over without a file."""
    expect_success(reply)
    status = reply.headers.get("x-goog-upload-status", "").lower()
    if status == "cancelled":
        raise NotFoundError("The service cancelled the upload.", status=410)
    return status


def model_path(model: str) -> str:
    """Return ``models/<id>`` or ``tunedModels/<id>`` for a model as people write it."""
    name = str(model or "").strip().strip("/")
    name = name.removeprefix("publishers/google/")
    if not name or " " in name:
        raise ConfigurationError(f"model must name a Gemini model, e.g. 'gemini-3.5-flash-lite', not {model!r}.")
    if name.startswith("projects/"):
        raise ConfigurationError(f"model {model!r} is a Vertex AI resource; use a Vertex AI connection for it.")
    if name.startswith(("models/", "tunedModels/")) and name.count("/") == 1:
        return name
    if "/" in name:
        raise ConfigurationError(f"model must be a name like 'gemini-3.5-flash-lite', not {model!r}.")
    return f"models/{name}"


def read_operation(item: Mapping[str, Any], reply: HttpReply, *, is_listed: bool = False) -> BatchJob:
    """
    Read a job from an operation; dispatches on what is there, never on ``@type``.

    :param is_listed: Whether it comes from a list, which leaves answers out.
    """
    metadata = item.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name = str(item.get("name") or metadata.get("name") or "")
    if not name:
        raise ReplyFormatError("The service's job has no name.", excerpt=reply.excerpt())
    state_text = str(metadata.get("state") or "")
    state = JobState.from_wire(state_text)
    stats = metadata.get("batchStats")
    response = item.get("response")
    answers = metadata.get("output")
    inputs = metadata.get("inputConfig")
    input_file = inputs.get("fileName") if isinstance(inputs, dict) else None
    error = error_info(item.get("error"))
    if item.get("done") is True and not state.is_terminal:
        if error is not None:
            state = JobState.CANCELLED if error.code == 1 else JobState.FAILED
        elif isinstance(response, dict) or isinstance(answers, dict):
            state = JobState.SUCCEEDED
        elif state is JobState.UNKNOWN and input_file and not is_listed:
            # It will never say more, and there is nothing to be had from it: better a failure now than at the deadline.
            # Of inline answers nothing is known, as masked replies leave them out: a good job taken for a failed one
            # would be paid for twice.
            state = JobState.FAILED
            error = JobErrorInfo(message="the job is done, but has no state that is known, no answers and no error")
    output = None
    for holder in (response, answers):
        if isinstance(holder, dict) and holder.get("responsesFile"):
            output = JobOutput("file", str(holder["responsesFile"]))
            break
    else:
        # Inline answers are left out of masked replies, so their presence cannot be asked for.
        if state.has_results and not input_file:
            output = JobOutput("inline", name)
    return BatchJob(
        name=name,
        display_name=str(metadata.get("displayName") or ""),
        model=str(metadata.get("model") or ""),
        state=state,
        stats=_read_stats(stats, state) if isinstance(stats, dict) else BatchStats(),
        error=error,
        create_time=_time(metadata.get("createTime")),
        end_time=_time(metadata.get("endTime")),
        update_time=_time(metadata.get("updateTime")),
        output=output,
        input_place=str(input_file) if input_file else None,
        state_text=state_text,
    )


def read_file_resource(item: Mapping[str, Any], reply: HttpReply) -> RemoteFile:
    """Read a File of the Files API."""
    name = str(item.get("name") or "")
    if not name:
        raise ReplyFormatError("The service's file has no name.", excerpt=reply.excerpt())
    return RemoteFile(
        name=name,
        display_name=str(item.get("displayName") or ""),
        mime_type=str(item.get("mimeType") or ""),
        size=whole_number(item.get("sizeBytes")),
        create_time=_time(item.get("createTime")),
        expiration_time=_time(item.get("expirationTime")),
        sha256=_hex_digest(item.get("sha256Hash")),
        uri=str(item.get("uri") or ""),
        state=str(item.get("state") or "ACTIVE"),
        error=error_info(item.get("error")),
    )


def camel_case(value: Any, keep: set[str] | frozenset[str] = frozenset()) -> Any:
    """Spell the members of a JSON object in camelCase, except below members named in *keep*."""
    if isinstance(value, Mapping):
        return {
            _camel(str(name)): (member if name in keep else camel_case(member, keep)) for name, member in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [camel_case(item, keep) for item in value]
    return value


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in tail)


def _with_embedding_model(row: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    request = row.get("request")
    if not isinstance(request, Mapping) or "model" in request:
        return row
    return {**row, "request": {"model": model_path(model), **request}}


def _read_stats(stats: Mapping[str, Any], state: JobState) -> BatchStats:
    # Counters are strings, and those that are zero are absent.
    def count(member: str) -> int:
        return whole_number(stats.get(member)) or 0

    total, succeeded = count("requestCount"), count("successfulRequestCount")
    failed, pending = count("failedRequestCount"), count("pendingRequestCount")
    if state.has_results and not succeeded and not failed:
        # Such a job has counts that were not brought up to date; nobody may take them for "no answers".
        return BatchStats(total or None, None, None, None)
    return BatchStats(total, succeeded, failed, pending)


def _time(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _hex_digest(text: object) -> str | None:
    """Read ``sha256Hash``: base64 of the hex text as captured, or of the raw bytes as documented."""
    if not isinstance(text, str) or not text:
        return None
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(raw) == 32:
        return raw.hex()
    try:
        return raw.decode("ascii").lower() if len(raw) == 64 else None
    except UnicodeDecodeError:
        return None
