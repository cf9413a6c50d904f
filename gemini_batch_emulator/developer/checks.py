# SPDX-License-Identifier: Apache-2.0
"""What the Developer API refuses before a job exists, row by row."""

# Every line of a file is checked, in blocks: lines of the common shape pass in one call, the others are looked at one
# by one and told with their number and column.

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from gemini_batch_emulator.answering.requests import input_tokens, member
from gemini_batch_emulator.developer import openai
from gemini_batch_emulator.errors import GoogleError
from gemini_batch_emulator.messages import unknown_member
from gemini_batch_emulator.rows import blocks, common_lines

if TYPE_CHECKING:
    from pathlib import Path

MAX_LINE_ERRORS = 100


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


GENERATE_FIELDS = _names(
    "contents systemInstruction tools toolConfig safetySettings generationConfig cachedContent model "
    "labels serviceTier store"
)
EMBED_FIELDS = _names("content model taskType title outputDimensionality embedContentConfig")
CONFIG_FIELDS = _names(
    "stopSequences responseMimeType responseSchema responseJsonSchema responseModalities responseFormat "
    "candidateCount maxOutputTokens temperature topP topK seed presencePenalty frequencyPenalty "
    "responseLogprobs logprobs enableEnhancedCivicAnswers speechConfig thinkingConfig imageConfig "
    "mediaResolution routingConfig modelSelectionConfig audioTimestamp enableAffectiveDialog "
    "translationConfig"
)
SCHEMA_FIELDS = _names(
    "type format title description nullable enum items minItems maxItems properties required minProperties "
    "maxProperties minLength maxLength pattern example anyOf propertyOrdering default minimum maximum "
    "additionalProperties oneOf allOf const prefixItems uniqueItems exclusiveMinimum exclusiveMaximum multipleOf "
    "$ref $defs $id $anchor $schema ref defs"
)
"""Members of a ``responseSchema``, with those of JSON Schema of which it is not sure whether they are let through."""

CONTENT_FIELDS = frozenset({"parts", "role"})
BATCH_FIELDS = _names(
    "displayName model priority inputConfig webhookConfig name state output createTime endTime updateTime batchStats"
)


class RowProblem(ValueError):
    """
    A row that is refused at creation.

    :param field: The member that is the trouble, if it is one.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


def check_request(kind: str, request: Any) -> None:
    """
    Check one row's request as strictly as the service does before a job exists.

    :raises RowProblem: If it has members that do not exist, or of the wrong kind.
    """
    if not isinstance(request, dict):
        raise RowProblem("request must be an object")
    name = unknown_member(request, GENERATE_FIELDS if kind == "generate" else EMBED_FIELDS)
    if name is not None:
        raise RowProblem(f"no such field: '{name}'", name)
    if kind == "embed":
        contents = [request["content"]] if request.get("content") is not None else []
    else:
        contents = request.get("contents") or []
        if not isinstance(contents, list):
            raise RowProblem("expected a list: 'contents'", "contents")
        _check_generate(request)
    for content in contents:
        if not isinstance(content, dict):
            raise RowProblem("expected an object: 'contents'", "contents")
        name = unknown_member(content, CONTENT_FIELDS)
        if name is not None:
            raise RowProblem(f"no such field: '{name}'", name)
        if not isinstance(content.get("parts", []), list):
            raise RowProblem("expected a list: 'parts'", "parts")


def _check_generate(request: dict[str, Any]) -> None:
    config = member(request, "generationConfig")
    if config is not None:
        if not isinstance(config, dict):
            raise RowProblem("expected an object: 'generationConfig'", "generationConfig")
        name = unknown_member(config, CONFIG_FIELDS)
        if name is not None:
            raise RowProblem(f"no such field: '{name}'", name)
        _check_schema(member(config, "responseSchema"))
    if member(request, "cachedContent") and any(
        member(request, name) for name in ("systemInstruction", "tools", "toolConfig")
    ):
        raise RowProblem(
            "CachedContent can not be used with GenerateContent request setting system_instruction, tools or "
            "tool_config."
        )


def _check_schema(schema: Any) -> None:
    """Look for members that no schema has, at any depth; the names of properties are the user's own."""
    if isinstance(schema, list):
        for entry in schema:
            _check_schema(entry)
    if not isinstance(schema, dict):
        return
    # At any depth, as the protocol buffer's parser works: an unknown member of a nested schema is a 400, too.
    name = unknown_member(schema, SCHEMA_FIELDS)
    if name is not None:
        raise RowProblem(f"no such field: '{name}'", name)
    for name in ("items", "anyOf", "oneOf", "allOf", "prefixItems", "additionalProperties"):
        _check_schema(member(schema, name))
    # Below these the names are the user's, and only the values are schemas.
    for name in ("properties", "$defs", "defs"):
        inner = schema.get(name)
        _check_schema(list(inner.values()) if isinstance(inner, dict) else None)


