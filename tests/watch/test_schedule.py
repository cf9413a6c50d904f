# SPDX-License-Identifier: Apache-2.0
"""The poller's schedule, stepped by hand: what is read when, and who is told what."""

from __future__ import annotations

import itertools

import pytest

from airflow_provider_gemini_batch.api.identity import SubmissionToken
from airflow_provider_gemini_batch.api.models import BatchJob, BatchStats, JobPage
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.errors import (
    AuthError,
    ConfigurationError,
    GeminiBatchError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ReplyFormatError,
    ReplyTooLargeError,
    RequestRejectedError,
    ServerError,
    TransportError,
)
from airflow_provider_gemini_batch.watch import schedule
from airflow_provider_gemini_batch.watch.steps import ReadJob, Tell, key_of
from tests.watch.stepping import World, is_page, longest_gap, pages, singles


@pytest.fixture
def world() -> World:
    return World()


def ended(owners):
    return [owner for owner in owners if owner.has_seen_the_end]


# --- what a round costs -----------------------------------------------------------------------------------------------


def test_a_thousand_jobs_cost_a_page_a_hundred(world):
    owners = world.watch_all(world.seed(1000), 2.0)
    world.run(5)
    reads = world.run(6)
    assert (pages(reads), singles(reads)) == (30, 0)
    world.set(world.jobs)
    world.run(2.5)
    assert len(ended(owners)) == 1000


def test_few_jobs_are_read_one_by_one(world):
    world.watch_all(world.seed(4), 1.0)
    reads = world.run(0.9)
    assert (pages(reads), singles(reads)) == (0, 4)


def test_the_last_page_is_read_however_few_jobs_it_holds(world):
    owners = world.watch_all(world.seed(406, JobState.SUCCEEDED), 1.0)
    reads = world.run(4)
    assert len(ended(owners)) == 406
    # The first to come are read before it is known how many there are.
    assert singles(reads) <= 4


@pytest.mark.parametrize(("total", "few", "others"), [(900, 6, 6), (1300, 10, 100)], ids=["beside", "last page"])
def test_a_job_once_missed_is_read_by_the_page_that_shows_it(world, total, few, others):
    # The list is newest first, so few that wait alone are given up after a few pages. In the second case the others
    # alone are read to the page before.
    names = world.seed(total)
    world.watch_all(names[:few])
    assert singles(world.run(2.5)) >= few
    world.watch_all(names[others:])
    world.run(4)
    reads = world.run(3)
    assert pages(reads) > 0
    assert singles(reads) == 0


def test_a_sweep_ends_once_single_reads_are_cheaper(world):
    names = world.seed(2000)
    world.watch_all(names[:5])
    reads = world.run(1.9)
    assert pages(reads) == 6
    assert singles(reads) >= 5


def test_first_polls_of_many_gather(world):
    world.watch_all(world.seed(300), 60.0)
    reads = world.run(3)
    assert pages(reads) == 3
    assert singles(reads) == 4


def test_adaptive_waits_come_along_when_they_are_nearly_due(world):
    owners = [world.watch(name, None) for name in world.seed(200, age=3600)]
    world.run(60)
    # Every job is read about every 216 s; alone they would cost 200 reads, and pages for each of many moments.
    reads = world.run(216 * 5)
    assert singles(reads) < 100
    assert pages(reads) < 2 * 5 * 12
    assert owners[0].job.due - world.now < 250


def test_no_round_lasts_for_ever_where_the_list_is_refused(world):
    names = world.seed(350)
    world.fault(is_page, PermissionDeniedError("HTTP 403", status=403))
    owners = world.watch_all(names, 60.0)
    world.run(5)
    assert all(owner.states for owner in owners)


