# SPDX-License-Identifier: Apache-2.0
"""
Pairs of attempts as real tasks over real sockets: operators, trigger, poller, sensor, beside the adversarial service.

What :mod:`.pairs` plays with flows, here the whole of the product plays, only the clock is stepped
(:mod:`.stepped`). An attempt is a thread; the one that dies is not heard of any more by the service or by Airflow from
that moment on, and ends at its next pause.

========  ===================================================================================================
way       what waits for the job
========  ===================================================================================================
blocking  ``CreateBatchOperator`` in its worker
deferred  the same in the triggerer: ``BatchJobTrigger`` over the shared poller, then ``execute_complete``
sensor    ``BatchJobSensor`` after a create operator that does not wait, then ``DownloadResultsOperator``
========  ===================================================================================================
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_gemini_batch.compat import TaskDeferred
from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.operators import (
    CreateBatchOperator,
    CreateEmbeddingBatchOperator,
    DownloadResultsOperator,
)
from airflow_provider_gemini_batch.sensors import BatchJobSensor
from airflow_provider_gemini_batch.transport.threads import ThreadedCalls
from tests.support.airflow_side import TaskInstance, rows, set_connection
from tests.system.adversary.pairs import IN_TIME, START, Bill, Pair, Plan, befall
from tests.system.adversary.serving import Front, Server
from tests.system.adversary.stepped import SteppedLoop, SteppedTime

WAYS = ("blocking", "deferred", "sensor")
MODEL = "gemini-3.5-flash-lite"
RETRIES = 3
RETRY_DELAY = 60.0

_acting = threading.local()


class Died(BaseException):
    """Ends the thread of an attempt that is dead; no ``except`` keeps it."""


@dataclass
class Attempts(Front):
    """One worker's attempts at the task, one after the other, and what befalls its first create call."""

    play: TaskPair
    dies_after_create: bool = False
    stall: float = 0.0
    loses_reply: bool = False
    creates: int = 0
    is_dead: bool = False
    result: str | None = None
    error: GeminiBatchError | None = None
    xcoms: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.service = self.play.service

    # --- the wire -----------------------------------------------------------------------------------------------------

    def arrive(self, method: str, path: str) -> bool:
        if self.is_dead:
            return False
        is_create = _is_create(method, path)
        self.creates += is_create
        stall = self.stall if is_create and self.creates == 1 else 0.0
        self.play.clock.sleep(self.play.way_there() + stall)
        return not self.is_dead

    def leave(self, method: str, path: str) -> bool:
        if _is_create(method, path) and self.creates == 1:
            if self.dies_after_create:
                self.is_dead = True
                return False
            if self.loses_reply:
                self.loses_reply = False
                return False
        self.play.clock.sleep(self.play.way_there())
        return not self.is_dead

    # --- Airflow's part -----------------------------------------------------------------------------------------------

    def begin(self, try_number: int) -> None:
        """Try until the task has succeeded."""
        _acting.worker = self
        for number in range(try_number, try_number + RETRIES + 1):
            try:
                self.result = self.play.task(self, number)
            except Died:
                return
            except GeminiBatchError as error:
                self.error = error
                try:
                    time.sleep(RETRY_DELAY)
                except Died:
                    return
            else:
                self.error = None
                return

    def context(self, try_number: int, task_id: str = "create") -> dict[str, Any]:
        """Return the context of an attempt; a dead one's XComs and notes reach nobody."""
        worker = self

        class Heard(TaskInstance):
            def xcom_push(self, key: str, value: Any) -> None:
                if not worker.is_dead:
                    super().xcom_push(key, value)

        instance = Heard(try_number=try_number, task_id=task_id)
        self.xcoms.append(instance.xcoms)
        return {"ti": instance, "task_state_store": self.play.store_for(self)}


def _is_create(method: str, path: str) -> bool:
    return method == "POST" and path.endswith(("GenerateContent", "EmbedContent", "/batchPredictionJobs"))


