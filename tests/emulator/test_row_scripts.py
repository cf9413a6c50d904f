# SPDX-License-Identifier: Apache-2.0
"""Rows fail, break their schema, are cut off or dropped as a script says, once or each time, in whatever job."""

from __future__ import annotations

import json
import re
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import pytest

from gemini_batch_emulator.answering.draws import Lengths, number_of
from tests.emulator.conftest import generate_line

if TYPE_CHECKING:
    from tests.emulator.conftest import Caller

SCHEMA = {"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}}, "required": ["n"]}
CONFIG = {"responseMimeType": "application/json", "responseSchema": SCHEMA}


def text_of(row: dict[str, Any]) -> str:
    """The text of an answered row."""
    return str(row["response"]["candidates"][0]["content"]["parts"][0]["text"])


def asked(caller: Caller, texts: list[str], keys: str = "k", **request: Any) -> dict[str, dict[str, Any]]:
    """Ask texts in one job; return the result rows by text."""
    lines = [generate_line(f"{keys}{number}", text, **request) for number, text in enumerate(texts)]
    rows = caller.output(caller.ended(caller.create(caller.upload(lines)["name"])))
    return {texts[int(row["key"].removeprefix(keys))]: row for row in rows}


def test_a_row_fails_once_in_whatever_job_and_under_whatever_key(one: Caller) -> None:
    one.emulator.script(rows=[{"pattern": "bad", "first": 1, "outcome": "error", "code": 13}])
    first = asked(one, ["good", "bad 1", "bad 2"])
    assert [first[text].get("error", {}).get("code") for text in ("good", "bad 1", "bad 2")] == [None, 13, 13]
    again = asked(one, ["bad 2", "bad 1", "bad 3"], keys="other-")
    assert [("error" in again[text]) for text in ("bad 1", "bad 2", "bad 3")] == [False, False, True]


def test_a_rule_takes_so_many_different_requests_and_no_more(one: Caller) -> None:
    one.emulator.script(rows=[{"requests": 37, "first": 1, "outcome": "error", "code": 13}])
    texts = [f"row {number}" for number in range(100)]
    failed = [text for text, row in asked(one, texts).items() if "error" in row]
    assert len(failed) == 37
    assert not [text for text, row in asked(one, failed, keys="x").items() if "error" in row]


def test_a_share_by_request_draws_the_same_rows_in_every_job(one: Caller) -> None:
    one.emulator.script(rows=[{"share": 0.3, "draw": "request", "outcome": "error"}])
    texts = [f"row {number}" for number in range(100)]
    first = {text for text, row in asked(one, texts).items() if "error" in row}
    again = {text for text, row in asked(one, texts[::-1], keys="y").items() if "error" in row}
    assert first == again
    assert 15 < len(first) < 45


def test_a_schema_is_broken_once(one: Caller) -> None:
    one.emulator.script(rows=[{"pattern": "odd", "first": 1, "outcome": "invalid"}])
    broken = json.loads(text_of(asked(one, ["odd"], generationConfig=CONFIG)["odd"]))
    assert not isinstance(broken["n"], int)
    assert isinstance(json.loads(text_of(asked(one, ["odd"], generationConfig=CONFIG)["odd"]))["n"], int)


def test_a_cut_off_answer_is_half_a_json(one: Caller) -> None:
    one.emulator.script(rows=[{"outcome": "max_tokens"}])
    row = asked(one, ["cut me"], generationConfig=CONFIG)["cut me"]
    assert row["response"]["candidates"][0]["finishReason"] == "MAX_TOKENS"
    with pytest.raises(json.JSONDecodeError):
        json.loads(text_of(row))


def test_a_dropped_row_has_no_line_and_ran_all_the_same(one: Caller) -> None:
    one.emulator.script(rows=[{"pattern": "lost", "outcome": "missing"}])
    assert set(asked(one, ["a", "lost"])) == {"a"}
    assert one.emulator.executions()["rows"] == 2


def test_keys_and_places_can_be_lists(one: Caller) -> None:
    rows = [{"key": ["k0", "k2"], "outcome": "error"}, {"index": [3], "outcome": "blocked_prompt"}]
    one.emulator.script(rows=rows)
    found = asked(one, ["a", "b", "c", "d"])
    assert [("error" in found[text]) for text in "abcd"] == [True, False, True, False]
    assert "promptFeedback" in found["d"]["response"]


def test_executions_are_counted_by_what_is_asked(one: Caller) -> None:
    asked(one, ["a", "b", "c"])
    asked(one, ["b", "a"], keys="z")
    asked(one, ["a"], generationConfig={"temperature": 0})
    found = one.emulator.executions()
    assert (found["rows"], found["requests"], found["repeated_rows"]) == (6, 4, 2)
    jobs = {job["number"]: job["name"] for job in one.emulator.ledger()["jobs"]}
    assert [entry["count"] for entry in found["repeated"]] == [2, 2]
    assert all(number in jobs for entry in found["repeated"] for number, _ in entry["places"])
    assert one.emulator.executions(generate_line("", "a")["request"]) == 2
    assert one.emulator.executions(generate_line("", "nobody asked")["request"]) == 0
    assert one.emulator.ledger()["totals"]["executed_rows"] == 6


def test_equal_settings_in_another_spelling_are_the_same_request(one: Caller) -> None:
    asked(one, ["a"], generationConfig={"maxOutputTokens": 50, "topP": 1})
    asked(one, ["a"], generation_config={"top_p": 1, "max_output_tokens": 50}, labels={"x": "y"})
    assert one.emulator.executions()["repeated_rows"] == 1


def test_a_cancelled_jobs_rows_count_as_far_as_they_ran(one: Caller) -> None:
    one.emulator.script(pending_seconds=1, running_seconds=100)
    job = one.inline(*[f"row {number}" for number in range(10)])
    one.emulator.advance(51)
    one.get(job)
    one.call("POST", f"{job['name']}:cancel")
    one.ended(job)
    assert 4 <= one.emulator.executions()["rows"] <= 6


def test_another_model_may_say_to_have_answered(one: Caller) -> None:
    one.emulator.script(model_version="gemini-3.8-flash", rows=[{"key": "k1", "model_version": "gemini-4-argon"}])
    found = asked(one, ["a", "b"])
    assert [found[text]["response"]["modelVersion"] for text in "ab"] == ["gemini-3.8-flash", "gemini-4-argon"]


def test_usage_tells_kinds_of_tokens_apart(one: Caller) -> None:
    one.emulator.script(output_tokens=30, thoughts_tokens=200, cached_tokens=2)
    line = generate_line("k0", "what is this?")
    image = {"inlineData": {"mimeType": "image/png", "data": "aGk="}}
    line["request"]["contents"][0]["parts"].append(image)
    usage = one.output(one.ended(one.create(one.upload([line])["name"])))[0]["response"]["usageMetadata"]
    assert usage == {
        "promptTokenCount": 262,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 4}, {"modality": "IMAGE", "tokenCount": 258}],
        "candidatesTokenCount": 30,
        "thoughtsTokenCount": 200,
        "cachedContentTokenCount": 2,
        "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 2}],
        "totalTokenCount": 492,
    }


