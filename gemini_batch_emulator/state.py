# SPDX-License-Identifier: Apache-2.0
"""Everything the emulator knows: one :class:`EmulatorState`, passed to every part of it."""

# How the parts fit together
# ==========================
#
# A service (`developer`, `vertex`, `storage`, `bigquery`, `token`) is a class or a few, whose handlers are methods and
# whose `routes` list them; it keeps what it needs in `state.room(name, factory)`, never in module globals, so that a
# reset forgets it. A handler raises `GoogleError` for an error reply and answers with `reply`, or streams a file with
# `file_reply`.
#
# A job is made by `EmulatorState.create_job` from a `RowSource` (its input) and a `Handler` (what the backend does when
# it begins and ends). How it goes on is told by `life.py`; the answers to its rows come from `answers.py`.

from __future__ import annotations

import random
import shutil
import tempfile
import threading
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gemini_batch_emulator import life
from gemini_batch_emulator.clock import Clock
from gemini_batch_emulator.errors import ControlError, GoogleError, build
from gemini_batch_emulator.executions import Executions, RuleHistory
from gemini_batch_emulator.faults import Fault, JournalEntry
from gemini_batch_emulator.jobs import Job, QuietHandler
from gemini_batch_emulator.knobs import Config
from gemini_batch_emulator.ledger import Synchronous, ledger
from gemini_batch_emulator.scripts import MATCH_FIELDS, Ending, JobScript, PendingScript, job_matches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gemini_batch_emulator.jobs import Handler
    from gemini_batch_emulator.rows import RowSource

R = TypeVar("R")
JOURNAL_ENTRIES = 200_000


