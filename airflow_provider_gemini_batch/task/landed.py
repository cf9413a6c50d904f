# SPDX-License-Identifier: Apache-2.0
"""What Airflow learns of results beside XCom: events of the task's outlets, lineage and metrics."""

# None of it may fail a task whose work is done and paid for: what goes wrong is logged.

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.lineage import report_lineage
from airflow_provider_gemini_batch.task.metrics import count_job, count_landed, tags_of

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob

log = logging.getLogger(__name__)

EXTRA_KEY = "gemini_batch_manifest"
"""Member of an asset event's extra that holds the manifest."""


def tell_landed(
    task: Any, context: Any, manifest: Mapping[str, Any], *, inputs: Iterable[object], outputs: Iterable[object]
) -> None:
    """
    Tell Airflow of landed answers.

    :param task: The operator; its ``outlets`` get the manifest with their events, which Airflow makes if it succeeds.
    :param context: Airflow's task context.
    :param inputs: Paths and URIs that were read.
    :param outputs: Paths and URIs that were written.
    """
    tell_outlets(task, context, manifest)
    _try("The lineage", lambda: report_lineage(task.hook, inputs, outputs))
    _try("The metrics", lambda: count_landed(manifest, tags_of(context.get("ti"))))


def tell_ended(task: Any, context: Any, job: BatchJob, manifest: Mapping[str, Any] | None = None) -> None:
    """
    Tell Airflow of a job that has ended; its rows are counted where they are landed.

    :param manifest: For the task's outlets; None leaves them alone.
    """
    if manifest is not None:
        tell_outlets(task, context, manifest)
        outputs = [job.output.place] if job.output is not None else []
        _try("The lineage", lambda: report_lineage(task.hook, [job.input_place], outputs))
    _try("The metrics", lambda: count_job(job, tags_of(context.get("ti"))))


def tell_outlets(task: Any, context: Any, manifest: Mapping[str, Any]) -> None:
    """Put the manifest into the event of each asset (before Airflow 3: dataset) that the task has as an outlet."""
    for outlet in getattr(task, "outlets", None) or ():
        if not hasattr(outlet, "uri"):
            continue  # an alias stands for assets that only the DAG's author knows
        _try("An outlet's event", partial(_add_extra, context, outlet, manifest))


def _add_extra(context: Any, outlet: Any, manifest: Mapping[str, Any]) -> None:
    context["outlet_events"][outlet].extra[EXTRA_KEY] = dict(manifest)


def _try(what: str, tell: Callable[[], None]) -> None:
    try:
        tell()
    except Exception as error:
        log.warning("%s could not be told to Airflow: %s: %s", what, type(error).__name__, error)
