# SPDX-License-Identifier: Apache-2.0
"""The filter grammar of Vertex AI's list call, as far as batch prediction jobs have it."""

# The Developer API has no filter: there jobs are picked with this on our side, so that a DAG may change its backend.
#
# `display_name` (`= != :` with `*`), `model_display_name` and `state` (`= !=`), `create_time` (`= != < <= > >=`),
# `labels.key=value`, `labels.key:*`; `AND`, `OR`, `NOT`, parentheses. As everywhere at Google `OR` binds more tightly
# than `AND`.
#
# Sources: https://google.aip.dev/160; https://aiplatform.googleapis.com/$discovery/rest?version=v1
# (batchPredictionJobs.list, `filter`).

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

Facts = Mapping[str, Any]
"""``display_name``, ``model_display_name``, ``state`` (wire word), ``create_time`` (epoch), ``labels``."""

Predicate = Callable[[Facts], bool]

_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<sign><=|>=|!=|[=<>:()-])|(?P<word>[^\s"'=<>!:()]+))""",
    re.VERBOSE,
)
_TEXT_SIGNS = {
    "display_name": ("=", "!=", ":"),
    "model_display_name": ("=", "!="),
    "state": ("=", "!="),
    "create_time": ("=", "!=", "<", "<=", ">", ">="),
}


class FilterError(ValueError):
    """A filter that cannot be read; the text says what is wrong."""


def parse_filter(text: str) -> Predicate:
    """
    Make a predicate of a filter; an empty one keeps everything.

    :raises FilterError: If it does not follow the grammar, or names a field that cannot be filtered by.
    """
    tokens: list[tuple[str, str]] = []
    position = 0
    text = text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise FilterError(f"syntax error at {text[position:]!r}")
        position = match.end()
        kind = str(match.lastgroup)
        value = match[kind]
        tokens.append((kind, re.sub(r"\\(.)", r"\1", value[1:-1]) if kind == "quoted" else value))
    if not tokens:
        return lambda facts: True
    reader = _Reader(tokens)
    predicate = reader.expression()
    if not reader.at_end:
        raise FilterError(f"unexpected {reader.peek()[1]!r}")
    return predicate


class _Reader:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at >= len(self._tokens)

    def peek(self) -> tuple[str, str]:
        return ("end", "end of the filter") if self.at_end else self._tokens[self._at]

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self._at += 1
        return token

    def expression(self) -> Predicate:
        # Side by side means AND, as in the service's own grammar: `state="A" labels.x=1`.
        parts = [self.factor()]
        while not self.at_end and self.peek() != ("sign", ")"):
            if self.peek() == ("word", "AND"):
                self.take()
            parts.append(self.factor())
        return parts[0] if len(parts) == 1 else lambda facts: all(part(facts) for part in parts)

    def factor(self) -> Predicate:
        parts = [self.term()]
        while self.peek() == ("word", "OR"):
            self.take()
            parts.append(self.term())
        return parts[0] if len(parts) == 1 else lambda facts: any(part(facts) for part in parts)

    def term(self) -> Predicate:
        if self.peek() in (("word", "NOT"), ("sign", "-")):
            self.take()
            inner = self.term()
            return lambda facts: not inner(facts)
        if self.peek() == ("sign", "("):
            self.take()
            group = self.expression()
            if self.take() != ("sign", ")"):
                raise FilterError("a parenthesis is not closed")
            return group
        return self.comparison()

    def comparison(self) -> Predicate:
        kind, name = self.take()
        if kind != "word":
            raise FilterError(f"a field was expected, not {name!r}")
        if name == "labels." and self.peek()[0] == "quoted":
            name += self.take()[1]
        sign = self.take()
        kind, value = self.take()
        if sign[0] != "sign" or sign[1] in "()-" or kind not in ("word", "quoted"):
            raise FilterError(f"a comparison was expected after {name!r}")
        return _compare(_snake(name), sign[1], value)


def _snake(name: str) -> str:
    return name if name.startswith("labels.") else re.sub(r"(?<=[a-z])([A-Z])", lambda m: "_" + m[1].lower(), name)


def _compare(name: str, sign: str, value: str) -> Predicate:
    if name.startswith("labels."):
        key = name.removeprefix("labels.")
        if sign == ":" and value == "*":
            return lambda facts: key in facts["labels"]
        if sign in ("=", ":"):
            return lambda facts: facts["labels"].get(key) == value
        if sign == "!=":
            return lambda facts: facts["labels"].get(key) != value
        raise FilterError(f"labels cannot be compared with {sign!r}")
    if name not in _TEXT_SIGNS:
        raise FilterError(f"{name!r} is not a field that can be filtered by")
    if sign not in _TEXT_SIGNS[name]:
        raise FilterError(f"{name!r} cannot be compared with {sign!r}")
    if name == "create_time":
        try:
            # The service writes nanoseconds; Python reads six digits of a second.
            when = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", value).replace("Z", "+00:00"))
        except ValueError:
            raise FilterError(f"{value!r} is not a time") from None
        moment = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        compare: dict[str, Callable[[float], bool]] = {
            "=": lambda created: created == moment,
            "!=": lambda created: created != moment,
            "<": lambda created: created < moment,
            "<=": lambda created: created <= moment,
            ">": lambda created: created > moment,
            ">=": lambda created: created >= moment,
        }
        return lambda facts: compare[sign](facts[name])
    if sign == ":":
        # AIP-160: ":" is "has"; with "*" it is a wildcard, and without one the text must occur.
        pattern = re.compile(".*".join(map(re.escape, value.split("*"))), re.DOTALL)
        return lambda facts: (pattern.fullmatch if "*" in value else pattern.search)(facts[name]) is not None
    return lambda facts: (facts[name] == value) is (sign == "=")
