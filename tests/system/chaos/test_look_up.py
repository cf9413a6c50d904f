# SPDX-License-Identifier: Apache-2.0
"""What the look-up may cost: bounds on the requests of a first attempt and of retries."""

from __future__ import annotations

import re

import pytest

from tests.system.chaos.look_up import FIRST_HEAD, LATER_HEAD, emulator, measures

OTHERS = 250
pytestmark = pytest.mark.xdist_group("look-up")


@pytest.fixture(scope="module")
def lines(request: pytest.FixtureRequest) -> tuple[dict[tuple[str, str], str], dict[tuple[str, str, str], str]]:
    """Requests by backend and jobs in the list, and by the attempt as well."""
    with pytest.MonkeyPatch.context() as patch, emulator() as url:
        patch.setattr("tests.system.chaos.look_up.REPEATS", 1)
        patch.setattr("tests.system.chaos.look_up.DISTANCE", 0.001)
        patch.setenv("AIRFLOW_CONN_LOOK_UP", "set by the measure, and gone after it")
        first, later = measures(url, (0, OTHERS))
    column = FIRST_HEAD.index("find or create")
    return (
        {(str(line[0]), str(line[1])): str(line[column]) for line in first},
        {(str(line[0]), str(line[1]), str(line[2])): str(line[LATER_HEAD.index("requests")]) for line in later},
    )


def _number(words: str, kind: str) -> int:
    """Read a kind's number out of ``4: 2 list, 1 get, 1 create``."""
    found = re.search(rf"(\d+) {kind}", words)
    return int(found[1]) if found else 0


def test_a_first_attempt_adds_a_look_before_and_one_after_the_create(lines) -> None:
    first, _ = lines
    assert first["gemini", "0"] == "3: 2 list, 1 create"
    assert first["vertex_ai", "0"] == "4: 2 list, 1 create, 1 file"


def test_a_look_does_not_read_on_into_jobs_older_than_the_run(lines) -> None:
    first, _ = lines
    older = first["gemini", f"{OTHERS} older than the run"]
    assert _number(older, "create") == 1
    # The page on which our own job stands, and the one on which everything is older.
    assert _number(older, "list") <= 3


def test_a_look_reads_all_pages_since_the_run_began(lines) -> None:
    first, _ = lines
    assert _number(first["gemini", f"{OTHERS} newer than the run"], "list") >= 1 + OTHERS // 100


def test_on_vertex_ai_a_look_is_one_request_however_many_jobs_there_are(lines) -> None:
    first, later = lines
    assert len({words for (backend, _), words in first.items() if backend == "vertex_ai"}) == 1
    for attempt in {attempt for _, _, attempt in later}:
        assert len({words for (b, _, a), words in later.items() if (b, a) == ("vertex_ai", attempt)}) == 1


def test_a_retry_creates_nothing_when_there_is_a_job(lines) -> None:
    _, later = lines
    with_job = {key: words for key, words in later.items() if "the job runs" in key[2] or "ended well" in key[2]}
    assert len(with_job) == 8
    assert all(_number(words, "create") == 0 for words in with_job.values())
