# SPDX-License-Identifier: Apache-2.0
"""Which jobs of the service's list belong to a piece of work, and to which of them this attempt may do what."""

# A job carries a token of two halves, task and digest (`api/identity.py`):
#
#   the job's token has                              and the job
#   -----------------------------------------------  ------------------------------------------------------------
#   our task half, our digest                        is ours: adopted, reused, or cancelled as a surplus twin
#   our task half, another digest                    is ours, with other input: `on_existing_job` says what to do
#   a former task half of this task                  the same, if we noted it ourselves; else, if it was created
#                                                    before the change, adopted for equal input, never cancelled
#   the task half of another index of a mapped task  is taken for equal input (the list was re-ordered), never
#                                                    cancelled
#   anything else                                    is somebody else's

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.api.flows import Pages, get_job, list_page
from airflow_provider_gemini_batch.api.identity import INPUT_LABEL, TASK_LABEL, token_of
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    NotFoundError,
    ReplyFormatError,
    RequestRejectedError,
    SubmitError,
)
from airflow_provider_gemini_batch.times import instant

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.identity import SubmissionToken, TaskIdentity
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.api.retry import RetryPolicy
    from airflow_provider_gemini_batch.api.wire import Flow


MISSING_GRACE = 60.0
"""Seconds for which a job that was just created may answer 404."""


@dataclass(frozen=True)
class Found:
    """
    Our jobs as one look showed them, of any state.

    :param same: With our digest.
    :param other: With other input.
    :param reordered: With our digest, submitted by another index of this mapped task.
    :param doubtful: Live, with other input, under a former task half that another installation may have used, too.
    """

    same: tuple[BatchJob, ...] = ()
    other: tuple[BatchJob, ...] = ()
    reordered: tuple[BatchJob, ...] = ()
    doubtful: tuple[BatchJob, ...] = ()


