# SPDX-License-Identifier: Apache-2.0
"""
What befalls each case, step by step.

A script sees to it that what it is named after has really happened: if it did not, the case fails. Whether the product
stood it is not decided here but by the ledger, see :mod:`.verdict`.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from tests.system.crash.cases import HAS_LOOPS
from tests.system.crash.world import PATIENCE, NotSeenError, Run, Script, Until, World, pending_signals
from tests.system.services.ledger import is_live

if TYPE_CHECKING:
    from psutil import Process

CREATE = r":batchGenerateContent$|/batchPredictionJobs$"
UPLOAD = "^/upload/"

SHORT_DELAY = 6.0
ORPHAN_DELAY = 45.0
"""Later than the retry begins: 25 s without a heartbeat, and some more."""

LATE_DELAY = 115.0
"""Later than the retry, which knows of the create call, stops looking for its job and creates one: another 47 s."""

HELD_BACK = 180.0
"""Seconds from its creation for which a task that may have a twin holds an ended job back, and looks once more."""

QUIET = 8.0
"""Seconds in which a job that is to stay would have been cancelled: triggers are killed within 3 s of a mark, workers
within 5 s + 5 s."""


def _waits(run: Run) -> Until:
    """
    Wait until the task waits for its job, and is looked after where there is a triggerer.

    A task that has deferred is with its trigger a second or two later.
    """
    state = "deferred" if run.case.deferrable else "running"
    count = len(run.case.ends)

    def waits() -> bool:
        is_alone = not run.case.deferrable or not run.world.stack.has_triggerers
        is_looked_after = is_alone or run.triggers_that_looked == count
        return run.are_all(state) and len(run.live_jobs) == count and is_looked_after

    return Until(f"{state}, with {count} live job(s)", waits)


def _over(run: Run) -> Until:
    return Until("the end of the task", lambda: run.is_over, HELD_BACK + PATIENCE)


def _cancelled(run: Run) -> Until:
    return Until("the job to be cancelled", lambda: bool(run.jobs) and not run.live_jobs, 30)


def _for(seconds: float) -> Until:
    end = time.monotonic() + seconds
    return Until("time to pass", lambda: time.monotonic() >= end)


def _to_the_end(run: Run) -> Script:
    """Give a cancel that nobody wants its time to come, let the job end, and the task."""
    yield _for(QUIET)
    run.finish_jobs()
    yield _over(run)


def _without_supervisor(run: Run, call: str, delay: float) -> Generator[Until, None, Process]:
    """Begin, and kill the supervisor while *call* is under way for *delay* seconds; return the task that lives on."""
    run.delay(call, delay)
    run.begin()
    yield Until(f"the call {call}", lambda: run.has_arrived(call))
    task, supervisor = run.find_processes()
    supervisor.kill()
    return task


# --- triggerers -------------------------------------------------------------------------------------------------------


def _survives(event: str) -> Callable[[Run], Script]:
    """Return the script of a wait that goes on when an event has befallen its triggerer."""

    def script(run: Run) -> Script:
        run.begin()
        yield _waits(run)
        yield Until(f"the triggerers to be {event}", lambda: event in run.world.happened, 300)
        if event == "stalled":
            # The trap: before 3.4 the triggerer that wakes kills its trigger as if a person had ended the task.
            if not HAS_LOOPS:
                yield Until(
                    "the woken triggerer to let the job alone",
                    lambda: run.log_says("the task is deferred and still needs it"),
                )
            yield _for(QUIET)
        run.finish_jobs()
        yield _over(run)

    return script


def triggerers(world: World, runs: list[Run]) -> Script:
    """Stop, kill and stall one triggerer after the other while *runs* wait; two of them live at each of these."""
    stack = world.stack

    def watched_by(name: str) -> bool:
        return all(run.watchers == {name} for run in runs if not run.is_over)

    yield Until("all cases to wait", lambda: all(run.are_all("deferred") for run in runs))
    yield Until("all waits to be with one triggerer", lambda: watched_by("triggerer-1"))
    steps = (("stopped", stack.request_stop), ("killed", stack.kill), ("stalled", stack.stall))
    for number, (event, befall) in enumerate(steps, 1):
        yield from _hand_over(world, watched_by, event, befall, number)
        own = [run for run in runs if run.case.name == f"triggerer_{event}"]
        yield Until("the cases of this event to end", lambda own=own: all(run.is_over for run in own))  # type: ignore[misc]


def _hand_over(
    world: World, watched_by: Callable[[str], bool], event: str, befall: Callable[[str], None], number: int
) -> Script:
    stack = world.stack
    present, following = f"triggerer-{number}", f"triggerer-{number + 1}"
    stack.start_triggerer(following)
    yield Until(f"{following} to be up", lambda: stack.has_triggerer(following))
    befall(present)
    yield Until(f"all waits to be with {following}", lambda: watched_by(following))
    if event == "stalled":
        stack.wake(present)
    else:
        yield Until(f"{present} to be gone", lambda: stack.has_ended(present))
    world.happened.add(event)


# --- workers ----------------------------------------------------------------------------------------------------------


def orphan_creates(run: Run) -> Script:
    """The supervisor dies while the create call is under way: the orphan's job comes to be when the retry is there."""
    task = yield from _without_supervisor(run, CREATE, ORPHAN_DELAY)
    yield Until("the retry", lambda: run.try_number == 2 and run.are_all("running"))
    if not run.lives(task) or run.jobs:
        raise NotSeenError("an orphan that is still at it when the retry begins")
    yield Until("the job", lambda: bool(run.jobs))
    yield Until("the orphan's end", lambda: not run.lives(task))
    yield from _to_the_end(run)


