# SPDX-License-Identifier: Apache-2.0
"""
What installing a provider adds to an Airflow environment, read from the metadata of the environments that are there.

A distribution counts if the provider needs it, directly or not, and Airflow by itself does not. Its size is that of its
files, compiled ones included. We are installed editably there, so our own size is that of our wheel, unpacked and
compiled.
"""

from __future__ import annotations

import compileall
import importlib
import io
import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import Part, Row, ratio, size

if TYPE_CHECKING:
    from benchmarks.bench import Bench

OURS = "airflow-provider-gemini-batch"
OFFICIAL = "apache-airflow-providers-google"
COUNT_TARGET = 6
SIZE_TARGET = 10_000_000


def parts(bench: Bench) -> Iterator[Part]:
    """Yield the parts of this measure."""
    yield Part("distributions and size", lambda: _rows(bench))


def _rows(bench: Bench) -> list[Row]:
    added = bench.call("installed:added", provider=OURS)
    added[OURS] = bench.call("installed:wheel_size")
    official = bench.official("installed:added", provider=OFFICIAL)
    ours = sum(added.values())
    return [
        Row(
            "install into an Airflow environment: distributions added",
            f"{len(added)} ({', '.join(sorted(added))})",
            f"{len(official)}" if official else "",
            ratio(len(added), len(official)) if official else "",
            target=f"{COUNT_TARGET}",
            met=len(added) <= COUNT_TARGET,
        ),
        Row(
            "install into an Airflow environment: size added",
            size(ours),
            size(sum(official.values())) if official else "",
            ratio(ours, sum(official.values())) if official else "",
            target=size(SIZE_TARGET),
            met=ours <= SIZE_TARGET,
        ),
    ]


def added(provider: str) -> dict[str, int]:
    """Return name and bytes of every distribution that *provider* brings into an environment with Airflow."""
    return {name: installed_size(name) for name in sorted(closure(provider) - closure("apache-airflow"))}


def closure(name: str) -> set[str]:
    """Return the names of a distribution and of all that it needs in this environment."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    todo: list[tuple[str, frozenset[str]]] = [(name, frozenset())]
    while todo:
        one, extras = todo.pop()
        if (one, extras) in seen:
            continue
        seen.add((one, extras))
        try:
            needed = distribution(one).requires or []
        except PackageNotFoundError:
            continue
        found.add(normal(one))
        for text in needed:
            requirement = Requirement(text)
            if requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in ("", *sorted(extras))
            ):
                todo.append((normal(requirement.name), frozenset(requirement.extras)))
    return found


def normal(name: str) -> str:
    """Spell a distribution's name in the one way."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_size(name: str) -> int:
    """Return the bytes of a distribution's files."""
    paths = {Path(str(file.locate())) for file in distribution(name).files or []}
    return sum(path.stat().st_size for path in paths if path.is_file())


def wheel_size() -> int:
    """Build our wheel and return the bytes that it takes once installed."""
    backend: Any = importlib.import_module("hatchling.build")
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(io.StringIO()):
            wheel = Path(folder) / backend.build_wheel(folder)
        place = Path(folder) / "installed"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place)
        compileall.compile_dir(place, quiet=2)
        return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
