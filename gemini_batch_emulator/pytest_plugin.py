# SPDX-License-Identifier: Apache-2.0
"""
The pytest fixture ``gemini_batch_emulator``: the emulator for the tests of your own DAGs.

::

    def test_nightly(gemini_batch_emulator, monkeypatch):
        connection = gemini_batch_emulator.connection("gemini")
        monkeypatch.setenv("AIRFLOW_CONN_GEMINI_BATCH_DEFAULT", json.dumps(connection))
        gemini_batch_emulator.script(mode="at_once", rows=[{"key": "row-3", "outcome": "blocked_prompt"}])
        ...
        assert gemini_batch_emulator.ledger()["totals"]["billed"] == 1

One server serves the whole session, and every test starts from a fresh state. Nothing is imported until the fixture is
used.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gemini_batch_emulator.faults import Fault
    from gemini_batch_emulator.server import EmulatorServer
    from gemini_batch_emulator.state import EmulatorState
    from gemini_batch_emulator.token import SigningKey

API_KEY = "emulator-key"
PROJECT = "emulated-project"
LOCATION = "us-central1"
BUCKET = "emulator"


class EmulatorHandle:
    """
    What a test does with the emulator.

    :param server: A server that runs.
    """

    def __init__(self, server: EmulatorServer) -> None:
        self._server = server

    @property
    def url(self) -> str:
        """Base URL of everything: both backends, Cloud Storage and the token endpoint."""
        return self._server.url

    @property
    def state(self) -> EmulatorState:
        """The emulator's state, for what has no method here."""
        return self._server.state

    def connection(self, backend: str = "gemini", **extra: Any) -> dict[str, Any]:
        """
        Return an Airflow connection as a dictionary; its JSON is a value for ``AIRFLOW_CONN_...``.

        :param backend: ``gemini`` (an API key) or ``vertex_ai`` (a service account whose token endpoint this is).
        :param extra: More members for the connection's extra.
        """
        connection: dict[str, Any] = {"conn_type": "gemini_batch", "host": self.url}
        if backend == "gemini":
            return {**connection, "password": API_KEY, "extra": {"backend": backend, **extra}}
        if backend != "vertex_ai":
            raise ValueError(f"There is no backend {backend!r}; there is gemini and vertex_ai.")
        from gemini_batch_emulator.token import create_service_account

        # A real key and a real signature, so that the whole way of google-auth is walked.
        account = create_service_account(self.state, project=PROJECT, token_uri=f"{self.url}/token", key=_signing_key())
        members = {
            "backend": backend,
            "project": PROJECT,
            "location": LOCATION,
            "storage_uri": f"gs://{BUCKET}/airflow",
            "keyfile_dict": account,
        }
        return {**connection, "extra": {**members, **extra}}

    def configure(self, **knobs: Any) -> None:
        """Turn knobs: the members of :class:`~.knobs.Config`."""
        self.state.configure(knobs)

    def script(self, *, match: dict[str, str] | None = None, times: int | None = None, **script: Any) -> None:
        """
        Say how jobs behave: the members of :class:`~.scripts.JobScript`.

        :param match: Which jobs; without it, all.
        :param times: For how many of the next jobs; None is all that follow.
        """
        self.state.add_script(script, match=match, times=times)

    def fault(self, **rule: Any) -> Fault:
        """Let calls go wrong: the members of :class:`~.faults.Fault`; returns the rule, which counts its hits."""
        return self.state.add_fault(**rule)

    def clear_faults(self) -> None:
        """Drop all fault rules."""
        with self.state.lock:
            self.state.faults.clear()

    def advance(self, seconds: float) -> None:
        """Let emulated time pass."""
        self.state.clock.change(advance=seconds)

    def seed_jobs(self, **what: Any) -> list[str]:
        """Make jobs that were there before; see :func:`~.seeding.seed_jobs`. Returns their names, oldest first."""
        from gemini_batch_emulator.seeding import seed_jobs

        return seed_jobs(self.state, **what)

    def finish_jobs(self, **what: Any) -> int:
        """End jobs now; see :func:`~.seeding.finish_jobs`."""
        from gemini_batch_emulator.seeding import finish_jobs

        return finish_jobs(self.state, **what)

    def ledger(self) -> dict[str, Any]:
        """Return what was created and billed: ``{"jobs": [...], "totals": {...}}``."""
        return self.state.ledger()

    def executions(self, request: dict[str, Any] | None = None) -> Any:
        """
        Return what ran, over all jobs and calls, whatever keys it came under.

        :param request: A request as a row holds it: return how often it ran. Without it: a summary, see
            :meth:`~.executions.Executions.summary`.
        """
        from gemini_batch_emulator.rows import prompt_of

        if request is None:
            return self.state.executions.summary()
        return self.state.executions.count(prompt_of(request)[1])

    def journal(self, *, path: str = "", method: str = "") -> list[dict[str, Any]]:
        """Return the requests seen, oldest first; *path* and *method* are regular expressions."""
        from gemini_batch_emulator.control import journal

        return journal(self.state, path=path, method=method)

    def reset(self) -> None:
        """Forget everything."""
        self.state.reset()


@functools.cache
def _signing_key() -> SigningKey:
    """Return the key of all tests' accounts: making one takes longer than most tests."""
    from gemini_batch_emulator.token import make_signing_key

    return make_signing_key()


@pytest.fixture(scope="session")
def gemini_batch_emulator_server() -> Iterator[EmulatorServer]:
    """Serve one emulator for the whole session."""
    from gemini_batch_emulator.server import EmulatorServer

    # One server for all tests: starting one takes longer than most of them.
    with EmulatorServer() as server:
        yield server


@pytest.fixture
def gemini_batch_emulator(gemini_batch_emulator_server: EmulatorServer) -> Iterator[EmulatorHandle]:
    """Return an :class:`EmulatorHandle` over a fresh emulator."""
    handle = EmulatorHandle(gemini_batch_emulator_server)
    # Before and after: a test that was interrupted has not cleaned up, and one that ended leaves no files to the next
    # session.
    handle.reset()
    yield handle
    handle.reset()