def orphan_beside_retry(run: Run) -> Script:
    """The same, but the orphan's call is so late that the retry creates, too: of two jobs one is cancelled."""
    task = yield from _without_supervisor(run, CREATE, LATE_DELAY)
    yield Until("the retry's job", lambda: run.try_number == 2 and bool(run.jobs))
    if not run.lives(task) or len(run.jobs) > 1:
        raise NotSeenError("an orphan that creates after the retry has")
    yield Until("the orphan's job", lambda: len(run.jobs) == 2)
    yield Until("one live job", lambda: len(run.live_jobs) == 1, 30)
    yield Until("the orphan's end", lambda: not run.lives(task))
    yield from _to_the_end(run)


def orphan_stops(run: Run) -> Script:
    """The supervisor dies before the create call: the orphan notices, and leaves the work to the retry."""
    task = yield from _without_supervisor(run, UPLOAD, SHORT_DELAY)
    yield Until("the orphan's end", lambda: not run.lives(task), SHORT_DELAY + 20)
    if run.jobs:
        raise NotSeenError("an orphan that does not submit")
    yield Until("the retry", lambda: run.try_number == 2)
    yield _waits(run)
    yield from _to_the_end(run)


def task_killed(run: Run) -> Script:
    """Supervisor and task die after the create call has reached the service: nobody hears the answer."""
    task = yield from _without_supervisor(run, CREATE, SHORT_DELAY)
    task.kill()
    yield Until("the job of the dead", lambda: bool(run.jobs), 30)
    yield Until("the retry", lambda: run.try_number == 2)
    yield _waits(run)
    yield from _to_the_end(run)


def _marked(state: str, map_index: int = -1) -> Callable[[Run], Script]:
    """Return the script of a task that somebody marks while it waits, and whose job is to be cancelled."""

    def script(run: Run) -> Script:
        run.begin()
        yield _waits(run)
        run.mark(state, map_index)
        yield _cancelled(run)
        yield _over(run)

    return script


def _marked_and_kept(run: Run) -> Script:
    run.begin()
    yield _waits(run)
    run.mark("failed")
    yield _over(run)
    yield _for(QUIET + 5)
    run.finish_jobs()
    yield Until("the job that was left to succeed", lambda: not run.live_jobs)


def run_failed(run: Run) -> Script:
    """The whole run is marked failed while the task waits."""
    run.begin()
    yield _waits(run)
    run.mark_run_failed()
    yield _cancelled(run)
    yield _over(run)


