# SPDX-License-Identifier: Apache-2.0
"""Jobs under a former identity, at another map index, and several submissions of one task at once."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from airflow_provider_gemini_batch.api.developer.jobs import DeveloperBackend
from airflow_provider_gemini_batch.api.identity import FormerTask, SubmissionToken, TaskIdentity, token_of
from airflow_provider_gemini_batch.api.models import JobSpec
from airflow_provider_gemini_batch.api.wire import Flow, Pause
from airflow_provider_gemini_batch.errors import GeminiBatchError, RateLimitedError
from airflow_provider_gemini_batch.lifecycle.submission import Order, Submission, SubmitPolicy
from airflow_provider_gemini_batch.lifecycle.submit import never_cut_short, submit_wave
from airflow_provider_gemini_batch.lifecycle.twins import TwinWatch, reconcile
from tests.lifecycle.test_submit import (
    SETTINGS,
    START,
    TOKEN,
    Fault,
    Memory,
    Service,
    costing,
    drive,
    reply_lost,
    status,
)

OLD = SubmissionToken("b" * 16, TOKEN.digest)
OLD_OTHER = SubmissionToken("b" * 16, "3" * 16)
CHANGED = START - 100
"""When the identity changed."""


def later_attempt(until: float | None = CHANGED, **more: Any) -> TaskIdentity:
    former = (FormerTask(OLD.task, until),)
    return TaskIdentity(TOKEN.task, START - 3600, may_have_rivals=True, former=former, earlier_attempts=1, **more)


def submitted(service: Service, identity: TaskIdentity, **more: Any) -> Submission:
    return drive(Memory().flow(service, identity=identity, **more), service)


def test_a_job_submitted_before_the_upgrade_is_adopted_after_a_clear() -> None:
    service = Service()
    old = service.add(OLD, "RUNNING", age=200)
    done = submitted(service, later_attempt())
    assert (done.action, done.job.name, service.creates) == ("adopted", old.name, 0)
    assert len(costing(service)) == 1


def test_a_first_attempt_takes_nothing_of_a_former_identity() -> None:
    service = Service()
    theirs = service.add(OLD, "RUNNING", age=200)
    first = TaskIdentity(TOKEN.task, START - 3600, former=(FormerTask(OLD.task, CHANGED),), earlier_attempts=0)
    assert submitted(service, first).action == "created"
    assert theirs.state == "RUNNING"


def test_what_another_airflow_submits_by_the_former_identity_is_left_alone() -> None:
    service = Service()
    theirs = service.add(OLD, "RUNNING", age=50)  # after ours changed: their Airflow still runs the older version
    other = service.add(OLD_OTHER, "RUNNING", age=200)
    done = submitted(service, later_attempt())
    assert (done.action, theirs.state, other.state) == ("created", "RUNNING", "RUNNING")
    assert other.name in done.reason


def test_a_job_that_may_be_anothers_is_never_cancelled_as_a_twin() -> None:
    service = Service()
    old, ours = service.add(OLD, "RUNNING", age=200), service.add(TOKEN, "RUNNING", age=300)
    done = submitted(service, later_attempt())
    assert (done.job.name, old.state) == (ours.name, "RUNNING")


def test_what_we_noted_ourselves_is_replaced_when_its_input_changed() -> None:
    service = Service()
    old = service.add(OLD_OTHER, "RUNNING", age=50)
    assert submitted(service, later_attempt(None)).action == "replaced"
    assert old.state == "CANCELLED"


def test_rows_that_moved_to_another_map_index_are_not_paid_for_again() -> None:
    service = Service()
    neighbour = service.add(SubmissionToken("c" * 16, TOKEN.digest), "RUNNING")
    mine_before = service.add(SubmissionToken(TOKEN.task, "4" * 16), "RUNNING")
    done = submitted(service, later_attempt(indexes=frozenset({"c" * 16})))
    assert (done.action, done.job.name, service.creates) == ("adopted", neighbour.name, 0)
    assert mine_before.state == "RUNNING", "another index wants it now"
    assert "re-ordered" in done.reason


def test_a_neighbours_job_with_other_rows_is_not_taken() -> None:
    service = Service()
    neighbour = service.add(SubmissionToken("c" * 16, "4" * 16), "RUNNING")
    done = submitted(service, later_attempt(indexes=frozenset({"c" * 16})), on_existing_job="reuse")
    assert (done.action, neighbour.state) == ("created", "RUNNING")


def index_identity(index: int, halves: list[str], **more: Any) -> TaskIdentity:
    """Return the identity of an index of a mapped task in a DAG run of which tasks were cleared."""
    others = frozenset(halves) - {halves[index]}
    return TaskIdentity(halves[index], START - 3600, indexes=others, may_be_reordered=True, **more)


HALVES = ["c" * 16, "d" * 16, "e" * 16]
A, B, NEW = "1" * 16, "2" * 16, "3" * 16


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("state", ["RUNNING", "SUCCEEDED"])
def test_a_mapped_list_that_grows_at_its_front_pays_for_the_new_rows_alone(order: tuple[int, ...], state: str) -> None:
    service = Service()
    stats = {"requestCount": "1", "successfulRequestCount": "1"} if state == "SUCCEEDED" else {}
    before = {
        digest: service.add(SubmissionToken(half, digest), state, **stats)
        for half, digest in zip(HALVES, (A, B), strict=False)
    }
    taken = {}
    for index in order:  # [A, B] became [NEW, A, B]
        digest = (NEW, A, B)[index]
        identity = index_identity(index, HALVES, may_have_rivals=index < 2, earlier_attempts=int(index < 2))
        flow = Memory().flow(service, SubmissionToken(HALVES[index], digest), identity=identity)
        taken[digest] = drive(flow, service)
    assert service.creates == 1
    assert [taken[digest].job.name for digest in (A, B)] == [before[digest].name for digest in (A, B)]
    assert all(job.state == state for job in before.values()), "nobody cancelled what a neighbour wants"
    if state == "RUNNING":
        assert before[A].name in taken[NEW].reason, "it is told what was left alone"


def test_equal_rows_of_a_mapped_list_are_a_job_each_at_first() -> None:
    service = Service()
    for half in HALVES[:2]:
        identity = TaskIdentity(half, START - 3600, earlier_attempts=0)
        drive(Memory().flow(service, SubmissionToken(half, A), identity=identity), service)
    assert service.creates == 2


def wait_look(service: Service, done: Submission, *, replaces: bool = True, **more: Any) -> Any:
    """Carry out the look for twins that a wait for a submission's job makes."""
    watch = TwinWatch(replaces and not done.spares_others, frozenset(done.settled), frozenset(done.owned))
    return drive(
        reconcile(
            DeveloperBackend(SETTINGS),
            done.job.name,
            watch,
            reads=SubmitPolicy().reads,
            cancels=SubmitPolicy().cancels,
            was_cut_short=never_cut_short,
            now=lambda: service.time,
            **more,
        ),
        service,
    )


