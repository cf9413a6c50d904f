# SPDX-License-Identifier: Apache-2.0
"""
Seeded schedules, played by a command: one alone, or many in several processes.

A schedule is a function of an emulator, an empty folder and a seed, which counts what happened and raises if something
is wrong. It is a module's own, so that another process can import it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from gemini_batch_emulator.pytest_plugin import EmulatorHandle
from gemini_batch_emulator.server import EmulatorServer
from tests.system.chaos.report import table

Play = Callable[[EmulatorHandle, Path, int], Counter[str]]


@dataclass
class Outcome:
    """What came of several schedules."""

    schedules: int = 0
    failures: list[str] = field(default_factory=list)
    told: Counter[str] = field(default_factory=Counter)

    def add(self, other: Outcome) -> None:
        """Take in what came of others."""
        self.schedules += other.schedules
        self.failures += other.failures
        self.told += other.told

    def text(self) -> str:
        """Return it as a table, and what failed."""
        lines = [(what, count) for what, count in sorted(self.told.items())]
        shown = table(("what", "times"), [("schedules", self.schedules), ("failed", len(self.failures)), *lines])
        return "\n\n".join((shown, *self.failures))


def play_some(play: Play, seeds: Sequence[int]) -> Outcome:
    """Play schedules in this process, one after the other."""
    logging.disable(logging.CRITICAL)
    found = Outcome()
    with EmulatorServer() as server:
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                found.schedules += 1
                try:
                    found.told += play(EmulatorHandle(server), Path(folder), seed)
                except Exception as error:
                    found.failures.append(f"seed {seed}: {type(error).__name__}: {error}"[:300])
    return found


def play_all(play: Play, seeds: Sequence[int], processes: int) -> Outcome:
    """Play schedules in several processes."""
    found = Outcome()
    pieces = [seeds[first : first + 10] for first in range(0, len(seeds), 10)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for piece in pool.map(partial(play_some, play), pieces):
            found.add(piece)
            print(f"\r{found.schedules} of {len(seeds)} schedules, {len(found.failures)} failed", end="", flush=True)
    print()
    return found


def command(play: Play, module: str, seeds: int) -> int:
    """
    Play what the command line asks for.

    :param seeds: How many, if it does not say.
    :return: 1 if a schedule fails.
    """
    words = argparse.ArgumentParser(prog=f"python -m {module}")
    words.add_argument("--seed", type=int, help="this seed alone, with its log")
    words.add_argument("--seeds", type=int, default=seeds)
    words.add_argument("--first", type=int, default=0)
    words.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = words.parse_args()
    if options.seed is not None:
        logging.basicConfig(level=logging.INFO)
        with EmulatorServer() as server, tempfile.TemporaryDirectory() as folder:
            print(json.dumps(play(EmulatorHandle(server), Path(folder), options.seed), indent=1))
        return 0
    found = play_all(play, range(options.first, options.first + options.seeds), options.processes)
    print(found.text())
    return 1 if found.failures else 0
