# SPDX-License-Identifier: Apache-2.0
"""The Gemini Developer API: what we send, and what its replies mean."""

# Rules that are easy to get wrong:
#
# * A job's state lies in `metadata.state`; `done`, zero counters and the output are absent until due. `done` is the
#   operation's own word that the job is over, and counts where the state does not say so.
#
# Sources: https://ai.google.dev/api/batch-api; https://ai.google.dev/gemini-api/docs/batch-api;
# googleapis/python-genai.

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.backend import given_job_name
from airflow_provider_gemini_batch.api.developer.files import DeveloperFiles
from airflow_provider_gemini_batch.api.field_masks import FieldMaskSupport
from airflow_provider_gemini_batch.api.job_filter import FilterError, parse_filter
from airflow_provider_gemini_batch.api.models import (
    BackendName,
    BatchJob,
    BatchStats,
    JobErrorInfo,
    JobOutput,
    JobPage,
    JobSpec,
)
from airflow_provider_gemini_batch.api.replies import (
    error_info,
    expect_success,
    model_names,
    text_or_none,
    whole_number,
)
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.api.token_counts import counted_members, read_token_count
from airflow_provider_gemini_batch.api.wire import HttpReply, HttpRequest, json_request
from airflow_provider_gemini_batch.errors import (
    ApiError,
    ConfigurationError,
    ReplyFormatError,
)
from airflow_provider_gemini_batch.times import epoch

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings

MAX_INLINE_BYTES = 20_971_520
"""The service's limit for the whole body of a create call."""

_COUNTED = ("systemInstruction", "tools", "toolConfig", "generationConfig", "cachedContent")
_ITEM_FIELDS = (
    "name,done,error,metadata(state,displayName,model,batchStats,createTime,endTime,updateTime,"
    "inputConfig/fileName,output/responsesFile),response/responsesFile"
)
# No character that means something in a URL: the name of another job would be left of it.
_JOB_NAME = re.compile(r"batches/[A-Za-z0-9_-][A-Za-z0-9_.-]*")


