# SPDX-License-Identifier: Apache-2.0
"""
Vertex AI batch prediction jobs: create, get, list, cancel and delete on ``/v1`` and ``/v1beta1``, and the run itself.

A job reads one JSONL object from the emulated Cloud Storage (or a table from the emulated BigQuery) when it starts, by
the importer's rules (:mod:`.importer`), and writes its answers when it ends, to
``<prefix>/prediction-model-<creation time>Z/predictions.jsonl`` or to a table. How long it takes, how it ends and what
becomes of single rows is told by the core's job scripts. What a caller sees of that:

=============================================  =========================================================================
bucket of input or output missing, or input    accepted, later FAILED with code 9
object missing or unreadable
input against the importer's rules             FAILED with code 3 before any row ran
output not writable for the service agent      the rows run, then FAILED with code 7 and ``successfulCount``
cancelled                                      CANCELLED with code 1; what had run is exported
``{"end": {"state": "FAILED", "code": 13}}``   what it says (any state, code and message)
=============================================  =========================================================================

Knobs of :class:`~.core.Config` used here: ``models``, ``projects``, ``locations``, ``vertex_shuffle``, ``shards``,
``coerce_numeric_keys``, ``unwritable_buckets``, ``several_uris``, ``list_default_page_size``, ``list_max_page_size``,
and in ``extra``:

=============================  =======================================================================================
``model_locations``            ``{"model": ["location", ...]}``: where a model is served; the Gemini embedding models
                               as documented unless given
``tuned_models``               full names of the tuned models that exist; absent: all
``project_numbers``            ``{"project-id": "123"}``: names are answered with the number, and both are understood
``unreadable_buckets``         buckets the service agent cannot read (code 9)
``vertex_queued_reads``        reads of a waiting job that show QUEUED before PENDING. Default 0
``vertex_running_stats``       ``completionStats`` while RUNNING too. Default False
``vertex_failed_response``     ``absent`` (default, as captured) or ``empty`` (as documented) for failed rows
``vertex_empty_containers``    arrays and structs beside ``request`` come back empty. Default True
``vertex_null_names``          names under which null fails the import. Default ``["enum"]``
``vertex_max_rows``            most rows of a job; 200,000, Gemini embeddings 1,000,000, older ones 30,000 unless given
``vertex_max_input_bytes``     largest input. Default 1 GiB
``vertex_shard_pattern``       names of several shards. Default ``predictions_{:05d}.jsonl``
``vertex_partial_failures``    Status objects in ``partialFailures``; a PARTIALLY_SUCCEEDED job has some of its own
=============================  =======================================================================================

Not served: multimodal datasets, dedicated resources, explanations. Unsure, since Google documents none of it: names of
further shards, what cancelling an ended job answers beside a failed one, the error for a model in a wrong location.

Sources: https://aiplatform.googleapis.com/$discovery/rest?version=v1;
https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/capabilities/batch-inference.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from contextlib import ExitStack
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.routing import Route

from gemini_batch_emulator import states
from gemini_batch_emulator.bigquery import split_table, table_store
from gemini_batch_emulator.core import (
    STATUS_WORDS,
    Ending,
    FileRows,
    GoogleError,
    InputRow,
    polled,
    read_json,
    reply,
    timestamp,
)
from gemini_batch_emulator.importer import Columns, ImportProblem
from gemini_batch_emulator.list_filter import BadFilter, read_filter
from gemini_batch_emulator.storage import StorageError, glob_pattern, object_store, split_uri
from gemini_batch_emulator.token import require_caller

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

    from gemini_batch_emulator.core import Answer, EmulatorState, Job, RowSource
    from gemini_batch_emulator.storage import StoredObject

AGENT = "service-123456789012@gcp-sa-aiplatform.iam.gserviceaccount.com"
"""Who reads input and writes output on behalf of a job."""

MODEL_LOCATIONS: dict[str, list[str]] = {
    "gemini-embedding-001": ["us-central1", "us-east4", "us-west1", "us-west4", "europe-west1", "europe-west4"],
    "gemini-embedding-2": ["global", "us", "eu"],
}

_LEGACY = re.compile(r"(text-embedding-|text-multilingual-embedding-|textembedding-gecko)")
_KNOWN_MODEL = re.compile(r"(gemini-|text-embedding-|text-multilingual-embedding-|textembedding-gecko)[\w.@-]+")
_HTTP_OF_GRPC = {1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501}
_IMPORT = (
    "Failed to import data. Please check 'Prepare input' section in "
    "https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-gemini for the input format. "
)

_JOB_FIELDS = {
    "name",
    "displayName",
    "model",
    "modelVersionId",
    "inputConfig",
    "instanceConfig",
    "modelParameters",
    "outputConfig",
    "dedicatedResources",
    "serviceAccount",
    "manualBatchTuningParameters",
    "generateExplanation",
    "explanationSpec",
    "labels",
    "encryptionSpec",
    "disableContainerLogging",
    "unmanagedContainerModel",
    # Output only; the service ignores them in a request.
    "state",
    "createTime",
    "startTime",
    "endTime",
    "updateTime",
    "error",
    "partialFailures",
    "outputInfo",
    "completionStats",
    "resourcesConsumed",
    "satisfiesPzs",
    "satisfiesPzi",
}
_INPUT_FIELDS = {"instancesFormat", "gcsSource", "bigquerySource", "vertexMultimodalDatasetSource"}
_OUTPUT_FIELDS = {"predictionsFormat", "gcsDestination", "bigqueryDestination", "vertexMultimodalDatasetDestination"}
_ECHOED = ("inputConfig", "instanceConfig", "modelParameters", "outputConfig", "serviceAccount", "encryptionSpec")


# --------------------------------------------------------------------------------------------------------------------
# Create: reading the body


def _camel(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)


def _message(value: Any, known: set[str], where: str) -> dict[str, Any]:
    """A message with camelCase names; GoogleError 400 for a name that the message does not have."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise GoogleError(400, f"Invalid value at '{where}' (Map), {json.dumps(value)[:100]}")
    out = {}
    for name, member in value.items():
        if _camel(name) not in known:
            text = f"Invalid JSON payload received. Unknown name \"{name}\" at '{where}': Cannot find field."
            violation = {"field": where, "description": text}
            raise GoogleError(
                400,
                text,
                details=[{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}],
            )
        out[_camel(name)] = member
    return out


