# SPDX-License-Identifier: Apache-2.0
"""The life of a job: which step is due, and what it does."""

# A job does nothing by itself. Whoever looks at it, a poll, a list, a cancel, first lets it take every step that is due
# by then (`advance`), with the times at which the steps were due. The caller holds the job's lock.
#
# Worked example, mode `time` with one second of waiting and two of running: a job made at 10.0 and first looked at at
# 20.0 starts (at 11.0), runs, and ends (at 13.0), all in that one look, and shows these three times.

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from gemini_batch_emulator import states
from gemini_batch_emulator.errors import build
from gemini_batch_emulator.scripts import Ending

if TYPE_CHECKING:
    from gemini_batch_emulator.executions import Executions
    from gemini_batch_emulator.jobs import Job
    from gemini_batch_emulator.knobs import Config


class Surroundings(Protocol):
    """What a job's life depends on; the emulator's state is it."""

    config: Config
    executions: Executions

    def now(self) -> float:
        """Return the emulated time."""
        ...

    def rest(self, job: Job) -> None:
        """Count a job no longer among those that go on."""
        ...


def advance(state: Surroundings, job: Job) -> None:
    """Take every step that is due."""
    now = state.now()
    while not job.is_ended and not job.deleted and _step(state, job, now):
        pass


def cancel(state: Surroundings, job: Job) -> None:
    """Ask a job to stop; an ended one stays as it is."""
    advance(state, job)
    if job.is_ended or job.cancelled is not None:
        return
    now = state.now()
    job.cancelled = now
    if job.started is None:
        end(state, job, _cancel_ending(state, job, is_started=False), now)
        return
    # How far it came is fixed now, although the job settles some seconds later: the service stops handing out rows at
    # once.
    job.ran_limit = int(job.progress(now) * job.source.count)
    if job.backend == "vertex_ai":
        _move(job, "CANCELLING", now)


def finish(state: Surroundings, job: Job, ending: Ending) -> None:
    """End a job now, whatever its script says."""
    if job.is_ended:
        return
    now = state.now()
    # A script may ask for an end with answers of a job that has not begun; answers need a start.
    if job.started is None and states.has_results(ending.state):
        _start(state, job, now)
    if not job.is_ended:
        end(state, job, ending, now)


def _step(state: Surroundings, job: Job, now: float) -> bool:
    """Take the next step if it is due; say whether there was one."""
    if job.started is None:
        return _first_step(state, job, now)
    if job.cancelled is not None:
        # Jobs of the live service were seen to settle three to seven seconds after a cancel.
        settled = job.cancelled + state.config.cancel_settle_seconds
        if now < settled and job.script.mode == "time":
            return False
        end(state, job, _cancel_ending(state, job, is_started=True), min(settled, now))
        return True
    due = _end_time(job, now)
    # On the Developer API a job expires 48 hours after its creation, running or not; on Vertex AI its wait in the queue
    # does.
    expiry = job.created + _lifetime(state, job)
    if job.backend == "gemini" and expiry <= now and (due is None or expiry <= due):
        end(state, job, Ending("EXPIRED"), expiry)
        return True
    if due is None:
        return False
    released = _release(job, due, now)
    if released is None:
        return False
    end(state, job, build(Ending, job.script.end or {}), released)
    return True


def _first_step(state: Surroundings, job: Job, now: float) -> bool:
    due = _start_time(job, now)
    expiry = job.created + _lifetime(state, job)
    if expiry <= now and (due is None or expiry <= due):
        end(state, job, Ending("EXPIRED", share=0.0), expiry)
        return True
    if due is None:
        return False
    _start(state, job, due)
    return True


def _release(job: Job, due: float, now: float) -> float | None:
    """Return when a job that is to be held before its end is let go; None while it is held."""
    hold = job.script.hold
    if hold is None:
        return due
    if job.held is None:
        job.held = due
        _move(job, str(hold.get("state", "PAUSED")), due)
    seconds = hold.get("seconds")
    if seconds is None or now < job.held + float(seconds):
        return None
    due = job.held + float(seconds)
    if job.raw_state != "RUNNING":
        _move(job, "RUNNING", due)
    return due


