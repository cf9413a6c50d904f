# SPDX-License-Identifier: Apache-2.0
"""Jobs of the Developer API as the emulator plays them, over plain HTTP."""

from __future__ import annotations

import base64
import json
import math
import re
from typing import Any

import pytest
import requests

from .conftest import Caller, generate_line, inlined

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")


# Operations ---------------------------------------------------------------------------------------------------------


def test_a_fresh_job_shows_neither_done_nor_zero_counters_nor_output(caller: Caller) -> None:
    job = caller.inline("one", "two")
    metadata = job["metadata"]
    assert re.fullmatch(r"batches/[a-z0-9]{36}", job["name"])
    assert metadata["name"] == job["name"]
    assert metadata["@type"] == "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch"
    assert metadata["state"] == "BATCH_STATE_PENDING"
    assert metadata["batchStats"] == {"requestCount": "2", "pendingRequestCount": "2"}
    assert metadata["model"] == "models/gemini-3.5-flash-lite"
    assert STAMP.fullmatch(metadata["createTime"])
    assert {"done", "response", "error"}.isdisjoint(job)
    assert {"endTime", "output", "inputConfig"}.isdisjoint(metadata)


def test_an_inline_job_ends_with_the_same_output_in_both_places(caller: Caller) -> None:
    job = caller.ended(caller.inline("one", "two"))
    assert job["done"] is True
    assert job["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
    assert job["metadata"]["batchStats"] == {"requestCount": "2", "successfulRequestCount": "2"}
    assert STAMP.fullmatch(job["metadata"]["endTime"])
    assert job["metadata"]["output"]["inlinedResponses"] == job["response"]["inlinedResponses"]
    assert [row["metadata"]["key"] for row in inlined(job)] == ["row-0", "row-1"]
    response = inlined(job)[0]["response"]
    assert "one" in response["candidates"][0]["content"]["parts"][0]["text"]
    assert response["usageMetadata"]["promptTokenCount"] == 1
    assert isinstance(response["usageMetadata"]["totalTokenCount"], int)


def test_a_file_job_names_a_file_of_42_characters_and_keeps_input_order(caller: Caller) -> None:
    file = caller.upload([generate_line(f"k{n}", f"text {n}") for n in range(50)])
    job = caller.create(file["name"])
    assert job["metadata"]["inputConfig"] == {"fileName": file["name"]}
    job = caller.ended(job)
    name = job["response"]["responsesFile"]
    assert name == job["metadata"]["output"]["responsesFile"] == "files/batch-" + job["name"].partition("/")[2]
    assert [row["key"] for row in caller.output(job)] == [f"k{n}" for n in range(50)]
    for prefix in ("", "/download"):
        url = f"{caller.emulator.url}{prefix}/{caller.version}/{name}:download?alt=media"
        assert len(caller.http.get(url, timeout=10).content.splitlines()) == 50


def test_a_job_keeps_its_input_when_the_file_is_deleted_while_it_runs(one: Caller) -> None:
    file = one.upload([generate_line("a")])
    job = one.create(file["name"])
    one.call("DELETE", file["name"])
    assert [row["key"] for row in one.output(one.ended(job))] == ["a"]


def test_snake_case_is_understood_everywhere(one: Caller) -> None:
    line = {
        "key": "a",
        "request": {
            "contents": [{"parts": [{"text": "hi"}]}],
            "generation_config": {"max_output_tokens": 1},
            "system_instruction": {"parts": [{"text": "be brief"}]},
        },
    }
    file = one.upload([line])
    body = {"batch": {"display_name": "s", "priority": "7", "input_config": {"file_name": file["name"]}}}
    job = one.call("POST", "models/gemini-3.5-flash-lite:batchGenerateContent", json=body).json()
    assert job["metadata"]["displayName"] == "s"
    assert job["metadata"]["priority"] == "7"
    candidate = one.output(one.ended(job))[0]["response"]["candidates"][0]
    assert candidate["finishReason"] == "MAX_TOKENS"


def test_the_same_prompt_gets_the_same_answer_and_another_prompt_another(one: Caller) -> None:
    rows = inlined(one.ended(one.inline("one", "one", "two")))
    texts = [row["response"]["candidates"][0]["content"]["parts"][0]["text"] for row in rows]
    assert texts[0] == texts[1] != texts[2]


def test_json_output_fits_the_schema(one: Caller) -> None:
    schema = {
        "type": "OBJECT",
        "properties": {"tags": {"type": "ARRAY", "items": {"type": "STRING"}}, "score": {"type": "INTEGER"}},
    }
    config = {"responseMimeType": "application/json", "responseSchema": schema}
    row = {"request": {"contents": [{"parts": [{"text": "rate me"}]}], "generationConfig": config}}
    answer = inlined(one.ended(one.create([row])))[0]
    value = json.loads(answer["response"]["candidates"][0]["content"]["parts"][0]["text"])
    assert value["tags"] == ["rate me"]
    assert isinstance(value["score"], int)
    assert "metadata" not in answer


def test_thoughts_come_as_marked_parts_with_their_own_tokens(one: Caller) -> None:
    config = {"thinkingConfig": {"includeThoughts": True}}
    row = {"request": {"contents": [{"parts": [{"text": "think"}]}], "generationConfig": config}}
    response = inlined(one.ended(one.create([row])))[0]["response"]
    parts = response["candidates"][0]["content"]["parts"]
    assert [part.get("thought", False) for part in parts] == [True, False]
    assert "thoughtSignature" in parts[1]
    assert response["usageMetadata"]["thoughtsTokenCount"] > 0


@pytest.mark.parametrize(
    ("model", "counter"),
    [("gemini-embedding-001", {"tokenCount": "2"}), ("gemini-embedding-2", {"usageMetadata": {"promptTokenCount": 2}})],
)
def test_embeddings_have_the_asked_size_and_each_model_its_own_counter(
    one: Caller, model: str, counter: dict[str, Any]
) -> None:
    lines = [
        {"key": "a", "request": {"content": {"parts": [{"text": "hello"}]}, "output_dimensionality": 768}},
        {"key": "b", "request": {"content": {"parts": [{"text": "hello"}]}}},
    ]
    file = one.upload(lines)
    job = one.create(file["name"], model=model, kind="embed")
    assert job["metadata"]["@type"].endswith("v1main.EmbedContentBatch")
    rows = one.output(one.ended(job))
    values = [row["response"]["embedding"]["values"] for row in rows]
    assert [len(numbers) for numbers in values] == [768, 3072]
    assert math.isclose(sum(number * number for number in values[0]), 1.0, rel_tol=1e-6)
    assert {name: rows[0]["response"][name] for name in counter} == counter


# Lists --------------------------------------------------------------------------------------------------------------


def test_an_empty_list_is_an_empty_object(caller: Caller) -> None:
    assert caller.call("GET", "batches?pageSize=5").json() == {}


def test_lists_are_newest_first_paged_and_without_output(caller: Caller) -> None:
    names = [caller.inline(str(n))["name"] for n in range(5)]
    caller.emulator.advance(60)
    seen: list[str] = []
    token = ""
    pages = 0
    while True:
        page = caller.call("GET", "batches", params={"pageSize": 2, "pageToken": token}).json()
        for item in page["operations"]:
            assert item["done"] is True
            assert "response" not in item
            assert "output" not in item["metadata"]
            seen.append(item["name"])
        pages += 1
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert seen == names[::-1]
    assert pages == 3


def test_a_listing_may_lag_and_be_stale(one: Caller) -> None:
    one.emulator.configure(listing_lag=30, stale_list_stats=True)
    job = one.inline("a")
    assert one.call("GET", "batches").json() == {}
    one.emulator.advance(31)
    item = one.call("GET", "batches").json()["operations"][0]
    assert item["name"] == job["name"]
    assert item["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
    assert item["metadata"]["batchStats"] == {"requestCount": "1", "pendingRequestCount": "1"}


def test_a_filter_is_refused_or_ignored(one: Caller) -> None:
    one.inline("a")
    assert one.call("GET", "batches?filter=x", expect=501).json()["error"]["status"] == "UNIMPLEMENTED"
    one.emulator.configure(list_filter="ignore")
    assert len(one.call("GET", "batches?filter=x").json()["operations"]) == 1


def test_partial_responses_are_honoured_ignored_or_refused(one: Caller) -> None:
    job = one.ended(one.inline("a"))
    query = "batches?fields=operations(name,metadata/state),nextPageToken"
    expected = {"operations": [{"name": job["name"], "metadata": {"state": "BATCH_STATE_SUCCEEDED"}}]}
    assert one.call("GET", query).json() == expected
    slim = one.call("GET", f"{job['name']}?fields=done,response/inlinedResponses/inlinedResponses/metadata").json()
    assert slim == {
        "done": True,
        "response": {"inlinedResponses": {"inlinedResponses": [{"metadata": {"key": "row-0"}}]}},
    }
    one.call("GET", "batches?fields=a(b", expect=400)
    one.emulator.configure(fields="ignore")
    assert "createTime" in one.call("GET", query).json()["operations"][0]["metadata"]
    one.emulator.configure(fields="reject")
    one.call("GET", query, expect=400)


def test_ten_thousand_seeded_jobs_are_listed_page_by_page(one: Caller) -> None:
    names = one.emulator.seed_jobs(count=10_000, state="FAILED", display_name="old {n}")
    seen = []
    token = ""
    for _ in range(100):
        page = one.call("GET", "batches", params={"pageSize": 100, "pageToken": token}).json()
        seen += [item["name"] for item in page["operations"]]
        token = page.get("nextPageToken", "")
    assert token == ""
    assert seen == names[::-1]


# Cancel, delete, expire, update -------------------------------------------------------------------------------------


def test_a_job_cancelled_before_it_starts_is_cancelled_with_code_13_and_bills_nothing(caller: Caller) -> None:
    job = caller.inline("a", "b")
    assert caller.call("POST", f"{job['name']}:cancel").json() == {}
    job = caller.get(job)
    assert job["metadata"]["state"] == "BATCH_STATE_CANCELLED"
    assert job["error"]["code"] == 13
    assert job["done"] is True
    assert job["metadata"]["batchStats"] == {"requestCount": "2", "pendingRequestCount": "2"}
    assert caller.emulator.ledger()["totals"]["billed"] == 0


def test_a_job_cancelled_while_it_runs_succeeds_with_rows_of_code_1(caller: Caller) -> None:
    caller.emulator.script(pending_seconds=0, running_seconds=100_000)
    job = caller.inline(*map(str, range(10)))
    caller.emulator.advance(50_000)
    assert caller.get(job)["metadata"]["state"] == "BATCH_STATE_RUNNING"
    caller.call("POST", f"{job['name']}:cancel", json={})
    job = caller.ended(job)
    assert job["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
    codes = [row.get("error", {}).get("code") for row in inlined(job)]
    assert codes == [None] * 5 + [1] * 5
    assert job["metadata"]["batchStats"]["failedRequestCount"] == "5"
    assert caller.emulator.ledger()["totals"]["billed_rows"] == 5


def test_a_cancelled_job_may_also_end_cancelled_with_partial_output(one: Caller) -> None:
    one.emulator.configure(cancel_outcome="cancelled_partial")
    one.emulator.script(pending_seconds=0, running_seconds=100_000)
    job = one.inline(*map(str, range(10)))
    one.emulator.advance(20_000)
    one.get(job)
    one.call("POST", f"{job['name']}:cancel")
    job = one.ended(job)
    assert job["metadata"]["state"] == "BATCH_STATE_CANCELLED"
    assert "response" not in job
    rows = job["metadata"]["output"]["inlinedResponses"]["inlinedResponses"]
    assert sum("response" in row for row in rows) == 2


def test_cancelling_an_ended_job_changes_nothing_or_is_refused(one: Caller) -> None:
    job = one.ended(one.inline("a"))
    one.call("POST", f"{job['name']}:cancel")
    assert one.get(job) == job
    one.emulator.configure(cancel_ended="reject")
    reply = one.call("POST", f"{job['name']}:cancel", expect=400)
    assert reply.json()["error"]["status"] == "FAILED_PRECONDITION"


def test_deleting_a_job_takes_its_output_away_and_the_ledger_remembers_it(caller: Caller) -> None:
    file = caller.upload([generate_line("a")])
    job = caller.ended(caller.create(file["name"]))
    output = job["response"]["responsesFile"]
    assert caller.call("DELETE", job["name"]).json() == {}
    caller.call("GET", job["name"], expect=404)
    caller.call("DELETE", job["name"], expect=404)
    caller.call("GET", f"{output}:download?alt=media", expect=404)
    assert caller.call("GET", "batches").json() == {}
    caller.call("GET", file["name"])
    assert caller.emulator.ledger()["jobs"][0]["deleted"] is True
    assert caller.emulator.ledger()["totals"]["billed_rows"] == 1


@pytest.mark.parametrize("stuck", ["PENDING", "RUNNING"])
def test_a_stuck_job_expires_after_48_hours_without_output(one: Caller, stuck: str) -> None:
    one.emulator.script(stuck=stuck)
    job = one.inline("a")
    one.emulator.advance(47.9 * 3600)
    assert one.get(job)["metadata"]["state"] == f"BATCH_STATE_{stuck}"
    one.emulator.advance(0.2 * 3600)
    job = one.get(job)
    assert job["metadata"]["state"] == "BATCH_STATE_EXPIRED"
    assert job["done"] is True
    assert "response" not in job
    assert "output" not in job["metadata"]


def test_name_and_priority_can_be_changed_and_nothing_else(one: Caller) -> None:
    job = one.inline("a")
    path = f"{job['name']}:updateGenerateContentBatch"
    changed = one.call("PATCH", path, params={"updateMask": "displayName"}, json={"displayName": "n", "priority": 3})
    assert changed.json()["displayName"] == "n"
    assert "priority" not in changed.json()
    assert one.get(job)["metadata"]["displayName"] == "n"
    one.call("PATCH", path, params={"updateMask": "model"}, json={"model": "models/x"}, expect=400)
    one.call("PATCH", f"{job['name']}:updateEmbedContentBatch", json={}, expect=400)


# Refusals -----------------------------------------------------------------------------------------------------------


def test_keys_are_taken_from_header_query_and_bearer(one: Caller) -> None:
    url = f"{one.emulator.url}/v1beta/batches"
    assert requests.get(url, params={"key": "k"}, timeout=10).status_code == 200
    assert requests.get(url, headers={"Authorization": "Bearer t"}, timeout=10).status_code == 200
    assert requests.get(url, timeout=10).status_code == 200
    one.emulator.configure(accepted_keys=["k"])
    assert requests.get(url, timeout=10).json()["error"]["status"] == "PERMISSION_DENIED"
    refused = requests.get(url, headers={"x-goog-api-key": "bad-key"}, timeout=10)
    assert refused.status_code == 400
    assert refused.json()["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    assert "k" not in {entry["query"].partition("key=")[2] for entry in one.emulator.journal()}


def test_a_body_over_the_limit_is_refused_with_the_limit(one: Caller) -> None:
    row = {"request": {"contents": [{"parts": [{"text": "x" * 20_971_520}]}]}}
    error = one.create([row], expect=400)["error"]
    assert "20971520 bytes" in error["message"]
    assert one.emulator.ledger()["totals"]["created"] == 0


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        ({"inputConfig": {}}, "exactly one"),
        ({"inputConfig": {"fileName": "files/a", "requests": {"requests": []}}}, "exactly one"),
        ({}, "input_config"),
        ({"inputConfig": {"requests": {"requests": []}}}, "must not be empty"),
        ({"inputConfig": {"requests": [{"request": {}}]}}, "must be an object"),
    ],
)
def test_an_input_that_is_not_one_of_both_is_refused(one: Caller, batch: dict[str, Any], text: str) -> None:
    reply = one.call("POST", "models/gemini-3.5-flash-lite:batchGenerateContent", json={"batch": batch}, expect=400)
    assert text in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"src": 1}, None),
        ({"batch": {"dest": "x"}}, "batch"),
        ({"batch": {"inputConfig": {"requests": {"requests": [{"key": "a"}]}}}}, "requests[0]"),
        (
            {"batch": {"inputConfig": {"requests": {"requests": [{"request": {"contents": [], "config": 1}}]}}}},
            "requests[0].request",
        ),
    ],
)
def test_unknown_members_are_refused_by_name(one: Caller, body: dict[str, Any], field: str | None) -> None:
    error = one.call("POST", "models/gemini-3.5-flash-lite:batchGenerateContent", json=body, expect=400).json()["error"]
    violation = error["details"][0]["fieldViolations"][0]
    assert error["details"][0]["@type"].endswith("google.rpc.BadRequest")
    assert "Cannot find field" in violation["description"]
    assert violation.get("field", "").endswith(field or "")