def _invalid(field: str, problem: str) -> GoogleError:
    return GoogleError(400, f"List of found errors:\t1.Field: batch_prediction_job.{field}; Message: {problem}\t ")


def read_body(body: dict[str, Any]) -> dict[str, Any]:
    """
    Read the body of a create call.

    :return: The job's members in camelCase, ``gcsSource.uris`` always a list.
    :raises GoogleError: 400 for what the service would refuse.
    """
    job = _message(body, _JOB_FIELDS, "batch_prediction_job")
    for name in ("displayName", "model", "inputConfig", "outputConfig"):
        if not job.get(name):
            raise _invalid(re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), name), "Required field is not set.")
    if len(str(job["displayName"])) > 128:
        raise _invalid("display_name", "must be at most 128 characters long.")
    labels = job.get("labels") or {}
    for key, value in labels.items():
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", str(key)) or not re.fullmatch(r"[a-z0-9_-]{0,63}", str(value)):
            raise _invalid("labels", f"Label {key}={value} does not conform to the naming rules.")
    if len(labels) > 64:
        raise _invalid("labels", "More than 64 labels.")
    if job.get("encryptionSpec") or job.get("serviceAccount"):
        raise GoogleError(400, "CMEK and custom service accounts are not supported for Gemini batch prediction.")

    source = _message(job["inputConfig"], _INPUT_FIELDS, "batch_prediction_job.input_config")
    kind = source.get("instancesFormat")
    if kind == "jsonl" and source.get("gcsSource"):
        place = _message(source["gcsSource"], {"uris"}, "batch_prediction_job.input_config.gcs_source")
        uris = place.get("uris") or []
        uris = [uris] if isinstance(uris, str) else list(uris)
        if not uris or not all(re.fullmatch(r"gs://[^/]+/.+", str(uri)) for uri in uris):
            raise _invalid("input_config.gcs_source.uris", f"{uris} is not a list of Cloud Storage URIs.")
        source["gcsSource"] = {"uris": uris}
    elif kind == "bigquery" and source.get("bigquerySource"):
        place = _message(source["bigquerySource"], {"inputUri"}, "batch_prediction_job.input_config.bigquery_source")
        if split_table(str(place.get("inputUri"))) is None:
            raise _invalid("input_config.bigquery_source.input_uri", f"{place.get('inputUri')} is not a table.")
        source["bigquerySource"] = place
    else:
        raise _invalid("input_config", f"Instances format {kind!r} does not go with the source.")
    job["inputConfig"] = source

    target = _message(job["outputConfig"], _OUTPUT_FIELDS, "batch_prediction_job.output_config")
    kind = target.get("predictionsFormat")
    if kind == "jsonl" and target.get("gcsDestination"):
        place = _message(
            target["gcsDestination"], {"outputUriPrefix"}, "batch_prediction_job.output_config.gcs_destination"
        )
        if not re.match(r"gs://[^/]+", str(place.get("outputUriPrefix"))):
            raise _invalid("output_config.gcs_destination.output_uri_prefix", "must start with gs://.")
        target["gcsDestination"] = place
    elif kind == "bigquery" and target.get("bigqueryDestination"):
        place = _message(
            target["bigqueryDestination"], {"outputUri"}, "batch_prediction_job.output_config.bigquery_destination"
        )
        if not re.fullmatch(r"bq://[^.]+(\.[^.]+){0,2}", str(place.get("outputUri"))):
            raise _invalid("output_config.bigquery_destination.output_uri", "must start with bq://.")
        target["bigqueryDestination"] = place
    else:
        raise _invalid("output_config", f"Predictions format {kind!r} does not go with the destination.")
    job["outputConfig"] = target
    return job


