# SPDX-License-Identifier: Apache-2.0
"""The service's own names in camelCase, and one object where a list of one is meant as that list."""

# The service takes both spellings; Vertex AI's importer makes one column of each. So a name is rewritten, but only
# where `messages.py` says that it is the service's own at that very place:
#
#     {"generation_config": {"response_schema": {"any_of": [...], "properties": {"unit_price": {"max_length": "5"}}}}}
#     {"generationConfig":  {"responseSchema":  {"anyOf":  [...], "properties": {"unit_price": {"maxLength":  "5"}}}}}
#
# `unit_price` is a property of the caller's, and stays. So does everything below a function's `args`, a label, a
# header, a definition's name, and whatever is not in the table.

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from airflow_provider_gemini_batch.rows.messages import JSON_SCHEMA_ONLY, MESSAGES, snake
from airflow_provider_gemini_batch.rows.problems import RowProblem


class _Member(NamedTuple):
    name: str
    message: str
    is_list: bool
    is_map: bool
    is_foreign: bool


class Unknown(NamedTuple):
    """
    A member that is not known at its place.

    :param path: Where it is, e.g. ``generationConfig.responseSchema.type_``.
    :param meant: What may be meant, or an empty string.
    """

    path: str
    meant: str


def _members(of: str, fields: Mapping[str, str]) -> dict[str, _Member]:
    """Return what each spelling of a message's members stands for."""
    found = {}
    for name, kind in fields.items():
        message = kind.removeprefix("{}").removesuffix("[]")
        is_foreign = of == "Schema" and name in JSON_SCHEMA_ONLY
        member = _Member(
            name, "" if message == "own" else message, kind.endswith("[]"), kind.startswith("{}"), is_foreign
        )
        # Both spellings lead to one member, so that a row which has both is noticed.
        found[name] = found[snake(name)] = member
    return found


_MEMBERS = {name: _members(name, fields) for name, fields in MESSAGES.items()}
# Exact types, as most values are one of these; a subclass (an enum, a numpy number) takes the long way and is checked
# there.
_PLAIN = frozenset({str, int, bool, type(None)})


def to_wire(value: Mapping[str, Any], message: str, unknown: set[tuple[str, str]] | None = None) -> dict[str, Any]:
    """
    Return *value*, a message of that name, as the service spells it.

    :param unknown: Takes in the message and name of each member that is not known at its place.
    :raises RowProblem: If a member is there in both spellings, or a value is none of JSON.
    """
    members = _MEMBERS[message]
    out: dict[str, Any] = {}
    for name, given in value.items():
        member = members.get(name)
        if member is None:
            if not isinstance(name, str):
                raise RowProblem(f"the name {name!r} is not a string")
            new, made = name, given if type(given) in _PLAIN else _checked(given)
        else:
            new = member.name
            made = given if type(given) in _PLAIN else _value(given, member, unknown)
        # Sent all the same: the table is as old as this version, and the service's own keeps growing.
        if unknown is not None and (member is None or member.is_foreign):
            unknown.add((message, name))
        if new in out:
            raise RowProblem(f"{new!r} is there twice, in two spellings", "keep one")
        out[new] = made
    return out


def _value(given: Any, member: _Member, unknown: set[tuple[str, str]] | None) -> Any:
    if not member.message:
        return _checked(given)
    if member.is_map:
        if not isinstance(given, Mapping):
            return _checked(given)
        # The names are the caller's own, for instance those of a schema's properties: they are not ours to spell.
        return {name: _message(entry, member.message, unknown) for name, entry in given.items()}
    if isinstance(given, (list, tuple)):
        return [_message(entry, member.message, unknown) for entry in given]
    made = _message(given, member.message, unknown)
    # Google's own samples write {"parts": {"text": "..."}}, and its services take it.
    return [made] if member.is_list and isinstance(made, dict) else made


def _message(given: Any, message: str, unknown: set[tuple[str, str]] | None) -> Any:
    return to_wire(given, message, unknown) if isinstance(given, Mapping) else _checked(given)


def _checked(value: Any) -> Any:
    """Return data of the caller's with its lists as lists; refuse what JSON does not know."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise RowProblem(f"the name {name!r} is not a string")
        return {name: _checked(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_checked(entry) for entry in value]
    if isinstance(value, (set, frozenset)):
        # Its order differs from process to process, and with it what is computed and the digest of it.
        raise RowProblem("a set has no order", "write a list")
    # Python would write NaN, which no other reader of JSON takes: the service would refuse the whole file.
    if isinstance(value, float) and not math.isfinite(value):
        raise RowProblem(f"{value} is no number of JSON")
    return value


def unknown_members(value: Any, message: str, path: str = "") -> Iterator[Unknown]:
    """
    Yield what *value* holds, at any depth, that the service is not known to know at its place.

    A newer service may know it, so it is no error.
    """
    if isinstance(value, (list, tuple)):
        for number, entry in enumerate(value):
            yield from unknown_members(entry, message, f"{path}[{number}]")
        return
    if not isinstance(value, Mapping):
        return
    members = _MEMBERS[message]
    for name, given in value.items():
        where = f"{path}.{name}" if path else str(name)
        member = members.get(name)
        if member is None:
            yield Unknown(where, guess(name, message))
            continue
        if member.is_foreign:
            yield Unknown(where, "responseJsonSchema in place of responseSchema")
        if member.is_map and isinstance(given, Mapping):
            for own, entry in given.items():
                yield from unknown_members(entry, member.message, f"{where}.{own}")
        elif member.message:
            yield from unknown_members(given, member.message, where)


def guess(name: object, message: str) -> str:
    """Return the member that may be meant, or an empty string."""
    return next(iter(get_close_matches(str(name).strip("_"), MESSAGES[message], 1)), "")
