# SPDX-License-Identifier: Apache-2.0
"""What is paid for once although a note, a read by name or a clock leaves it in doubt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.api.developer.jobs import DeveloperBackend
from airflow_provider_gemini_batch.api.identity import FormerTask, SubmissionToken, TaskIdentity
from airflow_provider_gemini_batch.api.models import BatchJob, BatchStats
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.api.wire import HttpReply, HttpRequest
from airflow_provider_gemini_batch.lifecycle.attempt import AttemptPolicy
from airflow_provider_gemini_batch.triggers.deferral import read_wait
from tests.lifecycle.test_submit import SETTINGS, START, TOKEN, Memory, Service, drive

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.lifecycle.submission import Submission


class Replicas(Service):
    """The service; a young job cannot be read by its name either, until it is listed."""

    def answer(self, request: HttpRequest) -> HttpReply:
        for job in self.jobs:
            if request.method == "GET" and request.url.endswith(job.name) and job.listed > self.time:
                return HttpReply(404, {}, b'{"error": {"status": "NOT_FOUND"}}')
        return super().answer(request)


def attempt_number(number: int, **more: Any) -> TaskIdentity:
    return TaskIdentity(TOKEN.task, START - 3600, may_have_rivals=number > 1, earlier_attempts=number - 1, **more)


def submitted(service: Service, number: int = 2, **more: Any) -> Submission:
    return drive(Memory().flow(service, identity=attempt_number(number), **more), service)


def test_a_noted_job_that_a_read_misses_is_waited_for() -> None:
    service = Replicas()
    job = service.add(TOKEN, "PENDING", 1)
    job.listed = service.time + 9
    done = submitted(service, 1, known_names=[job.name], intent_at=service.time - 1)
    assert (done.job.name, service.creates) == (job.name, 0)


def test_a_noted_job_that_is_long_gone_costs_no_wait() -> None:
    service = Replicas()
    job = service.add(TOKEN, "PENDING", 9000)
    job.listed = service.time + 9000
    assert submitted(service, 1, known_names=[job.name], intent_at=service.time - 9000).action == "created"
    assert service.time - START < 15


def test_the_note_of_a_job_before_hides_no_create_that_was_not_noted() -> None:
    service = Service()
    before = service.add(TOKEN, "FAILED", 900)
    unheard = service.add(TOKEN, "PENDING", 1)
    unheard.listed = service.time + 30
    done = submitted(service, 3, known_names=[before.name], intent_at=service.time - 900)
    assert (done.job.name, service.creates) == (unheard.name, 0)


@pytest.mark.parametrize(("number", "is_held"), [(2, False), (3, True)])
def test_an_adopted_job_may_have_a_twin_of_an_attempt_without_one(number: int, is_held: bool) -> None:
    service = Service()
    service.add(TOKEN, "RUNNING", 20)
    assert submitted(service, number).may_have_twin is is_held


def test_a_job_of_a_former_identity_accounts_for_the_attempt_before() -> None:
    service = Service()
    service.add(SubmissionToken("b" * 16, TOKEN.digest), "RUNNING", 200)
    former = (FormerTask("b" * 16, START - 100),)
    done = drive(Memory().flow(service, identity=attempt_number(2, former=former)), service)
    assert (done.action, done.may_have_twin) == ("adopted", False)


def test_a_trigger_hands_the_twins_that_it_saw_to_the_task() -> None:
    event = {"outcome": "twin", "job_name": "batches/b", "twins": ["batches/a", 3]}
    attempt, _ = read_wait(event, {"plan": {"deadline": START, "twins": ["batches/c"]}}, AttemptPolicy())
    assert attempt.twins == ("batches/c", "batches/a")
    event["twins"] = "batches/a"
    assert read_wait(event, {"plan": {"deadline": START}}, AttemptPolicy())[0].twins == ()


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"requestCount": "40", "successfulRequestCount": "20"}, 20),
        ({"requestCount": "40", "failedRequestCount": "2"}, 40),
        ({"requestCount": 40, "successfulRequestCount": 38, "failedRequestCount": "2"}, 40),
        ({"requestCount": "40", "successfulRequestCount": "20", "pendingRequestCount": "20"}, 20),
        ({"successfulRequestCount": "20"}, 20),
        ({"requestCount": "4O", "successfulRequestCount": "twenty"}, None),
        ({}, None),
    ],
)
def test_counts_ask_for_what_they_can_vouch_for(counts: dict[str, Any], expected: int | None) -> None:
    import json

    body = {"name": "batches/a", "done": True, "metadata": {"state": "BATCH_STATE_SUCCEEDED", "batchStats": counts}}
    job = DeveloperBackend(SETTINGS).read_job(HttpReply(200, {}, json.dumps(body).encode()))
    assert job.expected_answers == expected


def test_counts_of_vertex_that_lack_a_member_ask_for_what_they_tell() -> None:
    job = BatchJob("projects/p", state=JobState.SUCCEEDED, stats=BatchStats(40, 20, None, None), backend="vertex_ai")
    assert job.expected_answers == 20
