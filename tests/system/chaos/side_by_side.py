# SPDX-License-Identifier: Apache-2.0
"""
The same faults for the official provider's batch operator and for ours: what each bills for one piece of work.

Both run in the same harness, each in its own interpreter: it plays Airflow (retry, clear, restart of a triggerer) for
processes that are real, against an emulator of the Developer API, the one backend both know. What befalls a process
comes from the service's side or from its age, never from its code: a kill "when its create arrives" is sent by the
emulator in the middle of the call.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemini_batch_emulator.errors import GoogleError
from gemini_batch_emulator.pytest_plugin import EmulatorHandle
from gemini_batch_emulator.server import EmulatorServer
from tests.system.chaos import processes, report
from tests.system.chaos.fork_server import POLL_SECONDS
from tests.system.chaos.running import Hanging
from tests.system.chaos.schedule import CREATE, MODES, PENDING, RUNNING

if TYPE_CHECKING:
    from gemini_batch_emulator.jobs import Job
    from tests.system.chaos.interpreter import Child, Interpreter

SPEED = 20.0
PATIENCE = 120.0
"""Real seconds after which a play counts as hanging."""
RETRIES = 3
RETRY_DELAY = 30.0
GRACE = 20.0
"""Seconds from SIGTERM to SIGKILL: one real second, as no processor hurries with the clock."""
PROMPTS = ("Say 0", "Say 1", "Say 2")
AT_ONCE = 6
"""Plays at the same time, which mostly sleep."""


@dataclass(frozen=True)
class Event:
    """
    Something that happens while a job is waited for.

    :param action: ``kill`` the process that waits, ``clear`` the task, ``mark`` it failed, ``second`` process beside
        it, or ``unavailable``: the next look is answered with 503.
    :param after: Seconds from the first look at jobs by the process that waits, when there is a job.
    """

    action: str
    after: float = 20.0


@dataclass(frozen=True)
class Fault:
    """
    What goes wrong once.

    :param needed: Jobs that have to be paid for.
    :param rules: Rules for the emulator.
    :param kill_at: Kill the process whose call this is: ``create`` (before it is carried out), ``created`` (after
        that, before the answer) or ``ended`` (a worker that is about to be told that the job has ended).
    """

    name: str
    needed: int = 1
    rules: tuple[dict[str, Any], ...] = ()
    kill_at: str = ""
    events: tuple[Event, ...] = ()
    modes: tuple[str, ...] = MODES


def _on_create(**rule: Any) -> tuple[dict[str, Any], ...]:
    return ({"match": {"method": "POST", "path": CREATE}, **rule},)


UNAVAILABLE = {"match": {"method": "GET", "path": r"/batches(/|$)"}, "status": 503}

FAULTS = (
    Fault("nothing goes wrong"),
    Fault("killed when its create arrives, which is not carried out", kill_at="create"),
    Fault("killed when its create has been carried out", kill_at="created"),
    Fault("connection closed after the create was carried out", rules=_on_create(action="close", when="after")),
    Fault("answer to the create cut off after 30 bytes", rules=_on_create(action="cut_response", bytes=30)),
    Fault("503 to a create that was carried out", rules=_on_create(status=503, when="after")),
    Fault("503 to a create that was not carried out", rules=_on_create(status=503)),
    Fault("429 to a create", rules=_on_create(status=429, retry_after=20)),
    Fault("one 503 to a look at the job", events=(Event("unavailable"),)),
    Fault("worker lost twice while it waits", events=(Event("kill"), Event("kill")), modes=("blocking",)),
    Fault("triggerer restarted twice while it waits", events=(Event("kill"), Event("kill")), modes=("deferrable",)),
    Fault("cleared while it waits", events=(Event("clear"),)),
    Fault("a second attempt beside a worker thought dead", events=(Event("second", 1.0),), modes=("blocking",)),
    Fault("a second triggerer beside a stalled one", events=(Event("second", 1.0),), modes=("deferrable",)),
    Fault("worker killed when the job has ended, before the task has", kill_at="ended"),
    Fault("marked failed while it waits", needed=0, events=(Event("mark"),), modes=("blocking",)),
)


@dataclass
class Bill:
    """
    What a fault cost one provider.

    :param created: Jobs that were created.
    :param billed: Jobs of which at least one row ran.
    :param left: Jobs beside the one whose answers the task returned that nobody cancelled.
    :param lost: Rows without an answer in that job.
    :param attempts: Processes that were a worker's, without those that resumed after a deferral.
    :param end: How the task ended: ``succeeded``, ``failed``, ``marked``.
    :param trouble: What the harness could not make sense of; empty if nothing.
    """

    provider: str
    fault: Fault
    mode: str
    created: int = 0
    billed: int = 0
    left: int = 0
    lost: int = 0
    attempts: int = 0
    end: str = ""
    errors: list[str] = field(default_factory=list)
    trouble: str = ""

    @property
    def is_clean(self) -> bool:
        wanted = "marked" if self.fault.needed == 0 else "succeeded"
        told = (self.billed, self.left, self.lost, self.end, self.trouble)
        return told == (self.fault.needed, 0, 0, wanted, "")


class Trap:
    """Kills whoever makes a certain call, once, before an answer leaves the service."""

    def __init__(self, fault: Fault, play: Play) -> None:
        self._at = fault.kill_at
        self._play = play
        state = play.emulator.state
        self._create, self._read = state.create_job, state.read_job
        state.create_job = self.create_job  # type: ignore[method-assign]
        state.read_job = self.read_job  # type: ignore[method-assign]

    def _springs(self, at: str) -> bool:
        if self._at != at:
            return False
        self._at = ""
        self._play.kill_all()
        return True

    def create_job(self, **what: Any) -> Job:
        if self._springs("create"):
            raise GoogleError(503, "The caller is dead by now.")
        job = self._create(**what)
        self._springs("created")
        return job

    def read_job(self, name: str) -> Job | None:
        job = self._read(name)
        if job is not None and job.is_ended and self._play.is_working:
            self._springs("ended")
        return job


class Play:
    """One fault, one mode, one provider: the scheduler's, the supervisor's and the triggerer's part."""

    def __init__(self, bill: Bill, interpreter: Interpreter, server: EmulatorServer, folder: Path) -> None:
        self.bill = bill
        self.folder = folder
        self._interpreter = interpreter
        self._events = list(bill.fault.events)
        self._counter = 0
        self._alive: list[Child] = []
        self._starting = threading.Lock()
        self.is_working = False
        """Whether a worker's process runs, not a triggerer's."""
        self.emulator = EmulatorHandle(server)
        self.emulator.configure(speed=SPEED)
        self.emulator.script(pending_seconds=PENDING, running_seconds=RUNNING)
        for rule in bill.fault.rules:
            self.emulator.fault(**rule)
        Trap(bill.fault, self)
        self._clock = processes.FastClock(self.emulator.state.now(), time.monotonic(), SPEED)
        self._until = time.monotonic() + PATIENCE

    # --- processes ----------------------------------------------------------------------------------------------------

    def _start(self, **order: Any) -> Child:
        self._counter += 1
        order["env"] = {
            "GOOGLE_GEMINI_BASE_URL": self.emulator.url,
            "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps({"conn_type": "google_cloud_platform"}),
            f"AIRFLOW_CONN_{processes.CONN_ID.upper()}": json.dumps(self.emulator.connection(timeout=20)),
        }
        order["clock"] = {"emulated": self._clock.emulated, "real": self._clock.real, "speed": SPEED}
        with self._starting:
            child = self._interpreter.start(
                order, self.folder / f"result-{self._counter}.json", self.folder / "log.txt"
            )
            self._alive.append(child)
        return child

    def _worker(self, resume: dict[str, Any] | None) -> Child:
        self.is_working = True
        order = {"folder": str(self.folder), "mode": self.bill.mode, "prompts": PROMPTS, "resume": resume}
        return self._start(try_number=self.bill.attempts, **order)

    def _triggerer(self, deferred: dict[str, Any]) -> Child:
        self.is_working = False
        return self._start(trigger=deferred["trigger"], arguments=deferred["arguments"])

    def kill_all(self) -> None:
        """Kill whatever runs; called by the service in the middle of a call."""
        with self._starting:  # a process may be at the service before it is known here
            for child in self._alive:
                child.signal(signal.SIGKILL)

    def stop(self) -> None:
        """Leave no process behind."""
        for child in self._alive:
            child.kill()

    def _attend(self, child: Child, *, is_spared: bool = False) -> str | None:
        """
        Wait for a process, and let happen to it what is due.

        :param is_spared: It is not the one that waits for the job: nothing befalls it.
        :return: What is left to the caller; None at the process's end.
        """
        born = self._clock.now()
        while not child.wait(0.02):
            if time.monotonic() > self._until:
                raise Hanging
            event = self._events[0] if self._events and not is_spared else None
            if event is None or not self._is_due(event, born):
                continue
            self._events.pop(0)
            if event.action != "unavailable":
                return event.action
            self.emulator.fault(**UNAVAILABLE)
        return None

    def _is_due(self, event: Event, born: float) -> bool:
        state = self.emulator.state
        if not state.all_jobs:
            return False
        with state.lock:
            looks = [seen.time for seen in state.journal if seen.time > born and seen.method == "GET"]
        return bool(looks) and self._clock.now() - looks[0] >= event.after

    # --- Airflow's part -----------------------------------------------------------------------------------------------

    def work(self) -> str | None:
        """Try until the task has succeeded, failed for good or been marked; return the job it named."""
        allowed = 1 + RETRIES
        zombies: list[Child] = []
        name = None
        while not self.bill.end:
            if self.bill.attempts == allowed:
                self.bill.end = "failed"
                break
            self.bill.attempts += 1
            what, name = self._attempt(zombies)
            if what == "clear":
                allowed += 1  # as Airflow: a clear takes no retry away
            elif what in ("succeeded", "marked"):
                self.bill.end = what
            elif what == "failed":
                time.sleep(RETRY_DELAY / SPEED)
        for zombie in zombies:
            self._attend(zombie, is_spared=True)
        return name

    def _attempt(self, zombies: list[Child]) -> tuple[str, str | None]:
        """Carry out one attempt, over all its deferrals; return what came of it and the job it named."""
        resume: dict[str, Any] | None = None
        while True:
            child = self._worker(resume)
            happened = self._attend(child, is_spared=self.bill.mode == "deferrable")
            if happened == "second":
                zombies.append(child)
                return "second", None
            if happened in ("clear", "mark"):
                self._end_as_airflow_does(child, "restarting" if happened == "clear" else "failed")
                return ("clear", None) if happened == "clear" else ("marked", None)
            if happened == "kill":
                child.kill()
            ended = child.result
            if ended is None:
                return "failed", None
            if ended["end"] == "succeeded":
                return "succeeded", str(ended["job"])
            if ended["end"] == "failed":
                self.bill.errors.append(ended["error"])
                return "failed", None
            event = self._watch(ended)
            if event is None:
                return "clear", None
            resume = {"method": ended["method"], "kwargs": ended["kwargs"], "event": event}

    def _end_as_airflow_does(self, child: Child, state: str) -> None:
        (self.folder / "state").write_text(state)
        child.signal(signal.SIGTERM)
        child.wait(GRACE / SPEED)
        child.kill()
        (self.folder / "state").unlink()

    def _watch(self, deferred: dict[str, Any]) -> dict[str, Any] | None:
        """Run the trigger until its event, in another process whenever one dies; None if the task was cleared."""
        running = [self._triggerer(deferred)]
        while True:
            happened = self._attend(running[0])
            if happened == "second":
                running.append(self._triggerer(deferred))
                continue
            if happened is not None:
                running[0].kill()
            if happened == "clear":
                return None
            ended = running[0].result
            if ended is not None:
                for other in running[1:]:
                    other.kill()
                return dict(ended["event"])
            running = [self._triggerer(deferred)]

    # --- the bill -----------------------------------------------------------------------------------------------------

    def settle(self, name: str | None) -> None:
        """Read the ledger once nobody works any more; what still lives runs on, and bills."""
        state = self.emulator.state
        self.emulator.advance(PENDING + RUNNING + 60)
        self.bill.billed = sum(1 for entry in self.emulator.ledger()["jobs"] if entry["billed_rows"])
        self.bill.created = len(state.all_jobs)
        self.bill.left = sum(1 for job in state.all_jobs if job.name != name and job.cancelled is None)
        if self.bill.fault.needed:
            answered = state.jobs[name].succeeded if name else 0
            self.bill.lost = len(PROMPTS) - answered


