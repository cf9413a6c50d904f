# SPDX-License-Identifier: Apache-2.0
"""
``python -m tests.system.adversary``: who pays twice when the list of jobs lags.

For each kind of pair, backend, lag, with and without a state store: jobs that run or have run to their end, for each
piece of work. Fails unless it is one wherever jobs run longer than the lag and a minute, and unless the task names both
where it is two.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.system.adversary.pairs import BACKENDS, KINDS, LAGS, Bill, Pair, plans
from tests.system.adversary.tasks import WAYS, TaskPair, tasks_and_service
from tests.system.chaos.report import machine, table

PAIRS = 50
TASKS = 1
TOLD = """\
The operators, their trigger over the shared poller, and the sensor with a download behind it, as they are; the service
behind real sockets; one stepped clock for all of them. An attempt that fails is retried after a minute."""
MEANING = """\
Jobs that run or have run to their end one lag and a minute after the last create, of so many pieces of work; *told*:
where that is more than one, how often the task names all of them (`paid_twice`). The list of jobs lags up to so many
seconds, differently at each request. The flows are the production's (submission, wait in a worker, reconciliation), the
service is written from the wire facts alone, time is stepped. *killed*: the first attempt dies right after its create
call; *simultaneous*: two attempts at once; *zombie*: the first one's create call is still on its way when the second
begins; *lost*: one attempt, whose answer is lost."""


def main(arguments: list[str] | None = None) -> int:
    """Play the pairs; the exit code is 1 if a bill is not right."""
    words = argparse.ArgumentParser(
        prog="python -m tests.system.adversary",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words.add_argument("--pairs", type=int, default=PAIRS, help="pairs for each cell of the tables")
    words.add_argument(
        "--tasks", type=int, default=TASKS, help="pairs of real tasks over HTTP, for each of their cells"
    )
    words.add_argument("--results", type=Path, metavar="FILE", help="keep the tables")
    options = words.parse_args(arguments)
    kept = [f"# Results of `python -m tests.system.adversary`\n\n{options.pairs} pairs for each cell. {MEANING}"]
    started = time.monotonic()
    wrong: list[Bill] = []
    for long, title in ((True, "Jobs that run longer than the lag + 60 s"), (False, "Shorter jobs")):
        bills = [Pair(plan).play() for plan in plans(options.pairs, long=long)]
        kept.append(f"## {title}\n\n{_table(bills, long=long)}")
        print(f"\n{kept[-1]}")
        wrong += [bill for bill in bills if not bill.is_right]
    if options.tasks:
        kept.append(
            f"## Real tasks over HTTP\n\n{options.tasks} pairs for each way, kind, backend, lag and store. {TOLD}"
        )
        with tasks_and_service():
            for long, title in ((True, "Jobs that run longer than the lag + 60 s"), (False, "Shorter jobs")):
                played = {way: _played(way, options.tasks, long=long) for way in WAYS}
                kept.append(f"### {title}\n\n{_table_of_tasks(played, long=long)}")
                print(f"\n{kept[-1]}")
                wrong += [bill for bills in played.values() for bill in bills if not bill.is_right]
    print(f"\n{time.monotonic() - started:.0f} s")
    if options.results is not None:
        options.results.write_text("\n\n".join((*kept, f"{machine()}.")) + "\n")
    for bill in wrong[:20]:
        print(f"WRONG {bill.plan}: alive {[job.name for job in bill.alive]}, told {bill.told}, {bill.errors}")
    return 1 if wrong else 0


def _played(way: str, pairs: int, *, long: bool) -> list[Bill]:
    return [TaskPair(plan, way).play() for plan in plans(pairs, long=long)]


def _alive(cell: list[Bill]) -> str:
    """Jobs that run or have run to their end, of so many pieces of work."""
    return f"{sum(len(bill.alive) for bill in cell)}/{len(cell)}"


def _told(cell: list[Bill]) -> str:
    """How often all names of two such jobs are told."""
    double = [bill for bill in cell if len(bill.alive) > 1]
    return f"{sum(bill.is_right for bill in double)}/{len(double)}"


def _table_of_tasks(played: dict[str, list[Bill]], *, long: bool) -> str:
    head: list[object] = ["waits", "attempts", "backend", *(f"lag {lag:g} s" for lag in LAGS)]
    head += [] if long else ["told"]
    lines = []
    for way, bills in played.items():
        for kind in KINDS:
            for backend in BACKENDS:
                row = [bill for bill in bills if (bill.plan.kind, bill.plan.backend) == (kind, backend)]
                line: list[object] = [way, kind, backend]
                line += [_alive([bill for bill in row if bill.plan.lag == lag]) for lag in LAGS]
                line += [] if long else [_told(row)]
                lines.append(tuple(line))
    return table(tuple(head), lines)


def _table(bills: list[Bill], *, long: bool) -> str:
    head: list[object] = ["attempts", "state store", "backend"]
    for lag in LAGS:
        head += [f"lag {lag:g} s"] if long else [f"lag {lag:g} s", "told"]
    lines = []
    for kind in KINDS:
        for store in (True, False):
            for backend in BACKENDS:
                line: list[object] = [kind, "yes" if store else "no", backend]
                for lag in LAGS:
                    cell = [
                        bill
                        for bill in bills
                        if (bill.plan.kind, bill.plan.store, bill.plan.backend, bill.plan.lag)
                        == (kind, store, backend, lag)
                    ]
                    line += [_alive(cell)] if long else [_alive(cell), _told(cell)]
                lines.append(tuple(line))
    return table(tuple(head), lines)


if __name__ == "__main__":
    sys.exit(main())
