# SPDX-License-Identifier: Apache-2.0
"""What is asked of landed answers and what is given, whoever reads them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.plugins.page.errors import PageError
from airflow_provider_gemini_batch.run.tables import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PAGE = 50
NO_COLUMNS = "The file has not the columns that this provider writes."
_OURS = ("error_message", "finish_reason", "model_version")


@dataclass(frozen=True)
class Wanted:
    """
    Which rows.

    :param status: An outcome, ``failing`` for all but succeeded, or empty for all.
    :param search: Words that one of the row's values holds, whatever their case.
    """

    status: str = ""
    search: str = ""
    version: str = ""
    page: int = 1

    @property
    def words(self) -> list[str]:
        """The words of *search*, in lower case."""
        return self.search.lower().split()[:8]

    @property
    def filters(self) -> tuple[str, tuple[str, ...], str]:
        """All but the page."""
        return self.status, tuple(self.words), self.version


@dataclass(frozen=True)
class AnswerPage:
    """
    Rows of a page, each a mapping of columns to values.

    :param prefix: Before the names of our own columns (``meta_prefix``).
    :param more: Whether there is a page after this one.
    :param stopped: Lines that were read when the time was over; 0 if it was not.
    :param found: Rows that fit; None where that is not known.
    """

    rows: Sequence[Mapping[str, Any]] = ()
    prefix: str = ""
    more: bool = False
    stopped: int = 0
    took: float = 0.0
    columns: Sequence[str] = field(default_factory=list)
    found: int | None = None


def prefix_in(columns: Sequence[str]) -> str:
    """
    Return what stands before the names of our columns.

    :raises PageError: If these are not the columns of an output of ours.
    """
    names = set(columns)
    for name in columns:
        prefix = name.removesuffix("status")
        if name.endswith("status") and ({"error", "response"} & names or all(prefix + own in names for own in _OURS)):
            return prefix
    raise PageError(415, "These are no answers", NO_COLUMNS)


def condition(
    columns: Sequence[str], prefix: str, wanted: Wanted, mark: str, has: str, value_of: Callable[[str], str]
) -> tuple[str, list[Any]]:
    """
    Return a filter as SQL, empty for none, and its values.

    :param mark: Of a parameter.
    :param has: SQL by which a column, in place of ``{}``, holds a word, with a mark for what *value_of* makes of it.
    """
    parts: list[str] = []
    values: list[Any] = []
    if wanted.status == "failing":
        parts.append(f"{quoted(prefix + 'status')} <> 'succeeded'")
    elif wanted.status:
        parts.append(f"{quoted(prefix + 'status')} = {mark}")
        values.append(wanted.status)
    if wanted.version:
        parts.append(f"{quoted(prefix + 'model_version')} = {mark}")
        values.append(wanted.version)
    for word in wanted.words:
        # Digits of a vector would match nearly any number that is searched for.
        texts = [has.format(quoted(each)) for each in columns if each != "embedding"]
        parts.append("(" + " OR ".join(texts) + ")")
        values += [value_of(word)] * len(texts)
    return " AND ".join(parts), values


def is_wanted(row: Mapping[str, Any], prefix: str, wanted: Wanted, words: Sequence[str]) -> bool:
    """
    Say whether a row fits.

    :param words: :attr:`Wanted.words`, made once.
    """
    status = row.get(f"{prefix}status")
    if wanted.status == "failing":
        if status == "succeeded":
            return False
    elif wanted.status and status != wanted.status:
        return False
    if wanted.version and row.get(f"{prefix}model_version") != wanted.version:
        return False
    if not words:
        return True
    text = json.dumps([value for name, value in row.items() if name != "embedding"], ensure_ascii=False, default=str)
    text = text.lower()
    return all(word in text for word in words)
