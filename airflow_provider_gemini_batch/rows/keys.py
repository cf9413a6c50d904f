# SPDX-License-Identifier: Apache-2.0
"""Keys of rows: which member is one, what it may be, and how it travels."""

# A row is known by its member `key`, or by what the argument `key=` names:
#
#     key="key"           {"key": "a", "prompt": "..."}                       a
#     key="id"            {"id": 17, "request": {...}}                        17
#     key=["day", "id"]   {"day": "2026-11-27", "id": 17, "request": {...}}   ["2026-11-27",17]
#
# Several members make a JSON array, so that no two combinations share a key.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.rows.problems import RowProblem, kind_of, shown

KEY_PREFIX = "afgb:"
"""Before every key on Vertex AI: its importer gives number-like strings back as numbers (``"000"`` as ``0``)."""

MAX_KEY_LENGTH = 1000

_encode = msgspec.json.Encoder().encode


class KeyRule:
    """
    Where a row's key is.

    :param key: A member's name, or a list of names.
    :raises ConfigurationError: If it is neither.
    """

    def __init__(self, key: str | Sequence[str] = "key") -> None:
        names = [key] if isinstance(key, str) else key
        is_usable = isinstance(names, (list, tuple)) and all(isinstance(name, str) and name for name in names)
        if not is_usable or not names or len(set(names)) < len(names):
            raise ConfigurationError(
                f"key must name the member by which a row is known, or be a list of different members, not {key!r}."
            )
        self.names = tuple(names)
        self.is_default = key == "key" or self.names == ("key",)
        self._is_one = len(self.names) == 1

    def read(self, row: Mapping[str, Any], number: int) -> str:
        """
        Return the key of a row.

        :param number: Of the row, from 1: one without a key is ``row-<number>`` where none is asked for by name.
        :raises RowProblem: If it has none, or one that cannot be.
        """
        metadata = row.get("metadata")
        inner = metadata if isinstance(metadata, Mapping) else {}
        # Here and only here a row may go without a key, since its number stands in for it.
        if self.is_default:
            return _checked(_own_key(row, inner, number))
        if "key" not in self.names and row.get("key") is not None:
            raise RowProblem(
                f"has 'key' beside {' and '.join(map(repr, self.names))}, by which it is to be known",
                "rename 'key', or name it in key=",
            )
        parts = [_part(name, row, inner) for name in self.names]
        return _checked(_text(parts[0]) if self._is_one else _encode(parts).decode())


def _own_key(row: Mapping[str, Any], metadata: Mapping[str, Any], number: int) -> str:
    key, inner = row.get("key"), metadata.get("key")
    if key is not None and inner is not None and key != inner:
        raise RowProblem(f"'key' is {shown(key)}, but 'metadata.key' is {shown(inner)}", "keep one")
    key = inner if key is None else key
    if key is None:
        return f"row-{number}"
    if not isinstance(key, str):
        raise RowProblem(f"'key' must be a string, not {kind_of(key)}", "write it in quotes")
    if not key:
        raise RowProblem("'key' is empty", "leave it out to get one from the row's number")
    return key


def _part(name: str, row: Mapping[str, Any], metadata: Mapping[str, Any]) -> Any:
    value = row.get(name)
    if value is None:
        value = metadata.get(name)
    if value is None:
        raise RowProblem(f"has no {name!r}, by which rows are to be known", "add it, or change key=")
    # Arrays and objects have many spellings, and a boolean tells two rows apart at most: none of them is what a person
    # means by a key.
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise RowProblem(f"{name!r} must be a string or a number to be a key, not {kind_of(value)}")
    if value == "":
        raise RowProblem(f"{name!r} is empty, and rows are to be known by it")
    return value


def _text(value: Any) -> str:
    # As JSON writes it, so that a download which reads the same file finds the same text.
    return value if isinstance(value, str) else _encode(value).decode()


def _checked(key: str) -> str:
    if len(key) > MAX_KEY_LENGTH:
        raise RowProblem(f"'key' is longer than {MAX_KEY_LENGTH} characters")
    return key
