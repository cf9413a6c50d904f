# SPDX-License-Identifier: Apache-2.0
"""Batch prediction jobs on Vertex AI, with their files in Cloud Storage."""

# The wire in short: a job reads one JSONL object (or a BigQuery table) and writes below a prefix (or to a table);
# nothing travels inline. Labels and a list filter let us find our own jobs. A delete answers with an operation, which
# is over for us once it is accepted: the job is gone from then on.
#
# Every error raised here says what to do already (`advice.py`).
#
# Sources: https://aiplatform.googleapis.com/$discovery/rest?version=v1 (projects.locations.batchPredictionJobs);
# https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/capabilities/batch-inference; codes and texts of
# failed jobs as recorded by users of the live service.

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_provider_gemini_batch.api.backend import given_job_name
from airflow_provider_gemini_batch.api.field_masks import FieldMaskSupport
from airflow_provider_gemini_batch.api.identity import INPUT_LABEL, MAX_DISPLAY_NAME, TASK_LABEL
from airflow_provider_gemini_batch.api.models import (
    BackendName,
    BatchJob,
    FilePage,
    JobPage,
    JobSpec,
    RemoteFile,
)
from airflow_provider_gemini_batch.api.replies import error_from, error_info, expect_success, model_names
from airflow_provider_gemini_batch.api.retry import RetryPolicy
from airflow_provider_gemini_batch.api.token_counts import counted_members, read_token_count
from airflow_provider_gemini_batch.api.vertex.advice import explain_error
from airflow_provider_gemini_batch.api.vertex.job_spec import (
    SEGMENT,
    TUNED_MODEL,
    check_labels,
    input_config,
    model_path,
)
from airflow_provider_gemini_batch.api.vertex.replies import read_batch_job
from airflow_provider_gemini_batch.api.vertex.storage import CloudStorage, join_gs_uri, parse_gs_uri
from airflow_provider_gemini_batch.api.wire import Flow, HttpReply, HttpRequest, json_request
from airflow_provider_gemini_batch.connection.urls import is_google, vertex_base_url
from airflow_provider_gemini_batch.errors import (
    ApiError,
    ConfigurationError,
    ReplyFormatError,
    RequestRejectedError,
)

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.wire import Digested, UploadSource
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings

READ_MASK = (
    "name,displayName,model,inputConfig,outputConfig,outputInfo,state,error,partialFailures,completionStats,"
    "createTime,startTime,endTime,updateTime,labels"
)
"""What :class:`BatchJob` is made of, as a field mask."""

_COUNTED = ("systemInstruction", "tools", "generationConfig")
_JOB_NAME = re.compile(rf"projects/{SEGMENT}/locations/([a-z0-9-]+)/batchPredictionJobs/[A-Za-z0-9_-]+")
_BIGQUERY_TARGET = re.compile(r"bq://[^./\s]+(?:\.[^./:\s]+:[^./\s]+)?(?:\.[^./\s]+){0,2}")
_GEMINI_EMBEDDING = re.compile(r"/gemini-embedding-")


