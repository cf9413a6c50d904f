# SPDX-License-Identifier: Apache-2.0
"""The input that results are joined with: its keys in order, and what is the caller's own beside them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from airflow_provider_gemini_batch.files.background import BackgroundHash
from airflow_provider_gemini_batch.files.kinds import open_lines
from airflow_provider_gemini_batch.rows.input_digest import InputDigest, other_marks
from airflow_provider_gemini_batch.rows.input_rows import KnownBlock, KnownRow, known_rows
from airflow_provider_gemini_batch.rows.key_set import KeySet
from airflow_provider_gemini_batch.rows.line_batches import BLOCK_BYTES, line_blocks
from airflow_provider_gemini_batch.rows.normalise import naming


class AskedRow(NamedTuple):
    """
    An input row that is waiting for its answer.

    :param own: The caller's own members; None if there are none.
    :param raw: The row as it was given.
    """

    key: str
    own: Mapping[str, Any] | None
    raw: Any


class InputCursor:
    """
    The rows of an input, looked at some rows ahead and taken in order.

    :param found: What :func:`known_rows` yields.
    """

    def __init__(self, found: Iterable[KnownBlock | KnownRow]) -> None:
        self._found = iter(found)
        self._keys: list[str] = []
        self._raws: list[Any] = []
        self._own: dict[int, Mapping[str, Any]] = {}
        self._start = 0
        """Number of the first key that is held, from 0."""
        self._at = 0
        """Index among those that are held of the next one to take."""
        self.numbered = 0
        """Rows taken in so far whose key is but their number."""

    def peek(self, count: int) -> list[str]:
        """Return the next *count* keys, fewer only at the end, without taking them."""
        while len(self._keys) - self._at < count and self._extend():
            pass
        return self._keys[self._at : self._at + count]

    def take(self, count: int) -> list[Mapping[str, Any] | None] | None:
        """Take the next *count* keys; return the own members of each row, or None where none has any."""
        first = self._start + self._at
        self._at += count
        # As a rule no row has members of the caller's own, and then nothing is looked up row by row.
        if not self._own:
            return None
        own = [self._own.pop(number, None) for number in range(first, first + count)]
        return own if any(own) else None

    def rest(self) -> Iterator[AskedRow]:
        """Take all other rows, one by one."""
        while self.peek(1):
            for index in range(self._at, len(self._keys)):
                self._at = index + 1
                yield AskedRow(self._keys[index], self._own.pop(self._start + index, None), self._raws[index])

    def _extend(self) -> bool:
        """Hold one block or row more; False at the end."""
        found = next(self._found, None)
        if found is None:
            return False
        self._start += self._at
        # Dropped a block at a time: taking from a list's front row by row would move all that are behind it.
        del self._keys[: self._at], self._raws[: self._at]
        self._at = 0
        if isinstance(found, KnownBlock):
            self._keys += found.keys
            self._raws += found.lines
            return True
        number = self._start + len(self._keys)
        # This key is a row's number and nothing more, so an answer fits only as long as the input keeps its order
        # (`checks.check_belongs`).
        if found.key == f"row-{number + 1}":
            self.numbered += 1
        if found.own:
            self._own[number] = found.own
        self._keys.append(found.key)
        self._raws.append(found.raw)
        return True


class RepeatedRows:
    """
    Numbers of the input's rows, from 0, whose key another row had before. Read when first asked for.

    :param keys: Gives the keys in order.
    """

    def __init__(self, keys: Callable[[], Iterable[str]]) -> None:
        self._keys = keys
        self._numbers: frozenset[int] | None = None

    def __contains__(self, number: int) -> bool:
        if self._numbers is None:
            seen = KeySet()
            self._numbers = frozenset(at for at, key in enumerate(self._keys()) if not seen.add(key))
        return number in self._numbers


class JoinInput:
    """
    The file that a job was made from.

    :param path: Local path or object-storage URI.
    :param key: The member, or list of members, by which a row is known.
    :param tolerant: Whether a row that cannot be read may be there, as one that was left out of the job.
    """

    def __init__(
        self, path: str | os.PathLike[str], key: str | Sequence[str] = "key", *, tolerant: bool = False
    ) -> None:
        self._path = path
        self._key = key
        self._tolerant = tolerant
        self._digest = InputDigest()
        self.sha256: str | None = None
        """Lower-case hex digest of the input's bytes, unpacked ones for gzip; known once all rows were taken."""

    def rows(self) -> Iterator[KnownBlock | KnownRow]:
        """Yield the rows, and digest them on the way. Asked for once."""
        digest = hashlib.sha256()
        behind = BackgroundHash(digest)
        with ExitStack() as stack:
            stack.callback(behind.close)
            stream = stack.enter_context(open_lines(self._path)[0])

            def chunks() -> Iterator[bytes]:
                while chunk := stream.read(BLOCK_BYTES):
                    behind.update(chunk)
                    yield chunk

            # One pass over the input serves the join, the digest of its lines, and the hash of its bytes.
            blocks: Iterable[Any] = self._digest.watch(line_blocks(chunks()))
            yield from naming(self._path, known_rows(blocks, self._key, tolerant=self._tolerant))
            behind.finish()
        self.sha256 = digest.hexdigest()

    def again(self) -> Iterator[KnownBlock | KnownRow]:
        """Yield the rows once more."""
        with open_lines(self._path)[0] as stream:
            yield from known_rows(stream, self._key, tolerant=self._tolerant)

    def keys(self) -> Iterator[str]:
        """Yield the keys once more."""
        for found in self.again():
            yield from found.keys if isinstance(found, KnownBlock) else [found.key]

    def mark(self) -> str:
        """Return what names the input's lines, as the job carries it; complete once all rows were taken."""
        return self._digest.mark()

    def other_marks(self) -> list[str]:
        """Return what else a job may carry that was made from these rows. Reads them once more."""
        with open_lines(self._path)[0] as stream:
            return other_marks(stream)


class KeysOnly:
    """
    Keys without a file, in place of a :class:`JoinInput`.

    :param keys: Gives the keys in order each time it is called.
    """

    sha256 = None

    def __init__(self, keys: Callable[[], Iterable[str]]) -> None:
        self.keys = keys

    def rows(self) -> Iterator[KnownBlock | KnownRow]:
        """Yield a row for each key."""
        for key in self.keys():
            yield KnownRow(key, None, None)

    def mark(self) -> str:
        """Return nothing: there are no lines."""
        return ""
