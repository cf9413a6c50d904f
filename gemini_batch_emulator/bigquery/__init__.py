# SPDX-License-Identifier: Apache-2.0
"""The part of BigQuery that batch jobs need: tables to read rows from and to write results to."""

from gemini_batch_emulator.bigquery.store import TableStore, split_table, table_store

__all__ = ["TableStore", "split_table", "table_store"]
