# SPDX-License-Identifier: Apache-2.0
"""Provider and emulator read list filters with code of their own, and agree on what each filter keeps."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_gemini_batch.api.job_filter import FilterError, parse_filter
from gemini_batch_emulator.vertex.list_filter import BadFilter, read_filter

WORDS = ["alpha", "beta", "alpha one", "a*b", ""]
MOMENT = datetime(2026, 11, 27, 12, tzinfo=UTC)


def restriction(template: str, signs: str, values: list[str]) -> st.SearchStrategy[str]:
    """A comparison: any of *signs* (apart by spaces) and any of *values* in a template."""
    return st.builds(template.format, st.sampled_from(signs.split()), st.sampled_from(values))


restrictions = st.one_of(
    restriction('display_name{}"{}"', "= != :", ["alpha", "beta", "alpha one", "a*b", "al*", "*a", "*"]),
    restriction("model_display_name {} {}", "= !=", ["alpha", "beta"]),
    restriction('state{}"JOB_STATE_{}"', "= !=", ["RUNNING", "FAILED"]),
    restriction('create_time{}"2026-11-{}T12:00:00Z"', "= != < <= > >=", ["26", "27", "28"]),
    restriction("labels.x{}{}", "= : !=", ["1", "alpha"]),
    restriction('labels.a-b{}"{}"', "= : !=", ["1", "alpha"]),
    st.sampled_from(["labels.x:*", "labels.a-b:*"]),
)
filters = st.recursive(
    restrictions,
    lambda inner: st.one_of(
        st.builds(lambda a, b: f"{a} AND {b}", inner, inner),
        st.builds(lambda a, b: f"{a} OR {b}", inner, inner),
        st.builds(lambda a: f"NOT ({a})", inner),
        st.builds(lambda a: f"({a})", inner),
    ),
    max_leaves=6,
)
jobs = st.fixed_dictionaries(
    {
        "display_name": st.sampled_from(WORDS),
        "model_display_name": st.sampled_from(["alpha", "gamma"]),
        "state": st.sampled_from(["JOB_STATE_RUNNING", "JOB_STATE_FAILED", "JOB_STATE_PENDING"]),
        "create_time": st.sampled_from([MOMENT.timestamp() + delta for delta in (-86400, -1, 0, 1)]),
        "labels": st.dictionaries(st.sampled_from(["x", "a-b"]), st.sampled_from(["1", "alpha", ""])),
    }
)


@given(filters, jobs)
@settings(max_examples=400, deadline=None)
def test_both_readers_keep_the_same_jobs(text: str, job: dict[str, Any]) -> None:
    assert parse_filter(text)(job) is read_filter(text)(job)


@given(st.text(alphabet='ab=:<>!()"*. -', max_size=12))
@settings(max_examples=400, deadline=None)
def test_both_readers_refuse_the_same_texts(text: str) -> None:
    def is_read(read: Any, error: type[Exception]) -> bool:
        try:
            read(text)
        except error:
            return False
        return True

    assert is_read(parse_filter, FilterError) == is_read(read_filter, BadFilter)
