# SPDX-License-Identifier: Apache-2.0
"""The jobs of a run at Google: found by the task half of their token, submitted as siblings, cancelled together."""

# A shard's token is made of the rows it asks, so that a lost checkpoint is rebuilt from the jobs alone: the same input
# gives the same shards, and these find their jobs again, ended or not.

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.api.identity import TaskIdentity, digest_of, token_of
from airflow_provider_gemini_batch.errors import GeminiBatchError, NotFoundError
from airflow_provider_gemini_batch.lifecycle.own_jobs import OwnJobs
from airflow_provider_gemini_batch.lifecycle.request import JobRequest
from airflow_provider_gemini_batch.times import epoch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.client.client import GeminiBatchClient
    from airflow_provider_gemini_batch.lifecycle.submission import SubmitPolicy
    from airflow_provider_gemini_batch.run.spec import RunSpec

log = logging.getLogger(__name__)


def shard_digest(generation: int, shard: str, keys: Iterable[str]) -> str:
    """
    Return the digest half of a shard's token.

    :param keys: Wire keys of its rows, in order.
    """
    rows = hashlib.sha256()
    for key in keys:
        rows.update(key.encode())
        rows.update(b"\n")
    return digest_of({"run": 1, "generation": generation, "shard": shard, "rows": rows.hexdigest()})


def run_task(run_key: str) -> str:
    """Return the task half for a run outside of a task: the same key resumes."""
    return hashlib.sha256(f"run_key:{run_key}".encode()).hexdigest()[:16]


class RunJobs:
    """
    The jobs of one run.

    :param client: Of the connection.
    :param identity: Whose jobs.
    """

    def __init__(self, client: GeminiBatchClient, identity: TaskIdentity, policy: SubmitPolicy | None = None) -> None:
        self._client = client
        self.identity = identity
        self._policy = policy

    def own(self) -> list[BatchJob]:
        """
        Return the jobs that the service lists for this run, in its order: newest first, as a rule.

        That order is promised by neither backend, so that one old job does not end the look; a page of old ones does.
        """
        mine = TaskIdentity(self.identity.task, self.identity.since)
        return self._client.run(OwnJobs(self._client.backend, mine, self._client.retry).read())

    def by_digest(self) -> dict[str, list[BatchJob]]:
        """Return the run's jobs by the digest half of their token: those with answers first, then by age."""
        found: dict[str, list[BatchJob]] = {}
        for job in self.own():
            own = token_of(job)
            assert own is not None
            found.setdefault(own.digest, []).append(job)
        return {digest: sorted(jobs, key=_worth) for digest, jobs in found.items()}

    def listed(self) -> dict[str, BatchJob]:
        """Return the run's jobs by name."""
        return {job.name: job for job in self.own()}

    def get(self, name: str) -> BatchJob | None:
        """Look at a job; None if the service has forgotten it."""
        try:
            return self._client.get_batch(name)
        except NotFoundError:
            return None

    def seen_by(self, name: str) -> str:
        """Say who sees a job; see :meth:`~.connection.settings.ConnectionSettings.seen_by`."""
        return self._client.settings.seen_by(name)

    def submit(
        self,
        spec: RunSpec,
        input_path: str,
        digest: str,
        *,
        intent_at: float | None,
        remember: Callable[[str, str], None],
        may_create: Callable[[], None] | None = None,
        listed: tuple[float, Sequence[BatchJob]] | None = None,
    ) -> BatchJob:
        """
        Find or create a shard's job.

        :param input_path: Local JSONL of its requests, with wire keys.
        :param may_create: Called before rows are uploaded and before each create call; what it raises ends the
            submission.
        :param listed: A look at this run's jobs that was just made, and when; it is not made again at once.
        """
        request = JobRequest(
            spec.kind,
            spec.model,
            input_path=input_path,
            display_name=spec.display_name or None,
            priority=spec.priority,
            labels=spec.labels,
        )
        submission = self._client.submit(
            request,
            task=self.identity,
            digest=digest,
            on_existing_job="siblings",
            may_have_rivals=intent_at is not None,
            intent_at=intent_at,
            policy=self._policy,
            listed=listed,
            remember=remember,
            may_create=None if may_create is None else lambda measure, jobs, lost: may_create(),
            reads_earlier=False,  # a run keeps count of what its jobs have answered itself
        )
        log.info("%s", submission.reason)
        if submission.uncancelled:
            log.error("Surplus jobs could not be cancelled, and may bill: %s", ", ".join(submission.uncancelled))
        return submission.job

    def cancel(self, names: Iterable[str]) -> list[str]:
        """Cancel jobs, and whatever else of this run the list shows alive; return those that could not be."""
        names = list(names)
        try:
            names += [job.name for job in self.own() if job.is_running]
        except GeminiBatchError as error:
            log.warning("The jobs of this run could not be listed: %s", error)
        return self.cancel_again(names)

    def cancel_again(self, names: Iterable[str], *, are_old: bool = False) -> list[str]:
        """
        Cancel these jobs and no other one; return those that could not be, and may run on.

        :param are_old: Whether one that a read does not find is gone: a young one may not be found yet.
        """
        failed = []
        for name in dict.fromkeys(names):
            try:
                self._client.cancel_batch(name)
            except GeminiBatchError as error:
                if self._may_run(name, are_old=are_old):
                    log.error("%s could not be cancelled, and may bill: %s", name, error)
                    failed.append(name)
        return failed

    def _may_run(self, name: str, *, are_old: bool) -> bool:
        """Say whether a job runs, as far as is known: one that has ended need not be cancelled."""
        try:
            job = self._client.get_batch(name)
        except NotFoundError:
            return not are_old
        except GeminiBatchError:
            return True
        return not job.is_done


def _worth(job: BatchJob) -> tuple[int, float, str]:
    """Order jobs of one token: answers first, then what still runs, then the rest; the oldest of each."""
    kind = 0 if job.state.has_results else 1 if job.is_running else 2
    return kind, epoch(job.create_time) or float("inf"), job.name