class DeveloperBackend(DeveloperFiles):
    """
    The Developer API as a :class:`~.backend.Backend`.

    :param settings: A connection whose backend is ``gemini``.
    """

    name: BackendName = "gemini"
    label = "the Gemini Developer API"
    ignored: tuple[str, ...] = ("destination", "labels")
    unsupported: Mapping[str, str] = {
        name: f"{name} works on Vertex AI only: give input_path, which takes gs:// too, or use a Vertex AI connection"
        for name in ("gcs_uri", "bigquery_uri")
    }
    has_labels = False
    has_flex = True
    # Their answers come back inside the job resource, so far less than the call itself may have.
    inline_limit = 4 * 1024 * 1024
    keeps_files = True
    hides_missing_files = True
    answer_copies: tuple[str, ...] = ("response/inlinedResponses", "metadata/output/inlinedResponses", "")

    def __init__(self, settings: ConnectionSettings) -> None:
        super().__init__(settings)
        self.job_masks = FieldMaskSupport()
        self.list_masks = FieldMaskSupport()

    def list_models(self) -> HttpRequest:
        """Build the call for the models that the key can use. Source: https://ai.google.dev/api/models"""
        return HttpRequest("GET", f"{self._base}/models", (("pageSize", "1000"),), about="the list of models")

    def read_models(self, reply: HttpReply) -> tuple[str, ...]:
        """Read their names."""
        return model_names(reply, "models")

    def explain(self, error: ApiError) -> str:
        """Say nothing: the service's own words will do."""
        return ""

    def check_job_name(self, job_name: str) -> str:
        """Return the job name; raise ConfigurationError if it cannot be one of the Developer API."""
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
        # Nothing of these would be sent here, so the service could only complain of a missing source, which says
        # nothing of what was given.
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
            # A generating row takes its model from the URL; one that embeds names it itself, as Google's samples do.
            if spec.kind == "embed":
                rows = [_with_embedding_model(row, spec.model) for row in rows]
            batch["inputConfig"] = {"requests": {"requests": rows}}
        # An int64, which proto JSON writes as a text; members that are not set are left out, since the service has its
        # own defaults for them.
        if spec.priority is not None:
            batch["priority"] = str(spec.priority)
        # What is below userMetadata is the user's own: its names come back in the webhook's body as they were sent.
        if spec.webhook_config:
            batch["webhookConfig"] = camel_case(spec.webhook_config, {"userMetadata", "user_metadata"})
        method = "batchGenerateContent" if spec.kind == "generate" else "asyncBatchEmbedContent"
        model = model_path(spec.model)
        about = f"the new job of {model}"
        request = json_request("POST", f"{self._base}/{model}:{method}", {"batch": batch}, about=about)
        # Measured on the body itself, so that nobody uploads it only to be refused.
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
        # The tier travels in the body. A row that set one was refused when it was read, so nothing of the user's is
        # overwritten.
        body = {**request, "serviceTier": "flex"}
        call = json_request("POST", f"{self._base}/{model_path(model)}:generateContent", body)
        return replace(call, timeout=timeout)

    def count_tokens(self, model: str, request: Mapping[str, Any]) -> HttpRequest | None:
        """Build the call that counts a whole request; None for tuned models, which have no such method."""
        members = counted_members(request, _COUNTED)
        path = model_path(model)
        if members is None or not path.startswith("models/"):
            return None
        body = {"generateContentRequest": {"model": path, **members}}
        return json_request("POST", f"{self._base}/{path}:countTokens", body, about=f"the token count of {path}")

    def read_token_count(self, reply: HttpReply) -> int:
        """Read the count."""
        return read_token_count(reply)

    def get_job(self, job_name: str, *, masked: bool = True) -> HttpRequest:
        """Build the read of one job; *masked* asks to leave out inline answers."""
        params = (("fields", _ITEM_FIELDS),) if masked else ()
        return HttpRequest("GET", f"{self._base}/{job_name}", params, about=f"job {job_name}")

    def get_inline_answers(self, job_name: str, copy: str) -> HttpRequest:
        """Build the read of the answers inside a job."""
        return HttpRequest("GET", f"{self._base}/{job_name}", (("fields", copy),) if copy else ())

    def list_jobs(
        self, page_size: int = 100, page_token: str | None = None, filter: str | None = None, *, masked: bool = True
    ) -> HttpRequest:
        """Build the call for one page of jobs, newest first; *filter* is applied by :meth:`client_filter`."""
        # The declared filter is answered with UNIMPLEMENTED; client_filter() stands in for it.
        # A list without a page size was reported to come back empty (googleapis/python-genai#1250).
        params = [("pageSize", str(page_size))]
        if page_token:
            params.append(("pageToken", page_token))
        if masked:
            params.append(("fields", f"operations({_ITEM_FIELDS}),nextPageToken"))
        return HttpRequest("GET", f"{self._base}/batches", tuple(params), about="the list of jobs")

    def cancel_job(self, job_name: str) -> HttpRequest:
        """Build the cancel call."""
        return json_request("POST", f"{self._base}/{job_name}:cancel", {}, about=f"job {job_name}")

    def delete_job(self, job_name: str) -> HttpRequest:
        """Build the delete call."""
        return HttpRequest("DELETE", f"{self._base}/{job_name}", about=f"job {job_name}")

    def read_job(self, reply: HttpReply) -> BatchJob:
        """Read the answer to create or get."""
        return read_operation(expect_success(reply).json_object(), reply)

    def read_job_page(self, reply: HttpReply) -> JobPage:
        """Read one page of a list."""
        body = expect_success(reply).json_object(may_be_empty=False)
        items = body.get("operations") or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ReplyFormatError("The list of jobs is not a list of operations.", excerpt=reply.excerpt())
        jobs = tuple(read_operation(item, reply, is_listed=True) for item in items)
        return JobPage(jobs, body.get("nextPageToken") or None)

    def client_filter(self, filter: str | None) -> Callable[[BatchJob], bool] | None:
        """Return what of a page *filter* keeps, in the grammar of Vertex AI; None without a filter."""
        if not filter:
            return None
        try:
            # DAGs are written for one backend and moved to the other: both prefixes of a state mean the same.
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
        """Check the answer to cancel or delete."""
        expect_success(reply)

    def own_jobs_filter(self, labels: dict[str, str], since: str | None) -> str | None:
        """Return None: all jobs are listed."""
        # The declared filter is unsupported in practice; display names are compared on our side.
        return None


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
    # Echoed for a job made from a file. Inline requests are not echoed, so "no input file" means inline rows.
    input_file = inputs.get("fileName") if isinstance(inputs, dict) else None
    error = error_info(item.get("error"))
    # The operation says that it is over, and the state does not, or in a word that we do not know. The outcome is read
    # from what else there is; 1 is the documented code of a cancelled one.
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
    # The answers stand twice in an ended job. `response` is the operation's own copy; a job that was cancelled or
    # failed may have the other one alone.
    for holder in (response, answers):
        if isinstance(holder, dict) and holder.get("responsesFile"):
            output = JobOutput("file", str(holder["responsesFile"]))
            break
    else:
        # Inline answers are left out of masked replies, so their presence cannot be asked for.
        if state.has_results and not input_file:
            output = JobOutput("inline", name)
    counts = _read_stats(stats, state) if isinstance(stats, dict) else BatchStats()
    # Nobody tells when a job began to run. But CANCELLED is said only of one that was cancelled before its first row:
    # all rows are pending then, and there is no output. Of one that expired it cannot be known.
    is_untouched = counts.total is not None and counts.pending == counts.total
    return BatchJob(
        name=name,
        display_name=str(metadata.get("displayName") or ""),
        model=str(metadata.get("model") or ""),
        state=state,
        stats=counts,
        error=error,
        create_time=text_or_none(metadata.get("createTime")),
        end_time=text_or_none(metadata.get("endTime")),
        update_time=text_or_none(metadata.get("updateTime")),
        output=output,
        input_place=str(input_file) if input_file else None,
        state_text=state_text,
        never_ran=state is JobState.CANCELLED and output is None and is_untouched,
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
    if state.has_results and not succeeded and failed + pending < total:
        # They do not add up: what became of the other rows is not told.
        return BatchStats(total, None, failed, pending)
    return BatchStats(total, succeeded, failed, pending)
