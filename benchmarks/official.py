# SPDX-License-Identifier: Apache-2.0
"""The official Google provider, driven in its own environment; functions for :func:`benchmarks.processes.call`."""

from __future__ import annotations

import asyncio
import importlib
import time
from pathlib import Path
from typing import Any

from benchmarks.usage import LoopWatch, forget_peak, measured, peak, resident
from benchmarks.waits import Waits

API_KEY = "benchmark-key"
MODEL = "models/gemini-3.5-flash-lite"
GEN_AI = "airflow.providers.google.cloud"


def watch(jobs: int, interval: float) -> dict[str, Any]:
    """Create jobs and wait for them, as its deferred operators do: its trigger does both."""
    return asyncio.run(_watch(jobs, interval))


async def _watch(jobs: int, interval: float) -> dict[str, Any]:
    hooks: Any = importlib.import_module(f"{GEN_AI}.hooks.gen_ai")
    triggers: Any = importlib.import_module(f"{GEN_AI}.triggers.gen_ai")
    created = 0
    all_created = asyncio.Event()

    class CountingHook(hooks.GenAIGeminiAPIAsyncHook):
        async def create_batch_job(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal created
            job = await super().create_batch_job(*args, **kwargs)
            created += 1
            if created == jobs:
                all_created.set()
            return job

    triggers.GenAIGeminiAPIAsyncHook = CountingHook

    def make(_: Any) -> Any:
        return triggers.GenAIGeminiCreateBatchJobTrigger(
            project_id="p",
            location="l",
            model=MODEL,
            input_source=[{"contents": [{"parts": [{"text": "Why is the sky blue?"}]}]}],
            gemini_api_key=API_KEY,
            polling_interval=interval,
        )

    waits = Waits(make)
    await waits.start(range(1))
    await asyncio.sleep(interval)
    forget_peak()
    before = resident()
    await waits.start(range(jobs - 1))
    await all_created.wait()
    await asyncio.sleep(interval)
    begin, cpu = time.time(), time.process_time()
    await asyncio.sleep(2 * interval)
    found = {"window": (begin, time.time()), "cpu": time.process_time() - cpu, "memory": peak() - before}
    async with LoopWatch() as loop:
        await waits.ended(600)
    found["pauses"] = loop.pauses()
    found["events"] = {payload["job_name"]: at for at, payload in waits.events if payload.get("status") == "success"}
    return found


def fetch(job_name: str, folder: str) -> dict[str, float]:
    """Fetch a job's result file as its operator does, into a folder."""
    operators: Any = importlib.import_module(f"{GEN_AI}.operators.gen_ai")
    operator = operators.GenAIGeminiCreateBatchJobOperator(
        task_id="fetch",
        project_id="p",
        location="l",
        model=MODEL,
        input_source="files/any",
        results_folder=folder,
        gemini_api_key=API_KEY,
    )
    job = operator.hook.get_batch_job(job_name)
    found = measured(lambda: operator._prepare_results_for_xcom(job))
    found["bytes"] = sum(path.stat().st_size for path in Path(folder).iterdir())
    return found