def _lifetime(state: Surroundings, job: Job) -> float:
    if job.script.expire_seconds is not None:
        return job.script.expire_seconds
    return state.config.developer_expire_seconds if job.backend == "gemini" else state.config.vertex_queue_seconds


def _start_time(job: Job, now: float) -> float | None:
    script = job.script
    if script.stuck == "PENDING":
        return None
    if script.mode == "at_once":
        return job.created
    if script.mode == "reads":
        return now if job.reads >= script.pending_reads else None
    due = job.created + script.pending_seconds
    return due if due <= now else None


def _end_time(job: Job, now: float) -> float | None:
    script = job.script
    if script.stuck == "RUNNING" or job.started is None:
        return None
    if script.mode == "at_once":
        return job.started
    if script.mode == "reads":
        return now if job.reads >= script.pending_reads + script.running_reads else None
    due = job.started + script.running_seconds
    return due if due <= now else None


def _start(state: Surroundings, job: Job, when: float) -> None:
    job.started = when
    failed = job.handler.start(job)
    if failed is not None:
        end(state, job, replace(failed, share=failed.share or 0.0), when)
        return
    _move(job, "RUNNING", when)


def _cancel_ending(state: Surroundings, job: Job, *, is_started: bool) -> Ending:
    share = (job.ran_limit or 0) / max(1, job.source.count) if is_started else 0.0
    if job.backend == "vertex_ai":
        return Ending("CANCELLED", 1, "CANCELED", share)
    if not is_started or state.config.cancel_outcome == "cancelled_partial":
        # Code 13, though 1 is documented: three independent captures show it for a job that no row of had run.
        return Ending("CANCELLED", 13, f"Batch {job.name} was cancelled.", share)
    # Not CANCELLED: a job that had begun ends well, and rows that did not run carry error code 1. Clients that look at
    # the state alone take it for whole.
    return Ending("SUCCEEDED", 0, "", share)


def end(state: Surroundings, job: Job, ending: Ending, when: float) -> None:
    """Write results where the ending has some, then make it so."""
    # What ran is billed, however the job ends; so the share is settled before anything is written.
    share = _share_run(job, ending, when)
    job.rows_run = job.source.count if share >= 1.0 else round(share * job.source.count)
    if share < 1.0:
        # A cancel has said already how far the job came.
        job.ran_limit = job.rows_run if job.ran_limit is None else job.ran_limit
        job.rows_run = job.ran_limit
    # An expired job leaves nothing, although what ran of it is billed.
    is_exported = states.has_results(ending.state) or (share > 0.0 and ending.state != "EXPIRED")
    if job.started is not None and is_exported:
        job.succeeded = job.failed = 0
        ending = job.handler.finish(job, ending) or ending
    elif job.rows_run:
        state.executions.add_unanswered(job)
    job.error = _error_of(ending)
    _move(job, ending.state, when)
    job.ended = when
    state.rest(job)


def _share_run(job: Job, ending: Ending, when: float) -> float:
    """Return the share of the rows that ran, unless a cancel says otherwise."""
    if ending.share is not None:
        return ending.share
    if ending.state == "EXPIRED":
        return job.progress(when)
    return 1.0 if states.has_results(ending.state) else 0.0


def _error_of(ending: Ending) -> dict[str, Any] | None:
    if ending.code or ending.message:
        return {"code": ending.code or 13, **({"message": ending.message} if ending.message else {})}
    return {"code": 13, "message": "Internal error encountered."} if ending.state == "FAILED" else None


def _move(job: Job, word: str, when: float) -> None:
    """Set the state; a step that the service never takes is a mistake of ours, unless a script wants it."""
    if not (states.may_follow(job.raw_state, word) or job.script.hold):
        raise AssertionError(f"{job.name} cannot go from {job.raw_state} to {word}")
    job.raw_state = word
    job.updated = when
    job.history.append((word, when))
