# SPDX-License-Identifier: Apache-2.0
"""What a run needs of the world around it, handed in by whoever starts it."""

from __future__ import annotations

import math
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.run.money import Prices, UnknownPrices
from airflow_provider_gemini_batch.times import epoch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow_provider_gemini_batch.api.identity import TaskIdentity
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.client.client import GeminiBatchClient
    from airflow_provider_gemini_batch.cost.estimate import Estimate
    from airflow_provider_gemini_batch.files.folder import Folder
    from airflow_provider_gemini_batch.lifecycle.submission import SubmitPolicy
    from airflow_provider_gemini_batch.run.checkpoint import Left
    from airflow_provider_gemini_batch.run.sources import Source
    from airflow_provider_gemini_batch.run.sql import SqlTarget


@dataclass(frozen=True)
class JobLimits:
    """
    How long one job may take, in seconds; None is no limit. A job that takes longer is cancelled.

    :param total: From its creation.
    :param pending: While it waits for its turn.
    :param running: While it runs.
    """

    total: float | None = None
    pending: float | None = None
    running: float | None = None

    def ends_at(self, job: BatchJob, skew: float = 0.0) -> float:
        """
        Return the UTC epoch second at which a job's time is up, by our clock.

        :param skew: Seconds by which the service's clock is ahead of ours.
        """
        created = epoch(job.create_time)
        started = epoch(job.start_time)
        ends = []
        if self.total is not None and created is not None:
            ends.append(created + self.total)
        if self.pending is not None and created is not None and job.state.is_waiting:
            ends.append(created + self.pending)
        if self.running is not None and started is not None and not job.state.is_waiting:
            ends.append(started + self.running)
        return min(ends, default=math.inf) - skew


@dataclass
class RunContext:
    """
    What a run needs of the world around it.

    :param checkpoint: Folder of this piece of work.
    :param source: Called when the input is read, once.
    :param variables: For templates.
    :param occasion: Tells a clear from a retry: a generation that has ended is begun anew on another occasion.
    :param host: This worker's name, for the one who cannot see what it wrote.
    :param left: What an earlier attempt said of the checkpoint that it left.
    :param on_checkpoint: Called once the snapshot is there, before anything is submitted, so that it can be said.
    :param on_estimate: Told what a round may cost, before its first job.
    :param counts_tokens: Whether tokens of a few rows are counted (``countTokens``) when the input is read.
    :param is_trial: Whether nothing may be changed, for a dry run.
    :param history: Folder whose generations have answers to take over; None for *checkpoint* itself.
    :param siblings: Folders of a mapped task's other indexes, where its list may have changed.
    :param may_be_reordered: Whether it may have.
    :param run_claim: Names the DAG run, so that two of its tasks do not write one file; empty for none.
    """

    client: GeminiBatchClient
    checkpoint: Folder
    identity: TaskIdentity
    source: Callable[[], Source]
    variables: Mapping[str, Any] = field(default_factory=dict)
    occasion: str = ""
    siblings: Sequence[Folder] = ()
    may_be_reordered: bool = False
    run_claim: str = ""
    is_trial: bool = False
    history: Folder | None = None
    prices: Prices = field(default_factory=UnknownPrices)
    submit_policy: SubmitPolicy | None = None
    sql: SqlTarget | None = None
    limits: JobLimits = field(default_factory=JobLimits)
    reuse_tables: Mapping[str, Source] = field(default_factory=dict)
    now: Callable[[], float] = lambda: time.time()
    sleep: Callable[[float], None] = lambda seconds: time.sleep(seconds)
    on_job: Callable[[str], None] = lambda name: None
    stop: Callable[[], None] = lambda: None
    host: str = field(default_factory=socket.gethostname)
    left: Left | None = None
    on_checkpoint: Callable[[Left], None] = lambda left: None
    on_estimate: Callable[[Estimate], None] = lambda found: None
    counts_tokens: bool = False
