# SPDX-License-Identifier: Apache-2.0
"""Models that retire and are rerouted, token counts, synchronous answers of the tier flex, limits on spending."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.emulator.conftest import generate_line, inlined
from tests.support.emulator_serving import SCOPE, serve

if TYPE_CHECKING:
    from tests.emulator.conftest import Caller

CONTENTS = [{"role": "user", "parts": [{"text": "How many tokens?"}]}]
FLASH = "models/gemini-3.5-flash-lite"
DECEMBER = datetime(2026, 12, 1, 12, tzinfo=UTC).timestamp()
NOVEMBER = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()


def at(caller: Caller, moment: float) -> None:
    """Set emulated time."""
    caller.emulator.state.clock.change(to=moment)


def flex(caller: Caller, text: str = "hi", expect: int = 200, **more: Any) -> dict[str, Any]:
    """Ask synchronously at the price of a batch."""
    body = {"contents": [{"parts": [{"text": text}]}], "serviceTier": "flex", **more}
    return dict(caller.call("POST", f"{FLASH}:generateContent", json=body, expect=expect).json())


# Models -------------------------------------------------------------------------------------------------------------


def test_the_list_holds_what_a_new_key_can_use(caller: Caller) -> None:
    names = [model["name"] for model in caller.call("GET", "models").json()["models"]]
    assert {FLASH, "models/gemini-3.8-flash", "models/gemini-embedding-001"} <= set(names)
    assert "models/gemini-2.5-flash" not in names
    for name in names:
        assert caller.call("GET", name).json()["name"] == name


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "gemini-2.5-pro"])
def test_a_retired_model_is_404_for_a_new_key_and_served_for_an_old_one(one: Caller, model: str) -> None:
    at(one, NOVEMBER)
    error = one.inline("a", model=model, expect=404)["error"]
    assert "no longer available to new users" in error["message"]
    assert error["status"] == "NOT_FOUND"
    one.call("GET", f"models/{model}", expect=404)
    one.emulator.configure(old_keys=["some-key"])
    rows = inlined(one.ended(one.inline("a", model=model)))
    assert rows[0]["response"]["modelVersion"] == model


@pytest.mark.parametrize(
    ("model", "answering"),
    [
        ("gemini-2.5-flash", "gemini-3.5-flash-lite"),
        ("gemini-2.5-pro", "gemini-3.8-flash"),
        ("gemini-2.5-flash-lite", "gemini-2.5-flash-lite"),
    ],
)
def test_from_december_on_another_model_answers(one: Caller, model: str, answering: str) -> None:
    one.emulator.configure(old_keys=None)
    at(one, DECEMBER)
    job = one.ended(one.inline("a", model=model))
    assert job["metadata"]["model"] == f"models/{model}"
    assert inlined(job)[0]["response"]["modelVersion"] == answering


def test_what_retires_and_reroutes_can_be_chosen(one: Caller) -> None:
    one.emulator.configure(retired_models=["gemini-3.6-flash"], reroutes={"gemini-3.7-flash": {"to": "gemini-4-argon"}})
    one.inline("a", model="gemini-3.6-flash", expect=404)
    job = one.ended(one.inline("a", model="gemini-3.7-flash"))
    assert inlined(job)[0]["response"]["modelVersion"] == "gemini-4-argon"


def test_a_retired_model_of_vertex_is_404() -> None:
    with serve() as served:
        uri = served.put("in.jsonl", [generate_line("a")])
        served.state.configure({"vertex_retired_models": ["gemini-2.5-pro"]})
        served.create(uri, model="publishers/google/models/gemini-2.5-pro", expect=404)


# Token counts -------------------------------------------------------------------------------------------------------


def test_contents_alone_are_counted(caller: Caller) -> None:
    counted = caller.call("POST", f"{FLASH}:countTokens", json={"contents": CONTENTS}).json()
    assert counted == {"totalTokens": 4, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 4}]}


def test_a_whole_request_is_counted_with_its_instruction_and_media(caller: Caller) -> None:
    image = {"role": "user", "parts": [{"fileData": {"mimeType": "image/png", "fileUri": "https://x/y"}}]}
    request = {
        "model": FLASH,
        "contents": [*CONTENTS, image],
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "generationConfig": {"maxOutputTokens": 5},
    }
    counted = caller.call("POST", f"{FLASH}:countTokens", json={"generateContentRequest": request}).json()
    assert counted["totalTokens"] == 4 + 3 + 258
    assert {entry["modality"] for entry in counted["promptTokensDetails"]} == {"TEXT", "IMAGE"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"contents": CONTENTS, "generateContentRequest": {"model": FLASH, "contents": CONTENTS}},
        {"contents": CONTENTS, "systemInstruction": {"parts": [{"text": "x"}]}},
        {"generateContentRequest": {"contents": CONTENTS}},
        {"generateContentRequest": {"model": FLASH, "contents": CONTENTS, "nonsense": 1}},
    ],
)
def test_forms_that_are_not_documented_are_refused(one: Caller, body: dict[str, Any]) -> None:
    one.call("POST", f"{FLASH}:countTokens", json=body, expect=400)


def test_counting_makes_no_job_and_is_seen_in_the_ledger(one: Caller) -> None:
    one.call("POST", f"{FLASH}:countTokens", json={"contents": CONTENTS})
    one.call("POST", "models/palm-nothing:countTokens", json={"contents": CONTENTS}, expect=404)
    ledger = one.emulator.ledger()
    assert ledger["totals"]["created"] == ledger["totals"]["executed_rows"] == 0
    assert ledger["calls"] == {"developer.models.count_tokens": 2}


def test_vertex_counts_what_stands_side_by_side() -> None:
    with serve() as served:
        path = f"/v1/{SCOPE}/publishers/google/models/gemini-3.5-flash-lite:countTokens"
        body = {
            "contents": CONTENTS,
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "tools": [{"googleSearch": {}}],
            "generationConfig": {"temperature": 0},
        }
        counted = served.call("POST", path, json=body).json()
        assert counted["totalTokens"] > 7
        assert counted["totalBillableCharacters"] == len("Howmanytokens?Bebrief.")
        assert counted["promptTokensDetails"][0]["modality"] == "TEXT"
        mixed = {"generateContentRequest": {"contents": CONTENTS}}
        assert served.call("POST", path, json=mixed).status_code == 400
        served.state.configure({"accepted_tokens": []})
        assert served.call("POST", path, json=body).status_code == 401


# Flex ---------------------------------------------------------------------------------------------------------------


def test_flex_answers_as_a_batch_does(one: Caller) -> None:
    answer = flex(one, "the same")
    row = inlined(one.ended(one.inline("the same")))[0]
    assert answer["candidates"] == row["response"]["candidates"]
    assert one.emulator.executions()["repeated_rows"] == 1
    assert one.emulator.ledger()["synchronous"] == {
        "answered": 1,
        "shed": 0,
        "input_tokens": 2,
        "output_tokens": answer["usageMetadata"]["candidatesTokenCount"],
    }


def test_flex_is_shed_as_told_and_then_answers(one: Caller) -> None:
    one.emulator.configure(flex_shed=[503, 200, 429])
    flex(one, expect=503)
    flex(one)
    assert flex(one, expect=429)["error"]["status"] == "RESOURCE_EXHAUSTED"
    flex(one)
    assert one.emulator.ledger()["synchronous"]["shed"] == 2
    assert one.emulator.executions()["rows"] == 2


def test_other_tiers_are_not_shed(one: Caller) -> None:
    one.emulator.configure(flex_shed=[503])
    flex(one, serviceTier="standard")
    flex(one, serviceTier="nonsense", expect=400)


def test_a_row_that_fails_once_in_a_batch_is_answered_by_flex(one: Caller) -> None:
    one.emulator.script(rows=[{"pattern": "bad", "first": 1, "outcome": "error", "code": 13}])
    assert inlined(one.ended(one.inline("bad")))[0]["error"]["code"] == 13
    flex(one, "bad")


def test_a_row_that_always_fails_fails_with_flex_too(one: Caller) -> None:
    one.emulator.script(rows=[{"pattern": "bad", "outcome": "error", "code": 3, "message": "never"}])
    assert flex(one, "bad", expect=400)["error"]["message"] == "never"


def test_a_script_for_the_next_job_is_not_used_up_by_flex(one: Caller) -> None:
    one.emulator.script(times=1, end={"state": "FAILED"})
    flex(one)
    assert one.ended(one.inline("a"))["metadata"]["state"] == "BATCH_STATE_FAILED"


def test_flex_refuses_what_a_batch_refuses(one: Caller) -> None:
    flex(one, nonsense=1, expect=400)
    body = {"contents": CONTENTS, "serviceTier": "flex"}
    one.call("POST", "models/gemini-2.5-flash:generateContent", json=body, expect=404)
    one.call("POST", "models/gemini-embedding-001:generateContent", json=body, expect=404)


# Spending -----------------------------------------------------------------------------------------------------------


def test_spending_of_ten_minutes_is_limited(one: Caller) -> None:
    one.emulator.configure(spend_limit=0.001, spend_per_million_tokens=10.0)
    one.inline("x" * 300)  # 75 tokens
    error = one.inline("x" * 300, expect=429)["error"]
    assert error["details"][0]["@type"].endswith("QuotaFailure")
    one.emulator.advance(601)
    one.inline("x" * 300)