def test_bad_lines_are_all_named_and_no_job_is_made(caller: Caller) -> None:
    lines = [
        generate_line("good"),
        '{"key": "b", "request": {"contents": [], "thinking_config": {}}}',
        "not json",
        '{"key": 5, "request": {"contents": []}}',
        '{"contents": [{"parts": [{"text": "bare"}]}]}',
        "",
        generate_line("good too"),
    ]
    file = caller.upload(lines)
    message = caller.create(file["name"], expect=400)["error"]["message"]
    clauses = message.split("\n")
    assert [clause.partition(":")[0] for clause in clauses] == [f"Error on line {n}" for n in (2, 3, 4, 5, 6)]
    assert clauses[0].endswith("invalid JSON, near column 42: no such field: 'thinking_config'")
    assert "no such field: 'contents'" in clauses[3]
    assert caller.emulator.ledger()["totals"]["created"] == 0


def test_bare_lines_pass_where_the_knob_allows_them(one: Caller) -> None:
    file = one.upload(['{"contents": [{"parts": [{"text": "bare"}]}]}'])
    one.emulator.configure(bare_rows=True)
    rows = one.output(one.ended(one.create(file["name"])))
    assert "key" not in rows[0]
    assert "bare" in rows[0]["response"]["candidates"][0]["content"]["parts"][0]["text"]


