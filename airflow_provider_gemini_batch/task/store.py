# SPDX-License-Identifier: Apache-2.0
"""What one attempt at a submission or a run leaves for the next, where Airflow keeps a task's state."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import SubmitError
from airflow_provider_gemini_batch.run.checkpoint import Left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

log = logging.getLogger(__name__)

CLOCKS_APART = 600.0
"""Seconds by which the clocks of two workers may differ."""

MOST_HEARD = 100
"""Names of jobs that the store keeps: more than one task instance has."""


class SubmissionStore:
    """
    What earlier attempts left in Airflow's task state store (3.3 and later; nothing elsewhere).

    :param store: ``context.get("task_state_store")``.
    :param seen_by: Says who sees a job (:meth:`~.connection.settings.ConnectionSettings.seen_by`).
    :param now: UTC epoch seconds; the clock of this machine if left out.
    """

    KEY = "gemini_batch_submission"

    def __init__(
        self, store: Any, *, seen_by: Callable[[str], str] = lambda name: "", now: Callable[[], float] | None = None
    ) -> None:
        self._store = store
        self._seen_by = seen_by
        self._now = now or time.time

    def recall(self) -> dict[str, Any]:
        """Return what was noted, or an empty dict."""
        if self._store is None:
            return {}
        try:
            noted = self._store.get(self.KEY)
        except Exception as error:  # the store is a help, the service's list decides
            log.warning(
                "The task state store could not be read (%s); the service's list decides.", type(error).__name__
            )
            return {}
        return noted if isinstance(noted, dict) else {}

    def note(self, what: str, value: str) -> None:
        """
        Keep an ``intent`` (a token, right before a create), that its create was ``refused``, a ``job`` (its name), or
        whether a named job was ``cut_short`` or is ``whole``.

        A new intent outdates the job noted before it. ``unheard`` counts the create calls of which nothing was heard,
        ``heard`` names the jobs that came of none of them.

        :raises SubmitError: For an intent, if the supervisor is gone: whatever this process submits nobody will hear
            of, and Airflow starts another attempt beside it.
        """
        if self._store is None:
            return
        before = self.recall()
        verdicts = before.get("verdicts")
        verdicts = dict(verdicts) if isinstance(verdicts, dict) else {}
        # Example: a store that was cleared lists job A, call 1 is lost, call 2 makes B. `heard` has A and B, `unheard`
        # is 1: one job more may exist, and a cap leaves room for it.
        calls, heard = unheard_of(before), jobs_heard_of(before)
        if what in ("cut_short", "whole"):
            noted = {**before, "verdicts": {**verdicts, value: what == "cut_short"}}
        elif what == "intent":
            noted = {
                "intent": value,
                "intent_at": self._now(),
                "unheard": calls + 1,
                **({"heard": heard} if heard else {}),
                **({"verdicts": verdicts} if verdicts else {}),
            }
        elif what == "refused":
            # Refused for certain, so nothing is to be looked for.
            noted = {**before, "unheard": max(0, calls - 1)}
        else:
            is_news = value not in heard
            heard = [*(name for name in heard if name != value), value]
            noted = {**before, what: value, "unheard": max(0, calls - is_news), "heard": heard[-MOST_HEARD:],
                     "seen_by": self._seen_by(value)}  # fmt: skip
        self._keep(what, noted)

    def is_anothers(self, noted: Mapping[str, Any]) -> bool:
        """Whether the noted job was seen by another key, or in another project, than this attempt's."""
        seen_by = noted.get("seen_by")
        return isinstance(seen_by, str) and seen_by != self._seen_by(str(noted.get("job")))

    def note_told(self, occasion: str) -> None:
        """
        Keep that the task was told of a job which it cannot see.

        :param occasion: See :func:`~.variables.occasion_of`: a clear after that is a person's answer to it.
        """
        self._keep("told", {**self.recall(), "told": occasion})

    def note_listed(self, names: Iterable[str]) -> None:
        """
        Keep the names of jobs that are known before a create: unless a call is unheard of, they came of none.

        Example: a clear has emptied the store, and a job of before the clear is listed. The next create call is lost.
        Without the name, that job would pass for what came of the call.
        """
        before = self.recall()
        heard = jobs_heard_of(before)
        new = [name for name in names if name not in heard]
        if new and not unheard_of(before):
            self._keep("heard", {**before, "heard": [*heard, *new][-MOST_HEARD:]})

    def _keep(self, what: str, noted: Mapping[str, Any]) -> None:
        if self._store is None:
            return
        try:
            self._store.set(self.KEY, noted)
        except (EOFError, ConnectionError) as error:
            log.warning("This task's supervisor is gone (%s).", type(error).__name__)
            if what == "intent":
                raise SubmitError(
                    "This task's supervisor is gone; nothing was submitted. The next attempt at this task does it."
                ) from error
        except Exception as error:  # the service's list decides
            log.warning("The task state store could not be written (%s).", type(error).__name__)


def jobs_heard_of(noted: Mapping[str, Any]) -> list[str]:
    """Return the names of the jobs that attempts have heard of, or knew before they made a call."""
    heard = noted.get("heard")
    names = heard if isinstance(heard, list) else [noted.get("job")]  # an older version noted the last one alone
    return [name for name in names if isinstance(name, str)]


def unheard_of(noted: Mapping[str, Any]) -> int:
    """Return how many create calls were noted of which nothing was heard."""
    calls = noted.get("unheard")
    return calls if isinstance(calls, int) and calls > 0 else 0


def intent_time(noted: Mapping[str, Any], now: float) -> float | None:
    """
    Return when the last create call was made, as far as earlier attempts noted it.

    Another worker's clock may be minutes behind ours, and its call a moment old though its note looks older than the
    time that a job needs to be listed. So a call of which nothing was heard counts as later than it was noted.

    :param now: UTC epoch seconds.
    :return: UTC epoch seconds; None if no call was noted.
    """
    at = noted.get("intent_at")
    if not isinstance(at, (int, float)):
        return None
    return min(now, at + CLOCKS_APART) if unheard_of(noted) else at


class CheckpointStore:
    """
    What a run's attempts say of the checkpoint that they left, for the one that does not see it.

    A clear is another occasion: whoever clears a task has it go on without a checkpoint that is out of sight.

    :param store: ``context.get("task_state_store")``.
    :param place: Of the run's checkpoint.
    :param occasion: See :func:`~.variables.occasion_of`.
    """

    KEY = "gemini_batch_checkpoint"

    def __init__(self, store: Any, place: str, occasion: str) -> None:
        self._store = store
        self._here = {"place": place, "occasion": occasion}

    def recall(self) -> Left | None:
        """Return what an earlier attempt left here on this occasion; None if nothing is known of one."""
        noted = self._get()
        return Left.read(noted) if {name: noted.get(name) for name in self._here} == self._here else None

    def note(self, left: Left) -> None:
        """Keep what this attempt leaves."""
        value = {**self._here, **asdict(left)}
        if self._store is None or self._get() == value:
            return
        try:
            self._store.set(self.KEY, value)
        except Exception as error:  # a help for whoever does not see the checkpoint; the run needs none of it
            log.warning("The task state store could not be written (%s).", type(error).__name__)

    def _get(self) -> dict[str, Any]:
        if self._store is None:
            return {}
        try:
            noted = self._store.get(self.KEY)
        except Exception as error:
            log.warning("The task state store could not be read (%s).", type(error).__name__)
            return {}
        return noted if isinstance(noted, dict) else {}
