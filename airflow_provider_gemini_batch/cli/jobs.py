# SPDX-License-Identifier: Apache-2.0
"""``jobs`` and ``cancel NAME``: a connection's jobs at Google, by Airflow's connection of that id."""

from __future__ import annotations

import argparse
from typing import Any


def add_to(commands: Any) -> None:
    """Add the commands."""
    from airflow_provider_gemini_batch.cli import command

    listed = command(commands, "jobs", jobs, "List a connection's jobs, the newest first.")
    listed.add_argument("--limit", type=int, default=50, help="how many at most (default: %(default)s)")
    listed.add_argument("--live", action="store_true", help="only those that have not ended")
    cancelled = command(commands, "cancel", cancel, "Cancel a job; what has run of it is billed.")
    cancelled.add_argument("name", help="batches/... or projects/.../batchPredictionJobs/...")
    for made in (listed, cancelled):
        made.add_argument("--conn-id", default="gemini_batch_default", help="Airflow's connection (%(default)s)")


def jobs(arguments: argparse.Namespace) -> int:
    """Print a line for each job."""
    from airflow_provider_gemini_batch.cli import hook

    shown = 0
    # Page by page, and no further than is shown: a project may have tens of thousands.
    for job in hook(arguments.conn_id).list_all_batches():
        if arguments.live and job.is_done:
            continue
        if shown >= arguments.limit:
            break
        rows = "?" if job.stats.total is None else str(job.stats.total)
        print(f"{job.name}\t{job.state.value}\t{rows} rows\t{job.model}\t{job.create_time or ''}\t{job.display_name}")
        shown += 1
    if not shown:
        print("There are no jobs.")
    return 0


def cancel(arguments: argparse.Namespace) -> int:
    """Ask for a job to be cancelled."""
    from airflow_provider_gemini_batch.cli import hook

    made = hook(arguments.conn_id)
    # Read first: to the service a mistyped name is a job that is gone, and the one that was meant bills on.
    job = made.get_batch(arguments.name)
    if job.is_done:
        print(f"{arguments.name} has ended ({job.state.value}): there is nothing to cancel.")
        return 0
    made.cancel_batch(arguments.name)
    print(f"{arguments.name}: asked to be cancelled; what has run of it is billed.")
    return 0
