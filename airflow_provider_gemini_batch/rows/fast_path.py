# SPDX-License-Identifier: Apache-2.0
"""
The common input rows: texts alone, with settings that were seen before.

They are checked by decoding them into types that say what is right. What stands around their texts is made the long way
for the first row of its kind, and is the same for all others. Every other row goes the long way, which also words what
is wrong.
"""

from __future__ import annotations

import json
import string
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

import msgspec

from airflow_provider_gemini_batch.rows.keys import KEY_PREFIX, MAX_KEY_LENGTH

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.rows.forms import RowSettings

_ABSENT = msgspec.Raw(b"")
_MAX_FRAMES = 256
_PLACE = "\ue000"
_PROBE = b'"probe-7f3a"'
_SETTINGS = ("generationConfig", "systemInstruction", "safetySettings", "tools", "toolConfig")

_Key = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_KEY_LENGTH)]
_Role = Literal["user", "model"]


# Texts stay as they are written: decoding checks all of them but whether they are UTF-8, strings, and not blank.
class _Part(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    text: msgspec.Raw


class _Content(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    parts: Annotated[list[_Part], msgspec.Meta(min_length=1)]
    role: _Role | msgspec.UnsetType = msgspec.UNSET


class _ContentWithRole(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """On Vertex AI a missing role is added, which the long way does."""

    role: _Role
    parts: Annotated[list[_Part], msgspec.Meta(min_length=1)]


_C = TypeVar("_C")


class _Request(msgspec.Struct, Generic[_C], forbid_unknown_fields=True, gc=False):
    contents: Annotated[list[_C], msgspec.Meta(min_length=1)]
    generationConfig: msgspec.Raw = _ABSENT
    systemInstruction: msgspec.Raw = _ABSENT
    safetySettings: msgspec.Raw = _ABSENT
    tools: msgspec.Raw = _ABSENT
    toolConfig: msgspec.Raw = _ABSENT


class _Row(msgspec.Struct, Generic[_C], forbid_unknown_fields=True, gc=False):
    key: _Key
    request: _Request[_C]


class _ShortPrompt(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    key: _Key
    text: msgspec.Raw = msgspec.field(name="prompt")


class _ShortText(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    key: _Key
    text: msgspec.Raw


_head_of = struct.Struct("2s").unpack_from
_SHOWN = frozenset((string.ascii_letters + string.digits + string.punctuation).encode()) - frozenset(b'"\\')

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_read_row = msgspec.json.Decoder(_Row[_Content]).decode
_read_row_with_roles = msgspec.json.Decoder(_Row[_ContentWithRole]).decode
_read_short_prompt = msgspec.json.Decoder(_ShortPrompt).decode
_read_short_text = msgspec.json.Decoder(_ShortText).decode
_read_keys = msgspec.json.Decoder(list[_Key]).decode
_read_text = msgspec.json.Decoder(str).decode
_keys_of = attrgetter("key")


@dataclass(frozen=True)
class CommonBlock:
    """
    Common rows in wire form.

    :param keys: Of the rows, in order.
    :param first: Number of the line that the first row came from; the others follow it without a gap.
    :param pieces: What the lines are made of, the same number of pieces for each.
    :param is_as_given: Whether the lines are, to the byte, those they came from.
    """

    keys: list[str]
    first: int
    pieces: Sequence[bytes | msgspec.Raw]
    is_as_given: bool = False

    def lines(self) -> bytes:
        """Return all lines of an input file, newlines included."""
        return b"".join(self.pieces)

    def rows(self) -> Iterator[tuple[str, int, bytes]]:
        """Yield each row's key, number and line."""
        each = len(self.pieces) // len(self.keys)
        for place, key in enumerate(self.keys):
            yield key, self.first + place, b"".join(self.pieces[place * each : (place + 1) * each])


@dataclass
class _Frame:
    """
    What stands around the texts of rows of one kind.

    :param may_stay: Whether a row of this kind need not be changed.
    :param quotes: How many a row in wire form has around its contents, those in its key left out.
    """

    before: bytes
    after: bytes
    may_stay: bool
    quotes: int = 0


@dataclass(frozen=True)
class _Spelling:
    """
    How a row that stays as it is was written around its key and its text.

    A line that is written so, to the byte, with a key and a text in these places, is as good as that row.
    """

    before: bytes
    between: bytes
    after: bytes

    @classmethod
    def of(cls, line: bytes, key: str, text: bytes) -> _Spelling | None:
        """Return that of a line with one text, or None if the two cannot be told from the rest of it."""
        before, _, rest = line.partition(_encode(key))
        between, _, after = rest.partition(text)
        found = cls(before + b'"', b'"' + between + b'"', b'"' + after)
        # The same words can stand elsewhere. Others in these places show whether they are the right ones.
        try:
            row = _read_row(_PROBE[1:-1].join((found.before, found.between, found.after)))
        except (msgspec.MsgspecError, UnicodeError):
            return None
        texts = [bytes(part.text) for content in row.request.contents for part in content.parts]
        return found if row.key == _decode(_PROBE) and texts == [_PROBE] else None

    def keys_of(self, lines: Sequence[bytes]) -> list[str] | None:
        """
        Return the keys of lines that all are written so, or None.

        :raises msgspec.MsgspecError: If there is no key or no string where one should be.
        :raises UnicodeError: If one is not UTF-8.
        """
        before, between, after = self.before, self.between, self.after
        start = len(before)
        # A text is cut out with its quotes, and so without white space around it.
        to_text, from_end = len(between) - 1, 1 - len(after)
        names: list[bytes] = []
        texts: list[bytes] = []
        for line in lines:
            place = line.find(between, start)
            if place < 0 or not line.startswith(before) or not line.endswith(after):
                return None
            names.append(line[start:place])
            texts.append(line[place + to_text : from_end])
        if any([not text or text.isspace() for text in map(_read_text, texts)]):  # noqa: C419 - half the time
            return None
        joined = b'","'.join(names)
        keys = _read_keys(b'["%b"]' % joined)
        # With an escape in it, a name could hold the end of another.
        return keys if len(keys) == len(lines) and b"\\" not in joined else None


class CommonRows:
    """
    Reads common rows.

    :param sample: Brings a row to wire form the long way: its request, decoded and as bytes, or None if it is refused.
        Called with the number of the line that it stands for.
    """

    def __init__(
        self, settings: RowSettings, sample: Callable[[Mapping[str, Any], int], tuple[dict[str, Any], bytes] | None]
    ) -> None:
        self._sample = sample
        self._is_embedding = settings.kind == "embed"
        self._is_legacy = settings.is_legacy_embedding
        self._is_vertex = settings.backend == "vertex_ai"
        self._frames: dict[bytes | None, _Frame] = {}
        self._spelling: _Spelling | None = None

    def read(self, lines: Sequence[bytes], first: int) -> CommonBlock | None:
        """
        Return rows in wire form. None sends them the long way, and says nothing about them.

        :param lines: At least one.
        :param first: Number of the first.
        """
        readers = [self._shorts]
        if b'"request"' in lines[0]:  # which may stand in a text as well
            readers = [self._spelled_alike, self._requests, self._shorts]
        for read in readers:
            with suppress(msgspec.MsgspecError, struct.error, UnicodeError, RecursionError):
                found = read(lines, first)
                if found is not None and not any([key.startswith(KEY_PREFIX) for key in found.keys]):  # noqa: C419
                    return found
        return None

    def _spelled_alike(self, lines: Sequence[bytes], first: int) -> CommonBlock | None:
        if self._spelling is None:
            return None
        keys = self._spelling.keys_of(lines)
        return None if keys is None else CommonBlock(keys, first, lines, is_as_given=True)

    def _shorts(self, lines: Sequence[bytes], first: int) -> CommonBlock | None:
        if self._is_legacy:
            return None
        rows: list[Any] = list(map(_read_short_text if self._is_embedding else _read_short_prompt, lines))
        texts: list[msgspec.Raw] = [row.text for row in rows]
        if not _are_texts(texts, lines):
            return None
        frame = self._frames.get(None) or self._frame(
            None, {"text" if self._is_embedding else "prompt": _PLACE}, _encode(_PLACE), first
        )
        if frame is None:
            return None
        keys = list(map(_keys_of, rows))
        return CommonBlock(keys, first, self._framed(keys, texts, frame))

    def _requests(self, lines: Sequence[bytes], first: int) -> CommonBlock | None:
        if self._is_embedding:
            return None
        rows: list[_Row[Any]] = list(map(_read_row_with_roles if self._is_vertex else _read_row, lines))
        requests = [row.request for row in rows]
        texts = [[part.text for content in request.contents for part in content.parts] for request in requests]
        if not _are_texts([text for some in texts for text in some], lines):
            return None
        kinds = [
            b"\n".join((one.generationConfig, one.systemInstruction, one.safetySettings, one.tools, one.toolConfig))
            for one in requests
        ]
        frames: dict[bytes, _Frame] = {}
        for kind in dict.fromkeys(kinds):
            place = kinds.index(kind)
            frame = self._frames.get(kind) or self._frame_of(kind, requests[place], first + place)
            if frame is None:
                return None
            frames[kind] = frame
        keys = list(map(_keys_of, rows))
        made: list[bytes | msgspec.Raw] = list(lines)
        alike: int | None = None
        # Each row for itself: were it to depend on those beside it, the same rows could be another submission.
        for place, (line, key, kind) in enumerate(zip(lines, keys, kinds, strict=True)):
            if line.find(b"\n", 0, -1) >= 0:
                return None  # a row that was not read from lines
            frame = frames[kind]
            if not frame.may_stay or (_may_have_repeats(line, key, requests[place], frame) and _has_repeats(line)):
                made[place] = b"".join(self._framed([key], [_encode(requests[place].contents)], frame))
            elif line[:1] != b"{" or line[-2:] != b"}\n":
                made[place] = line.strip() + b"\n"
            elif len(texts[place]) == 1:
                alike = place
        if alike is not None:
            self._spelling = _Spelling.of(lines[alike], keys[alike], bytes(texts[alike][0])) or self._spelling
        return CommonBlock(keys, first, made, is_as_given=all(map(is_, made, lines)))

    def _framed(
        self, keys: list[str], inner: Sequence[bytes | msgspec.Raw], frame: _Frame
    ) -> list[bytes | msgspec.Raw]:
        """Put rows together, five pieces each, around what is JSON already."""
        before, after = b',"request":' + frame.before, frame.after + b"}\n"
        names = [KEY_PREFIX + key for key in keys] if self._is_vertex else keys
        return [
            piece
            for name, one in zip(names, inner, strict=True)
            for piece in (b'{"key":', _encode(name), before, one, after)
        ]

    def _frame_of(self, kind: bytes, request: _Request[Any], line: int) -> _Frame | None:
        """Make the frame of rows with the settings of *request*."""
        place = [{"role": "user", "parts": [{"text": _PLACE}]}]
        given = {name: raw for name in _SETTINGS if (raw := bytes(getattr(request, name)))}
        settings = {name: _decode(raw) for name, raw in given.items()}
        frame = self._frame(kind, {"request": {"contents": place, **settings}}, _encode(place), line)
        if frame is not None:
            frame.may_stay = frame.may_stay and not any(map(_has_repeats, given.values()))
            # The names key, request and contents, the key itself, and each setting with its name.
            frame.quotes = 8 + sum(2 + raw.count(b'"') for raw in given.values())
        return frame

    def _frame(self, kind: bytes | None, sample: Mapping[str, Any], place: bytes, line: int) -> _Frame | None:
        """Send a sample the long way, and remember what comes before and after its *place*; None if it is refused."""
        made = self._sample(sample, line)
        if made is None:
            return None
        request, body = made
        before, _, after = body.partition(place)
        if len(self._frames) >= _MAX_FRAMES:
            self._frames.clear()
        frame = _Frame(before, after, request == sample.get("request") and not self._is_vertex)
        self._frames[kind] = frame
        return frame


def _are_texts(values: Sequence[msgspec.Raw], lines: Sequence[bytes]) -> bool:
    """
    Say whether valid JSON values are strings that hold more than white space.

    :param lines: That hold the values; all of them are looked at for being UTF-8.
    :raises UnicodeError: If one is not.
    """
    if not all(map(bytes.isascii, lines)):
        b"".join(lines).decode()
    heads = {head for (head,) in set(map(_head_of, values))}
    if any(head[:1] != b'"' for head in heads):
        return False
    # A few characters begin almost all texts; only where the first one tells nothing the text is read.
    doubtful = {head for head in heads if head[1] not in _SHOWN}
    return not doubtful or all(_decode(value).strip() for value in values if _head_of(value)[0] in doubtful)


def _may_have_repeats(line: bytes, key: str, request: _Request[_Content], frame: _Frame) -> bool:
    """Say whether a line has other quotes than those of its members: that of one more would be there too."""
    quotes = frame.quotes
    for content in request.contents:
        quotes += 2 if content.role is msgspec.UNSET else 6
        for part in content.parts:
            quotes += 2 + bytes(part.text).count(b'"')
    return '"' in key or line.count(b'"') != quotes  # a key's own quotes have two spellings


def _has_repeats(text: bytes) -> bool:
    """Say whether an object in valid JSON has a member twice: a service may not take the one that was checked."""
    found: list[bool] = []
    json.loads(text, object_pairs_hook=lambda pairs: found.append(len(dict(pairs)) < len(pairs)))
    return any(found)
