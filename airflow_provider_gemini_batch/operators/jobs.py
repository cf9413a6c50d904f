# SPDX-License-Identifier: Apache-2.0
"""Look at jobs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.operators.base import GeminiBatchOperator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.api.states import JobState


class GetBatchOperator(GeminiBatchOperator):
    """
    Look at a job; returns its summary (name, state, model, stats, the output's place).

    :param job_name: What a create operator returned.
    """

    template_fields: Sequence[str] = (*GeminiBatchOperator.template_fields, "job_name")

    def __init__(self, *, job_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job_name = job_name

    def run_task(self, context: Any) -> dict[str, Any]:
        """Read the job, and return its summary."""
        job = self.hook.get_batch(self.job_name)
        self.show_job(context.get("ti"), job, self.hook.settings)
        return job.summary()


class ListBatchesOperator(GeminiBatchOperator):
    """
    List jobs, newest first; returns their summaries.

    :param filter: Vertex AI's list filter, e.g. ``state="JOB_STATE_SUCCEEDED"``; works on both backends.
    :param states: Only jobs in these states, e.g. ``["SUCCEEDED"]``.
    :param display_name_prefix: Only jobs whose display name begins so.
    :param limit: At most so many; None for all.
    """

    template_fields: Sequence[str] = (*GeminiBatchOperator.template_fields, "filter", "states", "display_name_prefix")

    def __init__(
        self,
        *,
        filter: str | None = None,
        states: Sequence[str] | None = None,
        display_name_prefix: str | None = None,
        limit: int | None = 1000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filter = filter
        self.states = states
        self.display_name_prefix = display_name_prefix
        self.limit = limit

    def run_task(self, context: Any) -> list[dict[str, Any]]:
        """Return the summaries of the jobs that the filter keeps."""
        if self.limit is not None and (
            isinstance(self.limit, bool) or not isinstance(self.limit, int) or not 0 < self.limit <= sys.maxsize
        ):
            raise ConfigurationError(f"limit must be a whole number above 0, or None, not {self.limit!r}.")
        jobs = selected(
            self.hook.list_all_batches(self.filter or None), states_from(self.states), self.display_name_prefix
        )
        return [job.summary() for job in islice(jobs, self.limit)]


def states_from(words: Sequence[str] | None) -> frozenset[JobState] | None:
    """Read state names in any spelling, also with commas as a template leaves them; None for no restriction."""
    from airflow_provider_gemini_batch.api.states import JobState

    if words is None:
        return None
    if not isinstance(words, Iterable):
        raise ConfigurationError(f"states must be a list of states, not {words!r}.")
    # A template makes a text of a list, and a text is a sequence of letters.
    given = [word.strip() for word in words.split(",")] if isinstance(words, str) else list(words)
    known = [state for state in JobState if state is not JobState.UNKNOWN]
    bad = [word for word in given if JobState.from_wire(word) not in known]
    if bad:
        raise ConfigurationError(
            f"states: {', '.join(map(repr, bad))} is no state of a job. Known are {', '.join(map(str, known))}."
        )
    return frozenset(JobState.from_wire(word) for word in given)


def selected(
    jobs: Iterable[BatchJob], states: frozenset[JobState] | None, display_name_prefix: str | None
) -> Iterator[BatchJob]:
    """Yield the jobs with one of *states* whose display name begins with *display_name_prefix*."""
    if display_name_prefix is not None and not isinstance(display_name_prefix, str):
        raise ConfigurationError(f"display_name_prefix must be a text, not {display_name_prefix!r}.")
    for job in jobs:
        if (states is None or job.state in states) and job.display_name.startswith(display_name_prefix or ""):
            yield job
