# SPDX-License-Identifier: Apache-2.0
"""The rows of a job: read from a file line by line, never in memory at once."""

# A line of the common shape, a prompt of text with or without settings, is decoded into fixed structures, a block of
# lines in one call; only what those structures do not know is decoded into dictionaries. Both ways give the same
# `InputRow`.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from gemini_batch_emulator.answering.draws import number_of
from gemini_batch_emulator.answering.generation import Prompt
from gemini_batch_emulator.answering.requests import (
    contents_of,
    count_tokens,
    media_of,
    settings_of,
    settings_of_parts,
    texts_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BLOCK_BYTES = 1 << 20


class InputRow(msgspec.Struct):
    """
    One input row.

    :param index: Position in the input, from 0.
    :param key: The row's key as a string, or None.
    :param prompt: What is asked.
    :param content: Hash of all that is asked, equal for equal requests of any job.
    :param line: The line, if it is of the common shape; else *given* and *asked* are the row and its request.
    """

    index: int
    key: str | None
    prompt: Prompt
    content: int
    line: CommonLine | None = None
    given: dict[str, Any] = msgspec.field(default_factory=dict)
    asked: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def text(self) -> str:
        """All text of the row's prompt."""
        return self.prompt.text

    @property
    def raw(self) -> dict[str, Any]:
        """The whole row as it came."""
        if self.line is None:
            return self.given
        decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self.line))
        return decoded

    @property
    def request(self) -> dict[str, Any]:
        """The row's request."""
        return self.asked if self.line is None else self.raw["request"]


class RowSource(Protocol):
    """The input of a job."""

    count: int
    tokens: int

    def rows(self, order: list[int] | None = None) -> Iterator[InputRow]:
        """Yield the rows, in *order* (indices) if one is given."""
        ...


class Answer(msgspec.Struct):
    """
    One result row.

    :param key: The key to show; None if the row had none.
    :param row: The input row, or None for a row that nobody sent (a scripted extra key).
    :param response: What the model said; None together with *error* None is a row with neither.
    :param error: ``{"code": <gRPC number>, "message": ...}``; the message may be absent.
    """

    key: str | None
    row: InputRow | None
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


def prompt_of(request: dict[str, Any]) -> tuple[Prompt, int]:
    """Return what a request of either kind asks, and the hash of all of it."""
    contents = contents_of(request)
    text = "\n".join(texts_of(contents))
    media = media_of(contents)
    settings = settings_of(request)
    number = number_of(text)
    content = number ^ settings.number
    # Two requests with the same text and other files ask for something else.
    if media:
        content ^= number_of(msgspec.json.encode(contents, order="deterministic").decode())
    return Prompt(text, number, settings, media), content


def make_row(index: int, key: Any, request: dict[str, Any], raw: dict[str, Any] | None = None) -> InputRow:
    """Make a row of a request that was decoded whole."""
    prompt, content = prompt_of(request)
    return InputRow(index, None if key is None else str(key), prompt, content, None, raw or {}, request)


def problem_of(kind: str, request: dict[str, Any]) -> str | None:
    """Return what only the model would find wrong with a request, or None."""
    contents = contents_of(request)
    if not contents:
        return "contents is not specified" if kind == "generate" else "content is not specified"
    if kind == "embed":
        return None if any(texts_of(contents)) or media_of(contents) else "content contains an empty Part."
    for content in contents:
        role = content.get("role") if isinstance(content, dict) else None
        # The documentation's example of a row that fails while its job succeeds.
        if role not in (None, "user", "model", "function"):
            return "Please use a valid role: user, model."
    return settings_of(request).problem


