# SPDX-License-Identifier: Apache-2.0
"""Row counts -> success, warning or failure; one rule for tasks that wait and for the download."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_gemini_batch.api.models import BatchJob, BatchStats
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.errors import ConfigurationError, JobFailedError, PartialFailureError
from airflow_provider_gemini_batch.lifecycle.verdict import (
    MAX_FAILED_ROWS,
    RowSample,
    allowed_rows,
    check_ended,
    check_max_failed_rows,
    check_rows,
)


def test_a_tenth_is_the_default_everywhere() -> None:
    from inspect import signature

    from airflow_provider_gemini_batch.client import GeminiBatchClient
    from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
    from airflow_provider_gemini_batch.operators import DownloadResultsOperator
    from airflow_provider_gemini_batch.operators.submit_arguments import SubmitArguments
    from airflow_provider_gemini_batch.sensors import BatchJobSensor

    calls: list[Any] = [vars(each)["__init__"] for each in (SubmitArguments, BatchJobSensor, DownloadResultsOperator)]
    calls += [GeminiBatchHook.wait_for_batch, GeminiBatchClient.wait_for_batch, check_ended]
    assert {signature(call).parameters["max_failed_rows"].default for call in calls} == {MAX_FAILED_ROWS} == {0.1}


@pytest.mark.parametrize(
    ("bound", "total", "allowed"),
    [(0.1, 9, 0), (0.1, 10, 1), (0.1, 25, 2), (0.29, 100, 29), (0.0, 10, 0), (0, 10, 0), (3, 10, 3), (2.0, 10, 2)],
)
def test_a_share_allows_whole_rows(bound: float, total: int, allowed: int) -> None:
    assert allowed_rows(bound, total) == allowed


@pytest.mark.parametrize("value", [True, -1, "0.1", 1.5, float("nan"), float("inf"), [1]])
def test_what_is_no_bound_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_failed_rows"):
        check_max_failed_rows(value)


@pytest.mark.parametrize(
    ("total", "failed", "bound", "error"),
    [
        (9, 1, 0.1, PartialFailureError),
        (10, 1, 0.1, None),
        (10, 2, 0.1, PartialFailureError),
        (10, 9, None, None),
        (10, 10, None, JobFailedError),
        (10, 10, 10, JobFailedError),
        (0, 0, None, JobFailedError),
        (10, 1, 0, PartialFailureError),
    ],
)
def test_more_rows_than_allowed_fail_and_fewer_warn(
    total: int, failed: int, bound: float | None, error: type[Exception] | None
) -> None:
    if error is None:
        assert f"{failed} of {total} rows" in str(check_rows(total, failed, bound, what="batches/a"))
    else:
        with pytest.raises(error):
            check_rows(total, failed, bound, what="batches/a")


def partial(succeeded: int | None, failed: int | None) -> BatchJob:
    stats = BatchStats(None if succeeded is None else 20, succeeded, failed, 0)
    return BatchJob("batches/a", state=JobState.PARTIALLY_SUCCEEDED, stats=stats)


def test_a_partial_success_follows_the_same_share() -> None:
    assert "succeeded only in part: 2 of 20 rows" in str(check_ended(partial(18, 2)))
    with pytest.raises(PartialFailureError, match="succeeded only in part: 3 of 20 rows"):
        check_ended(partial(17, 3))
    assert "3 of 20" in str(check_ended(partial(17, 3), None))


def test_rows_that_neither_succeeded_nor_failed_have_no_answer() -> None:
    job = BatchJob("batches/a", state=JobState.SUCCEEDED, stats=BatchStats(20, 17, 0, 0))
    with pytest.raises(PartialFailureError, match="3 of 20 rows"):
        check_ended(job)


def test_a_partial_success_without_counts_passes_only_without_a_bound() -> None:
    with pytest.raises(PartialFailureError, match="row counts are not known"):
        check_ended(partial(None, None))
    assert "row counts are not known" in str(check_ended(partial(None, None), None))


# --- cut off ----------------------------------------------------------------------------------------------------------


def test_answers_that_were_cut_off_are_warned_about() -> None:
    warning = check_rows(20, 0, 0.1, what="batches/a", truncated=5)
    assert "5 answers were cut off" in str(warning)
    both = str(check_rows(20, 1, 0.1, what="batches/a", truncated=5))
    assert "1 of 20 rows have no usable answer" in both
    assert "5 answers were cut off" in both


def test_answers_that_were_cut_off_count_if_asked() -> None:
    with pytest.raises(PartialFailureError, match=r"3 of 20 .*: 1 failed, 2 cut off; max_failed_rows=0.1 allows 2"):
        check_rows(20, 1, 0.1, what="batches/a", kinds={"failed": 1, "missing": 0}, truncated=2, count_truncated=True)
    assert "2 of 20" in str(check_rows(20, 0, 0.1, what="batches/a", truncated=2, count_truncated=True))


def test_a_count_in_the_first_rows_says_so() -> None:
    text = check_rows(9000, 9, 0.1, what="batches/a", reasons={"broke (code 13)": 4}, truncated=7, sampled=1000)
    assert "(4 x broke (code 13) among the first 1000 answers)" in str(text)
    assert "7 answers among the first 1000 answers were cut off" in str(text)


SUCCEEDED = BatchJob("batches/a", state=JobState.SUCCEEDED, stats=BatchStats(2000, 2000, 0, 0))


def test_a_wait_reads_answers_only_if_rows_failed_or_cut_ones_count() -> None:
    asked: list[str] = []

    def look(job: BatchJob) -> RowSample:
        asked.append(job.name)
        return RowSample({}, 300, 1000, is_whole=False)

    assert check_ended(SUCCEEDED, 0.1, look) is None
    assert asked == []
    with pytest.raises(PartialFailureError, match="300 cut off among the first 1000 answers"):
        check_ended(SUCCEEDED, 0.1, look, count_truncated=True)
    assert asked == ["batches/a"]