Plan = tuple[Fault, str, "Interpreter"]


def play(fault: Fault, mode: str, interpreter: Interpreter) -> Bill:
    """Carry one out; whatever goes wrong is in the bill."""
    bill = Bill(interpreter.provider, fault, mode)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        with EmulatorServer() as server:
            this = Play(bill, interpreter, server, folder)
            name = None
            try:
                name = this.work()
            except Hanging:
                bill.trouble = f"not done after {PATIENCE:g} s"
            except Exception as error:
                bill.trouble = f"{type(error).__name__}: {error}"
            finally:
                this.stop()
            this.settle(name)
            if bill.trouble:
                with contextlib.suppress(OSError):
                    bill.trouble += "\n" + (folder / "log.txt").read_text(errors="replace")[-3000:]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return bill


def plans_for(interpreters: Sequence[Interpreter], faults: Iterable[Fault] = FAULTS) -> list[Plan]:
    """Each fault in its modes with each provider."""
    return [(fault, mode, interpreter) for fault in faults for mode in fault.modes for interpreter in interpreters]


def play_all(plans: Iterable[Plan], at_once: int = AT_ONCE) -> list[Bill]:
    """Play them, a few at a time."""
    pool = ThreadPoolExecutor(at_once)
    try:
        return list(pool.map(lambda plan: play(*plan), plans))
    finally:
        pool.shutdown(cancel_futures=True)