def test_the_example_of_the_theory_holds(world):
    (g,) = world.seed(1)
    others, (a, b, c, d, e, f) = world.seed(100), world.seed(6)
    second = JobPage(tuple(world.jobs[name] for name in others[:7]), None)
    world.fault(lambda read: is_page(read) and read.token is not None, second)
    owners = world.watch_all((a, b, c, d, e, f, g), 60.0)

    def reads(seconds):
        return [read.job_name if isinstance(read, ReadJob) else read.token for _, read in world.run(seconds)]

    assert reads(0.9) == [a, b, c, d]
    assert reads(1) == [e, f, g]
    world.set([g])
    assert reads(118) == [None, "100", g]
    assert [len(owner.told) for owner in owners] == [1, 1, 1, 1, 1, 1, 2]
    world.fault(is_page, RateLimitedError("HTTP 429", retry_after=30.0), times=1)
    assert reads(29.9) == [None]
    assert [len(owner.errors) for owner in owners] == [1] * 7
    assert reads(3.5) == [None, g]


# --- what is told -----------------------------------------------------------------------------------------------------


def test_mere_progress_wakes_nobody_unless_asked_for_or_long_ago(world):
    [name] = world.seed(1)
    owner = world.watch(name, 1.0)
    world.run(1)
    assert len(owner.told) == 1
    world.progress(name, 10)
    world.run(200)
    assert len(owner.told) == 1
    world.schedule.poll_now(owner.job)
    world.run(0.5)
    assert len(owner.told) == 2
    world.progress(name, 20)
    world.run(schedule.REPEAT_SECONDS + 2)
    assert len(owner.told) == 3
    world.set([name])
    world.run(1.1)
    assert owner.has_seen_the_end


def test_a_failed_row_is_news(world):
    [name] = world.seed(1)
    owner = world.watch(name, 1.0)
    world.run(1)
    world.set([name], JobState.RUNNING, stats=BatchStats(100, 10, 1, 89))
    world.run(1.1)
    assert len(owner.told) == 2


def test_a_wait_that_leaves_takes_nothing_from_the_others(world):
    first, *others = world.watch_all(world.seed(3), 1.0)
    world.run(0.5)
    world.schedule.remove(first.job)
    world.schedule.remove(first.job)
    world.set(world.jobs)
    world.run(2)
    assert not first.has_seen_the_end
    assert len(ended(others)) == 2


def test_two_waits_for_one_job_are_both_told(world):
    [name] = world.seed(1)
    owners = [world.watch(name, 1.0), world.watch(name, 1.0)]
    world.run(0.5)
    reads = world.run(2)
    assert singles(reads) == 2
    world.set([name])
    world.run(1.5)
    assert len(ended(owners)) == 2


def test_a_project_number_names_the_same_job_as_its_id():
    assert key_of("projects/p/locations/l/batchPredictionJobs/1") == key_of(
        "projects/123/locations/l/batchPredictionJobs/1"
    )


# --- trouble that passes ----------------------------------------------------------------------------------------------

PASSING = [
    RateLimitedError("HTTP 429", status=429, retry_after=1.0),
    ServerError("HTTP 503", status=503),
    TransportError("closed"),
    TransportError("cut"),
    ReplyFormatError("garbage"),
]


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("error", PASSING, ids=["429", "503", "close", "cut", "garbage"])
def test_passing_trouble_is_told_to_nobody(world, error, count):
    owners = world.watch_all(world.seed(count, JobState.SUCCEEDED), 0.2)
    rule = world.fault(lambda read: True, error, times=1)
    world.run(5)
    assert len(ended(owners)) == count
    assert not any(owner.errors for owner in owners)
    assert rule.fired == 1


def test_a_429_slows_the_whole_poller(world):
    world.watch_all(world.seed(50), 0.2)
    world.run(3)
    world.fault(is_page, RateLimitedError("HTTP 429", status=429, retry_after=20.0), times=1)
    assert 20 <= longest_gap(at for at, _ in world.run(30)) < 23


def test_a_429_of_a_single_read_slows_the_whole_poller(world):
    names = world.seed(3)
    world.watch_all(names, 1.0)
    world.run(1.5)
    world.fault_job(names[1], RateLimitedError("HTTP 429", status=429, retry_after=20.0), times=1)
    assert 20 <= longest_gap(at for at, _ in world.run(40)) < 23


@pytest.mark.parametrize("wait", [0, 0.01])
def test_a_service_that_asks_for_no_pause_is_given_one(world, wait):
    world.watch_all(world.seed(8), 0.2)
    world.fault(lambda read: True, RateLimitedError("HTTP 429", status=429, retry_after=wait))
    assert 1 <= len(world.run(3)) <= 5


