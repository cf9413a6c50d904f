# SPDX-License-Identifier: Apache-2.0
"""``python -m demo run | ui | stop``; see the Makefile."""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import requests

from demo.connecting import CONNECTION, connect
from demo.display import Display, job_words, task_words
from demo.keeping import kept_ports, kept_secrets
from demo.processes import ComponentDiedError, Processes, stop_leftovers
from demo.report import NoManifestError, find_manifest, lines_of_report
from demo.stack import Stack
from demo.story import RETRY_SETTINGS, Mishap

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".demo"
DAGS = ROOT / "example_dags"
DAG_ID = "gemini_batch_classify_table"

# Slow enough to be watched, with a few refused rows, as any real night has them.
JOB_SCRIPT: dict[str, Any] = {
    "mode": "time",
    "pending_seconds": 3,
    "running_seconds": 12,
    "rows": [{"share": 0.02, "outcome": "error", "code": 3, "message": "The request was refused, as the demo has it."}],
}
READY_TIMEOUT = 120.0
RUN_TIMEOUT = 240.0
LOG_TAIL = 40
NEXT_STEPS = (
    "",
    "Next",
    "  make ui                              look at it in Airflow's UI",
    "  example_dags/classify_table.py       the DAG that ran",
    '  with a key, in your Airflow          pip install ".[tables]", then',
    '    airflow connections add gemini_batch_default --conn-type gemini_batch --conn-password "$GEMINI_API_KEY"',
    "  docs/from-emulator-to-google.md      what is different there",
)


class DemoError(Exception):
    """The demo cannot go on; *lines* tell why."""

    def __init__(self, message: str, lines: list[str] | None = None) -> None:
        super().__init__(message)
        self.lines = lines or []