# --- telling --------------------------------------------------------------------------------------------------------

HEAD = ("fault", "mode", "needed", "official: billed", "left", "attempts", "ended", "ours: billed", "left", "attempts",
        "ended")  # fmt: skip


def comparison(bills: list[Bill], interpreters: Sequence[Interpreter]) -> str:
    """Lay the bills of both providers out beside each other, with totals and what the columns mean."""
    official, ours = ([bill for bill in bills if bill.provider == one.provider] for one in interpreters)
    lines: list[tuple[object, ...]] = []
    for theirs, own in zip(official, ours, strict=True):
        assert (theirs.fault, theirs.mode) == (own.fault, own.mode)
        lines.append((own.fault.name, own.mode, own.fault.needed, *_cells(theirs), *_cells(own)))
    lines.append(("all", "", sum(bill.fault.needed for bill in ours), *_totals(official), *_totals(ours)))
    versions = "; ".join(
        f"{one.provider}: " + ", ".join(f"{name} {version}" for name, version in one.versions.items())
        for one in interpreters
    )
    return f"{report.table(HEAD, lines)}\n\n{NOTES}\n\n{versions}."


NOTES = f"""\
Billed: jobs of which a row ran. Left: jobs beside the one whose answers the task returned that nobody cancelled; they
run to their end. Attempts: of at most {1 + RETRIES}, {RETRY_DELAY:g} s apart; a clear allows one more. Both operators
wait for the end of their job and look every {POLL_SECONDS} s; a job waits {PENDING:g} s and runs {RUNNING:g} s. Time
passes {SPEED:g} times faster for tasks, triggers and emulator alike. "Killed when its create ..." befalls the process
that creates: a worker, but the triggerer with the official provider in deferrable mode. Left out for both: Airflow's
detection of a death, and `on_kill` of a trigger."""


