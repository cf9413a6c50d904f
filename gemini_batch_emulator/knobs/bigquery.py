# SPDX-License-Identifier: Apache-2.0
"""Knobs of BigQuery."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class BigQueryKnobs:
    """
    What exists.

    :param bigquery_any_dataset: Every dataset exists; else those that were created, and ``emulator``.
    """

    bigquery_any_dataset: bool = False
