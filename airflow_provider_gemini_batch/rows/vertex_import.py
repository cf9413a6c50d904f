# SPDX-License-Identifier: Apache-2.0
"""Vertex AI's importer: what it refuses, found before a job exists."""

# It loads a file as BigQuery loads JSON, infers one type for each path over all rows, and one odd row fails the whole
# job after minutes or hours. For example, with `stopSequences` a list in line 1 and a text in line 2:
#
#     {"request": {"generationConfig": {"stopSequences": ["x"]}}}    the path becomes an array
#     {"request": {"generationConfig": {"stopSequences": "x"}}}      "Repeated field must be imported as a JSON array"
#
# Sources: runs reported in https://github.com/OpenRouterTeam/docs (batch research on Vertex, September 2026) and
# https://cloud.google.com/bigquery/docs/loading-data-cloud-storage-json; Google does not document the importer.

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from airflow_provider_gemini_batch.rows.problems import RowProblem, kind_of

MAX_DEPTH = 15

_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,299}")
# Leaving these out when empty says the same as sending them. An empty tool (``googleSearch: {}``) does not.
_HARMLESS_EMPTY = frozenset(
    {
        "properties",
        "args",
        "generationConfig",
        "labels",
        "thinkingConfig",
        "toolConfig",
        "functionCallingConfig",
        "response",
        "embed_content_config",
        "speechConfig",
        "imageConfig",
        "videoMetadata",
    }
)
_DATA_IN = {"functionCall": "args", "functionResponse": "response"}
"""Which member of a message holds data of the caller's."""
_OURS = frozenset({"key", "request", "content"})
# Columns of the output: https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/capabilities/
# batch-inference/new-job-from-bigquery
_RESERVED = frozenset(
    {
        "key",
        "request",
        "response",
        "status",
        "processed_time",
        "instance",
        "predictions",
        "content",
        "error",
        "metadata",
    }
)


class _Column:
    __slots__ = ("items", "kind", "line", "members", "spellings")

    def __init__(self) -> None:
        self.kind = ""
        self.line = 0
        self.members: dict[str, _Column] = {}
        self.spellings: dict[str, str] = {}
        self.items: _Column | None = None


