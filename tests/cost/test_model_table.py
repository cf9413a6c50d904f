# SPDX-License-Identifier: Apache-2.0
"""The table of models: names, dates, kinds; nothing is said of a model that is not in it."""

from __future__ import annotations

from datetime import date
from typing import get_args

import pytest

from airflow_provider_gemini_batch.cost.model_table import (
    ModelKind,
    answering_model,
    canonical,
    known_models,
    model_facts,
    model_kind,
    rerouted_to,
)

BEFORE, AFTER = date(2026, 11, 30), date(2026, 12, 1)


@pytest.mark.parametrize(
    "name",
    [
        "gemini-2.5-flash",
        "models/gemini-2.5-flash",
        "publishers/google/models/gemini-2.5-flash",
        "projects/p/locations/l/publishers/google/models/gemini-2.5-flash@default",
        " Gemini-2.5-Flash ",
    ],
)
def test_a_model_is_known_by_any_of_its_names(name: str) -> None:
    assert canonical(name) == "gemini-2.5-flash"
    assert model_facts(name) is model_facts("gemini-2.5-flash") is not None


def test_an_unknown_model_stays_unknown() -> None:
    assert model_facts("gemini-9-nova") is None
    assert model_kind("gemini-9-nova") is None
    assert answering_model("models/gemini-9-nova", "gemini", AFTER) == "gemini-9-nova"


def test_a_rerouted_model_is_answered_by_another_from_its_date_on() -> None:
    assert answering_model("gemini-2.5-flash", "gemini", BEFORE) == "gemini-2.5-flash"
    assert answering_model("gemini-2.5-flash", "gemini", AFTER) == "gemini-3.5-flash-lite"
    assert answering_model("gemini-2.5-pro", "gemini", AFTER) == "gemini-3.8-flash"
    assert answering_model("gemini-2.5-flash-lite", "gemini", AFTER) == "gemini-2.5-flash-lite"
    assert answering_model("gemini-2.5-flash", "vertex_ai", AFTER) == "gemini-2.5-flash"


def test_a_reroute_is_told_from_its_date_on() -> None:
    assert rerouted_to("models/gemini-2.5-pro", BEFORE) is None
    assert rerouted_to("models/gemini-2.5-pro", AFTER) == "gemini-3.8-flash"
    assert rerouted_to("gemini-9-nova", AFTER) is None


def test_an_alias_is_the_model_that_it_points_to() -> None:
    assert answering_model("gemini-flash-latest", "gemini", AFTER) == "gemini-3.8-flash"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gemini-3.1-flash-image", "image"),
        ("gemini-9-image-preview", "image"),
        ("gemini-3.9-flash-preview-tts", "speech"),
        ("gemini-embedding-3", "embed"),
        ("gemini-3.8-flash", "generate"),
    ],
)
def test_a_kind_is_told_by_table_or_name(name: str, kind: str) -> None:
    assert model_kind(name) == kind


def test_every_row_of_the_table_holds_together() -> None:
    names = {facts.name for facts in known_models()}
    assert len(names) == len(known_models())
    gone = {facts.name for facts in known_models() if facts.shut_down}
    for facts in known_models():
        assert facts.kind in get_args(ModelKind)
        assert facts.name == canonical(facts.name)
        assert not facts.replacement or facts.replacement in names - gone
        assert all(reroute.to in names for reroute in facts.rerouted.values())
        assert all(
            facts.since is None or when > facts.since for when in (*facts.shut_down.values(), *facts.retires.values())
        )
