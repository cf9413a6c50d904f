# SPDX-License-Identifier: Apache-2.0
"""The mark is stable over attempts, differs with the input, and can be read back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_gemini_batch.api.developer.jobs import DeveloperBackend
from airflow_provider_gemini_batch.api.identity import (
    MAX_DISPLAY_NAME,
    SubmissionToken,
    canonical_model,
    digest_of,
    input_digest_of,
    make_task_id,
    token_of,
    user_name_of,
)
from airflow_provider_gemini_batch.api.models import BatchJob, JobSpec
from airflow_provider_gemini_batch.api.vertex.jobs import VertexBackend
from airflow_provider_gemini_batch.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.backend import Backend

TOKEN = SubmissionToken("0123456789abcdef", "fedcba9876543210")


@given(st.text(max_size=300))
def test_any_display_name_gives_the_mark_back(user_name: str) -> None:
    name = TOKEN.display_name(user_name)
    assert len(name) <= MAX_DISPLAY_NAME
    assert token_of(BatchJob("batches/1", name)) == TOKEN
    assert TOKEN.display_name(name) == name


def test_short_names_are_kept_whole_and_long_ones_shortened() -> None:
    assert TOKEN.display_name("nightly") == "nightly [airflow 0123456789abcdef.fedcba9876543210]"
    assert user_name_of(TOKEN.display_name("nightly")) == "nightly"
    assert user_name_of(TOKEN.display_name("x" * 200)) == "x" * 84
    assert len(TOKEN.display_name("x" * 200)) == MAX_DISPLAY_NAME


@given(st.text(max_size=300))
def test_any_display_name_gives_the_input_digest_back(user_name: str) -> None:
    token = SubmissionToken(TOKEN.task, TOKEN.digest, "0" * 15 + "1")
    name = token.display_name(user_name)
    job = BatchJob("batches/1", name)
    assert len(name) <= MAX_DISPLAY_NAME
    assert input_digest_of(job) == "0" * 15 + "1"
    assert token_of(job) == TOKEN == token
    assert token.display_name(name) == name
    assert input_digest_of(BatchJob("batches/1", TOKEN.display_name(name))) == ""


def test_labels_win_over_the_display_name() -> None:
    other = SubmissionToken("1" * 16, "2" * 16)
    assert token_of(BatchJob("j", other.display_name("n"), labels=TOKEN.labels())) == TOKEN
    assert token_of(BatchJob("j", other.display_name("n"), labels={"airflow-task": "1" * 16})) == other


@pytest.mark.parametrize("name", ["", "nightly", "[airflow 12.34]", TOKEN.display_name("n") + " copy"])
def test_foreign_jobs_have_no_mark(name: str) -> None:
    assert token_of(BatchJob("j", name)) is None


@pytest.mark.parametrize(
    ("backend", "labels"), [(DeveloperBackend, {"a": "b"}), (VertexBackend, {"a": "b", **TOKEN.labels()})]
)
def test_only_vertex_jobs_get_labels(backend: type[Backend], labels: dict[str, str]) -> None:
    spec = JobSpec("m", "generate", "nightly", file_name="files/a", labels={"a": "b"})
    marked = TOKEN.mark(spec, has_labels=backend.has_labels)
    assert marked.labels == labels
    assert marked.display_name == TOKEN.display_name("nightly")


def test_every_part_of_the_task_counts() -> None:
    usual = ("ns", "dag", "run", "task", 0, "salt")
    changed = [tuple(99 if i == 4 else "x" for i in [j]) for j in range(6)]
    ids = {make_task_id(*usual)} | {make_task_id(*usual[:i], *changed[i], *usual[i + 1 :]) for i in range(6)}
    assert len(ids) == 7
    assert make_task_id("a", "b-c", "d", "e") != make_task_id("a", "b", "c-d", "e")


def test_digest_ignores_order_spelling_of_the_model_and_absent_parts() -> None:
    one = digest_of({"kind": "generate", "model": "models/x", "source": {"a": 1, "b": 2}, "settings": None})
    assert one == digest_of({"source": {"b": 2, "a": 1}, "model": "x", "kind": "generate"})
    assert one == digest_of({"source": {"b": 2, "a": 1}, "model": "publishers/google/models/x", "kind": "generate"})
    assert one != digest_of({"source": {"b": 2, "a": 2}, "model": "x", "kind": "generate"})
    assert one != digest_of({"source": {"b": 2, "a": 1}, "model": "y", "kind": "generate"})
    assert canonical_model("projects/p/locations/l/models/1") == "projects/p/locations/l/models/1"


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="plain JSON"):
        digest_of({"x": object()})
    with pytest.raises(ConfigurationError, match="16 hex"):
        SubmissionToken("nope", "fedcba9876543210")