def check_model(state: EmulatorState, model: str, project: str, location: str) -> str:
    """
    Check that a model can be used here.

    :return: Its short name, e.g. ``gemini-3.5-flash-lite``.
    :raises GoogleError: 404 if it does not exist, 400 if it cannot be used in *location*.
    """
    knobs = state.config.extra
    tuned = re.fullmatch(r"projects/([^/]+)/locations/([^/]+)/models/([^/]+)", model)
    if tuned:
        if tuned[2] != location:
            raise GoogleError(
                400, f"The model {model} is in location {tuned[2]}, the batch prediction job in {location}."
            )
        if location == "global":
            raise GoogleError(400, "Tuned models are not supported in the global location.")
        known = knobs.get("tuned_models")
        if known is not None and model.partition("@")[0] not in known:
            raise GoogleError(404, f'The Model "{model}" does not exist.')
        return tuned[3]
    published = re.fullmatch(r"(?:projects/[^/]+/locations/[^/]+/)?publishers/([^/]+)/models/([^/]+)", model)
    if published is None:
        raise _invalid("model", f"{model!r} is not a model's resource name.")
    name = published[2]
    short = name.partition("@")[0]
    models = state.config.models
    exists = short in models if models is not None else bool(_KNOWN_MODEL.fullmatch(name))
    if published[1] != "google" or not exists:
        raise GoogleError(404, f'The PublisherModel "{model}" does not exist.')
    served = knobs.get("model_locations", MODEL_LOCATIONS).get(short)
    if served is not None and location not in served:
        raise GoogleError(
            404,
            f"Publisher Model `projects/{project}/locations/{location}/publishers/{published[1]}/models/{name}` was "
            f"not found or is not available in location {location}. It is available in: {', '.join(served)}.",
        )
    return short


# --------------------------------------------------------------------------------------------------------------------
# The run


class ImportedRows:
    """
    Rows of a job, known once it has started; before, *count* is an estimate that only says how long a step may take.

    :param fallback: Rows to be answered for instead: none before the start.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.tokens = 0
        self.columns = Columns()
        self._rows: RowSource | None = None

    def become(self, rows: RowSource, columns: Columns) -> None:
        """Take the input that was read."""
        self._rows, self.columns = rows, columns
        self.count, self.tokens = rows.count, rows.tokens

    def rows(self, order: list[int] | None = None) -> Iterator[InputRow]:
        """Yield the rows, in *order* (indices) if one is given."""
        return iter(()) if self._rows is None else self._rows.rows(order)


class TableRows:
    """Rows of a table as it was when the job started."""

    def __init__(self, rows: list[dict[str, Any]], tokens: int) -> None:
        self._rows = rows
        self.count = len(rows)
        self.tokens = tokens

    def rows(self, order: list[int] | None = None) -> Iterator[InputRow]:
        """Yield the rows, in *order* (indices) if one is given."""
        for index in range(self.count) if order is None else order:
            yield read_row(index, self._rows[index])


class JobFailure(Exception):
    """The job fails, with a gRPC code and a message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.ending = Ending("FAILED", code, message)


def read_row(index: int, raw: dict[str, Any]) -> InputRow:
    """Make an input row of a line or of a table's row; a row without a readable request fails on its own later."""
    request = raw.get("request")
    if isinstance(request, str):
        try:
            request = msgspec.json.decode(request)
        except msgspec.DecodeError:
            request = None
    if request is None and isinstance(raw.get("content"), str):
        request = {"content": {"parts": [{"text": raw["content"]}]}}
    if not isinstance(request, dict):
        request = {}
    config = request.get("embed_content_config") or request.get("embedContentConfig")
    if isinstance(config, dict):
        request = {**request, **config}
    key = raw.get("key")
    return InputRow(index, None if key is None else str(key), request, raw)