def cleared(run: Run) -> Script:
    """The task is cleared while it waits: the new try takes its job."""
    run.begin()
    yield _waits(run)
    run.clear()
    yield Until("the new try", lambda: run.try_number == 2)
    yield _waits(run)
    if run.case.deferrable:
        # Airflow ends the old trigger as if a person had ended the task, when the new try has deferred already.
        yield Until("the old trigger to let the job alone", lambda: run.log_says("and still needs it"))
    yield from _to_the_end(run)


def failed_cleared(run: Run) -> Script:
    """The task is marked failed while it waits, which leaves its job, and then cleared: the new try takes that job."""
    run.begin()
    yield _waits(run)
    run.mark("failed")
    yield _over(run)
    # Airflow 3.3 may end the run beside a clear of that moment, whose task is then never started.
    yield Until("the run to end", lambda: run.has_ended)
    run.clear()
    yield Until("the new try", lambda: run.try_number == 2)
    yield _waits(run)
    yield from _to_the_end(run)


def creating_failed(run: Run) -> Script:
    """The task is marked failed while its create call is under way, and told to stop before the answer is there."""
    run.delay(CREATE, 1.0)
    run.begin()
    yield Until("the create call", lambda: run.has_arrived(CREATE))
    task, _ = run.find_processes()
    # Standing still, the task cannot read the answer before it is told to stop.
    task.suspend()
    run.mark("failed")
    yield Until("the signal", lambda: signal.SIGTERM in pending_signals(task), 30)
    task.resume()
    yield _cancelled(run)
    yield _over(run)
    yield Until("the task's end", lambda: not run.lives(task))


def mapped_failed(run: Run) -> Script:
    """One of two deferred instances is marked failed: its job is cancelled, the other one's is not."""
    run.begin()
    yield _waits(run)
    run.mark("failed", 0)
    yield Until("one job to be cancelled", lambda: len(run.live_jobs) == 1, 30)
    yield from _to_the_end(run)


def run_timeout(run: Run) -> Script:
    """The run takes longer than ``dagrun_timeout``."""
    run.begin()
    yield _waits(run)
    yield Until("the run to take too long", lambda: run.is_over)
    yield _cancelled(run)


# --- loops ------------------------------------------------------------------------------------------------------------


def _waits_in(run: Run, number: int) -> Until:
    """Wait until pass *number*, from 0, waits for jobs of its own; those of the passes before it have ended."""
    width, so_far = run.case.width, run.case.width * (number + 1)
    state = "deferred" if run.case.deferrable else "running"

    def waits() -> bool:
        has_deferred = len(run.states) == so_far and set(run.states[-width:]) == {state}
        return has_deferred and len(run.jobs) == so_far and len(run.live_jobs) == width

    return Until(f"pass {number} to wait for {width} live job(s) of its own", waits)


def _each_pass_had_its_own(run: Run) -> None:
    """Compare what the tasks returned, pass by pass, with the jobs in the order of their creation."""
    created = [job["name"] for job in run.jobs]
    width = run.case.width
    passes = [set(created[start : start + width]) for start in range(0, len(created), width)]
    if [set(jobs) for jobs in run.passes()] != passes:
        raise NotSeenError(f"the jobs of each pass: {run.passes()} for {passes}")


def loop(run: Run) -> Script:
    """Each pass waits for its own jobs."""
    run.begin()
    for number in range(run.case.passes):
        yield _waits_in(run, number)
        yield _for(QUIET)
        run.finish_jobs()
    yield _over(run)
    yield Until("the note of the last pass", lambda: len(run.passes()) == run.case.passes)
    _each_pass_had_its_own(run)


def loop_of_live_jobs(run: Run) -> Script:
    """No pass waits: the jobs of all run at once, and none is cancelled."""
    run.begin()
    yield Until("the end of all passes", lambda: run.is_over)
    yield Until("the note of the last pass", lambda: len(run.passes()) == run.case.passes)
    if len(run.live_jobs) != len(run.case.ends):
        raise NotSeenError("a live job of each pass")
    _each_pass_had_its_own(run)
    run.finish_jobs()