class _Part(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    text: str


class _Content(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    parts: list[_Part]
    role: str | None = None


class _Request(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    contents: list[_Content]
    generationConfig: msgspec.Raw = msgspec.Raw()
    systemInstruction: msgspec.Raw = msgspec.Raw()


class CommonLine(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A line as most clients write it."""

    request: _Request
    key: str | None = None

    @property
    def text(self) -> str:
        """All text of the prompt."""
        contents = self.request.contents
        if len(contents) == 1 and len(contents[0].parts) == 1:
            return contents[0].parts[0].text
        return "\n".join([part.text for content in contents for part in content.parts])

    @property
    def is_plain(self) -> bool:
        """Whether nothing is left that the model could find wrong with it."""
        contents = self.request.contents
        return bool(contents) and all(content.role in (None, "user", "model") for content in contents)

    @property
    def input_tokens(self) -> int:
        """Tokens of prompt and system instruction."""
        request = self.request
        settings = settings_of_parts(bytes(request.generationConfig), bytes(request.systemInstruction))
        return count_tokens(self.text) + settings.system_tokens

    def row(self, index: int) -> InputRow:
        """Make the row."""
        request = self.request
        text = self.text
        settings = settings_of_parts(bytes(request.generationConfig), bytes(request.systemInstruction))
        number = number_of(text)
        return InputRow(index, self.key, Prompt(text, number, settings, {}), number ^ settings.number, self)


_common_lines = msgspec.json.Decoder(CommonLine).decode_lines


def common_lines(block: bytes) -> list[CommonLine] | None:
    """Decode whole lines; None if one of them is blank or not of the common shape."""
    try:
        lines = _common_lines(block)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    # The decoder takes any white space for the end of a line.
    count = block.count(b"\n") + (not block.endswith(b"\n"))
    return lines if len(lines) == count and b"\n\n" not in block else None


def blocks(path: Path) -> Iterator[bytes]:
    """Yield a file in blocks of whole lines."""
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block if block.endswith(b"\n") else block + file.readline()


class FileRows:
    """
    Rows of a JSONL file on disk; blank lines are skipped.

    :param path: The file; it must stay as it is while the job lives.
    :param read: Makes an :class:`InputRow` of a line's number (from 0) and object.
    :param has_common_lines: Whether lines of the common shape may be read without their *raw*.
    """

    def __init__(
        self,
        path: Path,
        *,
        count: int,
        tokens: int,
        read: Callable[[int, dict[str, Any]], InputRow],
        has_common_lines: bool = False,
    ) -> None:
        self.path = path
        self.count = count
        self.tokens = tokens
        self._read = read
        self._has_common_lines = has_common_lines

    def rows(self, order: list[int] | None = None) -> Iterator[InputRow]:
        """Yield the rows, in *order* (indices) if one is given."""
        return self._in_order() if order is None else self._ordered(order)

    def _in_order(self) -> Iterator[InputRow]:
        decode = msgspec.json.Decoder(dict).decode
        index = 0
        for block in blocks(self.path):
            # A block at a time: ten million rows are read within a test.
            lines = common_lines(block) if self._has_common_lines else None
            if lines is not None and all(line.is_plain for line in lines):
                for line in lines:
                    yield line.row(index)
                    index += 1
                continue
            for text in block.split(b"\n"):
                if text.strip():
                    yield self._read(index, decode(text))
                    index += 1

    def _ordered(self, order: list[int]) -> Iterator[InputRow]:
        decode = msgspec.json.Decoder(dict).decode
        # Two passes, so that any order costs eight bytes a row and not the rows.
        offsets = []
        position = 0
        with self.path.open("rb") as file:
            for line in file:
                if line.strip():
                    offsets.append(position)
                position += len(line)
            for index in order:
                file.seek(offsets[index])
                yield self._read(index, decode(file.readline()))


class SyntheticRows:
    """Rows that were never sent, for seeded jobs: keys ``row-0``, ``row-1``, ..."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.tokens = count * 4

    def rows(self, order: list[int] | None = None) -> Iterator[InputRow]:
        """Yield the rows, in *order* (indices) if one is given."""
        for index in range(self.count) if order is None else order:
            request = {"contents": [{"role": "user", "parts": [{"text": f"Seeded row {index}"}]}]}
            yield make_row(index, f"row-{index}", request, {"key": f"row-{index}", "request": request})
