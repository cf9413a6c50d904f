# SPDX-License-Identifier: Apache-2.0
"""What a task has read and written, for Airflow's collector of hook lineage."""

# OpenLineage and other readers take it from there; without one the collector does nothing. Places become asset URIs:
# `/data/out.jsonl` is `file:///data/out.jsonl`, `bq://p.d.t` is `bigquery://p/d/t`; object stores keep theirs. Files of
# the Developer API have no URI that anybody else could know, and are left out.

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any


def asset_uri(place: object) -> str:
    """Return the URI of a place as lineage names it; empty if it has none."""
    text = os.fspath(place) if isinstance(place, os.PathLike) else str(place or "")
    scheme, separator, rest = text.partition("://")
    if separator:
        return f"bigquery://{rest.replace('.', '/')}" if scheme == "bq" else text
    # Names within an account: nobody else could tell whose they are.
    if not text or text.startswith(("files/", "batches/", "projects/")):
        return ""
    return f"file://{os.path.abspath(text)}"


def report_lineage(context: Any, inputs: Iterable[object], outputs: Iterable[object]) -> None:
    """
    Tell the collector what was read and written.

    :param context: The hook that did it.
    :param inputs: Paths and URIs; those without an asset URI are left out.
    :param outputs: The same.
    """
    from airflow_provider_gemini_batch.compat import get_hook_lineage_collector

    collector = get_hook_lineage_collector()
    # Airflow 2.11 speaks of datasets.
    add_input = getattr(collector, "add_input_asset", None) or collector.add_input_dataset
    add_output = getattr(collector, "add_output_asset", None) or collector.add_output_dataset
    for add, places in ((add_input, inputs), (add_output, outputs)):
        for uri in filter(None, map(asset_uri, places)):
            add(context=context, uri=uri)