def test_unknown_things_answer_404_for_jobs_and_models_and_403_for_files(caller: Caller) -> None:
    caller.inline("a", model="palm-nothing", expect=404)
    caller.call("GET", "batches/nothing", expect=404)
    caller.call("POST", "batches/nothing:cancel", expect=404)
    caller.call("GET", "files/nothing", expect=403)
    caller.call("DELETE", "files/nothing", expect=403)
    caller.create("files/nothing", expect=403)
    caller.call("POST", "batches/x:delete", expect=404)
    caller.call("POST", "models/gemini-3.5-flash-lite:batchCreate", json={}, expect=404)


def test_model_and_method_must_fit(caller: Caller) -> None:
    caller.inline("a", model="gemini-embedding-001", expect=404)
    caller.inline("a", kind="embed", expect=404)
    status = 200 if caller.version == "v1beta" else 404
    caller.inline("a", model="gemini-flash-latest", expect=status)


def test_the_101st_active_job_is_refused_until_one_ends(one: Caller) -> None:
    one.emulator.seed_jobs(count=100, state="RUNNING")
    error = one.inline("a", expect=429)["error"]
    assert error["status"] == "RESOURCE_EXHAUSTED"
    assert one.emulator.finish_jobs(count=1) == 1
    one.inline("a")


