# SPDX-License-Identifier: Apache-2.0
"""The emulator's ledger against what was wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.system.services.ledger import is_live

if TYPE_CHECKING:
    from tests.system.crash.cases import Case

HEAD = ("case", "backend", "needed", "created", "billed", "orphans", "wanted", "seen", "seconds", "ok")


@dataclass(frozen=True)
class Verdict:
    """
    What came of a case.

    :param created: Jobs that came into being.
    :param billed: Jobs of which rows were billed.
    :param orphans: Jobs that ran on when all was over.
    :param seen: States of the task's instances.
    :param trouble: What went otherwise than scripted; empty if nothing did.
    """

    case: Case
    created: int
    billed: int
    orphans: int
    seen: tuple[str, ...]
    seconds: float
    trouble: str = ""

    @property
    def is_fine(self) -> bool:
        """Whether nobody paid twice or for nothing, and the task ended as it has to."""
        case = self.case
        expected = (case.needed, case.needed if case.created is None else case.created, 0, case.ends)
        return not self.trouble and (self.billed, self.created, self.orphans, self.seen) == expected

    def words(self) -> tuple[str, ...]:
        """Return its line of the table."""
        numbers = (self.case.needed, self.created, self.billed, self.orphans)
        return (
            self.case.name,
            self.case.backend,
            *map(str, numbers),
            ",".join(self.case.ends),
            ",".join(self.seen) or "-",
            f"{self.seconds:.0f}",
            "ok" if self.is_fine else "FAILED",
        )


def judge(
    case: Case, jobs: Sequence[Mapping[str, Any]], seen: Sequence[str | None], seconds: float, trouble: str = ""
) -> Verdict:
    """
    Judge a case that is over.

    :param jobs: The ledger's entries of its jobs.
    :param seen: The states of its task instances.
    """
    return Verdict(
        case,
        created=len(jobs),
        billed=sum(1 for job in jobs if job["billed_rows"]),
        orphans=sum(1 for job in jobs if is_live(job)),
        seen=tuple(str(state) for state in seen),
        seconds=seconds,
        trouble=trouble,
    )


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the lines of the table."""
    lines = [HEAD, *(verdict.words() for verdict in verdicts)]
    widths = [max(len(line[number]) for line in lines) for number in range(len(HEAD))]
    return ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines]
