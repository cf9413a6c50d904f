# SPDX-License-Identifier: Apache-2.0
"""
What finding a job before creating one costs: requests, seconds and waits beyond a plain create.

Measured on the real flow over HTTP, against an emulator in a process of its own that has 0, 100 or 10,000 jobs of
others. Pauses are counted instead of slept.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import requests

from airflow_provider_gemini_batch.api.flows import exchange
from airflow_provider_gemini_batch.api.retry import NO_RETRY
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.lifecycle.request import JobRequest, Placed
from airflow_provider_gemini_batch.transport.blocking import BlockingTransport
from airflow_provider_gemini_batch.transport.credentials import credentials_for
from tests.system.chaos import report
from tests.system.chaos.schedule import BACKENDS

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob

CONN_ID = "look_up"
COUNTS = (0, 100, 10_000)
REPEATS = 5
DISTANCE = 0.1
"""Seconds that each request is held up in the second of the two times: a service that is not next door."""
HOUR = 3600.0
AGES = {"older": 7 * 24 * HOUR, "newer": 0.0}
"""Where the jobs of others stand to the run's start, and how long ago the youngest of them was created."""
RUN_STARTED = {"older": 60.0, "newer": 24 * HOUR}
"""How long ago the run started; 10,000 jobs are seeded a second apart, which makes 2.8 hours."""

KINDS = (
    ("list", "GET", r"/batches$|/batchPredictionJobs$"),
    ("get", "GET", r"/batches/|/batchPredictionJobs/"),
    ("create", "POST", r":batchGenerateContent$|/batchPredictionJobs$"),
    ("file", "", r"^/(upload/)?storage/"),
    ("token", "POST", r"^/token$"),
)


@dataclass
class Cost:
    """
    What one call cost.

    :param requests: By kind, see KINDS.
    :param waited: Seconds of pauses.
    """

    requests: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    waited: float = 0.0
    received: int = 0

    @property
    def words(self) -> str:
        """The requests, e.g. ``4: 2 list, 1 get, 1 create``."""
        kinds = ", ".join(f"{self.requests[kind]} {kind}" for kind, _, _ in KINDS if self.requests[kind])
        return f"{self.requests.total()}: {kinds}"


class Subject:
    """
    A hook whose requests are counted by the emulator it speaks to.

    :param url: Of the emulator; it is reset.
    """

    def __init__(self, url: str, backend: str) -> None:
        self._url = url
        self._pauses: list[float] = []
        self.control("reset")
        connection: dict[str, Any] = {"conn_type": "gemini_batch", "host": url, "password": "emulator-key"}
        source: dict[str, Any] = {"inlined_requests": [{"key": "k", "prompt": "Say it"}]}
        self._placed = Placed(requests=({"request": {"contents": [{"parts": [{"text": "Say it"}]}]}},))
        if backend == "vertex_ai":
            account = self.control("service_accounts", {"project": "emulated-project"})
            places = {"storage_uri": "gs://emulator/airflow", "storage_host": url, "location": "us-central1"}
            extra = {"backend": backend, "project": "emulated-project", "keyfile_dict": account, **places}
            connection = {"conn_type": "gemini_batch", "host": url, "extra": extra}
        os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = json.dumps(connection)
        self.hook = GeminiBatchHook(CONN_ID)
        self.hook.client.__dict__["transport"] = BlockingTransport(
            self.hook.settings, credentials_for(self.hook.settings), sleep=self._pauses.append
        )
        if backend == "vertex_ai":
            # Rows that lie at Google already: their upload is no part of what is compared.
            uri = _uploaded(self.hook)
            source, self._placed = {"gcs_uri": uri}, Placed(gcs_uri=uri)
        self.request = JobRequest("generate", "gemini-3.5-flash-lite", **source)
        self.hook.test_connection()  # opens the connection, fetches the token

    def control(self, route: str, body: Any = None, method: str = "POST") -> Any:
        """Call a control route of the emulator."""
        reply = requests.request(method, f"{self._url}/_emulator/{route}", json=body, timeout=600)
        reply.raise_for_status()
        return reply.json()

    def seed(self, count: int, age: float) -> None:
        """Let there be jobs of others, the youngest created *age* seconds ago."""
        now = self.control("clock")["now"]
        self.control("clock", {"set": now - age})
        if count:
            self.control("seed_jobs", {"count": count, "backend": self.hook.backend})
            self.control("ledger", method="GET")  # they end when they are first looked at
        self.control("clock", {"set": now})

    def jobs_to_come(self, **script: Any) -> None:
        """Say how the jobs to come behave."""
        self.control("config", {"script": script}, "PATCH")

    @contextlib.contextmanager
    def at_a_distance(self) -> Iterator[None]:
        """Hold every request up."""
        self.control("faults", {"action": "delay", "delay": DISTANCE, "times": None})
        yield
        self.control("faults", method="DELETE")

    def measured(self, call: Callable[[], BatchJob]) -> Cost:
        """Return what a call costs; the job that it leaves is removed, so that the list stays as it was."""
        self.control("journal", method="DELETE")
        self._pauses.clear()
        started = time.perf_counter()
        job = call()
        cost = Cost(seconds=time.perf_counter() - started, waited=sum(self._pauses))
        for seen in self.control("journal", method="GET")["requests"]:
            cost.requests[_kind(seen)] += 1
            cost.received += seen["response_bytes"]
        self.control("finish_jobs", {"match": {"name": job.name}})
        self.hook.delete_batch(job.name)
        return cost

    def plain(self) -> BatchJob:
        """Create without a look."""
        spec = self.request.spec(self._placed, "plain")
        return self.hook.run(
            exchange(self.hook.client.backend.create_job(spec), self.hook.client.backend.read_job, NO_RETRY)
        )

    def submit(self, task: str = "", **more: Any) -> BatchJob:
        """Find or create, as the operators do; without *task* a piece of work of its own."""
        return self.hook.submit(self.request, task=task or uuid.uuid4().hex[:16], **more).job