@dataclass
class Checked:
    """What the check of an input found: number of rows and input tokens."""

    count: int = 0
    tokens: int = 0


class LineCheck:
    """
    Checks an uploaded input file, streaming.

    :param bare_rows: Accept lines without the ``request`` wrapper.
    """

    def __init__(self, kind: str, *, bare_rows: bool = False) -> None:
        self._kind = kind
        self._bare_rows = bare_rows
        self._known_settings: set[bytes] = set()
        self._problems: list[str] = []
        self._checked = Checked()
        self._number = 0

    def run(self, path: Path) -> Checked:
        """
        Check a file.

        :raises GoogleError: 400 with a clause a bad line.
        """
        for block in blocks(path):
            if not (self._kind == "generate" and self._takes(block)):
                for line in block.removesuffix(b"\n").split(b"\n"):
                    self._check(line)
            if len(self._problems) >= MAX_LINE_ERRORS:
                break
        # One clause a bad line, numbered from 1, as the service was seen to answer
        # (https://github.com/UKGovernmentBEIS/inspect_ai/issues/3257); nothing is created.
        if self._problems:
            raise GoogleError(400, "\n".join(self._problems[:MAX_LINE_ERRORS]))
        if not self._checked.count:
            raise GoogleError(400, "The input file has no requests.")
        return self._checked

    def _takes(self, block: bytes) -> bool:
        """Take a block of common lines whose settings were all seen to be right."""
        lines = common_lines(block)
        if lines is None:
            return False
        for line in lines:
            config = bytes(line.request.generationConfig)
            # Rows of one job share their settings as a rule: each spelling is checked once.
            if config and config not in self._known_settings:
                try:
                    check_request(self._kind, {"contents": [], "generationConfig": msgspec.json.decode(config)})
                except RowProblem:
                    return False
                self._known_settings.add(config)
        self._checked.tokens += sum([line.input_tokens for line in lines])
        self._checked.count += len(lines)
        self._number += len(lines)
        return True

    def _check(self, line: bytes) -> None:
        self._number += 1
        try:
            request = read_line(line, self._kind, bare_rows=self._bare_rows)
            self._checked.tokens += input_tokens(request)
            self._checked.count += 1
        except (RowProblem, UnicodeDecodeError) as problem:
            self._problems.append(f"Error on line {self._number}: {_line_problem(line, problem)}")


def read_line(line: bytes, kind: str, *, bare_rows: bool) -> dict[str, Any]:
    """
    Return the request of an input line.

    :raises RowProblem: If the service would refuse the line.
    """
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RowProblem("") from None
    if not isinstance(row, dict):
        raise RowProblem("expected an object")
    if kind == "generate" and openai.is_line(row):
        return openai.request_of(row)
    if "request" not in row:
        bare = member(row, "contents") if kind == "generate" else row.get("content")
        if not bare_rows or bare is None:
            # The line is read as a message with the members key and request; others are let through beside a request.
            name = unknown_member(row, frozenset({"key", "metadata"}))
            raise RowProblem(f"no such field: '{name}'" if name else "request is missing", name or "")
        row = {"request": {name: value for name, value in row.items() if name not in ("key", "metadata")}}
    key = row.get("key")
    if key is not None and not isinstance(key, str):
        raise RowProblem("expected a string: 'key'", "key")
    check_request(kind, row["request"])
    request: dict[str, Any] = row["request"]
    return request


def _line_problem(line: bytes, problem: Exception) -> str:
    text = str(problem)
    column = 1
    field = getattr(problem, "field", "")
    if field:
        column = line.find(f'"{field}"'.encode()) + 1
    elif not text or isinstance(problem, UnicodeDecodeError):
        text = "unexpected character or end of input"
        try:
            json.loads(line)
        except json.JSONDecodeError as error:
            column, text = error.colno, error.msg
        except UnicodeDecodeError as error:
            column, text = error.start + 1, "invalid UTF-8"
    return f"invalid JSON, near column {max(1, column)}: {text}"
