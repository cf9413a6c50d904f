# SPDX-License-Identifier: Apache-2.0
"""Which column of an input is what: its key, carried over to the table, or used by the template?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.run.input_table import ROW, Table
from airflow_provider_gemini_batch.run.prompts import BadRowError, compile_template, listed
from airflow_provider_gemini_batch.run.requests import FORM_COLUMNS, TextRequests, row_requests
from airflow_provider_gemini_batch.run.snapshot import NUMBERED_KEY
from airflow_provider_gemini_batch.run.tables import quoted, rows_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.run.spec import RunSpec


ZONED = ("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE")


@dataclass(frozen=True)
class InputColumns:
    """Which columns of an input are what."""

    keys: dict[str, str]
    kept: dict[str, str]
    used: tuple[str, ...]
    changing: tuple[str, ...] = ()

    @classmethod
    def choose(cls, spec: RunSpec, table: Table) -> InputColumns:
        """Sort the columns by what the spec asks, and refuse what cannot be."""
        present = list(table.columns)
        key = spec.key
        changing: tuple[str, ...] = ()
        if spec.prompt is not None:
            # Values for the variables do not matter yet: this finds the columns.
            template = compile_template(spec.prompt, present, _ANY, argument=spec.argument)
            used = tuple(present) if template.uses_whole_row else template.used
            asked, changing = template.used, template.changing
        else:
            used = asked = tuple(name for name in present if name in FORM_COLUMNS)
            if not used:
                raise ConfigurationError(
                    f"Give {spec.argument}, a template for each row, or rows with a column 'request', "
                    f"{spec.argument!r} or another of the row forms; the input has {', '.join(present[:20])}."
                )
            # Rows that are requests carry their key by this name in all forms (`rows/forms.py`).
            if not key and "key" in present:
                key = ("key",)
        kept = spec.keep_columns
        if kept is None:
            kept = tuple(name for name in present if name not in asked and name not in key)
        for argument, wanted in (("key", key), ("keep_columns", kept)):
            if absent := [name for name in wanted if name not in table.columns]:
                raise ConfigurationError(
                    f"{argument} names {', '.join(map(repr, absent))}, which the input does not have; it has "
                    f"{listed(present)}."
                )
        kept = tuple(name for name in kept if name not in key)
        for name in dict.fromkeys((*key, *kept, *used)):
            if name in table.mixed:
                raise ConfigurationError(
                    f"The column {name!r} holds values of several types: {table.mixed[name]}. Convert them to one, or "
                    "leave the column out by keep_columns."
                )
        if not key and NUMBERED_KEY in (name.lower() for name in kept):
            raise ConfigurationError(
                f"Rows without a key are numbered in a column {NUMBERED_KEY!r}, and the input has one: give "
                f"key={NUMBERED_KEY!r} if it identifies a row, or leave it out by keep_columns."
            )
        keys = {name: table.columns[name] for name in key}
        columns = {name: table.columns[name] for name in kept}
        # For its errors: names that clash are found before the rows are rendered.
        spec.output_columns(keys or {NUMBERED_KEY: "VARCHAR"}, columns)
        return cls(keys, columns, used, changing)

    def bodies(
        self, engine: DuckDBPyConnection, table: Table, spec: RunSpec, variables: Mapping[str, Any]
    ) -> Iterator[tuple[int, bytes | BadRowError]]:
        """Yield number and request of each row, in order; with ``on_bad_row="land"`` the reason why it has none."""
        rows = self._rows(engine, table)
        if spec.prompt is not None:
            template = compile_template(spec.prompt, self.used, variables, argument=spec.argument)
            requests = TextRequests(spec, template)
            for n, key, values in rows:
                try:
                    body: bytes | BadRowError = requests.body(values, n, key)
                except BadRowError as bad:
                    if spec.on_bad_row != "land":
                        raise
                    body = bad
                yield n, body
            return
        yield from row_requests(
            spec,
            (
                (n, key, {name: value for name, value in zip(self.used, values, strict=True) if value is not None})
                for n, key, values in rows
            ),
        )

    def _rows(self, engine: DuckDBPyConnection, table: Table) -> Iterator[tuple[int, object, list[Any]]]:
        """Yield number, key and used values of each row, as a template sees them."""
        readers = [_reader(name, table) for name in self.used]
        special = [(place, reader) for place, reader in enumerate(readers) if reader is not None]
        key = ", ".join(f"CAST({quoted(name)} AS VARCHAR)" for name in self.keys)
        shown = f"concat_ws(', ', {key})" if key else "NULL"
        values = ", ".join(
            f"CAST({quoted(name)} AS TIMESTAMP)" if table.columns[name] in ZONED else quoted(name) for name in self.used
        )
        query = f"SELECT {ROW}, {shown}, {values or 'NULL'} FROM ({table.query})"
        for expected, (n, shown_key, *found) in enumerate(rows_of(engine, query)):
            if n != expected:  # all that follows counts on it
                raise AssertionError(f"row {n} was read where {expected} was due")
            for place, reader in special:
                if found[place] is not None:
                    found[place] = reader(found[place])
            yield n, shown_key, found


class _AnyValue(dict[str, Any]):
    """Stands for the variables of a template while its columns are looked for."""

    def items(self) -> Any:
        from airflow_provider_gemini_batch.run.prompts import VARIABLES

        return dict.fromkeys(VARIABLES).items()


_ANY = _AnyValue({"row": None})


def _reader(name: str, table: Table) -> Callable[[Any], Any] | None:
    if name in table.json_columns:
        import msgspec

        return msgspec.json.Decoder().decode
    if table.columns[name] in ZONED:
        return _with_zone
    return None


def _with_zone(value: datetime) -> datetime:
    # Read without a zone, in UTC: DuckDB 1.x needs pytz for the zone.
    return value.replace(tzinfo=UTC)