def _cells(bill: Bill) -> tuple[object, ...]:
    return bill.billed, bill.left, bill.attempts, bill.end or "not at all"


def _totals(own: list[Bill]) -> tuple[object, ...]:
    billed, needed = sum(bill.billed for bill in own), sum(bill.fault.needed for bill in own)
    failed = sum(bill.end not in ("succeeded", "marked") for bill in own)
    ratio = f"{billed}/{needed} = {billed / needed:.2f}"
    return ratio, sum(bill.left for bill in own), sum(bill.attempts for bill in own), f"{failed} failed"


def troubles(bills: list[Bill]) -> list[str]:
    """
    Tell what makes the comparison fail: a bill of ours that is not clean, or a harness that did not work.

    What another provider bills is its own affair, but where nothing goes wrong it has to succeed, or nothing was shown.
    """
    return [
        f"{bill.provider}, {bill.fault.name}, {bill.mode}: created {bill.created}, billed {bill.billed} of "
        f"{bill.fault.needed}, left {bill.left}, rows lost {bill.lost}, ended {bill.end!r}. "
        f"{' '.join(bill.errors)} {bill.trouble}"
        for bill in bills
        if bill.trouble or (not bill.is_clean and (bill.provider == "ours" or bill.fault == FAULTS[0]))
    ]