def _uploaded(hook: GeminiBatchHook) -> str:
    from tempfile import NamedTemporaryFile

    with NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write(json.dumps({"request": {"contents": [{"role": "user", "parts": [{"text": "Say it"}]}]}}) + "\n")
        file.flush()
        return hook.upload_file(file.name).name


def _kind(seen: dict[str, Any]) -> str:
    for kind, method, path in KINDS:
        if seen["method"].startswith(method) and re.search(path, seen["path"]):
            return kind
    return "other"


@contextlib.contextmanager
def emulator() -> Iterator[str]:
    """Serve an emulator from a process of its own; its URL."""
    command = [sys.executable, "-m", "airflow_provider_gemini_batch.emulator", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split(": ", 1)[1].strip()
        finally:
            process.terminate()


# --- the measures ---------------------------------------------------------------------------------------------------

FAR = f"s at {DISTANCE * 1000:.0f} ms"
FIRST_HEAD = ("backend", "jobs in the list", "plain create", "s", FAR, "find or create", "s", FAR, "KB read")
LATER_HEAD = ("backend", "jobs in the list", "attempt", "requests", "seconds waited")
Lines = list[tuple[object, ...]]


def measures(url: str, counts: Sequence[int] = COUNTS) -> tuple[Lines, Lines]:
    """
    Measure a plain create beside a first attempt's submission, and later attempts by what the first one left.

    :return: Lines of FIRST_HEAD and of LATER_HEAD; the latter for no jobs and for the most, all newer than the run.
    """
    first: Lines = []
    later: Lines = []
    for backend in BACKENDS:
        for count in counts:
            for where in AGES if count else ("newer",):
                subject = Subject(url, backend)
                subject.seed(count, AGES[where])
                since = time.time() - RUN_STARTED[where]
                about = (backend, f"{count:,} {where} than the run" if count else "0")
                first.append((*about, *_first(subject, since)))
                if where == "newer" and count in (0, counts[-1]):
                    later += [
                        (*about, words, cost.words, f"{cost.waited:.0f}") for words, cost in _later(subject, since)
                    ]
    return first, later


def _first(subject: Subject, since: float) -> tuple[object, ...]:
    def submit() -> BatchJob:
        return subject.submit(since=since)

    cells: list[object] = []
    received = 0
    for call in (subject.plain, submit):
        costs = [subject.measured(call) for _ in range(REPEATS)]
        with subject.at_a_distance():
            far = subject.measured(call)
        received = costs[0].received
        middle = statistics.median(cost.seconds for cost in costs)
        cells += [costs[0].words, f"{middle:.3f}", f"{far.seconds:.1f}"]
    return (*cells, f"{received / 1024:.0f}")


def _later(subject: Subject, since: float) -> Iterator[tuple[str, Cost]]:
    def retry(task: str = "", **more: Any) -> Cost:
        return subject.measured(lambda: subject.submit(task, since=since, may_have_rivals=True, **more))

    yield "retry, the first attempt created nothing", retry()
    yield "retry, the first attempt died around its create, no job shows up", retry(intent_at=time.time())
    for words, script in (
        ("retry, the job runs", {"mode": "time", "pending_seconds": 0, "stuck": "RUNNING"}),
        ("retry, the job has ended well", {"mode": "at_once", "stuck": None}),
    ):
        subject.jobs_to_come(**script)
        task = uuid.uuid4().hex[:16]
        subject.submit(task, since=since)
        yield words, retry(task)


def measure() -> str:
    """Measure everything and lay it out."""
    with emulator() as url:
        first, later = measures(url)
    return (
        f"First attempt. Seconds: median of {REPEATS}, the emulator on the same machine; and once with each request "
        f"held up {DISTANCE * 1000:.0f} ms. On Vertex AI the service filters the list, here the emulator.\n\n"
        f"{report.table(FIRST_HEAD, first)}\n\n"
        "Later attempts, beside which another one may still run.\n\n"
        f"{report.table(LATER_HEAD, later)}"
    )
