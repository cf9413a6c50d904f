# SPDX-License-Identifier: Apache-2.0
"""What is asked of a submission, and what came of it: plain values, see :mod:`~.lifecycle.submit` for the flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from airflow_provider_gemini_batch.api.retry import RetryPolicy

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.identity import SubmissionToken
    from airflow_provider_gemini_batch.api.models import BatchJob, JobSpec
    from airflow_provider_gemini_batch.api.wire import Flow

SourceT = TypeVar("SourceT")

OnExistingJob = Literal["replace", "reuse", "fail", "siblings"]
Action = Literal["created", "adopted", "reused", "replaced"]


@dataclass(frozen=True)
class SubmitPolicy:
    """
    How patiently a submission is made sure of. Times are seconds.

    :param reconcile: Pauses before each look for a job that may have been created unheard. The sum has to be well above
        the time a new job needs to show up in the list (observed: seconds) plus the time a request may be on its way.
    :param rivals: Pauses before the further looks for a twin after a create, when another attempt may run.
    :param max_creates: Create calls in all, when none of them got a clear answer.
    :param reads: Retries of get and list.
    :param cancels: Retries of cancel.
    :param connects: Retries of a create that certainly never left this machine.
    :param clock_skew: How far the service's clock and ours may differ.
    :param in_flight: How long after a noted intent its create call may still be on its way.
    :param fresh: A look older than this is repeated before a create.
    """

    reconcile: tuple[float, ...] = (0, 2, 5, 10, 15, 15)
    rivals: tuple[float, ...] = (10,)
    max_creates: int = 3
    reads: RetryPolicy = field(default_factory=lambda: RetryPolicy(max_attempts=8, cap=30))
    cancels: RetryPolicy = field(default_factory=RetryPolicy)
    connects: RetryPolicy = field(default_factory=RetryPolicy)
    clock_skew: float = 600
    in_flight: float = 60
    fresh: float = 5


@dataclass(frozen=True)
class Submission:
    """
    What came of it.

    :param job: The one job to wait for.
    :param action: ``created``; ``adopted`` (a live job of ours was found); ``reused`` (one with answers was found);
        ``replaced`` (created, after jobs of this task with other input were cancelled).
    :param reason: One line for the log.
    :param surplus: Names of the jobs that were cancelled on the way.
    :param uncancelled: Names of surplus jobs whose cancel call failed: they may still run and bill.
    :param paid_twice: Names of all jobs that ran for the same rows, the one taken first; empty if it is alone.
    :param settled: Names of jobs about which nothing more is to be done while the task waits.
    :param in_doubt_since: UTC epoch seconds of the last create call that may have made a job which was not listed yet:
        another attempt's, or one without an answer. None if there is none.
    :param owned: Task halves whose jobs are certainly this task's own.
    :param spares_others: Whether live jobs of this task with other input are left alone: they may be another index's.
    """

    job: BatchJob
    action: Action
    reason: str
    surplus: tuple[str, ...] = ()
    uncancelled: tuple[str, ...] = ()
    paid_twice: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()
    in_doubt_since: float | None = None
    owned: tuple[str, ...] = ()
    spares_others: bool = False

    @property
    def may_have_twin(self) -> bool:
        """Whether another job for the same rows may exist that was not listed yet."""
        return self.in_doubt_since is not None


@dataclass(frozen=True)
class Order(Generic[SourceT]):
    """
    One job that is wanted.

    :param spec_for: Makes the job from what *prepare* returned; the token is put on here.
    :param prepare: Uploads the rows; called only when a job has to be created.
    """

    token: SubmissionToken
    spec_for: Callable[[SourceT], JobSpec]
    prepare: Callable[[], Flow[SourceT]]
