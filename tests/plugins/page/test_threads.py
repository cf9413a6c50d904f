# SPDX-License-Identifier: Apache-2.0
"""The page lets Airflow's own routes go first: its threads rest, its requests take turns on the event loop."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.plugins.page import threads, workers
from airflow_provider_gemini_batch.plugins.page.threads import CpuThrottle, LoopLock

if TYPE_CHECKING:
    import pytest


def test_thread_that_computes_rests_after_each_millisecond_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = itertools.count(step=0.0004)
    rested: list[float] = []
    monkeypatch.setattr(time, "thread_time", lambda: next(computed))
    monkeypatch.setattr(time, "sleep", rested.append)
    throttle = CpuThrottle(every=2)
    for _ in range(24):
        throttle.pause_if_due()
    assert rested == [threads.SLICE] * 4, "12 looks at the clock, every third finds a millisecond gone"


def test_requests_take_turns_on_the_event_loop_and_leave_it_while_a_thread_works() -> None:
    on_the_loop: list[str] = []

    async def request(name: str) -> None:
        lock = LoopLock()
        await lock.acquire()
        on_the_loop.append(f"{name} in")
        await asyncio.sleep(0.01)
        on_the_loop.append(f"{name} out")
        lock.release()
        lock.release()  # twice does no harm: the next one stays alone

    async def all_at_once() -> None:
        await asyncio.gather(*map(request, "abc"))

    asyncio.run(all_at_once())
    assert on_the_loop == [f"{name} {way}" for name in "abc" for way in ("in", "out")]


def test_request_that_is_given_up_lets_the_next_one_in() -> None:
    async def given_up() -> bool:
        first, second = LoopLock(), LoopLock()
        await first.acquire()
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        second.release()  # as it does in any case; it has not entered
        third = LoopLock()
        entered = asyncio.create_task(third.acquire())
        await asyncio.sleep(0)
        assert not entered.done(), "the first one is still inside"
        first.release()
        await asyncio.wait_for(entered, 5)
        third.release()
        return True

    assert asyncio.run(given_up())


def test_request_that_holds_the_event_loop_for_long_loses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "MOST_HELD", 0.01)

    async def next_one_goes_on() -> bool:
        dead, alive = LoopLock(), LoopLock()
        await dead.acquire()
        monkeypatch.setattr(threads, "MOST_HELD", 60.0)
        await asyncio.wait_for(alive.acquire(), 5)
        dead.release()  # too late, and no harm: the other one has it
        third = asyncio.create_task(LoopLock().acquire())
        await asyncio.sleep(0)
        assert not third.done()
        alive.release()
        await asyncio.wait_for(third, 5)
        return True

    assert asyncio.run(next_one_goes_on())


def test_work_goes_to_the_thread_that_worked_last_and_an_idle_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_idle", [])
    names: set[int] = set()

    def work() -> threading.Thread:
        names.add(threading.get_ident())
        return threading.current_thread()

    async def one_after_the_other() -> threading.Thread:
        for kind in ("views", "answers", "changes") * 3:
            last = await threads.run(kind, work)
            await asyncio.sleep(0.01)  # a thread is free a moment after it has answered
        return last

    monkeypatch.setattr(workers, "IDLE_SECONDS", 0.2)
    last = asyncio.run(one_after_the_other())
    assert (len(names), last.daemon) == (1, True)
    last.join(5)
    assert (last.is_alive(), workers._idle) == (False, [])


def test_process_that_is_forked_works_with_threads_of_its_own() -> None:
    async def ask() -> int:
        return await asyncio.wait_for(workers.call(os.getpid), 5)

    asyncio.run(ask())
    time.sleep(0.01)  # a thread is free a moment after it has answered
    assert workers._idle
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        os._exit(0 if asyncio.run(ask()) == os.getpid() else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_no_more_threads_run_than_there_are_for_their_kind() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    async def many() -> None:
        await asyncio.gather(*(threads.run("changes", work) for _ in range(12)))

    asyncio.run(many())
    assert most == threads.THREADS["changes"]
