# SPDX-License-Identifier: Apache-2.0
"""The ``fields`` parameter: partial responses; https://cloud.google.com/storage/docs/json_api#partial-response."""

from __future__ import annotations

import re
from typing import Any

from gemini_batch_emulator.answering.requests import snake


class FieldSelectionError(ValueError):
    """A ``fields`` parameter that cannot be read."""


def select_fields(value: Any, selection: str) -> Any:
    """
    Keep only what a ``fields`` parameter asks for.

    :param selection: E.g. ``operations(name,metadata/state),nextPageToken`` or ``*``.
    :raises FieldSelectionError: If it cannot be read.

    Source: https://cloud.google.com/storage/docs/json_api#partial-response.
    """
    mask, position = _read_selection(selection.replace(" ", ""), 0)
    if position != len(selection.replace(" ", "")):
        raise FieldSelectionError(f"Invalid field selection {selection}")
    return _apply(value, mask)


def _read_selection(text: str, position: int) -> tuple[dict[str, Any], int]:
    mask: dict[str, Any] = {}
    while True:
        path = []
        while True:
            found = re.compile(r"[^,()/]+").match(text, position)
            if not found:
                raise FieldSelectionError(f"Invalid field selection {text}")
            path.append(found.group(0))
            position = found.end()
            if position < len(text) and text[position] == "/":
                position += 1
                continue
            break
        inner: dict[str, Any] = {}
        if position < len(text) and text[position] == "(":
            inner, position = _read_selection(text, position + 1)
            if position >= len(text) or text[position] != ")":
                raise FieldSelectionError(f"Invalid field selection {text}")
            position += 1
        node = mask
        for name in path[:-1]:
            node = node.setdefault(name, {})
        # Two selections of one member add up: `a/b,a/c` is `a(b,c)`.
        node.setdefault(path[-1], {}).update(inner)
        if position < len(text) and text[position] == ",":
            position += 1
            continue
        return mask, position


def _apply(value: Any, mask: dict[str, Any]) -> Any:
    if not mask:
        return value
    if isinstance(value, list):
        return [_apply(item, mask) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for name, item in value.items():
        # Either spelling, as in requests.
        wanted = mask.get(name, mask.get(snake(name), mask.get("*")))
        if wanted is not None:
            kept[name] = _apply(item, wanted)
    return kept
