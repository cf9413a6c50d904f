# SPDX-License-Identifier: Apache-2.0
"""``spend``: what finished tasks cost by day, DAG and model, from the files of ``[gemini_batch] history_path``."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from airflow_provider_gemini_batch.errors import ConfigurationError


def add_to(commands: Any) -> None:
    """Add the command."""
    from airflow_provider_gemini_batch.cli import command

    made = command(commands, "spend", spend, "Sum up tokens and dollars of finished tasks.")
    made.add_argument("--history", default="", help="folder of manifests; default [gemini_batch] history_path")
    made.add_argument("--by", default="day,dag,model", help="any of day, dag, task, model (default: %(default)s)")
    made.add_argument("--since", default="", help="first day, e.g. 2026-11-01")
    made.add_argument("--json", action="store_true", help="print a JSON object a line")


def spend(arguments: argparse.Namespace) -> int:
    """Print a table."""
    from airflow_provider_gemini_batch.cost.spend import COLUMNS, summed
    from airflow_provider_gemini_batch.task.history import history_path, read_history

    by = [name.strip() for name in arguments.by.split(",") if name.strip()]
    wrong = [name for name in by if name not in COLUMNS]
    if wrong or not by:
        raise ConfigurationError(f"--by takes {', '.join(COLUMNS)}, not {', '.join(wrong) or 'nothing'}.")
    rows = summed(read_history(arguments.history, since=arguments.since), by)
    if not rows:
        since = f" since {arguments.since}" if arguments.since else ""
        print(f"No finished task is in {arguments.history or history_path()}{since}.", file=sys.stderr)
    # An object a line, for `jq` and for loading into a table.
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
        return 0
    heads = [*by, "rows", "input tokens", "output tokens", "USD", "rows of unknown cost"]
    heads += ["USD in single calls", "USD saved"]
    print("\t".join(heads))
    for row in rows:
        cost = "unknown" if row["unknown"] and not row["cost"] else f"{row['cost']:.4f}"
        numbers = [row["rows"], row["input_tokens"], row["output_tokens"], cost, row["unknown"]]
        numbers += [f"{row['single_calls']:.4f}", f"{row['saved']:.4f}"]
        print("\t".join(str(each) for each in [*(row[name] for name in by), *numbers]))
    return 0