def test_thinking_counts_against_the_limit(one: Caller) -> None:
    one.emulator.script(thoughts_tokens=90, output_tokens=30)
    row = asked(one, ["think"], generationConfig={"maxOutputTokens": 100})["think"]
    assert row["response"]["candidates"][0]["finishReason"] == "MAX_TOKENS"
    usage = row["response"]["usageMetadata"]
    assert (usage["thoughtsTokenCount"], usage["candidatesTokenCount"]) == (90, 10)


def test_an_image_is_answered_with_one(one: Caller) -> None:
    row = asked(one, ["a cat"], generationConfig={"responseModalities": ["TEXT", "IMAGE"]})["a cat"]
    assert row["response"]["candidates"][0]["content"]["parts"][0]["inlineData"]["mimeType"] == "image/png"
    assert row["response"]["usageMetadata"]["candidatesTokensDetails"] == [{"modality": "IMAGE", "tokenCount": 1120}]


@pytest.mark.parametrize(
    ("lengths", "low", "high"),
    [
        ({"shape": "constant", "median": 40}, 40, 40),
        ({"shape": "uniform", "least": 10, "most": 20}, 14, 16),
        ({"shape": "lognormal", "median": 100, "sigma": 0.8}, 90, 110),
        ({"shape": "pareto", "median": 100, "alpha": 1.1}, 90, 110),
    ],
)
def test_lengths_have_the_stated_median(lengths: dict[str, Any], low: int, high: int) -> None:
    made = Lengths.of(lengths)
    assert made is not None
    drawn = [made.draw(number_of(f"text {number}"), 0, 1) for number in range(4000)]
    assert low <= median(drawn) <= high
    assert drawn == [made.draw(number_of(f"text {number}"), 0, 1) for number in range(4000)]
    if lengths["shape"] != "constant":
        assert drawn != [made.draw(number_of(f"text {number}"), 1, 1) for number in range(4000)]


def test_a_heavy_tail_is_heavy() -> None:
    made = Lengths("pareto", median=100, alpha=1.1, most=1_000_000)
    drawn = [made.draw(number_of(f"text {number}"), 7, 2) for number in range(4000)]
    assert mean(drawn) > 3 * median(drawn)


def test_text_has_the_length_that_is_counted(one: Caller) -> None:
    one.emulator.script(output_tokens={"shape": "lognormal", "median": 200, "sigma": 1})
    for text, row in asked(one, [f"row {number}" for number in range(20)]).items():
        assert len(text_of(row)) == 4 * row["response"]["usageMetadata"]["candidatesTokenCount"], text


@pytest.mark.parametrize(
    "rule",
    [{"outcome": "explode"}, {"output_tokens": {"shape": "zipf"}}, {"output_tokens": "long"}, {"draw": "lot"}],
)
def test_rules_that_make_no_sense_are_refused(one: Caller, rule: dict[str, Any]) -> None:
    reply = one.http.post(f"{one.emulator.url}/_emulator/jobs/script", json={"script": {"rows": [rule]}}, timeout=30)
    assert reply.status_code == 400
    assert re.search(r"there is|not", reply.json()["error"]["message"])
