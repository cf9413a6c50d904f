# SPDX-License-Identifier: Apache-2.0
"""Reading the list of jobs instead of many single ones, as long as that costs less."""

# The list is newest first, and holds other people's jobs too. A sweep reads page after page and compares what is still
# to be found with what the pages brought:
#
# * While jobs are expected in the list, it goes on until more pages were read in vain than jobs are still to be found:
#   where three are missing, three single reads would have done.
# * Once all expected jobs were found, it reads on for jobs that are due as well (not expected, since an earlier sweep
#   ended before them): one more page for each `READ_ON` of them, since it may show them all.
# * What is still expected when the list ends or no longer pays is read one by one for some minutes.
#
# Example: 300 jobs of ours are spread over the first 400 of the list. Pages 1 to 4 each show some; after page 4 all are
# found: 4 requests for 300 jobs. If 3 of them were on page 9, then after page 4 three are missing; pages 5, 6, 7 and 8
# show none: four in vain, more than 3, so the three are read one by one.
#
# A sweep that trouble breaks off is resumed at its page: begun anew each time, it might never come to the old jobs
# while a quota is short.

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass

from airflow_provider_gemini_batch.api.models import JobPage
from airflow_provider_gemini_batch.errors import (
    AuthError,
    ConfigurationError,
    GeminiBatchError,
    RateLimitedError,
    ReplyFormatError,
    ReplyTooLargeError,
)

log = logging.getLogger(__name__)

FEW = 4
"""Up to so many jobs are read one by one."""

READ_ON = 10
"""For so many jobs that are due but not expected, one page more is read: it may show them all."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadPage:
    """Read a page of the list; None for the first one."""

    token: str | None


Pages = Generator[ReadPage, JobPage, Collection[str]]
"""Yields pages to read, is sent each or its error, and returns the keys that the list should have shown."""


class Sweeper:
    """
    Makes sweeps, and remembers between them where to go on and whether the list can be read at all.

    :param take: Called with each page, what is due and what is expected; takes out of both what the page shows.
    :param refused_seconds: For how long a list that is refused is not asked for.
    """

    def __init__(self, take: Callable[[JobPage, dict[str, str], set[str]], None], refused_seconds: float) -> None:
        self._take = take
        self._refused_seconds = refused_seconds
        self._list_again = float("-inf")
        self._resume: str | None = None

    def may_list(self, now: float) -> bool:
        """Whether the list is worth asking for."""
        return now >= self._list_again

    def sweep(self, unseen: dict[str, str], expected: set[str], now: float) -> Pages:
        """
        Read the list for many jobs.

        :param unseen: Keys and names of all that are due.
        :param expected: Keys of those that the list should show; more than a few.
        :raises GeminiBatchError: Into the driver: what concerns the poller as a whole.
        """
        if self._resume is not None:
            token, self._resume = self._resume, None
            yield from self._read(unseen, expected, token, now)
        if len(expected) > FEW and (yield from self._read(unseen, expected, None, now)):
            return frozenset(expected)
        return ()

    def first_page(self, unseen: dict[str, str], now: float) -> Pages:
        """
        Read page 1, in place of single reads of what it shows. Trouble with it leaves those to do.

        :raises RateLimitedError: Into the driver: a quota concerns the poller as a whole.
        """
        try:
            page = yield ReadPage(None)
        except RateLimitedError:
            raise
        except GeminiBatchError as error:
            if not error.is_transient:
                self._refused(error, now)
            return ()
        self._take(page, unseen, set())
        return ()

    def _read(
        self, unseen: dict[str, str], expected: set[str], token: str | None, now: float
    ) -> Generator[ReadPage, JobPage, bool]:
        """Read from *token* on; return whether what is left of *expected* is not in the list, as far as it pays."""
        in_vain = beyond = 0
        # Written as a race: pages read in vain against single reads that they would have spared.
        while in_vain <= len(expected) if expected else (beyond + 1) * READ_ON <= len(unseen):
            beyond += not expected
            try:
                page = yield from _page(token)
            except (ReplyFormatError, ReplyTooLargeError):
                # One item that cannot be read spoils its page; single reads get around it.
                return False
            except GeminiBatchError as error:
                if error.is_transient or isinstance(error, (AuthError, ConfigurationError)):
                    # The page that failed is asked for again, not the one behind it.
                    self._resume = token
                    raise
                if token is None:
                    self._refused(error, now)
                return False
            before = len(expected)
            self._take(page, unseen, expected)
            in_vain += len(expected) == before
            before_it, token = token, page.next_page_token
            if not token or token == before_it:
                break
        return True

    def _refused(self, error: GeminiBatchError, now: float) -> None:
        log.warning("Batch jobs cannot be listed for now, so they are read one by one: %s", error)
        self._list_again = now + self._refused_seconds


def _page(token: str | None) -> Generator[ReadPage, JobPage, JobPage]:
    try:
        return (yield ReadPage(token))
    except ReplyFormatError:
        # Once more, as a single page may have been garbled on the way.
        return (yield ReadPage(token))
