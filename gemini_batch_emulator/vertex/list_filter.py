# SPDX-License-Identifier: Apache-2.0
"""The ``filter`` of Vertex AI's job list: a reader of AIP-160 and the fields that batch prediction jobs document."""

# The grammar, from https://google.aip.dev/assets/misc/ebnf-filtering.txt, without functions and bare words, which the
# list call has no meaning for:
#
#     expression  = sequence { "AND" sequence }          # AND binds least
#     sequence    = factor { factor }                    # side by side: all of them
#     factor      = term { "OR" term }                   # OR binds more tightly than AND
#     term        = [ "NOT" | "-" ] simple
#     simple      = restriction | "(" expression ")"
#     restriction = field comparator argument
#
# Worked example: `state="A" AND display_name="x" OR display_name:"y*"` reads as `state="A" AND (display_name="x" OR
# display_name:"y*")`.
#
#   field                 comparators       argument
#   --------------------  ----------------  ------------------------------------------
#   `display_name`        `= != :`          text; `*` stands for anything in `:`
#   `model_display_name`  `= !=`            text
#   `state`               `= !=`            `JOB_STATE_...`
#   `create_time`         `= != < <= > >=`  RFC 3339
#   `labels.<key>`        `= != :`          text; `:*` asks whether the label is there
#
# Source of the fields: https://aiplatform.googleapis.com/$discovery/rest?version=v1, `batchPredictionJobs.list`.

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Test = Callable[[Mapping[str, Any]], bool]
"""Says whether a job is kept; sees ``display_name``, ``model_display_name``, ``state``, ``create_time`` (epoch seconds)
and ``labels``."""

_LEXEME = re.compile(r"\s*(?:([()])|(<=|>=|!=|[=<>:])|\"((?:\\.|[^\"\\])*)\"|'((?:\\.|[^'\\])*)'|([^\s()<>=!:\"']+))")
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class BadFilter(ValueError):
    """The filter cannot be read; the text says why."""


@dataclass(frozen=True)
class _Lexeme:
    """One piece of the text: ``paren``, ``comparator``, ``quoted`` or ``bare``."""

    kind: str
    text: str

    def is_word(self, word: str) -> bool:
        return self.kind == "bare" and self.text == word


_END = _Lexeme("end", "")


def read_filter(text: str) -> Test:
    """
    Read a filter.

    :return: The test; an empty filter keeps every job.
    :raises BadFilter: If it breaks the grammar, or names a field or comparator that the list call does not have.
    """
    lexemes = _lexemes(text)
    if not lexemes:
        return lambda job: True
    parser = _Parser(lexemes)
    test = parser.expression()
    if parser.next is not _END:
        raise BadFilter(f"unexpected '{parser.next.text}'")
    return test


def _lexemes(text: str) -> list[_Lexeme]:
    found = []
    position = 0
    while text[position:].strip():
        match = _LEXEME.match(text, position)
        if match is None:
            raise BadFilter(f"cannot read '{text[position:].strip()}'")
        paren, comparator, double, single, bare = match.groups()
        position = match.end()
        if paren is not None:
            found.append(_Lexeme("paren", paren))
        elif comparator is not None:
            found.append(_Lexeme("comparator", comparator))
        elif bare is not None:
            # A minus right before a restriction negates it; within a word it is a part of the word.
            if bare.startswith("-") and (not found or found[-1].kind != "comparator"):
                found.append(_Lexeme("bare", "-"))
                bare = bare[1:]
            found += [_Lexeme("bare", bare)] if bare else []
        else:
            quoted = double if double is not None else single
            found.append(_Lexeme("quoted", re.sub(r"\\(.)", r"\1", quoted)))
    return found


class _Parser:
    """Recursive descent, one method a rule of the grammar."""

    def __init__(self, lexemes: list[_Lexeme]) -> None:
        self._rest = lexemes[::-1]

    @property
    def next(self) -> _Lexeme:
        return self._rest[-1] if self._rest else _END

    def _take(self) -> _Lexeme:
        return self._rest.pop() if self._rest else _END

    def expression(self) -> Test:
        tests = [self._sequence()]
        while self.next.is_word("AND"):
            self._take()
            tests.append(self._sequence())
        return lambda job: all(test(job) for test in tests)

    def _sequence(self) -> Test:
        tests = [self._factor()]
        while not (self.next is _END or self.next.is_word("AND") or self.next == _Lexeme("paren", ")")):
            tests.append(self._factor())
        return lambda job: all(test(job) for test in tests)

    def _factor(self) -> Test:
        tests = [self._term()]
        while self.next.is_word("OR"):
            self._take()
            tests.append(self._term())
        return lambda job: any(test(job) for test in tests)

    def _term(self) -> Test:
        if self.next.is_word("NOT") or self.next.is_word("-"):
            self._take()
            test = self._simple()
            return lambda job: not test(job)
        return self._simple()

    def _simple(self) -> Test:
        if self.next != _Lexeme("paren", "("):
            return self._restriction()
        self._take()
        test = self.expression()
        if self._take() != _Lexeme("paren", ")"):
            raise BadFilter("')' is missing")
        return test

    def _restriction(self) -> Test:
        field = self._take()
        if field.kind != "bare":
            raise BadFilter(f"a field is expected instead of '{field.text}'")
        name = field.text
        if name.endswith(".") and self.next.kind == "quoted":
            name += self._take().text
        comparator, argument = self._take(), self._take()
        if comparator.kind != "comparator" or argument.kind not in ("bare", "quoted"):
            raise BadFilter(f"'{name}' needs a comparator and a value")
        return _restriction(name, comparator.text, argument.text)


def _restriction(name: str, comparator: str, argument: str) -> Test:
    if name.startswith("labels."):
        return _label_test(name.removeprefix("labels."), comparator, argument)
    field = re.sub(r"[A-Z]", lambda letter: "_" + letter[0].lower(), name)
    if field == "create_time" and comparator in _ORDER:
        moment, compare = _moment(argument), _ORDER[comparator]
        return lambda job: compare(job["create_time"], moment)
    if field in ("display_name", "model_display_name", "state") and comparator in ("=", "!="):
        compare = _ORDER[comparator]
        return lambda job: compare(job[field], argument)
    if field == "display_name" and comparator == ":":
        return _has_test(argument)
    if field not in ("create_time", "display_name", "model_display_name", "state"):
        raise BadFilter(f"there is no field '{name}' to filter by")
    raise BadFilter(f"'{name}' has no comparator '{comparator}'")


def _label_test(key: str, comparator: str, argument: str) -> Test:
    if comparator == ":" and argument == "*":
        return lambda job: key in job["labels"]
    if comparator in ("=", ":"):
        return lambda job: job["labels"].get(key) == argument
    if comparator == "!=":
        return lambda job: job["labels"].get(key) != argument
    raise BadFilter(f"labels have no comparator '{comparator}'")


def _has_test(argument: str) -> Test:
    """``:`` on text is "has": the argument occurs in it, or with ``*`` stands for the whole."""
    if "*" not in argument:
        return lambda job: argument in job["display_name"]
    pattern = re.compile("(?s:" + ".*".join(re.escape(piece) for piece in argument.split("*")) + ")")
    return lambda job: pattern.fullmatch(job["display_name"]) is not None


def _moment(text: str) -> float:
    try:
        # Nanoseconds are more than datetime takes.
        when = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    except ValueError:
        raise BadFilter(f"'{text}' is not a time in RFC 3339") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