@pytest.mark.parametrize("status", [400, 403, 404, 501])
def test_a_refused_later_page_concerns_no_wait(world, status):
    errors = {
        400: RequestRejectedError("HTTP 400", status=400),
        403: PermissionDeniedError("HTTP 403", status=403),
        404: NotFoundError("HTTP 404", status=404),
        501: ServerError("HTTP 501", status=501),
    }
    owners = world.watch_all(world.seed(250), 0.5)
    world.run(3)
    rule = world.fault(lambda read: is_page(read) and read.token is not None, errors[status], times=1)
    world.run(1)
    assert rule.fired == 1
    world.set(world.jobs)
    world.run(2)
    assert len(ended(owners)) == 250
    assert not any(owner.errors for owner in owners)


def test_old_jobs_are_seen_although_a_quota_ends_before_their_page(world):
    names = world.seed(600)
    owners = world.watch_all(names, 1.0)
    world.run(2)
    world.set(names[:10])
    # Two pages, then 429 until the poller has paused.
    for _ in range(20):
        world.rules.clear()
        world.fault(is_page, RateLimitedError("HTTP 429", status=429), skip=2)
        world.run(1.5)
    assert len(ended(owners[:10])) == 10


@pytest.mark.parametrize(
    ("error", "times"),
    [(ReplyFormatError("garbage"), 2), (ReplyTooLargeError("huge"), 1), (PermissionDeniedError("HTTP 403"), 1)],
    ids=["spoilt", "huge", "refused"],
)
def test_a_list_that_failed_for_once_is_read_again(world, error, times):
    world.watch_all(world.seed(300), 1.0)
    world.run(2.5)
    world.fault(is_page, error, times=times)
    world.run(3 if not isinstance(error, PermissionDeniedError) else schedule.UNLISTED_SECONDS + 3)
    reads = world.run(3)
    assert singles(reads) == 0
    assert pages(reads) == 9


def test_a_page_that_is_spoilt_is_read_twice_then_its_jobs_one_by_one(world):
    owners = world.watch_all(world.seed(20), 1.0)
    world.run(1.5)
    world.fault(is_page, ReplyFormatError("garbage"))
    world.set(world.jobs)
    reads = world.run(1)
    assert (pages(reads), singles(reads)) == (2, 20)
    assert len(ended(owners)) == 20


def test_a_list_that_repeats_its_token_is_left(world):
    owners = world.watch_all(world.seed(20, JobState.SUCCEEDED), 1.0)
    world.fault(is_page, JobPage((), "same"))
    reads = world.run(3)
    assert len(ended(owners)) == 20
    assert pages(reads) <= 4


@pytest.mark.parametrize(
    "fault",
    [
        {"answer": ReplyFormatError("garbage")},
        {"answer": ServerError("HTTP 503", status=503)},
        {"answer": AuthError("HTTP 401", status=401)},
        {"answer": NotFoundError("HTTP 404", status=404)},
        {"delay": 60.0},
    ],
    ids=["garbage", "503", "401", "404", "slow"],
)
def test_a_job_that_cannot_be_read_leaves_the_rhythm_of_the_others(world, fault):
    broken, good, other = world.seed(3)
    rule = world.fault_job(broken, **fault)
    owners = world.watch_all([good, other], 5.0)
    world.watch(broken, 5.0)
    world.run(5)
    reads = world.run(40)
    assert singles(reads, good) >= 7
    assert singles(reads, other) >= 7
    world.set(world.jobs)
    world.run(5.1)
    assert len(ended(owners)) == 2
    assert not any(owner.errors for owner in owners)
    assert rule.fired >= 1


def test_a_slow_read_is_not_begun_again_and_serves_all_who_wait(world):
    [name] = world.seed(1)
    rule = world.fault_job(name, delay=50.0, times=1)
    owners = [world.watch(name, 1.0)]
    world.run(10)
    owners.append(world.watch(name, 1.0))
    assert singles(world.run(39)) == 0
    world.run(2)
    assert [len(owner.told) for owner in owners] == [1, 1]
    assert rule.fired == 1


