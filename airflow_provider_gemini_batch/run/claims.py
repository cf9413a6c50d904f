# SPDX-License-Identifier: Apache-2.0
"""Which attempt may create the job of a shard?"""

# Two attempts may run at once: a worker thought dead, and the one that replaced it. Both see a shard without a job, and
# both would create one. So each of them creates a claim in the checkpoint first, which only one can: the file is
# created if it is not there. Example, with a patience of 107 s:
#
#   s     what happens
#   ----  ------------------------------------------------------------------------------------------
#   0     attempt 1 reads the list: no job. It creates `claim-r1.0-1` and calls create
#   2     attempt 1 is killed; its job is listed late
#   5     attempt 2 reads the list: no job. It finds the claim, and waits until 107 s
#   107+  attempt 2 reads the list again: the job is there and is adopted. Had attempt 1 died before
#         its call, no job would be there, ever: attempt 2 creates `claim-r1.0-2`, and the job

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.lifecycle.submission import SubmitPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.context import RunContext


_NUMBERED = re.compile(r"claim-.*-([1-9]\d*)\.json")


class ClaimedError(GeminiBatchError):
    """
    Another attempt is about to create the job of a shard.

    :ivar until: UTC epoch second at which its job is listed, or never will be.
    """

    def __init__(self, until: float) -> None:
        super().__init__("Another attempt is submitting the same rows.")
        self.until = until


def patience(context: RunContext) -> float:
    """Return the seconds after a create call within which its job is listed, or never will be."""
    policy = context.submit_policy or SubmitPolicy()
    return sum(policy.reconcile) + policy.in_flight


def calls_not_refused(
    intents: Sequence[Mapping[str, Any]], voids: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """
    Return the create calls of a shard that may have made a job, whether it is known or not.

    :param intents, voids: What is noted before each call, and after one that was refused for certain.
    """
    void = {note["claim"] for note in voids}
    # Rows that are asked one by one are noted before they are, too, but make no job.
    return [note for note in intents if not note.get("flex") and note.get("claim") not in void]


class Claims:
    """The claims of one attempt at a run."""

    def __init__(self, context: RunContext, checkpoint: Checkpoint) -> None:
        self._context = context
        self._checkpoint = checkpoint
        self._owner = uuid.uuid4().hex
        self._refused: set[str] = set()

    def claim(self, shard_id: str, looked_at: float) -> str:
        """
        Make sure that no job of this shard may come of another create call; called right before each.

        Of two attempts that come here at once, one creates the claim. The other one waits for as long as the first
        one's job may need to show up, and then looks at the list again: whoever died after its claim has a job there,
        or never will. The same holds for this attempt's own claim if the reply to its create call was lost.

        :param looked_at: UTC epoch second at which the list was read in which this shard had no job.
        :return: The claim's name.
        :raises ClaimedError: If another create call may still make a job.
        """
        number = self._last_noted(shard_id)
        while True:
            name = f"claim-{shard_id}-{number}.json"
            # Two calls of one attempt must differ, too: what is created decides by this id alone who has won.
            mine = {
                "owner": self._owner,
                "call": uuid.uuid4().hex,
                "at": self._context.now(),
                "host": self._context.host,
            }
            claim = self._checkpoint.create(name, mine)
            if claim.get("call") == mine["call"]:
                return name
            # By the clock of whoever made the claim: clocks that differ make the wait shorter or longer by as much.
            until = float(claim["at"]) + patience(self._context)
            # A claim of this attempt's is as good as new if its create call was refused.
            is_refused = claim["owner"] == self._owner and name in self._refused
            if not is_refused and looked_at < until:
                raise ClaimedError(until)
            number += 1

    def _last_noted(self, shard_id: str) -> int:
        """
        Return the number of the last claim whose create call is noted, 1 without one.

        The claims before it need not be read: they are older, and whoever made it had waited for them.
        """
        notes = self._checkpoint.notes(look=False)["intent"].get(shard_id, ())
        names = (_NUMBERED.fullmatch(str(note.get("claim"))) for note in notes)
        return max((int(name[1]) for name in names if name), default=1)

    def release(self, names: Iterable[str]) -> None:
        """Give claims back: their create calls were refused for certain, so that no job comes of them."""
        self._refused.update(names)
