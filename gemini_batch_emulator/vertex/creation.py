# SPDX-License-Identifier: Apache-2.0
"""The body of a create call: which members there are, and what is refused at once."""

from __future__ import annotations

import json
import re
from typing import Any

from gemini_batch_emulator.bigquery.store import split_table
from gemini_batch_emulator.errors import GoogleError

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
ECHOED = ("inputConfig", "instanceConfig", "modelParameters", "outputConfig", "serviceAccount", "encryptionSpec")


def camel(name: str) -> str:
    """Write a snake_case name in camelCase."""
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)


def _message(value: Any, known: set[str], where: str) -> dict[str, Any]:
    """A message with camelCase names; GoogleError 400 for a name that the message does not have."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise GoogleError(400, f"Invalid value at '{where}' (Map), {json.dumps(value)[:100]}")
    out = {}
    for name, member in value.items():
        # The service refuses what its protocol buffers do not know, at any depth; so would a client's misspelt member
        # be found.
        if camel(name) not in known:
            text = f"Invalid JSON payload received. Unknown name \"{name}\" at '{where}': Cannot find field."
            violation = {"field": where, "description": text}
            raise GoogleError(
                400,
                text,
                details=[{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}],
            )
        out[camel(name)] = member
    return out


def invalid(field: str, problem: str) -> GoogleError:
    """Return the error for a member that cannot be."""
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
            # Errors name members in snake_case, whatever the caller wrote.
            raise invalid(re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), name), "Required field is not set.")
    if len(str(job["displayName"])) > 128:
        raise invalid("display_name", "must be at most 128 characters long.")
    _check_labels(job.get("labels") or {})
    # Documented for other models of the same resource, and refused for Gemini.
    if job.get("encryptionSpec") or job.get("serviceAccount"):
        raise GoogleError(400, "CMEK and custom service accounts are not supported for Gemini batch prediction.")
    job["inputConfig"] = _source(job["inputConfig"])
    job["outputConfig"] = _target(job["outputConfig"])
    return job


def _check_labels(labels: dict[str, Any]) -> None:
    for key, value in labels.items():
        # The rules of Google Cloud's labels:
        # https://cloud.google.com/resource-manager/docs/labels-overview#requirements.
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", str(key)) or not re.fullmatch(r"[a-z0-9_-]{0,63}", str(value)):
            raise invalid("labels", f"Label {key}={value} does not conform to the naming rules.")
    if len(labels) > 64:
        raise invalid("labels", "More than 64 labels.")


def _source(value: Any) -> dict[str, Any]:
    """Read where the rows are."""
    where = "batch_prediction_job.input_config"
    source = _message(value, _INPUT_FIELDS, where)
    kind = source.get("instancesFormat")
    if kind == "jsonl" and source.get("gcsSource"):
        place = _message(source["gcsSource"], {"uris"}, f"{where}.gcs_source")
        uris = place.get("uris") or []
        # Google's own sample sends a bare string.
        uris = [uris] if isinstance(uris, str) else list(uris)
        if not uris or not all(re.fullmatch(r"gs://[^/]+/.+", str(uri)) for uri in uris):
            raise invalid("input_config.gcs_source.uris", f"{uris} is not a list of Cloud Storage URIs.")
        return {**source, "gcsSource": {"uris": uris}}
    if kind == "bigquery" and source.get("bigquerySource"):
        place = _message(source["bigquerySource"], {"inputUri"}, f"{where}.bigquery_source")
        if split_table(str(place.get("inputUri"))) is None:
            raise invalid("input_config.bigquery_source.input_uri", f"{place.get('inputUri')} is not a table.")
        return {**source, "bigquerySource": place}
    raise invalid("input_config", f"Instances format {kind!r} does not go with the source.")


def _target(value: Any) -> dict[str, Any]:
    """Read where the answers go."""
    where = "batch_prediction_job.output_config"
    target = _message(value, _OUTPUT_FIELDS, where)
    kind = target.get("predictionsFormat")
    if kind == "jsonl" and target.get("gcsDestination"):
        place = _message(target["gcsDestination"], {"outputUriPrefix"}, f"{where}.gcs_destination")
        if not re.match(r"gs://[^/]+", str(place.get("outputUriPrefix"))):
            raise invalid("output_config.gcs_destination.output_uri_prefix", "must start with gs://.")
        return {**target, "gcsDestination": place}
    if kind == "bigquery" and target.get("bigqueryDestination"):
        place = _message(target["bigqueryDestination"], {"outputUri"}, f"{where}.bigquery_destination")
        if not re.fullmatch(r"bq://[^.]+(\.[^.]+){0,2}", str(place.get("outputUri"))):
            raise invalid("output_config.bigquery_destination.output_uri", "must start with bq://.")
        return {**target, "bigqueryDestination": place}
    raise invalid("output_config", f"Predictions format {kind!r} does not go with the destination.")