def test_enqueued_tokens_are_limited_for_each_model(one: Caller) -> None:
    one.emulator.configure(enqueued_tokens=100)
    one.inline("x" * 240)
    assert one.inline("x" * 240, expect=429)["error"]["details"][0]["@type"].endswith("QuotaFailure")
    one.inline("x" * 240, model="gemini-3.8-flash")
    one.emulator.advance(60)
    one.inline("x" * 240)


def test_a_key_without_billing_cannot_create(one: Caller) -> None:
    one.emulator.configure(free_tier=True)
    assert one.inline("a", expect=400)["error"]["status"] == "FAILED_PRECONDITION"


def test_webhook_settings_are_taken_and_checked(one: Caller) -> None:
    one.inline("a", webhookConfig={"uris": ["https://h/x"], "userMetadata": {"run": "1"}})
    one.inline("a", webhookConfig={"url": "https://h/x"}, expect=400)


# Scripts ------------------------------------------------------------------------------------------------------------


def test_jobs_advance_at_once_by_reads_and_by_time(one: Caller) -> None:
    def states(count: int) -> list[str]:
        job = one.inline("a")
        return [one.get(job)["metadata"]["state"].removeprefix("BATCH_STATE_") for _ in range(count)]

    one.emulator.script(times=1, mode="at_once")
    assert states(2) == ["SUCCEEDED", "SUCCEEDED"]
    one.emulator.script(times=1, mode="reads", pending_reads=2, running_reads=1)
    assert states(4) == ["PENDING", "PENDING", "RUNNING", "SUCCEEDED"]
    one.emulator.script(times=1, mode="time", pending_seconds=10, running_seconds=10)
    job = one.inline("a")
    seen = []
    for _ in range(4):
        seen.append(one.get(job)["metadata"]["state"].removeprefix("BATCH_STATE_"))
        one.emulator.advance(8)
    assert seen == ["PENDING", "PENDING", "RUNNING", "SUCCEEDED"]


