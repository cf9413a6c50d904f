# SPDX-License-Identifier: Apache-2.0
"""Which job was made from a file that is gone by now? Its rows cannot be read, and its answers are paid for."""

# A file at Google names the rows of its job by its content, and the Files API forgets it after 48 hours. A retry later
# than that cannot make the job's token anew. It knows its own half, and each job says which file it reads.

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.api.identity import canonical_model, token_of
from airflow_provider_gemini_batch.errors import FileGoneError
from airflow_provider_gemini_batch.lifecycle.own_jobs import OwnJobs, age_order, is_live_or_useful
from airflow_provider_gemini_batch.lifecycle.upload import look_at_remote

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.identity import TaskIdentity
    from airflow_provider_gemini_batch.api.models import RemoteFile
    from airflow_provider_gemini_batch.api.wire import Flow
    from airflow_provider_gemini_batch.lifecycle.request import JobRequest
    from airflow_provider_gemini_batch.lifecycle.submission import SubmitPolicy


@dataclass(frozen=True)
class GoneFile:
    """
    A file that is not there any more.

    :param digest: The second half of the token of the job that was made from it.
    :param error: What to say if that job cannot be taken after all: no other can be created.
    """

    digest: str
    error: FileGoneError


def look_or_find(
    backend: Backend,
    name: str,
    request: JobRequest,
    work: TaskIdentity,
    policy: SubmitPolicy,
    *,
    known_names: Collection[str] = (),
    exclude: Collection[str] = frozenset(),
) -> Flow[RemoteFile | GoneFile | None]:
    """
    Look at a file that a job is to read, or else for this task's job that was made from it.

    :return: As :func:`~airflow_provider_gemini_batch.lifecycle.upload.look_at_remote`, or what takes the file's place.
    :raises FileGoneError: If there is neither.
    """
    try:
        return (yield from look_at_remote(backend, name, policy.reads))
    except FileGoneError as error:
        if not work.may_have_rivals:
            raise
        own = OwnJobs(backend, work, policy.reads, exclude=exclude, clock_skew=policy.clock_skew)
        noted = yield from own.get(known_names)
        listed = yield from own.read()
        jobs = {job.name: job for job in (*listed, *noted)}
        for job in sorted(jobs.values(), key=age_order):
            token = token_of(job)
            if (
                token is not None
                and work.owns(token.task)
                and job.input_place == name
                and canonical_model(job.model) == canonical_model(request.model)
                and is_live_or_useful(job)
            ):
                return GoneFile(token.digest, error)
        raise