class VertexRun:
    """What happens when a job begins and when it ends."""

    def start(self, state: EmulatorState, job: Job) -> Ending | None:
        """Check the places and import the input; failing ends the job."""
        try:
            target = job.resource["outputConfig"]
            if "gcsDestination" in target:
                self._bucket(state, split_uri(target["gcsDestination"]["outputUriPrefix"])[0])
            else:
                self._output_table(state, job)
            source = job.resource["inputConfig"]
            if "gcsSource" in source:
                self._import_objects(state, job, source["gcsSource"]["uris"])
            else:
                self._import_table(state, job, source["bigquerySource"]["inputUri"])
        except JobFailure as failure:
            return failure.ending
        return None

    def finish(self, state: EmulatorState, job: Job, ending: Ending) -> Ending | None:
        """Write the answers of the rows that ran."""
        target = job.resource["outputConfig"]
        if "bigqueryDestination" in target:
            try:
                self._write_table(state, job)
            except JobFailure as failure:
                return failure.ending
            return None
        prefix = target["gcsDestination"]["outputUriPrefix"].rstrip("/")
        directory = f"{prefix}/prediction-model-{timestamp(job.created, 6)}"
        job.output["outputInfo"] = {"gcsOutputDirectory": directory}
        bucket, folder = split_uri(directory)
        writable = bucket not in state.config.unwritable_buckets and self._exists(state, bucket)
        if not writable:
            for _ in state.answers(job):
                pass
            return Ending(
                "FAILED",
                7,
                f"{AGENT} does not have storage.objects.create access to the Google Cloud Storage object. Permission "
                "'storage.objects.create' denied on resource (or it may not exist). "
                f"{directory}/predictions.jsonl",
                ending.share,
            )
        self._write_objects(state, job, bucket, folder)
        return None

    # Input ----------------------------------------------------------------------------------------------------------

    @staticmethod
    def _exists(state: EmulatorState, bucket: str) -> bool:
        try:
            object_store(state).bucket(bucket)
        except StorageError:
            return False
        return True

    def _bucket(self, state: EmulatorState, bucket: str, *, reading: bool = False) -> None:
        hidden = reading and bucket in state.config.extra.get("unreadable_buckets", ())
        if hidden or not self._exists(state, bucket):
            raise JobFailure(9, f"Failed to get GCS bucket location for {bucket}.")

    def _import_objects(self, state: EmulatorState, job: Job, uris: list[str]) -> None:
        found: list[StoredObject] = []
        for uri in uris:
            self._bucket(state, split_uri(uri)[0], reading=True)
            objects = objects_at(state, uri)
            if not objects:
                raise JobFailure(9, f"Failed to read {uri}: the object does not exist, or {AGENT} may not read it.")
            found += objects
        limit = int(state.config.extra.get("vertex_max_input_bytes", 1 << 30))
        if sum(stored.size for stored in found) > limit:
            raise JobFailure(3, f"{_IMPORT}The input is larger than {limit} bytes.")
        path = self._snapshot(state, found)
        columns = self._columns(state)
        count = tokens = 0
        decode = msgspec.json.Decoder(dict).decode
        position = 0
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    try:
                        row = decode(line)
                        columns.add(row)
                    except (msgspec.DecodeError, UnicodeDecodeError) as error:
                        raise JobFailure(
                            3, f"{_IMPORT}Error while reading data, error message: JSON parsing error in row starting "
                            f"at position {position}: {error}"
                        ) from error  # fmt: skip
                    except ImportProblem as problem:
                        raise JobFailure(
                            3, f"{_IMPORT}Error while reading data, error message: JSON parsing error in row starting "
                            f"at position {position}: {problem}"
                        ) from problem  # fmt: skip
                    count += 1
                    tokens += len(line) // 4
                position += len(line)
        self._check(state, job, columns, count)
        rows = FileRows(path, count=count, tokens=tokens, read=read_row)
        self._source(job).become(rows, columns)

    @staticmethod
    def _snapshot(state: EmulatorState, found: list[StoredObject]) -> Path:
        """The input under a name of its own, so that the caller may delete or replace the object while the job runs."""
        path = state.new_path(".input")
        if len(found) == 1:
            os.link(found[0].path, path)
            return path
        with path.open("wb") as whole:
            for stored in found:
                with stored.path.open("rb") as part:
                    last = b"\n"
                    while block := part.read(1 << 20):
                        whole.write(block)
                        last = block[-1:]
                if last != b"\n":
                    whole.write(b"\n")
        return path

    def _import_table(self, state: EmulatorState, job: Job, uri: str) -> None:
        table = table_store(state).find(uri)
        if table is None:
            raise JobFailure(5, f"Not found: Table {uri.removeprefix('bq://')}")
        needed = "content" if is_legacy(job.model) else "request"
        names = {column["name"]: column for column in table.schema}
        if needed not in names:
            raise JobFailure(3, f"{_IMPORT}Column '{needed}' not found in {uri}.")
        for name, column in names.items():
            if name in ("response", "status"):
                raise JobFailure(3, f"{_IMPORT}Column name '{name}' is reserved.")
            if column["mode"] == "REPEATED" or column["type"] in ("STRUCT", "RECORD", "RANGE", "DATETIME", "GEOGRAPHY"):
                raise JobFailure(3, f"{_IMPORT}Column '{name}' has an unsupported type.")
        rows = [dict(row) for row in table.rows]
        columns = Columns()
        self._check(state, job, columns, len(rows), is_table=True)
        tokens = sum(len(str(row.get(needed) or "")) // 4 for row in rows)
        source = self._source(job)
        source.become(TableRows(rows, tokens), columns)
        job.output["inputSchema"] = [dict(column) for column in table.schema]

    @staticmethod
    def _columns(state: EmulatorState) -> Columns:
        return Columns(frozenset(state.config.extra.get("vertex_null_names", ("enum",))))

    @staticmethod
    def _source(job: Job) -> ImportedRows:
        if not isinstance(job.source, ImportedRows):
            raise TypeError(f"{job.name} has another kind of input")
        return job.source

    @staticmethod
    def _check(state: EmulatorState, job: Job, columns: Columns, count: int, *, is_table: bool = False) -> None:
        needed = "content" if is_legacy(job.model) else "request"
        if count == 0:
            raise JobFailure(3, f"{_IMPORT}The input has no rows.")
        if not is_table and not columns.has(needed):
            raise JobFailure(3, f"{_IMPORT}No such field: {needed}.")
        limit = 30_000 if is_legacy(job.model) else 1_000_000 if job.kind == "embed" else 200_000
        limit = int(state.config.extra.get("vertex_max_rows", limit))
        if count > limit:
            raise JobFailure(3, f"{_IMPORT}The input has {count} rows; at most {limit} are allowed.")

    # Output ---------------------------------------------------------------------------------------------------------

    def _lines(self, state: EmulatorState, job: Job) -> Iterator[dict[str, Any]]:
        legacy = is_legacy(job.model)
        knobs = state.config.extra
        # A seeded job has rows that nobody imported.
        columns = job.source.columns if isinstance(job.source, ImportedRows) else None
        for answer in state.answers(job, shuffle=state.config.vertex_shuffle):
            status = status_text(answer)
            if legacy:
                instance = {"content": (answer.row.raw.get("content") if answer.row else answer.key)}
                yield {"instance": instance, "predictions": predictions(answer), "status": status}
                continue
            line: dict[str, Any] = {
                "status": status,
                "processed_time": timestamp(job.ended or state.now(), 3).removesuffix("Z") + "+00:00",
            }
            if answer.row is None:
                line |= {"key": answer.key, "request": {"contents": []}}
            elif columns is None or "inputSchema" in job.output:
                line |= answer.row.raw | {"request": answer.row.request}
            else:
                line |= columns.echo(
                    answer.row.raw,
                    coerce=state.config.coerce_numeric_keys,
                    empty_containers=bool(knobs.get("vertex_empty_containers", True)),
                )
            if answer.error is None:
                line["response"] = response_of(answer)
            elif knobs.get("vertex_failed_response", "absent") == "empty":
                line["response"] = {}
            yield line

    def _write_objects(self, state: EmulatorState, job: Job, bucket: str, folder: str) -> None:
        store = object_store(state)
        script = job.script
        count = max(1, state.config.shards)
        pattern = str(state.config.extra.get("vertex_shard_pattern", "predictions_{:05d}.jsonl"))
        names = ["predictions.jsonl"] if count == 1 else [pattern.format(number + 1) for number in range(count)]
        with ExitStack() as undo:
            writers = [store.writer() for _ in names]
            for writer in writers:
                undo.callback(writer.abort)
            if script.result_file:
                with open(script.result_file, "rb") as scripted:
                    while block := scripted.read(1 << 20):
                        writers[0].write(block)
            elif script.result_bytes:
                for block in _filler(int(script.result_bytes), int(script.result_line_bytes)):
                    writers[0].write(block)
            else:
                encode = msgspec.json.Encoder().encode
                pending = [b""] * count
                for number, line in enumerate(self._lines(state, job)):
                    writers[number % count].write(pending[number % count])
                    pending[number % count] = encode(line) + b"\n"
                for writer, last in zip(writers, pending, strict=True):
                    writer.write(last[: len(last) // 2] if script.truncate_last_line else last)
            undo.pop_all()
        for writer, name in zip(writers, names, strict=True):
            writer.commit(bucket, f"{folder}/{name}", content_type="application/octet-stream")

    def _output_table(self, state: EmulatorState, job: Job) -> tuple[str, str, str]:
        """Where the job writes; JobFailure if the dataset does not exist, or a fully named table does."""
        uri = job.resource["outputConfig"]["bigqueryDestination"]["outputUri"]
        parts = uri.removeprefix("bq://").split(".")
        stamp = re.sub(r"\D", "_", timestamp(job.created, 6).removesuffix("Z"))
        store = table_store(state)
        if len(parts) == 1:
            dataset = re.sub(r"\W", "_", f"prediction_{job.model.rpartition('/')[2]}_{stamp}")
            store.create_dataset(parts[0], dataset)
            return parts[0], dataset, "predictions"
        if not store.has_dataset(parts[0], parts[1]):
            raise JobFailure(5, f"Not found: Dataset {parts[0]}:{parts[1]}")
        if len(parts) == 2:
            return parts[0], parts[1], f"predictions_{stamp}"
        if (parts[0], parts[1], parts[2]) in store.tables:
            raise JobFailure(6, f"Already Exists: Table {parts[0]}:{parts[1]}.{parts[2]}")
        return parts[0], parts[1], parts[2]

    def _write_table(self, state: EmulatorState, job: Job) -> None:
        project, dataset, name = self._output_table(state, job)
        legacy = is_legacy(job.model)
        schema: list[dict[str, str]] = list(job.output.get("inputSchema") or [])
        if not schema:
            columns = self._source(job).columns
            schema = [{"name": column, "type": "STRING"} for column in columns.siblings]
            schema += [] if legacy else [{"name": "request", "type": "JSON"}]
        known = [column["name"] for column in schema]
        result = "predictions" if legacy else "response"
        schema += [{"name": result, "type": "JSON"}, {"name": "status", "type": "STRING"}]
        # Whether the real table has this column is not documented; the Cloud Storage output has the member.
        schema += [] if legacy else [{"name": "processed_time", "type": "TIMESTAMP"}]
        rows = []
        for answer in state.answers(job, shuffle=state.config.vertex_shuffle):
            raw = answer.row.raw if answer.row else {"key": answer.key}
            row = {column: raw.get(column) for column in known}
            row["status"] = status_text(answer)
            if legacy:
                row["predictions"] = predictions(answer)
            else:
                row["response"] = response_of(answer) if answer.error is None else None
                row["processed_time"] = state.now()
            rows.append(row)
        table_store(state).create_table(project, dataset, name, schema=schema, rows=rows)
        job.output["outputInfo"] = {
            "bigqueryOutputDataset": f"bq://{project}.{dataset}",
            "bigqueryOutputTable": name,
        }


def _filler(total: int, line_bytes: int) -> Iterator[bytes]:
    """Result lines of *line_bytes* each with keys ``row-0``, ... until *total* bytes are there."""
    written = number = 0
    while written < total:
        block = bytearray()
        while len(block) < 1 << 20 and written + len(block) < total:
            head = (
                '{"status":"","key":"row-%d","request":{"contents":[{"role":"user","parts":[{"text":"Row %d"}]}]},'
                '"response":{"candidates":[{"content":{"role":"model","parts":[{"text":"'
            ) % (number, number)
            tail = '"}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":4,"totalTokenCount":8}}}\n'
            block += (head + "x" * max(1, line_bytes - len(head) - len(tail)) + tail).encode()
            number += 1
        written += len(block)
        yield bytes(block)


def is_legacy(model: str) -> bool:
    """Whether a model has the rows of the text embedding models before Gemini's."""
    return _LEGACY.match(model.rpartition("/")[2]) is not None


def objects_at(state: EmulatorState, uri: str) -> list[StoredObject]:
    """Objects that an input URI speaks of, in order of their names; a name may hold ``*``."""
    store = object_store(state)
    bucket, name = split_uri(uri)
    try:
        if "*" not in name:
            return [store.get(bucket, name)]
        pattern = glob_pattern(name)
        return [store.get(bucket, found) for found in store.names(bucket) if pattern.fullmatch(found)]
    except StorageError:
        return []


def status_text(answer: Answer) -> str:
    """The ``status`` member of a result row: empty, or ``Bad Request: `` and an error body as text."""
    if answer.error is None:
        return ""
    code = _HTTP_OF_GRPC.get(int(answer.error.get("code", 13)), 500)
    error: dict[str, Any] = {"code": code}
    if answer.error.get("message") is not None:
        error["message"] = answer.error["message"]
    error["status"] = STATUS_WORDS.get(code, "UNKNOWN")
    # Only "Bad Request" was ever shown; that other codes bring their own HTTP phrase is a guess.
    phrase = "Client Closed Request" if code == 499 else HTTPStatus(code).phrase
    return f"{phrase}: " + json.dumps({"error": error})


def response_of(answer: Answer) -> dict[str, Any] | None:
    """The ``response`` member of a row that did not fail; the service adds ``@default`` to the model's version."""
    response = answer.response
    version = (response or {}).get("modelVersion")
    if response is not None and version and "@" not in version:
        return {**response, "modelVersion": f"{version}@default"}
    return response


def predictions(answer: Answer) -> list[dict[str, Any]]:
    """The ``predictions`` member of a legacy embedding row."""
    if answer.response is None or answer.error is not None:
        return []
    tokens = answer.response.get("tokenCount")
    if tokens is None:
        tokens = (answer.response.get("usageMetadata") or {}).get("promptTokenCount", 0)
    values = (answer.response.get("embedding") or {}).get("values") or []
    return [{"embeddings": {"statistics": {"token_count": int(tokens), "truncated": False}, "values": values}}]


# --------------------------------------------------------------------------------------------------------------------
# The resource


def job_resource(state: EmulatorState, job: Job) -> dict[str, Any]:
    """The job as the service shows it now."""
    knobs = state.config.extra
    word = job.raw_state
    if word in ("PENDING",) and 0 < job.reads <= int(knobs.get("vertex_queued_reads", 0)):
        word = "QUEUED"
    resource: dict[str, Any] = {"name": job.name, "displayName": job.display_name, "model": job.model}
    resource |= {name: job.resource[name] for name in _ECHOED if job.resource.get(name)}
    if job.output.get("outputInfo"):
        resource["outputInfo"] = job.output["outputInfo"]
    resource["state"] = states.prefixed(word, "JOB_STATE_")
    if job.error is not None and job.raw_state in ("FAILED", "CANCELLED"):
        resource["error"] = job.error
    failures = knobs.get("vertex_partial_failures")
    if failures is None and job.raw_state == "PARTIALLY_SUCCEEDED":
        failures = [{"code": 13, "message": "Some results could not be exported."}]
    if failures and job.is_ended:
        resource["partialFailures"] = failures[:20]
    stats = completion_stats(state, job)
    if stats is not None:
        resource["completionStats"] = stats
    resource["createTime"] = timestamp(job.created, 6)
    if job.started is not None:
        resource["startTime"] = timestamp(job.started, 6)
    if job.ended is not None:
        resource["endTime"] = timestamp(job.ended, 6)
    resource["updateTime"] = timestamp(job.updated, 6)
    if job.labels:
        resource["labels"] = job.labels
    resource["modelVersionId"] = "1"
    return resource


def completion_stats(state: EmulatorState, job: Job) -> dict[str, str] | None:
    """``completionStats``: int64 strings, zero members omitted, None until the job has run."""
    total = job.source.count
    if job.is_ended:
        if job.started is None or not (job.rows_run or job.succeeded or job.failed):
            return None
        succeeded, failed = job.succeeded, job.failed
        if not succeeded and not failed and job.raw_state in ("SUCCEEDED", "PARTIALLY_SUCCEEDED"):
            # Jobs that were seeded, or whose result was scripted whole, wrote no rows one by one.
            succeeded = job.rows_run
        incomplete = max(0, total - job.rows_run)
    elif job.started is not None and state.config.extra.get("vertex_running_stats"):
        succeeded, failed = int(job.progress(state.now()) * total), 0
        incomplete = total - succeeded
    else:
        return None
    counts = {"successfulCount": succeeded, "failedCount": failed, "incompleteCount": incomplete}
    return {name: str(count) for name, count in counts.items() if count}


def _masked(resource: dict[str, Any], mask: str) -> dict[str, Any]:
    """Keep what a ``readMask`` names; either spelling, paths too."""
    paths = [[_camel(part) for part in path.strip().split(".")] for path in mask.split(",") if path.strip()]
    if not paths or ["*"] in paths:
        return resource
    out: dict[str, Any] = {}
    for path in paths:
        source: Any = resource
        target = out
        for part in path[:-1]:
            source = source.get(part) if isinstance(source, dict) else None
            if isinstance(source, dict):
                target = target.setdefault(part, {})
        if isinstance(source, dict) and path[-1] in source:
            target[path[-1]] = source[path[-1]]
    return out


# --------------------------------------------------------------------------------------------------------------------
# Routes


def routes(state: EmulatorState) -> list[Route]:
    """The routes of Vertex AI's batch prediction jobs."""
    run = VertexRun()

    def enter(request: Request) -> tuple[str, str, str]:
        """Check caller, project and location; return project, location and the scope that jobs are kept under."""
        require_caller(state, request)
        project, location = request.path_params["project"], request.path_params["location"]
        numbers: dict[str, str] = state.config.extra.get("project_numbers", {})
        by_number = {number: name for name, number in numbers.items()}
        known = state.config.projects
        if known is not None and by_number.get(project, project) not in known:
            raise GoogleError(
                403,
                f"Permission denied on resource project {project}.",
                details=[
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": "CONSUMER_INVALID",
                        "domain": "googleapis.com",
                        "metadata": {"service": "aiplatform.googleapis.com", "consumer": f"projects/{project}"},
                    }
                ],
            )
        locations = state.config.locations
        if locations is not None and location not in locations:
            raise GoogleError(403, f"Permission denied on 'locations/{location}' (or it may not exist).")
        return project, location, f"projects/{numbers.get(project, project)}/locations/{location}"

    def name_of(request: Request, scope: str) -> str:
        return f"{scope}/batchPredictionJobs/{request.path_params['job']}"

    def missing(name: str) -> GoogleError:
        return GoogleError(404, f'The BatchPredictionJob "{name}" does not exist.')

    async def create(request: Request) -> Response:
        project, location, scope = enter(request)
        body = read_body(await read_json(request))
        short = check_model(state, str(body["model"]), project, location)
        kind = "embed" if "embedding" in short else "generate"
        uris = (body["inputConfig"].get("gcsSource") or {}).get("uris") or []
        if kind == "embed" and not is_legacy(short) and not uris:
            raise GoogleError(400, f"{short} supports Cloud Storage input only.")
        if state.config.several_uris == "reject" and (len(uris) > 1 or any("*" in uri for uri in uris)):
            raise _invalid("input_config.gcs_source.uris", "Exactly one JSONL file is supported.")
        # A guess from the size, at most: nothing but the length of the next step depends on it before the start.
        size = sum(stored.size for uri in uris for stored in objects_at(state, uri))
        job = state.create_job(
            name=f"{scope}/batchPredictionJobs/{state.new_id(1, '123456789')}{state.new_id(18, '0123456789')}",
            backend="vertex_ai",
            kind=kind,
            model=str(body["model"]),
            display_name=str(body["displayName"]),
            source=ImportedRows(size // 200),
            handler=run,
            labels={str(key): str(value) for key, value in (body.get("labels") or {}).items()},
            resource=body,
            scope=scope,
        )
        return reply(state, request, job_resource(state, job))

    async def get(request: Request) -> Response:
        name = name_of(request, enter(request)[2])
        job = await polled(state, name)
        if job is None:
            raise missing(name)
        return reply(state, request, job_resource(state, job))

    async def list_jobs(request: Request) -> Response:
        scope = enter(request)[2]
        query = request.query_params
        try:
            keep = read_filter(query.get("filter", ""))
            size = int(query.get("pageSize") or query.get("page_size") or state.config.list_default_page_size)
        except BadFilter as error:
            raise GoogleError(400, f"Invalid filter: {error}") from None
        except ValueError:
            raise GoogleError(400, "Invalid value at 'page_size' (TYPE_INT32).") from None
        size = min(size if size > 0 else state.config.list_default_page_size, state.config.list_max_page_size)
        # Looking may start or end many jobs; other requests must not wait for that.
        jobs, token = await asyncio.to_thread(
            state.page_of_jobs,
            "vertex_ai",
            scope=scope,
            page_size=size,
            page_token=query.get("pageToken") or query.get("page_token") or "",
            keep=lambda job: keep(_facts(job)),
        )
        mask = query.get("readMask") or query.get("read_mask") or ""
        listing: dict[str, Any] = {}
        if jobs:
            listing["batchPredictionJobs"] = [_masked(job_resource(state, job), mask) for job in jobs]
        if token:
            listing["nextPageToken"] = token
        return reply(state, request, listing)

    async def cancel(request: Request) -> Response:
        name = name_of(request, enter(request)[2])
        await read_json(request)
        job = state.jobs.get(name)
        if job is None:
            raise missing(name)
        await asyncio.to_thread(state.look_at, job)
        if job.is_ended:
            raise GoogleError(
                400,
                f'The BatchPredictionJob "{name}" cannot be cancelled in state JOB_STATE_{job.raw_state}.',
                "FAILED_PRECONDITION",
            )
        await asyncio.to_thread(state.cancel_job, job)
        return reply(state, request, {})

    async def delete(request: Request) -> Response:
        scope = enter(request)[2]
        name = name_of(request, scope)
        job = state.jobs.get(name)
        if job is None:
            raise missing(name)
        await asyncio.to_thread(state.look_at, job)
        if not job.is_ended:
            raise GoogleError(
                400,
                f'The BatchPredictionJob "{name}" is in state JOB_STATE_{job.raw_state}; only jobs that have '
                "completed (succeeded, failed, cancelled or expired) can be deleted.",
                "FAILED_PRECONDITION",
            )
        state.delete_job(job)
        now = timestamp(state.now(), 6)
        operation = {
            "name": f"{scope}/operations/{state.new_id(19, '123456789')}",
            "metadata": {
                "@type": "type.googleapis.com/google.cloud.aiplatform.v1.DeleteOperationMetadata",
                "genericMetadata": {"createTime": now, "updateTime": now},
            },
            "done": True,
            "response": {"@type": "type.googleapis.com/google.protobuf.Empty"},
        }
        operations(state)[str(operation["name"])] = operation
        return reply(state, request, operation)

    async def operation(request: Request) -> Response:
        name = f"{enter(request)[2]}/operations/{request.path_params['operation']}"
        found = operations(state).get(name)
        if found is None:
            raise GoogleError(404, f'The Operation "{name}" does not exist.')
        return reply(state, request, found)

    found: list[Route] = []
    for version in ("v1", "v1beta1"):
        parent = f"/{version}/projects/{{project}}/locations/{{location}}"
        jobs = f"{parent}/batchPredictionJobs"
        found += [
            Route(jobs, create, methods=["POST"]),
            Route(jobs, list_jobs, methods=["GET"]),
            Route(jobs + "/{job}:cancel", cancel, methods=["POST"]),
            Route(jobs + "/{job}", get, methods=["GET"]),
            Route(jobs + "/{job}", delete, methods=["DELETE"]),
            Route(parent + "/operations/{operation}", operation, methods=["GET"]),
        ]
    return found


def operations(state: EmulatorState) -> dict[str, Any]:
    """Operations that delete calls answered with, by name."""
    return state.room("vertex_operations", dict)


def _facts(job: Job) -> dict[str, Any]:
    """What a list filter can see of a job; times as precise as they are shown."""
    created = datetime.fromtimestamp(job.created, tz=UTC)
    return {
        "display_name": job.display_name,
        "model_display_name": job.model.rpartition("/")[2],
        "state": f"JOB_STATE_{job.raw_state}",
        "create_time": created.timestamp(),
        "labels": job.labels,
    }
