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
from tests.lifecycle.test_submit import (
    OTHER_INPUT,
    SETTINGS,
    START,
    TOKEN,
    Memory,
    Service,
    drive,
    reply_lost,
    request_lost,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_gemini_batch.lifecycle.submission import Submission


class Replicas(Service):
    """The service; a young job cannot be read by its name either, until it is listed."""

    def answer(self, request: HttpRequest) -> HttpReply:
        for job in self.jobs:
            if request.method == "GET" and request.url.endswith(job.name) and job.listed > self.time:
                return HttpReply(404, {}, b'{"error": {"status": "NOT_FOUND"}}')
        return super().answer(request)


class Forgetful(Service):
    """The service; its list shows a job at once, and a read does not find it for so many seconds."""

    unread = 30.0

    def answer(self, request: HttpRequest) -> HttpReply:
        for job in self.jobs:
            if job.name in request.url and self.time < job.created + self.unread:
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


def test_a_listed_young_job_that_a_read_misses_is_adopted() -> None:
    service = Forgetful()
    job = service.add(TOKEN, "PENDING", 3)
    done = submitted(service)
    assert (done.job.name, service.creates) == (job.name, 0)


def test_a_lost_create_is_not_repeated_where_a_read_misses_its_job() -> None:
    service = Forgetful()
    done = drive(Memory().flow(service, identity=attempt_number(1)), service, [reply_lost])
    assert (done.job.name, service.creates) == (service.jobs[0].name, 1)
    assert service.time - START < 20


def test_a_listed_old_job_that_a_read_misses_is_gone() -> None:
    service = Forgetful()
    service.unread = 9000
    service.add(TOKEN, "PENDING", 900)
    assert submitted(service).action == "created"


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


def test_a_third_attempt_is_not_held_for_a_job_that_none_can_have_missed() -> None:
    service = Service()
    service.add(TOKEN, "RUNNING", 3 * 3600)
    assert not submitted(service, 3).may_have_twin


def test_a_rivals_job_answers_for_no_lost_call_after_it() -> None:
    service = Service(lambda: 120)

    def loses(request: HttpRequest, send: Callable[[HttpRequest], HttpReply]) -> HttpReply:
        rival = service.add(TOKEN, "PENDING", 5)
        rival.listed = service.time + 8
        return reply_lost(request, send)

    done = drive(Memory().flow(service, identity=attempt_number(2)), service, [loses])
    assert (done.job.name, service.creates) == ("batches/j0", 1)
    assert done.in_doubt_since == pytest.approx(service.jobs[1].created, abs=1)


def test_a_retry_whose_lost_call_is_listed_is_in_doubt_no_longer() -> None:
    service = Service(lambda: 8)
    service.add(TOKEN, "FAILED", 900)
    done = drive(Memory().flow(service, identity=attempt_number(2)), service, [reply_lost])
    assert (done.job.name, service.creates, done.in_doubt_since) == ("batches/j1", 1, None)


def test_what_is_in_doubt_is_the_last_call_of_which_nothing_is_heard() -> None:
    service = Service()
    service.add(OTHER_INPUT, "FAILED", 900)
    first = submitted(service, 3, intent_at=service.time - 30)
    assert first.in_doubt_since == START - 30
    service = Service()
    done = drive(Memory().flow(service), service, [request_lost, request_lost])
    assert (done.action, service.creates) == ("created", 1)
    assert done.in_doubt_since is not None
    assert START + 40 < done.in_doubt_since < START + 60


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
