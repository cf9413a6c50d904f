# SPDX-License-Identifier: Apache-2.0
"""
From an empty Airflow to answers on a person's screen, in a browser, with every process of a real Airflow.

``make test-ui`` runs it on the newest Airflow, ``make test-ui-3.4`` and ``make test-ui-3.1`` on others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.chromium import CHROMIUM, NO_CHROMIUM, running_chromium
from tests.support.journey import STEP, Person, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.newest_airflow,
    pytest.mark.slow,
    pytest.mark.xdist_group("real_airflow"),
    pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM),
]

DAG, TASK = "gemini_batch_classify_table", "classify"
CONNECTION = "gemini_batch_default"
REFUSED = "The request was <i>refused</i>"
QUICK: dict[str, Any] = {
    "mode": "time", "pending_seconds": 1, "running_seconds": 8,
    "rows": [{"share": 0.05, "outcome": "error", "code": 3, "message": REFUSED}],
}  # fmt: skip
STUCK: dict[str, Any] = {"mode": "time", "pending_seconds": 0, "running_seconds": 1_000_000}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Run an Airflow in which nobody has done anything yet."""
    place = Place(tmp_path_factory.mktemp("journey"))
    try:
        place.start(DAG)
        yield place
    finally:
        place.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with running_chromium() as started:
        yield started


@pytest.fixture
def person(chromium: Any, place: Place) -> Iterator[Callable[[str], Person]]:
    """Return a person of a role, signed in; nothing of ours may have gone wrong in their browser."""
    people: list[Person] = []

    def arrive(role: str) -> Person:
        people.append(Person(chromium, place, role))
        people[-1].signs_in()
        return people[-1]

    yield arrive
    for each in people:
        each.close()
        assert each.faults == []


def waits(place: Place, run_id: str) -> None:
    """Return when the run's task is deferred and its job under way."""
    place.wait(lambda: place.airflow.task_states(DAG, run_id).get(TASK) == "deferred", 60, "The wait")
    place.wait(lambda: place.airflow.links(DAG, run_id, TASK).get("Gemini batch") is not None, 20, "The link")


def connect(place: Place) -> None:
    """Have the connection, whoever made it."""
    if place.airflow.connection(CONNECTION) is None:
        place.airflow.add_connection(
            CONNECTION, {"conn_type": "gemini_batch", "host": place.emulator.base_url, "password": "any-key"}
        )


def test_person_gets_from_an_empty_airflow_to_answers(place: Place, person: Callable[[str], Person]) -> None:
    place.emulator.configure(script=QUICK)
    ada = person("admin")
    ada.adds_connection(CONNECTION, **{"Base URL": place.emulator.base_url, "API key": "any-key"})
    ada.picture("journey-connection")
    works, told = ada.tests_connection(CONNECTION)
    assert works, told
    assert "models: ok" in told

    run_id = ada.triggers(DAG)
    waits(place, run_id)
    ada.opens_task(DAG, run_id, TASK)
    view = ada.opens_our_view()
    view.get_by_role("heading", name=TASK).wait_for()
    view.get_by_text("60 rows", exact=True).wait_for()
    view.get_by_text("waits for 1 job at Google").wait_for()
    ada.picture("journey-waiting")

    place.wait(lambda: place.airflow.run_state(DAG, run_id) == "success", 90, "The run's success")
    ada.opens_task(DAG, run_id, TASK)
    view = ada.opens_our_view()
    view.get_by_role("link", name="Answers").first.click()
    view.get_by_role("heading", name="60 answers").wait_for()
    answers = view.get_by_role("region", name="Rows and their answers")
    failing = answers.locator("tbody tr").first
    assert REFUSED in failing.inner_text(), "failing rows come first, and markup in them is text"
    view.locator("nav a", has_text="succeeded").click()
    row = answers.locator("tbody tr", has_text="r001")
    row.wait_for()
    seen = row.inner_text()
    assert "Boils a litre in two minutes" in seen, "the row stands beside its answer"
    assert "sentiment" in seen, seen
    ada.picture("journey-answers")
    view.get_by_label("Search").first.fill("no such words")
    view.get_by_role("button", name="Search").click()
    view.get_by_role("heading", name="No such row").wait_for()

    view.get_by_role("link", name="Spend").click()
    view.get_by_role("heading", name="Spend", exact=True).wait_for()
    assert DAG in view.locator("main").inner_text()
    view = ada.opens_menu()
    view.get_by_text("1 job at Google").wait_for()
    assert "2 failing" in view.locator("tbody tr").first.inner_text()
    ada.picture("journey-jobs")


def test_running_job_is_cancelled_by_who_may_and_by_nobody_else(place: Place, person: Callable[[str], Person]) -> None:
    connect(place)
    place.emulator.configure(script=STUCK)
    before = {job["name"] for job in place.emulator.jobs()}
    place.airflow.unpause(DAG)
    run_id = place.airflow.trigger(DAG, {})
    waits(place, run_id)
    eve = person("viewer")
    eve.opens_task(DAG, run_id, TASK)
    view = eve.opens_our_view()
    button = view.get_by_role("button", name="Cancel run")
    button.wait_for()
    assert button.is_disabled()
    assert f"edit on the DAG {DAG}" in (button.get_attribute("title") or "")
    view = eve.opens_menu()
    view.get_by_text("You may not see the jobs of this connection").wait_for()
    view.get_by_role("link", name="Spend").click()
    view.get_by_role("heading", name="Spend", exact=True).wait_for()

    olga = person("op")
    view = olga.opens_menu()
    view.get_by_role("button", name="List again").click()
    view.locator("tbody tr", has_text="Running").get_by_role("link", name=DAG).click()
    view.get_by_role("button", name="Cancel run").click()
    view.get_by_role("button", name="Cancel 1 job").click()
    view.get_by_text("The task is marked failed and its jobs are cancelled.").wait_for(timeout=STEP)
    place.wait(lambda: place.airflow.task_states(DAG, run_id)[TASK] == "failed", 20, "The failed task")
    place.wait(lambda: all(job["state"] != "RUNNING" for job in place.emulator.jobs()), 20, "The end of the job")
    [job] = [job for job in place.emulator.jobs() if job["name"] not in before]
    assert (job["rows"], job["rows_run"]) == (60, 0), "nothing was billed, and nothing asks its rows again"
