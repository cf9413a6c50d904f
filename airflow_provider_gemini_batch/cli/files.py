# SPDX-License-Identifier: Apache-2.0
"""``validate FILE`` and ``plan FILE``: nothing is changed, and no network but for a plan with a connection."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any, get_args

from airflow_provider_gemini_batch.api.models import BackendName
from airflow_provider_gemini_batch.errors import ConfigurationError, InputNotFoundError


def add_to(commands: Any) -> None:
    """Add the commands."""
    from airflow_provider_gemini_batch.cli import command

    checked = command(commands, "validate", validate, "Name every row of a file that cannot be sent, with the way out.")
    _add_rows(checked)
    planned = command(commands, "plan", plan, "Say what the rows of a file will cost, as a range.")
    _add_rows(planned)
    planned.add_argument("--max-output-tokens", type=int, help="maxOutputTokens of rows that do not set it themselves")
    planned.add_argument("--prices", help="a file with prices of your own, as [gemini_batch] prices_path names it")
    planned.add_argument(
        "--conn-id", default="", help="count the tokens of up to 16 rows with Airflow's connection of this id, for free"
    )
    planned.add_argument("--json", action="store_true", help="print the estimate as JSON")


def _add_rows(made: argparse.ArgumentParser) -> None:
    made.add_argument("file", help="JSONL: a path or an object-storage URI")
    made.add_argument("--model", default="", help="e.g. gemini-3.5-flash-lite")
    made.add_argument("--kind", choices=("generate", "embed"), default="generate")
    made.add_argument("--backend", choices=get_args(BackendName), default="gemini")
    made.add_argument("--key", action="append", help="the member by which a row is known; may be repeated")


def _measured(arguments: argparse.Namespace, **settings: Any) -> Any:
    from airflow_provider_gemini_batch.client.measure import measure
    from airflow_provider_gemini_batch.files.kinds import open_lines
    from airflow_provider_gemini_batch.files.paths import normalise_path
    from airflow_provider_gemini_batch.rows.line_batches import file_blocks
    from airflow_provider_gemini_batch.rows.settings import RowSettings

    keys = arguments.key or ["key"]
    chosen = RowSettings(
        kind=arguments.kind,
        backend=arguments.backend,
        model=arguments.model,
        key=keys[0] if len(keys) == 1 else keys,
        **settings,
    )
    _check_kind(arguments.file)
    try:
        file, _ = open_lines(normalise_path(arguments.file, "file"))
    except InputNotFoundError:
        # In a task a retry may help, since shared disks show files late; at a prompt nobody waits for that.
        raise ConfigurationError(f"There is no file {arguments.file}.") from None
    with file:
        return measure((line for block in file_blocks(file) for line in block), chosen)


def _check_kind(name: str) -> None:
    """Say of a table how its rows are checked and estimated: they have no requests before a prompt is rendered."""
    if name.lower().removesuffix(".gz").removesuffix(".zst").endswith((".csv", ".parquet")):
        raise ConfigurationError(
            f"{name}: rows of a table become requests by a prompt. RunBatchOperator(input_path=..., prompt=..., "
            "dry_run=True), or GeminiBatchHook().run_batch(...) with the same arguments, checks and estimates them "
            "without sending anything; this command reads JSONL."
        )


def _say_meant(model: str) -> None:
    from airflow_provider_gemini_batch.cost.prices import model_meant

    meant = model_meant(model) if model else None
    if meant is not None:
        print(f"{model} is not known here; did you mean {meant}?", file=sys.stderr)


def validate(arguments: argparse.Namespace) -> int:
    """Print a line for each row that cannot be sent, and a sum."""
    found = _measured(arguments)
    _say_meant(arguments.model)
    for fault in found.checked.faults:
        print(f"{arguments.file}: {fault}")
    more = found.refused - len(found.checked.faults)
    if more:
        print(f"... and {more} more")
    for advice in _advice(arguments, found):
        print(f"{arguments.file}: note: {advice.text}")
    if not found.rows and not found.refused:
        print(f"{arguments.file}: there are no rows.")
        return 1
    for problem in found.checked.problems:
        print(f"{arguments.file}: {problem}")
    print(f"{found.rows + found.refused} rows: {found.rows} can be sent, {found.refused} cannot.")
    # So that a pipeline can stop at it.
    return 1 if found.refused or found.checked.problems else 0


def _advice(arguments: argparse.Namespace, found: Any) -> Iterator[Any]:
    """Yield what a submission would warn about."""
    from airflow_provider_gemini_batch.client.advice import row_advice, settings_advice

    yield from row_advice(found.checked.report, arguments.backend)
    if arguments.model:
        yield from settings_advice(arguments.model, found.checked.report)


class _Told:
    """Tells a person what a log would."""

    def info(self, text: str, /, *values: Any) -> None:
        print(text % values, file=sys.stderr)

    warning = info


def _client(arguments: argparse.Namespace) -> Any:
    """Return a client that may count tokens, or None; its backend is the one that the rows are checked for."""
    if not arguments.conn_id:
        return None
    from airflow_provider_gemini_batch.cli import hook

    client = hook(arguments.conn_id).client
    arguments.backend = client.backend.name
    return client


def plan(arguments: argparse.Namespace) -> int:
    """Print what the rows will cost."""
    from airflow_provider_gemini_batch.client.counting import with_counts
    from airflow_provider_gemini_batch.cost.estimate import estimate
    from airflow_provider_gemini_batch.cost.prices import PriceList, read_price_file
    from airflow_provider_gemini_batch.cost.ranges import money

    if not arguments.model:
        raise ConfigurationError("plan wants --model, e.g. --model gemini-3.5-flash-lite.")
    own = []
    if arguments.prices:
        with open(arguments.prices, encoding="utf-8") as file:
            own = read_price_file(file.read(), arguments.prices)
    settings: dict[str, Any] = {}
    if arguments.max_output_tokens is not None:
        settings["generation_config"] = {"maxOutputTokens": arguments.max_output_tokens}
    client = _client(arguments)
    found = _measured(arguments, **settings)
    if found.refused:
        print(f"{found.refused} rows cannot be sent; `validate` names them.", file=sys.stderr)
    if not found.rows:
        print("No row can be sent." if found.refused else f"{arguments.file}: there are no rows.", file=sys.stderr)
        return 1
    _say_meant(arguments.model)
    measure = found.input()
    if client is not None:
        measure = with_counts(client, arguments.model, measure, found.sample, _Told())
    result = estimate(PriceList(own), arguments.model, measure, embeds=arguments.kind == "embed")
    if arguments.json:
        print(json.dumps(result.to_json(), indent=2))
        return 1 if found.refused else 0
    print(result.line())
    if result.dollars is not None and result.single is not None and result.single.high is not None:
        print(f"In single calls: at most {money(result.single.high)}.")
    return 1 if found.refused else 0