class TaskPair(Pair):
    """
    One pair of attempts as tasks.

    :param way: One of WAYS.
    :param operator: The create operator.
    """

    def __init__(self, plan: Plan, way: str, operator: type = CreateBatchOperator) -> None:
        super().__init__(plan)
        self.way = way
        self.operator = operator
        self.clock = SteppedTime(START)
        self.service.clock = self.clock.now
        self.folder = tempfile.TemporaryDirectory()
        self._drawing = threading.Lock()

    def way_there(self) -> float:
        """Return how long a request, or a reply, is on its way."""
        with self._drawing:
            return self.draw.uniform(0.02, 0.5)

    def store_for(self, worker: Attempts) -> Any:
        """Return the task state store as a worker reaches it."""
        if self.kept is None:
            return None
        kept = self.kept

        class Kept:
            def get(self, key: str) -> Any:
                return kept.get(key)

            def set(self, key: str, value: Any) -> None:
                if not worker.is_dead:
                    kept[key] = json.loads(json.dumps(value))

        return Kept()

    # --- the task -----------------------------------------------------------------------------------------------------

    def task(self, worker: Attempts, try_number: int) -> str:  # type: ignore[override]
        """Carry one attempt out, over its deferrals, and in the sensor's way the tasks behind it."""
        conn_id = f"{CONNECTIONS[self.workers.index(worker)]}_{self.plan.backend}"
        waits = self.way != "sensor"
        operator = self.operator(
            task_id="create", model=MODEL, inlined_requests=self._rows(), gemini_batch_conn_id=conn_id,
            wait_for_completion=waits, deferrable=self.way == "deferred", max_failed_rows=0,
        )  # fmt: skip
        name = str(self._carried_out(operator, worker.context(try_number)))
        if not waits:
            is_poking = self.plan.seed % 2
            sensor = BatchJobSensor(
                task_id="wait", job_name=name, gemini_batch_conn_id=conn_id, deferrable=not is_poking,
                poke_interval=30 if is_poking else None, max_failed_rows=0,
            )  # fmt: skip
            self._carried_out(sensor, worker.context(1, "wait"))
            download = DownloadResultsOperator(
                task_id="get", job_name=name, gemini_batch_conn_id=conn_id, max_failed_rows=0,
                output_path=str(Path(self.folder.name) / f"{conn_id}.jsonl"),
            )  # fmt: skip
            download.execute(worker.context(1, "get"))
        return name

    def _rows(self) -> list[dict[str, Any]]:
        if self.operator is CreateEmbeddingBatchOperator:
            return [{"key": f"k{number}", "text": f"Say {number}"} for number in range(4)]
        return rows(4)

    def _carried_out(self, operator: Any, context: dict[str, Any]) -> Any:
        step: Callable[[], Any] = lambda: operator.execute(context)  # noqa: E731
        while True:
            try:
                found = step()
            except TaskDeferred as deferred:
                payload = self._event_of(deferred.trigger)
                carried = json.loads(json.dumps(deferred.kwargs or {}))
                method = getattr(operator, deferred.method_name)
                step = lambda: method(context, payload, **carried)  # noqa: B023,E731
            else:
                return getattr(found, "xcom_value", found)

    def _event_of(self, trigger: Any) -> Any:
        path, arguments = trigger.serialize()
        again = type(trigger)(**json.loads(json.dumps(arguments)))
        assert path.endswith(type(trigger).__name__)

        async def first() -> Any:
            async for event in again.run():
                return event.payload
            raise AssertionError("no event")

        with asyncio.Runner(loop_factory=lambda: SteppedLoop(self.clock)) as runner:
            return runner.run(first())

    # --- the pair -----------------------------------------------------------------------------------------------------

    def play(self) -> Bill:
        """Let both workers run to their end, and read the bill."""
        kind = self.plan.kind
        first, second = Attempts(self), Attempts(self)
        delay = befall(first, kind, self.draw)
        self.workers = [first] if kind == "lost" else [first, second]
        FRONTS[:] = self.workers
        threads = [self.clock.start(lambda: first.begin(1))]
        if kind != "lost":
            threads.append(self.clock.start(lambda: self._second(first, second), delay))
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), f"{self.plan} hangs"
        self.folder.cleanup()
        return self._bill()

    def _second(self, first: Attempts, second: Attempts) -> None:
        while self.plan.kind == "killed" and not (first.is_dead or first.result or first.error):
            self.clock.sleep(0.5)
        second.begin(2)

    def _bill(self) -> Bill:
        jobs = self.service.jobs
        by_then = max((job.created for job in jobs), default=START) + self.plan.lag + IN_TIME
        alive = [job for job in jobs if job.cancelled is None or job.cancelled > by_then]
        told = {name for worker in self.workers for xcoms in worker.xcoms for name in xcoms.get("paid_twice", ())}
        results = [worker.result for worker in self.workers if worker.result is not None]
        errors = [worker.error for worker in self.workers if worker.error is not None and not worker.is_dead]
        return Bill(self.plan, jobs, alive, told, results, errors)


# --- the world ------------------------------------------------------------------------------------------------------

CONNECTIONS = ("first_worker", "second_worker")
FRONTS: list[Attempts] = []


@contextmanager
def tasks_and_service() -> Iterator[None]:
    """Serve, and let everything in this process follow the clock of the pair that is played."""
    with pytest.MonkeyPatch.context() as patch, Server(lambda: FRONTS[0]) as one, Server(lambda: FRONTS[-1]) as two:
        really, sleep, call = time.time, time.sleep, ThreadedCalls.call

        def now() -> float:
            return FRONTS[0].play.clock.now() if FRONTS else really()

        def pause(seconds: float) -> None:
            worker = getattr(_acting, "worker", None)
            if worker is None:
                sleep(seconds)
                return
            worker.play.clock.sleep(seconds)
            if worker.is_dead:
                raise Died

        async def aside(self: Any, *arguments: Any) -> Any:
            loop = asyncio.get_running_loop()
            called = call(self, *arguments)
            return await (loop.aside(called) if isinstance(loop, SteppedLoop) else called)

        patch.setattr(time, "time", now)
        patch.setattr(time, "sleep", pause)
        patch.setattr(ThreadedCalls, "call", aside)
        account = _service_account()
        for name, server in zip(CONNECTIONS, (one, two), strict=True):
            set_connection(patch, _connection("gemini", server.url, account), f"{name}_gemini")
            set_connection(patch, _connection("vertex_ai", server.url, account), f"{name}_vertex_ai")
        try:
            yield
        finally:
            FRONTS.clear()


def _connection(backend: str, url: str, account: dict[str, str]) -> dict[str, Any]:
    if backend == "gemini":
        return {"conn_type": "gemini_batch", "host": url, "password": "key", "extra": {"backend": backend}}
    members = {"project": "my-project-123", "location": "us-central1", "storage_uri": "gs://bucket/x"}
    account = {**account, "token_uri": f"{url}/token"}
    return {"conn_type": "gemini_batch", "host": url, "extra": {"backend": backend, **members, "keyfile_dict": account}}


def _service_account() -> dict[str, str]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    names = {"client_email": "a@p.iam.gserviceaccount.com", "private_key_id": "k", "project_id": "p"}
    return {"type": "service_account", "private_key": key.decode(), **names}