ROWS = [
    {"key": "k0", "outcome": "error", "code": 8, "message": "busy"},
    {"key": "k1", "outcome": "error", "code": 13, "message": None},
    {"key": "k2", "outcome": "blocked_prompt"},
    {"key": "k3", "outcome": "blocked_output", "reason": "RECITATION"},
    {"key": "k4", "outcome": "no_candidates"},
    {"key": "k5", "outcome": "max_tokens"},
    {"key": "k6", "outcome": "missing"},
    {"key": "k7", "outcome": "null"},
    {"key": "k8", "outcome": "duplicate"},
    {"key": "k9", "outcome": "text", "text": "as told"},
]


def test_every_scripted_row_outcome_has_its_shape(one: Caller) -> None:
    one.emulator.script(rows=ROWS, extra_keys=["ghost"])
    file = one.upload([generate_line(f"k{n}") for n in range(11)])
    job = one.ended(one.create(file["name"]))
    found: dict[str, list[dict[str, Any]]] = {}
    for row in one.output(job):
        found.setdefault(row["key"], []).append(row)
    assert found["k0"] == [{"key": "k0", "error": {"code": 8, "message": "busy"}}]
    assert found["k1"] == [{"key": "k1", "error": {"code": 13}}]
    assert found["k2"][0]["response"]["promptFeedback"] == {"blockReason": "SAFETY"}
    assert "candidates" not in found["k2"][0]["response"]
    assert found["k3"][0]["response"]["candidates"] == [{"finishReason": "RECITATION", "index": 0}]
    assert {"candidates", "promptFeedback"}.isdisjoint(found["k4"][0]["response"])
    assert found["k5"][0]["response"]["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert "k6" not in found
    assert found["k7"] == [{"response": None, "key": "k7"}]
    assert len(found["k8"]) == 2
    assert found["k9"][0]["response"]["candidates"][0]["content"]["parts"][0]["text"] == "as told"
    assert "ghost" in found
    assert job["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
    assert job["metadata"]["batchStats"]["failedRequestCount"] == "3"


def test_shares_and_shuffles_are_the_same_for_the_same_seed(one: Caller) -> None:
    def outcome(seed: int) -> list[tuple[str, bool]]:
        one.emulator.script(times=1, shuffle=True, seed=seed, rows=[{"share": 0.3, "outcome": "error"}])
        file = one.upload([generate_line(f"k{n}") for n in range(200)])
        return [(row["key"], "error" in row) for row in one.output(one.ended(one.create(file["name"])))]

    first, again, other = outcome(1), outcome(1), outcome(2)
    assert first == again != other
    assert sorted(key for key, _ in first) == sorted(f"k{n}" for n in range(200))
    assert [key for key, _ in first] != [f"k{n}" for n in range(200)]
    assert 30 < sum(failed for _, failed in first) < 90


def test_rows_are_matched_by_pattern_and_index(one: Caller) -> None:
    one.emulator.script(rows=[{"pattern": "secret", "outcome": "blocked_prompt"}, {"index": 2, "outcome": "error"}])
    rows = inlined(one.ended(one.inline("plain", "a secret", "plain", "plain")))
    assert "promptFeedback" in rows[1]["response"]
    assert ["error" in row for row in rows] == [False, False, True, False]


def test_a_succeeded_job_may_have_no_rows_at_all(one: Caller) -> None:
    one.emulator.script(rows=[{"outcome": "missing"}])
    file = one.upload([generate_line("a")])
    job = one.ended(one.create(file["name"]))
    assert job["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
    assert one.output(job) == []


def test_the_last_line_may_be_cut_short(one: Caller) -> None:
    one.emulator.script(truncate_last_line=True)
    file = one.upload([generate_line("a"), generate_line("b")])
    job = one.ended(one.create(file["name"]))
    lines = one.call("GET", f"{job['response']['responsesFile']}:download?alt=media").content.split(b"\n")
    assert json.loads(lines[0])["key"] == "a"
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines[1])
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("end", "state", "code"),
    [
        ({"state": "FAILED", "code": 8, "message": "no quota"}, "BATCH_STATE_FAILED", 8),
        ({"state": "FAILED"}, "BATCH_STATE_FAILED", 13),
        ({"state": "EXPIRED"}, "BATCH_STATE_EXPIRED", None),
        ({"state": "PARTIALLY_SUCCEEDED", "share": 0.5}, "BATCH_STATE_PARTIALLY_SUCCEEDED", None),
        ({"state": "JOB_STATE_SUCCEEDED"}, "JOB_STATE_SUCCEEDED", None),
    ],
)
def test_every_end_can_be_scripted(one: Caller, end: dict[str, Any], state: str, code: int | None) -> None:
    one.emulator.script(end=end)
    job = one.ended(one.inline("a", "b"))
    assert job["metadata"]["state"] == state
    assert job["done"] is True
    assert job.get("error", {}).get("code") == code
    assert one.emulator.ledger()["totals"]["billed_rows"] == {"PARTIALLY_SUCCEEDED": 1, "FAILED": 0}.get(
        end["state"], 2
    )


@pytest.mark.parametrize("word", ["PAUSED", "FROBNICATING"])
def test_a_job_can_be_held_in_any_state_and_go_on(one: Caller, word: str) -> None:
    one.emulator.script(hold={"state": word, "seconds": 1000})
    job = one.inline("a")
    one.emulator.advance(60)
    held = one.get(job)
    assert held["metadata"]["state"] == f"BATCH_STATE_{word}"
    assert "done" not in held
    one.emulator.advance(1000)
    assert one.get(job)["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"


def test_a_script_reaches_only_the_jobs_it_names(one: Caller) -> None:
    one.emulator.script(match={"display_name": "^bad"}, times=1, end={"state": "FAILED"})
    good, bad, later = (one.inline("a", displayName=name) for name in ("good", "bad 1", "bad 2"))
    states = [one.ended(job)["metadata"]["state"] for job in (good, bad, later)]
    assert states == ["BATCH_STATE_SUCCEEDED", "BATCH_STATE_FAILED", "BATCH_STATE_SUCCEEDED"]


def test_a_job_that_exists_can_be_told_to_behave_otherwise(one: Caller) -> None:
    one.emulator.script(stuck="PENDING", times=1)
    job = one.inline("a")
    assert one.ended(job)["metadata"]["state"] == "BATCH_STATE_PENDING"
    one.emulator.script(match={"name": job["name"]}, stuck=None)
    assert one.get(job)["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"


def test_the_first_polls_may_not_find_the_job(one: Caller) -> None:
    one.emulator.script(not_found_polls=2)
    job = one.inline("a")
    assert [one.call("GET", job["name"], expect=None).status_code for _ in range(3)] == [404, 404, 200]


def test_a_result_file_may_be_huge_without_rows_being_answered(one: Caller) -> None:
    one.emulator.script(result_bytes=30_000_000, result_line_bytes=1000)
    file = one.upload([generate_line("a")])
    job = one.ended(one.create(file["name"]))
    content = one.call("GET", f"{job['response']['responsesFile']}:download?alt=media").content
    assert 30_000_000 <= len(content) < 30_001_000
    lines = content.splitlines()
    assert json.loads(lines[-1])["key"] == f"row-{len(lines) - 1}"


def test_a_result_file_may_be_one_that_lies_on_disk(one: Caller, tmp_path: Any) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"key": "mine"}\n')
    one.emulator.script(result_file=str(path))
    file = one.upload([generate_line("a")])
    assert one.output(one.ended(one.create(file["name"]))) == [{"key": "mine"}]


# Ledger -------------------------------------------------------------------------------------------------------------


def test_the_ledger_tells_billed_from_created(one: Caller) -> None:
    one.inline("a", "b")
    one.emulator.advance(60)
    one.emulator.script(stuck="PENDING")
    one.inline("a")
    ledger = one.emulator.ledger()
    assert ledger["totals"]["created"] == 2
    assert ledger["totals"]["billed"] == 1
    assert ledger["totals"]["running"] == 1
    assert ledger["totals"]["billed_rows"] == 2
    assert [job["display_name"] for job in ledger["jobs"]] == ["nightly", "nightly"]
    assert ledger["totals"]["input_tokens"] == 2


def test_hashes_are_base64_of_the_hexadecimal_text(one: Caller) -> None:
    text = base64.b64decode(one.upload(b"{}\n")["sha256Hash"]).decode()
    assert re.fullmatch("[0-9a-f]{64}", text)
