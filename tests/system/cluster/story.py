# SPDX-License-Identifier: Apache-2.0
"""
What befalls each DAG run.

No job ends by itself: a scenario says from when on they do, so that who is killed is killed in the middle of what the
scenario is named after.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.system.cluster.work import RUNS, Work, faults_of_bill, faults_of_outputs
from tests.system.services.ledger import is_live

if TYPE_CHECKING:
    from demo.display import Display
    from tests.system.cluster.stack import ClusterStack

BACKENDS = ("gemini", "vertex_ai")
CREATE = "POST", ":batchGenerateContent$|/batchPredictionJobs$"
DOWNLOAD = "GET", "^/download/|^/storage/v1/b/[^/]+/o/."
HELD_SECONDS = 20.0
"""How long the service holds replies back: long enough for several workers to wait for one."""

PATIENCE = 600.0
"""Seconds for one step, on a machine that has other things to do."""

LOOK = 2.0
FINAL = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
NO_JOB_ENDS = {"mode": "time", "pending_seconds": 0, "stuck": "RUNNING"}


class NotSeenError(Exception):
    """What a scenario waited for did not happen."""


@dataclass(frozen=True)
class Verdict:
    """What came of a scenario."""

    name: str
    seconds: float
    faults: tuple[str, ...]


@dataclass
class Story:
    """
    A scenario under way.

    :param folder: Shared by the workers.
    :param backend: Of the service.
    :param wanted: Requests that the service was to carry out, over all scenarios so far.
    :param peak: Most bytes of memory seen, by part.
    :param alone: Workers that do not share their checkpoints.
    """

    stack: ClusterStack
    display: Display
    folder: Path
    backend: str = BACKENDS[0]
    wanted: int = 0
    peak: dict[str, int] = field(default_factory=dict)
    alone: list[str] = field(default_factory=list)
    _dag_id: str = ""
    _run_id: str = ""
    _ends_jobs: bool = False
    _measured_at: float = 0.0

    # --- what is seen -------------------------------------------------------------------------------------------------

    def instances(self) -> list[dict[str, Any]]:
        """Return the mapped instances of the run, and nothing else."""
        listed = self.stack.airflow.instances_of_run(self._dag_id, self._run_id)
        return [each for each in listed if each["map_index"] >= 0]

    def states(self) -> Counter[str]:
        """Return how many instances are in each state."""
        return Counter(str(each["state"]) for each in self.instances())

    def live_jobs(self) -> int:
        """Return how many jobs can still run and bill."""
        return sum(map(is_live, self.stack.emulator.jobs()))

    def busiest_worker(self) -> str:
        """Return the worker that has most of the running tasks in its hands."""
        alive = self.stack.living("worker")
        running = Counter(each["hostname"] for each in self.instances() if each["state"] == "running")
        return max(alive, key=lambda name: running[name])

    def busiest_triggerer(self) -> str:
        """Return the triggerer that watches most of the deferred tasks."""
        alive = self.stack.living("triggerer")
        jobs = [each["triggerer_job"] for each in self.instances() if each["state"] == "deferred"]
        watching = Counter(job["hostname"] for job in jobs if job is not None)
        return max(alive, key=lambda name: watching[name])

    def logs_say(self, text: str) -> bool:
        """Whether a text is in the log of one of the run's tasks."""
        folder = self.stack.home / "logs" / f"dag_id={self._dag_id}" / f"run_id={self._run_id}"
        return any(text in log.read_text(errors="replace") for log in folder.rglob("*.log"))

    # --- what is done -------------------------------------------------------------------------------------------------

    def begin(self, dag_id: str, work: Work) -> None:
        """Start a DAG run whose jobs do not end before :meth:`let_jobs_end`."""
        self._ends_jobs = False
        self.wanted += work.distinct
        conf = {"inputs": work.write(), "folder": str(work.folder), "conn_id": f"cluster_{self.backend}"}
        self._dag_id, self._run_id = dag_id, self.stack.airflow.trigger(dag_id, conf)

    def let_jobs_end(self) -> None:
        """End all jobs there are, and from now on each soon after it is created."""
        self._ends_jobs = True

    def kill(self, name: str) -> None:
        """Kill a member with all it has in its hands."""
        self.stack.kill(name)
        self.tell(f"killed {name} (SIGKILL)")

    def add_alone(self, work: Work, folder: str, name: str = "") -> str:
        """Start a worker with a checkpoint folder of its own, and return its name."""
        place = str(work.folder / "checkpoints" / folder)
        name = self.stack.add("worker", name, AIRFLOW__GEMINI_BATCH__CHECKPOINT_PATH=place)
        self.alone.append(name)
        return name

    def end(self) -> None:
        """Have the next scenario begin with workers that share all they write."""
        for name in set(self.alone) & set(self.stack.living("worker")):
            self.stack.kill(name)
        self.alone.clear()
        self.stack.emulator.let_go()
        self.stack.replenish()

    def tell(self, what: str) -> None:
        """Say what has been done, and to what state of things."""
        self.display.step(f"{what}: {dict(self.states())}, {self.live_jobs()} jobs live")

    def hold(self, call: tuple[str, str]) -> None:
        """Let the service hold its replies to the next four of these calls, which take effect."""
        self.stack.emulator.hold_replies(*call, HELD_SECONDS, 4)

    def are_held(self, call: tuple[str, str]) -> bool:
        """Whether most of them wait for their reply: so many that both workers have one."""
        return self.stack.emulator.held_replies(call[1]) >= 3

    def wait(self, what: str, question: Callable[[], bool], patience: float = PATIENCE) -> None:
        """
        Ask until the answer is yes.

        :raises NotSeenError: Saying what was waited for.
        """
        deadline = time.monotonic() + patience
        while not question():
            self.stack.check()
            if time.monotonic() > deadline:
                raise NotSeenError(f"{what}; {dict(self.states())}")
            if self._ends_jobs:
                self.stack.emulator.finish(f"^{self._dag_id}\\.")
            self._measure()
            self.display.update(f"{what}: {', '.join(f'{count} {state}' for state, count in self.states().items())}")
            time.sleep(LOOK)

    def wait_for_end(self, work: Work) -> None:
        """Wait until all mapped runs have ended, jobs ending as they come."""
        self.let_jobs_end()

        def is_over() -> bool:
            states = self.states()
            return states.total() == work.runs and set(states) <= FINAL

        self.wait("the end", is_over, 2 * PATIENCE)

    def _measure(self) -> None:
        if time.monotonic() - self._measured_at > 10:
            self._measured_at = time.monotonic()
            for name, size in self.stack.memory().items():
                part = name.rstrip("0123456789").rstrip("-")
                self.peak[part] = max(self.peak.get(part, 0), size)