class EmulatorState:
    """
    Everything the emulator knows.

    :param data_dir: Where uploads and results lie; a temporary directory, removed by :meth:`close`, unless given.
    :param seed: Of all ids and draws.
    :param speed: Emulated seconds a real second.
    """

    def __init__(self, *, data_dir: Path | str | None = None, seed: int = 0, speed: float = 1.0) -> None:
        self.lock = threading.RLock()
        self._owns_directory = data_dir is None
        self.data_dir = Path(data_dir or tempfile.mkdtemp(prefix="gemini-batch-emulator-"))
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._seed = seed
        self._speed = speed
        self._rooms: dict[str, Any] = {}
        self.base_url = ""
        self._clear()

    def _clear(self) -> None:
        self.config = Config(speed=self._speed)
        self.clock = Clock(self._speed)
        self.random = random.Random(self._seed)
        self.jobs: dict[str, Job] = {}
        # Kept in order of creation for each project and place: a list call goes backwards from the end and never sorts.
        self.order: dict[str, list[Job]] = {}
        self.all_jobs: list[Job] = []
        self._active: dict[str, set[Job]] = {}
        # Steps of large jobs write files for seconds; requests that may trigger one are answered from a worker thread.
        self._heavy: set[Job] = set()
        self.faults: list[Fault] = []
        self.scripts: list[PendingScript] = []
        self.journal: deque[JournalEntry] = deque(maxlen=JOURNAL_ENTRIES)
        self.calls: Counter[str] = Counter()
        self.synchronous = Synchronous()
        self._close_rooms()
        self._rooms = {}
        self._paths = 0
        self._numbers = 0
        self._lists = 0
        self.history = RuleHistory()
        self.executions = Executions(self.new_path(".executions"))

    def _close_rooms(self) -> None:
        for room in self._rooms.values():
            if hasattr(room, "close"):
                room.close()

    def reset(self) -> None:
        """Forget everything, files included."""
        with self.lock:
            directory = self.data_dir / "files"
            if directory.exists():
                shutil.rmtree(directory, ignore_errors=True)
            self._clear()

    def close(self) -> None:
        """Close what is open and remove the temporary directory; ledger and journal can still be read."""
        with self.lock:
            self._close_rooms()
        if self._owns_directory:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def room(self, name: str, factory: Callable[[], R]) -> R:
        """Return the named service's own store, made by *factory* when it is first asked for after a reset."""
        with self.lock:
            if name not in self._rooms:
                self._rooms[name] = factory()
            store: R = self._rooms[name]
            return store

    def new_path(self, suffix: str = "") -> Path:
        """Return a path below the data directory that nothing uses."""
        with self.lock:
            self._paths += 1
            directory = self.data_dir / "files"
            directory.mkdir(parents=True, exist_ok=True)
            # The random part keeps a reset from handing out the path of a file that a download still reads.
            return directory / f"{self._paths:08d}-{random.getrandbits(48):012x}{suffix}"

    def new_id(self, length: int = 36, alphabet: str = "abcdefghijklmnopqrstuvwxyz0123456789") -> str:
        """Return *length* random characters, the same sequence after each reset."""
        with self.lock:
            return "".join(self.random.choices(alphabet, k=length))

    def now(self) -> float:
        """Return the emulated time."""
        return self.clock.now()

    def configure(self, values: Mapping[str, Any]) -> None:
        """Change knobs; ``script`` is merged member by member."""
        with self.lock:
            self.config = self.config.changed(values)
            if "speed" in values:
                self.clock.change(speed=float(values["speed"]))

    # Scripts --------------------------------------------------------------------------------------------------------

    def add_script(
        self, script: Mapping[str, Any], *, match: Mapping[str, str] | None = None, times: int | None = 1
    ) -> None:
        """Give the next *times* matching jobs (None: all that follow) a script, or change the job that is named."""
        match = dict(match or {})
        job_matches(match, dict.fromkeys(MATCH_FIELDS, ""))
        # For its errors: a script that cannot be is refused now.
        JobScript().changed(script)
        with self.lock:
            if "name" in match:
                job = self.jobs.get(match["name"])
            else:
                self.scripts.append(PendingScript(dict(script), match, times))
                return
        if job is None:
            raise ControlError(f"There is no job {match['name']!r}.")
        # Always the job's lock before the state's, never the other way round.
        with job.lock:
            job.script = job.script.changed(script)

    def script_for(self, *, backend: str, kind: str, model: str, display_name: str) -> JobScript:
        """
        Return the script of a job about to be made; uses up what was meant for it.

        :param kind: ``sync`` for a call without a job, which uses up only what is meant for that kind.
        """
        facts = {"name": "", "backend": backend, "kind": kind, "model": model, "display_name": display_name}
        with self.lock:
            # First the knob, which holds for all jobs, then the first script that waits for such a job.
            merged = JobScript().changed(self.config.script)
            for pending in self.scripts:
                is_for_jobs = pending.times is not None and pending.match.get("kind") != "sync"
                if job_matches(pending.match, facts) and not (kind == "sync" and is_for_jobs):
                    if pending.times is not None:
                        pending.times -= 1
                    merged = merged.changed(pending.script)
                    break
            self.scripts = [pending for pending in self.scripts if pending.times is None or pending.times > 0]
            return merged

    # Jobs -----------------------------------------------------------------------------------------------------------

    def create_job(
        self,
        *,
        name: str,
        backend: str,
        kind: str,
        model: str,
        display_name: str,
        source: RowSource,
        handler: Handler | None = None,
        labels: Mapping[str, str] | None = None,
        resource: dict[str, Any] | None = None,
        scope: str = "",
        priority: int = 0,
        script: JobScript | None = None,
    ) -> Job:
        """
        Make a job, PENDING, and take a script for it.

        :param scope: What lists go by, e.g. ``projects/p/locations/l``; empty on the Developer API.
        """
        script = script or self.script_for(backend=backend, kind=kind, model=model, display_name=display_name)
        # A new job was reported to be 404 for a moment after its create call had answered.
        hidden = script.not_found_polls if script.not_found_polls is not None else self.config.not_found_polls
        with self.lock:
            self._numbers += 1
            now = self.now()
            job = Job(
                number=self._numbers,
                name=name,
                backend=backend,
                kind=kind,
                model=model,
                display_name=display_name,
                created=now,
                script=script,
                source=source,
                handler=handler or QuietHandler(),
                labels=dict(labels or {}),
                resource=dict(resource or {}),
                scope=scope,
                priority=priority,
                updated=now,
                history=[("PENDING", now)],
                hidden_reads=hidden,
            )
            self.jobs[name] = job
            self.all_jobs.append(job)
            self.order.setdefault(backend + "|" + scope, []).append(job)
            self._active.setdefault(backend, set()).add(job)
            if job.is_heavy:
                self._heavy.add(job)
            return job

    def read_job(self, name: str) -> Job | None:
        """Poll a job: advance it, count the read. None if there is none, or if it hides for its first reads."""
        with self.lock:
            job = self.jobs.get(name)
        if job is None:
            return None
        with job.lock:
            if job.hidden_reads > 0:
                job.hidden_reads -= 1
                return None
            life.advance(self, job)
            job.reads += 1
            return job

    def look_at(self, job: Job) -> Job:
        """Advance a job to now without counting a read."""
        with job.lock:
            life.advance(self, job)
            return job

    @property
    def has_heavy_jobs(self) -> bool:
        """Whether a job that has not ended may take long to advance."""
        return bool(self._heavy)

    def active_jobs(self, backend: str) -> list[Job]:
        """Return the jobs of *backend* that have not ended, after advancing them."""
        with self.lock:
            # Copied under the state's lock and advanced outside of it: a job's step takes the job's lock first.
            candidates = list(self._active.get(backend, ()))
        for job in candidates:
            self.look_at(job)
        return [job for job in candidates if not job.is_ended and not job.deleted]

    def page_of_jobs(
        self,
        backend: str,
        *,
        scope: str = "",
        page_size: int,
        page_token: str = "",
        keep: Callable[[Job], bool] | None = None,
    ) -> tuple[list[Job], str]:
        """
        Return one page of jobs, newest first, and the token of the next page (empty at the end).

        :param keep: Filter; jobs are advanced before it sees them.
        :raises GoogleError: If the token is not one of ours.
        """
        try:
            below = int(page_token.removeprefix("p"), 36) if page_token else None
        except ValueError:
            raise GoogleError(400, "Invalid page token.") from None
        lag = self._listing_lag()
        # A new job shows up in lists late. How late is not known, so it is a knob, and a list of lags plays replicas
        # that differ.
        newest = self.now() - lag
        with self.lock:
            jobs = list(self.order.get(backend + "|" + scope, ()))
        page: list[Job] = []
        for job in reversed(jobs):
            # The token is a number and not a position: jobs that are created between two pages move nothing.
            if job.deleted or (below is not None and job.number >= below):
                continue
            if lag and job.created > newest:
                continue
            self.look_at(job)
            if keep is not None and not keep(job):
                continue
            if len(page) == page_size:
                return page, "p" + _base36(page[-1].number)
            page.append(job)
        return page, ""

    def _listing_lag(self) -> float:
        """Return how far behind this list request is."""
        lag = self.config.listing_lag
        if not isinstance(lag, list):
            return lag
        with self.lock:
            self._lists += 1
            return lag[(self._lists - 1) % len(lag)] if lag else 0.0

    def cancel_job(self, job: Job) -> None:
        """Ask a job to stop; an ended one stays as it is. The caller decides whether that is an error."""
        with job.lock:
            life.cancel(self, job)

    def delete_job(self, job: Job) -> None:
        """Forget a job; the ledger keeps it, and what had run by then stays billed."""
        with job.lock:
            life.advance(self, job)
            if not job.is_ended:
                # To delete a running job stops it, and does not undo what ran.
                job.rows_run = int(job.progress(self.now()) * job.source.count)
                if job.rows_run:
                    self.executions.add_unanswered(job)
            job.deleted = True
            with self.lock:
                self.jobs.pop(job.name, None)
                key = job.backend + "|" + job.scope
                self.order[key] = [other for other in self.order.get(key, ()) if other is not job]
            self.rest(job)

    def finish_job(self, job: Job, ending: Ending) -> None:
        """End a job now, whatever its script says."""
        with job.lock:
            life.finish(self, job, ending)

    def rest(self, job: Job) -> None:
        """Count a job no longer among those that go on."""
        with self.lock:
            self._active.get(job.backend, set()).discard(job)
            self._heavy.discard(job)

    # Faults, ledger -------------------------------------------------------------------------------------------------

    def add_fault(self, **values: Any) -> Fault:
        """Add a rule; the members are those of :class:`~.faults.Fault`."""
        fault = build(Fault, values)
        with self.lock:
            self.faults.append(fault)
        return fault

    def record(self, entry: JournalEntry) -> None:
        """Note a request in the journal."""
        with self.lock:
            self.journal.append(entry)
            self.calls[entry.call] += 1

    def fault_for(self, method: str, path: str, query: str, body: bytes | None) -> Fault | None:
        """Return the rule that fires for a request, or None; counts the matches."""
        with self.lock:
            for fault in self.faults:
                if fault.applies(method, path, query, body) and fault.take():
                    return fault
        return None

    def ledger(self) -> dict[str, Any]:
        """Return what was created and what was billed; see :func:`~.ledger.ledger`."""
        with self.lock:
            jobs = list(self.all_jobs)
            calls = dict(self.calls)
        for job in jobs:
            if not job.deleted:
                self.look_at(job)
        return ledger(
            jobs,
            now=self.now(),
            executed_rows=self.executions.rows,
            synchronous=self.synchronous,
            calls=calls,
        )


def _base36(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    text = ""
    while number:
        number, rest = divmod(number, 36)
        text = digits[rest] + text
    return text or "0"
