# SPDX-License-Identifier: Apache-2.0
"""
``python -m tests.system.chaos``: whether anybody pays twice when things go wrong, and what it costs to make sure.

Five parts: seeded schedules of faults; the same faults for the official provider and for ours; what the look-up adds;
seeded schedules for whole runs, from rows to a table (``python -m tests.run.chaos --seed N`` replays one of those), and
for tasks under a cap (``python -m tests.operators.caps --seed N``).
Fails if one of our tasks was billed twice, left a job running, lost a row or created a job over its cap.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.system.chaos import report, seeded
from tests.system.chaos.schedule import BACKENDS, MODES

if TYPE_CHECKING:
    from tests.support.seeded_plays import Play

SEEDS = 500
PARTS = ("schedules", "official", "cost", "runs", "caps")


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    words = argparse.ArgumentParser(
        prog="python -m tests.system.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("--part", choices=PARTS, action="append", help="this part alone (may be repeated)")
    words.add_argument("--seed", type=int, help="replay this seed alone, with its log")
    words.add_argument("--seeds", type=int, default=SEEDS, help="schedules per backend, shared by the modes")
    words.add_argument("--first", type=int, default=0, help="the first seed")
    words.add_argument("--backend", choices=(*BACKENDS, "both"), default="both")
    words.add_argument("--mode", choices=(*MODES, "both"), default="both")
    words.add_argument("--processes", type=int, default=6 * (os.cpu_count() or 1), help="schedules at the same time")
    words.add_argument("--json", type=Path, metavar="FILE", help="write every schedule's bill")
    words.add_argument("--google-python", metavar="PY", help="Python with the official provider, to compare with")
    words.add_argument("--results", type=Path, metavar="FILE", help="keep the figures of each part that ran in full")
    return words


def main(arguments: list[str] | None = None) -> int:
    """Run; the exit code is 1 if anything of ours was billed twice, left running or lost."""
    words = parser()
    options = words.parse_args(arguments)
    if options.google_python and not Path(options.google_python).exists():
        words.error(f"There is no {options.google_python}.")
    parts = ("schedules",) if options.seed is not None else options.part or PARTS
    run = {"schedules": _schedules, "official": _official, "cost": _cost, "runs": _runs, "caps": _caps}
    return max([run[part](options) for part in PARTS if part in parts])


def _schedules(options: argparse.Namespace) -> int:
    backends = BACKENDS if options.backend == "both" else (options.backend,)
    modes = MODES if options.mode == "both" else (options.mode,)
    is_replay = options.seed is not None
    seeds = [options.seed] if is_replay else range(options.first, options.first + options.seeds)
    plans = seeded.plans_for(seeds, backends, modes, is_replay=is_replay)
    is_clean, text = seeded.carry_out(plans, options.processes, is_replay=is_replay, keep_in=options.json)
    if len(plans) >= SEEDS * len(BACKENDS):
        _keep(options, 0, f"{text}\n\n{report.machine()}.")
    return 0 if is_clean else 1


def _official(options: argparse.Namespace) -> int:
    if options.google_python is None:
        print("\nBeside the official provider: left out, as --google-python does not say where it is.")
        return 0
    from tests.system.chaos import side_by_side
    from tests.system.chaos.interpreter import Interpreter

    print("\nThe same faults for the official provider and for ours.", flush=True)
    with contextlib.ExitStack() as stack:
        theirs = stack.enter_context(Interpreter(options.google_python, "tests.system.chaos.fork_server:OFFICIAL"))
        ours = stack.enter_context(Interpreter(sys.executable, "tests.system.chaos.fork_server:OURS"))
        bills = side_by_side.play_all(side_by_side.plans_for((theirs, ours)))
        text = side_by_side.comparison(bills, (theirs, ours))
    print(text)
    _keep(options, 1, text)
    return _tell(side_by_side.troubles(bills))


def _cost(options: argparse.Namespace) -> int:
    from tests.system.chaos import look_up

    print("\nWhat the look-up adds to a plain create.", flush=True)
    text = look_up.measure()
    print(text)
    _keep(options, 2, f"{text}\n\n{report.machine()}.")
    return 0


def _runs(options: argparse.Namespace) -> int:
    from tests.run import chaos

    print("\nWhole runs.", flush=True)
    return _plays(options, 3, chaos.play, options.seeds, chaos.SEEDS)


def _caps(options: argparse.Namespace) -> int:
    from tests.operators import caps

    print("\nTasks under a cap.", flush=True)
    return _plays(options, 4, caps.play, min(options.seeds, caps.SEEDS), caps.SEEDS)


def _plays(options: argparse.Namespace, part: int, play: Play, seeds: int, whole: int) -> int:
    from tests.support.seeded_plays import play_all

    found = play_all(play, range(options.first, options.first + seeds), os.cpu_count() or 1)
    print(found.text())
    if seeds >= whole:
        _keep(options, part, f"{found.text()}\n\n{report.machine()}.")
    return _tell(found.failures)


def _keep(options: argparse.Namespace, part: int, text: str) -> None:
    if options.results is not None:
        report.keep(options.results, report.PARTS[part], text)


def _tell(troubles: Sequence[str]) -> int:
    for trouble in troubles:
        print(f"FAILED {trouble}")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