Scenario = Callable[[Story, Work], None]


def submitting(story: Story, work: Work) -> None:
    """A worker dies with jobs asked for whose replies it never reads; a triggerer as soon as it watches some."""
    story.hold(CREATE)
    story.begin("cluster_deferred", work)
    story.wait("replies that wait", lambda: story.are_held(CREATE))
    story.kill(story.busiest_worker())
    story.stack.emulator.let_go()
    story.wait("deferred tasks", lambda: story.states()["deferred"] >= 5)
    story.kill(story.busiest_triggerer())
    story.stack.replenish()


def waiting(story: Story, work: Work) -> None:
    """A worker dies whose tasks wait in it for their jobs; and a triggerer."""
    story.begin("cluster_held", work)
    story.wait("tasks that wait for their jobs", lambda: story.live_jobs() >= 10)
    story.kill(story.busiest_worker())
    story.kill(story.stack.living("triggerer")[0])
    story.stack.replenish()


def collecting(story: Story, work: Work) -> None:
    """All wait when a triggerer dies; then a worker does while it reads answers."""
    story.begin("cluster_deferred", work)
    story.wait("all to wait", lambda: story.states()["deferred"] == work.runs)
    story.kill(story.busiest_triggerer())
    story.hold(DOWNLOAD)
    story.let_jobs_end()
    story.wait("answers on their way", lambda: story.are_held(DOWNLOAD))
    story.kill(story.busiest_worker())
    story.stack.emulator.let_go()
    story.stack.replenish()


