# SPDX-License-Identifier: Apache-2.0
"""Blocking calls beside an event loop: bounded, daemonic, and never waited for once nobody wants them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_gemini_batch.transport.threads import NoThreadError, ThreadedCalls


class Tool:
    """Notes who uses it, and whether it was closed."""

    made: list[Tool]

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.closed_in = 0
        self.made.append(self)

    def close(self) -> None:
        self.closed_in = threading.get_ident()


@pytest.fixture(autouse=True)
def no_tools() -> None:
    Tool.made = []


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


def run(work: Callable[[ThreadedCalls[Tool]], Any], most: int = 2) -> Any:
    async def drive() -> Any:
        calls = ThreadedCalls(Tool, most, "test")
        try:
            return await work(calls)
        finally:
            calls.close()

    return asyncio.run(drive())


def test_calls_one_after_the_other_share_a_thread_and_its_tool() -> None:
    async def work(calls: ThreadedCalls[Tool]) -> set[int]:
        return {await calls.call(lambda tool: threading.get_ident(), 5) for _ in range(5)}

    assert run(work) == {Tool.made[0].thread}
    assert len(Tool.made) == 1


def test_threads_are_bounded_and_further_calls_wait(gate: threading.Event) -> None:
    async def work(calls: ThreadedCalls[Tool]) -> list[int]:
        waiting = [asyncio.create_task(calls.call(lambda tool: gate.wait(5), 5)) for _ in range(6)]
        await asyncio.sleep(0.1)
        gate.set()
        return await asyncio.gather(*waiting)

    assert run(work) == [True] * 6
    assert len(Tool.made) == 2


def test_an_error_reaches_the_caller_and_the_thread_goes_on() -> None:
    async def work(calls: ThreadedCalls[Tool]) -> str:
        with pytest.raises(ZeroDivisionError):
            await calls.call(lambda tool: 1 / 0, 5)
        return await calls.call(lambda tool: "went on", 5)

    assert run(work) == "went on"
    assert len(Tool.made) == 1


def test_a_tool_that_cannot_be_made_is_told_and_tried_again() -> None:
    made: list[int] = []

    def make() -> str:
        made.append(1)
        if len(made) == 1:
            raise ValueError("no client")
        return "tool"

    async def work() -> str:
        calls = ThreadedCalls(make, 1, "test")
        with pytest.raises(ValueError, match="no client"):
            await calls.call(str, 5)
        return await calls.call(str, 5)

    assert asyncio.run(work()) == "tool"


def test_a_cancelled_call_returns_at_once_and_its_thread_is_used_again(gate: threading.Event) -> None:
    async def work(calls: ThreadedCalls[Tool]) -> float:
        task = asyncio.create_task(calls.call(lambda tool: gate.wait(5), 5))
        await asyncio.sleep(0.05)
        begin = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        spent = time.monotonic() - begin
        gate.set()
        assert await calls.call(lambda tool: "again", 5) == "again"
        return spent

    assert run(work, most=1) < 0.2
    assert len(Tool.made) == 1


def test_a_call_that_hangs_is_given_up_and_the_others_use_the_thread_that_is_left(gate: threading.Event) -> None:
    async def work(calls: ThreadedCalls[Tool]) -> None:
        with pytest.raises(TimeoutError):
            await calls.call(lambda tool: gate.wait(5), 0.1)
        assert await calls.call(lambda tool: "free", 5) == "free"
        hanging = asyncio.create_task(calls.call(lambda tool: gate.wait(5), 5))
        await asyncio.sleep(0.05)
        with pytest.raises(NoThreadError):
            await calls.call(lambda tool: "never", 0.1)
        gate.set()
        await hanging

    run(work)
    assert len(Tool.made) == 2


def test_a_waiting_call_that_is_cancelled_gives_its_turn_away(gate: threading.Event) -> None:
    async def work(calls: ThreadedCalls[Tool]) -> str:
        first = asyncio.create_task(calls.call(lambda tool: gate.wait(5), 5))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(calls.call(lambda tool: "second", 5))
        third = asyncio.create_task(calls.call(lambda tool: "third", 5))
        await asyncio.sleep(0)
        second.cancel()
        gate.set()
        await first
        return await third

    assert run(work, most=1) == "third"


def test_the_loop_runs_on_while_a_call_blocks(gate: threading.Event) -> None:
    async def work(calls: ThreadedCalls[Tool]) -> int:
        call = asyncio.create_task(calls.call(lambda tool: gate.wait(0.3), 5))
        ticks = 0
        while not call.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks

    assert run(work) > 10


def test_closing_waits_for_nobody_and_each_tool_is_closed_in_its_thread(gate: threading.Event) -> None:
    async def work(calls: ThreadedCalls[Tool]) -> float:
        await asyncio.gather(*(calls.call(lambda tool: time.sleep(0.05), 5) for _ in range(2)))
        busy = asyncio.create_task(calls.call(lambda tool: gate.wait(5), 5))
        await asyncio.sleep(0.05)
        begin = time.monotonic()
        calls.close()
        busy.cancel()
        return time.monotonic() - begin

    assert run(work) < 0.1
    gate.set()
    until = time.monotonic() + 5
    while time.monotonic() < until and not all(tool.closed_in for tool in Tool.made):
        time.sleep(0.01)
    assert [tool.closed_in for tool in Tool.made] == [tool.thread for tool in Tool.made]


def test_a_call_that_hangs_does_not_keep_the_process_alive() -> None:
    script = """
        import asyncio, time
        from airflow_provider_gemini_batch.transport.threads import ThreadedCalls
        async def main():
            calls = ThreadedCalls(lambda: None, 1, "test")
            try:
                await calls.call(lambda tool: time.sleep(60), 0.1)
            except TimeoutError:
                print("given up")
        asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.returncode) == ("given up\n", 0), done.stderr
