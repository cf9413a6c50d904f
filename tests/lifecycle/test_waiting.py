# SPDX-License-Identifier: Apache-2.0
"""Limits of a wait hold where the service's clock and ours differ by minutes."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from airflow_provider_gemini_batch.api.models import BatchJob
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.errors import NetworkSettingError, TransportError
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.lifecycle.waiting import Outcome, WaitLimits, Watch
from tests.support.airflow_side import rows, set_connection

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

NOW = 1_800_000_000.0


def stamp(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat()


def job(state: JobState, age: float, skew: float, read: bool = True) -> BatchJob:
    """Return a job of an age, as a service tells it whose clock is *skew* seconds ahead."""
    began = stamp(NOW + skew - age)
    return BatchJob("batches/a", state=state, create_time=began, start_time=began, read_at=NOW + skew if read else None)


def watching() -> Watch:
    return Watch(WaitLimits(NOW + 9000, pending_timeout=300.0, running_timeout=300.0), NOW - 1000)


@pytest.mark.parametrize("skew", [-900.0, -20.0, 0.0, 2.0, 20.0, 900.0])
@pytest.mark.parametrize(("state", "stuck"), [(JobState.PENDING, "pending"), (JobState.RUNNING, "running")])
def test_a_jobs_age_is_right_with_clocks_minutes_apart(state: JobState, stuck: str, skew: float) -> None:
    assert watching().see(job(state, 290, skew), NOW) is None
    assert watching().see(job(state, 310, skew), NOW) is Outcome(f"{stuck}_timeout")


@pytest.mark.parametrize("skew", [-900.0, 0.0, 900.0])
def test_a_limit_is_reached_between_two_polls(skew: float) -> None:
    watch = watching()
    watch.see(job(JobState.PENDING, 290, skew), NOW)
    assert watch.outcome(NOW + 9) is None
    assert watch.outcome(NOW + 11) is Outcome.PENDING_TIMEOUT


def test_polls_that_this_hosts_settings_fail_end_the_wait_in_minutes() -> None:
    watch, untrusted = watching(), NetworkSettingError("its certificate is not trusted")
    assert [watch.fault(untrusted, NOW + seconds) for seconds in (0, 200, 299)] == [None] * 3
    watch.see(job(JobState.PENDING, 10, 0.0), NOW + 300)
    assert watch.fault(untrusted, NOW + 310) is None
    watch.fault(TransportError("it refused the connection"), NOW + 500)
    assert [watch.fault(untrusted, NOW + seconds) for seconds in (510, 809)] == [None] * 2
    with pytest.raises(NetworkSettingError, match="not trusted"):
        watch.fault(untrusted, NOW + 810)


def test_the_pause_between_polls_follows_the_jobs_real_age() -> None:
    watch = watching()
    watch.see(job(JobState.PENDING, 100, 3600.0), NOW)
    assert watch.pause(NOW, None) < 10


def test_without_the_services_time_its_moments_count_as_ours() -> None:
    assert watching().see(job(JobState.PENDING, 310, 0.0, read=False), NOW) is Outcome.PENDING_TIMEOUT


@pytest.mark.parametrize("backend", ["gemini", "vertex_ai"])
def test_a_job_knows_when_the_service_says_it_was_read(
    gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    gemini_batch_emulator.configure(create_missing_buckets=True)
    set_connection(monkeypatch, gemini_batch_emulator.connection(backend))
    hook = GeminiBatchHook()
    name = hook.create_batch("gemini-3.5-flash-lite", inlined_requests=rows(1)).name
    listed = next(each for each in hook.list_all_batches() if each.name == name)
    for found in (hook.get_batch(name), listed):
        assert found.read_at is not None
        assert abs(found.read_at - time.time()) < 5