def test_two_slow_reads_hold_both_connections_and_end_in_time(world):
    names = world.seed(3)
    for name in names[:2]:
        world.fault_job(name, delay=30.0, times=1)
    owners = world.watch_all(names, 1.0)
    world.run(29)
    assert not owners[2].told
    world.run(2)
    assert all(owner.told for owner in owners)


def test_waits_outlive_their_driver(world):
    names = world.seed(3)
    owners = world.watch_all(names, 1.0)
    world.fault(lambda read: True, delay=5.0)
    world.run(4)  # two reads are slow by now
    world.forget_reads()
    world.rules.clear()
    world.schedule.restart()
    world.set(names)
    world.run(2)
    assert len(ended(owners)) == 3


# --- what no repetition can help --------------------------------------------------------------------------------------


def test_a_job_that_is_gone_is_told_to_its_own_wait_alone(world):
    owners = world.watch_all(world.seed(10), 0.3)
    missing = world.watch("batches/neverwas", 0.3)
    world.run(2)
    assert {type(error) for error in missing.errors} == {NotFoundError}
    assert not any(owner.errors for owner in owners)


@pytest.mark.parametrize(
    "error",
    [AuthError("HTTP 401", status=401), ConfigurationError("REQUESTS_CA_BUNDLE names nothing")],
    ids=["credentials", "configuration"],
)
@pytest.mark.parametrize("count", [1, 10, 500])
def test_what_refuses_every_call_is_told_to_everybody_at_once(world, error, count):
    world.fault(lambda read: True, error)
    owners = world.watch_all(world.seed(count), 60.0)
    world.run(1.5)
    assert {type(each) for owner in owners for each in owner.errors} == {type(error)}
    assert all(owner.errors for owner in owners)


def test_a_fault_of_our_own_ends_the_wait_it_concerns_at_once(world):
    broken, good = world.seed(2)
    world.fault_job(broken, GeminiBatchError("KeyError in our code"))
    owner, other = world.watch(broken, 60.0), world.watch(good, 60.0)
    world.run(1)
    assert [str(error) for error in owner.errors] == ["KeyError in our code"]
    assert not other.errors


def test_a_fault_of_our_own_with_the_list_leaves_single_reads(world):
    world.fault(is_page, GeminiBatchError("KeyError in our code"))
    owners = world.watch_all(world.seed(20, JobState.SUCCEEDED), 1.0)
    world.run(3)
    assert len(ended(owners)) == 20


def test_jobs_that_cannot_be_listed_are_read_one_by_one(world):
    world.fault(is_page, PermissionDeniedError("HTTP 403", status=403))
    owners = world.watch_all(world.seed(10, JobState.SUCCEEDED), 0.3)
    world.run(2)
    assert len(ended(owners)) == 10


def test_jobs_whose_state_the_list_does_not_tell_are_read_one_by_one(world):
    names = world.seed(8, JobState.SUCCEEDED)
    listed = tuple(BatchJob(name) for name in names)
    world.fault(is_page, JobPage(listed, None))
    owners = world.watch_all(names, 0.5)
    world.run(2)
    assert [owner.states[-1] for owner in owners] == [JobState.SUCCEEDED] * 8


# --- trouble that lasts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 200])
def test_lasting_trouble_is_told_soon_and_then_every_few_minutes(world, count):
    owners = world.watch_all(world.seed(count), 5.0)
    world.run(10)
    world.fault(lambda read: True, ServerError("HTTP 503", status=503))
    began = world.now
    world.run(1000)
    for owner in owners:
        times = [at - began for at, update in owner.told if update.error is not None]
        assert 25 <= times[0] <= 100
        assert len(times) in (3, 4)
        assert all(after - before >= 300 for before, after in itertools.pairwise(times))
    assert world.schedule.trouble is not None
    world.rules.clear()
    world.set(world.jobs)
    world.run(70)
    assert len(ended(owners)) == count
    assert world.schedule.trouble is None


def test_lasting_trouble_with_one_job_is_told_to_its_wait_alone(world):
    broken, good = world.seed(2)
    world.fault_job(broken, ServerError("HTTP 503", status=503))
    owner, other = world.watch(broken, 5.0), world.watch(good, 5.0)
    world.run(200)
    assert len(owner.errors) == 1
    assert not other.errors
    assert owner.job.trouble is not None


