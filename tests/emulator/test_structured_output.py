# SPDX-License-Identifier: Apache-2.0
"""Answers fit the schema that a row asks for, in either form, and differ with the prompt."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemini_batch_emulator.answering.draws import number_of
from gemini_batch_emulator.answering.schemas import Maker

if TYPE_CHECKING:
    from tests.emulator.conftest import Caller

REVIEW = {
    "type": "object",
    "properties": {
        "sentiment": {"type": "string", "enum": ["good", "bad", "mixed"]},
        "topics": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
        "score": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["sentiment", "topics", "score"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["name", "children", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
SCHEMAS: list[dict[str, Any]] = [
    REVIEW,
    TREE,
    {"type": "array", "items": {"type": "number", "minimum": -2.5, "maximum": -1}, "minItems": 2, "maxItems": 2},
    {"type": ["string", "null"], "maxLength": 5},
    {"type": "object", "properties": {"a": {"const": 7}, "b": {"type": "boolean"}}, "required": ["a"]},
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False},
    {"anyOf": [{"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6}, {"type": "boolean"}]},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}]},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "uuid"},
    {"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 50},
    {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 3, "maxItems": 3},
    {"type": "string", "minLength": 80},
    {},
]


def values(schema: Any, count: int = 200) -> list[Any]:
    """Values for different prompts."""
    maker = Maker(schema)
    return [maker.value(number_of(f"prompt {number}"), f"prompt {number}") for number in range(count)]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: str(schema)[:40])
def test_every_value_fits_its_schema(schema: dict[str, Any]) -> None:
    check = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    for value in values(schema):
        check.validate(value)


names = st.sampled_from(["a", "b", "kind", "items", "type"])
numbers = st.integers(-20, 20)


def bounded(kind: str, low: int | None, span: int | None) -> dict[str, Any]:
    """A number's schema with none, one or both of its bounds."""
    schema: dict[str, Any] = {"type": kind}
    if low is not None:
        schema["minimum"] = low
    if span is not None:
        schema["maximum"] = (low or 0) + span
    return schema


def an_object(properties: dict[str, Any], required: list[str], *, is_closed: bool) -> dict[str, Any]:
    """An object's schema; what is required may not be among its properties, unless it is closed."""
    if is_closed:
        required = [name for name in required if name in properties]
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": not is_closed}
    return {**schema, "required": sorted(set(required))} if required else schema


schemas = st.recursive(
    st.one_of(
        st.builds(
            bounded,
            st.sampled_from(["integer", "number"]),
            st.none() | numbers,
            st.none() | st.integers(0, 9),
        ),
        st.sampled_from([{}, {"type": "boolean"}, {"type": "null"}, {"const": {"x": [1]}}, {"type": "string"}]),
        st.builds(lambda values: {"enum": values}, st.lists(st.sampled_from(["x", 1, None, True]), min_size=1)),
        st.builds(lambda low: {"type": "string", "minLength": low, "maxLength": low + 3}, st.integers(0, 9)),
    ),
    lambda inner: st.one_of(
        st.builds(an_object, st.dictionaries(names, inner, max_size=4), st.lists(names), is_closed=st.booleans()),
        st.builds(
            lambda items, least, more: {"type": "array", "items": items, "minItems": least, "maxItems": least + more},
            inner,
            st.integers(0, 3),
            st.integers(0, 3),
        ),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=12,
)


@given(schemas, st.integers(0, 1 << 63))
@settings(max_examples=400, deadline=None)
def test_any_value_fits_any_schema(schema: dict[str, Any], number: int) -> None:
    jsonschema.Draft202012Validator(schema).validate(Maker(schema).value(number, "the prompt's words"))


def test_values_differ_with_the_prompt_and_stay_with_it() -> None:
    assert values(REVIEW) == values(REVIEW)
    found = values(REVIEW)
    assert {value["sentiment"] for value in found} == {"good", "bad", "mixed"}
    assert {value["score"] for value in found} == {1, 2, 3, 4, 5}


def test_the_subset_of_openapi_is_read() -> None:
    schema = {
        "type": "OBJECT",
        "properties": {
            "b": {"type": "STRING", "format": "enum", "enum": ["x", "y"]},
            "a": {"type": "INTEGER", "nullable": True, "minimum": 1, "maximum": 2},
        },
        "propertyOrdering": ["a", "b"],
        "required": ["a", "b"],
    }
    found = values(schema)
    assert {tuple(value) for value in found} == {("a", "b")}
    assert {value["a"] for value in found} == {None, 1, 2}
    assert {value["b"] for value in found} == {"x", "y"}


@pytest.mark.parametrize("how", ["type", "missing", "extra"])
@pytest.mark.parametrize("schema", [REVIEW, TREE], ids=["review", "tree"])
def test_a_broken_value_does_not_fit(schema: dict[str, Any], how: str) -> None:
    maker = Maker(schema)
    check = jsonschema.Draft202012Validator(schema)
    for value in values(schema):
        assert not check.is_valid(maker.broken(value, how))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "NONSENSE"},
        {"$ref": "#/nowhere"},
        {"$ref": "#"},
        {"properties": []},
        {"enum": "ab"},
        {"type": "array", "minItems": "two"},
        [],
        "text",
    ],
)
def test_a_schema_that_makes_no_sense_still_gets_an_answer(schema: Any) -> None:
    values(schema, 3)


@pytest.mark.parametrize("member", ["responseSchema", "responseJsonSchema", "response_schema", "response_json_schema"])
def test_a_job_answers_by_the_schema_of_each_row(one: Caller, member: str) -> None:
    config = {"responseMimeType": "application/json", member: REVIEW}
    lines = [
        {"key": f"k{n}", "request": {"contents": [{"parts": [{"text": f"row {n}"}]}], "generationConfig": config}}
        for n in range(50)
    ]
    job = one.ended(one.create(one.upload(lines)["name"]))
    check = jsonschema.Draft202012Validator(REVIEW)
    for row in one.output(job):
        check.validate(json.loads(row["response"]["candidates"][0]["content"]["parts"][0]["text"]))


def test_batches_can_degrade_one_of_the_two_forms(one: Caller) -> None:
    one.emulator.configure(degrade_json_schema=True)
    check = jsonschema.Draft202012Validator(REVIEW)
    fits = {}
    for member in ("responseSchema", "responseJsonSchema"):
        config = {"responseMimeType": "application/json", member: REVIEW}
        request = {"contents": [{"parts": [{"text": "a row"}]}], "generationConfig": config}
        row = one.output(one.ended(one.create(one.upload([{"key": "a", "request": request}])["name"])))[0]
        single = one.call("POST", "models/gemini-3.5-flash-lite:generateContent", json=request).json()
        texts = [answer["candidates"][0]["content"]["parts"][0]["text"] for answer in (row["response"], single)]
        fits[member] = [check.is_valid(json.loads(text)) for text in texts]
    assert fits == {"responseSchema": [True, True], "responseJsonSchema": [False, True]}


def test_a_member_that_no_schema_has_is_refused_with_its_line(one: Caller) -> None:
    schema = {"type": "OBJECT", "properties": {"type_": {"type": "STRING"}, "b": {"items": {"type_": "STRING"}}}}
    config = {"responseMimeType": "application/json", "responseSchema": schema}
    line = {"key": "a", "request": {"contents": [{"parts": [{"text": "x"}]}], "generationConfig": config}}
    error = one.create(one.upload([line])["name"], expect=400)["error"]
    assert "Error on line 1" in error["message"]
    assert "no such field: 'type_'" in error["message"]
