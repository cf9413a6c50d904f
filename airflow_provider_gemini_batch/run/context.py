# SPDX-License-Identifier: Apache-2.0
"""What a run needs of the world around it, handed in by whoever starts it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.run.money import Prices, UnknownPrices

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_gemini_batch.client.client import GeminiBatchClient
    from airflow_provider_gemini_batch.files.folder import Folder
    from airflow_provider_gemini_batch.lifecycle.submit import SubmitPolicy
    from airflow_provider_gemini_batch.run.jobs import Identity
    from airflow_provider_gemini_batch.run.sources import Source
    from airflow_provider_gemini_batch.run.sql import SqlTarget


@dataclass
class RunContext:
    """
    What a run needs of the world around it.

    :param checkpoint: Folder of this piece of work.
    :param source: Called when the input is read, once.
    :param variables: For templates.
    :param occasion: Tells a clear from a retry: a generation that has ended is begun anew on another occasion.
    :param run_claim: Names the DAG run, so that two of its tasks do not write one file; empty for none.
    """

    client: GeminiBatchClient
    checkpoint: Folder
    identity: Identity
    source: Callable[[], Source]
    variables: Mapping[str, Any] = field(default_factory=dict)
    occasion: str = ""
    run_claim: str = ""
    prices: Prices = field(default_factory=UnknownPrices)
    submit_policy: SubmitPolicy | None = None
    sql: SqlTarget | None = None
    reuse_tables: Mapping[str, Source] = field(default_factory=dict)
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    on_job: Callable[[str], None] = lambda name: None
    stop: Callable[[], None] = lambda: None
