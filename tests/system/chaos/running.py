# SPDX-License-Identifier: Apache-2.0
"""One schedule: play scheduler, worker and triggerer until the work is done, then read the bill."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from gemini_batch_emulator.pytest_plugin import EmulatorHandle
from gemini_batch_emulator.token import token_desk
from tests.system.chaos import processes
from tests.system.chaos.schedule import PENDING, RUNNING, Attempt, Schedule

if TYPE_CHECKING:
    from gemini_batch_emulator.server import EmulatorServer

SPEED = 20.0
MAX_TRIES = 12
PATIENCE = 90.0
"""Real seconds after which a schedule counts as hanging."""


@dataclass
class Bill:
    """
    What a schedule cost.

    :param created: Jobs that were created.
    :param billed: Jobs of which at least one row ran.
    :param surplus: Jobs beside the one needed that were cancelled before a row of theirs ran.
    :param orphans: Jobs beside the one needed that nobody cancelled and that had not ended.
    :param lost: Rows without an answer in the job that the task returned.
    :param tries: Attempts of the task.
    :param trouble: Why the work was not done, or done otherwise than expected; empty if all is well.
    """

    seed: int
    backend: str
    mode: str
    created: int = 0
    billed: int = 0
    surplus: int = 0
    orphans: int = 0
    lost: int = 0
    tries: int = 0
    seconds: float = 0.0
    trouble: str = ""
    log: str = field(default="", repr=False)

    @property
    def is_clean(self) -> bool:
        return not self.trouble and self.billed == 1 and self.orphans == 0 and self.lost == 0


class Hanging(Exception):
    """A schedule took too long."""


class Service:
    """
    An emulator that forgets everything between schedules but the keys of its accounts.

    To make a key takes a tenth of a second, and so does Airflow's masker to learn it: in each child, if not before.
    """

    def __init__(self, server: EmulatorServer) -> None:
        self.emulator = EmulatorHandle(server)
        self._connections: dict[str, str] = {}

    def fresh(self, backend: str) -> EmulatorHandle:
        """Begin anew, with the connection to *backend* in the environment."""
        accounts = dict(token_desk(self.emulator.state).accounts)
        self.emulator.reset()
        token_desk(self.emulator.state).accounts.update(accounts)
        if backend not in self._connections:
            self._connections[backend] = json.dumps(self.emulator.connection(backend, timeout=20))
        os.environ[f"AIRFLOW_CONN_{processes.CONN_ID.upper()}"] = self._connections[backend]
        GeminiBatchHook.get_connection(processes.CONN_ID)
        return self.emulator


class Run:
    """One schedule against a server that is already up."""

    def __init__(self, plan: Schedule, service: Service, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.log = folder / "log.txt"
        self.emulator = service.fresh(plan.backend)
        self.emulator.configure(speed=SPEED, listing_lag=list(plan.lags) or plan.listing_lag)
        self.emulator.script(pending_seconds=PENDING, running_seconds=RUNNING, results_after=plan.late)
        for fault in plan.faults:
            # Delays of faults are real time.
            self.emulator.fault(**{**fault, "delay": fault.get("delay", 0.0) / SPEED})
        self.clock = processes.FastClock(self.emulator.state.now(), time.monotonic(), SPEED)
        self.until = time.monotonic() + PATIENCE
        self.tries = 0
        self.attempts = list(plan.attempts)
        self.watchers = list(plan.watchers)
        self.counter = 0
        self.alive: set[int] = set()

    # --- processes ----------------------------------------------------------------------------------------------------

    def _fork(self, work: Any) -> tuple[int, Path]:
        self.counter += 1
        result = self.folder / f"result-{self.counter}.json"
        pid = processes.fork(work, result, self.log)
        self.alive.add(pid)
        return pid, result

    def _worker(self, attempt: Attempt, resume: dict[str, Any] | None) -> tuple[int, Path]:
        plan, folder, clock, number = self.plan, self.folder, self.clock, self.tries
        return self._fork(lambda: processes.run_attempt(plan, folder, clock, number, attempt.kill, resume))

    def _triggerer(self, deferred: dict[str, Any]) -> tuple[int, Path]:
        clock = self.clock
        return self._fork(lambda: processes.run_trigger(clock, deferred["trigger"], deferred["arguments"]))

    def _is_over(self, pid: int) -> bool:
        if pid in self.alive and os.waitpid(pid, os.WNOHANG)[0]:
            self.alive.discard(pid)
        return pid not in self.alive

    def _wait(self, pid: int, seconds: float | None = None) -> bool:
        """Wait for a process's end, at most *seconds* on the fast clock; say whether it has ended."""
        until = None if seconds is None else time.monotonic() + seconds / SPEED
        while not self._is_over(pid):
            if until is not None and time.monotonic() >= until:
                return False
            if time.monotonic() > self.until:
                raise Hanging
            time.sleep(0.005)
        return True

    def _kill(self, pid: int) -> None:
        if not self._is_over(pid):
            os.kill(pid, signal.SIGKILL)
            self._wait(pid)

    def stop(self) -> None:
        """Leave no process behind."""
        for pid in list(self.alive):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self.alive.discard(pid)

    @staticmethod
    def _read(result: Path) -> dict[str, Any] | None:
        return json.loads(result.read_text()) if result.exists() else None

    # --- Airflow's part -----------------------------------------------------------------------------------------------

    def work(self) -> str:
        """Try until the task has succeeded; return the job it named."""
        zombies: list[int] = []
        name = self._until_success(zombies)
        if self.plan.clear_after_success:
            self._clear()
            again = self._until_success(zombies)
            if again != name:
                raise AssertionError(f"cleared after success, the task took {again} instead of {name}")
        for pid in zombies:
            self._wait(pid)
        return name

    def _clear(self) -> None:
        if not self.plan.store_survives_clear:
            (self.folder / "store.json").unlink(missing_ok=True)

    def _until_success(self, zombies: list[int]) -> str:
        resume: dict[str, Any] | None = None
        while True:
            if resume is None:
                self.tries += 1
                if self.tries > MAX_TRIES:
                    raise AssertionError(f"not done after {MAX_TRIES} attempts")
            fate = self.attempts.pop(0) if self.attempts else Attempt()
            pid, result = self._worker(fate, resume)
            if not self._wait(pid, fate.beside):
                # Its supervisor is gone: Airflow starts the next attempt beside it, and hears nothing of it any more.
                zombies.append(pid)
                resume = None
                continue
            ended = self._read(result)
            if ended is None or ended["end"] == "failed":
                if ended is not None and ended["for_good"]:
                    raise AssertionError(f"failed for good: {ended['error']}")
                time.sleep(fate.delay / SPEED)
                resume = None
            elif ended["end"] == "deferred":
                resume = self._watch(ended)
            else:
                return str(ended["job"])

    def _watch(self, deferred: dict[str, Any]) -> dict[str, Any] | None:
        """Run the trigger until its event; None if the task was cleared meanwhile."""
        while True:
            running = [self._triggerer(deferred)]
            if self.watchers:
                fate = self.watchers.pop(0)
                if not self._wait(running[0][0], fate.after):
                    if fate.action == "kill":
                        self._kill(running[0][0])
                        continue
                    if fate.action == "clear":
                        self._kill(running[0][0])
                        self._clear()
                        return None
                    running.append(self._triggerer(deferred))
            self._wait(running[0][0])
            for pid, _ in running[1:]:
                self._kill(pid)
            event = self._read(running[0][1])
            if event is None:
                raise AssertionError("the trigger ended without an event")
            return {"method": deferred["method"], "kwargs": deferred["kwargs"], "event": event["event"]}

    # --- the bill -----------------------------------------------------------------------------------------------------

    def rows_lost(self, name: str) -> int:
        """Count the rows that the job has no answer to."""
        self.emulator.clear_faults()
        self.emulator.advance(self.plan.late)
        hook = GeminiBatchHook(processes.CONN_ID)
        answered = {row.key for row in hook.get_responses(hook.get_batch(name)) if row.text}
        return len({f"k{n}" for n in range(self.plan.rows)} - answered)

    def bill(self, bill: Bill, name: str | None) -> None:
        """Read the ledger once nobody works at it any more."""
        state = self.emulator.state
        with state.lock:
            jobs = list(state.all_jobs)
        for job in jobs:
            state.look_at(job)
        live = {job.name for job in jobs if not job.is_ended and job.cancelled is None and job.name != name}
        # What is still alive would run and bill: let it.
        self.emulator.advance(PENDING + RUNNING + 60)
        entries = self.emulator.ledger()["jobs"]
        bill.created = len(entries)
        bill.billed = sum(1 for entry in entries if entry["billed_rows"])
        bill.orphans = len(live)
        bill.surplus = sum(1 for entry in entries if entry["name"] != name and not entry["billed_rows"])


def run(plan: Schedule, service: Service, *, keep_log: bool = False) -> Bill:
    """Carry a schedule out; whatever goes wrong is in the bill."""
    started = time.monotonic()
    bill = Bill(plan.seed, plan.backend, plan.mode)
    with _folder() as folder:
        this = Run(plan, service, folder)
        name = None
        try:
            name = this.work()
            bill.lost = this.rows_lost(name)
        except Hanging:
            bill.trouble = f"not done after {PATIENCE:g} s"
        except Exception as error:
            bill.trouble = f"{type(error).__name__}: {error}"
        finally:
            this.stop()
        if name is None:
            bill.lost = plan.rows
        this.bill(bill, name)
        bill.tries = this.tries
        bill.seconds = time.monotonic() - started
        if (keep_log or not bill.is_clean) and this.log.exists():
            bill.log = this.log.read_text(errors="replace")
            bill.log += "".join(
                f"{entry['time'] - this.clock.emulated:8.2f} {entry['method']} {entry['path']} {entry['status']} "
                f"{entry['fault'] or ''}\n"
                for entry in this.emulator.journal()
            )
    return bill


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