class VertexImportCheck:
    """
    The importer's rules over all rows of a file; :meth:`add` sees each row once, in order.

    One kind (object, array or plain value) a path, at most 15 levels, names that a BigQuery column may have, no empty
    objects, no arrays in arrays. A null fits every kind. Rows come here after :func:`clean_for_import`.
    """

    def __init__(self) -> None:
        self._root = _Column()
        self._undo: list[Callable[[], object]] = []

    def add(self, row: Mapping[str, Any], line: int) -> None:
        """
        Take a row in. A row that is refused leaves no trace: it may be left out of the file.

        :raises RowProblem: If the importer would refuse the whole file because of it.
        """
        # Kept for one row at a time: a step for each column that the row was the first to show, so that undoing costs
        # as much as the row did.
        self._undo.clear()
        try:
            self._object(self._root, row, 0, "", line)
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Forget the last row."""
        for step in reversed(self._undo):
            step()
        self._undo.clear()

    def _object(self, column: _Column, value: Mapping[str, Any], depth: int, path: str, line: int) -> None:
        if depth > MAX_DEPTH:
            raise RowProblem(
                f"{path} lies deeper than {MAX_DEPTH} levels, which Vertex AI's importer refuses", "flatten it"
            )
        if not value and path:
            raise RowProblem(
                f"{path} is an empty object, which Vertex AI's importer refuses for the whole file", _instead(path)
            )
        for name, member in value.items():
            where = f"{path}.{name}" if path else name
            below = column.members.get(name)
            if below is None:
                below = self._new_column(column, name, where)
            self._value(below, member, depth + 1, where, line)

    def _new_column(self, column: _Column, name: str, where: str) -> _Column:
        if not _COLUMN.fullmatch(name):
            raise RowProblem(
                f"the name {name!r} in {where} cannot be a column of Vertex AI's importer",
                "letters, digits and _ only, not beginning with a digit, at most 300 characters",
            )
        # Columns know no case.
        lower = name.lower()
        other = column.spellings.get(lower)
        if other is not None and other != name:
            raise RowProblem(f"{where} and {other!r} differ in case alone, which makes them one column", "rename one")
        if other is None:
            column.spellings[lower] = name
            self._undo.append(lambda: column.spellings.pop(lower))
        new = column.members[name] = _Column()
        self._undo.append(lambda: column.members.pop(name))
        return new

    def _value(self, column: _Column, value: Any, depth: int, path: str, line: int) -> None:
        # A null says nothing of a type: the importer takes it for any column. Inside an array it does not, see below.
        if value is None:
            return
        kind = "an object" if isinstance(value, Mapping) else "an array" if isinstance(value, list) else "a plain value"
        # The caller's own columns come back typed: text in one row and a number in another would return as one of them.
        if depth == 1 and path not in _OURS:
            kind = kind_of(value)
        if not column.kind:
            column.kind, column.line = kind, line
            self._undo.append(lambda: setattr(column, "kind", ""))
        elif column.kind != kind:
            raise RowProblem(
                f"{path} is {kind} here and {column.kind} in line {column.line}; Vertex AI's importer wants one kind "
                "in the whole file",
                "write it alike in all rows, or use two jobs",
            )
        if isinstance(value, Mapping):
            self._object(column, value, depth, path, line)
        elif isinstance(value, list):
            self._array(column, value, depth, path, line)

    def _array(self, column: _Column, value: list[Any], depth: int, path: str, line: int) -> None:
        items = column.items
        if items is None:
            items = column.items = _Column()
        for entry in value:
            if isinstance(entry, list):
                raise RowProblem(f"{path} holds an array in an array, which Vertex AI's importer refuses", "flatten it")
            if entry is None:
                raise RowProblem(f"{path} holds null, which Vertex AI's importer refuses in an array", "leave it out")
            self._value(items, entry, depth, f"{path}[]", line)


def _instead(path: str) -> str:
    """Return what to do about an empty object."""
    if path.endswith((".googleSearch", ".google_search")):
        return 'write {"google_search": {"timeRangeFilter": null}}, which it takes, or use the Developer API'
    return "give it a member, or use the Developer API"


def clean_for_import(value: Any) -> Any:
    """
    Return *value* without the nulls and empty objects that mean nothing, as Vertex AI's importer needs.

    An object that holds nothing but nulls stays as it is: ``{"google_search": {"timeRangeFilter": null}}`` switches the
    search on, and is the form that jobs there run with (https://github.com/googleapis/python-genai/issues/2123).
    """
    if isinstance(value, Mapping):
        out = {}
        for name, member in value.items():
            if member is None:
                continue
            cleaned = clean_for_import(member)
            data = _DATA_IN.get(name)
            if data is not None and isinstance(cleaned, dict) and member.get(data):
                cleaned[data] = member[data]  # the caller's own, whose nulls may mean something
            # It held nothing but nulls. Where an empty object means something, it stays as it was given.
            if cleaned == {} and isinstance(cleaned, dict):
                if name in _HARMLESS_EMPTY:
                    continue
                cleaned = dict(member)
            out[name] = cleaned
        return out
    if isinstance(value, list):
        return [
            entry if isinstance(entry, Mapping) and not cleaned else cleaned
            for entry, cleaned in zip(value, map(clean_for_import, value), strict=True)
        ]
    return value


def own_columns(own: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return those members of a caller's row that the importer gives back: plain values under names of columns.

    Arrays and objects come back empty (https://github.com/googleapis/go-genai/issues/513).
    """
    return {
        name: value
        for name, value in own.items()
        if isinstance(value, (str, int, float, bool)) and name.lower() not in _RESERVED and _COLUMN.fullmatch(name)
    }
