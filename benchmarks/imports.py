# SPDX-License-Identifier: Apache-2.0
"""What a DAG file pays for importing a provider, over what every DAG file loads anyway."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from benchmarks.report import Part, Row, milliseconds, ratio, size
from benchmarks.usage import forget_peak, peak, resident

if TYPE_CHECKING:
    from benchmarks.bench import Bench

OURS = [f"airflow_provider_gemini_batch.{part}" for part in ("operators", "sensors", "triggers")]
OFFICIAL = [f"airflow.providers.google.cloud.{part}.gen_ai" for part in ("operators", "triggers")]
CPU_TARGET = 0.05
MEMORY_TARGET = 3_000_000


def parts(bench: Bench) -> Iterator[Part]:
    """Yield the parts of this measure."""
    yield Part("operators, sensors, triggers", lambda: _rows(bench))


def _rows(bench: Bench) -> list[Row]:
    # The first one of each also finds or writes the compiled files; the least is what a parse pays.
    ours = _least([bench.call("imports:imports", modules=OURS) for _ in range(bench.repeats + 1)])
    found = [bench.official("imports:imports", modules=OFFICIAL) for _ in range(bench.repeats + 1)]
    official = _least(found) if all(found) else None
    title = "import of all operators, sensors and triggers over airflow.sdk"
    return [
        Row(
            f"{title}: CPU",
            milliseconds(ours["cpu"]),
            milliseconds(official["cpu"]) if official else "",
            ratio(ours["cpu"], official["cpu"]) if official else "",
            target=milliseconds(CPU_TARGET),
            met=ours["cpu"] <= CPU_TARGET,
        ),
        Row(
            f"{title}: memory",
            size(ours["memory"]),
            size(official["memory"]) if official else "",
            ratio(ours["memory"], official["memory"]) if official else "",
            target=size(MEMORY_TARGET),
            met=ours["memory"] <= MEMORY_TARGET,
        ),
        Row(
            f"{title}: modules loaded",
            f"{ours['modules']:,.0f}",
            f"{official['modules']:,.0f}" if official else "",
            ratio(ours["modules"], official["modules"]) if official else "",
        ),
    ]


def _least(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: min(one[name] for one in found) for name in found[0]}


def imports(modules: list[str]) -> dict[str, float]:
    """Import modules and every public name of theirs; runs in a process of its own."""
    sdk: Any = importlib.import_module("airflow.sdk")
    # Its names are loaded when they are first used; each DAG file uses these.
    _ = sdk.DAG, sdk.BaseOperator, sdk.BaseSensorOperator, sdk.task
    loaded = len(sys.modules)
    forget_peak()
    before, start = resident(), time.process_time()
    for name in modules:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            getattr(module, public)
    return {
        "cpu": time.process_time() - start,
        "memory": max(0, peak() - before),
        "modules": len(sys.modules) - loaded,
    }
