# SPDX-License-Identifier: Apache-2.0
"""What to do about a failed job or a refused call on Vertex AI."""

# Where the service's own words leave a person alone (a bucket's name, a permission, a region), these add a way out.
# Codes and texts are those that users of the live service recorded.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.errors import ApiError, NotFoundError, PermissionDeniedError

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings

_BUCKET_LOCATION = re.compile(r"bucket location for\s+(?:gs://)?([a-z0-9][a-z0-9._-]*[a-z0-9])")
_SERVICE_AGENT = re.compile(r"[\w.-]+@gcp-sa-aiplatform[\w.-]*\.iam\.gserviceaccount\.com")
_PERMISSION = re.compile(r"storage\.(?:objects|buckets)\.\w+")


def explain_job(job: BatchJob) -> str:
    """Say what to do about a job that ended without all of its answers; empty if its own words will do."""
    if job.error is None or job.state not in (JobState.FAILED, JobState.PARTIALLY_SUCCEEDED, JobState.EXPIRED):
        return ""
    code, message = job.error.code, job.error.message
    # The project's number or id and the location stand in the job's own name: the connection may have changed since.
    match = re.match(r"projects/([^/]+)/locations/([^/]+)/", job.name)
    project, location = (match[1], match[2]) if match else ("the job's", "the job's")
    agent_match = _SERVICE_AGENT.search(message)
    agent = agent_match[0] if agent_match else "service-<project number>@gcp-sa-aiplatform.iam.gserviceaccount.com"
    # One code, two causes that the service words alike: a bucket that does not exist, and one that its agent may not
    # see.
    if code == 9 and "bucket" in message.lower():
        named = _BUCKET_LOCATION.search(message)
        bucket = f"gs://{named[1]}" if named else "of the input or the destination"
        return (
            f"The bucket {bucket} does not exist, or Vertex AI's service agent of project {project} ({agent}) may not "
            "read it: check the bucket's name, or grant the agent roles/storage.objectAdmin on it. The agent reads and "
            "writes, not the account of the connection."
        )
    if code == 9:
        return (
            f"Check that the input {job.input_place or ''} exists and that Vertex AI's service agent of project "
            f"{project} ({agent}) may read it."
        ).replace("  ", " ")
    if code == 7:
        permission = _PERMISSION.search(message)
        lacks = f" (it lacks {permission[0]})" if permission else ""
        if "bigquery" in message.lower():
            return f"Grant Vertex AI's service agent of project {project} ({agent}) roles/bigquery.dataEditor."
        return (
            f"Grant Vertex AI's service agent {agent} of project {project} roles/storage.objectAdmin on the bucket of "
            f"the destination{lacks}, then submit again. The agent writes, not the account of the connection; rows "
            "that had run are billed."
        )
    if code == 3 and "import" in message.lower():
        return (
            "The whole file was refused before any row ran: every row needs the same shape (one type at each place, no "
            "empty objects, no nulls, at most 15 levels, names as BigQuery columns have them)."
        )
    if code == 5:
        return (
            f"Something the job needs is missing in project {project}, location {location}: check the names of the "
            "dataset, table and model. An output dataset has to exist, and in the job's region."
        )
    if code == 6:
        return "The output table exists already; name one that does not, or only the dataset."
    if code == 13:
        return "This is trouble at Google: submitting the same job again usually helps."
    return ""


class _Connection(NamedTuple):
    """What of a connection's settings an advice names."""

    project: str
    location: str
    storage: str
    payer: str

    @classmethod
    def of(cls, settings: ConnectionSettings | None) -> _Connection:
        if settings is None:
            return cls("the connection's", "the connection's", "", "")
        storage = f" ({settings.storage_uri})" if settings.storage_uri else ""
        return cls(settings.project, settings.location, storage, settings.quota_project)


def explain_error(error: ApiError, settings: ConnectionSettings | None) -> str:
    """Say what to do about a refused call; empty if the service's own words will do."""
    ours = _Connection.of(settings)
    low = str(error).lower()
    if isinstance(error, PermissionDeniedError):
        return _of_permission(error, ours)
    # The service answers 404, and for some locations 400, for a model that it does not serve there; its text alone says
    # that it is the model. A job that is missing is a 404 too and names itself.
    names_model = any(word in low for word in ("publishermodel", "publisher model", "the model"))
    if names_model and "batchpredictionjob" not in low and (error.status == 404 or "location" in low):
        return (
            f"The model does not exist, or is not served in location {ours.location} of the connection: check its "
            "name, or use a connection with a location that has it (for most Gemini models global or us-central1)."
        )
    if isinstance(error, NotFoundError) and (advice := _of_missing(low, ours)):
        return advice
    if error.reason == "FAILED_PRECONDITION" and "delet" in low:
        return "A job can be deleted once it has ended: cancel it first and wait for that."
    return ""


def _of_permission(error: PermissionDeniedError, ours: _Connection) -> str:
    text = str(error)
    low = text.lower()
    reasons = {str(detail.get("reason") or "") for detail in error.details}
    permission = _PERMISSION.search(text)
    # From the most exact word to the least: a text that names a permission may hold the words of the others, too.
    if permission:
        return (
            f"The connection's account lacks {permission[0]}: grant it roles/storage.objectUser on the bucket of this "
            f"file, or use another bucket than the connection's storage_uri{ours.storage}."
        )
    if "USER_PROJECT_DENIED" in reasons:
        return (
            f"The connection's account may not use {ours.payer or 'that project'} for quota: grant it "
            "roles/serviceusage.serviceUsageConsumer there, or correct the connection's quota_project."
        )
    if "vpcservicecontrols" in low:
        return "A perimeter of VPC Service Controls forbids it: no role of the connection's account helps."
    if reasons & {"SERVICE_DISABLED", "API_DISABLED"} or "has not been used in project" in low:
        return f"Enable the Vertex AI API (aiplatform.googleapis.com) in project {ours.project}."
    if "permission denied on 'locations/" in low:
        return (
            f"The location {ours.location} of the connection does not exist, or is closed to project {ours.project}: "
            "correct the connection's location (for example us-central1 or global)."
        )
    if "CONSUMER_INVALID" in reasons or "resource project" in low:
        return (
            f"The project {ours.project} of the connection does not exist, or its account has no access to it: correct "
            "the connection's project."
        )
    return (
        f"The connection's account needs roles/aiplatform.user in project {ours.project}; check also that this is the "
        "right project."
    )


def _of_missing(low: str, ours: _Connection) -> str:
    if "batchpredictionjob" in low:
        return (
            f"The job was deleted, or belongs to another project or location than the connection's ({ours.project}, "
            f"{ours.location})."
        )
    if "bucket does not exist" in low:
        return (
            "Create the bucket, or correct its name in the file's place or in the connection's "
            f"storage_uri{ours.storage}."
        )
    if "no such object" in low:
        return "The object was deleted or never written; check its name."
    return ""
