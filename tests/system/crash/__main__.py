# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.system.crash``: crash a real Airflow in every way and print the bill; fail if it was paid twice."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import requests

from demo.__main__ import DemoError, StoppedError, bring_up, folder, stopping_on_signals
from demo.display import Display
from tests.system.crash.cases import (
    CASES,
    DEFERRED_CASES,
    LOOP_CASES,
    TRIGGERER_CASES,
    UNTOLD_CASES,
    WORKER_CASES,
    Case,
)
from tests.system.crash.scripts import SCRIPTS, settled, triggerers
from tests.system.crash.stack import CrashStack
from tests.system.crash.verdict import Verdict, table
from tests.system.crash.world import NotSeenError, Run, Script, Until, World
from tests.system.services import postgres
from tests.system.services.suite import suite

ROOT = Path(__file__).resolve().parents[3]
STATE = ROOT / ".cache" / "crash"
TICK = 1.0
STAGGER = 1.5
"""Seconds between the beginnings of two cases: a dozen tasks that start at once would keep each other waiting."""
TASKS_AT_ONCE = 16


class Thread:
    """
    A script that is being carried out.

    :param run: The case, or None for what concerns them all.
    :param delay: Seconds until it begins.
    """

    def __init__(self, script: Script, run: Run | None = None, delay: float = 0.0) -> None:
        self.run = run
        self._not_before = time.monotonic() + delay
        self.trouble = ""
        self.is_over = False
        self._script = script
        self._step: Until | None = None
        self._since = 0.0

    def go_on(self) -> None:
        """Carry the script out as far as it goes at the moment."""
        if time.monotonic() < self._not_before:
            return
        try:
            while self._step is None or self._step.question():
                self._step = next(self._script)
                self._since = time.monotonic()
            if time.monotonic() - self._since > self._step.patience:
                raise NotSeenError(self._step.what)
        except StopIteration:
            self.is_over = True
        except NotSeenError as error:
            self.trouble, self.is_over = f"did not see {error}", True
        except Exception as error:
            self.trouble, self.is_over = f"{type(error).__name__}: {error}", True


def carry_out(world: World, threads: list[Thread], display: Display) -> list[Verdict]:
    """Carry out scripts side by side until all are over, and judge their cases."""
    verdicts = []
    waiting = list(threads)
    while waiting:
        began = time.monotonic()
        world.stack.check()
        world.refresh()
        for thread in waiting:
            thread.go_on()
        for thread in [each for each in waiting if each.is_over]:
            waiting.remove(thread)
            if thread.run is not None:
                verdicts.append(_judge(world, thread, display))
            elif thread.trouble:
                display.step(f"the triggerers: {thread.trouble}")
        display.update(f"{len(verdicts)} of {sum(thread.run is not None for thread in threads)} cases are over")
        time.sleep(max(0.0, TICK - (time.monotonic() - began)))
    return verdicts


def _judge(world: World, thread: Thread, display: Display) -> Verdict:
    run = thread.run
    assert run is not None
    run.end()
    world.refresh()
    verdict = run.verdict(thread.trouble)
    display.step(f"{'ok    ' if verdict.is_fine else 'FAILED'} {run.case.name} {run.case.backend}  {thread.trouble}")
    return verdict


def play(world: World, cases: Sequence[Case], delay: float = 0.0) -> list[Thread]:
    """Return the scripts of cases, to be carried out one after the other's beginning."""

    def script(run: Run) -> Script:
        yield from SCRIPTS[run.case.name](run)
        yield settled(run)

    runs = [Run(case, world) for case in cases]
    return [Thread(script(run), run, delay + number * STAGGER) for number, run in enumerate(runs)]


def tell(stack: CrashStack, display: Display, chosen: Sequence[Case]) -> list[Verdict]:
    """Carry out the whole story."""
    bring_up(stack, CASES[-1].dag_id, display)
    # No job ends by itself: its case says when.
    stack.emulator.configure(script={"mode": "time", "pending_seconds": 0, "stuck": "PENDING"})
    stack.add_connections()
    stack.write_rows(chosen)
    world = World(stack)
    of_triggerers = play(world, [case for case in TRIGGERER_CASES if case in chosen])
    delay = len(of_triggerers) * STAGGER
    of_workers = play(world, [case for case in WORKER_CASES if case in chosen], delay)
    watched = [thread.run for thread in of_triggerers if thread.run is not None]
    fates = [Thread(triggerers(world, watched))] if watched else []
    display.step(f"{len(of_triggerers)} cases of triggerers, {len(of_workers)} of workers")
    verdicts = carry_out(world, [*of_triggerers, *of_workers, *fates], display)
    of_deferred = play(world, [case for case in (*DEFERRED_CASES, *LOOP_CASES) if case in chosen])
    if of_deferred:
        display.step(f"{len(of_deferred)} cases of deferred tasks")
        if not watched:
            stack.start_triggerer("triggerer-2")
        verdicts += carry_out(world, of_deferred, display)
    of_untold = play(world, [case for case in UNTOLD_CASES if case in chosen])
    if of_untold:
        display.step(f"{len(of_untold)} cases without a triggerer")
        stack.kill_triggerers()
        verdicts += carry_out(world, of_untold, display)
    return sorted(verdicts, key=lambda verdict: CASES.index(verdict.case))


def run_all(state: Path, chosen: Sequence[Case], display: Display) -> list[Verdict]:
    """Start everything, carry out the story, stop everything."""
    programs = postgres.find_programs()
    with suite(state, ("airflow", "logs"), display) as (processes, database):
        display.step("starting PostgreSQL")
        stack = CrashStack(ROOT, state, processes, postgres.start(processes, programs, database), TASKS_AT_ONCE)
        return tell(stack, display, chosen)


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.crash", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=sorted(SCRIPTS), help="some cases alone")
    parser.add_argument("--state", type=folder, default=STATE, help="folder for everything that is written")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Return the exit code: 1 if anything was billed twice or for nothing, left running, or ended otherwise."""
    arguments = read_arguments(words)
    chosen = [case for case in CASES if not arguments.only or case.name in arguments.only]
    display = Display()
    started = time.monotonic()
    try:
        with stopping_on_signals():
            verdicts = run_all(arguments.state, chosen, display)
    except StoppedError as stopped:
        print(f"Stopped by signal {stopped.signal_number}; nothing is judged.", file=sys.stderr)
        return 128 + stopped.signal_number
    except (DemoError, postgres.NoPostgresError, TimeoutError, requests.RequestException) as error:
        for line in getattr(error, "lines", []):
            print(line, file=sys.stderr)
        print(f"The crash suite could not be carried out: {error}", file=sys.stderr)
        return 1
    for line in table(verdicts):
        print(line)
    for verdict in verdicts:
        if verdict.trouble:
            print(f"{verdict.case.name} {verdict.case.backend}: {verdict.trouble}")
    fine = sum(verdict.is_fine for verdict in verdicts)
    needed = sum(verdict.case.needed for verdict in verdicts)
    billed = sum(verdict.billed for verdict in verdicts)
    orphans = sum(verdict.orphans for verdict in verdicts)
    print(f"{fine} of {len(chosen)} cases ok; jobs billed / needed {billed}/{needed}, orphans {orphans}; "
          f"{time.monotonic() - started:.0f} s")  # fmt: skip
    return 0 if fine == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
