# SPDX-License-Identifier: Apache-2.0
"""
Child processes that are certain to end.

Airflow's components start processes of their own and, told to stop, leave some behind. So each component leads a
session of its own (``setsid``): whoever belongs to one of these sessions is ours, whatever became of its parent.
Ctrl-C in a terminal does not reach them; we stop them, in one place. The sessions are written to a file as they start,
so that what a killed demo leaves behind can be found by the next one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

GRACE = 10.0
"""Seconds between the request to stop and the kill."""


class ComponentDiedError(Exception):
    """A process that should have stayed has ended."""

    def __init__(self, name: str, returncode: int, log: Path) -> None:
        super().__init__(f"{name} ended by itself with exit code {returncode}")
        self.name = name
        self.log = log


@contextmanager
def _signals_wait() -> Iterator[set[int]]:
    """Let requests to stop wait: one that arrives between a start and its record would leave a process behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield {int(number) for number in before}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class Component:
    """One started command."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Processes:
    """
    The commands of one demo.

    :param logs: Folder for one log file a command; must exist.
    :param record: File that lists the sessions while they live.
    """

    def __init__(self, logs: Path, record: Path) -> None:
        self._logs = logs
        self._record = record
        self._components: list[Component] = []
        self._dismissed: list[Component] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self, name: str, command: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> Component:
        """Start *command* in a session of its own, its output going to ``<name>.log``."""
        log = self._logs / f"{name}.log"
        with log.open("ab") as output, _signals_wait() as mask:
            process = subprocess.Popen(
                command,
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, mask),
            )
            component = Component(name, process, log)
            self._components.append(component)
            self._remember()
        return component

    def run(self, name: str, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout: float) -> None:
        """
        Start *command* and wait for its end.

        :raises ComponentDiedError: If it fails or takes longer than *timeout* seconds.
        """
        component = self.start(name, command, env=env, cwd=cwd)
        try:
            returncode = component.process.wait(timeout)
        except subprocess.TimeoutExpired:
            returncode = -signal.SIGALRM
        if returncode != 0:
            raise ComponentDiedError(name, returncode, component.log)
        self._components.remove(component)
        self._remember()

    def dismiss(self, component: Component) -> None:
        """Let a command end: nobody expects it to be there any more. It is still stopped with the others."""
        self._dismissed.append(component)

    def check(self) -> None:
        """
        Look whether all commands are still there.

        :raises ComponentDiedError: If one has ended that was not dismissed.
        """
        for component in self._components:
            returncode = component.process.poll()
            if returncode is not None and component not in self._dismissed:
                raise ComponentDiedError(component.name, returncode, component.log)

    def living(self) -> dict[str, list[psutil.Process]]:
        """Return the living processes of each command, by its name."""
        found = {each.name: members({each.process.pid}) for each in self._components}
        return {name: processes for name, processes in found.items() if processes}

    def stop(self) -> None:
        """Stop every command and all it has started; returns when nothing of it runs."""
        with _signals_wait():
            stop_sessions({component.process.pid for component in self._components})
            for component in self._components:
                component.process.wait()
            self._components.clear()
            self._record.unlink(missing_ok=True)

    def _remember(self) -> None:
        sessions = []
        for component in self._components:
            with suppress(psutil.NoSuchProcess):
                started = psutil.Process(component.process.pid).create_time()
                sessions.append({"name": component.name, "pid": component.process.pid, "started": started})
        draft = self._record.with_suffix(".new")
        draft.write_text(json.dumps({"boot": psutil.boot_time(), "sessions": sessions}))
        draft.replace(self._record)


def members(sessions: Iterable[int]) -> list[psutil.Process]:
    """Return the living processes of *sessions* (ids of their leaders) and all their descendants."""
    wanted = set(sessions)
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) in wanted and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = process
    for process in list(found.values()):
        with suppress(psutil.Error):
            found.update({child.pid: child for child in process.children(recursive=True)})
    return [process for process in found.values() if process.pid != os.getpid()]


def stop_sessions(sessions: set[int], grace: float = GRACE) -> None:
    """Ask all members of *sessions* to end, and kill those that are left after *grace* seconds."""
    for signal_number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, grace)):
        asked = members(sessions)
        for process in asked:
            with suppress(psutil.Error):
                process.send_signal(signal_number)
        # Not psutil.wait_procs: what has ended but is not reaped yet has ended.
        deadline = time.monotonic() + patience
        while asked and time.monotonic() < deadline:
            time.sleep(0.1)
            asked = [process for process in asked if _is_alive(process)] or members(sessions)
        if not asked:
            return


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def stop_leftovers(record: Path) -> list[str]:
    """
    Stop what an earlier demo left running when it was killed.

    A session counts only if its members started after the recorded leader did, in the same boot: process ids are
    given out again.

    :return: The names of the commands that were stopped.
    """
    try:
        remembered = json.loads(record.read_text())
    except (OSError, ValueError):
        return []
    stopped = []
    if abs(remembered["boot"] - psutil.boot_time()) < 60:
        for session in remembered["sessions"]:
            if _is_same_session(session["pid"], session["started"]):
                stop_sessions({session["pid"]})
                stopped.append(session["name"])
    record.unlink(missing_ok=True)
    return stopped


def _is_same_session(leader: int, started: float) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(abs(psutil.Process(leader).create_time() - started) < 1)
    # The leader is gone. Its number cannot become a new session's while members of the old one live.
    return bool(members({leader}))


def free_ports(count: int) -> list[int]:
    """Return *count* different ports of the loopback address that nobody uses."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