# --- siblings ---------------------------------------------------------------------------------------------------------

TASK = "0123456789abcdef"


def token(task=TASK, digest="0" * 16):
    return SubmissionToken(task, digest).display_name("mine")


def test_a_listed_job_of_the_same_task_is_told_once_for_each_state(world):
    [first] = world.seed(1, display_name=token())
    owner = world.watch(first, 1.0)
    others = world.watch_all(world.seed(10), 1.0)
    world.run(3)
    [twin] = world.seed(1, display_name=token(digest="1" * 16))
    world.run(3)
    assert owner.siblings == [twin]
    world.set([twin])
    world.run(3)
    assert owner.siblings == [twin, twin]
    assert not any(other.siblings for other in others)


def test_two_watched_jobs_of_one_task_are_told_of_each_other(world):
    names = world.seed(2, display_name=token())
    owners = world.watch_all(names, 1.0)
    world.watch_all(world.seed(10), 1.0)
    world.run(3)
    assert [owner.siblings for owner in owners] == [[names[1]], [names[0]]]


def test_a_job_of_another_task_or_of_none_is_no_sibling(world):
    [name] = world.seed(1, display_name=token())
    world.seed(1, display_name=token(task="f" * 16))
    world.seed(1, display_name="somebody else's")
    owner = world.watch(name, 1.0)
    world.watch_all(world.seed(10), 1.0)
    world.run(3)
    assert owner.siblings == []


def test_a_young_job_alone_has_page_1_read_in_place_of_its_own_read(world):
    [name] = world.seed(1, display_name=token(), age=0)
    owner = world.watch(name, 5.0)
    reads = world.run(601)
    # At 15, 30, 60, 90 ... 300 and 450 s of its age; a page shows the job too.
    assert pages(reads) == 12
    assert len(reads) in (120, 121, 122)
    [twin] = world.seed(1, display_name=token(), age=590)
    world.run(100)
    assert owner.siblings == [twin]
    assert pages(world.run(300)) <= 1


def test_a_foreign_job_has_no_page_read_for_it(world):
    [name] = world.seed(1, age=0)
    world.watch(name, 5.0)
    assert pages(world.run(100)) == 0


@pytest.mark.parametrize(
    "error", [ServerError("HTTP 503", status=503), PermissionDeniedError("403"), ReplyFormatError("garbage")]
)
def test_trouble_with_the_page_for_siblings_leaves_the_job_to_be_read(world, error):
    [name] = world.seed(1, display_name=token(), age=0)
    world.fault(is_page, error)
    owner = world.watch(name, 5.0)
    reads = world.run(100)
    assert singles(reads) >= 19
    assert pages(reads) <= 5
    assert not owner.errors
    assert world.schedule.trouble is None


# --- lifetime ---------------------------------------------------------------------------------------------------------


def test_the_schedule_ends_after_the_last_wait_has_left(world):
    [name] = world.seed(1, JobState.SUCCEEDED)
    owner = world.watch(name)
    world.run(1)
    assert not world.has_stopped
    world.schedule.remove(owner.job)
    world.run(schedule.LINGER - 0.1)
    assert not world.has_stopped
    world.run(0.2)
    assert world.has_stopped


def test_a_wait_that_comes_while_it_lingers_keeps_it(world):
    first, second = world.seed(2)
    world.schedule.remove(world.watch(first).job)
    world.run(schedule.LINGER / 2)
    owner = world.watch(second)
    world.run(schedule.LINGER)
    assert not world.has_stopped
    assert owner.told


def test_updates_of_thousands_are_told_in_portions(world):
    world.watch_all(world.seed(1000), 60.0)
    world.schedule.fail(AuthError("HTTP 401", status=401))
    steps = []
    while isinstance(step := world.schedule.next_step(), Tell):
        steps.append(len(step.updates))
    assert steps == [schedule.TOLD_AT_ONCE] * 5


def test_a_read_that_comes_after_a_restart_is_ignored(world):
    [name] = world.seed(1)
    world.watch(name)
    read = world.schedule.next_step()
    assert isinstance(read, ReadJob)
    world.schedule.restart()
    world.schedule.finish(read, world.jobs[name])
    assert isinstance(world.schedule.next_step(), ReadJob)
