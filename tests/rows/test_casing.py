# SPDX-License-Identifier: Apache-2.0
"""Names of the service are spelt its way; names that users chose stay, wherever they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_gemini_batch.rows.casing import to_wire, unknown_members
from airflow_provider_gemini_batch.rows.messages import MESSAGES, snake
from airflow_provider_gemini_batch.rows.normalise import normalise_rows
from airflow_provider_gemini_batch.rows.problems import RowProblem
from airflow_provider_gemini_batch.rows.settings import RowSettings

CONTENTS = [{"parts": [{"text": "x"}]}]
SCHEMA = {
    "$defs": {"line_item": {"type": "object", "properties": {"unit_price": {"type": "number"}}}},
    "type": "object",
    "properties": {"line_items": {"type": "array", "items": {"$ref": "#/$defs/line_item"}, "min_items": 1}},
    "required": ["line_items"],
    "additional_properties": False,
}


def sent(request: dict[str, Any], **settings: Any) -> Any:
    row = {"key": "a", "request": {"contents": CONTENTS, **request}}
    (wire,) = normalise_rows([json.dumps(row)], RowSettings(**settings))
    return json.loads(wire.line())["request"]


def test_definitions_keep_the_names_that_refs_point_to() -> None:
    found = sent({"generation_config": {"response_schema": SCHEMA}})["generationConfig"]["responseSchema"]
    assert found["$defs"] == SCHEMA["$defs"]
    assert found["properties"]["line_items"]["items"] == {"$ref": "#/$defs/line_item"}
    assert found["properties"]["line_items"]["minItems"] == 1
    assert found["additionalProperties"] is False


def test_a_function_keeps_its_parameters_names() -> None:
    tool = {"function_declarations": [{"name": "save_it", "parameters": SCHEMA}]}
    declaration = sent({"tools": [tool]})["tools"][0]["functionDeclarations"][0]
    assert "line_item" in declaration["parameters"]["$defs"]


@pytest.mark.parametrize(
    ("request_", "place"),
    [
        ({"labels": {"cost_center": "a_b"}}, ("labels",)),
        ({"tools": [{"mcp_servers": [{"streamable_http_transport": {"headers": {"x_api_key": "v_1"}}}]}]},
         ("tools", 0, "mcpServers", 0, "streamableHttpTransport", "headers")),
        ({"generation_config": {"response_json_schema": {"$defs": {"a_b": {"min_length": 1}}}}},
         ("generationConfig", "responseJsonSchema")),
        ({"contents": [{"parts": [{"function_call": {"name": "f", "args": {"a_b": {"c_d": 1}}}}]}]},
         ("contents", 0, "parts", 0, "functionCall", "args")),
        ({"contents": [{"parts": [{"function_response": {"name": "f", "response": {"a_b": 1}}}]}]},
         ("contents", 0, "parts", 0, "functionResponse", "response")),
        ({"tools": [{"of_tomorrow": {"own_name": 1}}]}, ("tools", 0)),
    ],
)  # fmt: skip
def test_what_users_name_is_sent_as_written(request_: dict[str, Any], place: tuple[Any, ...]) -> None:
    def own(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(own, value))
        return set(value) | set().union(*map(own, value.values())) if isinstance(value, dict) else set()

    found = sent(request_)
    for step in place:
        found = found[step]
    written = json.dumps(request_)
    assert all(f'"{name}"' in written for name in own(found))
    assert any("_" in name for name in own(found))


def test_a_member_in_two_spellings_is_refused() -> None:
    with pytest.raises(RowProblem, match="'topK' is there twice"):
        to_wire({"top_k": 1, "topK": 2}, "GenerationConfig")


@pytest.mark.parametrize("message", sorted(MESSAGES))
def test_every_known_member_has_one_spelling_on_the_wire(message: str) -> None:
    for name in MESSAGES[message]:
        assert to_wire({snake(name): None}, message) == {name: None}
        assert to_wire({name: None}, message) == {name: None}


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), st.integers(), max_size=4))
def test_properties_keep_any_name(properties: dict[str, int]) -> None:
    schema = {"properties": {name: {"max_length": size} for name, size in properties.items()}}
    assert to_wire(schema, "Schema") == {"properties": {name: {"maxLength": size} for name, size in properties.items()}}


def test_one_object_becomes_the_list_that_is_meant() -> None:
    given = {
        "contents": {"role": "user", "parts": {"text": "x"}},
        "tools": {"function_declarations": {"name": "f"}},
        "safetySettings": {"category": "C", "threshold": "T"},
        "systemInstruction": {"parts": {"text": "Be brief."}},
    }
    assert sent(given) == {
        "contents": [{"role": "user", "parts": [{"text": "x"}]}],
        "tools": [{"functionDeclarations": [{"name": "f"}]}],
        "safetySettings": [{"category": "C", "threshold": "T"}],
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
    }


def test_an_unknown_member_deep_in_a_schema_is_found_by_its_path() -> None:
    schema = {"type": "OBJECT", "properties": {"city": {"type_": "STRING"}}, "$defs": {}}
    found = [tuple(each) for each in unknown_members({"responseSchema": schema}, "GenerationConfig")]
    assert found == [
        ("responseSchema.properties.city.type_", "type"),
        ("responseSchema.$defs", "responseJsonSchema in place of responseSchema"),
    ]
