# SPDX-License-Identifier: Apache-2.0
"""The rows of an input as a download needs them: the key of each, in order, and what is the caller's own beside it."""

# Nothing else of a row is looked at: what it asks was checked when it was sent.

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.rows.forms import own_metadata
from airflow_provider_gemini_batch.rows.keys import KeyRule
from airflow_provider_gemini_batch.rows.line_batches import read_in_blocks
from airflow_provider_gemini_batch.rows.lines import as_object, trimmed
from airflow_provider_gemini_batch.rows.normalise import InputRow, Normaliser
from airflow_provider_gemini_batch.rows.notes import RowReport
from airflow_provider_gemini_batch.rows.problems import RowFault, RowProblem

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.rows.settings import RowSettings

_ABSENT = msgspec.Raw(b"")


class _KeyedRow(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A row with a key, and no member of the caller's own."""

    key: str
    request: msgspec.Raw = _ABSENT
    prompt: msgspec.Raw = _ABSENT
    text: msgspec.Raw = _ABSENT
    contents: msgspec.Raw = _ABSENT
    content: msgspec.Raw = _ABSENT


_read_keyed = msgspec.json.Decoder(_KeyedRow).decode


class KnownRow(NamedTuple):
    """
    A row of an input.

    :param own: The caller's own members; None if there are none.
    :param raw: The row as it was given, for :class:`Recheck`; None where its block was read at once.
    """

    key: str
    own: Mapping[str, Any] | None
    raw: InputRow | None


class KnownBlock(NamedTuple):
    """Several rows with keys and without own members, and their lines."""

    keys: list[str]
    lines: Sequence[InputRow]


def known_rows(
    rows: Iterable[InputRow], key: str | Sequence[str] = "key", *, tolerant: bool = False
) -> Iterator[KnownBlock | KnownRow]:
    """
    Yield the rows of an input in order, common ones in blocks, with the keys they were sent with.

    :param key: As it was given when the rows were sent.
    :param tolerant: Give a row whose key cannot be read ``row-<number>``, as it was left out of the job.
    :raises ConfigurationError: If a line is no JSON object, or its key cannot be one.
    """
    rule = KeyRule(key)
    number = line = 0
    for block, keys in read_in_blocks(rows, _keys_of_block if rule.is_default else _read_nothing):
        line += len(block)
        if keys is not None:
            number += len(block)
            yield KnownBlock(keys, block)
            continue
        row = block[0]
        if isinstance(row, (bytes, str)):
            row = trimmed(row, line)
            if not row:
                continue
        number += 1
        try:
            yield _known(row, rule, number)
        except RowProblem as problem:
            if not tolerant:
                unit = "row" if isinstance(row, Mapping) else "line"
                raise ConfigurationError(f"{unit} {line}: {problem}") from None
            yield KnownRow(f"row-{number}", None, row)


def row_keys(rows: Iterable[InputRow], key: str | Sequence[str] = "key") -> Iterator[str]:
    """
    Yield the key of every row in order.

    :raises ConfigurationError: If a line is no JSON object, or its key cannot be one.
    """
    for found in known_rows(rows, key):
        if isinstance(found, KnownBlock):
            yield from found.keys
        else:
            yield found.key


class Recheck:
    """
    Says of a single row why it could not be sent.

    What makes a row unfit beside others alone (a kind of value that Vertex AI's importer saw otherwise in another row)
    is not seen here.
    """

    def __init__(self, settings: RowSettings) -> None:
        self._settings = settings

    def reason(self, row: InputRow) -> str | None:
        """Return what is wrong with a row and what to do about it; None if it could be sent."""
        text = trimmed(row, 1) if isinstance(row, (bytes, str)) else row
        found = Normaliser(self._settings, RowReport()).read(text, 1, 1)
        if not isinstance(found, RowFault):
            return None
        return f"{found.reason}; {found.fix}" if found.fix else found.reason


def _read_nothing(_: list[bytes]) -> list[str] | None:
    return None


def _keys_of_block(lines: list[bytes]) -> list[str] | None:
    """Return the keys of lines that all have theirs at its place and nothing of the caller's, or None."""
    try:
        return [row.key for row in map(_read_keyed, lines)]
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None  # something is blank, has a byte order mark, is another form, or is wrong


def _known(row: InputRow, rule: KeyRule, number: int) -> KnownRow:
    value = as_object(row)
    # By the same rule as when the rows were sent: an answer is found by the key that was made then.
    key = rule.read(value, number)
    return KnownRow(key, _own(value, rule) or None, row)


def _own(row: Mapping[str, Any], rule: KeyRule) -> dict[str, Any]:
    """Return the caller's own members, as :func:`~.forms.read_form` tells them from the rest."""
    metadata = row.get("metadata")
    own = own_metadata(metadata) if isinstance(metadata, Mapping) else {}
    if "request" in row:
        own.update((name, value) for name, value in row.items() if name not in ("key", "metadata", "request"))
    else:
        own.update((name, row[name]) for name in rule.names if name in row and name not in ("key", "metadata"))
    return own
