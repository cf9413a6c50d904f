# SPDX-License-Identifier: Apache-2.0
"""A response schema as columns, as validator, and as what the service is sent."""

from __future__ import annotations

import datetime
import enum
from typing import Any

import pydantic
import pytest

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.run.column_types import SchemaBreach
from airflow_provider_gemini_batch.run.schema import ResponseSchema
from tests.run.world import rows


def schema(**properties):
    return {"type": "object", "properties": properties, "required": list(properties)}


def column(member):
    return ResponseSchema(schema(x=member)).columns["x"].sql


@pytest.mark.parametrize(
    ("member", "sql"),
    [
        ({"type": "string"}, "VARCHAR"),
        ({"enum": ["a", "b"]}, "VARCHAR"),
        ({"const": "a"}, "VARCHAR"),
        ({"type": "integer"}, "BIGINT"),
        ({"type": "number"}, "DOUBLE"),
        ({"type": "boolean"}, "BOOLEAN"),
        ({"type": "string", "format": "date"}, "DATE"),
        ({"type": "string", "format": "date-time"}, "TIMESTAMPTZ"),
        ({"type": ["string", "null"]}, "VARCHAR"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "BIGINT"),
        ({"type": "array", "items": {"type": "number"}}, "DOUBLE[]"),
        (schema(a={"type": "integer"}), 'STRUCT("a" BIGINT)'),
        (schema(a=schema(b={"type": "string"})), 'STRUCT("a" STRUCT("b" VARCHAR))'),
        (schema(a=schema(b=schema(c={"type": "string"}))), 'STRUCT("a" STRUCT("b" VARCHAR))'),
        ({"type": "array", "items": schema(a={"type": "string"})}, "VARCHAR"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "VARCHAR"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "VARCHAR"),
        ({}, "VARCHAR"),
    ],
)
def test_column_type_comes_from_the_schema(member, sql):
    assert column(member) == sql


def test_root_that_is_no_object_is_one_column():
    found = ResponseSchema({"type": "array", "items": {"type": "string"}})
    assert {name: kind.sql for name, kind in found.columns.items()} == {"value": "VARCHAR[]"}
    assert found.read('["a"]') == [["a"]]


def test_values_come_in_the_order_of_the_schema():
    found = ResponseSchema(schema(b={"type": "string"}, a={"type": "integer"}))
    assert found.read('{"a": 1, "b": "x"}') == ["x", 1]


@pytest.mark.parametrize(
    ("member", "answer", "why"),
    [
        ({"type": "integer"}, '{"x": 1.5}', "integer"),
        ({"type": "integer"}, '{"x": 9223372036854775808}', "64 bits"),
        ({"type": "integer"}, '{"x": "1"}', "integer"),
        ({"type": "integer"}, '{"x": true}', "integer"),
        ({"enum": ["a"]}, '{"x": "b"}', "not one of"),
        ({"type": "string", "format": "date"}, '{"x": "01/02/2026"}', "no date"),
        ({"type": "string", "format": "date-time"}, '{"x": "soon"}', "no time"),
        ({"type": "string"}, '{"y": "b"}', "required"),
        ({"type": "string"}, '{"x": "b"', "no JSON"),
        ({"type": "string"}, "I think that x is b.", "no JSON"),
        ({"type": "array", "items": {"type": "integer"}}, '{"x": [1, "2"]}', "integer"),
        ({"type": "integer", "minimum": 3}, '{"x": 2}', "minimum"),
    ],
)
def test_answer_that_breaks_the_schema_says_why(member, answer, why):
    with pytest.raises(SchemaBreach, match=why):
        ResponseSchema(schema(x=member)).read(answer)


def test_whole_number_written_as_a_float_is_one():
    assert ResponseSchema(schema(x={"type": "integer"})).read('{"x": 2.0}') == [2]


def test_last_of_repeated_members_counts():
    assert ResponseSchema(schema(x={"type": "integer"})).read('{"x": 1, "x": 2}') == [2]


def test_time_without_a_zone_is_utc():
    (found,) = ResponseSchema(schema(x={"type": "string", "format": "date-time"})).read('{"x": "2026-01-02T03:04:05"}')
    assert found == "2026-01-02 03:04:05.000000+00"


def test_free_object_lands_as_json_text():
    free = {"type": "object", "additionalProperties": {"type": "integer"}}
    assert ResponseSchema(schema(x=free)).read('{"x": {"b": 1}}') == ['{"b":1}']


def test_optional_member_is_null_where_it_is_absent():
    found = ResponseSchema({"type": "object", "properties": {"x": {"type": "string"}}})
    assert found.read("{}") == [None]


class Mood(enum.Enum):
    good = "good"
    bad = "bad"


