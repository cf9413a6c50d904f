# SPDX-License-Identifier: Apache-2.0
"""What a batch prediction job may be made of: its model, its source and its labels, checked before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.vertex.replies import BIGQUERY_SOURCE
from airflow_provider_gemini_batch.api.vertex.storage import parse_gs_uri
from airflow_provider_gemini_batch.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import JobSpec

MAX_LABELS = 64
MAX_LABEL_CHARACTERS = 64

SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.:-]*"
"""A project, or a part of another resource name."""

_MODEL_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")
TUNED_MODEL = re.compile(rf"projects/{SEGMENT}/locations/([a-z0-9-]+)/models/[A-Za-z0-9_.@-]+")
_PUBLISHED_MODEL = re.compile(
    rf"(?:projects/{SEGMENT}/locations/[a-z0-9-]+/)?publishers/[a-z0-9-]+/models/[A-Za-z0-9_][A-Za-z0-9_.@-]*"
)


def model_path(model: str) -> str:
    """
    Return a model's resource name for a model as people write it.

    :param model: ``gemini-3.5-flash-lite``, ``models/gemini-3.5-flash-lite``, ``publishers/google/models/...`` or,
        tuned, ``projects/.../locations/.../models/...``.
    :raises ConfigurationError: If it is none of these.
    """
    name = str(model or "").strip().strip("/")
    if TUNED_MODEL.fullmatch(name) or _PUBLISHED_MODEL.fullmatch(name):
        return name
    bare = name.removeprefix("models/")
    if _MODEL_ID.fullmatch(bare):
        return f"publishers/google/models/{bare}"
    hint = ""
    if name.startswith("tunedModels/"):
        hint = " A tuned model of the Developer API does not exist on Vertex AI."
    raise ConfigurationError(
        f"Not a model of Vertex AI: {name!r}. Write gemini-3.5-flash-lite, "
        f"publishers/google/models/gemini-3.5-flash-lite, or for a tuned model "
        f"projects/.../locations/.../models/....{hint}"
    )


def check_labels(labels: Mapping[str, str]) -> None:
    """
    Check labels by the rules of the service.

    :raises ConfigurationError: Naming every label that breaks them.
    """
    bad = [
        f"{key}={value}"
        for key, value in labels.items()
        if not _is_label(key) or not str(key)[:1].isalpha() or not (value == "" or _is_label(value))
    ]
    if bad:
        raise ConfigurationError(
            f"labels: {', '.join(bad)} cannot be used; keys and values are lower-case letters, digits, '_' and '-', at "
            f"most {MAX_LABEL_CHARACTERS} characters, and a key begins with a letter."
        )
    if len(labels) > MAX_LABELS:
        raise ConfigurationError(f"labels: {len(labels)} are too many; a job can have {MAX_LABELS}, ours included.")


def input_config(spec: JobSpec) -> dict[str, Any]:
    """
    Return where a job reads its rows, as the service's ``inputConfig``.

    :raises ConfigurationError: If the source is none that Vertex AI reads, or not exactly one is given.
    """
    # What an upload returned counts as a source of either backend.
    gcs_uri = spec.gcs_uri
    if spec.file_name is not None:
        if not spec.file_name.startswith("gs://"):
            raise ConfigurationError(
                f"file_name {spec.file_name!r} is a file of the Developer API; on Vertex AI a file lies in Cloud "
                "Storage. Upload it with this connection, or give input_path or gcs_uri."
            )
        if gcs_uri is not None:
            raise ConfigurationError("file_name and gcs_uri are both given; give one of them.")
        gcs_uri = spec.file_name
    if spec.requests is not None:
        raise ConfigurationError("Vertex AI takes no inline rows; they have to be uploaded to Cloud Storage first.")
    if (gcs_uri is None) == (spec.bigquery_uri is None):
        raise ConfigurationError("Give exactly one source: gcs_uri, file_name (gs://...) or bigquery_uri.")
    if gcs_uri is not None:
        parse_gs_uri(gcs_uri)
        return {"instancesFormat": "jsonl", "gcsSource": {"uris": [gcs_uri]}}
    if not BIGQUERY_SOURCE.fullmatch(str(spec.bigquery_uri)):
        raise ConfigurationError(f"bigquery_uri must look like bq://project.dataset.table, not {spec.bigquery_uri!r}.")
    return {"instancesFormat": "bigquery", "bigquerySource": {"inputUri": spec.bigquery_uri}}


def _is_label(text: object) -> bool:
    word = str(text)
    return 0 < len(word) <= MAX_LABEL_CHARACTERS and all(
        (char.isalpha() and char == char.lower()) or char.isnumeric() or char in "_-" for char in word
    )
