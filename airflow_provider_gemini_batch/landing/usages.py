# SPDX-License-Identifier: Apache-2.0
"""Which tokens does a block of answers count? Decoded once, for the cost of each row and for their sum alike."""

# Nearly every answer counts text alone, by names that are known: a block of these is decoded in one call. Whether some
# of its tokens may have a price of their own is asked here, and nowhere else, so that rows and sum cannot differ on it.

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.rows.result_row import OutputRow

_BILLED_APART = re.compile(rb"AUDIO|IMAGE|VIDEO|DOCUMENT")
"""Modalities that may have a price of their own, in a usage's details; documents are billed as images are."""


_MOST = 2**53
"""A larger count is no exact float; a usage with one is read as a dict, and priced as a decimal number."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]


class Usage(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The counts that are known by name; a usage with others is read as a dict."""

    promptTokenCount: _Count = 0
    candidatesTokenCount: _Count = 0
    totalTokenCount: _Count = 0
    thoughtsTokenCount: _Count = 0
    cachedContentTokenCount: _Count = 0
    toolUsePromptTokenCount: _Count = 0
    tokenCount: _Count = 0
    trafficType: msgspec.Raw = msgspec.Raw(b"null")
    promptTokensDetails: msgspec.Raw = msgspec.Raw(b"null")
    candidatesTokensDetails: msgspec.Raw = msgspec.Raw(b"null")
    cacheTokensDetails: msgspec.Raw = msgspec.Raw(b"null")
    toolUsePromptTokensDetails: msgspec.Raw = msgspec.Raw(b"null")


COUNTS = tuple(name for name in Usage.__struct_fields__ if name.endswith("Count"))
_decode = msgspec.json.Decoder(list[Usage | None]).decode


class Usages(NamedTuple):
    """
    The usages of a block.

    :param each: One a row, None where a row tells none.
    :param is_text: Whether all their tokens are billed as text.
    """

    each: list[Usage | None]
    is_text: bool


class UsageReader:
    """Decodes the usages of blocks; the last one is remembered, as who prices rows and who sums them up both ask."""

    def __init__(self) -> None:
        self._rows: Sequence[OutputRow] | None = None
        self._found: Usages | None = None

    def read(self, rows: Sequence[OutputRow]) -> Usages | None:
        """Return what *rows* count, or None where one of them counts by a name that is not known."""
        if rows is not self._rows:
            self._rows, self._found = rows, _read(rows)
        return self._found


def _read(rows: Sequence[OutputRow]) -> Usages | None:
    text = b"[%b]" % b",".join([row.usage for row in rows])
    try:
        return Usages(_decode(text), not _is_billed_apart(text))
    except (msgspec.MsgspecError, UnicodeError):
        return None


def _is_billed_apart(usages: bytes) -> bool:
    # Each of the words has an I or an O, which names of counts have not. To look for two letters costs a fiftieth of
    # the search, and of nearly every block tells enough.
    return (b"I" in usages or b"O" in usages) and _BILLED_APART.search(usages) is not None