def test_a_wait_for_an_adopted_job_cancels_nothing_of_another_airflow() -> None:
    service = Service()
    theirs = [service.add(OLD_OTHER, "RUNNING", age=300), service.add(OLD, "RUNNING", age=150)]
    old = service.add(OLD, "RUNNING", age=200)
    done = submitted(service, later_attempt())
    assert done.job.name == old.name
    left = wait_look(service, done)
    assert left.job.name == old.name
    assert [job.state for job in (old, *theirs)] == ["RUNNING"] * 3


@pytest.mark.parametrize(("age", "is_settled"), [(900, True), (30, False)])
def test_a_twin_that_is_gone_wakes_a_wait_for_an_old_job_once(age: float, is_settled: bool) -> None:
    service = Service()
    service.add(TOKEN, "RUNNING", age=age)
    left = wait_look(service, submitted(service, later_attempt()), known=["batches/j99"])
    assert ("batches/j99" in left.settled) is is_settled


def test_a_wait_for_a_job_that_was_noted_still_settles_its_twins() -> None:
    service = Service()
    older, younger = service.add(OLD, "RUNNING", age=200), service.add(OLD, "RUNNING", age=50)
    done = submitted(service, later_attempt(None))
    younger.state = "RUNNING"  # as if it had been listed only now
    left = wait_look(service, done)
    assert (left.job.name, younger.state) == (older.name, "CANCELLED")