class StoppedError(BaseException):
    """Somebody asked us to stop. Not an Exception: nothing on the way may take it for a failure of its own."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Turn the first Ctrl-C, SIGTERM or closed terminal into :class:`StoppedError`; later ones change nothing."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(signal_number: int, frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise StoppedError(signal_number)

    # Set even where the shell has made us ignore SIGINT, as it does for jobs in the background.
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold the state folder for this demo alone."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(f"a demo is running in {state}; end it first (Ctrl-C where it runs).") from None
        yield


def tail(log: Path, count: int = LOG_TAIL) -> list[str]:
    """Return the last lines of a log file."""
    return [f"--- the end of {log}", *log.read_text(errors="replace").splitlines()[-count:]]


def wait_until(question: Callable[[], bool], timeout: float, stack: Stack, what: str) -> None:
    """Ask *question* until it says yes, looking after the processes meanwhile."""
    deadline = time.monotonic() + timeout
    while not question():
        stack.check()
        if time.monotonic() > deadline:
            raise DemoError(f"{what} took more than {timeout:.0f} seconds")
        time.sleep(0.5)


def bring_up(stack: Stack, dag_id: str, display: Display) -> bool:
    """
    Start everything and wait until the DAG can be run.

    :return: Whether the connection leads to the emulator; a person may have made one of their own of it.
    """
    display.say("A real Airflow, and an emulator in Google's place: nothing is sent to Google, and nothing is billed.")
    display.step("starting the emulator, making Airflow's database")
    stack.start()
    display.step("starting Airflow: " + "API server, scheduler, DAG processor, triggerer")

    def is_healthy() -> bool:
        missing = stack.waiting_for()
        if missing:
            display.update("waiting for " + ", ".join(missing))
        return not missing

    def has_dag() -> bool:
        if stack.airflow.has_dag(dag_id):
            return True
        if errors := stack.airflow.import_errors():
            raise DemoError("A DAG file cannot be imported.", errors)
        display.update(f"waiting for DAG {dag_id} to be parsed")
        return False

    wait_until(is_healthy, READY_TIMEOUT, stack, "Starting Airflow")
    stack.airflow.sign_in()
    leads_to_emulator = connect(stack.airflow, stack.emulator.base_url)
    wait_until(has_dag, READY_TIMEOUT, stack, f"Finding DAG {dag_id}")
    display.step(f"ready: Airflow at {stack.airflow.base_url}, emulator at {stack.emulator.base_url}")
    return leads_to_emulator


def run_dag(
    stack: Stack, dag_id: str, conf: dict[str, Any], display: Display, mishap: Mishap | None = None
) -> dict[str, Any]:
    """
    Run the DAG once and return what each of its tasks returned.

    :param mishap: What befalls it meanwhile.
    """
    airflow = stack.airflow
    stack.emulator.configure(script=JOB_SCRIPT)
    if mishap is not None:
        mishap.prepare()
    airflow.unpause(dag_id)
    run_id = airflow.trigger(dag_id, conf)
    display.step(f"run {run_id} of {dag_id}" + (f" with {json.dumps(conf)}" if conf else ""))

    def is_over() -> bool:
        if mishap is not None:
            mishap.watch(dag_id, run_id)
        state = airflow.run_state(dag_id, run_id)
        display.update(task_words(airflow.task_states(dag_id, run_id)), job_words(stack.emulator.jobs()))
        return state in ("success", "failed")

    wait_until(is_over, RUN_TIMEOUT, stack, "The run")
    tasks = airflow.task_states(dag_id, run_id)
    display.step(task_words(tasks))
    if airflow.run_state(dag_id, run_id) != "success":
        failed = [name for name, state in tasks.items() if state == "failed"]
        lines = []
        for name in failed:
            lines += [f"--- the end of the log of task {name}", *airflow.task_log(dag_id, run_id, name)[-LOG_TAIL:]]
        raise DemoError(f"The run failed in {', '.join(failed) or 'no task'}.", lines)
    return {name: airflow.xcom(dag_id, run_id, name) for name in tasks if "[" not in name}


def make_stack(arguments: argparse.Namespace, processes: Processes, display: Display) -> Stack:
    """Return what is to run: anew for ``run``, with the database, ports and secrets of the last time for ``ui``."""
    state: Path = arguments.state.resolve()
    if arguments.story == "run":
        shutil.rmtree(state / "airflow", ignore_errors=True)
        return Stack(ROOT, state, arguments.dags, processes, more_settings=RETRY_SETTINGS)
    kept = state / "ui"
    kept.mkdir(exist_ok=True)
    ports = kept_ports(kept / "ports.json", display.step)
    keys = kept_secrets(kept / "secrets.json")
    return Stack(ROOT, kept, arguments.dags, processes, more_settings=RETRY_SETTINGS, ports=ports, keys=keys)


def play(arguments: argparse.Namespace, stack: Stack, mishap: Mishap | None, display: Display) -> None:
    """Start everything, run the DAG, report."""
    is_emulated = bring_up(stack, arguments.dag, display)
    if arguments.story == "ui":
        say_where(stack, arguments, display)
    if not is_emulated:
        display.say(f"The connection {CONNECTION} does not lead to the emulator: nothing was run, lest it is billed.")
        return
    returned = run_dag(stack, arguments.dag, arguments.conf, display, mishap)
    display.say()
    for line in lines_of_report(find_manifest(returned)):
        display.say(line)
    if mishap is not None and (bill := mishap.outcome()):
        display.say(f"  bill     {bill}")
    display.say()


def say_where(stack: Stack, arguments: argparse.Namespace, display: Display) -> None:
    """Say where to look, and how to get in."""
    airflow = stack.airflow.base_url
    runs = stack.airflow.count_runs(arguments.dag)
    display.say()
    display.say(f"Log in     {airflow}/  (no user, no password: whoever reaches it is an admin)")
    earlier = f"  ({runs} earlier run{'' if runs == 1 else 's'})" if runs else ""
    display.say(f"  DAG        {airflow}/dags/{arguments.dag}{earlier}")
    display.say(f"  your own   {airflow}/dags/gemini_batch_ask_from_the_ui  (Trigger asks questions of yours)")
    display.say(f"  page       {airflow}/plugin/gemini-batch")
    display.say(f"  connection {airflow}/connections  ({CONNECTION}; Test works)")
    display.say(f"  emulator   {stack.emulator.base_url}")
    display.say()


def demonstrate(arguments: argparse.Namespace, display: Display) -> None:
    """Run the whole story; returns when everything has been stopped."""
    state: Path = arguments.state.resolve()
    with only_one(state):
        record = state / "processes.json"
        if stopped := stop_leftovers(record):
            display.step("stopped what an earlier demo left: " + ", ".join(stopped))
        if arguments.story == "stop":
            display.step(f"nothing of a demo runs any more in {state}")
            return
        logs = state / "logs"
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir()
        with Processes(logs, record) as processes:
            stack = make_stack(arguments, processes, display)
            mishap = Mishap(stack, display) if arguments.story == "run" else None
            try:
                play(arguments, stack, mishap, display)
                if arguments.story == "ui":
                    display.say(f"Airflow stays at {stack.airflow.base_url}/ until Ctrl-C stops everything.")
                    wait_until(lambda: False, float("inf"), stack, "Looking")
            except ComponentDiedError as error:
                raise DemoError(str(error), tail(error.log)) from error
            finally:
                display.step(f"stopping everything; logs stay in {logs}")
                processes.stop()
                display.step("stopped")
                if arguments.story == "ui":
                    display.step(f"runs and connections stay in {stack.home}, for the next `make ui`")
            if arguments.story == "run":
                for line in NEXT_STEPS:
                    display.say(line)


def folder(text: str) -> Path:
    """Read a folder given from here: the processes that are started work elsewhere."""
    return Path(text).resolve()


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("story", choices=["run", "ui", "stop"])
    parser.add_argument("--state", type=folder, default=STATE, help="folder for everything that is written")
    parser.add_argument("--dags", type=folder, default=DAGS, help="folder with DAG files")
    parser.add_argument("--dag", default=DAG_ID, help="id of the DAG to run")
    parser.add_argument("--conf", type=json.loads, default={}, help="its parameters, a JSON object")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Return the exit code: 0 if the run succeeded and everything was stopped, or a look at the UI was ended."""
    arguments = read_arguments(words)
    display = Display()
    try:
        with stopping_on_signals():
            demonstrate(arguments, display)
    except StoppedError as stopped:
        looking = arguments.story == "ui" and stopped.signal_number == signal.SIGINT
        return 0 if looking else 128 + stopped.signal_number
    except (DemoError, NoManifestError, requests.RequestException) as error:
        for line in getattr(error, "lines", []):
            print(line, file=sys.stderr)
        failure = "Nothing was stopped" if arguments.story == "stop" else "The demo failed"
        print(f"{failure}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
