# SPDX-License-Identifier: Apache-2.0
"""Whether the service honours ``fields=``, by which a read leaves out inline answers."""

from __future__ import annotations

MASK_DOUBTS = 3
"""So many replies in a row speak against partial responses before they are given up."""


class FieldMaskSupport:
    """
    Whether partial responses are honoured, as the flows find out; shared by all flows of a backend.

    They are documented for every Google API, but nobody has shown that they reach into an operation's metadata. One
    reply proves nothing against them, as any single one may be spoilt: without them, all answers of an ended job with
    inline results come with the look at it.
    """

    def __init__(self) -> None:
        self.are_proven = False
        self._doubts = 0

    @property
    def are_used(self) -> bool:
        """Whether to ask for partial responses."""
        return self._doubts < MASK_DOUBTS

    def succeeded(self) -> None:
        """Note a partial response as it should be."""
        self.are_proven = True
        self._doubts = 0

    def failed(self) -> None:
        """Note that a full response told what the partial one before it did not."""
        self._doubts += 1
