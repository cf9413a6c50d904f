# SPDX-License-Identifier: Apache-2.0
"""Lists are read to their end, and no further than any honest list goes."""

from __future__ import annotations

import pytest

from airflow_provider_gemini_batch.api.flows import Pages
from airflow_provider_gemini_batch.api.models import JobPage
from airflow_provider_gemini_batch.errors import ReplyFormatError


def asked_for(tokens: list[str | None], most: int = 10) -> list[str | None]:
    """Return the tokens that pages are asked for with, of a list whose pages name these as the next one's."""
    pages, asked, given = Pages(most=most), [], iter(tokens)
    for token in pages:
        asked.append(token)
        pages.turn(JobPage((), next(given)))
    return asked


def test_a_list_is_read_up_to_the_page_that_names_no_other() -> None:
    assert asked_for([None]) == [None]
    assert asked_for([""]) == [None]
    assert asked_for(["a", "b", None, "c"]) == [None, "a", "b"]


@pytest.mark.parametrize(
    ("tokens", "why"), [(["a", "b", "b"], "came twice"), (list("abcabcabcabc"), "over 10 pages")], ids=["same", "round"]
)
def test_a_list_without_an_end_is_an_error(tokens: list[str | None], why: str) -> None:
    with pytest.raises(ReplyFormatError, match=why):
        asked_for(tokens)
