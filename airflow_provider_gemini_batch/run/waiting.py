# SPDX-License-Identifier: Apache-2.0
"""Runs a run to its end in this process: for notebooks, and for tasks that do not defer."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.identity import TaskIdentity
from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError, JobTimeoutError
from airflow_provider_gemini_batch.files.folder import Folder
from airflow_provider_gemini_batch.lifecycle.polling import next_interval
from airflow_provider_gemini_batch.run.arguments import check_arguments, check_sources, source_name, source_of, spec_of
from airflow_provider_gemini_batch.run.context import JobLimits, RunContext
from airflow_provider_gemini_batch.run.driver import Run, Waiting
from airflow_provider_gemini_batch.run.dry_run import plan_of
from airflow_provider_gemini_batch.run.jobs import run_task
from airflow_provider_gemini_batch.run.progress import rows_done
from airflow_provider_gemini_batch.times import duration, seconds

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import Kind
    from airflow_provider_gemini_batch.client.client import GeminiBatchClient
    from airflow_provider_gemini_batch.run.money import Prices

DEFAULT_RUN_TIMEOUT = 30 * 24 * 3600.0


def run_to_end(
    run: Run,
    *,
    deadline: float,
    execution_deadline: float | None = None,
    poll_interval: float | None = None,
    on_wait: Callable[[Run, Waiting], None] = lambda run, waiting: None,
    sleeping: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> dict[str, Any]:
    """
    Go on with a run until it has ended, sleeping while jobs run.

    :param deadline: UTC epoch seconds.
    :param execution_deadline: The same, for Airflow's limit of one attempt; None without one.
    :param poll_interval: Seconds between polls; None grows with the time waited.
    :param on_wait: Called before each wait.
    :param sleeping: Entered for each sleep, which may be ended at any moment.
    :return: The manifest.
    :raises JobTimeoutError: At the deadline; the jobs are cancelled, and what has been collected is kept. At
        *execution_deadline* they run on, as another attempt goes on with them.
    """
    ends_at = deadline if execution_deadline is None else min(deadline, execution_deadline)
    context = run.context
    started = context.now()
    while True:
        came = run.proceed()
        if not isinstance(came, Waiting):
            return came
        on_wait(run, came)
        while not run.is_over(came):
            now = context.now()
            if now >= ends_at:
                # `run_timeout` gives the run up, so its jobs are cancelled. `execution_timeout` ends one attempt: a
                # retry needs the jobs.
                raise (timed_out if now >= deadline else left_running)(run, now - started)
            pause = next_interval(now - started, poll_interval)
            context.stop()
            with sleeping():
                context.sleep(min(pause, max(0.0, ends_at - now)))


def timed_out(run: Run, waited: float) -> GeminiBatchError:
    """Cancel a run's jobs, and return the error to raise."""
    failed = run.cancel()
    left = f" {', '.join(failed)} could not be cancelled, and may bill." if failed else ""
    return JobTimeoutError(
        f"The run was not done within run_timeout ({duration(waited)}): its jobs are cancelled, and the answers so far "
        f"are kept in {run.checkpoint.folder.place}. Clear the task to go on.{left}"
    )


def left_running(run: Run, waited: float) -> GeminiBatchError:
    """Return the error for a run whose attempt is over, and whose jobs are not."""
    names = ", ".join(run.live_jobs())
    return JobTimeoutError(
        f"The run was not done within execution_timeout (this worker has waited for {duration(waited)}). Its jobs "
        f"run on, and bill: {names or 'none'}. A retry or a clear goes on with them; run_timeout would cancel them.",
        limit="execution_timeout",
    )


def run_batch(
    client: GeminiBatchClient,
    kind: Kind,
    *,
    run_key: str,
    checkpoint_path: str,
    progress: bool = True,
    prices: Prices | None = None,
    counts_tokens: bool = False,
    **arguments: Any,
) -> dict[str, Any]:
    """
    Run outside of a task; see ``GeminiBatchHook.run_batch``.

    :param run_key: Names the run: the same key resumes it, and its answers are never paid for twice.
    :param counts_tokens: Whether the tokens of a few rows are counted (``countTokens``) for the estimate.
    :return: The manifest; with ``dry_run`` the plan.
    :raises ConfigurationError: Also for an argument that does not exist, or that only a task knows.
    """
    # No default: a key that is made up anew each time would resume nothing, and everything would be paid for again.
    if not run_key or not checkpoint_path:
        raise ConfigurationError(
            "run_key and checkpoint_path are needed outside of a task: they are how a run resumes."
        )
    check_arguments(kind, arguments)
    run_timeout = seconds(arguments.get("run_timeout"), "run_timeout") or DEFAULT_RUN_TIMEOUT
    poll_interval = seconds(arguments.get("poll_interval"), "poll_interval")
    check_sources(arguments)
    spec = spec_of(kind, arguments, source_name=source_name(arguments))
    task = run_task(run_key)
    context = RunContext(
        client,
        Folder(f"{str(checkpoint_path).rstrip('/')}/{task}"),
        TaskIdentity(task),
        lambda: source_of(arguments),
        variables={"params": arguments.get("params") or {}},
        # Each call is an occasion of its own: a run that has ended begins anew and asks what has no answer.
        occasion=repr(time.time()),
        counts_tokens=counts_tokens,
        limits=JobLimits(
            *(seconds(arguments.get(name), name) for name in ("timeout", "pending_timeout", "running_timeout"))
        ),
    )
    if prices is not None:
        context = replace(context, prices=prices)
    if spec.dry_run:
        return plan_of(spec, context)
    run = Run(spec, context)
    show = _bar if progress else _nothing
    manifest = run_to_end(run, deadline=time.time() + run_timeout, poll_interval=poll_interval, on_wait=show)
    if progress:
        print(f"\r{manifest['succeeded']} of {manifest['total']} rows have an answer.", flush=True)  # noqa: T201
    return manifest


def _bar(run: Run, waiting: Waiting) -> None:
    """Print how far the rows are."""
    done, total = rows_done(run)
    filled = round(30 * done / total) if total else 0
    print(  # noqa: T201
        f"\r[{'#' * filled}{'.' * (30 - filled)}] {done:,} of {total:,} rows, {len(waiting.jobs)} jobs",
        end="",
        flush=True,
    )


def _nothing(run: Run, waiting: Waiting) -> None:
    """Print nothing."""