class Address(pydantic.BaseModel):
    city: str
    since: datetime.date | None = None


class Review(pydantic.BaseModel):
    mood: Mood
    stars: int
    address: Address
    tags: list[str] = []


def test_pydantic_class_gives_columns_and_values():
    found = ResponseSchema(Review)
    assert {name: kind.sql for name, kind in found.columns.items()} == {
        "mood": "VARCHAR",
        "stars": "BIGINT",
        "address": 'STRUCT("city" VARCHAR, "since" DATE)',
        "tags": "VARCHAR[]",
    }
    answer = '{"mood": "good", "stars": 4, "address": {"city": "Rome", "since": "2026-01-02"}}'
    assert found.read(answer) == ["good", 4, {"city": "Rome", "since": "2026-01-02"}, []]


def test_pydantic_class_judges_answers():
    with pytest.raises(SchemaBreach, match="stars"):
        ResponseSchema(Review).read('{"mood": "good", "stars": "many", "address": {"city": "Rome"}}')


def test_service_is_sent_its_own_schema_language():
    found = ResponseSchema(schema(x={"type": ["string", "null"], "enum": ["a", None]}, y={"type": "integer"}))
    assert found.generation_config == {
        "responseMimeType": "application/json",
        "responseSchema": {
            "type": "OBJECT",
            "properties": {
                "x": {"type": "STRING", "nullable": True, "enum": ["a"], "format": "enum"},
                "y": {"type": "INTEGER"},
            },
            "propertyOrdering": ["x", "y"],
            "required": ["x", "y"],
        },
    }


def test_date_for_which_the_service_has_no_format_is_asked_for_in_words(both):
    class Visit(pydantic.BaseModel):
        day: datetime.date = pydantic.Field(description="Of the visit.")
        left: datetime.date | None = None

    found = ResponseSchema(Visit)
    sent = found.generation_config["responseSchema"]["properties"]
    assert sent["day"] == {"type": "STRING", "description": "Of the visit. A date as YYYY-MM-DD."}
    assert sent["left"]["description"] == "A date as YYYY-MM-DD."
    both.emulator.script(mode="at_once")
    assert both.attempt(both.spec(schema=found), rows(2))["counts"] == {"succeeded": 2}


def test_schema_that_its_language_lacks_is_sent_as_json_schema():
    free = {"type": "object", "additionalProperties": {"type": "integer"}}
    assert "responseJsonSchema" in ResponseSchema(schema(x=free)).generation_config


def test_limit_that_no_backend_takes_is_said_in_words_and_checked():
    class Parcel(pydantic.BaseModel):
        weight: float = pydantic.Field(gt=0, description="In kg.")
        labels: set[str]
        sizes: dict[str, int]

    for raw in (Parcel, Parcel.model_json_schema()):
        found = ResponseSchema(raw)
        sent = found.generation_config["responseJsonSchema"]["properties"]
        assert sent["weight"] == {"type": "number", "description": "In kg. Greater than 0."}
        assert sent["labels"] == {"type": "array", "items": {"type": "string"}, "description": "No item twice."}
        assert found.read('{"weight": 0.5, "labels": ["a"], "sizes": {}}') == [0.5, ["a"], "{}"]
        with pytest.raises(SchemaBreach, match="weight"):
            found.read('{"weight": 0, "labels": ["a"], "sizes": {}}')
    limited = schema(x={"type": "integer", "exclusiveMaximum": 9, "multipleOf": 2})
    sent = ResponseSchema(limited).generation_config["responseSchema"]["properties"]
    assert sent["x"] == {"type": "INTEGER", "description": "Less than 9. A multiple of 2."}


def test_references_are_inlined():
    raw: dict[str, Any] = {**schema(x={"$ref": "#/$defs/Stars"}), "$defs": {"Stars": {"type": "integer"}}}
    assert ResponseSchema(raw).columns["x"].sql == "BIGINT"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ({**schema(x={"$ref": "#/$defs/T"}), "$defs": {"T": schema(t={"$ref": "#/$defs/T"})}}, "recursive"),
        (schema(x={"$ref": "#/$defs/None"}), "there is no"),
        (schema(x={"not": {"type": "string"}}), "neither backend takes 'not'"),
        (schema(x={"type": "STRING"}), "lower case"),
        ({"type": "object", "properties": {"x": {"type": "string"}}, "required": ["y"]}, "required names 'y'"),
        ({"type": "object", "properties": ["x"]}, "must be a dict"),
        ("a text", "must be a JSON Schema"),
        ({}, "must be a JSON Schema"),
    ],
)
def test_schema_that_cannot_be_sent_says_where(raw, why):
    with pytest.raises(ConfigurationError, match=why):
        ResponseSchema(raw)