class OwnJobs:
    """
    Reads the list of jobs for one piece of work.

    :param exclude: Names of jobs that count as if they did not exist.
    :param clock_skew: How far the service's clock and ours may differ, in seconds.
    :param most_pages: Further pages are not read; None reads as far back as a job of this task can be.
    """

    def __init__(
        self,
        backend: Backend,
        identity: TaskIdentity,
        retry: RetryPolicy,
        *,
        exclude: Collection[str] = frozenset(),
        clock_skew: float = 600,
        most_pages: int | None = None,
    ) -> None:
        self._backend = backend
        self._identity = identity
        self._retry = retry
        self._exclude = frozenset(exclude)
        self._skew = clock_skew
        self._most_pages = most_pages
        self.since = identity.since
        self.seen: set[str] = set()
        """Names of every job of ours that any look has shown."""
        self.jobs: dict[str, BatchJob] = {}
        """Those of them that are certainly this task's own, as last seen."""

    @property
    def owned(self) -> set[str]:
        """The names of the jobs that are certainly this task's own."""
        return set(self.jobs)

    def get(self, names: Iterable[str]) -> Flow[list[BatchJob]]:
        """Read jobs by name; one that is gone is left out."""
        jobs = []
        for name in dict.fromkeys(names):
            if name in self._exclude:
                continue
            try:
                job = yield from get_job(self._backend, name, self._retry)
            except NotFoundError:
                continue  # deleted, or forgotten by the service
            self.seen.add(job.name)
            self.jobs[job.name] = job
            jobs.append(job)
        return jobs

    def read(self, digests: Iterable[str] = ()) -> Flow[list[BatchJob]]:
        """
        Read the list, newest first, as far back as a job of this task can be, and keep this task's jobs.

        :param digests: What other indexes of a mapped task may have submitted for us.
        """
        # As far back as the run began, less what two clocks may differ by.
        horizon = None if self.since is None else self.since - self._skew
        if not self._backend.has_labels:
            jobs = yield from self._read_list(None, horizon)
        else:
            labels = [{TASK_LABEL: task} for task in self._identity.all_tasks]
            if self._identity.indexes:
                labels += [{INPUT_LABEL: digest} for digest in digests]
            jobs = []
            for wanted in labels:
                jobs += yield from self._read_filtered(wanted, horizon)
        return self.take(jobs)

    def take(self, jobs: Iterable[BatchJob]) -> list[BatchJob]:
        """Keep what a look at the list has shown of this task's jobs."""
        found = {job.name: job for job in jobs if job.name not in self._exclude}
        # Seen, though perhaps not ours to cancel: it tells a new job from one that was there.
        self.seen.update(found)
        self.jobs.update({name: job for name, job in found.items() if self.may_cancel(job)})
        return list(found.values())

    def _read_filtered(self, labels: dict[str, str], horizon: float | None) -> Flow[list[BatchJob]]:
        since = None if horizon is None else datetime.fromtimestamp(horizon, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            return (yield from self._read_list(self._backend.own_jobs_filter(labels, since), horizon))
        except RequestRejectedError:
            # The filter's grammar is documented, but no create may hang on it: compare on our side instead.
            return (yield from self._read_list(None, horizon))

    def _read_list(self, wanted: str | None, horizon: float | None) -> Flow[list[BatchJob]]:
        own: list[BatchJob] = []
        pages = Pages()
        for number, page_token in enumerate(pages, 1):
            page = yield from list_page(self._backend, self._retry, page_token=page_token, filter=wanted)
            for job in page.jobs:
                token = token_of(job)
                if token is not None and self._identity.knows(token.task):
                    own.append(job)
            try:
                pages.turn(page)
            except ReplyFormatError as fault:
                raise SubmitError(
                    "The service's list of jobs does not end, so it cannot be told whether this task's job exists; "
                    f"none was created. Look for [airflow {self._identity.task}...] in the list of jobs."
                ) from fault
            # A bound for looks that only hope to find something; a submission has none.
            if number == self._most_pages:
                break
            # All, not any: one old job among newer ones must not end the look.
            if horizon is not None and page.jobs and all(_is_older(job, horizon) for job in page.jobs):
                break
        return own

    def sorted_out(self, jobs: Iterable[BatchJob], token: SubmissionToken, noted: Collection[str] = ()) -> Found:
        """
        Sort jobs by what they are to one submission.

        :param noted: Names that an earlier attempt at this task noted: ours, whatever their task half says.
        """
        same: list[BatchJob] = []
        other: list[BatchJob] = []
        reordered: list[BatchJob] = []
        doubtful: list[BatchJob] = []
        for job in jobs:
            carried = token_of(job)
            is_same = carried is not None and self._is_same(carried, token)
            # A job that we noted and whose token somebody edited away is still ours, and nothing says that its input
            # differs.
            if carried is None or (job.name in noted and is_same):
                same.append(job)
            elif job.name in noted or self._identity.owns(carried.task):
                (same if is_same else other).append(job)
            elif self.is_doubtful(job):
                if not self._may_be_ours(job, carried.task):
                    continue
                if is_same:
                    same.append(job)
                elif is_live(job):
                    doubtful.append(job)
            elif carried.task in self._identity.indexes and carried.digest == token.digest:
                reordered.append(job)
        return Found(tuple(same), tuple(other), tuple(reordered), tuple(doubtful))

    def _is_same(self, carried: SubmissionToken, token: SubmissionToken) -> bool:
        """Whether a job has our input, by whatever name the version that submitted it had for that."""
        former = carried.task != self._identity.task and carried.digest in self._identity.former_digests
        return former or carried.digest == token.digest

    def is_doubtful(self, job: BatchJob) -> bool:
        """Whether a job carries a former task half that another installation may have used as well."""
        carried = token_of(job)
        return carried is not None and any(
            one.task == carried.task and not one.is_proven for one in self._identity.former
        )

    def may_cancel(self, job: BatchJob) -> bool:
        """Whether a job is certainly this task's own."""
        carried = token_of(job)
        return carried is None or self._identity.owns(carried.task)

    def _may_be_ours(self, job: BatchJob, task: str) -> bool:
        """Only a task that had an attempt before the change can have left a job under its former identity."""
        created = instant(job.create_time)
        untils = [one.until for one in self._identity.former if one.task == task and one.until is not None]
        return self._identity.may_have_rivals and created is not None and created[0] <= max(untils)


def is_live(job: BatchJob) -> bool:
    """Whether the job runs or will, as far as we know; one that is being cancelled is as good as cancelled."""
    return not job.state.is_terminal and job.state is not JobState.CANCELLING


def is_young(job: BatchJob, now: float) -> bool:
    """Whether a read by name may miss the job, as a replica has not heard of it yet; *now* in UTC epoch seconds."""
    born = job.born(now)
    return born is not None and now - born < MISSING_GRACE


def out_of_sight(job_name: str) -> ConfigurationError:
    """Make the error for a noted job that was seen with another key, and is not found with this one."""
    return ConfigurationError(
        f"An earlier attempt at this task submitted {job_name} with another key, and this one does not see it: it may "
        "run and bill in that key's project. Nothing was submitted. Give the connection that key back; or cancel the "
        "job there and clear the task, which then submits with this key."
    )


def is_live_or_useful(job: BatchJob) -> bool:
    """Whether a job runs, will run, or has answers."""
    return is_live(job) or job.state.has_results


def age_order(job: BatchJob) -> tuple[bool, tuple[int, int], str]:
    """Order by age, then name: the same for everybody who looks. A job without a time comes last."""
    created = instant(job.create_time)
    return (created is None, created or (0, 0), job.name)


def _is_older(job: BatchJob, horizon: float) -> bool:
    created = instant(job.create_time)
    return created is not None and created[0] < horizon