def loop_cleared(run: Run) -> Script:
    """The second pass is cleared while it waits: the new try takes its job, not the first pass's."""
    run.begin()
    yield _waits_in(run, 0)
    run.finish_jobs()
    yield _waits_in(run, 1)
    run.clear()
    yield Until("the new try", lambda: run.try_number == 2)
    yield _waits_in(run, 1)
    yield from _to_the_end(run)
    yield Until("the note of the last pass", lambda: len(run.passes()) == run.case.passes)
    _each_pass_had_its_own(run)


def loop_failed(run: Run) -> Script:
    """The second pass is marked failed while it waits: its job is cancelled, though the first pass succeeded."""
    run.begin()
    yield _waits_in(run, 0)
    run.finish_jobs()
    yield _waits_in(run, 1)
    run.mark("failed")
    yield _cancelled(run)
    yield _over(run)


def _first_pass_anew(run: Run) -> Script:
    """Let the last pass succeed, delete the first one's job, and clear that pass alone: it waits for a new job."""
    run.begin()
    for number in range(run.case.passes):
        yield _waits_in(run, number)
        run.finish_jobs()
    yield _over(run)
    yield Until("the note of the last pass", lambda: len(run.passes()) == run.case.passes)
    run.delete_job(run.passes()[0][0])
    run.clear(0)
    yield _first_waits(run, 2)


def loop_first(run: Run) -> Script:
    """The first pass is cleared alone when the last has succeeded, and again while it waits: its job is its own."""
    yield from _first_pass_anew(run)
    run.clear(0)
    yield _first_waits(run, 3)
    yield from _to_the_end(run)


def loop_first_marked(run: Run) -> Script:
    """The first pass is marked when the last has succeeded: its job is cancelled."""
    yield from _first_pass_anew(run)
    run.mark_first("failed")
    yield _cancelled(run)
    yield _over(run)


def _first_waits(run: Run, number: int) -> Until:
    """Wait until the first instance waits for a live job in a try of its own; all others have ended."""
    state = "deferred" if run.case.deferrable else "running"

    def waits() -> bool:
        return run.first_try == number and run.states[0] == state and len(run.live_jobs) == 1

    return Until(f"try {number} of the first pass to wait for a live job", waits)


def settled(run: Run) -> Until:
    """Return the wait for the end of what is being cancelled, before the case is judged."""
    return Until("all jobs to have ended", lambda: not any(is_live(job) for job in run.jobs), 20)


SCRIPTS: dict[str, Callable[[Run], Script]] = {
    "triggerer_stopped": _survives("stopped"),
    "triggerer_killed": _survives("killed"),
    "triggerer_stalled": _survives("stalled"),
    "orphan_creates": orphan_creates,
    "orphan_beside_retry": orphan_beside_retry,
    "orphan_stops": orphan_stops,
    "task_killed": task_killed,
    "running_failed": _marked("failed"),
    "running_succeeded": _marked("success"),
    "running_run_failed": run_failed,
    "running_kept": _marked_and_kept,
    "running_cleared": cleared,
    "creating_failed": creating_failed,
    "talking_failed": _marked("failed"),
    "deferred_cleared": cleared,
    "deferred_failed": mapped_failed,
    "deferred_succeeded": _marked("success"),
    "deferred_skipped": _marked("skipped"),
    "deferred_kept": _marked_and_kept,
    "failed_cleared": failed_cleared,
    "failed_state_kept": failed_cleared,
    "deferred_run_failed": run_failed,
    "deferred_run_timeout": run_timeout,
    "loop_equal": loop,
    "loop_other": loop_of_live_jobs,
    "loop_mapped": loop,
    "loop_cleared": loop_cleared,
    "loop_failed": loop_failed,
    "loop_first_deferred": loop_first,
    "loop_first_running": loop_first,
    "loop_first_marked": loop_first_marked,
    "state_kept": cleared,
    "running_state_kept": cleared,
    "untold_failed": _marked("failed"),
    "untold_succeeded": _marked("success"),
    "untold_run_failed": run_failed,
    "untold_kept": _marked_and_kept,
}
"""By the names of the cases."""
