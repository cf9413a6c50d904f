# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.system.cluster run | test``: an Airflow with Celery, for a person or a test; see the Makefile."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests

from demo.__main__ import DAG_ID, DAGS, DemoError, StoppedError, bring_up, folder, stopping_on_signals
from demo.display import Display
from tests.system.cluster.stack import ClusterStack, Programs
from tests.system.cluster.story import BACKENDS, NO_JOB_ENDS, SCENARIOS, Story, Verdict, carry_out
from tests.system.services import postgres, redis
from tests.system.services.suite import suite

ROOT = Path(__file__).resolve().parents[3]
STATE = ROOT / ".cache" / "cluster"
TEST_DAGS = Path(__file__).parent / "dags"
MEGABYTE = 1 << 20


@contextmanager
def cluster(state: Path, dags: Path, display: Display) -> Iterator[ClusterStack]:
    """Have PostgreSQL, Redis and what runs on them, not started yet; all of it is stopped at the end."""
    programs = Programs.find()
    with suite(state, ("airflow", "logs", "shared"), display) as (processes, database):
        display.step("starting PostgreSQL and Redis")
        url = postgres.start(processes, programs.postgres, database)
        broker = redis.start(processes, programs.redis, state)
        yield ClusterStack(ROOT, state, dags, processes, url, broker)


def look(state: Path, display: Display) -> None:
    """Start the cluster with the example DAGs, and leave it to a person until Ctrl-C."""
    with cluster(state, DAGS, display) as stack:
        bring_up(stack, DAG_ID, display)
        for line in memory_words(stack.memory()):
            display.say(line)
        display.say(f"Airflow:   {stack.airflow.base_url}  (no password)")
        display.say(f"Emulator:  {stack.emulator.base_url}")
        display.say(f"Logs:      {state / 'logs'}")
        display.say("Ctrl-C stops everything.")
        while True:
            stack.check()
            time.sleep(1)


def test(state: Path, display: Display, names: Sequence[str], backends: Sequence[str]) -> list[Verdict]:
    """Tell the story: each scenario on each backend named, in that order."""
    with cluster(state, TEST_DAGS, display) as stack:
        bring_up(stack, "cluster_held", display)
        stack.emulator.configure(script=NO_JOB_ENDS)
        for backend in BACKENDS:
            stack.airflow.add_connection(f"cluster_{backend}", stack.connection(backend))
        story = Story(stack, display, state / "shared")
        verdicts = []
        for number, story.backend in enumerate(backends, 1):
            for name in names:
                display.step(f"{name}: {' '.join((SCENARIOS[name].__doc__ or '').split())}")
                verdict = carry_out(story, name, f"{name}-{number}")
                verdicts.append(verdict)
                outcome = "FAILED" if verdict.faults else "ok"
                display.step(f"{outcome} {name} {story.backend}, {verdict.seconds:.0f} s")
                for fault in verdict.faults:
                    display.say(f"  {fault}")
        display.say("Most memory of each part, all of its processes, in MB:")
        for line in memory_words(story.peak):
            display.say(line)
        return verdicts


def memory_words(sizes: dict[str, int]) -> list[str]:
    """Return lines with the memory of parts."""
    return [f"  {name:<16}{size // MEGABYTE:>6}" for name, size in sizes.items()]


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.cluster", description=__doc__)
    parser.add_argument("story", choices=["run", "test"])
    parser.add_argument("--only", nargs="+", metavar="SCENARIO", choices=sorted(SCENARIOS), help="some scenarios alone")
    backends = {"nargs": "+", "metavar": "BACKEND", "choices": BACKENDS, "default": [*BACKENDS[:1]]}
    parser.add_argument("--backends", **backends, help="one round of scenarios for each; one may be named twice")
    parser.add_argument("--state", type=folder, default=STATE, help="folder for everything that is written")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Return the exit code: 1 if a row was lost, paid twice or left running, or the cluster did not come up."""
    arguments = read_arguments(words)
    display = Display()
    started = time.monotonic()
    try:
        with stopping_on_signals():
            if arguments.story == "run":
                look(arguments.state, display)
            names = [name for name in SCENARIOS if not arguments.only or name in arguments.only]
            verdicts = test(arguments.state, display, names, arguments.backends)
    except StoppedError as stopped:
        looking = arguments.story == "run" and stopped.signal_number == signal.SIGINT
        return 0 if looking else 128 + stopped.signal_number
    except (DemoError, postgres.NoPostgresError, redis.NoRedisError, TimeoutError, requests.RequestException) as error:
        for line in getattr(error, "lines", []):
            print(line, file=sys.stderr)
        print(f"The cluster could not be carried out: {error}", file=sys.stderr)
        return 1
    fine = sum(not verdict.faults for verdict in verdicts)
    print(f"{fine} of {len(verdicts)} scenarios ok; {time.monotonic() - started:.0f} s")
    return 0 if fine == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
