# SPDX-License-Identifier: Apache-2.0
"""What Vertex AI's importer makes of an input file: one column a JSON path, as a BigQuery load does."""

# `Columns.add` sees each row and raises `ImportProblem` for what fails a whole job: a path that holds an array here and
# an object there, objects nested deeper than 15 levels, names that no column may have, empty objects, and null under
# some names. `Columns.echo` gives a row back as the service does: with null for every column that other rows fill,
# arrays and structs beside `request` emptied, and strings that look like numbers as numbers where the whole column does
# (each of the last two behind a knob).
#
# The rules were reported from runs of the service (August and September 2026, https://github.com/OpenRouterTeam/docs,
# batch research on Vertex; https://github.com/googleapis/go-genai/issues/513); Google does not document them. Whether
# an array counts as a level of nesting is not known; here it does not.

from __future__ import annotations

import re
from typing import Any

MAX_DEPTH = 15
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,299}")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


class ImportProblem(Exception):
    """The whole file is refused; the text says why."""


class _Column:
    """One path: what it holds, and its members."""

    __slots__ = ("items", "kind", "members", "numeric")

    def __init__(self) -> None:
        self.kind = ""
        self.members: dict[str, _Column] = {}
        self.items: _Column | None = None
        self.numeric = True


class Columns:
    """
    The columns of a file, found row by row.

    :param null_names: Names under which an explicit null fails the import.
    """

    def __init__(self, null_names: frozenset[str] = frozenset({"enum"})) -> None:
        self._root = _Column()
        self._null_names = null_names

    def add(self, row: dict[str, Any]) -> None:
        """
        Take a row in.

        :raises ImportProblem: If the importer would refuse the file for it.
        """
        self._object(self._root, row, 0, "")

    def _object(self, column: _Column, value: dict[str, Any], depth: int, path: str) -> None:
        if depth > MAX_DEPTH:
            raise ImportProblem(f"Field {path} is nested too deeply: at most {MAX_DEPTH} levels are allowed.")
        if not value and path:
            raise ImportProblem(f"Unsupported empty struct type for field '{path}'.")
        for name, member in value.items():
            where = f"{path}.{name}" if path else name
            if not NAME.fullmatch(name):
                raise ImportProblem(
                    f'Invalid field name "{name}" in {where}. Fields must contain only letters, numbers, and '
                    "underscores, start with a letter or underscore, and be at most 300 characters long."
                )
            if member is None:
                if name in self._null_names:
                    raise ImportProblem(f"Field {where} must not be null.")
                # A null makes a column without saying of what type; it comes back as null in every other row.
                column.members.setdefault(name, _Column())
                continue
            below = column.members.get(name)
            if below is None:
                below = column.members[name] = _Column()
            self._value(below, member, depth + 1, where)

    def _value(self, column: _Column, value: Any, depth: int, path: str) -> None:
        kind = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else "scalar"
        if column.kind and column.kind != kind:
            if "array" in (kind, column.kind):
                raise ImportProblem(f"Repeated field must be imported as a JSON array. Field: {path}.")
            raise ImportProblem(f"This field: {path} is not a record in one row and is one in another.")
        # The first row that holds a path decides its type, and every later one has to fit.
        column.kind = kind
        if kind == "object":
            self._object(column, value, depth, path)
        elif kind == "array":
            items = column.items = column.items or _Column()
            for entry in value:
                if entry is None:
                    raise ImportProblem(f"Only optional fields can be set to NULL. Field: {path}; Value: NULL")
                # A list of objects is a repeated record: the objects count as the level, the list does not.
                self._value(items, entry, depth, path)
        elif column.numeric and not (
            (isinstance(value, (int, float)) and not isinstance(value, bool))
            or (isinstance(value, str) and NUMBER.fullmatch(value))
        ):
            column.numeric = False

    @property
    def siblings(self) -> list[str]:
        """Top-level names beside ``request``, in order of appearance."""
        return [name for name in self._root.members if name != "request"]

    def has(self, name: str) -> bool:
        """Whether any row has this top-level name."""
        return name in self._root.members

    def echo(self, row: dict[str, Any], *, coerce: bool, empty_containers: bool) -> dict[str, Any]:
        """Return *row* as the service writes it beside its answer."""
        out: dict[str, Any] = {}
        for name, column in self._root.members.items():
            value = row.get(name)
            if name == "request":
                out[name] = _filled(column, value)
            elif isinstance(value, (dict, list)):
                # Reported: arrays and objects beside the request come back, and are empty.
                out[name] = type(value)() if empty_containers else value
            # One row with a letter in it keeps the whole column text; so a key like "007" survives only by luck.
            elif coerce and column.numeric and isinstance(value, str):
                number = float(value)
                out[name] = int(number) if number.is_integer() else number
            else:
                out[name] = value
        return out


def _filled(column: _Column, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _filled(member, value.get(name)) for name, member in column.members.items()}
    if isinstance(value, list) and column.items is not None:
        return [_filled(column.items, entry) for entry in value]
    return value