def writing(story: Story, work: Work) -> None:
    """Both die when the first outputs are there and the next are being written."""
    story.begin("cluster_deferred", work)
    story.wait("some to wait", lambda: story.states()["deferred"] >= work.runs // 2)
    story.let_jobs_end()
    story.wait("the first outputs", lambda: work.outputs >= 3)
    story.kill(story.busiest_worker())
    story.kill(story.busiest_triggerer())
    story.stack.replenish()


def stalled(story: Story, work: Work) -> None:
    """A worker stands still while it submits, others have its tasks when it wakes; the same while it collects."""
    story.hold(CREATE)
    story.begin("cluster_deferred", work)
    story.wait("replies that wait", lambda: story.are_held(CREATE))
    sleeper = story.busiest_worker()
    story.stack.stall(sleeper)
    story.tell(f"stopped {sleeper} (SIGSTOP)")
    story.stack.emulator.let_go()
    story.stack.add("worker")
    story.wait("its tasks to begin again", lambda: max_try(story) > 1)
    story.wait("all to wait", lambda: story.states()["deferred"] == work.runs)
    story.stack.wake(sleeper)
    story.tell(f"woke {sleeper}")
    story.hold(DOWNLOAD)
    story.let_jobs_end()
    story.wait("answers on their way", lambda: story.are_held(DOWNLOAD))
    sleeper = story.busiest_worker()
    story.stack.stall(sleeper)
    story.tell(f"stopped {sleeper} (SIGSTOP)")
    story.stack.emulator.let_go()
    story.wait("half of the outputs", lambda: work.outputs >= work.runs // 2)
    story.stack.wake(sleeper)
    story.tell(f"woke {sleeper}")


def max_try(story: Story) -> int:
    """Return the highest try of the run's tasks."""
    return max((int(each["try_number"]) for each in story.instances()), default=0)


def unshared(story: Story, work: Work) -> None:
    """A worker that does not see the checkpoint fails and names the host that wrote it; a retry there goes on."""
    first, second = _without_checkpoint(story, work)
    story.kill(second)
    story.add_alone(work, "first", first)


def cleared(story: Story, work: Work) -> None:
    """The same; but a person clears the tasks, and the worker goes on with their jobs alone."""
    _without_checkpoint(story, work)
    story.stack.airflow.clear(story.instances()[0])
    story.tell("cleared all")


def _without_checkpoint(story: Story, work: Work) -> tuple[str, str]:
    """Let one worker write checkpoints, and another fail for want of them; return the names of both."""
    for name in story.stack.living("worker"):
        story.stack.kill(name)
    first = story.add_alone(work, "first")
    story.begin("cluster_deferred", work)
    story.wait("all to wait", lambda: story.states()["deferred"] == work.runs)
    story.kill(first)
    second = story.add_alone(work, "second")
    story.let_jobs_end()
    sentence = f"This worker ({second}) does not see the checkpoint "
    story.wait("the error", lambda: story.logs_say(sentence) and story.logs_say(f"which {first} wrote"))
    story.wait(
        "all to fail",
        lambda: (
            all(int(each["try_number"]) > 1 for each in story.instances())
            or story.states()["up_for_retry"] == work.runs
        ),
    )
    return first, second


SCENARIOS: Mapping[str, Scenario] = {
    "submitting": submitting,
    "waiting": waiting,
    "collecting": collecting,
    "writing": writing,
    "stalled": stalled,
    "unshared": unshared,
    "cleared": cleared,
}
RUNS_OF = {"unshared": 3, "cleared": 3}
"""Where fewer mapped runs show as much."""


def carry_out(story: Story, name: str, place: str) -> Verdict:
    """Carry out a scenario, and judge it."""
    work = Work(story.folder / place, place, RUNS_OF.get(name, RUNS))
    began = time.monotonic()
    faults: list[str] = []
    try:
        SCENARIOS[name](story, work)
        story.wait_for_end(work)
    except NotSeenError as error:
        faults.append(f"did not see {error}")
    ended = story.states()
    if ended != {"success": work.runs}:
        faults.append(f"tasks ended {dict(ended)}")
    story.end()
    faults += faults_of_outputs(work)
    faults += faults_of_bill(story.stack.emulator.executions(), story.stack.emulator.jobs(), story.wanted)
    return Verdict(name, time.monotonic() - began, tuple(faults))
