# SPDX-License-Identifier: Apache-2.0
"""What every test may use."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

# An installed package brings its plugin by entry point; a bare checkout has to name it.
_IS_REGISTERED = any(entry.name == "gemini_batch" for entry in importlib.metadata.entry_points(group="pytest11"))
pytest_plugins = [] if _IS_REGISTERED else ["gemini_batch_emulator.pytest_plugin"]


def _have_a_database_of_ones_own() -> None:
    """
    Give each process of a parallel run a copy of Airflow 2.11's database.

    There a task keeps the name of its Airflow in it, and tests that change that name would change it for all.
    """
    worker, home = os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get("AIRFLOW_HOME")
    shared = Path(home or "/nowhere") / "airflow.db"
    if worker is None or importlib.util.find_spec("airflow.sdk") is not None or not shared.exists():
        return
    own = shared.with_name(f"airflow-{worker}.db")
    shutil.copyfile(shared, own)
    os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{own}"


_have_a_database_of_ones_own()

SLEEP = 8.0
"""Seconds that a test's process may sleep, naps of less than half a second left out, unless it is marked slow."""


@pytest.fixture(autouse=True)
def _nothing_sleeps_for_long(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that waits in real time for what can be stepped; see :func:`stepped`."""
    really, slept = time.sleep, [0.0]

    def sleep(seconds: float) -> None:
        began = time.monotonic()
        try:
            really(seconds)
        finally:
            if seconds >= 0.5 and threading.current_thread() is threading.main_thread():
                slept[0] += time.monotonic() - began

    time.sleep = sleep  # type: ignore[assignment]
    yield
    time.sleep = really  # type: ignore[assignment]
    if slept[0] > SLEEP and request.node.get_closest_marker("slow") is None:
        pytest.fail(f"slept for {slept[0]:.0f} s: let time be stepped, for example by the fixture `stepped`")


# Where the versions of Airflow keep what they blank out in logs; 3.x has one for the core and one for tasks.
_MASKERS = (
    "airflow._shared.secrets_masker.secrets_masker",
    "airflow.sdk._shared.secrets_masker.secrets_masker",
    "airflow.sdk.execution_time.secrets_masker",
    "airflow.utils.log.secrets_masker",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Tell the process that hands out tests which belong together.

    It reads groups off the tests' ids. pytest-xdist 3.8 writes them there in a way that pytest 9.2 no longer sees.
    """
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        mark = item.get_closest_marker("xdist_group")
        if mark is not None and hasattr(item, "_id") and not item.nodeid.endswith(f"@{mark.args[0]}"):
            item._id = type(item._id).parse(f"{item.nodeid}@{mark.args[0]}")


@pytest.fixture(autouse=True, scope="session")
def _nothing_waits_for_the_disk() -> Iterator[None]:
    """Leave the disk its time: what survives a power cut cannot be seen here, and waiting for it takes minutes."""

    def checked(file: Any) -> None:
        os.fstat(file if isinstance(file, int) else file.fileno())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", checked)
        yield


@pytest.fixture(autouse=True)
def _secrets_are_forgotten() -> Iterator[None]:
    """
    Let Airflow forget a test's secrets.

    It compiles all secrets ever seen into one regular expression, anew with each new one and used for each line that
    it logs: after a thousand service accounts that takes seconds.
    """
    maskers = [masker for name in _MASKERS if (masker := _masker(name)) is not None]
    before = [(masker, set(masker.patterns), masker.replacer) for masker in maskers]
    yield
    for masker, patterns, replacer in before:
        masker.patterns, masker.replacer = patterns, replacer


def _masker(name: str) -> Any:
    """Return a masker that is there, without importing Airflow for it."""
    get = vars(sys.modules[name]).get("_secrets_masker") if name in sys.modules else None
    try:
        return None if get is None else get()
    except RuntimeError:  # Airflow 2.11 before its logging is set up
        return None


@pytest.fixture(params=["gemini", "vertex_ai"])
def emulator(
    request: pytest.FixtureRequest, gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch
) -> EmulatorHandle:
    """The emulator behind the default connection: once as the Developer API, once as Vertex AI."""
    from tests.support.airflow_side import set_connection

    set_connection(monkeypatch, gemini_batch_emulator.connection(request.param))
    return gemini_batch_emulator


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of Airflow, to be copied into a home; see :mod:`tests.support.airflow_home`."""
    from tests.support.airflow_home import migrated_database

    folder = tmp_path_factory.getbasetemp()
    # Each worker of a parallel run has a folder of its own in one that they share.
    return migrated_database(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)


@pytest.fixture
def stepped(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let emulated time pass where the code sleeps."""
    monkeypatch.setattr("time.sleep", gemini_batch_emulator.advance)