def test_a_wait_after_a_list_changed_cancels_no_job_of_its_index() -> None:
    service = Service()
    neighbours = service.add(SubmissionToken(HALVES[0], A), "RUNNING")
    identity = index_identity(0, HALVES, may_have_rivals=True, earlier_attempts=1)
    done = drive(Memory().flow(service, SubmissionToken(HALVES[0], NEW), identity=identity), service)
    wait_look(service, done)
    assert neighbours.state == "RUNNING"


def test_a_retry_without_notes_waits_for_a_job_that_is_listed_late() -> None:
    service = Service()
    job = service.add(TOKEN, "PENDING", 1)
    job.listed = service.time + 30
    done = drive(Memory().flow(service, may_have_rivals=True), service)
    assert (done.job.name, service.creates) == (job.name, 0)


def test_a_retry_whose_earlier_attempts_all_have_a_job_in_the_list_does_not_wait() -> None:
    service = Service()
    service.add(TOKEN, "FAILED")
    done = drive(Memory().flow(service, may_have_rivals=True), service)
    assert done.action == "created"
    assert service.time - START < sum(SubmitPolicy().reconcile)


# --- waves ----------------------------------------------------------------------------------------------------------


def wave(
    service: Service, count: int, faults: list[Fault] | None = None, uploads: list[int] | None = None, **more: Any
) -> list[Any]:
    def order(number: int) -> Order[str]:
        def prepare() -> Flow[str]:
            if uploads is not None:
                uploads.append(number)
            yield Pause(0)
            return "files/rows"

        token = SubmissionToken(TOKEN.task, f"{number:016x}")
        return Order(token, lambda source: JobSpec("m", "generate", "nightly", file_name=source), prepare)

    flow = submit_wave(
        DeveloperBackend(SETTINGS),
        [order(number) for number in range(count)],
        TaskIdentity(TOKEN.task, START - 3600),
        on_existing_job="siblings",
        now=lambda: service.time,
        **more,
    )
    return drive(flow, service, faults)  # type: ignore[arg-type,return-value]


def test_a_wave_reads_the_list_once_before_and_once_after() -> None:
    service = Service()
    outcomes = wave(service, 5)
    assert [outcome.action for outcome in outcomes] == ["created"] * 5
    assert len({token_of(outcome.job) for outcome in outcomes}) == 5
    assert service.calls.count("GET batches") == 2
    again = wave(service, 5)
    assert [outcome.job.name for outcome in again] == [outcome.job.name for outcome in outcomes]
    assert (service.creates, len(costing(service))) == (5, 5)


@pytest.mark.parametrize(("counts", "reads"), [(False, 0), (True, 20)])
def test_jobs_of_before_are_read_only_for_who_counts_their_answers(counts: bool, reads: int) -> None:
    service, told = Service(), list[int]()
    for number in range(20):
        service.add(SubmissionToken(TOKEN.task, f"{1000 + number:016x}"), "RUNNING")
    wave(service, 1, may_create=lambda jobs, lost: told.append(len(jobs)), reads_earlier=counts)
    assert sum(call.startswith("GET batches/") for call in service.calls) == reads
    assert told[0] == 20


def test_lost_answers_of_a_wave_are_reconciled_together() -> None:
    service = Service(lambda: 8.0)
    outcomes = wave(service, 4, [reply_lost, reply_lost, reply_lost])
    assert [outcome.action for outcome in outcomes] == ["adopted", "adopted", "adopted", "created"]
    assert service.creates == 4
    assert service.time - START < sum(SubmitPolicy().reconcile) + sum(SubmitPolicy().rivals)


def test_after_a_refusal_the_rest_of_a_wave_is_not_sent() -> None:
    service = Service()

    def through(request: Any, send: Any) -> Any:
        return send(request)

    uploads: list[int] = []
    outcomes = wave(service, 3, [through, status(429)], uploads)
    assert isinstance(outcomes[0], Submission)
    assert [type(outcome) for outcome in outcomes[1:]] == [RateLimitedError, RateLimitedError]
    assert (service.creates, uploads) == (1, [0, 1])
    assert all(isinstance(outcome, GeminiBatchError) for outcome in outcomes[1:])


def test_a_shard_that_failed_is_not_sent_again_by_the_wave() -> None:
    service = Service()
    failed = service.add(SubmissionToken(TOKEN.task, f"{0:016x}"), "FAILED")
    (outcome,) = wave(service, 1)
    assert (outcome.job.name, service.creates) == (failed.name, 0)