class VertexBackend:
    """
    Vertex AI as a :class:`~.backend.Backend`.

    :param settings: A connection whose backend is ``vertex_ai``.
    :param new_id: Makes a word that nobody else makes, for the output prefix of a job without our labels.
    """

    name: BackendName = "vertex_ai"
    label = "Vertex AI"
    ignored: tuple[str, ...] = ("priority", "webhook_config")
    unsupported: Mapping[str, str] = {}
    has_labels = True
    has_flex = False
    inline_limit = 0
    keeps_files = False
    hides_missing_files = False
    answer_copies: tuple[str, ...] = ()

    def __init__(self, settings: ConnectionSettings, new_id: Callable[[], str] = lambda: uuid.uuid4().hex) -> None:
        self._settings = settings
        self._root = f"{settings.base_url.rstrip('/')}/{settings.api_version}"
        self._parent = f"projects/{settings.project}/locations/{settings.location}"
        self._new_id = new_id
        self._storage = CloudStorage(settings.storage_base_url, RetryPolicy(max_attempts=max(8, settings.max_retries)))
        self.job_masks = FieldMaskSupport()
        self.list_masks = FieldMaskSupport()

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def check_job_name(self, job_name: str) -> str:
        """
        Return the full name; digits alone are a job of the connection's project and location.

        :raises ConfigurationError: If it is no name of a job here, or its location has another host than ours.
        """
        name = given_job_name(job_name).strip("/")
        # People copy the number from the console, which shows nothing else.
        if re.fullmatch(r"[0-9]+", name):
            return f"{self._parent}/batchPredictionJobs/{name}"
        match = _JOB_NAME.fullmatch(name)
        if match is None:
            hint = " It is a job of the Developer API; use a connection with an API key." if "batches/" in name else ""
            raise ConfigurationError(
                "job_name must look like 'projects/.../locations/.../batchPredictionJobs/...' or be its number on "
                f"Vertex AI, not {name!r}.{hint}"
            )
        self._check_location(match[1], f"The job {name}")
        return name

    def create_job(self, spec: JobSpec) -> HttpRequest:
        """
        Build the call that starts a job; priority and webhook_config do not exist here and are left out.

        :raises ConfigurationError: Naming everything about *spec* that cannot work.
        """
        problems: list[str] = []

        # Everything that is wrong is told at once: a job's arguments are corrected in a DAG file, and each correction
        # costs a deployment.
        def tried(build: Callable[[], Any]) -> Any:
            try:
                return build()
            except ConfigurationError as error:
                problems.append(str(error))
                return None

        model = tried(lambda: self._model_path(spec.model))
        source = tried(lambda: input_config(spec))
        if source and model and source["instancesFormat"] == "bigquery" and _GEMINI_EMBEDDING.search(model):
            problems.append(
                f"{spec.model} reads from Cloud Storage only: give gcs_uri or input_path instead of bigquery_uri."
            )
        target = tried(lambda: self._output_config(spec))
        tried(lambda: check_labels(spec.labels))
        if not spec.display_name.strip():
            problems.append("display_name is empty; Vertex AI needs one.")
        elif len(spec.display_name) > MAX_DISPLAY_NAME:
            problems.append(
                f"display_name has {len(spec.display_name)} characters; Vertex AI takes {MAX_DISPLAY_NAME} at most."
            )
        if problems:
            raise ConfigurationError(" ".join(problems))
        body: dict[str, Any] = {
            "displayName": spec.display_name,
            "model": model,
            "inputConfig": source,
            "outputConfig": target,
        }
        # Ours are among them: the token, by which a list finds the job.
        if spec.labels:
            body["labels"] = {key: str(value) for key, value in spec.labels.items()}
        about = f"the new job of {model}"
        return json_request("POST", f"{self._root}/{self._parent}/batchPredictionJobs", body, about=about)

    def generate_flex(self, model: str, request: Mapping[str, Any], timeout: float) -> HttpRequest:
        """Refuse: the tier is the Developer API's."""
        raise ConfigurationError("Vertex AI does not answer single requests at the batch price; submit a job.")

    def get_job(self, job_name: str, *, masked: bool = True) -> HttpRequest:
        """Build the read of one job."""
        # `fields` is the partial response of every Google API; the list has a parameter of its own for it, `readMask`.
        params = (("fields", READ_MASK),) if masked else ()
        name = self.check_job_name(job_name)
        return HttpRequest("GET", f"{self._root}/{name}", params, about=f"job {name}")

    def get_inline_answers(self, job_name: str, copy: str) -> HttpRequest:
        """Build the read of one job; there are no answers inside."""
        return self.get_job(job_name)

    def list_jobs(
        self, page_size: int = 100, page_token: str | None = None, filter: str | None = None, *, masked: bool = True
    ) -> HttpRequest:
        """Build the call for one page of jobs of the connection's project and location."""
        params = [("pageSize", str(page_size))]
        if page_token:
            params.append(("pageToken", page_token))
        if filter:
            params.append(("filter", filter))
        if masked:
            params.append(("readMask", READ_MASK))
        url = f"{self._root}/{self._parent}/batchPredictionJobs"
        return HttpRequest("GET", url, tuple(params), about="the list of jobs")

    def cancel_job(self, job_name: str) -> HttpRequest:
        """Build the cancel call; the service refuses it for a job that has ended (400 FAILED_PRECONDITION)."""
        name = self.check_job_name(job_name)
        return json_request("POST", f"{self._root}/{name}:cancel", {}, about=f"job {name}")

    def delete_job(self, job_name: str) -> HttpRequest:
        """Build the delete call; only a job that has ended can be deleted."""
        name = self.check_job_name(job_name)
        return HttpRequest("DELETE", f"{self._root}/{name}", about=f"job {name}")

    def read_job(self, reply: HttpReply) -> BatchJob:
        """Read the answer to create or get."""
        return read_batch_job(self._accepted(reply).json_object(), reply)

    def read_job_page(self, reply: HttpReply) -> JobPage:
        """Read one page of a list; a page may be empty and still have a next one."""
        body = self._accepted(reply).json_object(may_be_empty=False)
        items = body.get("batchPredictionJobs") or []
        if not isinstance(items, list):
            raise ReplyFormatError("Vertex AI listed jobs as something that is no list.", excerpt=reply.excerpt())
        return JobPage(tuple(read_batch_job(item, reply) for item in items), body.get("nextPageToken") or None)

    def client_filter(self, filter: str | None) -> None:
        """Leave filtering to the service."""

    def read_empty(self, reply: HttpReply) -> None:
        """Check the answer to cancel (nothing) or delete (an operation, whose own error counts)."""
        body = self._accepted(reply).json_object()
        error = error_info(body.get("error"))
        if error is not None:
            raise RequestRejectedError(f"Vertex AI could not delete the job: {error}", status=reply.status)

    def own_jobs_filter(self, labels: dict[str, str], since: str | None) -> str | None:
        """
        Return a list filter for jobs with *labels* created at *since* or later; None if nothing is asked for.

        :param since: RFC 3339.
        """
        check_labels(labels)
        # No quotes are needed: check_labels lets through letters, digits, _ and - only, so a value cannot end the
        # comparison and begin another.
        parts = [f"labels.{key}={value}" for key, value in labels.items()]
        if since:
            if not re.fullmatch(r"[0-9TZ:.+-]+", since):
                raise ConfigurationError(f"Not a time as RFC 3339 writes it: {since!r}.")
            parts.append(f'create_time>="{since}"')
        return " AND ".join(parts) or None

    def list_models(self) -> HttpRequest:
        """
        Build the call for the models of the publisher.

        Source: https://aiplatform.googleapis.com/$discovery/rest?version=v1beta1 (publishers.models.list), the only
        version that lists them.
        """
        url = f"{self._settings.base_url.rstrip('/')}/v1beta1/publishers/google/models"
        return HttpRequest("GET", url, (("pageSize", "100"),), about="the list of models")

    def read_models(self, reply: HttpReply) -> tuple[str, ...]:
        """Read their names."""
        return model_names(self._accepted(reply), "publisherModels")

    def explain(self, error: ApiError) -> str:
        """Say what to do, naming the connection's project, location and storage_uri."""
        return explain_error(error, self._settings)

    def count_tokens(self, model: str, request: Mapping[str, Any]) -> HttpRequest | None:
        """Build the call that counts a request; None for tuned models, which count at an endpoint alone."""
        members = counted_members(request, _COUNTED)
        path = self._model_path(model)
        if members is None or TUNED_MODEL.fullmatch(path):
            return None
        members["contents"] = [
            {"role": "user", **content} if isinstance(content, dict) else content for content in members["contents"]
        ]
        url = f"{self._root}/{self._parent}/{path[path.index('publishers/') :]}:countTokens"
        return json_request("POST", url, members, about=f"the token count of {path}")

    def read_token_count(self, reply: HttpReply) -> int:
        """Read the count."""
        return read_token_count(self._accepted(reply))

    # --- files --------------------------------------------------------------------------------------------------------

    def upload_name(self, source: Digested, mark: str = "") -> str:
        """Name an object by its content, and what it is to be marked with, below the connection's storage_uri."""
        if not self._settings.storage_uri:
            raise ConfigurationError(
                "Vertex AI reads rows from Cloud Storage: set storage_uri (gs://bucket/prefix) in the connection."
            )
        # 32 hex digits are 128 bits of the digest: enough that equal names mean equal bytes.
        marked = f"-{mark}" if mark else ""
        return f"{self._settings.storage_uri}/inputs/{source.sha256[:32]}{marked}.jsonl"

    def upload(self, source: UploadSource, *, name: str, display_name: str, mime_type: str) -> Flow[RemoteFile]:
        """
        Upload to Cloud Storage, through faults; see :meth:`.storage.CloudStorage.upload`.

        :param name: ``gs://bucket/object``.
        """
        return (yield from self._storage.upload(source, _gs_name(name), display_name=display_name, mime_type=mime_type))

    def get_file(self, file_name: str) -> HttpRequest:
        """Build the read of an object's metadata."""
        return self._storage.get_object(_gs_name(file_name))

    def list_files(self, page_size: int = 100, page_token: str | None = None, prefix: str = "") -> HttpRequest:
        """
        Build the call for one page of objects.

        :param prefix: ``gs://bucket/beginning``; empty is the connection's storage_uri.
        """
        place = prefix or self._settings.storage_uri
        if not place:
            raise ConfigurationError("Which files? Give a prefix (gs://bucket/...), or the connection a storage_uri.")
        if not prefix:
            # gs://bucket/airflow must not list gs://bucket/airflow-of-others.
            place = place.rstrip("/") + "/"
        return self._storage.list_objects(_gs_name(place), page_size, page_token)

    def delete_file(self, file_name: str) -> HttpRequest:
        """Build the delete call."""
        return self._storage.delete_object(_gs_name(file_name))

    def download_file(self, file_name: str, offset: int = 0, generation: str | None = None) -> HttpRequest:
        """
        Build the call that streams an object's content from *offset* on.

        :param generation: ``RemoteFile.metadata["generation"]``, so that pieces of two versions never mix.
        """
        return self._storage.download_object(_gs_name(file_name), offset, generation)

    def read_file(self, reply: HttpReply) -> RemoteFile:
        """Read an object's metadata."""
        return self._storage.read_object(self._accepted(reply))

    def read_file_page(self, reply: HttpReply) -> FilePage:
        """Read one page of objects."""
        return self._storage.read_object_page(self._accepted(reply))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _accepted(self, reply: HttpReply) -> HttpReply:
        """Return a reply that is no error; else raise it with what to do."""
        if 200 <= reply.status < 300:
            return expect_success(reply)
        # The advice becomes part of the text, since that is all that reaches a task's log.
        error = error_from(reply)
        advice = self.explain(error)
        if advice:
            error.args = (f"{error} - {advice}",)
        raise error

    def _check_location(self, location: str, what: str) -> None:
        """Google's hosts serve one location each; a host of one's own (proxy, emulator) may serve all."""
        ours = urlsplit(self._settings.base_url).hostname or ""
        fitting = {urlsplit(vertex_base_url(location)).hostname, f"{location}-aiplatform.googleapis.com"}
        if location != self._settings.location and is_google(ours) and ours not in fitting:
            raise ConfigurationError(
                f"{what} is in location {location}, the connection in {self._settings.location} ({ours}), and each "
                f"host serves its own location only. Use a connection with location {location}."
            )

    def _model_path(self, model: str) -> str:
        path = model_path(model)
        tuned = TUNED_MODEL.fullmatch(path)
        location = self._settings.location
        if tuned and tuned[1] != location:
            raise ConfigurationError(
                f"The model {path} is in location {tuned[1]}, the connection in {location}; a tuned model runs only "
                f"where it is. Use a connection with location {tuned[1]}."
            )
        if tuned and location == "global":
            raise ConfigurationError("Tuned models do not run in location global; use a connection with their region.")
        return path

    def _output_config(self, spec: JobSpec) -> dict[str, Any]:
        place = (spec.destination or "").strip()
        if not place:
            if not self._settings.storage_uri:
                raise ConfigurationError(
                    "No destination: name a place for the results (gs://bucket/prefix or bq://project.dataset.table), "
                    "or give the connection a storage_uri."
                )
            # One prefix per job: the service's directory below it is named by the job's creation time alone.
            words = [spec.labels[key] for key in (TASK_LABEL, INPUT_LABEL) if key in spec.labels]
            place = join_gs_uri(self._settings.storage_uri, "results", *(words or [self._new_id()]))
        if place.startswith("gs://"):
            parse_gs_uri(place, needs_object=False)
            return {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": place}}
        if _BIGQUERY_TARGET.fullmatch(place):
            return {"predictionsFormat": "bigquery", "bigqueryDestination": {"outputUri": place}}
        raise ConfigurationError(
            f"destination must be gs://bucket/prefix or bq://project.dataset.table on Vertex AI, not {place!r}."
        )


def _gs_name(file_name: str) -> str:
    name = str(file_name or "").strip()
    if not name.startswith("gs://"):
        hint = " It is a file of the Developer API." if name.startswith("files/") else ""
        raise ConfigurationError(f"On Vertex AI a file is named gs://bucket/object, not {name!r}.{hint}")
    return name
